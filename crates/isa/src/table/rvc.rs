//! The 16-bit rows: compressed instructions, each naming the row it expands to.
//!
//! One row is: pattern, name, [`Form`](super::Form), immediate as the manual spells it, the row it expands to, and
//! what the expansion fixes. Letters are those of the 32-bit rows, with these differences:
//!
//! ```text
//!   3 letters   a register of x8 to x15 (f8 to f15)      x   rd and rs1 in one field
//!   capitals    the field must not be zero               nz  the immediate must not be zero
//! ```
//!
//! HINTs are not listed: they are what the rows give anyway when rd is x0 or a shift is by zero, and change nothing.
//! Reserved encodings match no row. `c.addi16sp` refines `c.lui` (it is that row with rd = sp), so it comes first.
//! The manual's `c.nop` is `c.addi` of x0.

/// Hands the rows to the macro named.
macro_rules! rvc {
    ($then:ident) => { $then! {
        // Quadrant 0.
        "000iiiiiiiiddd00" => "c.addi4spn"   I       "nzuimm[5:4|9:6|2|3]"          => Addi    rs1 = 2;
        "001iiisssiiddd00" => "c.fld"        FLoad   "uimm[5:3|7:6]"                => Fld;
        "010iiisssiiddd00" => "c.lw"         Load    "uimm[5:3|2|6]"                => Lw;
        "011iiisssiiddd00" => "c.ld"         Load    "uimm[5:3|7:6]"                => Ld;
        "101iiisssiittt00" => "c.fsd"        FStore  "uimm[5:3|7:6]"                => Fsd;
        "110iiisssiittt00" => "c.sw"         Store   "uimm[5:3|2|6]"                => Sw;
        "111iiisssiittt00" => "c.sd"         Store   "uimm[5:3|7:6]"                => Sd;

        // Quadrant 1.
        "000ixxxxxiiiii01" => "c.addi"       CI      "imm[5|4:0]"                   => Addi;
        "001iXXXXXiiiii01" => "c.addiw"      CI      "imm[5|4:0]"                   => Addiw;
        "010idddddiiiii01" => "c.li"         CI      "imm[5|4:0]"                   => Addi    rs1 = 0;
        "011i00010iiiii01" => "c.addi16sp"   CI      "nzimm[9|4|6|8:7|5]"           => Addi    rd = 2, rs1 = 2;
        "011idddddiiiii01" => "c.lui"        U       "nzimm[17|16:12]"              => Lui;
        "100i00xxxiiiii01" => "c.srli"       CShift  "uimm[5|4:0]"                  => Srli;
        "100i01xxxiiiii01" => "c.srai"       CShift  "uimm[5|4:0]"                  => Srai;
        "100i10xxxiiiii01" => "c.andi"       CI      "imm[5|4:0]"                   => Andi;
        "100011xxx00ttt01" => "c.sub"        CR      ""                             => Sub;
        "100011xxx01ttt01" => "c.xor"        CR      ""                             => Xor;
        "100011xxx10ttt01" => "c.or"         CR      ""                             => Or;
        "100011xxx11ttt01" => "c.and"        CR      ""                             => And;
        "100111xxx00ttt01" => "c.subw"       CR      ""                             => Subw;
        "100111xxx01ttt01" => "c.addw"       CR      ""                             => Addw;
        "101iiiiiiiiiii01" => "c.j"          CJ      "imm[11|4|9:8|10|6|7|3:1|5]"   => Jal     rd = 0;
        "110iiisssiiiii01" => "c.beqz"       CB      "imm[8|4:3|7:6|2:1|5]"         => Beq     rs2 = 0;
        "111iiisssiiiii01" => "c.bnez"       CB      "imm[8|4:3|7:6|2:1|5]"         => Bne     rs2 = 0;

        // Quadrant 2.
        "000ixxxxxiiiii10" => "c.slli"       CShift  "uimm[5|4:0]"                  => Slli;
        "001idddddiiiii10" => "c.fldsp"      FLoad   "uimm[5|4:3|8:6]"              => Fld     rs1 = 2;
        "010iDDDDDiiiii10" => "c.lwsp"       Load    "uimm[5|4:2|7:6]"              => Lw      rs1 = 2;
        "011iDDDDDiiiii10" => "c.ldsp"       Load    "uimm[5|4:3|8:6]"              => Ld      rs1 = 2;
        "1000SSSSS0000010" => "c.jr"         CJr     ""                             => Jalr    rd = 0;
        "1000dddddTTTTT10" => "c.mv"         CR      ""                             => Add     rs1 = 0;
        "1001000000000010" => "c.ebreak"     Bare    ""                             => Ebreak;
        "1001SSSSS0000010" => "c.jalr"       CJr     ""                             => Jalr    rd = 1;
        "1001xxxxxTTTTT10" => "c.add"        CR      ""                             => Add;
        "101iiiiiittttt10" => "c.fsdsp"      FStore  "uimm[5:3|8:6]"                => Fsd     rs1 = 2;
        "110iiiiiittttt10" => "c.swsp"       Store   "uimm[5:2|7:6]"                => Sw      rs1 = 2;
        "111iiiiiittttt10" => "c.sdsp"       Store   "uimm[5:3|8:6]"                => Sd      rs1 = 2;
    } };
}
pub(super) use rvc;
