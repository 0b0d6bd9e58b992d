//! Pulls from a mirror that the test makes: keys, InRelease, index, packages, served on loopback.

use crate::archive::{Archive, OpenSuite, SUITES, Suite};
use crate::deb::tests::{deb_of, xz};
use crate::error::{Error, Kind, Result};
use crate::fetch::{Client, hex};
use crate::mirror::{Environment, Source};
use crate::module::tests::module_of;
use crate::progress::{Cancel, Progress, Stage};
use crate::pull::{Host, PullRequest, pull};
use crate::runner::{GuestError, GuestJob, GuestRunner, Place};
use crate::store::Store;
use crate::time::{now, rfc5322};
use crate::verify::Keyring;
use pgp::composed::{
    ArmorOptions, CleartextSignedMessage, KeyType, SecretKeyParamsBuilder, SignedPublicKey, SignedSecretKey,
    SubkeyParamsBuilder,
};
use pgp::types::Password;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

const DAY: i64 = 86_400;

fn new_key() -> SignedSecretKey {
    let sub = SubkeyParamsBuilder::default().key_type(KeyType::Ed25519Legacy).can_sign(true).build().unwrap();
    let mut params = SecretKeyParamsBuilder::default();
    params
        .key_type(KeyType::Ed25519Legacy)
        .can_certify(true)
        .can_sign(true)
        .primary_user_id("Test <t@t.test>".into())
        .subkeys(vec![sub]);
    params.build().unwrap().generate(rand::thread_rng()).unwrap()
}

fn sign(text: &str, key: &SignedSecretKey, by_subkey: bool) -> String {
    let (rng, pw) = (rand::thread_rng(), Password::empty());
    let message = if by_subkey {
        CleartextSignedMessage::sign(rng, text, &key.secret_subkeys[0].key, &pw)
    } else {
        CleartextSignedMessage::sign(rng, text, &key.primary_key, &pw)
    };
    message.unwrap().to_armored_string(ArmorOptions::default()).unwrap()
}

#[derive(Default)]
struct Site {
    files: BTreeMap<String, Vec<u8>>,
    /// How often each path was asked for.
    asked: BTreeMap<String, u32>,
    /// Paths whose first answer breaks off after so many bytes.
    cut: BTreeMap<String, usize>,
    /// Files that replace others once the path (first) was asked for.
    then: BTreeMap<String, Vec<(String, Vec<u8>)>>,
    ranges: u32,
}

struct Mirror {
    site: Arc<Mutex<Site>>,
    key: SignedSecretKey,
    dir: tempfile::TempDir,
    source: Source,
}

/// Of `/path`, or of the whole address that a proxy is given.
fn path_of(target: &str) -> String {
    let path = target.strip_prefix("http://").map_or(target, |r| r.split_once('/').map_or("", |(_, p)| p));
    path.trim_start_matches('/').to_owned()
}

fn serve(stream: TcpStream, site: &Mutex<Site>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let (mut line, mut from, mut first) = (String::new(), 0usize, String::new());
        while reader.read_line(&mut line)? > 2 {
            if let Some(r) = line.to_lowercase().strip_prefix("range: bytes=") {
                from = r.trim().trim_end_matches('-').parse().unwrap();
            }
            if first.is_empty() {
                first.clone_from(&line);
            }
            line.clear();
        }
        let Some(path) = first.split(' ').nth(1).map(path_of) else {
            return Ok(());
        };
        let (body, cut) = {
            let mut s = site.lock().unwrap();
            *s.asked.entry(path.clone()).or_default() += 1;
            s.ranges += u32::from(from > 0);
            let answer = (s.files.get(&path).cloned(), s.cut.remove(&path));
            for (name, data) in s.then.remove(&path).unwrap_or_default() {
                s.files.insert(name, data);
            }
            answer
        };
        let mut out = &stream;
        match body {
            None => write!(out, "HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")?,
            Some(b) if from > 0 && from < b.len() => {
                write!(
                    out,
                    "HTTP/1.1 206 P\r\nContent-Range: bytes {from}-{}/{}\r\nContent-Length: {}\r\n\r\n",
                    b.len() - 1,
                    b.len(),
                    b.len() - from
                )?;
                out.write_all(&b[from..])?;
            }
            Some(b) => {
                write!(out, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", b.len())?;
                out.write_all(&b[..cut.unwrap_or(b.len()).min(b.len())])?;
                if cut.is_some() {
                    return stream.shutdown(std::net::Shutdown::Both);
                }
            }
        }
    }
}

