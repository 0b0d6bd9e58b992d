//! The buffer: bytes, labels, and branches whose targets are not known yet.
//!
//! Everything here is kept over [`Asm::clear`], so that after the first few pieces of code nothing is allocated.
//! Errors do not stop the emission: the first is kept, the code keeps its shape, and [`Asm::finish`] refuses it.

use crate::error::AsmError;

/// A place in the code that a branch can lead to, before or after it is known. Belongs to one [`Asm`] until the next
/// [`Asm::clear`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Label(pub(crate) u32);

/// A relative field to be filled in when its label has a place.
#[derive(Clone, Copy)]
pub(crate) struct Fixup {
    pub at: usize,
    pub width: u8,
    pub label: Label,
}

/// Bytes that one instruction may store at, whatever its length: two words, the second at most 8 bytes on.
const ROOM: usize = 16;

const UNBOUND: usize = usize::MAX;

/// An assembler with its buffer.
///
/// ```
/// use strata_x64::{Alu, Asm, Cc, Gpr, Size};
///
/// let mut a = Asm::new(0x1000);
/// let again = a.label();
/// a.bind(again);
/// a.alu_ri(Alu::Sub, Size::Q, Gpr::Rdi, 1);
/// a.jcc(Cc::Ne, again);
/// a.ret();
/// assert_eq!(a.finish(), Ok(&[0x48, 0x83, 0xef, 0x01, 0x0f, 0x85, 0xf6, 0xff, 0xff, 0xff, 0xc3][..]));
/// ```
pub struct Asm {
    /// Written up to `len`; above it, room for stores.
    buffer: Vec<u8>,
    len: usize,
    base: u64,
    /// Offset of each label, or [`UNBOUND`].
    labels: Vec<usize>,
    pub(crate) fixups: Vec<Fixup>,
    error: Option<AsmError>,
}

impl Asm {
    /// An empty buffer whose byte 0 will be run at address `base`.
    #[must_use]
    pub fn new(base: u64) -> Asm {
        Asm {
            buffer: vec![0; 4096],
            len: 0,
            base,
            labels: Vec::with_capacity(64),
            fixups: Vec::with_capacity(64),
            error: None,
        }
    }

    /// Forgets code, labels and errors, and keeps the memory. Byte 0 will now be run at address `base`.
    pub fn clear(&mut self, base: u64) {
        self.len = 0;
        self.base = base;
        self.labels.clear();
        self.fixups.clear();
        self.error = None;
    }

    /// Bytes written so far.
    #[inline]
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "nobody asks a buffer being filled whether it is empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// The address at which the next instruction will lie.
    #[inline]
    #[must_use]
    pub fn here(&self) -> u64 {
        self.address_of(self.len)
    }

    #[inline]
    pub(crate) fn address_of(&self, offset: usize) -> u64 {
        self.base.wrapping_add(offset as u64)
    }

    /// What is written so far. Fields that wait for a label hold zero.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[..self.len]
    }

    /// A new label, with no place yet.
    #[inline]
    #[must_use]
    pub fn label(&mut self) -> Label {
        self.labels.push(UNBOUND);
        Label(self.labels.len() as u32 - 1)
    }

    /// Gives `label` its place: here. A label has one place; a second one is an error that [`Asm::finish`] reports.
    #[inline]
    pub fn bind(&mut self, label: Label) {
        let at = self.len;
        match self.labels.get_mut(label.0 as usize) {
            Some(place) if *place == UNBOUND => *place = at,
            _ => self.fail(AsmError::BadLabel { label: label.0, at }),
        }
    }

    /// The address of `label`, once bound.
    #[inline]
    #[must_use]
    pub fn address(&self, label: Label) -> Option<u64> {
        let place = *self.labels.get(label.0 as usize)?;
        (place != UNBOUND).then(|| self.address_of(place))
    }

    /// Resolves every branch and gives the code, or the first thing that was wrong with it. More may be emitted
    /// afterwards, and finished again.
    pub fn finish(&mut self) -> Result<&[u8], AsmError> {
        for i in 0..self.fixups.len() {
            let Fixup { at, width, label } = self.fixups[i];
            match self.address(label) {
                Some(target) => self.fill(at, width, target),
                None => self.fail(AsmError::Unbound { label: label.0, at }),
            }
        }
        self.fixups.clear();
        match self.error {
            Some(error) => Err(error),
            None => Ok(self.bytes()),
        }
    }

    /// Keeps an error for [`Asm::finish`]; the first one counts.
    #[cold]
    pub(crate) fn fail(&mut self, error: AsmError) {
        self.error.get_or_insert(error);
    }

    /// Writes the relative field of `width` bytes (1 or 4) at offset `at`, the last of its instruction.
    pub(crate) fn fill(&mut self, at: usize, width: u8, target: u64) {
        let distance = target.wrapping_sub(self.address_of(at + usize::from(width))) as i64;
        match (width, i8::try_from(distance), i32::try_from(distance)) {
            (1, Ok(short), _) => self.buffer[at] = short as u8,
            (4, _, Ok(near)) => self.buffer[at..at + 4].copy_from_slice(&near.to_le_bytes()),
            _ => self.fail(AsmError::OutOfReach { at, target, width }),
        }
    }

    /// Appends the low `head_len` bytes of `head` and `tail_len` bytes of `tail`, each at most 8.
    #[inline]
    pub(crate) fn store(&mut self, head: u64, head_len: u32, tail: u64, tail_len: u32) {
        let at = self.len;
        if at + ROOM > self.buffer.len() {
            self.grow();
        }
        let second = at + head_len as usize;
        self.buffer[at..at + 8].copy_from_slice(&head.to_le_bytes());
        self.buffer[second..second + 8].copy_from_slice(&tail.to_le_bytes());
        self.len = second + tail_len as usize;
    }

    #[cold]
    #[inline(never)]
    fn grow(&mut self) {
        self.buffer.resize(self.buffer.len() * 2, 0);
    }
}
