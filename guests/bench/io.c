// What a Linux guest gets of its disk and its network: `io disk /dev/vda PART` and `io net ADDRESS PORT PART`. Each line is
// "io NAME VALUE". All amounts are divided by PART, for hosts that are slow. The peer of `net` is the runner
// (benches/src/bin/io), which does the same.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MIB (1 << 20)
#define SPAN (256 * (uint64_t)MIB)
#define CHECK(c) do { if (!(c)) { perror(#c); exit(1); } } while (0)

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void report(const char *name, double value) {
    printf("io %s %.2f\n", name, value);
    fflush(stdout);
}

static uint32_t rnd(uint32_t *s) {
    *s ^= *s << 13;
    *s ^= *s >> 17;
    return *s ^= *s << 5;
}

static void *aligned(size_t size) {
    void *p;
    CHECK(!posix_memalign(&p, 4096, size));
    memset(p, 0x5a, size);
    return p;
}

// One request of `size` after the other over the first 256 MiB; MB/s.
static double sequential(int fd, int writes, size_t size, uint64_t total) {
    void *buf = aligned(size);
    double begun = now();
    for (uint64_t at = 0; at < total; at += size) {
        ssize_t n = writes ? pwrite(fd, buf, size, at % SPAN) : pread(fd, buf, size, at % SPAN);
        CHECK(n == (ssize_t)size);
    }
    free(buf);
    return total / (now() - begun) / 1e6;
}

struct worker { int fd, writes, count; uint32_t seed; };

static void *pages(void *arg) {
    struct worker *w = arg;
    void *buf = aligned(4096);
    for (int i = 0; i < w->count; i++) {
        off_t at = (rnd(&w->seed) % (SPAN / 4096)) * 4096;
        CHECK((w->writes ? pwrite(w->fd, buf, 4096, at) : pread(w->fd, buf, 4096, at)) == 4096);
    }
    free(buf);
    return NULL;
}

// Pages at random places by `threads` threads; requests a second.
static double at_random(int fd, int writes, int threads, int count) {
    pthread_t all[64];
    struct worker w[64];
    double begun = now();
    for (int i = 0; i < threads; i++) {
        w[i] = (struct worker){fd, writes, count / threads, 77 + i};
        CHECK(!pthread_create(&all[i], NULL, pages, &w[i]));
    }
    for (int i = 0; i < threads; i++)
        pthread_join(all[i], NULL);
    return count / (now() - begun);
}

static void disk(const char *path, int part) {
    int fd = open(path, O_RDWR | O_DIRECT);
    CHECK(fd >= 0);
    // Once over all of it, so that no file behind it is sparse, or has yet to be read.
    sequential(fd, 1, MIB, SPAN);
    report("read-1M-MB/s", sequential(fd, 0, MIB, 4 * SPAN / part));
    report("write-1M-MB/s", sequential(fd, 1, MIB, 2 * SPAN / part));
    report("read-4k-us", 1e6 / at_random(fd, 0, 1, 4000 / part));
    report("write-4k-us", 1e6 / at_random(fd, 1, 1, 4000 / part));
    report("read-4k-x16-iops", at_random(fd, 0, 16, 16000 / part));
    report("write-4k-x16-iops", at_random(fd, 1, 16, 16000 / part));
}

static int reach(const char *address, int port, char what) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    CHECK(inet_pton(AF_INET, address, &to.sin_addr) == 1);
    int s = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    CHECK(!connect(s, (void *)&to, sizeof to));
    setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    CHECK(write(s, &what, 1) == 1);
    return s;
}

static void net(const char *address, int port, int part) {
    static char buf[64 << 10];
    uint64_t total = 128 * (uint64_t)MIB / part, left;
    int s = reach(address, port, 's');
    double begun = now();
    for (left = total; left;) {
        ssize_t n = write(s, buf, left < sizeof buf ? left : sizeof buf);
        CHECK(n > 0);
        left -= n;
    }
    // The answer comes when all of it has arrived.
    CHECK(read(s, buf, 1) == 1);
    report("send-MB/s", total / (now() - begun) / 1e6);
    close(s);

    s = reach(address, port, 'r');
    begun = now();
    for (left = total; left;) {
        ssize_t n = read(s, buf, sizeof buf);
        CHECK(n > 0);
        left -= n;
    }
    report("receive-MB/s", total / (now() - begun) / 1e6);
    close(s);

    s = reach(address, port, 'e');
    int rounds = 3000 / part;
    begun = now();
    for (int i = 0; i < rounds; i++)
        CHECK(write(s, buf, 1) == 1 && read(s, buf, 1) == 1);
    report("round-trip-us", (now() - begun) / rounds * 1e6);
    close(s);
}

int main(int argc, char **argv) {
    int part = argc > 1 ? atoi(argv[argc - 1]) : 0;
    if (argc == 4 && part > 0 && !strcmp(argv[1], "disk"))
        disk(argv[2], part);
    else if (argc == 5 && part > 0 && !strcmp(argv[1], "net"))
        net(argv[2], atoi(argv[3]), part);
    else
        return 2;
    return 0;
}
