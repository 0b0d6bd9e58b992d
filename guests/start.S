# Start of every C guest: hart 0 clears bss and runs guest_main(0); the others wait for `release` and run it with their
# own number. What guest_main of hart 0 returns is the guest's end: 0 is good, else the number of the check that failed.
        .section .text.start
        .globl _start
_start:
        .option push
        .option norelax
        lla     gp, __global_pointer$
        .option pop
        csrr    s0, mhartid
        li      t0, 0x6000
        csrs    mstatus, t0
        lla     t0, trap_entry
        csrw    mtvec, t0
        lla     sp, __stacks
        addi    t1, s0, 1
        slli    t1, t1, 14
        add     sp, sp, t1
        bnez    s0, 3f
        lla     t0, __bss_start
        lla     t1, __bss_end
1:      bgeu    t0, t1, 2f
        sd      zero, 0(t0)
        addi    t0, t0, 8
        j       1b
2:      li      a0, 0
        call    guest_main
        call    finish
3:      lla     t0, release
4:      lw      t1, 0(t0)
        beqz    t1, 4b
        fence   r, rw
        mv      a0, s0
        call    guest_main
5:      wfi
        j       5b

        .globl  finish
finish: li      t0, 0x100000
        li      t1, 0x5555
        beqz    a0, 1f
        slli    t1, a0, 16
        li      t2, 0x3333
        or      t1, t1, t2
1:      sw      t1, 0(t0)
2:      j       2b

# All traps to M mode: registers to the stack of M mode in mscratch, then the C function trap(frame).
# A guest that runs S or U mode sets mscratch to the top of a stack; in M mode, sp is used as it is.
        .balign 64
        .globl  trap_entry
trap_entry:
        csrrw   sp, mscratch, sp
        bnez    sp, 1f
        csrr    sp, mscratch
1:      addi    sp, sp, -272
        .irp    r, 1,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
        sd      x\r, 8*\r(sp)
        .endr
        csrr    t0, mscratch
        sd      t0, 16(sp)
        csrw    mscratch, zero
        csrr    t0, mepc
        sd      t0, 256(sp)
        mv      a0, sp
        call    trap
        ld      t0, 256(sp)
        csrw    mepc, t0
        addi    t1, sp, 272
        csrr    t0, mstatus
        srli    t0, t0, 11
        andi    t0, t0, 3
        addi    t0, t0, -3
        beqz    t0, 2f
        csrw    mscratch, t1
2:      .irp    r, 1,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
        ld      x\r, 8*\r(sp)
        .endr
        ld      sp, 16(sp)
        mret

        .section .data
        .balign 4
        .globl  release
release: .word  0
