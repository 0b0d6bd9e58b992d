//! Every row through two implementations of the seam that share nothing but the text.

use super::toy::{Event, Fault, Toy, evaluate};
use super::*;
use crate::random::{Filter, SplitMix64, random_insn};
use crate::table::{Effect, Extensions, Op};

/// The eager implementation: values are numbers, everything happens at once.
struct Direct<'a> {
    toy: &'a mut Toy,
    next: u64,
}

fn run_directly(insn: &Insn, toy: &mut Toy) -> Result<(), Fault> {
    let next = toy.pc.wrapping_add(insn.len.into());
    let mut direct = Direct { toy, next };
    execute(&mut direct, insn)?;
    direct.toy.pc = direct.next;
    Ok(())
}

impl Ops for Direct<'_> {
    type V = u64;
    type Stop = Fault;

    fn imm(&mut self, c: i64) -> u64 {
        c as u64
    }
    fn x(&mut self, r: Reg) -> u64 {
        self.toy.x(r)
    }
    fn set_x(&mut self, r: Reg, v: u64) {
        self.toy.set_x(r, v);
    }
    fn f(&mut self, r: Reg) -> u64 {
        self.toy.f[r as usize]
    }
    fn set_f(&mut self, r: Reg, v: u64) {
        self.toy.f[r as usize] = v;
    }
    fn hold(&mut self, v: u64) -> u64 {
        v
    }
    fn pc_plus(&mut self, off: i64) -> u64 {
        self.toy.pc.wrapping_add_signed(off)
    }
    fn bin(&mut self, op: Bin, a: u64, b: u64) -> u64 {
        op.eval(a, b)
    }
    fn un(&mut self, op: Un, a: u64) -> u64 {
        op.eval(a)
    }
    fn select(&mut self, c: u64, a: u64, b: u64) -> u64 {
        if c != 0 { a } else { b }
    }
    fn load(&mut self, addr: u64, w: Width) -> Result<u64, Fault> {
        self.toy.load(addr, w)
    }
    fn store(&mut self, addr: u64, v: u64, w: Width) -> Result<(), Fault> {
        self.toy.store(addr, v, w)
    }
    fn amo(&mut self, op: Amo, addr: u64, v: u64, w: Width) -> Result<u64, Fault> {
        self.toy.amo(op, addr, v, w)
    }
    fn load_reserved(&mut self, addr: u64, w: Width) -> Result<u64, Fault> {
        self.toy.load_reserved(addr, w)
    }
    fn store_conditional(&mut self, addr: u64, v: u64, w: Width) -> Result<u64, Fault> {
        self.toy.store_conditional(addr, v, w)
    }
    fn cache_block(&mut self, op: Cbo, addr: u64) -> Result<(), Fault> {
        self.toy.cache_block(op, addr)
    }
    fn require_fp(&mut self) -> Result<(), Fault> {
        self.toy.require_fp()
    }
    fn fp(&mut self, op: Fp, fmt: Fmt, rm: u8, abc: [u64; 3]) -> Result<u64, Fault> {
        self.toy.fp(op, fmt, rm, abc)
    }
    fn csr(&mut self, op: CsrOp, csr: u16, src: u64, read: bool, write: bool) -> Result<u64, Fault> {
        self.toy.csr(op, csr, src, read, write)
    }
    fn system(&mut self, op: Sys) -> Result<(), Fault> {
        self.toy.note(Event::System(op));
        Ok(())
    }
    fn fence(&mut self, pred: u8, succ: u8) {
        self.toy.note(Event::Fence(pred, succ));
    }
    fn fence_vma(&mut self, op: VmaFence, va: Option<u64>, asid: Option<u64>) -> Result<(), Fault> {
        self.toy.note(Event::FenceVma(op, va, asid));
        Ok(())
    }
    fn jump(&mut self, off: i64) {
        self.next = self.toy.pc.wrapping_add_signed(off);
    }
    fn jump_to(&mut self, target: u64) {
        self.next = target;
    }
    fn branch(&mut self, cond: Cond, a: u64, b: u64, off: i64) {
        if cond.eval(a, b) {
            self.jump(off);
        }
    }
    fn illegal(&mut self, _insn: &Insn) -> Fault {
        Fault::Illegal
    }
}

