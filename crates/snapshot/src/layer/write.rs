//! Writing a layer: it begins at a moment at which the machine stands still; pages follow while it runs on, then digests,
//! index and header.

use super::index::{RunKind, push};
use super::{DATA, GROUP, LayerInfo, LayerName, PAGE, Run};
use crate::SnapshotError;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use strata_memory::{Capture, GuestRam, PageSet, PageSink};

/// A layer that is being written: a file without a header, which nobody can take for a layer.
#[derive(Debug)]
pub(crate) struct LayerWriter {
    file: File,
    path: PathBuf,
    begun: Option<Begun>,
}

/// How a layer has begun.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Beginning {
    /// The new dirty epoch.
    pub(crate) epoch: u32,
    /// Whether it has only what was written since, or all pages after all.
    pub(crate) stands_on_parent: bool,
}

/// What the moment gave.
#[derive(Debug)]
struct Begun {
    pages: u64,
    /// Pages that are in the layer and have content; the rest is zero or the parent's.
    data: PageSet,
    /// Pages that the layer says are zero.
    zero: PageSet,
    to: Arc<Pages>,
    /// Until it has been copied.
    capture: Option<Capture>,
}

/// The data of the layer, written by whoever has a page.
#[derive(Debug)]
struct Pages {
    file: File,
    /// For each page where it goes, in pages from the beginning of the data.
    ranks: Ranks,
    /// Pages that turned out to be all zeroes, a bit each.
    zero: Box<[AtomicU64]>,
    failed: Mutex<Option<std::io::Error>>,
    /// Bytes written since the host was last made to write them out.
    unsynced: AtomicU64,
}

#[derive(Debug)]
enum Ranks {
    /// Each page at its own number.
    Flat,
    /// One after the other: for each word of the set how many pages are before it.
    Packed(Vec<u64>, PageSet),
}

impl Ranks {
    fn packed(data: PageSet) -> Ranks {
        let before = data.words().iter().scan(0, |count, word| {
            let before = *count;
            *count += u64::from(word.count_ones());
            Some(before)
        });
        Ranks::Packed(before.collect(), data)
    }

    fn of(&self, page: usize) -> u64 {
        match self {
            Ranks::Flat => page as u64,
            Ranks::Packed(before, data) => {
                let word = data.words().get(page / 64).copied().unwrap_or(0);
                let within = word & ((1 << (page % 64)) - 1);
                before.get(page / 64).copied().unwrap_or(0) + u64::from(within.count_ones())
            }
        }
    }
}

impl Pages {
    /// Writes the pages of `bytes` that are not zero, neighbours together.
    fn write(&self, first: usize, bytes: &[u8]) -> std::io::Result<()> {
        // Pages that follow each other here do so in the file, too: all of them are in the layer.
        let place = DATA + self.ranks.of(first) * PAGE;
        // Where the bytes that wait to be written begin.
        let mut waiting = None;
        for (i, page) in bytes.chunks(PAGE as usize).enumerate() {
            let at = i * PAGE as usize;
            if !is_zero(page) {
                waiting.get_or_insert(at);
                continue;
            }
            if let Some(word) = self.zero.get((first + i) / 64) {
                word.fetch_or(1 << ((first + i) % 64), Relaxed);
            }
            if let Some(from) = waiting.take() {
                self.file.write_all_at(bytes.get(from..at).unwrap_or_default(), place + from as u64)?;
            }
        }
        match waiting {
            Some(from) => self.file.write_all_at(bytes.get(from..).unwrap_or_default(), place + from as u64),
            None => Ok(()),
        }
    }

    fn found_zero(&self, page: usize) -> bool {
        self.zero.get(page / 64).is_some_and(|w| w.load(Relaxed) >> (page % 64) & 1 != 0)
    }
}

