//! The table: one row a method, in the manual's terms.
//!
//! ```text
//!   method [selectors] (operands)  Op/En  "mnemonic" = opcode columns, one for each value of the selectors;
//! ```
//!
//! Op/En is the manual's column that says where operands go: `M` ModRM.rm, `R` ModRM.reg, `V` VEX.vvvv, `I` immediate,
//! `O` the opcode's low bits, `Z` nothing, in the order of the operands. The mnemonic shows where selectors enter it.
//! The rows are handed to a macro by name, so that the methods here and the tests are made from the same text.

use crate::asm::Asm;
use crate::encode::Place;
use crate::error::AsmError;
use crate::form::{
    Form, byte_rm, conditions, conditions_wide, dq, floats, floats_dq, form, locked, pair, sizes, wide,
};
use crate::operand::{Alu, Cc, Fma, Fop, Fs, Gpr, Mem, Shift, Size, Xmm};

/// ADD OR ADC SBB AND SUB XOR CMP, as destination ModRM.rm and as destination ModRM.reg.
const ALU_MR: [[Form; 4]; 8] = [
    sizes("00 /r", "01 /r"),
    sizes("08 /r", "09 /r"),
    sizes("10 /r", "11 /r"),
    sizes("18 /r", "19 /r"),
    sizes("20 /r", "21 /r"),
    sizes("28 /r", "29 /r"),
    sizes("30 /r", "31 /r"),
    sizes("38 /r", "39 /r"),
];
const ALU_RM: [[Form; 4]; 8] = [
    sizes("02 /r", "03 /r"),
    sizes("0A /r", "0B /r"),
    sizes("12 /r", "13 /r"),
    sizes("1A /r", "1B /r"),
    sizes("22 /r", "23 /r"),
    sizes("2A /r", "2B /r"),
    sizes("32 /r", "33 /r"),
    sizes("3A /r", "3B /r"),
];
/// ROL ROR SHL SHR SAR. By 1 there is a shorter form (`D1`), which costs more on several CPUs for the rotations.
const SHIFT_MI: [[Form; 4]; 5] = [
    sizes("C0 /0 ib", "C1 /0 ib"),
    sizes("C0 /1 ib", "C1 /1 ib"),
    sizes("C0 /4 ib", "C1 /4 ib"),
    sizes("C0 /5 ib", "C1 /5 ib"),
    sizes("C0 /7 ib", "C1 /7 ib"),
];
const SHIFT_MC: [[Form; 4]; 5] = [
    sizes("D2 /0", "D3 /0"),
    sizes("D2 /1", "D3 /1"),
    sizes("D2 /4", "D3 /4"),
    sizes("D2 /5", "D3 /5"),
    sizes("D2 /7", "D3 /7"),
];
/// ADD SUB MUL DIV SQRT MIN MAX, each SS and SD.
const FOP: [[Form; 2]; 7] = [
    floats("F3 0F 58 /r", "F2 0F 58 /r"),
    floats("F3 0F 5C /r", "F2 0F 5C /r"),
    floats("F3 0F 59 /r", "F2 0F 59 /r"),
    floats("F3 0F 5E /r", "F2 0F 5E /r"),
    floats("F3 0F 51 /r", "F2 0F 51 /r"),
    floats("F3 0F 5D /r", "F2 0F 5D /r"),
    floats("F3 0F 5F /r", "F2 0F 5F /r"),
];
/// VFMADD VFMSUB VFNMADD VFNMSUB, each SS and SD.
const FMA213: [[Form; 2]; 4] = [
    floats("VEX.LIG.66.0F38.W0 A9 /r", "VEX.LIG.66.0F38.W1 A9 /r"),
    floats("VEX.LIG.66.0F38.W0 AB /r", "VEX.LIG.66.0F38.W1 AB /r"),
    floats("VEX.LIG.66.0F38.W0 AD /r", "VEX.LIG.66.0F38.W1 AD /r"),
    floats("VEX.LIG.66.0F38.W0 AF /r", "VEX.LIG.66.0F38.W1 AF /r"),
];
const FMA231: [[Form; 2]; 4] = [
    floats("VEX.LIG.66.0F38.W0 B9 /r", "VEX.LIG.66.0F38.W1 B9 /r"),
    floats("VEX.LIG.66.0F38.W0 BB /r", "VEX.LIG.66.0F38.W1 BB /r"),
    floats("VEX.LIG.66.0F38.W0 BD /r", "VEX.LIG.66.0F38.W1 BD /r"),
    floats("VEX.LIG.66.0F38.W0 BF /r", "VEX.LIG.66.0F38.W1 BF /r"),
];

