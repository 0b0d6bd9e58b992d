// What the scenarios need of an instruction set. x86.c and riscv.c provide it; scenarios.c knows no more.
#pragma once
typedef unsigned long u64;
typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned char u8;

// The harness's device: see tests/src/conformance/device.rs.
#define DEVICE 0xd0000000UL
#define REG(T, offset) (*(volatile T *)(DEVICE + (offset)))
#define END 0x00      // the scenario has ended: 0 well, else the line of the check that failed
#define PROGRESS 0x08 // how far it has come, for the host to read
#define ECHO 0x10     // eight bytes that read as they were written
#define LINE 0x20     // level of the device's interrupt line
#define DMA 0x28      // the device fills the page at this address
#define DOORBELL 0x50 // told to a descriptor

void finish(u64 code) __attribute__((noreturn));
#define CHECK(c) do { if (!(c)) finish(__LINE__); } while (0)

// Traps that are not interrupts: what kind the last one was, and how many there were. Execution goes on behind it.
enum { ILLEGAL = 1, CALL, ACCESS, OTHER };
extern volatile u64 trap_kind, trap_count;
void do_illegal(void), do_call(void), do_access(void);

// Interrupts, counted by processor.
enum { TIMER, IPI, EXTERNAL, KINDS };
extern volatile u64 interrupts[2][KINDS];
void isa_init(u64 cpu);
void interrupts_on(void), interrupts_off(void);
// Called with interrupts off: sleeps until one comes, and lets it in. They are on afterwards.
void wait_for_interrupt(void);
void timer_in(u64 ns);
u64 now_ns(void); // 0 where the guest has no clock in nanoseconds
void send_ipi(u64 cpu);
// The device's line, by level (the handler lowers it) or by edge, where there are edges.
void external_on(int level);
// Every further way out of guest code that this instruction set has; gives a number that says that all went well.
u64 other_exits(u64 seed);
