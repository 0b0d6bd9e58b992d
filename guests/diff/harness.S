# The part of a differential program that is the same in every one: it runs slot after slot and logs all that each
# changed. The generator (tests/src/diff) lays code, descriptors and lists around it; the numbers below come from
# tests/src/diff/layout.rs as -D options.
#
# One slot:
#   1. operands: up to four registers get new values (their old ones go to the record, so that nothing is lost)
#   2. the descriptor's "before" list: CSRs written through the stubs
#   3. all registers, fcsr, mstatus, mepc; mret into the slot
#   4. whatever happens, it ends in a trap to M mode: of its own, or of the c.ebreak that fills all code
#   5. the record: registers, trap CSRs; the descriptor's "after" list; 64 bytes of memory
#
# Nothing of the slot is trusted: no register survives it, and mscratch is only used between two instructions.

        .option norelax
        .option norvc
        .section .text
        .globl _start
_start:
        lla     t0, trap
        csrw    mtvec, t0
        csrw    mie, zero
        csrw    satp, zero
        csrw    medeleg, zero
        csrw    mideleg, zero
        li      t0, S_TRAP
        csrw    stvec, t0
        li      t0, MTIMECMP
        li      t1, -1
        sd      t1, 0(t0)
        csrw    pmpaddr0, t1
        li      t0, 0x1f
        csrw    pmpcfg0, t0
        li      t0, 0x6000
        csrs    mstatus, t0
        lla     s1, context
        li      s0, LOG
        li      s2, DESCRIPTORS
        sd      s2, 8(s1)
        li      t0, SLOTS
        ld      t0, 0(t0)
        sd      t0, 16(s1)
        j       next

        .balign 64
trap:
        csrw    mscratch, sp
        lla     sp, context
        ld      sp, 0(sp)
        sd      x1, 8(sp)
        .irp    r, 3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
        sd      x\r, 8*\r(sp)
        .endr
        mv      s0, sp
        csrr    t0, mscratch
        sd      t0, 16(s0)
        csrr    t0, mstatus
        csrr    t1, mcause
        csrr    t2, mtval
        csrr    t3, mepc
        sd      t0, 512(s0)
        sd      t1, 520(s0)
        sd      t2, 528(s0)
        sd      t3, 536(s0)
        li      t0, 0x6000
        csrs    mstatus, t0
        csrr    t0, fcsr
        csrr    t1, sepc
        csrr    t2, scause
        csrr    t3, stval
        sd      t0, 544(s0)
        sd      t1, 552(s0)
        sd      t2, 560(s0)
        sd      t3, 568(s0)
        csrr    t0, mie
        csrr    t1, mip
        csrr    t2, satp
        sd      t0, 576(s0)
        sd      t1, 584(s0)
        sd      t2, 592(s0)
        csrw    mie, zero
        .irp    r, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
        fsd     f\r, 256+8*\r(s0)
        .endr
        lla     s1, context
        ld      s2, 8(s1)
        ld      s3, 80(s2)
        beqz    s3, 1f
        jal     run_list
        # Not before: memory protection that matches a part of an access refuses it even to M mode.
1:ld      t1, 24(s2)
        .irp    r, 0,8,16,24,32,40,48,56
        ld      t0, \r(t1)
        sd      t0, 632+\r(s0)
        .endr
        ld      s4, 16(s1)
        sd      s4, 0(s0)
        addi    s4, s4, -1
        sd      s4, 16(s1)
        addi    s2, s2, DESCRIPTOR
        sd      s2, 8(s1)
        beqz    s4, done

# s0 is the record before, s1 the context, s2 the descriptor.
next:
        addi    s5, s0, RECORD
        sd      s5, 0(s1)
        .irp    i, 0,1,2,3
        lhu     t1, 32+2*\i(s2)
        add     t1, t1, s0
        ld      t2, 0(t1)
        sd      t2, 600+8*\i(s5)
        ld      t3, 40+8*\i(s2)
        sd      t3, 0(t1)
        .endr
        # What an earlier trap left is no part of this slot.
        csrw    mcause, zero
        csrw    mtval, zero
        csrw    sepc, zero
        csrw    scause, zero
        csrw    stval, zero
        ld      s3, 72(s2)
        beqz    s3, 1f
        jal     run_list
1:      ld      t0, 0(s2)
        csrw    mepc, t0
        ld      t0, 8(s2)
        sd      t0, RECORD-8(s5)
        .irp    r, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
        fld     f\r, 256+8*\r(s0)
        .endr
        ld      t0, 16(s2)
        csrw    fcsr, t0
        # No reservation outlives a slot.
        addi    t0, s1, 32
        sc.w    zero, zero, (t0)
        mv      sp, s0
        ld      t0, 16(sp)
        csrw    mscratch, t0
        ld      x1, 8(sp)
        .irp    r, 3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
        ld      x\r, 8*\r(sp)
        .endr
        # From here on, mstatus may give loads another meaning.
        ld      sp, 2*RECORD-8(sp)
        csrw    mstatus, sp
        csrrw   sp, mscratch, zero
        mret

# Runs the list at s3: pairs of a stub's address and the value for it in t0, ended by 0.
run_list:
        mv      s6, ra
1:      ld      t1, 0(s3)
        beqz    t1, 2f
        ld      t0, 8(s3)
        addi    s3, s3, 16
        jalr    ra, t1
        j       1b
2:      jr      s6

done:
        li      t0, FINISHER
        li      t1, 0x5555
        sw      t1, 0(t0)
3:      j       3b

        .balign 64
context:
        .dword  0, 0, 0, 0, 0, 0, 0, 0
