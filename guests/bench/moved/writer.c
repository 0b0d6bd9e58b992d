// Writes RATE MB a second over a set of SET MiB, page after page, each with content that it has never had; 0 is as fast as it
// goes, and a set of 0 is one page. What it was started with is said first. Every 10 ms it sends how many bytes it has
// written to whoever hears it at 10.9.0.1, so that what it gets done can be seen from outside, by the host's clock.
#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

int main(int argc, char **argv) {
    if (argc < 3) return 1;
    double rate = atof(argv[1]) * 1e6;
    size_t pages = strtoul(argv[2], 0, 10) << 8;
    if (!pages) pages = 1;
    uint64_t *set = aligned_alloc(4096, pages << 12), seed = 88172645463325252, written = 0;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(7790)};
    to.sin_addr.s_addr = inet_addr("10.9.0.1");
    int out = socket(AF_INET, SOCK_DGRAM, 0);
    if (!set || out < 0) return 1;
    printf("writing %s MB/s over %s MiB\n", argv[1], argv[2]);
    fflush(stdout);
    double begun = now(), done = 0, told = 0;
    for (size_t page = 0;; page = (page + 1) % pages) {
        for (size_t i = 0; i < 512; i++) {
            seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
            set[page * 512 + i] = seed;
        }
        done += 4096, written += 4096;
        double time = now();
        if (time - told >= 0.01) {
            // One that finds no room is not waited for: the next says all that it would have said.
            sendto(out, &written, sizeof written, MSG_DONTWAIT, (struct sockaddr *)&to, sizeof to);
            told = time;
        }
        if (rate > 0) {
            double ahead = done / rate - (time - begun);
            // Time that it did not have is not made up for.
            if (ahead < -0.01) begun = time, done = 0;
            if (ahead > 0.002) nanosleep(&(struct timespec){0, ahead * 1e9}, 0);
        }
    }
}
