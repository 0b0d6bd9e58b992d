# Start of the x86-64 program: from 32-bit protected mode (EAX processor, EBX scenario) to 64-bit mode on a stack of its
# own, with the first 4 GiB mapped to themselves. Every processor makes the same page tables.
        .section .text.start, "ax"
        .code32
        .globl  _start
_start: jmp     1f
        .balign 8
        .quad   shared_words
1:      cli
        cld
        movl    %eax, %ebp
        # Four directories of 512 large pages each.
        movl    $pd, %edi
        movl    $0x83, %eax
        movl    $2048, %ecx
2:      movl    %eax, (%edi)
        movl    $0, 4(%edi)
        addl    $0x200000, %eax
        addl    $8, %edi
        loop    2b
        movl    $pdpt, %edi
        movl    $pd + 3, %eax
        movl    $4, %ecx
3:      movl    %eax, (%edi)
        movl    $0, 4(%edi)
        addl    $0x1000, %eax
        addl    $8, %edi
        loop    3b
        movl    $pdpt + 3, pml4
        movl    $0, pml4 + 4
        movl    $pml4, %eax
        movl    %eax, %cr3
        movl    $0x20, %eax             # PAE
        movl    %eax, %cr4
        movl    $0xc0000080, %ecx       # EFER: long mode
        movl    $0x100, %eax
        xorl    %edx, %edx
        wrmsr
        movl    $0x80000011, %eax       # PG, ET, PE
        movl    %eax, %cr0
        lgdt    gdt_pointer
        ljmp    $8, $4f
        .code64
4:      movl    $16, %eax
        movl    %eax, %ds
        movl    %eax, %es
        movl    %eax, %ss
        xorl    %eax, %eax
        movl    %eax, %fs
        movl    %eax, %gs
        movl    %ebp, %edi
        movl    %ebx, %esi
        movl    %ebp, %ecx
        shll    $14, %ecx
        leaq    stacks + 0x4000(%rcx), %rsp
        lidt    idt_pointer
        call    guest_main
5:      jmp     5b

# One stub a vector: what the processor does not push, the vector, then the common part.
        .balign 16
        .globl  stubs
stubs:  .set    vector, 0
        .rept   128
        .balign 16
        .if     (vector != 8) && (vector != 17) && ((vector < 10) || (vector > 14))
        pushq   $0
        .endif
        pushq   $vector
        jmp     common
        .set    vector, vector + 1
        .endr
common: .irp    r, rax,rbx,rcx,rdx,rsi,rdi,rbp,r8,r9,r10,r11,r12,r13,r14,r15
        pushq   %\r
        .endr
        movq    %rsp, %rdi
        call    trap
        .irp    r, r15,r14,r13,r12,r11,r10,r9,r8,rbp,rdi,rsi,rdx,rcx,rbx,rax
        popq    %\r
        .endr
        addq    $16, %rsp
        iretq

        .section .data
        .balign 8
gdt:    .quad   0, 0x00af9b000000ffff, 0x00cf93000000ffff
gdt_pointer:
        .word   23
        .quad   gdt
idt_pointer:
        .word   128 * 16 - 1
        .quad   idt
        .section .bss
        .balign 4096
pml4:   .skip   4096
pdpt:   .skip   4096
pd:     .skip   4 * 4096
stacks: .skip   2 * 0x4000
