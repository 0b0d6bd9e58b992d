// Floating point. Compiled without contraction, so that every machine rounds alike; `horner` asks for fused operations.
#include "engine.h"
#include <math.h>

static u64 bits(double v) {
    u64 b;
    memcpy(&b, &v, sizeof b);
    return b;
}

static double unit(void) { return (double)rnd() / 2147483648.0 - 0.5; }

// Five bodies, gravity, one step after the other.
WORKLOAD(nbody) {
    enum { BODIES = 5 };
    struct { double x[3], v[3], m; } b[BODIES];
    for (int i = 0; i < BODIES; i++) {
        for (int k = 0; k < 3; k++) b[i].x[k] = unit() * 10, b[i].v[k] = unit();
        b[i].m = 0.1 + unit() * unit();
    }
    begin();
    while (n--) {
        for (int i = 0; i < BODIES; i++)
            for (int j = i + 1; j < BODIES; j++) {
                double d[3], sq = 0.01;
                for (int k = 0; k < 3; k++) d[k] = b[i].x[k] - b[j].x[k], sq += d[k] * d[k];
                double pull = 0.001 / (sq * sqrt(sq));
                for (int k = 0; k < 3; k++) b[i].v[k] -= d[k] * b[j].m * pull, b[j].v[k] += d[k] * b[i].m * pull;
            }
        for (int i = 0; i < BODIES; i++)
            for (int k = 0; k < 3; k++) b[i].x[k] += 0.001 * b[i].v[k];
    }
    end();
    u64 c = 0;
    for (int i = 0; i < BODIES; i++) c = mixin(c, bits(b[i].x[0]));
    return c;
}

WORKLOAD(matmul) {
    enum { SIZE = 128 };
    static double a[SIZE][SIZE], b[SIZE][SIZE], m[SIZE][SIZE];
    for (int i = 0; i < SIZE; i++)
        for (int j = 0; j < SIZE; j++) a[i][j] = unit(), b[i][j] = unit();
    begin();
    for (; n; n--) {
        for (int i = 0; i < SIZE; i++)
            for (int j = 0; j < SIZE; j++) {
                double s = 0;
                for (int k = 0; k < SIZE; k++) s += a[i][k] * b[k][j];
                m[i][j] = s;
            }
        a[n % SIZE][3] += m[5][n % SIZE];
    }
    end();
    u64 c = 0;
    for (int i = 0; i < SIZE; i++) c = mixin(c, bits(m[i][i]));
    return c;
}

// 2^12 points, radix 2, in place; there and back again.
enum { POINTS = 1 << 12 };
static double re[POINTS], im[POINTS], wr[POINTS], wi[POINTS];
static void fft(void) {
    for (u32 i = 1, j = 0; i < POINTS; i++) {
        u32 bit = POINTS >> 1;
        for (; j & bit; bit >>= 1) j ^= bit;
        j ^= bit;
        if (i >= j) continue;
        double t = re[i];
        re[i] = re[j], re[j] = t;
        t = im[i];
        im[i] = im[j], im[j] = t;
    }
    for (int half = 1; half < POINTS; half *= 2)
        for (int at = 0; at < POINTS; at += 2 * half)
            for (int k = 0; k < half; k++) {
                int p = at + k, q = p + half, w = k * (POINTS / 2 / half);
                double x = re[q] * wr[w] - im[q] * wi[w], y = re[q] * wi[w] + im[q] * wr[w];
                re[q] = re[p] - x, im[q] = im[p] - y;
                re[p] += x, im[p] += y;
            }
}
WORKLOAD(fft) {
    // The turns by repeated multiplication: libraries need not agree on a sine's last bit.
    double c = 1, s = 0, step_c = sqrt(1 - 0x1.921fb4d12d84ap-10 * 0x1.921fb4d12d84ap-10), step_s = 0x1.921fb4d12d84ap-10;
    for (int i = 0; i < POINTS; i++) {
        re[i] = unit(), im[i] = unit(), wr[i] = c, wi[i] = s;
        double t = c * step_c - s * step_s;
        s = c * step_s + s * step_c, c = t;
    }
    begin();
    while (n--) {
        fft();
        for (int i = 0; i < POINTS; i++) re[i] *= 1.0 / 64, im[i] *= -1.0 / 64;
    }
    end();
    u64 sum = 0;
    for (int i = 0; i < POINTS; i += 31) sum = mixin(sum, bits(re[i]));
    return sum;
}

// Between integers and both widths of floats, values in range.
WORKLOAD(convert) {
    u64 c = 0;
    int64_t v = 12345;
    begin();
    for (u64 i = 0; i < n; i++) {
        double d = (double)v * 1.25;
        float f = (float)(int)(d * 0.001);
        int64_t w = (int64_t)d + (int64_t)f;
        u32 u = (u32)((double)(float)d * 0.5 + 0.5);
        c += u;
        v = (w ^ (int64_t)(c & 0xffff)) & 0x3fffffff;
    }
    end();
    return mixin(c, (u64)v);
}

// Polynomials by fused multiply and add, in both widths.
#ifdef __x86_64__
__attribute__((target("fma")))
#endif
WORKLOAD(horner) {
    double k[8], sum = 0;
    float kf[8], sumf = 0;
    for (int i = 0; i < 8; i++) k[i] = unit(), kf[i] = (float)unit();
    begin();
    for (u64 i = 0; i < n; i++) {
        double x = (double)(i & 1023) / 1024, p = k[0];
        float xf = (float)x, pf = kf[0];
        for (int j = 1; j < 8; j++) p = __builtin_fma(p, x, k[j]), pf = __builtin_fmaf(pf, xf, kf[j]);
        sum += p, sumf += pf * 0.001f;
    }
    end();
    return mixin(bits(sum), bits(sumf));
}
