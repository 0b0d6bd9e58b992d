// Fills MIB of memory, then does as it is told by a byte: `t` writes one page in a hundred; `w` writes RATE MiB a second,
// page after page, until the next byte comes. After each it prints a line: the longest time, in ticks of `time`, between
// two looks at the clock.
#include "guest.h"
#ifndef MIB
#define MIB 900UL
#endif
#ifndef RATE
#define RATE 200UL
#endif
#define MEMORY 0x81000000UL
#define PAGES (MIB * 256)

static void put(u64 c) {
    while (!(MMIO8(UART + 5) & 0x20)) {}
    MMIO8(UART) = c;
}

static void print(u64 n) {
    char digits[20];
    int count = 0;
    do digits[count++] = '0' + n % 10; while (n /= 10);
    while (count) put(digits[--count]);
    put('\n');
}

static int asked(void) { return MMIO8(UART + 5) & 1; }

static void write_page(u64 page, u64 value) {
    volatile u64 *p = (volatile u64 *)(MEMORY + (page << 12));
    for (int i = 0; i < 512; i++) p[i] = value + i;
}

u64 guest_main(u64 hart) {
    if (hart) for (;;) asm volatile("wfi");
    for (u64 page = 0; page < PAGES; page++) write_page(page, page);
    u64 next = 0, round = 1;
    print(0);
    for (;;) {
        while (!asked()) {}
        u64 longest = 0, begun = CSRR(time), last = begun, done = 0;
        if (MMIO8(UART) == 't') {
            for (u64 page = round++ % 100; page < PAGES; page += 100) write_page(page, round);
        } else {
            while (!asked()) {
                u64 now;
                do {
                    now = CSRR(time);
                    if (now - last > longest) longest = now - last;
                    last = now;
                } while (done * 10000000 > (now - begun) * (RATE << 20));
                write_page(next++ % PAGES, now);
                done += 4096;
            }
            (void)MMIO8(UART);
        }
        print(longest);
    }
}