/// A suite's files with hashes that fit, `age` days old and valid for `valid` more days.
fn suite_files(
    suite: Suite,
    packages: &str,
    key: &SignedSecretKey,
    valid: Option<i64>,
    by_hash: bool,
) -> Vec<(String, Vec<u8>)> {
    let packed = xz(packages.as_bytes());
    let dir = format!("dists/{}", suite.codename);
    let line = |data: &[u8], name: &str| {
        format!(" {} {} main/binary-riscv64/{name}\n", hex(&Sha256::digest(data)), data.len())
    };
    let mut text = format!("Suite: x\nCodename: {}\nDate: {}\n", suite.codename, rfc5322(now() - 40 * DAY));
    if let Some(days) = valid {
        text += &format!("Valid-Until: {}\n", rfc5322(now() + days * DAY));
    }
    if by_hash {
        text += "Acquire-By-Hash: yes\n";
    }
    text += &format!("SHA256:\n{}{}", line(packages.as_bytes(), "Packages"), line(&packed, "Packages.xz"));
    let mut out = vec![
        (format!("{dir}/InRelease"), sign(&text, key, true).into_bytes()),
        (format!("{dir}/main/binary-riscv64/Packages.xz"), packed.clone()),
    ];
    if by_hash {
        out.push((
            format!("{dir}/main/binary-riscv64/by-hash/SHA256/{}", hex(&Sha256::digest(&packed))),
            packed,
        ));
    }
    out
}

/// Kernel, module and busybox packages small enough for a test, and their index.
fn pool() -> (Vec<(String, Vec<u8>)>, String) {
    let mut kernel = vec![0u8; 4096];
    kernel[0x38..0x3c].copy_from_slice(b"RSC\x05");
    let module = xz(&module_of(b"depends=\0"));
    let (mut files, mut index) = (Vec::new(), String::new());
    let mut add = |name: &str, more: &str, data: &[(&str, &[u8])]| {
        let deb = deb_of(&format!("Package: {name}\nVersion: 1\n"), data);
        let path = format!("pool/{name}.deb");
        index.push_str(&format!(
            "Package: {name}\nVersion: 1\nFilename: {path}\nSize: {}\nSHA256: {}\n{more}\n",
            deb.len(),
            hex(&Sha256::digest(&deb))
        ));
        files.push((path, deb));
    };
    add("linux-image-riscv64", "Depends: linux-image-7-riscv64 (= 1)\n", &[]);
    add("linux-image-7-riscv64", "Depends: linux-binary-7-riscv64, linux-modules-7-riscv64\n", &[]);
    add("linux-binary-7-riscv64", "", &[("./usr/lib/modules/7-riscv64/vmlinuz", &kernel)]);
    add(
        "linux-modules-7-riscv64",
        "",
        &[("./usr/lib/modules/7-riscv64/kernel/drivers/virtio/virtio_mmio.ko.xz", &module)],
    );
    add("busybox-static", "", &[("./usr/bin/busybox", b"\x7fELF busybox")]);
    (files, index)
}

