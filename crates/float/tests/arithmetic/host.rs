//! Against the host's FPU. Each operation is one `asm!` block from loading MXCSR to storing it, so that nothing
//! the compiler moves can run under our rounding mode or add to the flags.
//!
//! x86 agrees with RISC-V in the four modes it has, in values, and in flags (it too detects tininess after
//! rounding). Three conventions differ and are converted here: NaN payloads become the canonical NaN; an
//! integer conversion out of range gives no usable value; a fused infinity times zero plus a quiet NaN is
//! not compared.

use crate::cases;
use crate::operands::{Random, addend, integer, operand, partner};
use std::arch::asm;
use strata_float::{self as float, F32, F64, Flags, Format, Rounding};

/// RISC-V's modes with the RC field of MXCSR.
const MODES: [(Rounding, u32); 4] =
    [(Rounding::NearestEven, 0), (Rounding::Down, 1), (Rounding::Up, 2), (Rounding::TowardZero, 3)];

/// All exceptions masked, no flag, no flush to zero, and this rounding.
fn control(rc: u32) -> [u32; 2] {
    [0x1f80 | rc << 13, 0]
}

/// MXCSR's flags as `fflags`; its flag for subnormal operands has no counterpart.
fn fflags(mxcsr: u32) -> u8 {
    let flag = |from: u32, to: Flags| if mxcsr >> from & 1 != 0 { to.bits() } else { 0 };
    flag(0, Flags::NV) | flag(2, Flags::DZ) | flag(3, Flags::OF) | flag(4, Flags::UF) | flag(5, Flags::NX)
}

/// One instruction: three operands and a rounding field in, the result's bits and flags out.
type Insn = fn([u64; 3], u32) -> (u64, u8);

/// One of our operations, in the same form.
type Ours = fn([u64; 3], Rounding) -> (u64, Flags);

/// Defines an [`Insn`]. It finds its operands in xmm0 (and rax), xmm1, xmm2; the result is taken from xmm0 unless
/// the instruction leaves it in rax.
macro_rules! insn {
    ($name:ident, $text:literal) => {
        insn!($name, $text, "movq rax, xmm0");
    };
    ($name:ident, $text:literal, $take:literal) => {
        fn $name([a, b, c]: [u64; 3], rc: u32) -> (u64, u8) {
            let mut csr = control(rc);
            let result: u64;
            // SAFETY: only the named registers and the two words of `csr` are touched, and MXCSR is put back.
            // The caller has made sure that the CPU has the instruction.
            unsafe {
                asm!(
                    "stmxcsr [{csr} + 4]",
                    "movq xmm0, rax",
                    "movq xmm1, {b}",
                    "movq xmm2, {c}",
                    "ldmxcsr [{csr}]",
                    $text,
                    "stmxcsr [{csr}]",
                    "ldmxcsr [{csr} + 4]",
                    $take,
                    csr = in(reg) csr.as_mut_ptr(),
                    b = in(reg) b,
                    c = in(reg) c,
                    inlateout("rax") a => result,
                    out("xmm0") _,
                    out("xmm1") _,
                    out("xmm2") _,
                    options(nostack),
                );
            }
            (result, fflags(csr[0]))
        }
    };
}

insn!(addss, "addss xmm0, xmm1");
insn!(addsd, "addsd xmm0, xmm1");
insn!(subss, "subss xmm0, xmm1");
insn!(subsd, "subsd xmm0, xmm1");
insn!(mulss, "mulss xmm0, xmm1");
insn!(mulsd, "mulsd xmm0, xmm1");
insn!(divss, "divss xmm0, xmm1");
insn!(divsd, "divsd xmm0, xmm1");
insn!(sqrtss, "sqrtss xmm0, xmm0");
insn!(sqrtsd, "sqrtsd xmm0, xmm0");
insn!(fmass, "vfmadd213ss xmm0, xmm1, xmm2");
insn!(fmasd, "vfmadd213sd xmm0, xmm1, xmm2");
insn!(cvtss2sd, "cvtss2sd xmm0, xmm0");
insn!(cvtsd2ss, "cvtsd2ss xmm0, xmm0");
insn!(cvtss2si_32, "cvtss2si eax, xmm0", "");
insn!(cvtsd2si_32, "cvtsd2si eax, xmm0", "");
insn!(cvtss2si_64, "cvtss2si rax, xmm0", "");
insn!(cvtsd2si_64, "cvtsd2si rax, xmm0", "");
insn!(cvtss2usi_32, "vcvtss2usi eax, xmm0", "");
insn!(cvtsd2usi_32, "vcvtsd2usi eax, xmm0", "");
insn!(cvtss2usi_64, "vcvtss2usi rax, xmm0", "");
insn!(cvtsd2usi_64, "vcvtsd2usi rax, xmm0", "");
insn!(cvtsi2ss_32, "cvtsi2ss xmm0, eax");
insn!(cvtsi2sd_32, "cvtsi2sd xmm0, eax");
insn!(cvtsi2ss_64, "cvtsi2ss xmm0, rax");
insn!(cvtsi2sd_64, "cvtsi2sd xmm0, rax");
insn!(cvtusi2ss_32, "vcvtusi2ss xmm0, xmm0, eax");
insn!(cvtusi2sd_32, "vcvtusi2sd xmm0, xmm0, eax");
insn!(cvtusi2ss_64, "vcvtusi2ss xmm0, xmm0, rax");
insn!(cvtusi2sd_64, "vcvtusi2sd xmm0, xmm0, rax");