const MEMORY: usize = 4096;

/// Values that meet corners and memory often.
fn random_value(rng: &mut SplitMix64) -> u64 {
    match rng.below(8) {
        0 => 0,
        1 => u64::MAX,
        2 => 1 << rng.below(64),
        3 => rng.below(4),
        4 => rng.next_u64(),
        _ => rng.below(MEMORY as u64 + 16),
    }
}

fn random_toy(rng: &mut SplitMix64, insn: &Insn) -> Toy {
    let mut toy = Toy::new(MEMORY);
    toy.x.fill_with(|| random_value(rng));
    toy.f.fill_with(|| random_value(rng));
    toy.memory.fill_with(|| rng.next_u64() as u8);
    toy.pc = 0x8000_0000 + rng.below(1 << 20) * 2;
    toy.fp_on = !rng.chance(10);
    toy.reserved = rng.chance(70).then(|| toy.x(insn.rs1));
    toy
}

/// Few registers, so that they coincide often.
fn aliasing(mut filter: Filter) -> Filter {
    let few = 1 | 1 << 1 | 1 << 2 | 1 << 8 | 1 << 9 | 1 << 31;
    (filter.x_dst, filter.x_src, filter.x_base) = (few, few, few);
    (filter.f_dst, filter.f_src) = (few, few);
    filter.reserved_rm = 10;
    filter
}

fn compare(rng: &mut SplitMix64, insn: &Insn) {
    let recording = record(insn).unwrap_or_else(|breach| panic!("{insn:?}: {breach}"));
    let start = random_toy(rng, insn);
    let (mut eager, mut lazy) = (start.clone(), start);
    let stops = (run_directly(insn, &mut eager), evaluate(&recording, &mut lazy));
    assert_eq!(stops.0, stops.1, "{insn:?}\n{recording:?}");
    assert_eq!(eager, lazy, "{insn:?}\n{recording:?}");
}

#[test]
fn every_row_means_the_same_eagerly_and_lazily() {
    let mut rng = SplitMix64::new(1);
    for op in Op::ALL {
        let mut filter = aliasing(Filter::new(Extensions::ALL).only(|other| other == *op));
        let mut aliased = 0;
        for compressed in [0, 100] {
            filter.compressed = compressed;
            for _ in 0..150 {
                let insn = random_insn(&mut rng, &filter).expect("every row is reachable");
                aliased += (insn.x_writes() & insn.x_reads() != 0) as u32;
                compare(&mut rng, &insn);
            }
        }
        let operands = op.form().operands();
        let can_alias = operands.first() == Some(&crate::Operand::Rd)
            && operands.iter().any(|o| matches!(o, crate::Operand::Rs1 | crate::Operand::Mem));
        assert!(aliased > 10 || !can_alias, "{op:?} met rd = rs1 only {aliased} times");
    }
}

/// The text, seen by the recorder, does what the row's effect column and operands say, and nothing else.
#[test]
fn the_effect_column_tells_the_truth() {
    let mut rng = SplitMix64::new(2);
    for op in Op::ALL {
        let filter = Filter::new(Extensions::ALL).only(|other| other == *op);
        for _ in 0..50 {
            let insn = random_insn(&mut rng, &filter).expect("every row is reachable");
            let nodes = record(&insn).expect("rules kept").nodes;
            let effect = op.effect();
            let any = |f: &dyn Fn(&Node) -> bool| nodes.iter().any(f);
            assert_eq!(any(&|n| n.can_stop()), effect.may_trap(), "{insn:?}");
            assert_eq!(any(&|n| *n == Node::RequireFp), effect.needs_fp(), "{insn:?}");
            let ends = any(&|n| {
                use Node::*;
                matches!(n, Jump(_) | JumpTo(_) | Branch(..) | Csr { .. } | System(_) | FenceVma(..))
            });
            assert_eq!(ends, effect.ends_block(), "{insn:?}");
            let reads = nodes.iter().find_map(|n| match n {
                Node::Load(_, w) | Node::LoadReserved(_, w) | Node::Amo(_, _, _, w) => Some(w.bytes() as u8),
                _ => None,
            });
            assert_eq!(reads, effect.reads(), "{insn:?}");
            let writes = nodes.iter().find_map(|n| match n {
                Node::Store(_, _, w) | Node::StoreConditional(_, _, w) | Node::Amo(_, _, _, w) => {
                    Some(w.bytes() as u8)
                }
                Node::CacheBlock(Cbo::Zero, _) => Some(0),
                _ => None,
            });
            assert_eq!(writes, effect.writes(), "{insn:?}");
            if effect == Effect::Pure {
                assert!(nodes.iter().all(|n| n.is_lazy() || matches!(n, Node::SetX(..))), "{insn:?}");
            }
            let set = |f: &dyn Fn(&Node) -> Option<Reg>| {
                nodes.iter().filter_map(f).fold(0u32, |set, r| set | 1 << r)
            };
            let x = |n: &Node| if let Node::X(r) = n { Some(*r) } else { None };
            let set_x = |n: &Node| if let Node::SetX(r, _) = n { Some(*r) } else { None };
            let f = |n: &Node| if let Node::F(r) = n { Some(*r) } else { None };
            let set_f = |n: &Node| if let Node::SetF(r, _) = n { Some(*r) } else { None };
            assert_eq!(set(&x) & !1, insn.x_reads(), "{insn:?}");
            assert_eq!(set(&set_x) & !1, insn.x_writes(), "{insn:?}");
            assert_eq!(set(&f), insn.f_reads(), "{insn:?}");
            assert_eq!(set(&set_f), insn.f_writes(), "{insn:?}");
        }
    }
}

