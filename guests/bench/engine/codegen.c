// Writing code and calling it, as a just-in-time compiler does: a page of small functions, in each turn one of them
// written anew (its sum has other terms), made visible, and called. The instruction set is that of the machine.
#include "engine.h"
#include <sys/mman.h>

enum { FUNCTIONS = 16, TERMS = 12, ROOM = 128 };
typedef u64 (*function)(u64);

// f(x) = x + t[0] + t[1] + ...; terms are below 2^11.
static void compile(u8 *at, const u32 *t) {
#if defined __riscv
    u32 *w = (u32 *)at;
    for (int i = 0; i < TERMS; i++) *w++ = 0x00050513 | t[i] << 20; // addi a0, a0, t
    *w = 0x00008067;                                                // ret
#elif defined __x86_64__
    static const u8 mov[] = {0x48, 0x89, 0xf8}, add[] = {0x48, 0x05}; // mov rax, rdi; add rax, imm32
    memcpy(at, mov, sizeof mov);
    at += sizeof mov;
    for (int i = 0; i < TERMS; i++, at += 6) memcpy(at, add, sizeof add), memcpy(at + 2, &t[i], 4);
    *at = 0xc3; // ret
#else
#error no variant for this instruction set
#endif
}

WORKLOAD(codegen) {
    u8 *code = mmap(0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(code != MAP_FAILED);
    u64 c = 0;
    begin();
    for (u64 i = 0; i < n; i++) {
        u32 t[TERMS];
        for (int k = 0; k < TERMS; k++) t[k] = rnd() & 0x3ff;
        u8 *at = code + i % FUNCTIONS * ROOM;
        compile(at, t);
        __builtin___clear_cache((char *)at, (char *)at + ROOM);
        for (int k = 0; k < 8; k++) c = mixin(c, ((function)(void *)at)(c));
    }
    end();
    return c;
}
