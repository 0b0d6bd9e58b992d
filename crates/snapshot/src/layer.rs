//! A layer: an immutable file of pages, and the index that says of each page whether it is in the file, all zeroes, or
//! the parent's.
//!
//! ```text
//! 0       header, one page: magic, version, page size, pages, where the index is and its digest, id, parent
//! 4096    data: pages, each at a multiple of 4096
//! ...     index: runs of pages, in order and without gaps, then a digest of each MiB of the data
//! ```
//! A layer without a parent is written **flat**: page `n` stands at `4096 + n * 4096`, pages of zeroes too (as a hole
//! where the file system has holes; a reader asks for bytes, never for holes). So it is mapped by one call. A layer
//! with a parent packs its pages: those that were written since, one after the other. What a layer is called by others is the digest of its header, which has the
//! digest of the index, which has the digests of the data; one that was merged from others takes over the name of the
//! uppermost, so that nothing above it need change.

mod chain;
mod index;
mod merge;
mod read;
mod receive;
mod write;

pub use chain::{LayerChain, MAX_LAYERS, Placed};
pub use index::{Run, RunKind};
pub use read::Layer;
pub(crate) use receive::Receiver;
pub(crate) use write::{LayerWriter, is_zero};

use crate::SnapshotError;
use sha2::{Digest, Sha256};
use std::path::Path;

pub(crate) const PAGE: u64 = strata_memory::PAGE;
const MAGIC: &[u8; 8] = b"strataLY";
const VERSION: u32 = 1;
/// Where the data begins.
const DATA: u64 = PAGE;
/// How much data one digest covers, in bytes.
const GROUP: u64 = 1 << 20;
/// The one feature that a reader must know: the layer has the name of another.
const STANDS_FOR: u64 = 1;
/// Most pages of a layer: 4 TiB of them.
const MAX_PAGES: u64 = 1 << 30;

/// The id of a layer and the digest of its header.
pub type LayerName = ([u8; 16], [u8; 32]);

/// A layer's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerInfo {
    /// A random name.
    pub id: [u8; 16],
    /// The layer below, by its name.
    pub parent: Option<LayerName>,
    /// The layer that it was made to replace, by its name, which it takes over.
    pub stands_for: Option<LayerName>,
    /// How many pages it describes.
    pub pages: u64,
    /// Bytes of data.
    data: u64,
    /// Runs in the index.
    runs: u64,
    index_digest: [u8; 32],
}

impl LayerInfo {
    fn index_len(&self) -> u64 {
        self.runs * index::RUN as u64 + self.data.div_ceil(GROUP) * 32
    }

    /// One page.
    fn bytes(&self) -> Vec<u8> {
        let (parent, digest) = self.parent.unwrap_or_default();
        let mut b = MAGIC.to_vec();
        b.extend(VERSION.to_le_bytes());
        b.extend((PAGE as u32).to_le_bytes());
        b.extend(u64::from(self.stands_for.is_some()).to_le_bytes());
        for n in [self.pages, self.data, self.runs] {
            b.extend(n.to_le_bytes());
        }
        b.extend(u64::from(self.parent.is_some()).to_le_bytes());
        b.extend(self.id);
        b.extend(parent);
        b.extend(digest);
        b.extend(self.index_digest);
        if let Some((id, digest)) = self.stands_for {
            b.extend(id);
            b.extend(digest);
        }
        b.resize(PAGE as usize, 0);
        b
    }

    /// With the id, what a manifest knows this very file by.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.bytes()).into()
    }

    /// What a layer above knows it by: that of the layer that it stands for, which has the same pages.
    pub fn name(&self) -> LayerName {
        self.stands_for.unwrap_or_else(|| (self.id, self.digest()))
    }

    fn parse(b: &[u8], path: &Path) -> Result<LayerInfo, SnapshotError> {
        let bad = |why: &str| SnapshotError::bad("memory", path, why);
        let mut at = 0;
        let mut take = |n: usize| {
            let part = b.get(at..at + n).unwrap_or_default();
            at += n;
            part
        };
        if take(8) != MAGIC {
            return Err(bad("it does not begin as a layer does"));
        }
        let number = |b: &[u8]| b.iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b));
        let (version, page, features) = (number(take(4)), number(take(4)), number(take(8)));
        let newer = |need: String| SnapshotError::Newer { what: "memory", path: path.to_owned(), need };
        if version != u64::from(VERSION) {
            return Err(newer(format!("version {version} of its format")));
        }
        if features & !STANDS_FOR != 0 {
            return Err(newer(format!("features {features:#x}")));
        }
        let [pages, data, runs, has_parent] = [(); 4].map(|()| number(take(8)));
        let id = take(16).try_into().map_err(|_| bad("it is cut short"))?;
        let parent = (take(16).try_into(), take(32).try_into());
        let index_digest = take(32).try_into().map_err(|_| bad("it is cut short"))?;
        let (Ok(parent), Ok(digest)) = parent else { return Err(bad("it is cut short")) };
        let stands_for = match (take(16).try_into(), take(32).try_into()) {
            (Ok(id), Ok(digest)) if features & STANDS_FOR != 0 => Some((id, digest)),
            _ => None,
        };
        let info = LayerInfo {
            id,
            parent: (has_parent == 1).then_some((parent, digest)),
            stands_for,
            pages,
            data,
            runs,
            index_digest,
        };
        let sound = page == PAGE
            && (1..=MAX_PAGES).contains(&pages)
            && data.is_multiple_of(PAGE)
            && data / PAGE <= pages
            && (1..=pages).contains(&runs);
        // What is not said by the fields is not said at all.
        if !sound || info.bytes() != b {
            return Err(bad("its header is damaged"));
        }
        Ok(info)
    }
}
