// The only program of a Linux guest whose machine changes hosts. One thread writes to some pages all the time, and looks
// whether each is as it left it; the other one looks at many more, which stay as they are, and at the clock, and prints
//     turns N rounds R checked C late L
// ten times a second: N grows by one, R is how often the first has been through its pages, C how many of the others have been
// looked at, L the longest time between two looks at the clock, in milliseconds. If something is not as it was it prints
// "turns wrong" and what, for ever.
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define WORDS 512
#define WRITTEN 768
#define KEPT 4096

static uint64_t written[WRITTEN][WORDS] __attribute__((aligned(4096)));
static uint64_t kept[KEPT][WORDS] __attribute__((aligned(4096)));
static _Atomic uint64_t rounds;

static void wrong(const char *what, uint64_t page, uint64_t has, uint64_t wants) {
    for (;;) {
        printf("turns wrong: %s, %llu has %llx and not %llx\n", what, (unsigned long long)page,
               (unsigned long long)has, (unsigned long long)wants);
        fflush(stdout);
        sleep(1);
    }
}

// What belongs to a place at a time: no two are the same, and nothing of it can be compressed.
static uint64_t mix(uint64_t place, uint64_t time) {
    uint64_t z = place * 0x9e3779b97f4a7c15 + time * 0xd1342543de82ef95 + 1;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

static void *writes(void *nothing) {
    for (uint64_t round = 1;; round++) {
        for (uint64_t page = 0; page < WRITTEN; page++) {
            uint64_t *word = &written[page][(page + round) % WORDS], *last = &written[page][(page + round - 1) % WORDS];
            uint64_t wants = round > 1 ? mix(page, round - 1) : 0;
            if (*(volatile uint64_t *)last != wants)
                wrong("a page that is written to", page, *last, wants);
            *(volatile uint64_t *)word = mix(page, round);
        }
        atomic_store(&rounds, round);
        usleep(1000);
    }
    return nothing;
}

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

int main(void) {
    pthread_t writer;
    for (uint64_t page = 0; page < KEPT; page++)
        for (uint64_t i = 0; i < WORDS; i++)
            kept[page][i] = mix(page * WORDS + i, 0);
    if (pthread_create(&writer, NULL, writes, NULL)) {
        perror("a thread");
        return 1;
    }
    uint64_t last = now(), late = 0, checked = 0, due = last;
    for (uint64_t turn = 1;;) {
        uint64_t page = checked++ % KEPT;
        for (uint64_t i = 0; i < WORDS; i++)
            if (((volatile uint64_t *)kept[page])[i] != mix(page * WORDS + i, 0))
                wrong("a page that stays", page, kept[page][i], mix(page * WORDS + i, 0));
        uint64_t t = now();
        if (t < last)
            wrong("the clock", 0, t, last);
        late = t - last > late ? t - last : late;
        last = t;
        if (t >= due) {
            printf("turns %llu rounds %llu checked %llu late %llu\n", (unsigned long long)turn++,
                   (unsigned long long)atomic_load(&rounds), (unsigned long long)checked, (unsigned long long)late / 1000);
            fflush(stdout);
            due = t + 100000;
        }
        if (checked % 8 == 0)
            usleep(1000);
    }
}
