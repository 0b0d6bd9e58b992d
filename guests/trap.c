// The M-mode trap function: notes the trap and skips the instruction; an interrupt is silenced; ecall from a function
// called by call_in with a7 = CALL_DONE goes back to the caller.
#include "guest.h"

#define CALL_DONE 0x444f4e45UL

volatile u64 trap_cause, trap_value, trap_epc, trap_count, trap_resume;
u64 call_saved[16];
void switch_back(u64 value);

void trap(u64 *frame) {
    u64 cause = CSRR(mcause), epc = frame[32];
    if ((cause == 8 || cause == 9) && frame[17] == CALL_DONE) switch_back(frame[10]);
    trap_cause = cause;
    trap_value = CSRR(mtval);
    trap_epc = epc;
    trap_count++;
    if (cause & INTERRUPT) {
        u64 n = cause & 63;
        if (n == 3) MSIP(CSRR(mhartid)) = 0;
        CSRC(mie, 1UL << n);
    } else if (trap_resume) {
        frame[32] = trap_resume;
    } else {
        // Fetch faults have no instruction to look at: the callers of such code set trap_resume.
        frame[32] = epc + ((cause == 3 || cause == 2) && (trap_value & 3) != 3 && cause == 2 ? 2 : 4);
    }
}

// The stack of M mode while another mode runs: the caller's own, below what it uses.
asm(".text\n.globl call_in\ncall_in:\n"
    "  lla t0, call_saved\n"
    "  sd ra, 0(t0)\n sd sp, 8(t0)\n sd s0, 16(t0)\n sd s1, 24(t0)\n sd s2, 32(t0)\n sd s3, 40(t0)\n"
    "  sd s4, 48(t0)\n sd s5, 56(t0)\n sd s6, 64(t0)\n sd s7, 72(t0)\n sd s8, 80(t0)\n sd s9, 88(t0)\n"
    "  sd s10, 96(t0)\n sd s11, 104(t0)\n sd gp, 112(t0)\n sd tp, 120(t0)\n"
    "  li t1, 3\n slli t1, t1, 11\n csrc mstatus, t1\n slli t1, a0, 11\n csrs mstatus, t1\n"
    "  addi t1, sp, -1024\n csrw mscratch, sp\n addi sp, sp, -2047\n addi sp, sp, -1\n andi sp, sp, -16\n"
    "  csrw mepc, a1\n mv a0, a2\n lla ra, call_done\n mret\n"
    ".balign 8\n.globl call_done\ncall_done:\n li a7, 0x444f4e45\n ecall\n"
    ".globl switch_back\nswitch_back:\n"
    "  csrw mscratch, zero\n"
    "  lla t0, call_saved\n"
    "  ld ra, 0(t0)\n ld sp, 8(t0)\n ld s0, 16(t0)\n ld s1, 24(t0)\n ld s2, 32(t0)\n ld s3, 40(t0)\n"
    "  ld s4, 48(t0)\n ld s5, 56(t0)\n ld s6, 64(t0)\n ld s7, 72(t0)\n ld s8, 80(t0)\n ld s9, 88(t0)\n"
    "  ld s10, 96(t0)\n ld s11, 104(t0)\n ld gp, 112(t0)\n ld tp, 120(t0)\n ret\n");
