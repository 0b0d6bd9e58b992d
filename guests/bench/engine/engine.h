// What the workloads of the engine runner share. Each prepares its data, calls begin(), does its work, calls end(), and
// returns a checksum that must be the same on every machine and compiler.
#pragma once
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef uint64_t u64;
typedef uint32_t u32;
typedef uint16_t u16;
typedef uint8_t u8;

// Ends the workload with the line of what did not hold.
#define CHECK(c) do { if (!(c)) failed(__FILE__, __LINE__); } while (0)
void failed(const char *file, int line) __attribute__((noreturn));

// The measured time: between the last begin() and end().
void begin(void);
void end(void);

// Pseudo-random numbers, the same sequence in each workload.
u32 rnd(void);
// Mixes `v` into checksum `c`.
u64 mixin(u64 c, u64 v);
// Runs on this processor only from now on.
void pin(int cpu);

#define WORKLOAD(name) u64 work_##name(u64 n)
// name, how much of it (chosen for 0.3 to 1 s on QEMU), processors that it needs
#define WORKLOADS(X) \
    X(mix, 2400, 1) X(qsort, 12, 1) X(sieve, 120, 1) \
    X(fib, 35, 1) X(ackermann, 10, 1) X(dhrystone, 1500000, 1) X(interp, 12000000, 1) \
    X(sha256, 300000, 1) X(compress, 20, 1) X(muldiv, 60000000, 1) \
    X(bytes, 600, 1) X(strings, 1600, 1) \
    X(nbody, 180000, 1) X(matmul, 14, 1) X(fft, 400, 1) X(convert, 4000000, 1) X(horner, 2000000, 1) \
    X(copy, 30000, 1) X(memcpy, 1600, 1) X(chase, 1000000, 1) X(stride, 2000000, 1) \
    X(getppid, 300000, 1) X(signal, 15000, 1) \
    X(faults, 8192, 1) X(forkexec, 80, 1) X(pipe1, 3000, 1) X(pipe2, 1000, 2) \
    X(atomics, 120000000, 1) X(codegen, 40000, 1) \
    X(thread1, 2400, 2) X(thread2, 2400, 2)
#define DECLARE(name, n, cpus) WORKLOAD(name);
WORKLOADS(DECLARE)

// Integer work that stays in the innermost cache, for `rounds`; needs no shared memory. In branchy.c.
u64 core_mix(u64 rounds, u32 seed);
