// What goes through the kernel: system calls, signals, page faults, processes, pipes.
#include "engine.h"
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

extern const char *program;

WORKLOAD(getppid) {
    u64 c = 0;
    begin();
    for (u64 i = 0; i < n; i++) c += syscall(SYS_getppid) > 0;
    end();
    return c;
}

static volatile sig_atomic_t handled;
static void handle(int s) { handled += s == SIGUSR1; }

WORKLOAD(signal) {
    struct sigaction a = {.sa_handler = handle};
    CHECK(sigaction(SIGUSR1, &a, 0) == 0);
    begin();
    for (u64 i = 0; i < n; i++) raise(SIGUSR1);
    end();
    return (u64)handled;
}

// `n` pages, mapped 256 at a time, each written once, unmapped.
WORKLOAD(faults) {
    enum { PAGE = 4096, TOGETHER = 256 };
    u64 c = 0;
    begin();
    for (u64 i = 0; i < n; i += TOGETHER) {
        u8 *p = mmap(0, TOGETHER * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(p != MAP_FAILED);
        madvise(p, TOGETHER * PAGE, MADV_NOHUGEPAGE);
        for (u64 k = 0; k < TOGETHER; k++) c += p[k * PAGE], p[k * PAGE + 8] = (u8)k, c += p[k * PAGE + 8];
        munmap(p, TOGETHER * PAGE);
    }
    end();
    return c;
}

WORKLOAD(forkexec) {
    u64 c = 0;
    begin();
    for (; n; n--) {
        pid_t child = fork();
        if (child == 0) {
            execl(program, program, "end", (char *)0);
            _exit(1);
        }
        int status = -1;
        CHECK(child > 0 && waitpid(child, &status, 0) == child);
        c = mixin(c, (u64)status + n);
    }
    end();
    return c;
}

// A byte there and a byte back, `n` times, between a process on processor 0 and one on `cpu`.
static u64 ping_pong(u64 n, int cpu) {
    int there[2], back[2];
    u64 c = 0;
    CHECK(pipe(there) == 0 && pipe(back) == 0);
    pid_t child = fork();
    CHECK(child >= 0);
    u8 b = 0;
    if (child == 0) {
        pin(cpu);
        close(there[1]);
        while (read(there[0], &b, 1) == 1) {
            b = (u8)(b * 5 + 1);
            CHECK(write(back[1], &b, 1) == 1);
        }
        _exit(0);
    }
    pin(0);
    for (u64 i = 0; i < n + 10; i++) {
        if (i == 10) begin(); // both are there and placed by now
        CHECK(write(there[1], &b, 1) == 1 && read(back[0], &b, 1) == 1);
        c = mixin(c, b);
    }
    end();
    close(there[1]);
    CHECK(waitpid(child, 0, 0) == child);
    return c;
}

WORKLOAD(pipe1) { return ping_pong(n, 0); }
WORKLOAD(pipe2) { return ping_pong(n, 1); }