impl Mirror {
    /// All suites good, valid for a week.
    fn new() -> Mirror {
        let site = Arc::new(Mutex::new(Site::default()));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let source = Source {
            mirror: format!("http://{}", listener.local_addr().unwrap()),
            proxy: None,
            check_valid_until: true,
            origin: "test".into(),
        };
        let served = site.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let site = served.clone();
                std::thread::spawn(move || serve(stream, &site));
            }
        });
        let m = Mirror { site, key: new_key(), dir: tempfile::tempdir().unwrap(), source };
        let (files, index) = pool();
        m.put(files);
        for suite in SUITES {
            m.put(suite_files(suite, &index, &m.key, Some(7), true));
        }
        m
    }

    fn put(&self, files: Vec<(String, Vec<u8>)>) {
        self.site.lock().unwrap().files.extend(files);
    }

    fn keyring(&self) -> Keyring {
        let path = self.dir.path().join("key.asc");
        let public = SignedPublicKey::from(self.key.clone());
        std::fs::write(&path, public.to_armored_bytes(ArmorOptions::default()).unwrap()).unwrap();
        Keyring::from_file(&path).unwrap()
    }

    fn with<T>(&self, allow_expired: bool, f: impl FnOnce(&Archive<'_>) -> T) -> (T, Vec<String>) {
        let (notes, cancel) = (Notes::default(), Cancel::default());
        let archive = Archive {
            arch: crate::Arch::default(),
            source: &self.source,
            keyring: &self.keyring(),
            allow_expired,
            cache: self.dir.path(),
            client: Client::new(&self.source, &cancel).unwrap().impatient(),
            progress: &notes,
            cancel: &cancel,
        };
        let out = f(&archive);
        (out, notes.0.into_inner().unwrap())
    }

    fn open(&self, n: usize) -> Result<OpenSuite> {
        self.with(false, |a| a.open(SUITES[n])).0
    }

    /// Makes an index differ from its Release, as a mirror in the middle of an update does.
    fn disturb(&self, suite: Suite) {
        let mut s = self.site.lock().unwrap();
        let dir = format!("dists/{}/main", suite.codename);
        for (_, data) in s.files.iter_mut().filter(|(n, _)| n.starts_with(&dir)) {
            *data = xz(b"Package: other\n");
        }
    }

    fn pull(&self, image: &str, cancel: &Cancel) -> (Result<crate::Image>, Store) {
        self.keyring();
        let store = Store::open(&self.dir.path().join("store")).unwrap();
        let request = PullRequest {
            image: image.into(),
            mirror: Some(self.source.mirror.clone()),
            keyring: Some(self.dir.path().join("key.asc")),
            ..Default::default()
        };
        let notes = Notes::default();
        let host = Host {
            root: Path::new("/nowhere"),
            environment: Environment::default(),
            progress: &notes,
            cancel,
            runner: &NoMachine,
        };
        (pull(&store, &request, &host), store)
    }
}

#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Progress for Notes {
    fn stage(&self, _: Stage, _: u64, _: u64) {}
    fn note(&self, text: &str) {
        self.0.lock().unwrap().push(text.into());
    }
}

struct NoMachine;

impl GuestRunner for NoMachine {
    fn ready(&self, _: crate::Arch) -> std::result::Result<Place, GuestError> {
        Ok(Place::Machine)
    }
    fn run(&self, _: GuestJob, _: &mut dyn FnMut(&[u8])) -> std::result::Result<(), GuestError> {
        Err(GuestError::Failed("no machine in this test".into()))
    }
}

#[test]
fn a_busybox_image_is_pulled_whole() {
    let m = Mirror::new();
    m.disturb(SUITES[0]);
    let (image, store) = m.pull("busybox", &Cancel::default());
    let image = image.unwrap();
    assert_eq!(image.record.origin.as_ref().unwrap().suite, "forky");
    assert_eq!(image.record.kernel.as_ref().unwrap().release, "7-riscv64");
    assert_eq!(std::fs::read(image.kernel().unwrap()).unwrap().len(), 4096);
    let initrd = std::fs::read(image.initrd().unwrap()).unwrap();
    assert!(initrd.windows(15).any(|w| w == b"virtio_mmio.ko\n"));
    assert_eq!(store.list().unwrap().len(), 1);
    assert!(matches!(m.pull("busybox", &Cancel::default()).0, Err(Error::Exists { .. })));
}

