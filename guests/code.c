// Code that changes while it runs, made visible by fence.i.
#include "guest.h"

// li a0, n; ret
static u32 routine[2] __attribute__((aligned(64)));
static u8 page[8192] __attribute__((aligned(4096)));

static u64 run(const void *p) { return ((u64(*)(void))p)(); }
static void write_at(u32 *p, u32 n) {
    p[0] = n << 20 | 10 << 7 | 0x13;
    p[1] = 0x8067;
    asm volatile("fence.i" ::: "memory");
}

u64 guest_main(u64 hart) {
    (void)hart;
    for (u32 i = 0; i < 2000; i++) {
        write_at(routine, i & 2047);
        CHECK(run(routine) == (i & 2047));
    }
    // Over the end of a page.
    volatile unsigned short *h = (volatile unsigned short *)(page + 4094);
    for (u32 i = 0; i < 500; i++) {
        u32 insn = i << 20 | 10 << 7 | 0x13;
        h[0] = insn;
        h[1] = insn >> 16;
        h[2] = 0x8082;
        asm volatile("fence.i" ::: "memory");
        CHECK(run((void *)h) == i);
    }
    return 0;
}
