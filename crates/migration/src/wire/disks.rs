//! What both sides say of a machine's disks before anything is sent.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A disk of the machine, in the order of their slots: the instance's own, if it has one, first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskOffer {
    /// Its size in bytes, as the guest sees it.
    pub size: u64,
    /// Its file at the source; none of the instance's own, whose layers stay there.
    #[serde(default)]
    pub path: Option<PathBuf>,
    /// What a new file for it would be: `raw` or `qcow2`.
    pub format: String,
    /// Whether the guest may only read it.
    #[serde(default)]
    pub read_only: bool,
    /// Who has it, where that is written down beside it: it is the same file where the same is found.
    #[serde(default)]
    pub holder: Option<Holder>,
    /// Whether its content would be sent.
    pub copy: bool,
    /// About how many bytes that would be.
    #[serde(default)]
    pub bytes: u64,
}

/// Who has a disk, as the record beside it says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The epoch of the disk.
    pub epoch: u64,
    /// The instance.
    pub instance: String,
    /// The host's name.
    pub host: String,
    /// A digest of its machine id.
    pub host_key: String,
    /// The kernel's boot id.
    pub boot: String,
    /// The process.
    pub pid: u32,
}

/// How a disk is to come, as the destination wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskWay {
    /// The same file is there: it is handed over.
    Shared,
    /// Its content is sent.
    Copied,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Accept, Frame, receive, send};
    use std::path::Path;

    fn holder() -> Holder {
        let text = |s: &str| s.to_owned();
        let (instance, host) = (text("web"), text("alpha"));
        Holder { epoch: 3, instance, host, host_key: text("9a"), boot: text("0f"), pid: 42 }
    }

    fn offers() -> Vec<DiskOffer> {
        let own = DiskOffer {
            size: 1 << 20,
            path: None,
            format: "qcow2".into(),
            read_only: false,
            holder: Some(holder()),
            copy: true,
            bytes: 4096,
        };
        let given =
            DiskOffer { path: Some("/d/data.raw".into()), format: "raw".into(), copy: false, ..own.clone() };
        vec![own, given]
    }

    /// What is said of disks, in the order in which it is.
    fn stream() -> Vec<u8> {
        let mut out = serde_json::to_vec(&offers()).unwrap();
        let accept = Accept {
            producer: "strata 0.1.0".into(),
            name: "web".into(),
            wants: vec![0],
            disks: vec![DiskWay::Copied, DiskWay::Shared],
            holder: Some(holder()),
            notes: vec![],
            whole_only: None,
            verify: false,
        };
        let frames = [
            Frame::Accept(accept),
            Frame::Disk(0, 65_536, b"content"),
            Frame::DiskZeroes(0, 131_072, 65_536),
        ];
        frames.iter().for_each(|f| send(&mut out, f).unwrap());
        out
    }

    #[test]
    fn disks_are_spoken_of_as_they_were_in_version_1() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/wire/golden/v1-disks");
        if std::env::var_os("STRATA_BLESS").is_some() {
            std::fs::write(&path, stream()).unwrap();
        }
        let golden = std::fs::read(&path).unwrap();
        assert!(golden == stream());
        let (json, mut rest) = golden.split_at(serde_json::to_vec(&offers()).unwrap().len());
        assert_eq!(serde_json::from_slice::<Vec<DiskOffer>>(json).unwrap(), offers());
        let mut buf = Vec::new();
        let Frame::Accept(a) = receive(&mut rest, &mut buf).unwrap() else { panic!("no accept") };
        assert_eq!((a.disks, a.holder), (vec![DiskWay::Copied, DiskWay::Shared], Some(holder())));
        assert_eq!(receive(&mut rest, &mut buf).unwrap(), Frame::Disk(0, 65_536, b"content"));
        assert_eq!(receive(&mut rest, &mut buf).unwrap(), Frame::DiskZeroes(0, 131_072, 65_536));
    }

    #[test]
    fn a_piece_that_is_cut_short_is_refused() {
        for (kind, least) in [(32u8, 10usize), (33, 18)] {
            for len in (0..least).chain([least + 1]) {
                let mut bytes = vec![kind, 0, 0, 0];
                bytes.extend((len as u32).to_le_bytes());
                bytes.extend(vec![1; len]);
                let whole = kind == 32 && len > least;
                assert_eq!(receive(&mut &bytes[..], &mut Vec::new()).is_ok(), whole, "{kind} of {len}");
            }
        }
    }
}
