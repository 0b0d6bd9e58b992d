// Memory: copies, a chase of pointers over more than any cache holds, one byte a page over more than a TLB holds.
#include "engine.h"
#include <sys/mman.h>

enum { MIB = 1 << 20, PAGE = 4096 };

static void *pages(size_t len) {
    void *p = mmap(0, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    CHECK(p != MAP_FAILED);
    madvise(p, len, MADV_NOHUGEPAGE); // pages of 4 KiB everywhere, whatever the kernel's custom
    return p;
}

// Words of 8 bytes, four a turn; 64 KiB each way.
WORKLOAD(copy) {
    enum { WORDS = 8192 };
    u64 *a = pages(WORDS * 8), *b = pages(WORDS * 8);
    for (int i = 0; i < WORDS; i++) b[i] = rnd();
    begin();
    for (; n; n--) {
        u64 *from = n & 1 ? a : b, *to = n & 1 ? b : a;
        for (int i = 0; i < WORDS; i += 4) {
            u64 w0 = from[i], w1 = from[i + 1], w2 = from[i + 2], w3 = from[i + 3];
            to[i] = w0, to[i + 1] = w1, to[i + 2] = w2, to[i + 3] = w3 + 1;
        }
        asm volatile("" ::: "memory");
    }
    end();
    u64 c = 0;
    for (int i = 0; i < WORDS; i += 7) c = mixin(c, a[i] ^ b[i]);
    return c;
}

// The C library's, 64 KiB and 4 MiB and short ones.
WORKLOAD(memcpy) {
    void *(*volatile copy)(void *, const void *, size_t) = memcpy;
    u8 *a = pages(4 * MIB), *b = pages(4 * MIB);
    for (int i = 0; i < 4 * MIB; i++) a[i] = (u8)(i * 7 >> 3);
    begin();
    for (u64 i = 0; i < n; i++) {
        copy(b + (i & 7), a + 64 * (i & 63), 65536);
        for (int k = 0; k < 64; k++) copy(a + 100 * k, b + 90 * k, 20 + (size_t)k);
        if (i % 128 == 0) copy(b, a, 4 * MIB);
    }
    end();
    u64 c = 0;
    for (int i = 0; i < 4 * MIB; i += 1001) c = mixin(c, (u64)a[i] << 8 | b[i]);
    return c;
}

// One cycle through all lines of 64 bytes of 64 MiB, in an order that no prefetcher knows (Sattolo).
WORKLOAD(chase) {
    enum { LINES = 64 * MIB / 64 };
    struct line { struct line *next; u64 value, rest[6]; } *l = pages(64 * MIB);
    u32 *order = malloc(LINES * sizeof *order);
    CHECK(order);
    for (u32 i = 0; i < LINES; i++) order[i] = i;
    for (u32 i = LINES - 1; i > 0; i--) {
        u32 j = rnd() % i, t = order[i];
        order[i] = order[j], order[j] = t;
    }
    for (u32 i = 0; i < LINES; i++) {
        l[order[i]].next = &l[order[(i + 1) % LINES]];
        l[order[i]].value = i;
    }
    u64 c = 0;
    struct line *at = l;
    begin();
    for (; n; n--) c += at->value ^ n, at = at->next;
    end();
    return mixin(c, at->value);
}

// Reads and writes one word in each of 16384 pages, a different line in each.
WORKLOAD(stride) {
    enum { PAGES = 16384 };
    u8 *p = pages((size_t)PAGES * PAGE);
    u64 c = 0;
    begin();
    for (u64 i = 0; i < n; i++) {
        u64 page = i % PAGES;
        u64 *w = (u64 *)(p + page * PAGE + (page * 64 & (PAGE - 1)));
        c += *w;
        *w += i;
    }
    end();
    return mixin(c, 1);
}
