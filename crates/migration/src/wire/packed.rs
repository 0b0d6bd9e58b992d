//! What travels compressed (version 3): pieces of files, each a block of LZ4, and batches of pages, which have the same runs as
//! others, and for each page of data a block by itself.
//!
//! ```text
//! payload := runs:u32  run*  length:u16*  blocks
//! ```
//! There is a length for each page of data, in their order: that of its block, or 4096 where it is the page as it is. A
//! block must give exactly a page; nothing is ever written beyond the pages that the runs are of, whatever a block says.
//!
//! Pages by themselves and not the batch as a whole: what shrinks and what does not lie side by side in a guest's memory.

use super::pages::{BATCH, Pages, SIZE};
use super::{MAX_PIECE, WireError};
use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size};

/// Bytes of a length.
pub(super) const LENGTH: usize = 2;
/// A page that does not shrink below this travels as it is: whoever takes it would spend more than the link saves.
const WORTH: usize = SIZE / 8 * 7;
/// Pages by which a batch is known that does not shrink.
const SAMPLE: usize = 8;

/// Compresses batches, one at a time.
pub struct Packer {
    table: CompressTable,
    out: Vec<u8>,
}

impl Default for Packer {
    fn default() -> Self {
        Packer {
            table: CompressTable::small(),
            out: vec![0; BATCH * (LENGTH + SIZE) + get_maximum_output_size(SIZE)],
        }
    }
}

impl Packer {
    /// The same batch in less bytes; none if it does not shrink enough to be worth it, which its first pages tell.
    pub fn pack<'a>(&'a mut self, batch: &Pages<'a>) -> Option<Pages<'a>> {
        let pages = batch.data.len() / SIZE;
        let blocks = pages * LENGTH;
        let mut at = blocks;
        for (n, page) in batch.data.chunks_exact(SIZE).enumerate() {
            let room = self.out.get_mut(at..)?;
            let len = match compress_into_with_table(page, room, &mut self.table) {
                Ok(len) if len < WORTH => len,
                _ => {
                    room.get_mut(..SIZE)?.copy_from_slice(page);
                    SIZE
                }
            };
            self.out.get_mut(n * LENGTH..)?.get_mut(..LENGTH)?.copy_from_slice(&(len as u16).to_le_bytes());
            at += len;
            if n + 1 == SAMPLE && at - blocks >= SAMPLE * WORTH {
                return None;
            }
        }
        (at < pages * WORTH).then_some(())?;
        Some(batch.clone().with_packed(self.out.get(..at)?))
    }
}

/// Compresses pieces of files, one at a time, each as a whole: there a larger window is worth more than what lies in the
/// cache.
pub struct PiecePacker {
    table: CompressTable,
    out: Vec<u8>,
}

impl Default for PiecePacker {
    fn default() -> Self {
        PiecePacker { table: CompressTable::large(), out: vec![0; get_maximum_output_size(MAX_PIECE)] }
    }
}

impl PiecePacker {
    /// The block that a piece is; none if it does not shrink enough to be worth it.
    pub fn pack(&mut self, piece: &[u8]) -> Option<&[u8]> {
        let (sample, worth) = (piece.get(..SIZE * SAMPLE).unwrap_or(piece), |len| len / 8 * 7);
        let tried = compress_into_with_table(sample, &mut self.out, &mut self.table).ok()?;
        if tried >= worth(sample.len()) {
            return None;
        }
        let len = compress_into_with_table(piece, &mut self.out, &mut self.table).ok()?;
        if len < worth(piece.len()) { self.out.get(..len) } else { None }
    }
}

/// Puts what the block at `block` of `buf` is behind it, and gives that. It is `len` bytes.
///
/// # Errors
/// It is of something else.
pub(super) fn unpack_piece(buf: &mut Vec<u8>, block: usize, len: usize) -> Result<&[u8], WireError> {
    if len > MAX_PIECE {
        return Err(WireError::Protocol("a compressed piece of a file is too long"));
    }
    let end = buf.len();
    buf.resize(end + len, 0);
    let (payload, piece) = buf.split_at_mut(end);
    match decompress_into(payload.get(block..).unwrap_or_default(), piece) {
        Ok(n) if n == len => Ok(piece),
        _ => Err(WireError::Protocol("a compressed piece of a file is not as long as it says")),
    }
}

/// Puts the pages that `packed` is of into `out`, which has room for just those.
///
/// # Errors
/// It is not of as many pages, or a block of it is of something else than a page.
pub(super) fn unpack(packed: &[u8], out: &mut [u8]) -> Result<(), WireError> {
    let bad = WireError::Protocol;
    let cut = "a batch of compressed pages is cut short";
    let (lengths, mut blocks) = packed.split_at_checked(out.len() / SIZE * LENGTH).ok_or(bad(cut))?;
    for (length, page) in lengths.as_chunks().0.iter().zip(out.chunks_exact_mut(SIZE)) {
        let length = usize::from(u16::from_le_bytes(*length));
        if length > SIZE {
            return Err(bad("a compressed page is longer than a page"));
        }
        let (block, rest) = blocks.split_at_checked(length).ok_or(bad(cut))?;
        blocks = rest;
        if length == SIZE {
            page.copy_from_slice(block);
        } else if decompress_into(block, page).ok() != Some(SIZE) {
            return Err(bad("a compressed page is not one of a page"));
        }
    }
    if blocks.is_empty() { Ok(()) } else { Err(bad("a batch of compressed pages has bytes of no page")) }
}
