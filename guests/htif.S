# Ends through HTIF with the code 7.
        .section .text.start
        .globl _start
_start: lla     t0, tohost
        li      t1, 15
1:      sd      t1, 0(t0)
        j       1b
        .section .data
        .balign 64
        .globl  tohost
        .type   tohost, @object
        .size   tohost, 8
tohost: .dword  0
        .balign 64
        .globl  fromhost
        .type   fromhost, @object
        .size   fromhost, 8
fromhost: .dword 0