macro_rules! rows {
    ($then:ident) => {
        $then! {
            // Integer arithmetic.
            alu_rr       [op: Alu, size: Size] (dst: Gpr, src: Gpr) MR "{op:?}" = ALU_MR;
            alu_rm       [op: Alu, size: Size] (dst: Gpr, src: Mem) RM "{op:?}" = ALU_RM;
            alu_mr       [op: Alu, size: Size] (dst: Mem, src: Gpr) MR "{op:?}" = ALU_MR;
            lock_alu_mr  [op: Alu, size: Size] (dst: Mem, src: Gpr) MR "{op:?}" = locked(ALU_MR);
            test_rr      [size: Size] (a: Gpr, b: Gpr)     MR "test" = sizes("84 /r", "85 /r");
            test_mi      [size: Size] (a: Mem, imm: i32)   MI "test" = sizes("F6 /0 ib", "F7 /0 id");
            not          [size: Size] (dst: Gpr)           M  "not"  = sizes("F6 /2", "F7 /2");
            neg          [size: Size] (dst: Gpr)           M  "neg"  = sizes("F6 /3", "F7 /3");
            mul_r        [size: Size] (src: Gpr)           M  "mul"  = sizes("F6 /4", "F7 /4");
            imul_r       [size: Size] (src: Gpr)           M  "imul" = sizes("F6 /5", "F7 /5");
            div_r        [size: Size] (src: Gpr)           M  "div"  = sizes("F6 /6", "F7 /6");
            idiv_r       [size: Size] (src: Gpr)           M  "idiv" = sizes("F6 /7", "F7 /7");
            imul_rr      [size: Size] (dst: Gpr, src: Gpr) RM "imul" = wide("0F AF /r");
            imul_rm      [size: Size] (dst: Gpr, src: Mem) RM "imul" = wide("0F AF /r");
            cdq          [] ()                             Z  "cdq"  = form("99");
            cqo          [] ()                             Z  "cqo"  = form("REX.W 99");

            // Moves.
            mov_rr       [size: Size] (dst: Gpr, src: Gpr) MR "mov"  = sizes("88 /r", "89 /r");
            mov_mr       [size: Size] (dst: Mem, src: Gpr) MR "mov"  = sizes("88 /r", "89 /r");
            mov_rm       [size: Size] (dst: Gpr, src: Mem) RM "mov"  = sizes("8A /r", "8B /r");
            mov_mi       [size: Size] (dst: Mem, imm: i32) MI "mov"  = sizes("C6 /0 ib", "C7 /0 id");
            lea          [size: Size] (dst: Gpr, src: Mem) RM "lea"  = dq("8D /r");
            bswap        [size: Size] (dst: Gpr)           O  "bswap" = dq("0F C8+rd");
            push         [] (src: Gpr)                     O  "push" = form("50+rd");
            pop          [] (dst: Gpr)                     O  "pop"  = form("58+rd");
            setcc        [cc: Cc] (dst: Gpr)               M  "set{cc:?}" = conditions(byte_rm("0F 90+cc"));
            cmov_rr      [cc: Cc, size: Size] (dst: Gpr, src: Gpr) RM "cmov{cc:?}" = conditions_wide("0F 40+cc /r");
            cmov_rm      [cc: Cc, size: Size] (dst: Gpr, src: Mem) RM "cmov{cc:?}" = conditions_wide("0F 40+cc /r");

            // Shifts and bits.
            shift_ri     [op: Shift, size: Size] (dst: Gpr, count: u8) MI "{op:?}" = SHIFT_MI;
            shift_rcl    [op: Shift, size: Size] (dst: Gpr)            M  "{op:?}" = SHIFT_MC;
            shlx         [size: Size] (dst: Gpr, src: Gpr, count: Gpr) RMV "shlx"
                = pair("VEX.LZ.66.0F38.W0 F7 /r", "VEX.LZ.66.0F38.W1 F7 /r");
            shrx         [size: Size] (dst: Gpr, src: Gpr, count: Gpr) RMV "shrx"
                = pair("VEX.LZ.F2.0F38.W0 F7 /r", "VEX.LZ.F2.0F38.W1 F7 /r");
            sarx         [size: Size] (dst: Gpr, src: Gpr, count: Gpr) RMV "sarx"
                = pair("VEX.LZ.F3.0F38.W0 F7 /r", "VEX.LZ.F3.0F38.W1 F7 /r");
            rorx         [size: Size] (dst: Gpr, src: Gpr, count: u8)  RMI "rorx"
                = pair("VEX.LZ.F2.0F3A.W0 F0 /r ib", "VEX.LZ.F2.0F3A.W1 F0 /r ib");
            andn         [size: Size] (dst: Gpr, inverted_src: Gpr, src: Gpr) RVM "andn"
                = pair("VEX.LZ.NP.0F38.W0 F2 /r", "VEX.LZ.NP.0F38.W1 F2 /r");
            popcnt       [size: Size] (dst: Gpr, src: Gpr) RM "popcnt" = wide("F3 0F B8 /r");
            tzcnt        [size: Size] (dst: Gpr, src: Gpr) RM "tzcnt"  = wide("F3 0F BC /r");
            lzcnt        [size: Size] (dst: Gpr, src: Gpr) RM "lzcnt"  = wide("F3 0F BD /r");
            bt_rr        [size: Size] (dst: Gpr, bit: Gpr) MR "bt"  = wide("0F A3 /r");
            bts_rr       [size: Size] (dst: Gpr, bit: Gpr) MR "bts" = wide("0F AB /r");
            btr_rr       [size: Size] (dst: Gpr, bit: Gpr) MR "btr" = wide("0F B3 /r");
            btc_rr       [size: Size] (dst: Gpr, bit: Gpr) MR "btc" = wide("0F BB /r");
            bt_ri        [size: Size] (dst: Gpr, bit: u8)  MI "bt"  = wide("0F BA /4 ib");
            bts_ri       [size: Size] (dst: Gpr, bit: u8)  MI "bts" = wide("0F BA /5 ib");
            btr_ri       [size: Size] (dst: Gpr, bit: u8)  MI "btr" = wide("0F BA /6 ib");
            btc_ri       [size: Size] (dst: Gpr, bit: u8)  MI "btc" = wide("0F BA /7 ib");

            // Indivisible ones. XCHG with memory locks by itself.
            xchg_mr         [size: Size] (dst: Mem, src: Gpr) MR "xchg"    = sizes("86 /r", "87 /r");
            lock_cmpxchg_mr [size: Size] (dst: Mem, src: Gpr) MR "cmpxchg" = sizes("F0 0F B0 /r", "F0 0F B1 /r");
            lock_xadd_mr    [size: Size] (dst: Mem, src: Gpr) MR "xadd"    = sizes("F0 0F C0 /r", "F0 0F C1 /r");
            mfence          [] ()                             Z  "mfence"  = form("NP 0F AE F0");

            // Control.
            jmp_r        [] (to: Gpr) M "jmp"  = form("FF /4");
            jmp_m        [] (to: Mem) M "jmp"  = form("FF /4");
            call_r       [] (to: Gpr) M "call" = form("FF /2");
            call_m       [] (to: Mem) M "call" = form("FF /2");
            ret          [] ()        Z "ret"  = form("C3");
            int3         [] ()        Z "int3" = form("CC");
            ud2          [] ()        Z "ud2"  = form("0F 0B");

            // Scalar floating point.
            fmov_xm      [fs: Fs] (dst: Xmm, src: Mem) RM "movs{fs:?}" = floats("F3 0F 10 /r", "F2 0F 10 /r");
            fmov_mx      [fs: Fs] (dst: Mem, src: Xmm) MR "movs{fs:?}" = floats("F3 0F 11 /r", "F2 0F 11 /r");
            fmov_xx      [] (dst: Xmm, src: Xmm) RM "movaps" = form("NP 0F 28 /r");
            movd_xr      [] (dst: Xmm, src: Gpr) RM "movd"   = form("66 0F 6E /r");
            movd_rx      [] (dst: Gpr, src: Xmm) MR "movd"   = form("66 0F 7E /r");
            movq_xr      [] (dst: Xmm, src: Gpr) RM "movq"   = form("66 REX.W 0F 6E /r");
            movq_rx      [] (dst: Gpr, src: Xmm) MR "movq"   = form("66 REX.W 0F 7E /r");
            fop_xx       [op: Fop, fs: Fs] (dst: Xmm, src: Xmm) RM "{op:?}s{fs:?}" = FOP;
            fop_xm       [op: Fop, fs: Fs] (dst: Xmm, src: Mem) RM "{op:?}s{fs:?}" = FOP;
            ucomis_xx    [fs: Fs] (a: Xmm, b: Xmm) RM "ucomis{fs:?}" = floats("NP 0F 2E /r", "66 0F 2E /r");
            ucomis_xm    [fs: Fs] (a: Xmm, b: Mem) RM "ucomis{fs:?}" = floats("NP 0F 2E /r", "66 0F 2E /r");
            comis_xx     [fs: Fs] (a: Xmm, b: Xmm) RM "comis{fs:?}"  = floats("NP 0F 2F /r", "66 0F 2F /r");
            comis_xm     [fs: Fs] (a: Xmm, b: Mem) RM "comis{fs:?}"  = floats("NP 0F 2F /r", "66 0F 2F /r");
            cvt_f2f      [from: Fs] (dst: Xmm, src: Xmm) RM "cvts{from:?}2s" = floats("F3 0F 5A /r", "F2 0F 5A /r");
            cvtsi2f      [fs: Fs, size: Size] (dst: Xmm, src: Gpr) RM "cvtsi2s{fs:?}"
                = floats_dq("F3 0F 2A /r", "F2 0F 2A /r");
            cvttf2si     [fs: Fs, size: Size] (dst: Gpr, src: Xmm) RM "cvtts{fs:?}2si"
                = floats_dq("F3 0F 2C /r", "F2 0F 2C /r");
            cvtf2si      [fs: Fs, size: Size] (dst: Gpr, src: Xmm) RM "cvts{fs:?}2si"
                = floats_dq("F3 0F 2D /r", "F2 0F 2D /r");
            rounds       [fs: Fs] (dst: Xmm, src: Xmm, mode: u8) RMI "rounds{fs:?}"
                = floats("66 0F 3A 0A /r ib", "66 0F 3A 0B /r ib");
            andps_xx     [] (dst: Xmm, src: Xmm) RM "andps"  = form("NP 0F 54 /r");
            andnps_xx    [] (dst: Xmm, src: Xmm) RM "andnps" = form("NP 0F 55 /r");
            orps_xx      [] (dst: Xmm, src: Xmm) RM "orps"   = form("NP 0F 56 /r");
            xorps_xx     [] (dst: Xmm, src: Xmm) RM "xorps"  = form("NP 0F 57 /r");
            fma213       [kind: Fma, fs: Fs] (dst: Xmm, a: Xmm, b: Xmm) RVM "vf{kind:?}213s{fs:?}" = FMA213;
            fma231       [kind: Fma, fs: Fs] (dst: Xmm, a: Xmm, b: Xmm) RVM "vf{kind:?}231s{fs:?}" = FMA231;
            ldmxcsr      [] (src: Mem) M "ldmxcsr" = form("NP 0F AE /2");
            stmxcsr      [] (dst: Mem) M "stmxcsr" = form("NP 0F AE /3");
        }
    };
}

