//! Order of Debian version numbers. deb-version(7): `[epoch:]upstream[-revision]`; runs of digits
//! compare as numbers, all else by characters where `~` sorts before the end, and letters before the
//! rest.

use std::cmp::Ordering;

/// How `a` stands to `b` in Debian's order. Any text has a place; a malformed epoch counts as 0.
pub fn compare(a: &str, b: &str) -> Ordering {
    let (ea, ua, ra) = split(a);
    let (eb, ub, rb) = split(b);
    ea.cmp(&eb).then_with(|| part(ua, ub)).then_with(|| part(ra, rb))
}

/// Whether `have` satisfies `relation want`, where the relation is one of `<<`, `<=`, `=`, `>=`, `>>`
/// (and the old `<`, `>`, which mean `<=`, `>=`). An unknown relation is not satisfied.
pub fn satisfies(have: &str, relation: &str, want: &str) -> bool {
    let order = compare(have, want);
    match relation {
        "<<" => order.is_lt(),
        "<=" | "<" => order.is_le(),
        "=" => order.is_eq(),
        ">=" | ">" => order.is_ge(),
        ">>" => order.is_gt(),
        _ => false,
    }
}

fn split(version: &str) -> (u64, &str, &str) {
    let version = version.trim();
    let (epoch, rest) = match version.split_once(':') {
        Some((e, rest)) => (e.parse().unwrap_or(0), rest),
        None => (0, version),
    };
    let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
    (epoch, upstream, revision)
}

fn part(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    while !a.is_empty() || !b.is_empty() {
        let (text_a, rest_a) = take(a, |c| !c.is_ascii_digit());
        let (text_b, rest_b) = take(b, |c| !c.is_ascii_digit());
        let (num_a, next_a) = take(rest_a, |c| c.is_ascii_digit());
        let (num_b, next_b) = take(rest_b, |c| c.is_ascii_digit());
        let order = text(text_a, text_b).then_with(|| number(num_a, num_b));
        if order.is_ne() {
            return order;
        }
        (a, b) = (next_a, next_b);
    }
    Ordering::Equal
}

fn take(s: &[u8], keep: impl Fn(&u8) -> bool) -> (&[u8], &[u8]) {
    s.split_at(s.iter().position(|c| !keep(c)).unwrap_or(s.len()))
}

fn text(a: &[u8], b: &[u8]) -> Ordering {
    let len = a.len().max(b.len());
    (0..len).map(|i| weight(a.get(i)).cmp(&weight(b.get(i)))).find(|o| o.is_ne()).unwrap_or(Ordering::Equal)
}

/// `~` before the end, the end before letters, letters before everything else.
fn weight(c: Option<&u8>) -> i32 {
    match c {
        Some(b'~') => -1,
        None => 0,
        Some(c) if c.is_ascii_alphabetic() => i32::from(*c),
        Some(c) => i32::from(*c).saturating_add(256),
    }
}

/// Numbers of any length: without leading zeros, the longer is the greater.
fn number(a: &[u8], b: &[u8]) -> Ordering {
    let (_, a) = take(a, |c| *c == b'0');
    let (_, b) = take(b, |c| *c == b'0');
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_orders() {
        let rising = [
            "~~",
            "~~a",
            "~",
            "",
            "0.9",
            "1.0~rc1-1",
            "1.0-1~deb13u1",
            "1.0-1",
            "1.0-1+b1",
            "1.0-1.1",
            "1.0-2",
            "1.0a-1",
            "1.0+dfsg-1",
            "1.2.3-1",
            "1.10-1",
            "1:0.1",
            "2:0",
        ];
        for (i, a) in rising.iter().enumerate() {
            for (j, b) in rising.iter().enumerate() {
                assert_eq!(compare(a, b), i.cmp(&j), "{a} against {b}");
            }
        }
        assert!(compare("1.0", "1.0-0").is_eq() && compare("0:1.00", "1.0").is_eq());
        assert!(
            satisfies("2.43-3", ">=", "2.34")
                && !satisfies("2.34", ">>", "2.34")
                && !satisfies("1", "?", "1")
        );
    }

    proptest! {
        #[test]
        fn is_an_order(v in prop::collection::vec("([0-9]:)?[0-9a-z.+~]{0,6}(-[0-9a-z.+~]{0,3})?", 3)) {
            let (a, b, c) = (&v[0], &v[1], &v[2]);
            prop_assert_eq!(compare(a, b), compare(b, a).reverse());
            prop_assert!(compare(a, a).is_eq());
            if compare(a, b).is_le() && compare(b, c).is_le() {
                prop_assert!(compare(a, c).is_le());
            }
        }

        #[test]
        fn any_text_compares(a in "\\PC{0,30}", b in "\\PC{0,30}") {
            compare(&a, &b);
        }
    }
}