#[test]
fn cancelled_or_failed_pulls_leave_no_image() {
    let m = Mirror::new();
    let cancel = Cancel::default();
    cancel.cancel();
    let (result, store) = m.pull("busybox", &cancel);
    assert!(matches!(result, Err(Error::Cancelled)));
    m.site.lock().unwrap().files.remove("pool/busybox-static.deb");
    let (result, _) = m.pull("busybox", &Cancel::default());
    assert!(matches!(result, Err(Error::NotFound { status: 404, .. })));
    assert_eq!(std::fs::read_dir(m.dir.path().join("store/images")).unwrap().count(), 0);
    assert!(store.list().unwrap().is_empty());
}

#[test]
fn an_index_out_of_step_names_the_suites_that_match() {
    let m = Mirror::new();
    m.disturb(SUITES[0]);
    let e = m.open(0).err().unwrap();
    assert_eq!(e.kind(), Kind::Mirror);
    let text = e.to_string();
    assert!(
        text.starts_with(
            "mirror out of step: the index of suite 13 for riscv64 doesn't match its own signed Release"
        ),
        "{text}"
    );
    assert!(text.contains("these suites match: forky, sid"), "{text}");
    assert_eq!(
        m.site.lock().unwrap().asked["dists/trixie/InRelease"],
        2,
        "a fresh Release is asked for once"
    );
}

#[test]
fn a_mirror_updated_meanwhile_is_read_again() {
    let m = Mirror::new();
    let newer =
        suite_files(SUITES[2], &pool().1.replace("busybox-static", "busybox-newer"), &m.key, Some(7), true);
    m.disturb(SUITES[2]);
    m.site.lock().unwrap().then.insert("dists/sid/main/binary-riscv64/Packages.xz".into(), newer);
    assert!(m.open(2).unwrap().index.get("busybox-newer", "").is_ok());
}

#[test]
fn indexes_without_by_hash_are_found_by_name() {
    let m = Mirror::new();
    m.site.lock().unwrap().files.retain(|n, _| !n.contains("by-hash"));
    assert!(
        m.open(1).unwrap().index.get("busybox-static", "").is_ok(),
        "404 for the hash, then the plain name"
    );
    m.put(suite_files(SUITES[0], &pool().1, &m.key, None, false));
    m.open(0).unwrap();
    assert!(!m.site.lock().unwrap().asked.keys().any(|p| p.contains("trixie/main/binary-riscv64/by-hash")));
}

#[test]
fn an_expired_release_needs_leave() {
    let mut m = Mirror::new();
    m.put(suite_files(SUITES[1], &pool().1, &m.key, Some(-3), true));
    let e = m.open(1).err().unwrap();
    assert!(matches!(&e, Error::Expired { .. }) && e.to_string().contains("--allow-expired"), "{e}");
    let warned = |(result, notes): (Result<OpenSuite>, Vec<String>), by: &str| {
        result.unwrap();
        assert!(
            notes.iter().any(|n| n.contains(&rfc5322(now() - 3 * DAY)[..16]) && n.contains(by)),
            "{notes:?}"
        );
    };
    warned(m.with(true, |a| a.open(SUITES[1])), "--allow-expired");
    m.source.check_valid_until = false;
    warned(m.with(false, |a| a.open(SUITES[1])), "apt configuration");
}

#[test]
fn only_our_keys_and_unchanged_text_count() {
    let m = Mirror::new();
    let stranger = new_key();
    m.put(suite_files(SUITES[0], &pool().1, &stranger, Some(7), true));
    let e = m.open(0).err().unwrap();
    assert!(matches!(&e, Error::BadSignature { .. }) && e.to_string().contains("not in our keyring"), "{e}");
    let path = "dists/sid/InRelease".to_owned();
    let text = String::from_utf8(m.site.lock().unwrap().files[&path].clone()).unwrap();
    for (from, to) in [
        ("Codename: sid", "Codename: six"),
        ("-----BEGIN PGP SIGNED", "x\n-----BEGIN PGP SIGNED"),
        ("main/binary", "Main/binary"),
    ] {
        m.put(vec![(path.clone(), text.replace(from, to).into_bytes())]);
        assert!(matches!(m.open(2), Err(Error::BadSignature { .. })), "{from}");
    }
    let forky = m.site.lock().unwrap().files["dists/forky/InRelease"].clone();
    m.put(vec![(path, forky)]);
    let e = m.open(2).err().unwrap().to_string();
    assert!(e.contains("Release of forky, not of sid"), "{e}");
}

