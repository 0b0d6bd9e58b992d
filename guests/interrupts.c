// Interrupts of a hart: software, both timers, vectored entry, wfi.
#include "guest.h"

static u64 wait_in_s(u64 a) {
    CSRW(sie, a);
    asm volatile("wfi" ::: "memory");
    CSRS(sstatus, 2);
    for (volatile int i = 0; i < 1000; i++) {}
    return 0;
}

static u64 back(u64 a) { return a; }

void s_vector(void);
asm(".text\n.balign 256\n.globl s_vector\ns_vector:\n.option push\n.option norvc\n"
    " j 1f\n j 2f\n j 1f\n j 1f\n j 1f\n j 3f\n j 1f\n j 1f\n j 1f\n j 1f\n.option pop\n"
    "1: li a0, 0\n j 4f\n2: li a0, 101\n j 4f\n3: li a0, 105\n4: csrw sie, zero\n j call_done\n");

u64 guest_main(u64 hart) {
    CSRW(pmpaddr0, -1);
    CSRW(pmpcfg0, 0x1f);
    CSRW(mie, 8);
    CSRS(mstatus, MSTATUS_MIE);
    MSIP(hart) = 1;
    while (trap_count == 0) {}
    CHECK(trap_cause == (INTERRUPT | 3));
    CHECK((CSRR(mip) & 8) == 0);
    // The machine timer, waited for.
    u64 t = MTIME;
    MTIMECMP(hart) = t + 20000; // 2 ms
    CSRS(mie, 1 << 7);
    while (trap_count == 1) asm volatile("wfi");
    CHECK(trap_cause == (INTERRUPT | 7) && MTIME >= t + 20000);
    CHECK(CSRR(mip) & 1 << 7);
    MTIMECMP(hart) = -1UL;
    CHECK((CSRR(mip) & 1 << 7) == 0);
    // wfi ends without MIE too.
    CSRC(mstatus, MSTATUS_MIE);
    CSRW(mie, 1 << 7);
    MTIMECMP(hart) = MTIME + 5000;
    asm volatile("wfi");
    CHECK(CSRR(mip) & 1 << 7);
    MTIMECMP(hart) = -1UL;
    CSRW(mie, 0);
    // S mode's, delegated and vectored.
    CSRW(mideleg, 0x222);
    CSRW(stvec, (u64)s_vector | 1);
    CSRW(mip, 2);
    CHECK(call_in(1, wait_in_s, 2) == 101 && CSRR(scause) == (INTERRUPT | 1));
    CSRW(mip, 0);
    CSRW(mcounteren, 7);
    CSRS(menvcfg, 1UL << 63);
    CSRW(0x14d, MTIME + 20000);
    CHECK((CSRR(mip) & 1 << 5) == 0);
    CHECK(call_in(1, wait_in_s, 1 << 5) == 105 && CSRR(scause) == (INTERRUPT | 5));
    CSRW(0x14d, -1);
    CHECK((CSRR(mip) & 1 << 5) == 0);
    // Not delegated: it goes to M mode from S, whatever MIE says.
    CSRW(mideleg, 0);
    CSRW(mip, 2);
    CSRW(mie, 2);
    u64 n = trap_count;
    CHECK(call_in(1, back, 3) == 3);
    CHECK(trap_count == n + 1 && trap_cause == (INTERRUPT | 1));
    CSRW(mip, 0);
    return 0;
}
