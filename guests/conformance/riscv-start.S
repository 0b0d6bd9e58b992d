# Start of the RISC-V program: M mode, a0 processor, a1 scenario.
        .section .text.start, "ax"
        .globl  _start
        .option push
        .option norvc
_start: j       1f
        .balign 8
        .dword  shared_words
        .option pop
1:      .option push
        .option norelax
        lla     gp, __global_pointer$
        .option pop
        lla     sp, stacks
        addi    t0, a0, 1
        slli    t0, t0, 14
        add     sp, sp, t0
        lla     t0, trap_entry
        csrw    mtvec, t0
        call    guest_main
2:      j       2b

        .balign 4
trap_entry:
        addi    sp, sp, -128
        .set    at, 0
        .irp    r, 1,5,6,7,10,11,12,13,14,15,16,17,28,29,30,31
        sd      x\r, at(sp)
        .set    at, at + 8
        .endr
        call    trap
        .set    at, 0
        .irp    r, 1,5,6,7,10,11,12,13,14,15,16,17,28,29,30,31
        ld      x\r, at(sp)
        .set    at, at + 8
        .endr
        addi    sp, sp, 128
        mret

        .section .bss
        .balign 16
stacks: .skip   2 * 0x4000
