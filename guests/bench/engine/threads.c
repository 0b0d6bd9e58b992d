// How two threads scale: the integer mix in one thread, and in each of two.
#include "engine.h"
#include <pthread.h>

struct job { u64 rounds, sum; int cpu; };

static void *work(void *p) {
    struct job *j = p;
    pin(j->cpu);
    j->sum = core_mix(j->rounds, 1);
    return 0;
}

static u64 in_threads(u64 n, int threads) {
    struct job j[2] = {{n, 0, 0}, {n, 0, 1}};
    pthread_t t[2];
    begin();
    for (int i = 0; i < threads; i++) CHECK(pthread_create(&t[i], 0, work, &j[i]) == 0);
    for (int i = 0; i < threads; i++) pthread_join(t[i], 0);
    end();
    for (int i = 0; i < threads; i++) CHECK(j[i].sum == j[0].sum);
    return j[0].sum;
}

WORKLOAD(thread1) { return in_threads(n, 1); }
WORKLOAD(thread2) { return in_threads(n, 2); }
