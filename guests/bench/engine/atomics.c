// Atomics that nobody else wants: add, exchange, compare and exchange, or; one of each a turn, on two widths.
#include "engine.h"

WORKLOAD(atomics) {
    static u64 a, b;
    static u32 narrow;
    u64 c = 0;
    begin();
    for (u64 i = 0; i < n / 4; i++) {
        c += __atomic_fetch_add(&a, i, __ATOMIC_SEQ_CST);
        c ^= __atomic_exchange_n(&b, c, __ATOMIC_ACQ_REL);
        u64 seen = __atomic_load_n(&a, __ATOMIC_RELAXED);
        c += __atomic_compare_exchange_n(&a, &seen, seen ^ 3, 0, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
        c += __atomic_fetch_or(&narrow, (u32)i, __ATOMIC_RELAXED) & 1;
    }
    end();
    return mixin(c, a ^ b ^ narrow);
}
