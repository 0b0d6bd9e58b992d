// Runs the workloads and prints `name checksum nanoseconds` for each. As process 1 it is all the userland there is, and
// turns the machine off at the end. The variable `bench` (a kernel hands unknown words of its command line to process
// 1) names the workloads wanted, separated by commas; without it, all run. Each has a process of its own.
#include "engine.h"
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

const char *program; // for fork and exec

static u64 begun, took;
static u64 now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (u64)t.tv_sec * 1000000000 + (u64)t.tv_nsec;
}
void begin(void) { begun = now(); }
void end(void) { took = now() - begun; }

void failed(const char *file, int line) {
    printf("failed %s:%d errno %d\n", file, line, errno);
    fflush(stdout);
    _exit(1);
}

static u64 seed = 1;
u32 rnd(void) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (u32)(seed >> 33);
}

u64 mixin(u64 c, u64 v) {
    c = (c ^ v) * 0x9e3779b97f4a7c15u;
    return c ^ c >> 29;
}

void pin(int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    CHECK(sched_setaffinity(0, sizeof set, &set) == 0);
}

static const struct { const char *name; u64 (*work)(u64); u64 n; int cpus; } table[] = {
#define ROW(name, n, cpus) {#name, work_##name, n, cpus},
    WORKLOADS(ROW)
};

static int wanted(const char *list, const char *name) {
    size_t len = strlen(name);
    for (const char *at = list; at; at = strchr(at, ','), at += at != 0)
        if (strncmp(at, name, len) == 0 && (at[len] == ',' || at[len] == 0)) return 1;
    return list == 0;
}

static void run_one(size_t i) {
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        u64 sum = table[i].work(table[i].n);
        printf("%s %016llx %llu\n", table[i].name, (unsigned long long)sum, (unsigned long long)took);
        fflush(stdout);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    if (status) printf("failed %s: wait status %#x\n", table[i].name, (unsigned)status);
    fflush(stdout);
}

// Nanoseconds that the machine's processors have been idle.
static u64 idle(void) {
    unsigned long long ticks = 0;
    FILE *f = fopen("/proc/stat", "r");
    CHECK(f && fscanf(f, "cpu %*u %*u %*u %llu", &ticks) == 1);
    fclose(f);
    return ticks * (1000000000 / (u64)sysconf(_SC_CLK_TCK));
}

// A kernel that has just booted goes on with work of its own for a while. Waits until nearly nothing is left of it.
static void settle(u64 cpus) {
    mkdir("/proc", 0755);
    CHECK(mount("proc", "/proc", "proc", 0, 0) == 0);
    for (int tries = 0; tries < 60; tries++) {
        u64 since = now(), rest = idle();
        usleep(500000);
        if ((idle() - rest) * 100 >= (now() - since) * cpus * 95) break;
    }
}

int main(int argc, char **argv) {
    if (argc > 1) return 0; // what fork and exec started
    program = argv[0];
    int machine = getpid() == 1;
    if (machine && open("/dev/console", O_RDWR) == 0) { // the kernel has opened it already, if it could
        dup(0);
        dup(0);
    }
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    if (machine) settle((u64)cpus);
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (table[i].cpus <= cpus && wanted(getenv("bench"), table[i].name)) run_one(i);
    puts("done");
    fflush(stdout);
    if (machine) reboot(RB_POWER_OFF);
    return 0;
}
