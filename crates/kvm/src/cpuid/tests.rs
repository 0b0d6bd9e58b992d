use super::*;

#[test]
fn every_level_is_made_of_flags_that_have_a_place() {
    for name in BASE.iter().chain(V2).chain(V3).chain(V4) {
        assert!(FLAGS.iter().any(|f| f.name == *name), "{name} has no place");
    }
    for (i, f) in FLAGS.iter().enumerate() {
        let place = |f: &Flag| (f.leaf, f.subleaf, f.register as u8, f.bit);
        for g in &FLAGS[..i] {
            assert!(f.name != g.name && place(f) != place(g), "{} and {}", f.name, g.name);
        }
    }
}

#[test]
fn models_are_read_as_they_are_written() {
    for text in ["host", "x86-64-v2", "x86-64-v3", "x86-64-v4", "avx2", "popcnt,aes"] {
        assert_eq!(text.parse::<CpuModel>().unwrap().to_string(), text);
    }
    for text in ["x86-64-v5", "", "popcnt,", "avx3"] {
        assert!(text.parse::<CpuModel>().is_err(), "{text}");
    }
    let said = "avx3".parse::<CpuModel>().unwrap_err().to_string();
    assert!(said.contains("`avx3`") && said.contains("x86-64-v3"), "{said}");
}

fn leaf(function: u32, index: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> kvm_cpuid_entry2 {
    let flags = if [4, 7, 0xb, 0xd].contains(&function) { HAS_SUBLEAVES } else { 0 };
    kvm_cpuid_entry2 { function, index, flags, eax, ebx, ecx, edx, ..Default::default() }
}

#[test]
fn a_vcpu_finds_its_number_wherever_it_looks() {
    let mut leaves = Leaves(vec![
        leaf(1, 0, [0, 0xffff_ff10, 0, 0]),
        leaf(4, 0, [0xffff_c121, 0, 0, 0]),
        leaf(0xb, 0, [9; 4]),
        leaf(0x8000_0008, 0, [0, 0, u32::MAX, 0]),
    ]);
    leaves.number(5, 6);
    let row = |f: u32, i: u32| {
        leaves
            .0
            .iter()
            .find(|e| (e.function, e.index) == (f, i))
            .map(|e| [e.eax, e.ebx, e.ecx, e.edx])
            .unwrap()
    };
    assert_eq!(row(1, 0), [0, 5 << 24 | 6 << 16 | 0xff10, 0, 1 << 28]);
    assert_eq!(row(4, 0)[0] >> 26, 7);
    assert_eq!(row(0xb, 0), [0, 1, 1 << 8, 5]);
    assert_eq!(row(0xb, 1), [3, 6, 0x201, 5]);
    assert_eq!(row(0x8000_0008, 0)[2], !0xf0ff | 3 << 12 | 5);
    let again = Leaves::from_rows(&leaves.rows());
    assert_eq!(again.rows(), leaves.rows());
}
