//! What is written down about an instance, and what is asked for when one is made.

use crate::arch::{Arch, Engine};
use crate::migrate::Moving;
use crate::spec::{DiskFormat, DiskSpec, NetSpec, Tier, Virtio, VmmSpec, make_absolute};
use crate::{Result, name};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The schema of [`InstanceRecord`] that this program writes.
pub const SCHEMA: u32 = 4;

/// How far back an instance knows what it comes from.
const MAX_LINE: usize = 256;

/// What an instance is made of. Fields are only ever added, with a default; `schema` counts changes that an older
/// program must not pass over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceRecord {
    /// Version of this record's form.
    pub schema: u32,
    /// The instance's name.
    pub name: String,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// Removed when its run ends.
    #[serde(default)]
    pub ephemeral: bool,
    /// Image that it was made from.
    #[serde(default)]
    pub image: Option<String>,
    /// Architecture of its guest.
    #[serde(default)]
    pub arch: Arch,
    /// What is to run it.
    #[serde(default)]
    pub engine: Engine,
    /// The processor that its guest sees, by name; the host's own where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// How its virtio devices are reached.
    #[serde(default, skip_serializing_if = "is_mmio")]
    pub virtio: Virtio,
    /// vCPUs.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory: u64,
    /// For runs that repeat: the seed of all randomness. Absent, the machine runs freely.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deterministic: Option<u64>,
    /// How to run it; the best there is where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<Tier>,
    /// Kernel command line.
    #[serde(default)]
    pub cmdline: String,
    /// M-mode firmware.
    #[serde(default)]
    pub firmware: Option<PathBuf>,
    /// Kernel, or the firmware's payload.
    #[serde(default)]
    pub kernel: Option<PathBuf>,
    /// Initial RAM disk.
    #[serde(default)]
    pub initrd: Option<PathBuf>,
    /// The read-only disk which its own layers are over: the image's. Absent where they need none, after an import.
    #[serde(default)]
    pub base: Option<(PathBuf, DiskFormat)>,
    /// The file of its writable layer, in its folder.
    #[serde(default = "first_layer", skip_serializing_if = "is_first_layer")]
    pub layer: String,
    /// Layers under that one that snapshots have left, in its folder, nearest first. They never change.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<String>,
    /// Further disks.
    #[serde(default)]
    pub disks: Vec<DiskSpec>,
    /// Network.
    pub net: NetSpec,
    /// The card's Ethernet address.
    pub mac: [u8; 6],
    /// Where it goes on from: a saved set in its folder. Absent, it is power-on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspended: Option<String>,
    /// Whether it is a copy then, or has gone back in time.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub renewed: bool,
    /// Of a clone: the set in its folder that its memory stands on until it has a snapshot of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub under: Option<String>,
    /// The snapshot, by id, that its present state comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// Those that one comes from, nearest first: if it is gone, the nearest that is left is the parent of the next.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub line: Vec<String>,
    /// How often it has changed its owner.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub epoch: u64,
    /// The migration that it is in: whose it is, its journal says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moving: Option<Moving>,
}

