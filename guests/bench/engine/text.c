// String scanning: byte loops of our own (compiled so that they stay byte loops), and the C library's.
#include "engine.h"
#define OWN __attribute__((noinline, noclone, optimize("no-tree-loop-distribute-patterns")))

enum { LEN = 1 << 16 };
static char line[LEN + 1], other[LEN + 1];

static void fill(void) {
    for (int i = 0; i < LEN; i++) line[i] = (char)('a' + rnd() % 25); // no 'z'
    line[LEN - 3] = 'z';
    memcpy(other, line, sizeof line);
    other[LEN - 2] = '!';
}

static OWN size_t own_length(const char *s) {
    const char *p = s;
    while (*p) p++;
    return (size_t)(p - s);
}
static OWN const char *own_find(const char *s, char c) {
    for (; *s; s++)
        if (*s == c) return s;
    return 0;
}
static OWN const char *own_find_in(const char *s, char c, size_t len) {
    for (; len; s++, len--)
        if (*s == c) return s;
    return 0;
}
static OWN int own_compare(const char *a, const char *b) {
    while (*a && *a == *b) a++, b++;
    return (u8)*a - (u8)*b;
}
static OWN u32 own_words(const char *s) { // two letters in a row that ascend
    u32 count = 0;
    for (; s[0] && s[1]; s++) count += s[0] < s[1];
    return count;
}

WORKLOAD(bytes) {
    u64 c = 0;
    fill();
    begin();
    while (n--) {
        const char *from = line + (n & 63);
        c = mixin(c, own_length(from));
        c = mixin(c, (u64)(own_find(from, 'z') - line));
        c = mixin(c, (u64)(own_find_in(from, 'z', LEN) - line));
        c = mixin(c, (u64)own_compare(from, other + (n & 63)));
        c = mixin(c, own_words(from));
    }
    end();
    return c;
}

WORKLOAD(strings) {
    // Through pointers that the compiler must read each time, so that every call happens.
    size_t (*volatile length)(const char *) = strlen;
    char *(*volatile find)(const char *, int) = strchr;
    void *(*volatile find_in)(const void *, int, size_t) = memchr;
    int (*volatile compare)(const char *, const char *) = strcmp;
    char *(*volatile part)(const char *, const char *) = strstr;
    u64 c = 0;
    fill();
    begin();
    while (n--) {
        const char *from = line + (n & 63);
        c = mixin(c, length(from));
        c = mixin(c, (u64)(find(from, 'z') - line));
        c = mixin(c, (u64)((char *)find_in(from, 'z', LEN) - line));
        c = mixin(c, (u64)(compare(from, other + (n & 63)) > 0));
        c = mixin(c, (u64)(part(from, "z") - line));
    }
    end();
    return c;
}
