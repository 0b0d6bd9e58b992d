// Straight-line arithmetic: SHA-256 (FIPS 180-4), and 64-bit multiplication and division.
#include "engine.h"

#define ROR(v, n) ((v) >> (n) | (v) << (32 - (n)))
static u32 k256[64], h256[8];

// The constants are the first 32 bits behind the point of square roots and cube roots of primes.
static u32 root_fraction(u32 p, int cube) {
    u64 root = 0; // times 2^32, found bit by bit; below 2^37, so that its cube fits
    for (int b = 36; b >= 0; b--) {
        unsigned __int128 t = root | (u64)1 << b, power = cube ? t * t * t : t * t;
        if (power <= (unsigned __int128)p << (cube ? 96 : 64)) root = (u64)t;
    }
    return (u32)root;
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

static void sha_block(u32 *h, const u8 *p) {
    u32 w[64], a = h[0], b = h[1], c = h[2], d = h[3], e = h[4], f = h[5], g = h[6], k = h[7];
    for (int i = 0; i < 16; i++)
        w[i] = (u32)p[4 * i] << 24 | (u32)p[4 * i + 1] << 16 | (u32)p[4 * i + 2] << 8 | p[4 * i + 3];
    for (int i = 16; i < 64; i++) {
        u32 x = w[i - 15], y = w[i - 2];
        w[i] = w[i - 16] + w[i - 7] + (ROR(x, 7) ^ ROR(x, 18) ^ x >> 3) + (ROR(y, 17) ^ ROR(y, 19) ^ y >> 10);
    }
    for (int i = 0; i < 64; i++) {
        u32 t1 = k + (ROR(e, 6) ^ ROR(e, 11) ^ ROR(e, 25)) + ((e & f) ^ (~e & g)) + k256[i] + w[i];
        u32 t2 = (ROR(a, 2) ^ ROR(a, 13) ^ ROR(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
        k = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
    }
    h[0] += a, h[1] += b, h[2] += c, h[3] += d, h[4] += e, h[5] += f, h[6] += g, h[7] += k;
}

WORKLOAD(sha256) {
    u8 message[64] = {'a', 'b', 'c', 0x80, [63] = 24}; // "abc", from the standard's own examples
    u32 h[8];
    sha_setup();
    memcpy(h, h256, sizeof h);
    sha_block(h, message);
    CHECK(h[0] == 0xba7816bf && h[7] == 0xf20015ad);
    begin();
    for (u64 i = 0; i < n; i++) {
        message[i & 63] ^= (u8)h[i & 7];
        sha_block(h, message);
    }
    end();
    return (u64)h[0] << 32 | h[7];
}

// One multiplication, one high multiplication, one division and one remainder, signed and not, a step.
WORKLOAD(muldiv) {
    u64 a = 0x0123456789abcdef, c = 1;
    begin();
    for (u64 i = 1; i <= n; i++) {
        a = a * 6364136223846793005u + i;
        u64 high = (u64)((unsigned __int128)a * c >> 64);
        u64 by = (a >> (i & 31)) | 1;
        c += high / by + c % by;
        c ^= (u64)((int64_t)a / (int64_t)(by | 2));
    }
    end();
    return mixin(a, c);
}
