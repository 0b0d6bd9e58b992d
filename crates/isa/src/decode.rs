//! From bits to an [`Insn`].
//!
//! An index built once from the rows narrows a word to the few rows that can match it; then they are tried in the
//! table's order. 32-bit words are indexed by funct7, funct3 and the major opcode (bits 31:25, 14:12, 6:2), compressed
//! ones by their quadrant and funct3. A property test compares with a linear search over the rows.

use std::sync::LazyLock;

use crate::insn::Insn;
use crate::table::{Extensions, ROWS, RVC, Row};

/// Decodes the instruction whose first 32 bits are `raw`; where the low two bits are not 3 it is a compressed one and
/// the upper half is not looked at.
///
/// # Errors
/// The bits of an instruction that no row matches, as `xtval` reports them: 16 of them for a compressed one.
pub fn decode(raw: u32) -> Result<Insn, u32> {
    decode_with(raw, Extensions::ALL)
}

/// [`decode`], for a hart with only these extensions. A compressed instruction needs `C` and what it expands to.
///
/// # Errors
/// As for [`decode`].
pub fn decode_with(raw: u32, extensions: Extensions) -> Result<Insn, u32> {
    let index = &*INDEX;
    let (word, len, rows, list) = if raw & 3 == 3 {
        (raw, 4, &ROWS[..], index.wide[wide_key(raw)])
    } else {
        (raw & 0xffff, 2, &RVC[..], index.narrow[narrow_key(raw)])
    };
    let candidates = index.rows.get(list.0 as usize..list.1 as usize).unwrap_or(&[]);
    for row in candidates.iter().filter_map(|&n| rows.get(n as usize)) {
        if row.code.matches(word) && extensions.has(row.ext) && extensions.has(row.op.row().ext) {
            return Ok(take_apart(row, word, len));
        }
    }
    Err(word)
}

#[inline]
pub(crate) fn take_apart(row: &Row, word: u32, len: u8) -> Insn {
    let c = &row.code;
    Insn {
        op: row.op,
        rd: c.rd.get(word),
        rs1: c.rs1.get(word),
        rs2: c.rs2.get(word),
        rs3: c.rs3.get(word),
        rm: c.rm.get(word),
        len,
        imm: c.imm.get(word),
        raw: word,
    }
}

/// The compressed row that matches these 16 bits.
pub(crate) fn compressed_row(raw: u32) -> Option<&'static Row> {
    let word = raw & 0xffff;
    RVC.iter().find(|row| row.code.matches(word))
}

const WIDE: u32 = 0xfe00_707c;
const NARROW: u32 = 0xe003;

#[inline]
const fn wide_key(word: u32) -> usize {
    (word >> 25 << 8 | (word >> 12 & 7) << 5 | word >> 2 & 31) as usize
}

#[inline]
const fn narrow_key(word: u32) -> usize {
    (word >> 13 << 2 & 0x1c | word & 3) as usize
}

/// Lists of candidates: ranges of `rows`, which holds row numbers.
struct Index {
    wide: Box<[(u16, u16)]>,
    narrow: [(u16, u16); 32],
    rows: Vec<u16>,
}

static INDEX: LazyLock<Index> = LazyLock::new(|| {
    let mut rows = Vec::new();
    let mut wide = vec![(0, 0); 1 << 15];
    fill(&mut wide, &mut rows, &ROWS, WIDE, wide_key);
    let mut narrow = [(0, 0); 32];
    fill(&mut narrow, &mut rows, &RVC, NARROW, narrow_key);
    Index { wide: wide.into(), narrow, rows }
});

/// Makes the table by which instructions are decoded, some hundred microseconds, so that the first one does not wait for it.
pub fn prepare() {
    LazyLock::force(&INDEX);
}

/// Points every key at the list of the rows that some word with that key matches, equal lists once. The first instruction of
/// every machine waits for this: keys are never listed one by one, but divided, row by row, into classes that the same rows
/// match.
fn fill(index: &mut [(u16, u16)], rows: &mut Vec<u16>, table: &[Row], key_bits: u32, key: fn(u32) -> usize) {
    let mut class = vec![0u16; index.len()];
    let mut lists: Vec<Vec<u16>> = vec![Vec::new()];
    for (n, row) in table.iter().enumerate() {
        let free = key_bits & !row.code.mask;
        // What becomes of those of a class that the row matches too.
        let mut divided: Vec<Option<u16>> = vec![None; lists.len()];
        // Every setting of the key's bits that the row leaves free, from none set to all of them.
        let mut setting = 0u32;
        loop {
            let of = &mut class[key(row.code.bits | setting)];
            let old = usize::from(*of);
            *of = *divided[old].get_or_insert_with(|| {
                let mut list = lists[old].clone();
                list.push(n as u16);
                lists.push(list);
                (lists.len() - 1) as u16
            });
            setting = setting.wrapping_sub(free) & free;
            if setting == 0 {
                break;
            }
        }
    }
    let mut places = vec![None; lists.len()];
    for (slot, class) in index.iter_mut().zip(class) {
        *slot = *places[usize::from(class)].get_or_insert_with(|| {
            let start = rows.len() as u16;
            rows.extend(&lists[usize::from(class)]);
            (start, rows.len() as u16)
        });
    }
}

#[cfg(test)]
#[path = "decode/tests.rs"]
mod tests;