/// The host's result as RISC-V gives it.
fn canonical<F: Format>(bits: u64) -> u64 {
    let bits = bits & (F::SIGN | F::MAGNITUDE);
    if F::is_nan(bits) { F::NAN } else { bits }
}

/// Compares an operation whose operands are of format `F` and whose result is of format `To`.
fn compare<F: Format, To: Format>(name: &str, insn: Insn, ours: Ours, skip: fn([u64; 3]) -> bool) {
    let mut random = Random::new(F::WIDTH.into());
    for _ in 0..cases() {
        let a = operand::<F>(&mut random);
        let b = partner::<F>(&mut random, a);
        let x = [a, b, addend::<F>(&mut random, a, b)];
        if skip(x) {
            continue;
        }
        for (rm, rc) in MODES {
            let (bits, flags) = insn(x, rc);
            let (got, raised) = ours(x, rm);
            assert_eq!(
                (got, raised.bits()),
                (canonical::<To>(bits), flags),
                "{name} of {} bits, {rm:?}: {x:016x?} gave {got:#x}, the host {bits:#x}",
                F::WIDTH
            );
        }
    }
}

fn compare_both(name: &str, single: Insn, double: Insn, ours: [Ours; 2]) {
    compare::<F32, F32>(name, single, ours[0], |_| false);
    compare::<F64, F64>(name, double, ours[1], |_| false);
}

#[test]
fn add_is_the_hosts() {
    compare_both(
        "add",
        addss,
        addsd,
        [|[a, b, _], rm| float::add::<F32>(a, b, rm), |[a, b, _], rm| float::add::<F64>(a, b, rm)],
    );
}

#[test]
fn sub_is_the_hosts() {
    compare_both(
        "sub",
        subss,
        subsd,
        [|[a, b, _], rm| float::sub::<F32>(a, b, rm), |[a, b, _], rm| float::sub::<F64>(a, b, rm)],
    );
}

#[test]
fn mul_is_the_hosts() {
    compare_both(
        "mul",
        mulss,
        mulsd,
        [|[a, b, _], rm| float::mul::<F32>(a, b, rm), |[a, b, _], rm| float::mul::<F64>(a, b, rm)],
    );
}

#[test]
fn div_is_the_hosts() {
    compare_both(
        "div",
        divss,
        divsd,
        [|[a, b, _], rm| float::div::<F32>(a, b, rm), |[a, b, _], rm| float::div::<F64>(a, b, rm)],
    );
}

#[test]
fn sqrt_is_the_hosts() {
    compare_both(
        "sqrt",
        sqrtss,
        sqrtsd,
        [|[a, ..], rm| float::sqrt::<F32>(a, rm), |[a, ..], rm| float::sqrt::<F64>(a, rm)],
    );
}

#[test]
fn convert_is_the_hosts() {
    compare::<F32, F64>("widen", cvtss2sd, |[a, ..], rm| float::convert::<F32, F64>(a, rm), |_| false);
    compare::<F64, F32>("narrow", cvtsd2ss, |[a, ..], rm| float::convert::<F64, F32>(a, rm), |_| false);
}

/// Infinity times zero plus a quiet NaN: IEEE 754 leaves NV to the implementation.
fn is_unsettled<F: Format>([a, b, c]: [u64; 3]) -> bool {
    let [a, b, c] = [a, b, c].map(|x| x & F::MAGNITUDE);
    F::is_nan(c) && (a == 0 && b == F::INFINITY || a == F::INFINITY && b == 0)
}

#[test]
fn mul_add_is_the_hosts() {
    if !std::arch::is_x86_feature_detected!("fma") {
        eprintln!("this CPU has no FMA; `reference` compares it");
        return;
    }
    let single = |[a, b, c]: [u64; 3], rm| float::mul_add::<F32>(a, b, c, rm);
    let double = |[a, b, c]: [u64; 3], rm| float::mul_add::<F64>(a, b, c, rm);
    compare::<F32, F32>("mul_add", fmass, single, is_unsettled::<F32>);
    compare::<F64, F64>("mul_add", fmasd, double, is_unsettled::<F64>);
}

