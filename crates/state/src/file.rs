//! A state file: the states of all parts of one machine, as one block of bytes that can be checked.
//!
//! ```text
//! file   := magic:8 "strataST"  format:u32 = 1  header  count:u32  part*  sum:32
//! header := len:u32  record "state-header"
//! part   := name_len:u8  name:bytes  len:u32  record:bytes
//! sum    := SHA-256 of everything before it
//! ```
//! Little-endian throughout. The magic, the format and the record `state-header` are for life: every later build can
//! say who wrote a file and what it takes to read it, even if it cannot read it. What a reader must understand is
//! listed there as features; one that it does not know is refused by name. Parts stand in the order in which they are
//! loaded, each name once.
//!
//! Deliberately not here: what the parts mean (their records say), memory and disks.

use crate::{Reader, StateError, Value, read_record, write_record};
use sha2::{Digest, Sha256};

const MAGIC: &[u8; 8] = b"strataST";
const FORMAT: u32 = 1;
const SUM: usize = 32;
/// Most parts: 64 harts and far more devices than any board has.
const MAX_PARTS: u32 = 4096;

/// What a build must know to read a file that needs it: the guest's time is counted in instructions.
pub const DETERMINISTIC: &str = "deterministic";
const KNOWN: [&str; 1] = [DETERMINISTIC];

crate::state! {
    /// Who wrote a state file, and what it is of.
    pub struct StateHeader("state-header", 1) {
        /// The program and its version, for people.
        1 producer: String,
        /// What a reader must understand.
        2 features: Vec<String>,
        /// The board.
        3 board: String,
        /// The kind of engine: not how it runs code, which leaves no trace in a state.
        4 engine: String,
    }
}

/// The states of all parts, by name, in the order in which they are loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateFile {
    /// Who wrote it, and what it is of.
    pub header: StateHeader,
    /// Name and record of each part.
    pub parts: Vec<(String, Vec<u8>)>,
}

fn invalid(why: String) -> StateError {
    StateError::Invalid { id: "state file".into(), why }
}

impl StateFile {
    /// As bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        FORMAT.put(&mut out);
        block(&mut out, &write_record(&self.header));
        (self.parts.len() as u32).put(&mut out);
        for (name, record) in &self.parts {
            debug_assert!(name.len() < 256, "a part's name is too long: {name}");
            out.push(name.len() as u8);
            out.extend_from_slice(name.as_bytes());
            block(&mut out, record);
        }
        let sum = Sha256::digest(&out);
        out.extend_from_slice(&sum);
        out
    }

    /// Reads one.
    ///
    /// # Errors
    /// It is no state file, cut short, damaged, or needs what this build does not know.
    pub fn parse(bytes: &[u8]) -> Result<StateFile, StateError> {
        let mut r = Reader::new(bytes);
        if r.bytes(MAGIC.len(), "state file")? != MAGIC {
            return Err(invalid("it does not begin as a state file does".into()));
        }
        let format = u32::get(&mut r)?;
        if format != FORMAT {
            return Err(invalid(format!(
                "its format is {format}, this build reads {FORMAT}; use a newer strata"
            )));
        }
        let split =
            bytes.len().checked_sub(SUM).ok_or_else(|| StateError::Short { what: "state file".into() })?;
        let (content, sum) = bytes.split_at(split);
        if Sha256::digest(content)[..] != *sum {
            return Err(invalid("its checksum is wrong: it is damaged or cut short".into()));
        }
        let mut r = Reader::new(content.get(MAGIC.len() + 4..).unwrap_or_default());
        let header = read_record::<StateHeader>(read_block(&mut r)?)?;
        if let Some(f) = header.features.iter().find(|f| !KNOWN.contains(&f.as_str())) {
            let who = &header.producer;
            return Err(invalid(format!("{who} wrote it with `{f}`, which this build does not know")));
        }
        let count = u32::get(&mut r)?;
        if count > MAX_PARTS {
            return Err(invalid(format!("it has {count} parts")));
        }
        let mut parts: Vec<(String, Vec<u8>)> = Vec::new();
        for _ in 0..count {
            let len = u8::get(&mut r)?;
            let name = std::str::from_utf8(r.bytes(len.into(), "state file")?)
                .map_err(|_| invalid("a part's name is not UTF-8".into()))?;
            if parts.iter().any(|(n, _)| n == name) {
                return Err(invalid(format!("part {name} stands twice")));
            }
            parts.push((name.to_owned(), read_block(&mut r)?.to_vec()));
        }
        match r.remaining() {
            0 => Ok(StateFile { header, parts }),
            n => Err(invalid(format!("{n} bytes follow its last part"))),
        }
    }
}

fn block(out: &mut Vec<u8>, bytes: &[u8]) {
    (bytes.len() as u32).put(out);
    out.extend_from_slice(bytes);
}

fn read_block<'a>(r: &mut Reader<'a>) -> Result<&'a [u8], StateError> {
    let len = u32::get(r)?;
    r.bytes(len as usize, "state file")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(features: &[&str]) -> StateFile {
        let header = StateHeader {
            producer: "strata 0".into(),
            features: features.iter().map(|f| (*f).to_owned()).collect(),
            board: "b".into(),
            engine: "soft".into(),
        };
        StateFile { header, parts: vec![("a".into(), vec![1, 2]), ("b".into(), vec![])] }
    }

    #[test]
    fn what_is_written_is_read_to_the_byte() {
        let f = file(&[DETERMINISTIC]);
        let read = StateFile::parse(&f.bytes()).unwrap();
        assert_eq!((&read, read.bytes()), (&f, f.bytes()));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_told() {
        let bytes = file(&[]).bytes();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut b = bytes.clone();
                b[at] ^= 1 << bit;
                assert!(StateFile::parse(&b).is_err(), "byte {at} bit {bit}");
            }
            assert!(StateFile::parse(&bytes[..at]).is_err(), "cut at {at}");
        }
        assert!(StateFile::parse(&[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn what_it_takes_to_read_it_is_named() {
        let e = StateFile::parse(&file(&["warp-drive"]).bytes()).unwrap_err().to_string();
        assert!(e.contains("strata 0") && e.contains("warp-drive"), "{e}");
        let mut f = file(&[]);
        f.parts.push(("a".into(), vec![]));
        assert!(StateFile::parse(&f.bytes()).unwrap_err().to_string().contains("part a stands twice"));
    }
}