#[cfg(test)]
pub(crate) use rows;

/// The type of a row's forms: an array along each selector, innermost last.
macro_rules! forms {
    () => { Form };
    ($selector:ty $(, $more:ty)*) => { [forms!($($more),*); <$selector>::COUNT] };
}

/// Puts operands where Op/En says.
macro_rules! op_en {
    (Z, $asm:ident, $form:ident) => {
        $asm.put($form, 0, 0, Place::NONE, 0)
    };
    (O, $asm:ident, $form:ident, $o:ident) => {
        $asm.put(&$form.plus($o.number() & 7), 0, 0, Place::opcode($o), 0)
    };
    (M, $asm:ident, $form:ident, $m:ident) => {
        $asm.put($form, 0, 0, $m.place(), 0)
    };
    (MI, $asm:ident, $form:ident, $m:ident, $i:ident) => {
        $asm.put($form, 0, 0, $m.place(), $i as u64)
    };
    (MR, $asm:ident, $form:ident, $m:ident, $r:ident) => {
        $asm.put($form, $r.number(), 0, $m.place(), 0)
    };
    (RM, $asm:ident, $form:ident, $r:ident, $m:ident) => {
        $asm.put($form, $r.number(), 0, $m.place(), 0)
    };
    (RMI, $asm:ident, $form:ident, $r:ident, $m:ident, $i:ident) => {
        $asm.put($form, $r.number(), 0, $m.place(), $i as u64)
    };
    (RMV, $asm:ident, $form:ident, $r:ident, $m:ident, $v:ident) => {
        $asm.put($form, $r.number(), $v.number(), $m.place(), 0)
    };
    (RVM, $asm:ident, $form:ident, $r:ident, $v:ident, $m:ident) => {
        $asm.put($form, $r.number(), $v.number(), $m.place(), 0)
    };
}

macro_rules! methods {
    ($(
        $name:ident [$($selector:ident: $S:ty),*] ($($operand:ident: $T:ty),*) $en:ident $mnemonic:literal = $forms:expr;
    )*) => {
        /// From the table.
        impl Asm {
            $(
                #[doc = concat!("`", $mnemonic, "`: `", stringify!($forms), "`, operands ", stringify!($en), ".")]
                #[inline]
                pub fn $name(&mut self, $($selector: $S,)* $($operand: $T),*) {
                    static FORMS: forms!($($S),*) = $forms;
                    let form = &FORMS $([$selector as usize])*;
                    if !form.exists() {
                        return self.fail(AsmError::NoForm { method: stringify!($name), at: self.len() });
                    }
                    op_en!($en, self, form $(, $operand)*);
                }
            )*
        }
    };
}

rows!(methods);