/// Compares a conversion to an integer; `ours` gives the integer zero-extended, as `insn` does.
fn compare_to_integer<F: Format>(
    name: &str,
    insn: Insn,
    ours: fn(u64, Rounding) -> (u64, Flags),
    [least, greatest]: [u64; 2],
) {
    let mut random = Random::new(F::WIDTH.into());
    for _ in 0..cases() {
        let a = operand::<F>(&mut random);
        for (rm, rc) in MODES {
            let (mut value, flags) = insn([a, 0, 0], rc);
            if flags & Flags::NV.bits() != 0 {
                value = if F::is_negative(a) && !F::is_nan(a) { least } else { greatest };
            }
            let (got, raised) = ours(a, rm);
            assert_eq!((got, raised.bits()), (value, flags), "{name}, {} bits, {rm:?}: {a:#x}", F::WIDTH);
        }
    }
}

const I32: [u64; 2] = [i32::MIN as u32 as u64, i32::MAX as u64];
const I64: [u64; 2] = [i64::MIN as u64, i64::MAX as u64];
const U32: [u64; 2] = [0, u32::MAX as u64];
const U64: [u64; 2] = [0, u64::MAX];

fn zero_extended(x: (i32, Flags)) -> (u64, Flags) {
    (x.0 as u32 as u64, x.1)
}

fn same<T: Into<u64>>(x: (T, Flags)) -> (u64, Flags) {
    (x.0.into(), x.1)
}

#[test]
fn to_signed_is_the_hosts() {
    compare_to_integer::<F32>("i32", cvtss2si_32, |a, rm| zero_extended(float::to_i32::<F32>(a, rm)), I32);
    compare_to_integer::<F64>("i32", cvtsd2si_32, |a, rm| zero_extended(float::to_i32::<F64>(a, rm)), I32);
    compare_to_integer::<F32>("i64", cvtss2si_64, |a, rm| bits(float::to_i64::<F32>(a, rm)), I64);
    compare_to_integer::<F64>("i64", cvtsd2si_64, |a, rm| bits(float::to_i64::<F64>(a, rm)), I64);
}

fn bits(x: (i64, Flags)) -> (u64, Flags) {
    (x.0 as u64, x.1)
}

/// Has the host the conversions between unsigned integers and scalars? If not, `reference` compares ours.
fn has_unsigned() -> bool {
    let has = std::arch::is_x86_feature_detected!("avx512f");
    if !has {
        eprintln!("this CPU has no AVX-512F: unsigned conversions are not compared with it");
    }
    has
}

#[test]
fn to_unsigned_is_the_hosts() {
    if !has_unsigned() {
        return;
    }
    compare_to_integer::<F32>("u32", cvtss2usi_32, |a, rm| same(float::to_u32::<F32>(a, rm)), U32);
    compare_to_integer::<F64>("u32", cvtsd2usi_32, |a, rm| same(float::to_u32::<F64>(a, rm)), U32);
    compare_to_integer::<F32>("u64", cvtss2usi_64, |a, rm| same(float::to_u64::<F32>(a, rm)), U64);
    compare_to_integer::<F64>("u64", cvtsd2usi_64, |a, rm| same(float::to_u64::<F64>(a, rm)), U64);
}

/// Compares a conversion from an integer, of which `insn` and `ours` take the low bits they want.
fn compare_from_integer<F: Format>(name: &str, insn: Insn, ours: fn(u64, Rounding) -> (u64, Flags)) {
    let mut random = Random::new(F::WIDTH.into());
    for _ in 0..cases() {
        let x = integer(&mut random);
        for (rm, rc) in MODES {
            let (bits, flags) = insn([x, 0, 0], rc);
            let (got, raised) = ours(x, rm);
            let host = (canonical::<F>(bits), flags);
            assert_eq!((got, raised.bits()), host, "{name}, {} bits, {rm:?}: {x:#x}", F::WIDTH);
        }
    }
}

#[test]
fn from_signed_is_the_hosts() {
    compare_from_integer::<F32>("i32", cvtsi2ss_32, |x, rm| float::from_i32::<F32>(x as i32, rm));
    compare_from_integer::<F64>("i32", cvtsi2sd_32, |x, rm| float::from_i32::<F64>(x as i32, rm));
    compare_from_integer::<F32>("i64", cvtsi2ss_64, |x, rm| float::from_i64::<F32>(x as i64, rm));
    compare_from_integer::<F64>("i64", cvtsi2sd_64, |x, rm| float::from_i64::<F64>(x as i64, rm));
}

#[test]
fn from_unsigned_is_the_hosts() {
    if !has_unsigned() {
        return;
    }
    compare_from_integer::<F32>("u32", cvtusi2ss_32, |x, rm| float::from_u32::<F32>(x as u32, rm));
    compare_from_integer::<F64>("u32", cvtusi2sd_32, |x, rm| float::from_u32::<F64>(x as u32, rm));
    compare_from_integer::<F32>("u64", cvtusi2ss_64, float::from_u64::<F32>);
    compare_from_integer::<F64>("u64", cvtusi2sd_64, float::from_u64::<F64>);
}
