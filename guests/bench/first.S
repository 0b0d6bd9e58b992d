# The shortest guest of x86-64: an ELF kernel with a PVH entry, whose first instructions print a byte on the first serial
# port; then it waits for ever.
        .section .note.pvh, "a", @note
        .long   4, 4, 18
        .asciz  "Xen"
        .long   _start
        .text
        .code32
        .globl  _start
_start: movw    $0x3f8, %dx
        movb    $'!', %al
        outb    %al, %dx
1:      cli
        hlt
        jmp     1b
