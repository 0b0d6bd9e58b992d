//! The 32-bit rows: every instruction of the table that is not compressed.
//!
//! One row is: pattern, variant of [`Op`](super::Op), name, [`Form`](super::Form), [`Ext`](super::Ext),
//! [`Effect`](super::Effect). The pattern is the encoding as *The RISC-V Instruction Set Manual* prints it, bit 31
//! first, so that a reader can lay the two side by side. Letters are fields:
//!
//! ```text
//!   d rd    s rs1    t rs2    u rs3    m rounding mode    a aq    r rl    i immediate, spread as the form says
//! ```
//!
//! A new instruction is a new row, and an arm in `sem.rs` that the compiler then demands. Rows are disjoint, which
//! is proved when the crate compiles; the one exception is named in `REFINES`, and there the earlier row wins.

/// Hands the rows to the macro named.
macro_rules! rows {
    ($then:ident) => { $then! {
        // RV32I and RV64I: integer computation.
        "iiiiiiiiiiiiiiiiiiiiddddd0110111" => Lui           "lui"             U       I           Pure;
        "iiiiiiiiiiiiiiiiiiiiddddd0010111" => Auipc         "auipc"           U       I           Pure;
        "iiiiiiiiiiiisssss000ddddd0010011" => Addi          "addi"            I       I           Pure;
        "iiiiiiiiiiiisssss010ddddd0010011" => Slti          "slti"            I       I           Pure;
        "iiiiiiiiiiiisssss011ddddd0010011" => Sltiu         "sltiu"           I       I           Pure;
        "iiiiiiiiiiiisssss100ddddd0010011" => Xori          "xori"            I       I           Pure;
        "iiiiiiiiiiiisssss110ddddd0010011" => Ori           "ori"             I       I           Pure;
        "iiiiiiiiiiiisssss111ddddd0010011" => Andi          "andi"            I       I           Pure;
        "000000iiiiiisssss001ddddd0010011" => Slli          "slli"            Shift   I           Pure;
        "000000iiiiiisssss101ddddd0010011" => Srli          "srli"            Shift   I           Pure;
        "010000iiiiiisssss101ddddd0010011" => Srai          "srai"            Shift   I           Pure;
        "0000000tttttsssss000ddddd0110011" => Add           "add"             R       I           Pure;
        "0100000tttttsssss000ddddd0110011" => Sub           "sub"             R       I           Pure;
        "0000000tttttsssss001ddddd0110011" => Sll           "sll"             R       I           Pure;
        "0000000tttttsssss010ddddd0110011" => Slt           "slt"             R       I           Pure;
        "0000000tttttsssss011ddddd0110011" => Sltu          "sltu"            R       I           Pure;
        "0000000tttttsssss100ddddd0110011" => Xor           "xor"             R       I           Pure;
        "0000000tttttsssss101ddddd0110011" => Srl           "srl"             R       I           Pure;
        "0100000tttttsssss101ddddd0110011" => Sra           "sra"             R       I           Pure;
        "0000000tttttsssss110ddddd0110011" => Or            "or"              R       I           Pure;
        "0000000tttttsssss111ddddd0110011" => And           "and"             R       I           Pure;
        "iiiiiiiiiiiisssss000ddddd0011011" => Addiw         "addiw"           I       I           Pure;
        "0000000iiiiisssss001ddddd0011011" => Slliw         "slliw"           ShiftW  I           Pure;
        "0000000iiiiisssss101ddddd0011011" => Srliw         "srliw"           ShiftW  I           Pure;
        "0100000iiiiisssss101ddddd0011011" => Sraiw         "sraiw"           ShiftW  I           Pure;
        "0000000tttttsssss000ddddd0111011" => Addw          "addw"            R       I           Pure;
        "0100000tttttsssss000ddddd0111011" => Subw          "subw"            R       I           Pure;
        "0000000tttttsssss001ddddd0111011" => Sllw          "sllw"            R       I           Pure;
        "0000000tttttsssss101ddddd0111011" => Srlw          "srlw"            R       I           Pure;
        "0100000tttttsssss101ddddd0111011" => Sraw          "sraw"            R       I           Pure;

        // RV32I and RV64I: control, memory, order, environment.
        "iiiiiiiiiiiiiiiiiiiiddddd1101111" => Jal           "jal"             J       I           Jump;
        "iiiiiiiiiiiisssss000ddddd1100111" => Jalr          "jalr"            Load    I           JumpTo;
        "iiiiiiitttttsssss000iiiii1100011" => Beq           "beq"             B       I           Branch;
        "iiiiiiitttttsssss001iiiii1100011" => Bne           "bne"             B       I           Branch;
        "iiiiiiitttttsssss100iiiii1100011" => Blt           "blt"             B       I           Branch;
        "iiiiiiitttttsssss101iiiii1100011" => Bge           "bge"             B       I           Branch;
        "iiiiiiitttttsssss110iiiii1100011" => Bltu          "bltu"            B       I           Branch;
        "iiiiiiitttttsssss111iiiii1100011" => Bgeu          "bgeu"            B       I           Branch;
        "iiiiiiiiiiiisssss000ddddd0000011" => Lb            "lb"              Load    I           Load(1);
        "iiiiiiiiiiiisssss001ddddd0000011" => Lh            "lh"              Load    I           Load(2);
        "iiiiiiiiiiiisssss010ddddd0000011" => Lw            "lw"              Load    I           Load(4);
        "iiiiiiiiiiiisssss011ddddd0000011" => Ld            "ld"              Load    I           Load(8);
        "iiiiiiiiiiiisssss100ddddd0000011" => Lbu           "lbu"             Load    I           Load(1);
        "iiiiiiiiiiiisssss101ddddd0000011" => Lhu           "lhu"             Load    I           Load(2);
        "iiiiiiiiiiiisssss110ddddd0000011" => Lwu           "lwu"             Load    I           Load(4);
        "iiiiiiitttttsssss000iiiii0100011" => Sb            "sb"              Store   I           Store(1);
        "iiiiiiitttttsssss001iiiii0100011" => Sh            "sh"              Store   I           Store(2);
        "iiiiiiitttttsssss010iiiii0100011" => Sw            "sw"              Store   I           Store(4);
        "iiiiiiitttttsssss011iiiii0100011" => Sd            "sd"              Store   I           Store(8);

        // PAUSE refines FENCE: it is the fence of W before nothing, with its other fields zero.
        "00000001000000000000000000001111" => Pause         "pause"           Bare    Zihintpause System;
        "iiiiiiiiiiiisssss000ddddd0001111" => Fence         "fence"           Fence   I           Fence;
        "iiiiiiiiiiiisssss001ddddd0001111" => FenceI        "fence.i"         FenceI  Zifencei    System;
        "00000000000000000000000001110011" => Ecall         "ecall"           Bare    I           System;
        "00000000000100000000000001110011" => Ebreak        "ebreak"          Bare    I           System;

        // M: multiplication and division.
        "0000001tttttsssss000ddddd0110011" => Mul           "mul"             R       M           Pure;
        "0000001tttttsssss001ddddd0110011" => Mulh          "mulh"            R       M           Pure;
        "0000001tttttsssss010ddddd0110011" => Mulhsu        "mulhsu"          R       M           Pure;
        "0000001tttttsssss011ddddd0110011" => Mulhu         "mulhu"           R       M           Pure;
        "0000001tttttsssss100ddddd0110011" => Div           "div"             R       M           Pure;
        "0000001tttttsssss101ddddd0110011" => Divu          "divu"            R       M           Pure;
        "0000001tttttsssss110ddddd0110011" => Rem           "rem"             R       M           Pure;
        "0000001tttttsssss111ddddd0110011" => Remu          "remu"            R       M           Pure;
        "0000001tttttsssss000ddddd0111011" => Mulw          "mulw"            R       M           Pure;
        "0000001tttttsssss100ddddd0111011" => Divw          "divw"            R       M           Pure;
        "0000001tttttsssss101ddddd0111011" => Divuw         "divuw"           R       M           Pure;
        "0000001tttttsssss110ddddd0111011" => Remw          "remw"            R       M           Pure;
        "0000001tttttsssss111ddddd0111011" => Remuw         "remuw"           R       M           Pure;

        // A: atomics. `a` is aq, `r` is rl.
        "00010ar00000sssss010ddddd0101111" => LrW           "lr.w"            Lr      A           Reserve(4);
        "00011artttttsssss010ddddd0101111" => ScW           "sc.w"            Amo     A           Conditional(4);
        "00001artttttsssss010ddddd0101111" => AmoswapW      "amoswap.w"       Amo     A           Amo(4);
        "00000artttttsssss010ddddd0101111" => AmoaddW       "amoadd.w"        Amo     A           Amo(4);
        "00100artttttsssss010ddddd0101111" => AmoxorW       "amoxor.w"        Amo     A           Amo(4);
        "01100artttttsssss010ddddd0101111" => AmoandW       "amoand.w"        Amo     A           Amo(4);
        "01000artttttsssss010ddddd0101111" => AmoorW        "amoor.w"         Amo     A           Amo(4);
        "10000artttttsssss010ddddd0101111" => AmominW       "amomin.w"        Amo     A           Amo(4);
        "10100artttttsssss010ddddd0101111" => AmomaxW       "amomax.w"        Amo     A           Amo(4);
        "11000artttttsssss010ddddd0101111" => AmominuW      "amominu.w"       Amo     A           Amo(4);
        "11100artttttsssss010ddddd0101111" => AmomaxuW      "amomaxu.w"       Amo     A           Amo(4);
        "00010ar00000sssss011ddddd0101111" => LrD           "lr.d"            Lr      A           Reserve(8);
        "00011artttttsssss011ddddd0101111" => ScD           "sc.d"            Amo     A           Conditional(8);
        "00001artttttsssss011ddddd0101111" => AmoswapD      "amoswap.d"       Amo     A           Amo(8);
        "00000artttttsssss011ddddd0101111" => AmoaddD       "amoadd.d"        Amo     A           Amo(8);
        "00100artttttsssss011ddddd0101111" => AmoxorD       "amoxor.d"        Amo     A           Amo(8);
        "01100artttttsssss011ddddd0101111" => AmoandD       "amoand.d"        Amo     A           Amo(8);
        "01000artttttsssss011ddddd0101111" => AmoorD        "amoor.d"         Amo     A           Amo(8);
        "10000artttttsssss011ddddd0101111" => AmominD       "amomin.d"        Amo     A           Amo(8);
        "10100artttttsssss011ddddd0101111" => AmomaxD       "amomax.d"        Amo     A           Amo(8);
        "11000artttttsssss011ddddd0101111" => AmominuD      "amominu.d"       Amo     A           Amo(8);
        "11100artttttsssss011ddddd0101111" => AmomaxuD      "amomaxu.d"       Amo     A           Amo(8);

        // F: single precision.
        "iiiiiiiiiiiisssss010ddddd0000111" => Flw           "flw"             FLoad   F           FpLoad(4);
        "iiiiiiitttttsssss010iiiii0100111" => Fsw           "fsw"             FStore  F           FpStore(4);
        "uuuuu00tttttsssssmmmddddd1000011" => FmaddS        "fmadd.s"         FR4     F           Fp;
        "uuuuu00tttttsssssmmmddddd1000111" => FmsubS        "fmsub.s"         FR4     F           Fp;
        "uuuuu00tttttsssssmmmddddd1001011" => FnmsubS       "fnmsub.s"        FR4     F           Fp;
        "uuuuu00tttttsssssmmmddddd1001111" => FnmaddS       "fnmadd.s"        FR4     F           Fp;
        "0000000tttttsssssmmmddddd1010011" => FaddS         "fadd.s"          FRRm    F           Fp;
        "0000100tttttsssssmmmddddd1010011" => FsubS         "fsub.s"          FRRm    F           Fp;
        "0001000tttttsssssmmmddddd1010011" => FmulS         "fmul.s"          FRRm    F           Fp;
        "0001100tttttsssssmmmddddd1010011" => FdivS         "fdiv.s"          FRRm    F           Fp;
        "010110000000sssssmmmddddd1010011" => FsqrtS        "fsqrt.s"         FFRm    F           Fp;
        "0010000tttttsssss000ddddd1010011" => FsgnjS        "fsgnj.s"         FR      F           Fp;
        "0010000tttttsssss001ddddd1010011" => FsgnjnS       "fsgnjn.s"        FR      F           Fp;
        "0010000tttttsssss010ddddd1010011" => FsgnjxS       "fsgnjx.s"        FR      F           Fp;
        "0010100tttttsssss000ddddd1010011" => FminS         "fmin.s"          FR      F           Fp;
        "0010100tttttsssss001ddddd1010011" => FmaxS         "fmax.s"          FR      F           Fp;
        "1010000tttttsssss010ddddd1010011" => FeqS          "feq.s"           FCmp    F           Fp;
        "1010000tttttsssss001ddddd1010011" => FltS          "flt.s"           FCmp    F           Fp;
        "1010000tttttsssss000ddddd1010011" => FleS          "fle.s"           FCmp    F           Fp;
        "111000000000sssss001ddddd1010011" => FclassS       "fclass.s"        XF      F           Fp;
        "110000000000sssssmmmddddd1010011" => FcvtWS        "fcvt.w.s"        XFRm    F           Fp;
        "110000000001sssssmmmddddd1010011" => FcvtWuS       "fcvt.wu.s"       XFRm    F           Fp;
        "110000000010sssssmmmddddd1010011" => FcvtLS        "fcvt.l.s"        XFRm    F           Fp;
        "110000000011sssssmmmddddd1010011" => FcvtLuS       "fcvt.lu.s"       XFRm    F           Fp;
        "110100000000sssssmmmddddd1010011" => FcvtSW        "fcvt.s.w"        FXRm    F           Fp;
        "110100000001sssssmmmddddd1010011" => FcvtSWu       "fcvt.s.wu"       FXRm    F           Fp;
        "110100000010sssssmmmddddd1010011" => FcvtSL        "fcvt.s.l"        FXRm    F           Fp;
        "110100000011sssssmmmddddd1010011" => FcvtSLu       "fcvt.s.lu"       FXRm    F           Fp;
        "111000000000sssss000ddddd1010011" => FmvXW         "fmv.x.w"         XF      F           Fp;
        "111100000000sssss000ddddd1010011" => FmvWX         "fmv.w.x"         FX      F           Fp;

        // D: double precision.
        "iiiiiiiiiiiisssss011ddddd0000111" => Fld           "fld"             FLoad   D           FpLoad(8);
        "iiiiiiitttttsssss011iiiii0100111" => Fsd           "fsd"             FStore  D           FpStore(8);
        "uuuuu01tttttsssssmmmddddd1000011" => FmaddD        "fmadd.d"         FR4     D           Fp;
        "uuuuu01tttttsssssmmmddddd1000111" => FmsubD        "fmsub.d"         FR4     D           Fp;
        "uuuuu01tttttsssssmmmddddd1001011" => FnmsubD       "fnmsub.d"        FR4     D           Fp;
        "uuuuu01tttttsssssmmmddddd1001111" => FnmaddD       "fnmadd.d"        FR4     D           Fp;
        "0000001tttttsssssmmmddddd1010011" => FaddD         "fadd.d"          FRRm    D           Fp;
        "0000101tttttsssssmmmddddd1010011" => FsubD         "fsub.d"          FRRm    D           Fp;
        "0001001tttttsssssmmmddddd1010011" => FmulD         "fmul.d"          FRRm    D           Fp;
        "0001101tttttsssssmmmddddd1010011" => FdivD         "fdiv.d"          FRRm    D           Fp;
        "010110100000sssssmmmddddd1010011" => FsqrtD        "fsqrt.d"         FFRm    D           Fp;
        "0010001tttttsssss000ddddd1010011" => FsgnjD        "fsgnj.d"         FR      D           Fp;
        "0010001tttttsssss001ddddd1010011" => FsgnjnD       "fsgnjn.d"        FR      D           Fp;
        "0010001tttttsssss010ddddd1010011" => FsgnjxD       "fsgnjx.d"        FR      D           Fp;
        "0010101tttttsssss000ddddd1010011" => FminD         "fmin.d"          FR      D           Fp;
        "0010101tttttsssss001ddddd1010011" => FmaxD         "fmax.d"          FR      D           Fp;
        "1010001tttttsssss010ddddd1010011" => FeqD          "feq.d"           FCmp    D           Fp;
        "1010001tttttsssss001ddddd1010011" => FltD          "flt.d"           FCmp    D           Fp;
        "1010001tttttsssss000ddddd1010011" => FleD          "fle.d"           FCmp    D           Fp;
        "111000100000sssss001ddddd1010011" => FclassD       "fclass.d"        XF      D           Fp;
        "110000100000sssssmmmddddd1010011" => FcvtWD        "fcvt.w.d"        XFRm    D           Fp;
        "110000100001sssssmmmddddd1010011" => FcvtWuD       "fcvt.wu.d"       XFRm    D           Fp;
        "110000100010sssssmmmddddd1010011" => FcvtLD        "fcvt.l.d"        XFRm    D           Fp;
        "110000100011sssssmmmddddd1010011" => FcvtLuD       "fcvt.lu.d"       XFRm    D           Fp;
        "110100100000sssssmmmddddd1010011" => FcvtDW        "fcvt.d.w"        FXRm    D           Fp;
        "110100100001sssssmmmddddd1010011" => FcvtDWu       "fcvt.d.wu"       FXRm    D           Fp;
        "110100100010sssssmmmddddd1010011" => FcvtDL        "fcvt.d.l"        FXRm    D           Fp;
        "110100100011sssssmmmddddd1010011" => FcvtDLu       "fcvt.d.lu"       FXRm    D           Fp;
        "111000100000sssss000ddddd1010011" => FmvXD         "fmv.x.d"         XF      D           Fp;
        "111100100000sssss000ddddd1010011" => FmvDX         "fmv.d.x"         FX      D           Fp;
        "010000000001sssssmmmddddd1010011" => FcvtSD        "fcvt.s.d"        FFRm    D           Fp;
        "010000100000sssssmmmddddd1010011" => FcvtDS        "fcvt.d.s"        FFRm    D           Fp;

        // Zicsr. In the immediate forms `s` is the 5-bit immediate.
        "iiiiiiiiiiiisssss001ddddd1110011" => Csrrw         "csrrw"           Csr     Zicsr       Csr;
        "iiiiiiiiiiiisssss010ddddd1110011" => Csrrs         "csrrs"           Csr     Zicsr       Csr;
        "iiiiiiiiiiiisssss011ddddd1110011" => Csrrc         "csrrc"           Csr     Zicsr       Csr;
        "iiiiiiiiiiiisssss101ddddd1110011" => Csrrwi        "csrrwi"          CsrI    Zicsr       Csr;
        "iiiiiiiiiiiisssss110ddddd1110011" => Csrrsi        "csrrsi"          CsrI    Zicsr       Csr;
        "iiiiiiiiiiiisssss111ddddd1110011" => Csrrci        "csrrci"          CsrI    Zicsr       Csr;

        // Zba: address generation.
        "0010000tttttsssss010ddddd0110011" => Sh1add        "sh1add"          R       Zba         Pure;
        "0010000tttttsssss100ddddd0110011" => Sh2add        "sh2add"          R       Zba         Pure;
        "0010000tttttsssss110ddddd0110011" => Sh3add        "sh3add"          R       Zba         Pure;
        "0000100tttttsssss000ddddd0111011" => AddUw         "add.uw"          R       Zba         Pure;
        "0010000tttttsssss010ddddd0111011" => Sh1addUw      "sh1add.uw"       R       Zba         Pure;
        "0010000tttttsssss100ddddd0111011" => Sh2addUw      "sh2add.uw"       R       Zba         Pure;
        "0010000tttttsssss110ddddd0111011" => Sh3addUw      "sh3add.uw"       R       Zba         Pure;
        "000010iiiiiisssss001ddddd0011011" => SlliUw        "slli.uw"         Shift   Zba         Pure;

        // Zbb: basic bit manipulation.
        "0100000tttttsssss111ddddd0110011" => Andn          "andn"            R       Zbb         Pure;
        "0100000tttttsssss110ddddd0110011" => Orn           "orn"             R       Zbb         Pure;
        "0100000tttttsssss100ddddd0110011" => Xnor          "xnor"            R       Zbb         Pure;
        "011000000000sssss001ddddd0010011" => Clz           "clz"             R1      Zbb         Pure;
        "011000000001sssss001ddddd0010011" => Ctz           "ctz"             R1      Zbb         Pure;
        "011000000010sssss001ddddd0010011" => Cpop          "cpop"            R1      Zbb         Pure;
        "011000000000sssss001ddddd0011011" => Clzw          "clzw"            R1      Zbb         Pure;
        "011000000001sssss001ddddd0011011" => Ctzw          "ctzw"            R1      Zbb         Pure;
        "011000000010sssss001ddddd0011011" => Cpopw         "cpopw"           R1      Zbb         Pure;
        "0000101tttttsssss100ddddd0110011" => Min           "min"             R       Zbb         Pure;
        "0000101tttttsssss101ddddd0110011" => Minu          "minu"            R       Zbb         Pure;
        "0000101tttttsssss110ddddd0110011" => Max           "max"             R       Zbb         Pure;
        "0000101tttttsssss111ddddd0110011" => Maxu          "maxu"            R       Zbb         Pure;
        "011000000100sssss001ddddd0010011" => SextB         "sext.b"          R1      Zbb         Pure;
        "011000000101sssss001ddddd0010011" => SextH         "sext.h"          R1      Zbb         Pure;
        "000010000000sssss100ddddd0111011" => ZextH         "zext.h"          R1      Zbb         Pure;
        "0110000tttttsssss001ddddd0110011" => Rol           "rol"             R       Zbb         Pure;
        "0110000tttttsssss101ddddd0110011" => Ror           "ror"             R       Zbb         Pure;
        "011000iiiiiisssss101ddddd0010011" => Rori          "rori"            Shift   Zbb         Pure;
        "0110000tttttsssss001ddddd0111011" => Rolw          "rolw"            R       Zbb         Pure;
        "0110000tttttsssss101ddddd0111011" => Rorw          "rorw"            R       Zbb         Pure;
        "0110000iiiiisssss101ddddd0011011" => Roriw         "roriw"           ShiftW  Zbb         Pure;
        "001010000111sssss101ddddd0010011" => OrcB          "orc.b"           R1      Zbb         Pure;
        "011010111000sssss101ddddd0010011" => Rev8          "rev8"            R1      Zbb         Pure;

        // Zbs: single bits.
        "0100100tttttsssss001ddddd0110011" => Bclr          "bclr"            R       Zbs         Pure;
        "010010iiiiiisssss001ddddd0010011" => Bclri         "bclri"           Shift   Zbs         Pure;
        "0100100tttttsssss101ddddd0110011" => Bext          "bext"            R       Zbs         Pure;
        "010010iiiiiisssss101ddddd0010011" => Bexti         "bexti"           Shift   Zbs         Pure;
        "0110100tttttsssss001ddddd0110011" => Binv          "binv"            R       Zbs         Pure;
        "011010iiiiiisssss001ddddd0010011" => Binvi         "binvi"           Shift   Zbs         Pure;
        "0010100tttttsssss001ddddd0110011" => Bset          "bset"            R       Zbs         Pure;
        "001010iiiiiisssss001ddddd0010011" => Bseti         "bseti"           Shift   Zbs         Pure;

        // Zicond: conditional zero.
        "0000111tttttsssss101ddddd0110011" => CzeroEqz      "czero.eqz"       R       Zicond      Pure;
        "0000111tttttsssss111ddddd0110011" => CzeroNez      "czero.nez"       R       Zicond      Pure;

        // Zicbom and Zicboz: cache blocks.
        "000000000000sssss010000000001111" => CboInval      "cbo.inval"       Addr    Zicbom      Cache;
        "000000000001sssss010000000001111" => CboClean      "cbo.clean"       Addr    Zicbom      Cache;
        "000000000010sssss010000000001111" => CboFlush      "cbo.flush"       Addr    Zicbom      Cache;
        "000000000100sssss010000000001111" => CboZero       "cbo.zero"        Addr    Zicboz      CacheZero;

        // Privileged.
        "00010000001000000000000001110011" => Sret          "sret"            Bare    Priv        System;
        "00110000001000000000000001110011" => Mret          "mret"            Bare    Priv        System;
        "00010000010100000000000001110011" => Wfi           "wfi"             Bare    Priv        System;
        "0001001tttttsssss000000001110011" => SfenceVma     "sfence.vma"      Vma     Priv        FenceVma;

        // Svinval.
        "0001011tttttsssss000000001110011" => SinvalVma     "sinval.vma"      Vma     Svinval     FenceVma;
        "00011000000000000000000001110011" => SfenceWInval  "sfence.w.inval"  Bare    Svinval     FenceVma;
        "00011000000100000000000001110011" => SfenceInvalIr "sfence.inval.ir" Bare    Svinval     FenceVma;
    } };
}
pub(super) use rows;
