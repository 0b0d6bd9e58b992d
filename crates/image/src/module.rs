//! One kernel module: what it needs, and its bytes without Debian's signature.
//!
//! A module is an ELF object; its section `.modinfo` holds `name=value` strings (Linux
//! include/linux/moduleinfo.h), after its end may follow a signature with a fixed trailer (Linux
//! scripts/sign-file.c). Checking that signature costs the guest about 0.2 G instructions a module, and
//! Debian's kernel does not require it: we cut it off. The host verified the package already; the guest
//! kernel notes a taint ("unsigned module"), which is the visible cost.

use crate::error::{Error, Result};

const MAGIC: &[u8] = b"~Module signature appended~\n";
/// `struct module_signature`: six bytes of kinds and lengths, two of padding, a big-endian length.
const INFO: usize = 12;

/// The module without its signature; unchanged if it has none or the trailer is nonsense.
pub(crate) fn without_signature(module: &[u8]) -> &[u8] {
    let cut = || {
        let body = module.strip_suffix(MAGIC)?;
        let info = body.len().checked_sub(INFO)?;
        let len = u32::from_be_bytes(body.get(info.checked_add(8)?..)?.try_into().ok()?);
        body.get(..info.checked_sub(usize::try_from(len).ok()?)?)
    };
    cut().unwrap_or(module)
}

/// What a module says it needs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    /// Modules whose symbols it uses.
    pub depends: Vec<String>,
    /// Modules (or aliases) that should be loaded before it, if they exist.
    pub soft: Vec<String>,
}

/// Reads `.modinfo`.
///
/// # Errors
/// [`Error::Malformed`] if it is no 64-bit little-endian ELF object with such a section.
pub(crate) fn needs(name: &str, module: &[u8]) -> Result<Needs> {
    let info = section(module, ".modinfo")
        .ok_or_else(|| Error::malformed(format!("kernel module {name}"), "it has no .modinfo"))?;
    let mut needs = Needs::default();
    for line in info.split(|b| *b == 0).filter_map(|l| std::str::from_utf8(l).ok()) {
        if let Some(list) = line.strip_prefix("depends=") {
            needs.depends.extend(list.split(',').filter(|d| !d.is_empty()).map(canonical));
        } else if let Some(soft) = line.strip_prefix("softdep=") {
            let before = soft.trim().strip_prefix("pre:").map(|p| p.split("post:").next().unwrap_or(""));
            needs.soft.extend(before.unwrap_or("").split_whitespace().map(canonical));
        }
    }
    Ok(needs)
}

/// Modules are named with `_` where their files may have `-`.
pub(crate) fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

fn section<'a>(elf: &'a [u8], name: &str) -> Option<&'a [u8]> {
    if elf.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let half =
        |at: usize| Some(usize::from(u16::from_le_bytes(elf.get(at..at.checked_add(2)?)?.try_into().ok()?)));
    let word = |at: usize| {
        usize::try_from(u32::from_le_bytes(elf.get(at..at.checked_add(4)?)?.try_into().ok()?)).ok()
    };
    let long = |at: usize| {
        usize::try_from(u64::from_le_bytes(elf.get(at..at.checked_add(8)?)?.try_into().ok()?)).ok()
    };
    let (table, size, count, names) = (long(40)?, half(58)?, half(60)?, half(62)?);
    let header = |i: usize| table.checked_add(size.checked_mul(i)?);
    let body = |i: usize| {
        let h = header(i)?;
        let start = long(h.checked_add(24)?)?;
        elf.get(start..start.checked_add(long(h.checked_add(32)?)?)?)
    };
    let strings = body(names)?;
    (0..count).find_map(|i| {
        let tail = strings.get(word(header(i)?)?..)?;
        (tail.split(|b| *b == 0).next()? == name.as_bytes()).then(|| body(i))?
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A smallest ELF object with a `.modinfo` section.
    pub(crate) fn module_of(modinfo: &[u8]) -> Vec<u8> {
        let names = b"\0.shstrtab\0.modinfo\0";
        let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
        elf.resize(64, 0);
        let at_names = elf.len() as u64;
        elf.extend(names);
        let at_info = elf.len() as u64;
        elf.extend(modinfo);
        let table = elf.len() as u64;
        for (name, at, len) in
            [(0u32, 0u64, 0u64), (1, at_names, names.len() as u64), (11, at_info, modinfo.len() as u64)]
        {
            let mut h = vec![0u8; 64];
            h[..4].copy_from_slice(&name.to_le_bytes());
            h[24..32].copy_from_slice(&at.to_le_bytes());
            h[32..40].copy_from_slice(&len.to_le_bytes());
            elf.extend(h);
        }
        elf[40..48].copy_from_slice(&table.to_le_bytes());
        elf[58..60].copy_from_slice(&64u16.to_le_bytes());
        elf[60..62].copy_from_slice(&3u16.to_le_bytes());
        elf[62..64].copy_from_slice(&1u16.to_le_bytes());
        elf
    }

    #[test]
    fn needs_are_read() {
        let m = module_of(b"license=GPL\0depends=jbd2,crc-x\0softdep=pre: crc32c post: late\0");
        let n = needs("ext4", &m).unwrap();
        assert_eq!((n.depends, n.soft), (vec!["jbd2".to_owned(), "crc_x".into()], vec!["crc32c".to_owned()]));
        assert_eq!(needs("x", &module_of(b"depends=\0")).unwrap(), Needs::default());
        assert!(needs("x", b"\x7fELF\x02\x01").is_err());
    }

    #[test]
    fn signatures_are_cut() {
        let mut m = b"module".to_vec();
        m.extend(b"0123456789");
        m.extend([0, 0, 2, 0, 0, 0, 0, 0]);
        m.extend(10u32.to_be_bytes());
        m.extend(MAGIC);
        assert_eq!(without_signature(&m), b"module");
        assert_eq!(without_signature(b"plain"), b"plain");
        let long = [&[0xffu8; 20][..], MAGIC].concat();
        assert_eq!(without_signature(&long), &long[..]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_safe(mut b in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = needs("x", &b);
            if b.len() > 6 { b[..6].copy_from_slice(b"\x7fELF\x02\x01"); }
            let _ = needs("x", &b);
            b.extend(MAGIC);
            without_signature(&b);
        }
    }
}