#[test]
fn the_primary_key_may_sign_too() {
    let m = Mirror::new();
    let signed = m.keyring().verify("t", sign("a: b\n", &m.key, false).as_bytes(), now()).unwrap();
    assert_eq!(signed.text.trim_end(), "a: b");
    let later = now() - 2 * DAY;
    assert!(
        m.keyring().verify("t", sign("a: b\n", &m.key, true).as_bytes(), later).is_err(),
        "signed in the future"
    );
}

#[test]
fn a_broken_download_goes_on_where_it_stopped() {
    let m = Mirror::new();
    let big: Vec<u8> = (0..300_000u32).flat_map(|i| i.to_le_bytes()).collect();
    m.put(vec![("pool/big".into(), big.clone())]);
    m.site.lock().unwrap().cut.insert("pool/big".into(), 700_000);
    let want = crate::fetch::Wanted { sha256: hex(&Sha256::digest(&big)), size: big.len() as u64 };
    let urls = [format!("{}/pool/big", m.source.mirror)];
    let path = m.with(false, |a| a.client.file(&urls, &want, a.cache, &|_| {})).0.unwrap();
    assert_eq!(std::fs::read(path).unwrap(), big);
    assert_eq!(m.site.lock().unwrap().ranges, 1);
}

#[test]
fn wrong_bytes_are_refused_and_not_kept() {
    let m = Mirror::new();
    m.put(vec![("pool/f".into(), b"evil".to_vec())]);
    let urls = [format!("{}/pool/f", m.source.mirror)];
    for size in [4, 5] {
        let want = crate::fetch::Wanted { sha256: hex(&Sha256::digest(b"good")), size };
        // Also when a beginning was kept from before.
        std::fs::write(m.dir.path().join(format!("{}.part", want.sha256)), b"go").unwrap();
        let (result, _) = m.with(false, |a| a.client.file(&urls, &want, a.cache, &|_| {}));
        assert!(matches!(result, Err(Error::HashMismatch { .. })), "{result:?}");
        assert!(!m.dir.path().join(format!("{}.part", want.sha256)).exists());
    }
}

#[test]
fn plain_http_goes_through_a_proxy_by_whole_address() {
    let mut m = Mirror::new();
    // The test's server plays the proxy of a mirror whose name does not exist.
    m.source.proxy = Some(m.source.mirror.clone());
    m.source.mirror = "http://mirror.invalid".into();
    m.open(1).unwrap();
    let e = m.with(false, |a| a.client.small("http://mirror.invalid/none", 9)).0.unwrap_err();
    assert!(matches!(e, Error::NotFound { .. }), "{e}");
}

#[test]
fn nobody_there_is_a_network_error() {
    let mut m = Mirror::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    m.source.mirror = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let e = m.open(0).err().unwrap();
    assert_eq!(e.kind(), Kind::Network, "{e}");
}

/// Against the host's real mirror; set STRATA_TEST_NETWORK=1.
#[test]
fn the_real_archive_verifies() {
    if std::env::var_os("STRATA_TEST_NETWORK").is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let source = crate::discover(Path::new("/"), None, &Environment::of_process()).unwrap();
    let (notes, cancel) = (Notes::default(), Cancel::default());
    let archive = Archive {
        arch: crate::Arch::default(),
        source: &source,
        keyring: &Keyring::debian().unwrap(),
        allow_expired: false,
        cache: dir.path(),
        client: Client::new(&source, &cancel).unwrap(),
        progress: &notes,
        cancel: &cancel,
    };
    let open = archive.open_first().unwrap();
    assert!(open.index.get("linux-image-riscv64", "").is_ok());
}