fn is_mmio(virtio: &Virtio) -> bool {
    *virtio == Virtio::Mmio
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

fn first_layer() -> String {
    super::LAYER.to_owned()
}

fn is_first_layer(name: &String) -> bool {
    name == super::LAYER
}

/// What a new instance is to be. Paths are recorded as absolute ones.
#[derive(Clone, Debug)]
pub struct NewInstance {
    /// Its name; made up where absent.
    pub name: Option<String>,
    /// Removed when its run ends.
    pub ephemeral: bool,
    /// Image that it is made from.
    pub image: Option<String>,
    /// The image's disk: it gets a writable layer of its own over it.
    pub base: Option<(PathBuf, DiskFormat)>,
    /// Size of its disk in bytes, if larger than the image's.
    pub disk_size: Option<u64>,
    /// Architecture of its guest.
    pub arch: Arch,
    /// What is to run it.
    pub engine: Engine,
    /// The processor that its guest sees, by name; the host's own where absent.
    pub cpu: Option<String>,
    /// How its virtio devices are reached.
    pub virtio: Virtio,
    /// vCPUs.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory: u64,
    /// For runs that repeat: the seed of all randomness.
    pub deterministic: Option<u64>,
    /// How to run it; the best there is where absent.
    pub tier: Option<Tier>,
    /// Kernel command line.
    pub cmdline: String,
    /// M-mode firmware.
    pub firmware: Option<PathBuf>,
    /// Kernel, or the firmware's payload.
    pub kernel: Option<PathBuf>,
    /// Initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// Further disks.
    pub disks: Vec<DiskSpec>,
    /// Network.
    pub net: NetSpec,
}

impl InstanceRecord {
    /// The record of a new instance under the name it was given: adds the time, and an Ethernet address.
    pub(super) fn new(name: &str, mut new: NewInstance) -> Result<InstanceRecord> {
        let base = new.base.as_mut().map(|(path, _)| path);
        let files = [&mut new.firmware, &mut new.kernel, &mut new.initrd];
        files.into_iter().flatten().chain(base).try_for_each(make_absolute)?;
        new.disks.iter_mut().try_for_each(DiskSpec::make_absolute)?;
        // Whatever it is called, a run that repeats sees the same card.
        let (salted, salt) = match new.deterministic {
            Some(seed) => ("deterministic", seed),
            None => (name, u64::from_le_bytes(name::random::<8>()?)),
        };
        Ok(InstanceRecord {
            schema: 1,
            name: name.to_owned(),
            created: crate::now(),
            ephemeral: new.ephemeral,
            image: new.image,
            arch: new.arch,
            engine: new.engine,
            cpu: new.cpu,
            virtio: new.virtio,
            cpus: new.cpus,
            memory: new.memory,
            deterministic: new.deterministic,
            tier: new.tier,
            cmdline: new.cmdline,
            firmware: new.firmware,
            kernel: new.kernel,
            initrd: new.initrd,
            base: new.base,
            layer: first_layer(),
            layers: Vec::new(),
            disks: new.disks,
            net: new.net,
            mac: name::mac_for(salted, salt),
            suspended: None,
            renewed: false,
            under: None,
            at: None,
            line: Vec::new(),
            epoch: 0,
            moving: None,
        })
    }

    /// Reads a record's JSON.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8]) -> std::result::Result<InstanceRecord, String> {
        let record: InstanceRecord = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        if record.schema > SCHEMA {
            return Err(format!(
                "it has schema {}, this program knows {SCHEMA}; use a newer strata",
                record.schema
            ));
        }
        // Names of files in its folder, and of nothing else.
        let files =
            [&record.layer].into_iter().chain(&record.layers).chain(&record.suspended).chain(&record.under);
        if let Some(name) = files.into_iter().find(|n| n.contains('/') || n.starts_with('.') || n.is_empty())
        {
            return Err(format!("`{name}` is no name of a file in its folder"));
        }
        Ok(record)
    }

    /// Its writable layer, if it has a disk, as a disk of the instance in `dir`.
    pub(crate) fn own_disk(&self, dir: &Path) -> Option<DiskSpec> {
        (self.base.is_some() || !self.layers.is_empty()).then(|| DiskSpec {
            path: dir.join(&self.layer),
            read_only: false,
            format: Some(DiskFormat::Qcow2),
            base: self.base.clone(),
            layers: self.layers.iter().map(|l| dir.join(l)).collect(),
        })
    }

    /// The snapshots that it comes from, by id, nearest first.
    pub(crate) fn ancestors(&self) -> impl Iterator<Item = String> + use<> {
        self.at.clone().into_iter().chain(self.line.clone())
    }

    /// Its present state comes from the snapshot `id`, which came from `ancestors`, nearest first.
    pub(crate) fn comes_from(&mut self, id: String, ancestors: impl Iterator<Item = String>) {
        self.line = ancestors.take(MAX_LINE).collect();
        self.at = Some(id);
    }

    /// What it is once its machine runs: it does not stand any more where it went on from.
    pub(crate) fn begun(&self) -> InstanceRecord {
        InstanceRecord { suspended: None, renewed: false, ..self.clone() }
    }

    /// What to run, for the instance in `dir`: detached, console to whoever attaches.
    pub(crate) fn spec_in(&self, dir: &Path) -> VmmSpec {
        let r = self.clone();
        let layer = r.own_disk(dir);
        VmmSpec {
            image: r.image,
            arch: r.arch,
            engine: r.engine,
            cpu: r.cpu,
            virtio: r.virtio,
            cpus: r.cpus,
            memory: r.memory,
            deterministic: r.deterministic,
            tier: r.tier,
            cmdline: r.cmdline,
            firmware: r.firmware,
            kernel: r.kernel,
            initrd: r.initrd,
            disks: layer.into_iter().chain(r.disks).collect(),
            net: r.net,
            mac: r.mac,
            instance_dir: Some(dir.to_owned()),
            ephemeral: r.ephemeral,
            renewed: r.renewed,
            becomes: r.suspended.is_some().then(|| Box::new(self.begun())),
            restore: r.suspended.map(|s| dir.join(s)),
            ..VmmSpec::new(r.name)
        }
    }

    /// The least schema that says what it says: an older program must not run it without its layers, or from
    /// power-on, or while it is another host's, or as another kind of machine or with another processor or bus.
    fn least_schema(&self) -> u32 {
        if self.cpu.is_some() || self.virtio != Virtio::Mmio {
            4
        } else if self.moving.is_some() || self.arch != Arch::default() {
            3
        } else if self.suspended.is_some() || !self.layers.is_empty() || !is_first_layer(&self.layer) {
            2
        } else {
            1
        }
    }

    /// As JSON, with a final newline.
    pub fn bytes(&self) -> Vec<u8> {
        // Every key is a string and every path came from JSON or was checked: it cannot fail.
        let record = InstanceRecord { schema: self.schema.max(self.least_schema()), ..self.clone() };
        let mut text = serde_json::to_vec_pretty(&record).unwrap_or_default();
        text.push(b'\n');
        text
    }
}
