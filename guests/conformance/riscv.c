// The RISC-V half: M mode, the CLINT (10 MHz), the PLIC.
#include "isa.h"

#define CLINT 0x2000000UL
#define MSIP(hart) (*(volatile u32 *)(CLINT + 4 * (hart)))
#define MTIMECMP(hart) (*(volatile u64 *)(CLINT + 0x4000 + 8 * (hart)))
#define MTIME (*(volatile u64 *)(CLINT + 0xbff8))
#define PLIC 0xc000000UL
#define PRIORITY(line) (*(volatile u32 *)(PLIC + 4 * (line)))
#define ENABLE(context) (*(volatile u32 *)(PLIC + 0x2000 + 0x80 * (context)))
#define CLAIM(context) (*(volatile u32 *)(PLIC + 0x200004 + 0x1000 * (context)))
#define EXTERNAL_LINE 5

#define CSRR(n) ({ u64 v_; asm volatile("csrr %0, " #n : "=r"(v_)); v_; })
#define CSRS(n, v) asm volatile("csrs " #n ", %0" ::"r"((u64)(v)) : "memory")
#define CSRC(n, v) asm volatile("csrc " #n ", %0" ::"r"((u64)(v)) : "memory")
#define CSRW(n, v) asm volatile("csrw " #n ", %0" ::"r"((u64)(v)) : "memory")
#define MIE 8UL
#define INTERRUPT (1UL << 63)

void trap(void) {
    u64 cause = CSRR(mcause), hart = CSRR(mhartid);
    if (cause == (INTERRUPT | 7)) {
        interrupts[hart][TIMER]++;
        MTIMECMP(hart) = -1UL;
    } else if (cause == (INTERRUPT | 3)) {
        MSIP(hart) = 0;
        interrupts[hart][IPI]++;
    } else if (cause == (INTERRUPT | 11)) {
        u32 line = CLAIM(2 * hart);
        if (line == 0) return; // another context took it
        REG(u32, LINE) = 0;
        interrupts[hart][EXTERNAL]++;
        CLAIM(2 * hart) = line;
    } else {
        trap_kind = cause == 2 ? ILLEGAL : cause == 11 ? CALL : cause == 5 ? ACCESS : OTHER;
        trap_count++;
        if (trap_kind == OTHER) finish(0xe0000 + cause);
        CSRW(mepc, CSRR(mepc) + 4);
    }
}

#define TRAP(insn) asm volatile(".option push; .option norvc; " insn "; .option pop" ::: "t0", "memory")
void do_illegal(void) { TRAP(".word 0"); }
void do_call(void) { TRAP("ecall"); }
void do_access(void) { TRAP("li t0, 0x70000000; ld t0, 0(t0)"); }

void isa_init(u64 cpu) {
    (void)cpu;
    CSRW(mie, 1 << 3 | 1 << 7);
}

void interrupts_on(void) { CSRS(mstatus, MIE); }
void interrupts_off(void) { CSRC(mstatus, MIE); }
void wait_for_interrupt(void) {
    asm volatile("wfi" ::: "memory");
    interrupts_on();
}

void timer_in(u64 ns) { MTIMECMP(CSRR(mhartid)) = MTIME + ns / 100; }
u64 now_ns(void) { return MTIME * 100; }
void send_ipi(u64 cpu) { MSIP(cpu) = 1; }

// A PLIC knows levels only.
void external_on(int level) {
    (void)level;
    PRIORITY(EXTERNAL_LINE) = 1;
    ENABLE(2 * CSRR(mhartid)) = 1 << EXTERNAL_LINE;
    CSRS(mie, 1 << 11);
}

u64 other_exits(u64 seed) { return seed; }
