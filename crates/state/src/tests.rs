use crate::*;
use proptest::prelude::*;

state! {
    /// Inner.
    pub struct Inner("inner", 1) { 1 a: u16 }
}
state! {
    /// Outer.
    pub struct Outer("outer", 3) {
        1 n: u64,
        2 list: Vec<u8>,
        4 text: String,
        5 inner: Vec<Inner>,
        6 arr: [u32; 3],
        7 opt: Option<bool>,
        9 late: u8 = 42,
    }
}
state! {
    /// The same record as an older build wrote it.
    pub struct OldOuter("outer", 2) {
        1 n: u64,
        2 list: Vec<u8>,
        4 text: String,
        5 inner: Vec<Inner>,
        6 arr: [u32; 3],
        7 opt: Option<bool>,
    }
}

fn outer() -> impl Strategy<Value = Outer> {
    (
        any::<u64>(),
        any::<Vec<u8>>(),
        any::<String>(),
        any::<Vec<u16>>(),
        any::<[u32; 3]>(),
        any::<Option<bool>>(),
    )
        .prop_map(|(n, list, text, inner, arr, opt)| Outer {
            n,
            list,
            text,
            inner: inner.into_iter().map(|a| Inner { a }).collect(),
            arr,
            opt,
            late: 1,
        })
}

proptest! {
    #[test]
    fn what_is_written_is_read(o in outer()) {
        prop_assert_eq!(read_record::<Outer>(&write_record(&o)).unwrap(), o);
    }

    #[test]
    fn damage_is_an_error_or_a_value(o in outer(), at in any::<prop::sample::Index>(), with in any::<u8>()) {
        let mut b = write_record(&o);
        let at = at.index(b.len());
        b[at] = with;
        let _ = read_record::<Outer>(&b);
        b.truncate(at);
        prop_assert!(read_record::<Outer>(&b).is_err());
    }
}

#[test]
fn an_older_version_loads_with_defaults() {
    let old = OldOuter { n: 1, list: vec![2], text: "x".into(), inner: vec![], arr: [1, 2, 3], opt: None };
    let new = read_record::<Outer>(&write_record(&old)).unwrap();
    assert_eq!((new.n, new.late), (1, 42));
}

#[test]
fn a_newer_version_and_unknown_fields_are_refused_by_name() {
    let o = Outer { n: 1, list: vec![], text: "".into(), inner: vec![], arr: [0; 3], opt: None, late: 0 };
    let mut b = write_record(&o);
    assert!(matches!(read_record::<OldOuter>(&b), Err(StateError::Newer { found: 3, known: 2, .. })));
    b[6] = 2; // version: the id is 5 bytes long
    assert!(matches!(read_record::<OldOuter>(&b), Err(StateError::UnknownField { number: 9, .. })));
}

#[test]
fn the_schema_lists_nested_records() {
    let text = Outer::schema_text();
    assert!(text.contains("inner v1\n  1 a: u16\n"), "{text}");
    assert!(text.contains("outer v3\n  1 n: u64\n"), "{text}");
    assert!(text.contains("  5 inner: [record inner]\n"), "{text}");
}

/// A part whose reset forgets something is caught by the laws.
struct Forgetful {
    s: Inner,
    extra: u16,
}
impl Stateful for Forgetful {
    type State = Inner;
    fn state(&self) -> Inner {
        Inner { a: self.s.a.wrapping_add(self.extra) }
    }
    fn reset_state(&self) -> Inner {
        Inner { a: 0 }
    }
    fn set_state(&mut self, state: Inner) {
        self.s = state;
    }
    fn settle(&mut self) {}
}

#[test]
fn the_laws_catch_state_outside_the_record() {
    assert!(laws::check(&mut Forgetful { s: Inner { a: 3 }, extra: 0 }).is_ok());
    assert!(laws::check(&mut Forgetful { s: Inner { a: 3 }, extra: 1 }).is_err());
}
