// An interpreter: a register machine whose loop jumps through a table for every instruction, running a small program.
#include "engine.h"

enum { LOAD, ADD, SUB, MUL, XOR, SHR, AND, PUT, GET, LESS, BRANCH, JUMP, HALT };
struct insn { u8 op, d, a, b; int imm; };

// for (i = 0; i < limit; i++) { x = x * 5 + i; mem[x & 255] ^= x >> 3; if (mem[i & 255] < x) y += x; else y ^= i; }
static const struct insn code[] = {
    /* 0 */ {LOAD, 0, 0, 0, 0},       // i
    /* 1 */ {LOAD, 1, 0, 0, 7},       // x
    /* 2 */ {LOAD, 2, 0, 0, 0},       // y
    /* 3 */ {LOAD, 4, 0, 0, 5},
    /* 4 */ {LOAD, 5, 0, 0, 255},
    /* 5 */ {LOAD, 6, 0, 0, 1},
    /* 6 */ {LOAD, 9, 0, 0, 3},
    /* 7 */ {MUL, 1, 1, 4, 0},
    /* 8 */ {ADD, 1, 1, 0, 0},
    /* 9 */ {AND, 7, 1, 5, 0},
    /* 10 */ {GET, 8, 7, 0, 0},
    /* 11 */ {SHR, 10, 1, 9, 0},
    /* 12 */ {XOR, 8, 8, 10, 0},
    /* 13 */ {PUT, 8, 7, 0, 0},
    /* 14 */ {AND, 7, 0, 5, 0},
    /* 15 */ {GET, 8, 7, 0, 0},
    /* 16 */ {LESS, 8, 8, 1, 0},
    /* 17 */ {BRANCH, 8, 0, 0, 20},
    /* 18 */ {XOR, 2, 2, 0, 0},
    /* 19 */ {JUMP, 0, 0, 0, 21},
    /* 20 */ {ADD, 2, 2, 1, 0},
    /* 21 */ {ADD, 0, 0, 6, 0},
    /* 22 */ {LESS, 8, 0, 3, 0},
    /* 23 */ {BRANCH, 8, 0, 0, 7},
    /* 24 */ {HALT, 2, 0, 0, 0},
};

static __attribute__((noinline)) u64 interpret(const struct insn *p, u64 limit) {
    static u64 mem[256];
    u64 r[16] = {0};
    r[3] = limit;
    for (const struct insn *i = p;; i++) {
        switch (i->op) {
        case LOAD: r[i->d] = (u64)i->imm; break;
        case ADD: r[i->d] = r[i->a] + r[i->b]; break;
        case SUB: r[i->d] = r[i->a] - r[i->b]; break;
        case MUL: r[i->d] = r[i->a] * r[i->b]; break;
        case XOR: r[i->d] = r[i->a] ^ r[i->b]; break;
        case SHR: r[i->d] = r[i->a] >> (r[i->b] & 63); break;
        case AND: r[i->d] = r[i->a] & r[i->b]; break;
        case PUT: mem[r[i->a] & 255] = r[i->d]; break;
        case GET: r[i->d] = mem[r[i->a] & 255]; break;
        case LESS: r[i->d] = r[i->a] < r[i->b]; break;
        case BRANCH: if (r[i->d]) i = p + i->imm - 1; break;
        case JUMP: i = p + i->imm - 1; break;
        default: return r[i->d];
        }
    }
}

WORKLOAD(interp) {
    begin();
    u64 c = interpret(code, n / 8);
    end();
    return c;
}
