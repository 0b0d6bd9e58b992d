//! Reading a snapshot from one file. Nothing is believed before its sum has been seen; memory is bounded by a piece.

use super::{Contents, FIELDS, HEAD, HEADER, Item, MAGIC, PACKED, PIECE, TEXT, VERSION, fields, sum};
use crate::{Manifest, SnapshotError};
use sha2::{Digest, Sha256};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

/// A part of an item.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// Of what.
    pub item: Item,
    /// Where it begins there.
    pub place: u64,
    /// The bytes.
    pub bytes: &'a [u8],
}

/// Reads and checks pieces in their order.
pub struct ExportReader<R> {
    from: R,
    path: PathBuf,
    sum: [u8; 32],
    manifest: Manifest,
    contents: Contents,
    /// The item and place before which nothing may come any more.
    next: (Item, u64),
    /// How much has been read, in bytes of the file.
    at: u64,
    raw: Vec<u8>,
    packed: Vec<u8>,
    unpacker: zstd::bulk::Decompressor<'static>,
}

impl<R: Read> ExportReader<R> {
    /// Reads header, manifest and contents from `from`, which is called `path` in errors.
    ///
    /// # Errors
    /// It is no export, damaged or cut short, or from a newer build.
    pub fn open(mut from: R, path: &Path) -> Result<ExportReader<R>, SnapshotError> {
        let bad = |why: &str| SnapshotError::bad("export", path, why);
        let mut header = [0; HEADER];
        exactly(&mut from, &mut header, path)?;
        if header[..8] != *MAGIC {
            return Err(bad("it does not begin as an export does"));
        }
        let [version, features] =
            [[8, 9, 10, 11], [12, 13, 14, 15]].map(|at| u32::from_le_bytes(at.map(|i| header[i])));
        let newer = |need| SnapshotError::Newer { what: "export", path: path.to_owned(), need };
        if version != VERSION {
            return Err(newer(format!("version {version} of its format")));
        }
        if features != 0 {
            return Err(newer(format!("features {features:#x}")));
        }
        let unpacker = zstd::bulk::Decompressor::new().map_err(SnapshotError::io("read", path))?;
        let machine = crate::MachineRef { board: String::new(), engine: String::new(), cpus: 0, memory: 0 };
        let mut reader = ExportReader {
            from,
            path: path.to_owned(),
            sum: Sha256::digest(header).into(),
            manifest: Manifest::new(String::new(), machine, serde_json::Value::Null),
            contents: Contents::default(),
            next: (Item::Manifest, 0),
            at: HEADER as u64,
            raw: Vec::new(),
            packed: Vec::new(),
            unpacker,
        };
        let text = reader.text(Item::Manifest)?;
        reader.manifest = Manifest::parse(&text, path)?;
        let text = reader.text(Item::Contents)?;
        let contents: Contents = serde_json::from_slice(&text)
            .map_err(|e| SnapshotError::bad("export", path, format!("its contents: {e}")))?;
        let m = &reader.manifest;
        if !contents.sound() || (contents.memory, contents.state) != (m.machine.memory, m.state.size) {
            return Err(bad("its contents do not fit its manifest"));
        }
        reader.contents = contents;
        Ok(reader)
    }

    /// The snapshot's manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// How large its items are.
    pub fn contents(&self) -> &Contents {
        &self.contents
    }

    /// How many bytes of the file have been read.
    pub fn at(&self) -> u64 {
        self.at
    }

    fn text(&mut self, want: Item) -> Result<Vec<u8>, SnapshotError> {
        let path = self.path.clone();
        match self.step()? {
            Some(p) if p.item == want && p.place == 0 => Ok(p.bytes.to_vec()),
            _ => Err(SnapshotError::bad("export", &path, "its manifest or its contents are missing")),
        }
    }

    /// The next piece of the items; `None` at the end, which has been reached if and only if all is there.
    ///
    /// # Errors
    /// It is damaged or cut short, or something follows its end.
    pub fn step(&mut self) -> Result<Option<Piece<'_>>, SnapshotError> {
        let path = self.path.clone();
        let bad = |why: String| SnapshotError::bad("export", &path, why);
        if self.next.0 == Item::End {
            return Ok(None);
        }
        let begins = self.at;
        let damaged = || bad(format!("it is damaged at byte {begins} or soon after"));
        let mut head = [0; HEAD];
        exactly(&mut self.from, &mut head, &path)?;
        let number = |at: usize, n: usize| {
            head.get(at..at + n).unwrap_or_default().iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b))
        };
        let (raw, packed, place) = (number(4, 4) as u32, number(8, 4) as u32, number(16, 8));
        let item = Item::of(head[0], head[1]).ok_or_else(damaged)?;
        let expected = fields(item, raw, packed, place);
        let size = self.contents.size(item).ok_or_else(damaged)?;
        let fits = place.checked_add(u64::from(raw)).is_some_and(|end| end <= size)
            && (item, place) >= self.next
            && raw as usize <= PIECE
            && (raw > 0 || item == Item::End)
            && packed as usize <= PACKED;
        if !fits || head.get(..FIELDS) != Some(&expected[..]) {
            return Err(damaged());
        }
        self.packed.resize(packed as usize, 0);
        exactly(&mut self.from, &mut self.packed, &path)?;
        self.raw.clear();
        self.raw.reserve(PIECE);
        let unpacked = self.unpacker.decompress_to_buffer(&self.packed, &mut self.raw);
        if unpacked.ok() != Some(raw as usize) {
            return Err(damaged());
        }
        self.sum = sum(&self.sum, &expected, &self.packed, &self.raw);
        if head.get(FIELDS..) != Some(&self.sum[..]) {
            return Err(damaged());
        }
        self.at += (HEAD + self.packed.len()) as u64;
        // One piece of each of the first two.
        let end = if matches!(item, Item::Manifest | Item::Contents) { TEXT } else { place + u64::from(raw) };
        self.next = (item, end);
        if item != Item::End {
            return Ok(Some(Piece { item, place, bytes: &self.raw }));
        }
        match self.from.read(&mut [0]) {
            Ok(0) => Ok(None),
            Ok(_) => Err(bad("something follows its end".into())),
            Err(e) => Err(SnapshotError::io("read", &path)(e)),
        }
    }
}

fn exactly(from: &mut impl Read, to: &mut [u8], path: &Path) -> Result<(), SnapshotError> {
    from.read_exact(to).map_err(|e| match e.kind() {
        ErrorKind::UnexpectedEof => SnapshotError::bad("export", path, "it is cut short"),
        _ => SnapshotError::io("read", path)(e),
    })
}
