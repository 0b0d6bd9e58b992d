// Integer kernels, one a program (-DKERNEL=name). Prints the checksum and the ticks of `time` that the kernel took;
// a wrong checksum is a failed run.
#include "guest.h"

#define CAT_(a, b) a##b
#define CAT(a, b) CAT_(a, b)
#define TEXT_(a) #a
#define TEXT(a) TEXT_(a)

static u64 seed = 1;
static u32 next(void) {
    seed = seed * 6364136223846793005UL + 1442695040888963407UL;
    return seed >> 33;
}

static u32 crc(u32 c, u32 v) {
    for (int i = 0; i < 32; i++, v >>= 1) c = c >> 1 ^ (-((c ^ v) & 1) & 0xedb88320u);
    return c;
}

// Mixed, as embedded benchmarks are: a linked list sorted and searched, small matrices, a state machine over text.
struct node { struct node *next; short key, value; };
static struct node nodes[256];
static short ma[24][24], mb[24][24];
static int mc[24][24];
static char text[512];

static struct node *merge_sort(struct node *l) {
    if (!l || !l->next) return l;
    struct node *slow = l, *fast = l->next;
    while (fast && fast->next) slow = slow->next, fast = fast->next->next;
    struct node *r = slow->next, *head = 0, **tail = &head;
    slow->next = 0;
    l = merge_sort(l);
    r = merge_sort(r);
    while (l && r) {
        struct node **s = l->key <= r->key ? &l : &r;
        *tail = *s;
        tail = &(*s)->next;
        *s = (*s)->next;
    }
    *tail = l ? l : r;
    return head;
}

static u32 list(u32 c) {
    for (int i = 0; i < 256; i++) nodes[i] = (struct node){i < 255 ? &nodes[i + 1] : 0, (short)next(), (short)i};
    struct node *l = merge_sort(nodes);
    for (int k = 0; k < 32; k++) {
        short want = (short)next();
        struct node *n = l;
        while (n->next && n->key < want) n = n->next;
        c = crc(c, n->value);
    }
    return c;
}

static u32 matrix(u32 c) {
    for (int i = 0; i < 24; i++)
        for (int j = 0; j < 24; j++) ma[i][j] = (short)next(), mb[i][j] = (short)(i * j + (int)c);
    int sum = 0;
    for (int i = 0; i < 24; i++)
        for (int j = 0; j < 24; j++) {
            int s = 0;
            for (int k = 0; k < 24; k++) s += ma[i][k] * mb[k][j];
            mc[i][j] = s;
            sum += s > sum ? 1 : s >> 5;
        }
    return crc(c, sum);
}

// Numbers in text: counts integers, fractions, exponents and nonsense.
static u32 states(u32 c) {
    enum { START, SIGN, INT, POINT, FRACTION, EXP, EXP_SIGN, EXP_INT, BAD } s = START;
    u32 seen[9] = {0};
    for (int i = 0; i < 512; i++) text[i] = "0123456789+-.eE,, x"[next() % 19];
    for (int i = 0; i < 512; i++) {
        char ch = text[i];
        int digit = ch >= '0' && ch <= '9';
        if (ch == ',') { seen[s]++; s = START; continue; }
        switch (s) {
        case START: s = digit ? INT : ch == '+' || ch == '-' ? SIGN : ch == '.' ? POINT : BAD; break;
        case SIGN: s = digit ? INT : ch == '.' ? POINT : BAD; break;
        case INT: s = digit ? INT : ch == '.' ? FRACTION : ch == 'e' || ch == 'E' ? EXP : BAD; break;
        case POINT: s = digit ? FRACTION : BAD; break;
        case FRACTION: s = digit ? FRACTION : ch == 'e' || ch == 'E' ? EXP : BAD; break;
        case EXP: s = digit ? EXP_INT : ch == '+' || ch == '-' ? EXP_SIGN : BAD; break;
        case EXP_SIGN: case EXP_INT: s = digit ? EXP_INT : BAD; break;
        default: break;
        }
    }
    for (int i = 0; i < 9; i++) c = crc(c, seen[i]);
    return c;
}

static u32 kernel_mix(void) {
    u32 c = 0;
    for (int i = 0; i < 2500; i++) c = states(matrix(list(c)));
    return c;
}

static int numbers[100000];
static void sort(int *a, int n) {
    while (n > 1) {
        int p = a[n / 2], i = 0, j = n - 1;
        while (i <= j) {
            while (a[i] < p) i++;
            while (a[j] > p) j--;
            if (i <= j) { int t = a[i]; a[i++] = a[j]; a[j--] = t; }
        }
        sort(a, j + 1);
        a += i;
        n -= i;
    }
}
static u32 kernel_qsort(void) {
    u32 c = 0;
    for (int r = 0; r < 12; r++) {
        for (int i = 0; i < 100000; i++) numbers[i] = (int)next();
        sort(numbers, 100000);
        for (int i = 1; i < 100000; i++) CHECK(numbers[i - 1] <= numbers[i]);
        c = crc(c, numbers[50000]);
    }
    return c;
}

