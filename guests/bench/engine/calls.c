// Calls, recursion, and many small procedures over records and text in the manner of Dhrystone.
#include "engine.h"
#define OWN __attribute__((noinline, noclone))

static OWN u32 fib(u32 n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }

WORKLOAD(fib) {
    begin();
    u64 c = fib((u32)n);
    end();
    return c;
}

static OWN u32 ackermann(u32 m, u32 n) {
    if (m == 0) return n + 1;
    if (n == 0) return ackermann(m - 1, 1);
    return ackermann(m - 1, ackermann(m, n - 1));
}

WORKLOAD(ackermann) {
    begin();
    u64 c = ackermann(3, (u32)n);
    end();
    return c;
}

// An order book of one: each procedure does a line's worth of work on records, arrays and short texts.
struct item { struct item *next; int kind, count; char label[32]; };
static struct item first, second;
static int stock[50], shelf[50][50], total;
static char last_label[32];

static OWN int kind_of(char a, char b) { return a == b ? 0 : a < b ? 1 : 2; }
static OWN void restock(int *row, int at, int by) {
    row[at] = by;
    row[at + 1] = row[at];
    row[at + 30] = at;
}
static OWN void shelve(int at) {
    for (int i = at; i <= at + 1; i++) shelf[at][i] = at;
    shelf[at][at - 1]++;
    shelf[at + 20][at] = stock[at];
}
static OWN int same_label(const char *a, const char *b) {
    for (int i = 2; i < 4; i++)
        if (kind_of(a[i], b[i + 1]) == 0) return 0;
    return strcmp(a, b) > 0 ? total++, 1 : 0;
}
static OWN void next_kind(int kind, int *out) {
    switch (kind) {
    case 0: *out = 1; break;
    case 1: *out = total > 100 ? 0 : 3; break;
    case 2: *out = 2; break;
    default: *out = 0;
    }
}
static OWN void renew(struct item *i) {
    struct item *o = i->next;
    *o = *i;
    o->next = i;
    o->count = i->count + 5;
    next_kind(i->kind, &o->kind);
    if (o->kind == 3) o->count += 10;
    else o->label[0] ^= 1;
}

WORKLOAD(dhrystone) {
    first = (struct item){&second, 2, 40, "DRY GOODS, THE FIRST KIND"};
    second.next = &first;
    begin();
    for (u64 r = 0; r < n; r++) {
        char label[32];
        strcpy(label, "DRY GOODS, THE OTHER KIND");
        int a = (int)(r & 7) + 2, b = a * 3 - (int)(r & 3);
        if (!same_label(first.label, label)) b += 7;
        while (a < b) a = a * 5 / 3, b -= 1;
        restock(stock, a & 15, b);
        shelve((a & 15) + 1);
        renew(&first);
        for (char c = 'A'; c <= 'C'; c++)
            if (kind_of(c, label[0]) == 1) memcpy(last_label, label, sizeof label);
        first.kind = (int)(r % 5);
        total += a * (b & 15) / (1 + (int)(r & 3));
        total &= 0xffff;
    }
    end();
    u64 c = mixin((u64)total, (u64)second.count);
    for (int i = 0; i < 50; i++) c = mixin(c, (u64)(stock[i] + shelf[i][i]));
    return mixin(c, (u64)last_label[4]);
}