impl PageSink for Pages {
    fn put(&self, first: usize, bytes: &[u8]) {
        self.unsynced.fetch_add(bytes.len() as u64, Relaxed);
        let mut failed = self.failed.lock().unwrap_or_else(|e| e.into_inner());
        if failed.is_none() {
            drop(failed);
            if let Err(e) = self.write(first, bytes) {
                failed = self.failed.lock().unwrap_or_else(|e| e.into_inner());
                failed.get_or_insert(e);
            }
        }
    }

    /// A host with too many pages to write out makes whoever writes wait, for seconds: that would be the guest.
    fn rest(&self) {
        if self.unsynced.load(Relaxed) >= SYNC_EVERY {
            self.unsynced.store(0, Relaxed);
            if let Err(e) = self.file.sync_data() {
                self.failed.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(e);
            }
        }
    }
}

/// Bytes after which the host is made to write them out.
const SYNC_EVERY: u64 = 16 << 20;

impl LayerWriter {
    /// Makes the file. The machine may run.
    ///
    /// # Errors
    /// It cannot be made.
    pub(crate) fn create(path: &Path) -> Result<LayerWriter, SnapshotError> {
        let fail = |e| SnapshotError::io("write", path)(e);
        let file = File::options().read(true).write(true).create_new(true).open(path).map_err(fail)?;
        Ok(LayerWriter { file, path: path.to_owned(), begun: None })
    }

    /// The layer is to have `ram`, which is one region, as it is now: what was written `since` a dirty epoch, or all of it,
    /// also where most of it was written. Nothing may write to it during this call; afterwards everything may.
    ///
    /// # Errors
    /// A page is not there yet; another layer is being written.
    pub(crate) fn begin(&mut self, ram: &GuestRam, since: Option<u32>) -> Result<Beginning, SnapshotError> {
        let bad = |why: &str| SnapshotError::bad("memory", &self.path, why);
        let [region] = ram.regions() else { return Err(bad("only memory of one piece can be saved")) };
        let map = region.pages();
        let pages = map.pages();
        // A layer that would have most pages has all: it costs little more, and is mapped by one call.
        let marked =
            since.map(|e| map.marked(Some(e))).filter(|(data, zero)| data.len() + zero.len() <= pages / 2);
        let stands_on_parent = marked.is_some();
        let (data, zero) = marked.unwrap_or_else(|| map.marked(None));
        let ranks = if stands_on_parent { Ranks::packed(data.clone()) } else { Ranks::Flat };
        let file = self.file.try_clone().map_err(SnapshotError::io("write", &self.path))?;
        let words = std::iter::repeat_with(|| AtomicU64::new(0)).take(pages.div_ceil(64));
        let to = Arc::new(Pages {
            file,
            ranks,
            zero: words.collect(),
            failed: Mutex::default(),
            unsynced: AtomicU64::new(0),
        });
        let epoch = ram.begin_epoch();
        let capture = ram.capture(data.clone(), to.clone())?;
        let capture = capture.ok_or_else(|| bad("the machine is being saved already"))?;
        self.begun = Some(Begun { pages: pages as u64, data, zero, to, capture: Some(capture) });
        Ok(Beginning { epoch, stands_on_parent })
    }

    /// Copies the pages: what it has, it has from now on, whoever writes to memory.
    ///
    /// # Errors
    /// It was not begun, or is `cancelled`.
    pub(crate) fn copy(&mut self, cancelled: &AtomicBool) -> Result<(), SnapshotError> {
        let Some(begun) = &mut self.begun else {
            return Err(SnapshotError::bad("memory", &self.path, "nothing has been put into it"));
        };
        match begun.capture.take().is_none_or(|capture| capture.run(cancelled)) {
            true => Ok(()),
            false => Err(SnapshotError::io("write", &self.path)(std::io::Error::other("it was cancelled"))),
        }
    }

