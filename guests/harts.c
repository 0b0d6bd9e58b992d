// Several harts: AMO, LR/SC, interrupts from one to another, message passing with fences.
#include "guest.h"
#ifndef HARTS
#define HARTS 4
#endif
#define ROUNDS 5000

static volatile u64 counter, guarded, ready, done;
static volatile u32 lock;
static volatile u64 box __attribute__((aligned(64))), flag __attribute__((aligned(64)));
static volatile u64 x __attribute__((aligned(64))), y __attribute__((aligned(64)));
static volatile u64 seen[2], round_no, answered;

// What waits says so: on a host with fewer processors than there are harts, the others have to get their turn.
static void relax(void) { asm volatile(".word 0x0100000f" ::: "memory"); } // pause

static u64 add(volatile u64 *p, u64 v) { return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST); }
static void acquire(void) {
    u32 t, one = 1;
    asm volatile("1: lr.w.aq %0, (%1)\n bnez %0, 1b\n sc.w %0, %2, (%1)\n bnez %0, 1b" : "=&r"(t) : "r"(&lock), "r"(one) : "memory");
}
static void let_go(void) { asm volatile("amoswap.w.rl zero, zero, (%0)" ::"r"(&lock) : "memory"); }
static void barrier(u64 n) {
    add(&ready, 1);
    while (ready < n * HARTS) relax();
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

static void messages(u64 hart) {
    for (u64 i = 1; i <= ROUNDS && hart < 2; i++) {
        if (hart == 0) {
            box = i * 3;
            asm volatile("fence w, w" ::: "memory");
            flag = i;
            while (answered != i) relax();
        } else {
            while (flag != i) relax();
            asm volatile("fence r, r" ::: "memory");
            CHECK(box == i * 3);
            answered = i;
        }
    }
}

// Store buffering: with full fences, at least one of the two sees the other's store.
static void buffering(u64 hart) {
    for (u64 i = 1; i <= ROUNDS && hart < 2; i++) {
        volatile u64 *mine = hart ? &y : &x, *theirs = hart ? &x : &y;
        *mine = i;
        asm volatile("fence rw, rw" ::: "memory");
        seen[hart] = *theirs;
        add(&round_no, 1);
        while (round_no < 2 * (2 * i - 1)) relax();
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        CHECK(seen[0] == i || seen[1] == i);
        add(&round_no, 1);
        while (round_no < 4 * i) relax();
    }
}

u64 guest_main(u64 hart) {
    if (hart == 0) release = 1;
    if (hart >= HARTS) for (;;) asm volatile("wfi");
    barrier(1);
    for (u64 i = 0; i < ROUNDS; i++) {
        add(&counter, hart + 1);
        acquire();
        guarded = guarded + 1;
        let_go();
    }
    barrier(2);
    CHECK(counter == ROUNDS * HARTS * (HARTS + 1) / 2);
    CHECK(guarded == ROUNDS * HARTS);
    messages(hart);
    barrier(3);
    buffering(hart);
    barrier(4);
    // A ring of interrupts: each hart wakes the next.
    CSRW(mie, 8);
    if (hart == 0) MSIP(1 % HARTS) = 1;
    while (!(CSRR(mip) & 8)) asm volatile("wfi");
    MSIP(hart) = 0;
    if (hart) MSIP((hart + 1) % HARTS) = 1;
    add(&done, 1);
    if (hart == 0) {
        while (done < HARTS) relax();
        return 0;
    }
    for (;;) asm volatile("wfi");
}
