// Address translation: every mode, page sizes, permissions, A and D, NAPOT, memory types.
#include "guest.h"

#define V 1UL
#define R 2UL
#define W 4UL
#define X 8UL
#define U 16UL
#define A 64UL
#define D 128UL
#define NAPOT (1UL << 63)
#define ADUE (1UL << 61)
#define PBMTE (1UL << 62)
#define VA 0xc0000000UL

typedef u64 table[512];
static table root39 __attribute__((aligned(4096))), root48 __attribute__((aligned(4096))), root57 __attribute__((aligned(4096)));
static table l1 __attribute__((aligned(4096))), l0 __attribute__((aligned(4096)));
static u64 data[16 * 512] __attribute__((aligned(65536)));

static u64 leaf(const void *pa, u64 flags) { return (u64)pa >> 2 | flags; }
static void fence(void) { asm volatile("sfence.vma" ::: "memory"); }
static void map(u64 page, u64 pte) { l0[page] = pte; fence(); }
static u64 load(u64 a) { return try_load(a); }
static u64 store(u64 a) { return try_store(a); }
static u64 read_word(u64 a) { return *(volatile u64 *)a; }
#define PAGE(n) (VA + (n) * 4096UL)

static void permissions(void) {
    data[0] = 7;
    map(0, leaf(data, V | R | W | A | D));
    CHECK(call_in(1, read_word, PAGE(0)) == 7);
    CHECK(call_in(1, store, PAGE(0) + 8) == 0);
    map(0, leaf(data, V | R | A | D));
    CHECK(call_in(1, load, PAGE(0)) == 0 && call_in(1, store, PAGE(0)) == 16 && trap_value == PAGE(0));
    map(0, leaf(data, V | X | A | D));
    CHECK(call_in(1, load, PAGE(0)) == 14);
    CSRS(mstatus, MSTATUS_MXR);
    CHECK(call_in(1, load, PAGE(0)) == 0);
    CSRC(mstatus, MSTATUS_MXR);
    map(0, leaf(data, V | W | A | D));
    CHECK(call_in(1, load, PAGE(0)) == 14);
    map(0, 0);
    CHECK(call_in(1, load, PAGE(0)) == 14);
    map(0, leaf(data, V | R | W | U | A | D));
    CHECK(call_in(1, load, PAGE(0)) == 14);
    CSRS(mstatus, MSTATUS_SUM);
    CHECK(call_in(1, load, PAGE(0)) == 0);
    CSRC(mstatus, MSTATUS_SUM);
    // M mode with MPRV, as U.
    CSRC(mstatus, MSTATUS_MPP);
    data[0] = 99;
    u64 v;
    asm volatile("li t0, 0x20000\n csrs mstatus, t0\n ld %0, 0(%1)\n csrc mstatus, t0" : "=&r"(v) : "r"(PAGE(0)) : "t0", "memory");
    CHECK(v == 99);
}

static void marks(void) {
    CSRS(menvcfg, ADUE);
    map(1, leaf(data, V | R | W));
    CHECK(call_in(1, load, PAGE(1)) == 0);
    CHECK((l0[1] & (A | D)) == A);
    CHECK(call_in(1, store, PAGE(1)) == 0);
    CHECK((l0[1] & (A | D)) == (A | D));
    CSRC(menvcfg, ADUE);
    map(1, leaf(data, V | R | W));
    CHECK(call_in(1, load, PAGE(1)) == 14);
    map(1, leaf(data, V | R | W | A));
    CHECK(call_in(1, load, PAGE(1)) == 0 && call_in(1, store, PAGE(1)) == 16);
    CHECK((l0[1] & D) == 0);
    CSRS(menvcfg, ADUE);
}

static void sizes(void) {
    const u64 full = V | R | W | A | D;
    u64 page = 16;
    for (u64 i = 0; i < 16; i++) {
        data[i * 512] = 1000 + i;
        map(page + i, leaf(data, full | NAPOT) | 8UL << 10);
    }
    for (u64 i = 0; i < 16; i++) CHECK(call_in(1, read_word, PAGE(page + i)) == 1000 + i);
    map(page, leaf(data, full | NAPOT) | 4UL << 10);
    CHECK(call_in(1, load, PAGE(page)) == 14);
    // A megapage, aligned or not.
    l1[1] = leaf((void *)0x80000000UL, full);
    fence();
    u64 at = VA + 0x200000 + ((u64)data - 0x80000000UL);
    CHECK(call_in(1, read_word, at) == 1000);
    l1[1] = leaf((void *)0x80001000UL, full);
    fence();
    CHECK(call_in(1, load, at) == 14);
    // Memory types, and reserved bits.
    CSRS(menvcfg, PBMTE);
    map(2, leaf(data, full) | 1UL << 61);
    CHECK(call_in(1, read_word, PAGE(2)) == 1000);
    map(2, leaf(data, full) | 3UL << 61);
    CHECK(call_in(1, load, PAGE(2)) == 14);
    CSRC(menvcfg, PBMTE);
    map(2, leaf(data, full) | 1UL << 61);
    CHECK(call_in(1, load, PAGE(2)) == 14);
    map(2, leaf(data, full) | 1UL << 55);
    CHECK(call_in(1, load, PAGE(2)) == 14);
    map(2, leaf(data, full) | 3UL << 8);
    CHECK(call_in(1, load, PAGE(2)) == 0);
}

u64 guest_main(u64 hart) {
    (void)hart;
    CSRW(pmpaddr0, -1);
    CSRW(pmpcfg0, 0x1f);
    // The guest itself, one to one, for S mode.
    root39[2] = leaf((void *)0x80000000UL, V | R | W | X | A | D);
    root39[3] = leaf(l1, V);
    l1[0] = leaf(l0, V);
    root48[0] = leaf(root39, V);
    root57[0] = leaf(root48, V);
    const table *roots[] = {&root39, &root48, &root57};
    for (u64 i = 0; i < 3; i++) {
        u64 satp = (8 + i) << 60 | (u64)roots[i] >> 12;
        CSRW(satp, satp);
        CHECK(CSRR(satp) == satp);
        fence();
        permissions();
        marks();
        sizes();
        // Not sign-extended.
        u64 bits = 39 + 9 * i;
        CHECK(call_in(1, load, PAGE(2) | 1UL << bits) == 14);
    }
    CSRW(satp, 0);
    return 0;
}
