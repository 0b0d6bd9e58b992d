// Traps and their delegation; misaligned accesses.
#include "guest.h"

static u64 do_ecall(u64 a) { asm volatile("li a7, 0\n ecall" ::: "a7", "memory"); return a + 1; }
static u64 do_illegal(u64 a) { asm volatile(".word 0xffffffff" ::: "memory"); return a + 1; }
static u64 do_csr(u64 a) { asm volatile("csrr t0, mstatus" ::: "t0"); return a + 1; }
static u64 do_ebreak(u64 a) { asm volatile(".option push; .option norvc; ebreak; .option pop" ::: "memory"); return a + 1; }

// Where delegated traps go: back to M mode with the cause.
void s_handler(void);
asm(".text\n.balign 64\n.globl s_handler\ns_handler: csrr a0, scause\n j call_done\n");

static u64 words[4] = {0x1122334455667788UL, 0x99aabbccddeeff00UL, 0, 0};

u64 guest_main(u64 hart) {
    (void)hart;
    CSRW(pmpaddr0, -1);
    CSRW(pmpcfg0, 0x1f);
    do_illegal(0);
    CHECK(trap_cause == 2 && trap_value == 0xffffffff);
    do_ebreak(0);
    CHECK(trap_cause == 3 && trap_value == trap_epc);
    do_ecall(0);
    CHECK(trap_cause == 11 && trap_value == 0);
    CHECK(try_load(0x190000000UL) == 6 && trap_value == 0x190000000UL);
    CHECK(try_store(0x190000000UL) == 8);
    for (u64 mode = 0; mode < 2; mode++) {
        CHECK(call_in(mode, do_ecall, 41) == 42 && trap_cause == 8 + mode);
        CHECK(call_in(mode, do_csr, 1) == 2 && trap_cause == 2);
        CHECK((CSRR(mstatus) & MSTATUS_MPP) >> 11 == mode);
    }
    // Delegated: S mode's handler sees it, and M mode only the call back.
    CSRW(stvec, s_handler);
    CSRW(medeleg, -1);
    CHECK((CSRR(medeleg) & 0x1b) == 0x1b);
    CSRW(medeleg, 1 << 2 | 1 << 3 | 1 << 8);
    u64 before = trap_count;
    CHECK(call_in(0, do_illegal, 0) == 2 && CSRR(stval) == 0xffffffff);
    CHECK((CSRR(sstatus) & 0x100) == 0);
    CHECK(call_in(1, do_illegal, 0) == 2);
    CHECK(CSRR(sstatus) & 0x100);
    CHECK(call_in(0, do_ebreak, 0) == 3 && CSRR(stval) == CSRR(sepc));
    CHECK(call_in(0, do_ecall, 0) == 8);
    CHECK(trap_count == before);
    CSRW(medeleg, 0);
    // Misaligned.
    volatile u8 *p = (volatile u8 *)words;
    CHECK(*(volatile u64 *)(p + 1) == 0x0011223344556677UL);
    *(volatile u32 *)(p + 6) = 0xdeadbeef;
    CHECK(words[0] == 0xbeef334455667788UL && words[1] == 0x99aabbccddeedeadUL);
    CHECK(TRY(".option push; .option norvc; amoadd.w t0, zero, (%0); .option pop", "r"(p + 2)) == 7);
    CHECK(TRY(".option push; .option norvc; lr.d t0, (%0); .option pop", "r"(p + 4)) == 5);
    return 0;
}
