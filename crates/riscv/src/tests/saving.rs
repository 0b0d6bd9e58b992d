use super::fixture::*;
use strata_engine::{Stop, Vcpu};
use strata_isa::Op;
use strata_state::{Part, Stateful, laws};

/// A loop that counts, with a call in it.
fn counting() -> Vec<u32> {
    vec![
        addi(5, 5, 1),
        insn(Op::Xor, 6, 6, 5, 0),
        insn(Op::LrD, 8, 9, 0, 0),
        insn(Op::ScD, 7, 9, 6, 0),
        insn(Op::Bne, 0, 5, 10, -16),
        bare(Op::Ecall),
        insn(Op::Jal, 0, 0, 0, -24),
    ]
}

fn machine() -> Machine {
    let mut m = Machine::kernel(&counting());
    let c = m.core();
    (c.x[9], c.x[10]) = (BASE + 0x1000, 1000);
    m
}

#[test]
fn the_laws_of_parts_hold() {
    let mut m = machine();
    m.hart.run();
    m.hart.shared().latch(1);
    laws::check(&mut m.hart).unwrap();
    let mut firmware = Machine::new(&[]);
    laws::check(&mut firmware.hart).unwrap();
}

#[test]
fn a_loaded_hart_goes_on_identically() {
    let mut whole = machine();
    assert!(matches!(whole.hart.run(), Stop::FirmwareCall(_)));
    whole.core().x[10] = 2000;
    assert!(matches!(whole.hart.run(), Stop::FirmwareCall(_)));

    let mut first = machine();
    assert!(matches!(first.hart.run(), Stop::FirmwareCall(_)));
    first.core().x[10] = 2000;
    let saved = first.hart.save();
    let mut second = machine();
    let word = first.get(BASE + 0x1000);
    second.put(BASE + 0x1000, word);
    second.hart.load(&saved).unwrap();
    assert!(matches!(second.hart.run(), Stop::FirmwareCall(_)));
    assert_eq!(second.hart.state(), whole.hart.state());
    assert_eq!(second.get(BASE + 0x1000), whole.get(BASE + 0x1000));
}

#[test]
fn states_that_no_guest_could_reach_are_refused() {
    let hart = Machine::new(&[]).hart;
    let good = hart.state();
    let bad: [fn(&mut crate::HartState); 9] = [
        |s| s.x[0] = 1,
        |s| s.pc = 1,
        |s| s.privilege = 2,
        |s| s.mstatus = 0,
        |s| s.satp = 1 << 60,
        |s| s.mip = 1 << 11,
        |s| s.pmpcfg[3] = 2,
        |s| s.menvcfg = 2 << 4,
        |s| s.reserved = true,
    ];
    for (n, spoil) in bad.into_iter().enumerate() {
        let mut s = good.clone();
        spoil(&mut s);
        assert!(hart.check(&s).is_err(), "{n}");
    }
    assert!(hart.check(&good).is_ok());
}

/// Where what earlier builds wrote is kept. A new version of the record gets files of its own beside these.
const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/golden");

/// Set to write the golden files of the current version instead of comparing with them.
const BLESS: &str = "STRATA_BLESS";

#[test]
fn the_saved_form_is_the_committed_one() {
    use strata_state::Record;
    let mut m = machine();
    assert!(matches!(m.hart.run(), Stop::FirmwareCall(_)));
    m.core().f[3] = 0x4009_21fb_5444_2d18;
    // As harts began when the file was written.
    m.core().csr.scounteren = 0;
    let (bytes, schema) = (m.hart.save(), crate::HartState::schema_text());
    let (state_file, schema_file) = (format!("{GOLDEN}/hart-v1.bin"), format!("{GOLDEN}/hart-v1.schema"));
    if std::env::var_os(BLESS).is_some() {
        std::fs::write(&state_file, &bytes).unwrap();
        std::fs::write(&schema_file, &schema).unwrap();
    }
    assert_eq!(std::fs::read_to_string(schema_file).unwrap(), schema);
    let golden = std::fs::read(state_file).unwrap();
    assert!(golden == bytes, "a hart is saved otherwise than before: make a new version of the record");
    let mut other = Machine::kernel(&[]).hart;
    other.load(&golden).unwrap();
    assert_eq!(other.state(), m.hart.state());
}
