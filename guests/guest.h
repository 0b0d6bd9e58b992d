// What the C guests share: CSRs, traps, modes, checks.
#pragma once
typedef unsigned long u64;
typedef unsigned int u32;
typedef unsigned char u8;

#define CSRR(n) ({ u64 v_; asm volatile("csrr %0, " #n : "=r"(v_)); v_; })
#define CSRW(n, v) asm volatile("csrw " #n ", %0" ::"rK"((u64)(v)) : "memory")
#define CSRS(n, v) asm volatile("csrs " #n ", %0" ::"rK"((u64)(v)) : "memory")
#define CSRC(n, v) asm volatile("csrc " #n ", %0" ::"rK"((u64)(v)) : "memory")
#define MMIO32(a) (*(volatile u32 *)(a))
#define MMIO64(a) (*(volatile u64 *)(a))
#define MMIO8(a) (*(volatile u8 *)(a))

#define CLINT 0x2000000UL
#define MSIP(hart) MMIO32(CLINT + 4 * (hart))
#define MTIMECMP(hart) MMIO64(CLINT + 0x4000 + 8 * (hart))
#define MTIME MMIO64(CLINT + 0xbff8)
#define PLIC 0xc000000UL
#define UART 0x10000000UL

#define INTERRUPT (1UL << 63)
#define MSTATUS_MIE 8UL
#define MSTATUS_MPP (3UL << 11)
#define MSTATUS_MPRV (1UL << 17)
#define MSTATUS_SUM (1UL << 18)
#define MSTATUS_MXR (1UL << 19)

// Ends the guest with the number of the failed check, which is its line.
void finish(u64 code) __attribute__((noreturn));
#define CHECK(c) do { if (!(c)) finish(__LINE__); } while (0)

// The last trap, as trap.c noted it, and how many there were.
extern volatile u64 trap_cause, trap_value, trap_epc, trap_count;
// Where to go on after a trap that is not skipped: 0 is the next instruction.
extern volatile u64 trap_resume;
extern volatile u32 release;

// Calls f(arg) in mode 0 (U) or 1 (S) and comes back to M mode with what it returned. Traps on the way are noted.
u64 call_in(u64 mode, u64 (*f)(u64), u64 arg);

// Tries one access; gives the cause of the trap + 1, or 0.
#define TRY(insns, ...) ({ u64 n_ = trap_count; asm volatile(insns ::__VA_ARGS__ : "memory", "t0"); \
                           trap_count == n_ ? 0 : trap_cause + 1; })
static inline u64 try_load(u64 a) { return TRY(".option push; .option norvc; ld t0, 0(%0); .option pop", "r"(a)); }
static inline u64 try_store(u64 a) { return TRY(".option push; .option norvc; sd zero, 0(%0); .option pop", "r"(a)); }
