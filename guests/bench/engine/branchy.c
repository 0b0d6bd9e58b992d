// Branchy integer work: a mix as embedded benchmarks have it, a sort with callbacks, a sieve.
#include "engine.h"

// The mix: a linked list sorted and searched, a small matrix, a state machine over text, all checked by a bitwise CRC.
struct node { struct node *next; int16_t key, value; };
struct mix {
    u64 seed;
    struct node nodes[256];
    int16_t a[24][24], b[24][24];
    char text[512];
};

static u32 draw(struct mix *m) {
    m->seed = m->seed * 6364136223846793005u + 1442695040888963407u;
    return (u32)(m->seed >> 33);
}

static u32 crc(u32 c, u32 v) {
    for (int i = 0; i < 32; i++, v >>= 1) c = c >> 1 ^ ((c ^ v) & 1 ? 0xedb88320u : 0);
    return c;
}

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

static u32 list(struct mix *m, u32 c) {
    for (int i = 0; i < 256; i++)
        m->nodes[i] = (struct node){i < 255 ? &m->nodes[i + 1] : 0, (int16_t)draw(m), (int16_t)i};
    struct node *l = merge_sort(m->nodes);
    for (int k = 0; k < 32; k++) {
        int16_t want = (int16_t)draw(m);
        struct node *n = l;
        while (n->next && n->key < want) n = n->next;
        c = crc(c, (u32)n->value);
    }
    return c;
}

static u32 matrix(struct mix *m, u32 c) {
    for (int i = 0; i < 24; i++)
        for (int j = 0; j < 24; j++) m->a[i][j] = (int16_t)draw(m), m->b[i][j] = (int16_t)((u32)(i * j) + c);
    u32 sum = 0;
    for (int i = 0; i < 24; i++)
        for (int j = 0; j < 24; j++) {
            u32 s = 0;
            for (int k = 0; k < 24; k++) s += (u32)(m->a[i][k] * m->b[k][j]);
            sum += s > sum ? 1 : s >> 5;
        }
    return crc(c, sum);
}

// Numbers in text: counts integers, fractions, exponents and nonsense.
static u32 states(struct mix *m, u32 c) {
    enum { START, SIGN, INT, POINT, FRACTION, EXP, EXP_SIGN, EXP_INT, BAD } s = START;
    u32 seen[9] = {0};
    for (int i = 0; i < 512; i++) m->text[i] = "0123456789+-.eE,, x"[draw(m) % 19];
    for (int i = 0; i < 512; i++) {
        char ch = m->text[i];
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

u64 core_mix(u64 rounds, u32 seed) {
    struct mix m = {.seed = seed};
    u32 c = 0;
    while (rounds--) c = states(&m, matrix(&m, list(&m, c)));
    return c;
}

WORKLOAD(mix) {
    begin();
    u64 c = core_mix(n, 1);
    end();
    return c;
}

static int by_value(const void *a, const void *b) {
    u32 x = *(const u32 *)a, y = *(const u32 *)b;
    return x < y ? -1 : x > y;
}

// The C library's qsort: a call through a pointer for every comparison.
WORKLOAD(qsort) {
    enum { LEN = 50000 };
    static u32 v[LEN];
    u64 c = 0;
    begin();
    while (n--) {
        for (int i = 0; i < LEN; i++) v[i] = rnd();
        qsort(v, LEN, sizeof *v, by_value);
        for (int i = 1; i < LEN; i++) CHECK(v[i - 1] <= v[i]);
        c = mixin(c, v[LEN / 2]);
    }
    end();
    return c;
}

WORKLOAD(sieve) {
    static u8 composite[1 << 18];
    u64 count = 0;
    begin();
    for (; n; n--) {
        memset(composite, 0, sizeof composite);
        for (u32 i = 2; i < sizeof composite; i++) {
            if (composite[i]) continue;
            count++;
            for (u32 j = i * 2; j < sizeof composite; j += i) composite[j] = 1;
        }
    }
    end();
    return count;
}
