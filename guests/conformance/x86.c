// The x86-64 half: exceptions, the local APIC (whose timer KVM runs at 1 GHz), the I/O APIC.
#include "isa.h"

#define APIC(offset) (*(volatile u32 *)(0xfee00000UL + (offset)))
#define EOI 0xb0
#define SPURIOUS 0xf0
#define ICR_LOW 0x300
#define ICR_HIGH 0x310
#define LVT_TIMER 0x320
#define TIMER_COUNT 0x380
#define TIMER_DIVIDE 0x3e0
#define IOAPIC_SELECT (*(volatile u32 *)0xfec00000UL)
#define IOAPIC_WINDOW (*(volatile u32 *)0xfec00010UL)

enum { VECTOR_TIMER = 0x40, VECTOR_IPI, VECTOR_EXTERNAL, VECTOR_CALL = 0x50 };
#define EXTERNAL_LINE 5

struct frame {
    u64 registers[15], vector, error, rip, cs, rflags, rsp, ss;
};
struct gate {
    u16 low, selector, flags, middle;
    u32 high, zero;
};
struct gate idt[128] __attribute__((aligned(16)));
extern u8 stubs[];
static volatile u64 resume;
static volatile int by_level;

static u64 this_cpu(void) { return APIC(0x20) >> 24; }

void trap(struct frame *f) {
    switch (f->vector) {
    case VECTOR_TIMER: interrupts[this_cpu()][TIMER]++; break;
    case VECTOR_IPI: interrupts[this_cpu()][IPI]++; break;
    case VECTOR_EXTERNAL:
        interrupts[this_cpu()][EXTERNAL]++;
        if (by_level) REG(u32, LINE) = 0;
        break;
    default:
        trap_kind = f->vector == 6 ? ILLEGAL : f->vector == VECTOR_CALL ? CALL : f->vector == 14 ? ACCESS : OTHER;
        trap_count++;
        if (trap_kind == OTHER) finish(0xe0000 + f->vector);
        f->rip = resume;
        return;
    }
    APIC(EOI) = 0;
}

#define TRAP(insn) asm volatile("leaq 1f(%%rip), %%rax; movq %%rax, %0; " insn "; 1:" : "=m"(resume) :: "rax", "memory")
void do_illegal(void) { TRAP("ud2"); }
void do_call(void) { TRAP("int $0x50"); }
void do_access(void) { TRAP("movabsq $0x7000000000, %%rax; movb (%%rax), %%al"); }

void isa_init(u64 cpu) {
    // Each processor fills in the same table.
    for (u64 v = 0; v < 128; v++) {
        u64 at = (u64)stubs + 16 * v;
        idt[v] = (struct gate){ at, 8, 0x8e00, at >> 16, at >> 32, 0 };
    }
    APIC(SPURIOUS) = 0x17f;
    // The 8259s would deliver the device's line too.
    if (cpu == 0) asm volatile("outb %0, $0x21; outb %0, $0xa1" ::"a"((u8)0xff));
}

void interrupts_on(void) { asm volatile("sti; nop" ::: "memory"); }
void interrupts_off(void) { asm volatile("cli" ::: "memory"); }
// STI lets interrupts in only after the instruction behind it.
void wait_for_interrupt(void) { asm volatile("sti; hlt" ::: "memory"); }

void timer_in(u64 ns) {
    APIC(TIMER_DIVIDE) = 0xb; // by one
    APIC(LVT_TIMER) = VECTOR_TIMER;
    APIC(TIMER_COUNT) = ns;
}

u64 now_ns(void) { return 0; }

void send_ipi(u64 cpu) {
    APIC(ICR_HIGH) = cpu << 24;
    APIC(ICR_LOW) = 0x4000 | VECTOR_IPI;
}

static void ioapic(u32 at, u32 value) {
    IOAPIC_SELECT = at;
    IOAPIC_WINDOW = value;
}

void external_on(int level) {
    by_level = level;
    ioapic(0x10 + 2 * EXTERNAL_LINE + 1, (u32)this_cpu() << 24);
    ioapic(0x10 + 2 * EXTERNAL_LINE, VECTOR_EXTERNAL | (level ? 1 << 15 : 0));
}

u64 other_exits(u64 seed) {
    // Ports in each width, and a string of them.
    u32 wide = (u32)seed * 0x01010101, got;
    u16 half;
    u8 byte;
    asm volatile("outl %0, $0x10" ::"a"(wide));
    asm volatile("inl $0x10, %0" : "=a"(got));
    CHECK(got == wide);
    asm volatile("inw $0x10, %0" : "=a"(half));
    asm volatile("inb $0x10, %0" : "=a"(byte));
    CHECK(half == (u16)wide && byte == (u8)wide);
    u8 text[4] = { 1, 2, 3, seed };
    const u8 *from = text;
    u64 count = 4;
    asm volatile("rep outsb" : "+S"(from), "+c"(count) : "d"(0x10) : "memory");
    asm volatile("inb $0x10, %0" : "=a"(byte));
    CHECK(byte == (u8)seed);
    return got;
}
