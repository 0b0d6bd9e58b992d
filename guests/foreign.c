// One hart writes code that another runs: told by a flag, or by an interrupt. The other's fence.i is what makes it see.
#include "guest.h"

// li a0, n; ret. Data that the runner writes lies on the same page.
static volatile u32 routine[256][4] __attribute__((aligned(4096)));
static volatile u64 beside[64];
static volatile u64 flag __attribute__((aligned(64))), answered __attribute__((aligned(64)));

static u64 run(const volatile void *p) { return ((u64(*)(void))p)(); }

static void write_at(volatile u32 *p, u32 n) {
    p[0] = n << 20 | 10 << 7 | 0x13;
    p[1] = 0x8067;
}

u64 guest_main(u64 hart) {
    if (hart == 0) {
        for (int i = 0; i < 64; i++) write_at(routine[i], 0);
        release = 1;
    }
    if (hart > 1) for (;;) asm volatile("wfi");
    CSRW(mie, 8);
    for (u64 i = 1; i < 300; i++) {
        volatile u32 *r = routine[i & 7];
        u64 by_interrupt = i & 64;
        if (hart == 0) {
            // Hot for the writer too, sometimes.
            if (i & 128) for (int n = 0; n < 20; n++) run(r);
            write_at(r, i & 2047);
            asm volatile("fence w, w" ::: "memory");
            flag = i;
            if (by_interrupt) MSIP(1) = 1;
            while (answered != i) {}
        } else {
            if (by_interrupt) {
                while (!(CSRR(mip) & 8)) asm volatile("wfi");
                MSIP(1) = 0;
            }
            while (flag != i) {}
            asm volatile("fence r, rw\n fence.i" ::: "memory");
            for (int n = 0; n < 40; n++) {
                CHECK(run(r) == (i & 2047));
                ((volatile u64 *)routine)[256 + (i & 31)] = i;
                beside[n] = i;
            }
            asm volatile("fence rw, w" ::: "memory");
            answered = i;
        }
    }
    if (hart) for (;;) asm volatile("wfi");
    return 0;
}
