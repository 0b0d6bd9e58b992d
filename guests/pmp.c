// Physical memory protection: the three kinds of range, priority, locks.
#include "guest.h"

static u64 area[1024] __attribute__((aligned(8192)));
static u64 load(u64 a) { return try_load(a); }
static u64 store(u64 a) { return try_store(a); }
static u64 nothing(u64 a) { return a; }

#define AT(n) ((u64)&area[n])
#define NAPOT(a, bytes) (((a) >> 2) | ((bytes) / 8 - 1))

u64 guest_main(u64 hart) {
    (void)hart;
    // No rule but one that is off for the area: S reaches the rest by the last one.
    CSRW(pmpaddr7, -1);
    CSRW(pmpaddr0, NAPOT(AT(0), 4096));
    CSRW(pmpcfg0, 0x1f00000000000000UL | 0x18);
    CHECK(call_in(1, load, AT(0)) == 6 && call_in(1, load, AT(511)) == 6 && call_in(1, load, AT(512)) == 0);
    CHECK(call_in(0, store, AT(0)) == 8 && trap_value == AT(0));
    CHECK(try_load(AT(0)) == 0);
    CSRW(pmpcfg0, 0x1f00000000000000UL | 0x19); // R
    CHECK(call_in(1, load, AT(0)) == 0 && call_in(1, store, AT(0)) == 8);
    // TOR, and an earlier entry over a later one.
    CSRW(pmpaddr0, AT(2) >> 2);
    CSRW(pmpaddr1, AT(4) >> 2);
    CSRW(pmpaddr2, NAPOT(AT(0), 4096));
    CSRW(pmpcfg0, 0x1f00000000000000UL | 0x1b0800);
    CHECK(call_in(1, load, AT(1)) == 0 && call_in(1, load, AT(2)) == 6 && call_in(1, load, AT(3)) == 6);
    CHECK(call_in(1, load, AT(4)) == 0 && call_in(1, load, AT(600)) == 0);
    // NA4: half of a doubleword refuses the whole, even to M mode.
    CSRW(pmpaddr0, AT(8) >> 2);
    CSRW(pmpcfg0, 0x1f00000000000000UL | 0x17);
    CHECK(call_in(1, load, AT(8)) == 6 && try_load(AT(8)) == 6 && call_in(1, load, AT(9)) == 0);
    // Locked: M mode too, and for ever.
    CSRW(pmpaddr0, NAPOT(AT(16), 64));
    CSRW(pmpcfg0, 0x1f00000000000000UL | 0x99);
    CHECK(try_load(AT(16)) == 0 && try_store(AT(16)) == 8 && try_store(AT(24)) == 0);
    CSRW(pmpaddr0, 0);
    CSRW(pmpcfg0, 0x1f00000000000000UL);
    CHECK((CSRR(pmpcfg0) & 0xff) == 0x99 && CSRR(pmpaddr0) == NAPOT(AT(16), 64));
    CHECK(try_store(AT(16)) == 8);
    CHECK(call_in(1, nothing, 5) == 5);
    return 0;
}