static u8 composite[1 << 20];
static u32 kernel_sieve(void) {
    u32 count = 0;
    for (int r = 0; r < 20; r++) {
        for (u32 i = 0; i < sizeof composite; i++) composite[i] = 0;
        for (u32 i = 2; i < sizeof composite; i++) {
            if (composite[i]) continue;
            count++;
            for (u32 j = i * 2; j < sizeof composite; j += i) composite[j] = 1;
        }
    }
    CHECK(count == 20 * 82025);
    return count;
}

static u32 __attribute__((noinline)) fib(u32 n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }
static volatile u32 fib_of = 36; // read and written in order with the clock
static u32 kernel_fib(void) { return fib_of = fib(fib_of); }

#define ROR(v, n) ((v) >> (n) | (v) << (32 - (n)))
static u32 k256[64], h256[8];
// The constants are the first 32 bits behind the point of square roots and cube roots of primes.
static u32 root_fraction(u32 p, int cube) {
    u64 root = 0; // times 2^32, found bit by bit; below 2^37, so that its cube fits
    for (int b = 36; b >= 0; b--) {
        unsigned __int128 t = root | 1UL << b, power = cube ? t * t * t : t * t;
        if (power <= (unsigned __int128)p << (cube ? 96 : 64)) root = t;
    }
    return (u32)root;
}
static void sha_block(u32 *h, const u8 *p) {
    u32 w[64], s[8];
    for (int i = 0; i < 16; i++) w[i] = (u32)p[4 * i] << 24 | p[4 * i + 1] << 16 | p[4 * i + 2] << 8 | p[4 * i + 3];
    for (int i = 16; i < 64; i++) {
        u32 a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + w[i - 7] + (ROR(a, 7) ^ ROR(a, 18) ^ a >> 3) + (ROR(b, 17) ^ ROR(b, 19) ^ b >> 10);
    }
    for (int i = 0; i < 8; i++) s[i] = h[i];
    for (int i = 0; i < 64; i++) {
        u32 e = s[4], a = s[0];
        u32 t1 = s[7] + (ROR(e, 6) ^ ROR(e, 11) ^ ROR(e, 25)) + ((e & s[5]) ^ (~e & s[6])) + k256[i] + w[i];
        u32 t2 = (ROR(a, 2) ^ ROR(a, 13) ^ ROR(a, 22)) + ((a & s[1]) ^ (a & s[2]) ^ (s[1] & s[2]));
        for (int j = 7; j > 0; j--) s[j] = s[j - 1];
        s[4] += t1;
        s[0] = t1 + t2;
    }
    for (int i = 0; i < 8; i++) h[i] += s[i];
}
static void sha_setup(void) {
    int n = 0;
    for (u32 p = 2; n < 64; p++) {
        int prime = 1;
        for (u32 d = 2; d * d <= p; d++) prime &= p % d != 0;
        if (!prime) continue;
        if (n < 8) h256[n] = root_fraction(p, 0);
        k256[n++] = root_fraction(p, 1);
    }
}
static u32 kernel_sha256(void) {
    static u8 message[64];
    sha_setup();
    // "abc", from the standard's own examples.
    u32 h[8];
    for (int i = 0; i < 8; i++) h[i] = h256[i];
    message[0] = 'a', message[1] = 'b', message[2] = 'c', message[3] = 0x80, message[63] = 24;
    sha_block(h, message);
    CHECK(h[0] == 0xba7816bf && h[7] == 0xf20015ad);
    for (int i = 0; i < 60000; i++) {
        message[i & 63] ^= h[i & 7];
        sha_block(h, message);
    }
    return h[0];
}

static u64 from[16384], to[16384];
static u32 kernel_memcpy(void) {
    for (int i = 0; i < 16384; i++) from[i] = next();
    for (int r = 0; r < 2500; r++) {
        u64 *a = r & 1 ? from : to, *b = r & 1 ? to : from;
        for (int i = 0; i < 16384; i += 4) {
            u64 w0 = b[i], w1 = b[i + 1], w2 = b[i + 2], w3 = b[i + 3];
            a[i] = w0, a[i + 1] = w1, a[i + 2] = w2, a[i + 3] = w3;
        }
        asm volatile("" ::: "memory");
    }
    return (u32)to[16383];
}

static void put(char c) {
    while (!(MMIO8(UART + 5) & 0x20)) {}
    MMIO8(UART) = c;
}
static void number(u64 v) {
    char digits[20];
    int n = 0;
    do digits[n++] = '0' + v % 10; while (v /= 10);
    while (n) put(digits[--n]);
    put(' ');
}

u64 guest_main(u64 hart) {
    (void)hart;
    u64 start = MTIME;
    u32 sum = CAT(kernel_, KERNEL)();
    u64 ticks = MTIME - start;
    for (const char *s = TEXT(KERNEL) " "; *s; s++) put(*s);
    number(sum);
    number(ticks);
    put('\n');
    return 0;
}
