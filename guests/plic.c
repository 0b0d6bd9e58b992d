// The UART's interrupt through the PLIC to M mode.
#include "guest.h"
#define SOURCE 10

static void say(const char *s) {
    for (; *s; s++) {
        while (!(MMIO8(UART + 5) & 0x20)) {}
        MMIO8(UART) = *s;
    }
}

u64 guest_main(u64 hart) {
    (void)hart;
    say("plic\n");
    MMIO32(PLIC + 4 * SOURCE) = 1;
    MMIO32(PLIC + 0x2000) = 1 << SOURCE; // context 0: hart 0, M mode
    MMIO32(PLIC + 0x200000) = 0;
    MMIO8(UART + 1) = 2; // transmitter empty
    CSRW(mie, 1 << 11);
    CSRS(mstatus, MSTATUS_MIE);
    while (trap_count == 0) {}
    CHECK(trap_cause == (INTERRUPT | 11));
    CHECK(MMIO32(PLIC + 0x200004) == SOURCE);
    CHECK((CSRR(mip) & 1 << 11) == 0);
    MMIO8(UART + 1) = 0;
    MMIO32(PLIC + 0x200004) = SOURCE;
    CHECK(MMIO32(PLIC + 0x200004) == 0);
    // Below the threshold nothing comes.
    MMIO32(PLIC + 0x200000) = 1;
    MMIO8(UART + 1) = 2;
    CSRS(mie, 1 << 11);
    for (volatile int i = 0; i < 10000; i++) {}
    CHECK(trap_count == 1);
    MMIO32(PLIC + 0x200000) = 0;
    while (trap_count == 1) {}
    CHECK(trap_cause == (INTERRUPT | 11));
    return 0;
}
