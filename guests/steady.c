// Two harts whose timers and interrupts come at moments that their own results choose. What they mix depends on each
// such moment, to the instruction: two runs of a deterministic machine must not differ in a bit.
#include "guest.h"
#ifndef ROUNDS
#define ROUNDS 4000
#endif

static volatile u64 data[2][512], shared, done;
static volatile u64 result[2];

static u64 mix(u64 h, u64 v) {
    h ^= v;
    h ^= h << 13;
    h ^= h >> 7;
    return h ^ h << 17;
}

// Work that a timer ends somewhere.
static u64 work(u64 hart, u64 h) {
    for (u64 n = 100 + (h & 1023); n; n--) {
        u64 i = h & 511;
        h = mix(h, data[hart][i] + n);
        data[hart][h >> 9 & 511] = h / (n | 1);
        if ((h & 15) == 0) h += __atomic_fetch_add(&shared, h, __ATOMIC_RELAXED);
    }
    return h;
}

static void put(u64 c) {
    while (!(MMIO8(UART + 5) & 0x20)) {}
    MMIO8(UART) = c;
}

u64 guest_main(u64 hart) {
    if (hart == 0) release = 1;
    if (hart > 1) for (;;) asm volatile("wfi");
    u64 h = 0x9e3779b97f4a7c15UL * (hart + 1);
    CSRS(mstatus, MSTATUS_MIE);
    for (u64 round = 0; round < ROUNDS; round++) {
        MTIMECMP(hart) = MTIME + (h & 255);
        CSRS(mie, 1 << 7 | 1 << 3);
        h = work(hart, h);
        if ((h & 7) == 0) MSIP(!hart) = 1;
        if ((h & 0x18) == 0) {
            // The timer ends this, also where it has interrupted the work already.
            CSRC(mstatus, MSTATUS_MIE);
            CSRS(mie, 1 << 7);
            asm volatile("wfi");
            CSRS(mstatus, MSTATUS_MIE);
        }
        h = mix(h, trap_epc + trap_count);
        h = mix(h, CSRR(minstret));
        h = mix(h, CSRR(mcycle) + MTIME);
        // Code that is not there: a trap in the middle of a path.
        if ((h & 0x60) == 0) h = mix(h, try_load(0x50 + (h & 7)));
        if (round % 64 == 0) put('a' + (h & 15));
    }
    CSRW(mie, 0);
    result[hart] = h;
    __atomic_fetch_add(&done, 1, __ATOMIC_SEQ_CST);
    if (hart) for (;;) asm volatile("wfi");
    while (done < 2) {}
    for (u64 n = 0; n < 32; n++) put('a' + (result[n & 1] >> (n / 2 * 4) & 15));
    return 0;
}