    /// Copies the pages, completes the layer and makes it durable. The machine may run on meanwhile. `parent` is the layer
    /// below, by id and digest, of one that has only what was written since.
    ///
    /// # Errors
    /// The file cannot be read or written; it was not begun; it is `cancelled`.
    pub(crate) fn finish(
        mut self,
        id: [u8; 16],
        parent: Option<LayerName>,
        cancelled: &AtomicBool,
    ) -> Result<LayerInfo, SnapshotError> {
        self.copy(cancelled)?;
        let fail = |e| SnapshotError::io("write", &self.path)(e);
        let Some(Begun { pages, data, zero, to, .. }) = self.begun else {
            return Err(SnapshotError::bad("memory", &self.path, "nothing has been put into it"));
        };
        let flat = matches!(to.ranks, Ranks::Flat);
        let bytes = if flat { pages * PAGE } else { data.len() as u64 * PAGE };
        self.file.set_len(DATA + bytes).map_err(fail)?;
        if let Some(e) = to.failed.lock().unwrap_or_else(|e| e.into_inner()).take() {
            return Err(fail(e));
        }
        let mut runs = Vec::new();
        let mut rank = 0;
        for page in 0..pages {
            let n = page as usize;
            let at = DATA + if flat { page } else { rank } * PAGE;
            rank += u64::from(data.has(n));
            let kind = match (data.has(n), zero.has(n)) {
                (true, _) if to.found_zero(n) => RunKind::Zero,
                (true, _) => RunKind::Data(at),
                (_, true) => RunKind::Zero,
                _ => RunKind::Parent,
            };
            push(&mut runs, page, kind);
        }
        let names = Names { id, parent, stands_for: None };
        complete(&self.file, names, pages, bytes, &runs).map_err(fail)
    }
}

/// What a layer is called, and the others that it speaks of.
pub(super) struct Names {
    pub(super) id: [u8; 16],
    pub(super) parent: Option<LayerName>,
    pub(super) stands_for: Option<LayerName>,
}

/// Writes digests, index and header of a layer whose data is in the file, and makes it durable.
pub(super) fn complete(
    file: &File,
    names: Names,
    pages: u64,
    data: u64,
    runs: &[Run],
) -> std::io::Result<LayerInfo> {
    let mut index = Vec::new();
    runs.iter().for_each(|r| r.put(&mut index));
    for digest in digests(file, runs, data)? {
        index.extend(digest);
    }
    let index_digest = Sha256::digest(&index).into();
    let Names { id, parent, stands_for } = names;
    let info = LayerInfo { id, parent, stands_for, pages, data, runs: runs.len() as u64, index_digest };
    file.write_all_at(&index, DATA + data)?;
    file.write_all_at(&info.bytes(), 0)?;
    file.sync_all()?;
    Ok(info)
}

/// Whether all bytes are 0; of a whole page, many at a time.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(64).all(|c| c.iter().fold(0, |all, b| all | b) == 0)
}

/// The digest of each [`GROUP`] of the data. Groups without a page in them are not read: all their bytes are zero.
pub(super) fn digests(file: &File, runs: &[Run], data: u64) -> std::io::Result<Vec<[u8; 32]>> {
    let groups = data.div_ceil(GROUP);
    let mut used = vec![false; groups as usize];
    for run in runs {
        if let RunKind::Data(at) = run.kind {
            let (from, to) = ((at - DATA) / GROUP, (at - DATA + run.pages * PAGE - 1) / GROUP);
            used.iter_mut().take(to as usize + 1).skip(from as usize).for_each(|u| *u = true);
        }
    }
    let len = |g: u64| GROUP.min(data - g * GROUP) as usize;
    let mut buf = vec![0; GROUP as usize];
    let empty: [u8; 32] = Sha256::digest(&buf).into();
    let mut all = Vec::with_capacity(groups as usize);
    for (g, used) in (0..groups).zip(used) {
        if !used && len(g) == buf.len() {
            all.push(empty);
            continue;
        }
        let part = buf.get_mut(..len(g)).unwrap_or_default();
        file.read_exact_at(part, DATA + g * GROUP)?;
        all.push(Sha256::digest(&*part).into());
    }
    Ok(all)
}