/// JALR written without `hold`: right on the eager machine unless one looks at the rules.
fn jalr_without_hold<O: Ops>(o: &mut O) {
    let target = o.x(1);
    let link = o.pc_plus(4);
    o.set_x(1, link);
    o.jump_to(target);
}

#[test]
fn a_value_not_held_is_found_by_rule_and_by_result() {
    let mut recorder = Recorder::default();
    jalr_without_hold(&mut recorder);
    let nodes = recorder.nodes.clone();
    assert_eq!(recorder.finish(4), Err(Breach::NotHeld { node: 3 }));

    let mut toy = Toy::new(0);
    (toy.pc, toy.x[1]) = (0x100, 0x200);
    let mut eager = toy.clone();
    let mut direct = Direct { toy: &mut eager, next: 0 };
    jalr_without_hold(&mut direct);
    assert_eq!(direct.next, 0x200);
    evaluate(&Recording { nodes, len: 4 }, &mut toy).expect("nothing stops it");
    assert_eq!(toy.pc, 0x104, "read late, the register is already the link");
}

#[test]
fn a_stop_after_a_write_is_found() {
    let mut recorder = Recorder::default();
    let v = recorder.imm(0);
    recorder.set_f(3, v);
    let _ = recorder.load(v, Width::I32);
    assert_eq!(recorder.finish(4), Err(Breach::StopAfterWrite { node: 2 }));
}

#[test]
fn select_takes_either_side() {
    for (c, want) in [(0, 8), (2, 7)] {
        let mut recorder = Recorder::default();
        let (c, a, b) = (recorder.imm(c), recorder.imm(7), recorder.imm(8));
        let v = recorder.select(c, a, b);
        recorder.set_x(1, v);
        let mut toy = Toy::new(0);
        evaluate(&recorder.finish(4).expect("rules kept"), &mut toy).expect("nothing stops it");
        assert_eq!(toy.x[1], want);
    }
}

#[test]
fn csr_forms_read_and_write_by_register_number() {
    let access = |raw| {
        let insn = crate::decode(raw).expect("valid");
        let nodes = record(&insn).expect("rules kept").nodes;
        nodes.iter().find_map(|n| match n {
            Node::Csr { read, write, .. } => Some((*read, *write)),
            _ => None,
        })
    };
    let csr = |f3: u32, rs1: u32, rd: u32| access(0x3400_0073 | f3 << 12 | rs1 << 15 | rd << 7);
    for immediate in [0, 4] {
        assert_eq!(csr(1 + immediate, 0, 0), Some((false, true)));
        assert_eq!(csr(1 + immediate, 5, 6), Some((true, true)));
        for f3 in [2, 3] {
            assert_eq!(csr(f3 + immediate, 0, 0), Some((true, false)));
            assert_eq!(csr(f3 + immediate, 5, 0), Some((true, true)));
        }
    }
}
