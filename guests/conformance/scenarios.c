// The scenarios, one text for every instruction set. The host's side of each has the same name in
// tests/src/conformance/scenarios.rs.
#include "isa.h"

volatile u64 trap_kind, trap_count;
volatile u64 interrupts[2][KINDS];

// What the host looks at in memory: its address is in the program's second word.
struct {
    volatile u64 counter[2];
    volatile u64 sum;
} shared_words __attribute__((aligned(4096)));
// Pages for devices and for the dirty log.
u8 pages[16][4096] __attribute__((aligned(4096)));

void finish(u64 code) {
    REG(u64, END) = code;
    for (;;) {}
}

// Sleeps until `kind` has come `n` times. Interrupts are off between the look and the sleep, so none is slept through.
static void await(u64 cpu, int kind, u64 n) {
    for (;;) {
        interrupts_off();
        if (interrupts[cpu][kind] >= n) break;
        wait_for_interrupt();
    }
    interrupts_on();
}

static void traps(void) {
    void (*const causes[])(void) = { do_illegal, do_call, do_access };
    for (u64 turn = 0; turn < 30; turn++) {
        u64 kind = turn % 3 + 1, before = trap_count;
        causes[kind - 1]();
        CHECK(trap_count == before + 1);
        CHECK(trap_kind == kind);
    }
}

static void mmio(void) {
    for (u64 i = 0; i < 8; i++) REG(u8, ECHO + i) = 0x10 * i + 1;
    CHECK(REG(u64, ECHO) == 0x7161514131211101UL);
    CHECK(REG(u32, ECHO + 4) == 0x71615141 && REG(u16, ECHO + 2) == 0x3121 && REG(u8, ECHO + 7) == 0x71);
    REG(u16, ECHO + 2) = 0xabcd;
    REG(u32, ECHO + 4) = 0x12345678;
    CHECK(REG(u64, ECHO) == 0x12345678abcd1101UL);
    REG(u64, ECHO) = -1UL;
    CHECK(REG(u64, ECHO) == -1UL);
}

static void timer(u64 cpu) {
    interrupts_on();
    for (u64 i = 1; i <= 5; i++) {
        u64 begun = now_ns();
        timer_in(2000000);
        await(cpu, TIMER, i);
        CHECK(begun == 0 || now_ns() - begun >= 1900000);
    }
    CHECK(interrupts[cpu][TIMER] == 5);
    // One that is due while interrupts are off waits for them.
    interrupts_off();
    timer_in(1000);
    for (volatile int i = 0; i < 20000; i++) {}
    CHECK(interrupts[cpu][TIMER] == 5);
    wait_for_interrupt();
    CHECK(interrupts[cpu][TIMER] == 6);
}

static void ipi(u64 cpu) {
    // What is sent to a processor whose interrupt controller is not set up yet is lost.
    shared_words.counter[cpu] = 1;
    while (!shared_words.counter[!cpu]) {}
    interrupts_on();
    for (u64 i = 1; i <= 50; i++) {
        if (cpu == 0) send_ipi(1);
        await(cpu, IPI, i);
        if (cpu == 1) send_ipi(0);
    }
    if (cpu == 1)
        for (;;) wait_for_interrupt();
}

static void external(u64 cpu) {
    external_on(1);
    interrupts_on();
    for (u64 i = 1; i <= 10; i++) {
        REG(u32, LINE) = 1; // the handler lowers it
        while (interrupts[cpu][EXTERNAL] < i) {}
    }
    // A line that rises while interrupts are off is not lost.
    interrupts_off();
    REG(u32, LINE) = 1;
    CHECK(interrupts[cpu][EXTERNAL] == 10);
    wait_for_interrupt();
    CHECK(interrupts[cpu][EXTERNAL] == 11);
}

static void dma(void) {
    for (u64 p = 0; p < 16; p++) {
        for (u64 i = 0; i < 4096; i++) pages[p][i] = 1;
        REG(u64, DMA) = (u64)pages[p];
        for (u64 i = 0; i < 4096; i++) CHECK(((volatile u8 *)pages[p])[i] == (u8)(i * 7));
    }
}

static void dirty(void) {
    // Every page is there and written; then the host begins to log, and from then on only these count.
    for (u64 p = 0; p < 16; p++) pages[p][0] = 1;
    REG(u64, PROGRESS) = (u64)pages;
    while (!shared_words.sum) {}
    for (u64 p = 0; p < 16; p += 3) ((volatile u8 *)pages[p])[100] = p;
    CHECK(((volatile u8 *)pages[1])[0] == 1);
}

static void count(u64 cpu) {
    for (;;) shared_words.counter[cpu]++;
}

static void saving(u64 cpu) {
    interrupts_on();
    u64 x = 88172645463325252UL, turns = shared_words.counter[0];
    for (u64 i = 1; i <= turns; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        REG(u64, ECHO) = x;
        CHECK(REG(u64, ECHO) == x);
        x += other_exits(i);
        u64 kind = trap_count;
        do_illegal();
        CHECK(trap_count == kind + 1);
        if (i % 20 == 0) {
            u64 before = interrupts[cpu][TIMER];
            timer_in(300000);
            await(cpu, TIMER, before + 1);
        }
        REG(u64, PROGRESS) = i;
    }
    shared_words.sum = x;
}

static void edge(u64 cpu) {
    external_on(0);
    interrupts_on();
    for (u64 i = 1; i <= 5; i++) {
        REG(u64, PROGRESS) = i; // the host now counts up its descriptor
        await(cpu, EXTERNAL, i);
    }
    CHECK(interrupts[cpu][EXTERNAL] == 5);
}

static void doorbell(void) {
    for (int i = 0; i < 1000; i++) REG(u32, DOORBELL) = 1;
}

static void deaf(void) {
    interrupts_off();
    REG(u64, PROGRESS) = 1;
    for (;;) {}
}

void guest_main(u64 cpu, u64 scenario) {
    isa_init(cpu);
    switch (scenario) {
    case 1: traps(); break;
    case 2: mmio(); break;
    case 3: timer(cpu); break;
    case 4: ipi(cpu); break;
    case 5: external(cpu); break;
    case 6: dma(); break;
    case 7: dirty(); break;
    case 8: count(cpu); break;
    case 9: saving(cpu); break;
    case 10: edge(cpu); break;
    case 11: doorbell(); break;
    case 12: deaf(); break;
    default: CHECK(0);
    }
    finish(0);
}
