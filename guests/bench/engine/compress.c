// A packer: matches found by a hash of three bytes (LZ77), then a canonical code for literals and lengths (Huffman).
#include "engine.h"

enum { LEN = 1 << 18, WINDOW = 1 << 15, SYMBOLS = 512, MAX_MATCH = 130 };
static u8 text[LEN + 8], back[LEN + 8], packed[LEN * 2];
static u16 token[LEN], distance[LEN];
static u32 tokens;

// Words of a small vocabulary, the frequent ones oftener, so that there is something to find.
static void write_text(void) {
    static char words[256][12];
    for (int i = 0; i < 256; i++) {
        u32 len = 2 + rnd() % 9;
        for (u32 j = 0; j < len; j++) words[i][j] = (char)('a' + rnd() % 26);
    }
    for (u32 at = 0; at < LEN;) {
        u32 a = rnd() & 255, b = rnd() & 255;
        for (const char *w = words[a & b]; *w && at < LEN; w++) text[at++] = (u8)*w;
        if (at < LEN) text[at++] = ' ';
    }
}

static void find_matches(void) {
    static int head[1 << 14], prev[WINDOW];
    memset(head, -1, sizeof head);
    tokens = 0;
    for (int at = 0; at < LEN;) {
        int best = 0, from = 0;
        u32 h = (text[at] | (u32)text[at + 1] << 8 | (u32)text[at + 2] << 16) * 2654435761u >> 18;
        for (int c = head[h], tries = 16; c >= 0 && at - c < WINDOW && tries--; c = prev[c % WINDOW]) {
            int len = 0;
            while (len < MAX_MATCH && at + len < LEN && text[c + len] == text[at + len]) len++;
            if (len > best) best = len, from = at - c;
        }
        prev[at % WINDOW] = head[h];
        head[h] = at;
        if (best < 4) best = 1, token[tokens] = text[at];
        else token[tokens] = (u16)(256 + best), distance[tokens] = (u16)from;
        tokens++;
        at += best;
    }
}

// Code lengths by joining the two rarest again and again.
static void code_lengths(const u32 *often, u8 *length) {
    static u32 weight[2 * SYMBOLS], parent[2 * SYMBOLS];
    u32 nodes = SYMBOLS;
    for (u32 i = 0; i < SYMBOLS; i++) weight[i] = often[i];
    for (;;) {
        u32 a = 0, b = 0; // node number + 1
        for (u32 i = 0; i < nodes; i++) {
            if (!weight[i]) continue;
            if (!a || weight[i] < weight[a - 1]) b = a, a = i + 1;
            else if (!b || weight[i] < weight[b - 1]) b = i + 1;
        }
        if (!b) break;
        weight[nodes] = weight[a - 1] + weight[b - 1];
        weight[a - 1] = weight[b - 1] = 0;
        parent[a - 1] = parent[b - 1] = nodes++;
    }
    for (u32 i = 0; i < SYMBOLS; i++) {
        length[i] = 0;
        for (u32 at = i; often[i] && at != nodes - 1; at = parent[at]) length[i]++;
    }
}

// Canonical codes, by length and then by symbol; `first` and `order` are what decoding needs.
struct code { u8 length[SYMBOLS]; u32 bits[SYMBOLS], first[34], start[34], order[SYMBOLS]; };
static void assign(struct code *k) {
    u32 next = 0, placed = 0;
    for (u8 len = 1; len < 33; len++) {
        k->first[len] = next, k->start[len] = placed;
        for (u32 s = 0; s < SYMBOLS; s++)
            if (k->length[s] == len) k->bits[s] = next++, k->order[placed++] = s;
        next <<= 1;
    }
    k->start[33] = placed;
}

static u64 hold;
static u32 held, at_bit;
static void put(u32 v, u32 bits) {
    hold = hold << bits | v;
    for (held += bits; held >= 8; held -= 8) packed[at_bit++] = (u8)(hold >> (held - 8));
}
static u32 get(void) {
    u32 b = packed[at_bit >> 3] >> (7 - (at_bit & 7)) & 1;
    at_bit++;
    return b;
}

static u32 encode(struct code *k) {
    u32 often[SYMBOLS] = {0};
    for (u32 i = 0; i < tokens; i++) often[token[i]]++;
    code_lengths(often, k->length);
    assign(k);
    hold = held = at_bit = 0;
    for (u32 i = 0; i < tokens; i++) {
        put(k->bits[token[i]], k->length[token[i]]);
        if (token[i] > 256) put(distance[i], 15);
    }
    put(0, 16);
    return at_bit;
}

static void decode(const struct code *k) {
    at_bit = 0;
    for (u32 at = 0; at < LEN;) {
        u32 v = get(), len = 1;
        while (v - k->first[len] >= k->start[len + 1] - k->start[len]) v = v << 1 | get(), len++;
        u32 s = k->order[k->start[len] + v - k->first[len]], from = 0;
        if (s < 256) { back[at++] = (u8)s; continue; }
        for (int i = 0; i < 15; i++) from = from << 1 | get();
        for (u32 i = s - 256; i; i--, at++) back[at] = back[at - from];
    }
}

WORKLOAD(compress) {
    static struct code k;
    u64 c = 0;
    write_text();
    begin();
    while (n--) {
        find_matches();
        u32 size = encode(&k);
        decode(&k);
        CHECK(memcmp(text, back, LEN) == 0 && size < LEN / 2);
        c = mixin(c, size);
        text[n * 97 % LEN] ^= 1;
    }
    end();
    for (u32 i = 0; i < LEN; i += 61) c = mixin(c, packed[i]);
    return c;
}
