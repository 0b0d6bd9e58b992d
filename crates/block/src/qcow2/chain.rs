//! Which files lie under a qcow2 image, and which of them may be opened.
//!
//! The name of a backing file stands in the image, and an image may come from anywhere: a name that is simply
//! opened lets its author have any file of ours shown to the guest. So:
//!
//! 1. [`Chain::Alone`]: an image with a backing file is refused.
//! 2. [`Chain::SameDirectory`], for images that a person names: the backing file must be a regular file in the
//!    directory of the image or below it, after links are followed; the header must say whether it is `raw` or
//!    `qcow2` (it is never guessed: a guest can write a qcow2 header into a raw disk); names with a protocol
//!    (`nbd:`, `json:`, `http://`) are refused; at most [`MAX_DEPTH`] layers.
//! 3. [`Chain::Given`], for instances: the caller names the layers, and the names in the headers are not used.
//!
//! Backing files are opened for reading only.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::header::Header;
use crate::error::printable;
use crate::{DiskError, Format};

/// Layers below an image at the most: longer chains are slow, and a ring of names would not end.
pub const MAX_DEPTH: usize = 16;

/// Where backing files may come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Chain {
    /// Nowhere: the image must stand alone.
    Alone,
    /// The directory of the image, under the rules of this module.
    #[default]
    SameDirectory,
    /// Exactly these, nearest first.
    Given(Vec<(PathBuf, Format)>),
}

/// One open backing file.
#[derive(Debug)]
pub struct Layer {
    /// Open for reading.
    pub file: File,
    /// Where it was opened.
    pub path: PathBuf,
    /// What is in it.
    pub format: Format,
    /// Whether its own header names a backing file.
    pub has_backing: bool,
}

impl Layer {
    /// Opens one layer, reading its header if it has one.
    pub(crate) fn open(path: &Path, format: Format) -> Result<Layer, DiskError> {
        let fail = |e| DiskError::from_io(path, "open the backing file", e);
        // NONBLOCK: a FIFO under that name must not hang us. It changes nothing on regular files.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(fail)?;
        let len = crate::raw::length(&file).map_err(fail)?;
        let has_backing = format == Format::Qcow2 && Header::read(&file, len, path)?.backing.is_some();
        Ok(Layer { file, path: path.to_path_buf(), format, has_backing })
    }
}

/// Opens the layers below the image in `file`, nearest first.
pub(crate) fn resolve(file: &File, path: &Path, chain: &Chain) -> Result<Vec<Layer>, DiskError> {
    if let Chain::Given(list) = chain {
        return list.iter().map(|(path, format)| Layer::open(path, *format)).collect();
    }
    let len = crate::raw::length(file).map_err(|e| DiskError::from_io(path, "find the size of", e))?;
    let mut header = Header::read(file, len, path)?;
    let mut at = path.to_path_buf();
    let mut layers = Vec::new();
    while let Some(name) = header.backing.take() {
        if *chain == Chain::Alone {
            let what = format!("it needs the backing file '{}', and none is allowed here", printable(&name));
            return Err(DiskError::unsupported(
                path,
                what,
                "Make one file of it with `qemu-img convert -O qcow2`.",
            ));
        }
        if layers.len() == MAX_DEPTH {
            let what = format!("it stands on more than {MAX_DEPTH} backing files");
            return Err(DiskError::unsupported(
                path,
                what,
                "Shorten the chain with `qemu-img convert` or `commit`.",
            ));
        }
        let (next, format) = allowed(&at, &name, header.backing_format.as_deref())?;
        let layer = Layer::open(&next, format)?;
        if format == Format::Qcow2 {
            let len = crate::raw::length(&layer.file)
                .map_err(|e| DiskError::from_io(&next, "find the size of", e))?;
            header = Header::read(&layer.file, len, &next)?;
        }
        layers.push(layer);
        at = next;
    }
    Ok(layers)
}

/// The rules of [`Chain::SameDirectory`] for `name` in the header of `image`.
fn allowed(image: &Path, name: &str, format: Option<&str>) -> Result<(PathBuf, Format), DiskError> {
    let shown = printable(name);
    let refuse = |what: String, advice: &str| Err(DiskError::unsupported(image, what, advice));
    let format = match format {
        Some("raw") => Format::Raw,
        Some("qcow2") => Format::Qcow2,
        Some(other) => {
            let what = format!("its backing file '{shown}' has the format '{other}'");
            return refuse(what, "Make one file of it with `qemu-img convert -O qcow2`.");
        }
        None => {
            let what = format!("it does not say which format its backing file '{shown}' has");
            return refuse(
                what,
                "Write it down with `qemu-img rebase -u -b FILE -F raw IMAGE` (or -F qcow2).",
            );
        }
    };
    let protocol = name.split('/').next().unwrap_or("").contains(':');
    if protocol || name.is_empty() {
        let what = format!("its backing file '{shown}' is not a plain file name");
        return refuse(what, "Make one file of it with `qemu-img convert -O qcow2`.");
    }
    let fail = |e| DiskError::from_io(image, "follow the links of", e);
    let image_real = image.canonicalize().map_err(fail)?;
    let dir = image_real.parent().unwrap_or(Path::new("/"));
    let wanted = dir.join(name);
    let real = wanted.canonicalize().map_err(|e| DiskError::from_io(&wanted, "open the backing file", e))?;
    if !real.starts_with(dir) {
        let what = format!("its backing file '{shown}' lies outside the image's own directory");
        return refuse(
            what,
            "If you trust the image, move both into one directory and rebase it, or convert it.",
        );
    }
    if !real.is_file() {
        return refuse(format!("its backing file '{shown}' is not a regular file"), "Convert the image.");
    }
    Ok((real, format))
}
