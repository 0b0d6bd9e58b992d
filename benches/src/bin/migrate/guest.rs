//! The guest: Debian's kernel and busybox with a writer in its memory, or a whole Debian with the writer on a disk; and its
//! console.

use anyhow::{Context, Result, bail, ensure};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use strata_image::Cpio;

/// What it does while it moves.
pub struct Load {
    /// How it is called.
    pub name: &'static str,
    /// MB that it writes a second; 0 is as fast as it goes.
    pub rate: &'static str,
    /// Over how many MiB; 0 is one page.
    pub set: u64,
    /// Whether it goes to another process of its host only.
    pub near: bool,
    /// Whether it is a whole Debian with a disk, which is sent with it.
    pub whole: bool,
}

/// What it is started from.
pub struct Guest {
    /// Its kernel.
    pub kernel: PathBuf,
    /// Its initial RAM disk.
    pub initrd: PathBuf,
    /// A disk to make an image of these with. The machine has none.
    pub disk: PathBuf,
    /// The folder of an image of Debian, if there is one.
    pub debian: Option<PathBuf>,
    /// What writes, as a file that may be given to it as a disk.
    pub writer: PathBuf,
}

impl Guest {
    /// Makes it in `dir` of an image of busybox, and perhaps one of Debian.
    pub fn make(image: &Path, debian: Option<&Path>, dir: &Path) -> Result<Guest> {
        let source = strata_e2e::guest::dir().join("bench/moved/writer.c");
        let program = dir.join("writer");
        let mut cc = Command::new("riscv64-linux-gnu-gcc");
        cc.args(["-O2", "-static", "-Wall", "-Wextra", "-Werror", "-o"]).arg(&program).arg(source);
        let done = cc.output().context("no riscv64-linux-gnu-gcc: see --setup")?;
        ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let mut initrd =
            std::fs::read(image.join("initrd")).context("`strata image pull busybox` makes the image")?;
        initrd.resize(initrd.len().next_multiple_of(512), 0);
        let mut more = Cpio::new();
        let bytes = std::fs::read(&program)?;
        more.file("writer", 0o755, &bytes);
        // A disk has whole sectors.
        std::fs::File::options()
            .write(true)
            .open(&program)?
            .set_len(bytes.len().next_multiple_of(512) as u64)?;
        initrd.extend(more.finish());
        let path = dir.join("initrd");
        std::fs::write(&path, initrd)?;
        // An image has a disk; this one has nothing on it.
        let disk = dir.join("disk");
        std::fs::File::create(&disk)?.set_len(1 << 20)?;
        let debian = debian.map(Path::to_path_buf);
        Ok(Guest { kernel: image.join("kernel"), initrd: path, disk, debian, writer: program })
    }
}

/// A program whose streams are a guest's console.
pub struct Console {
    child: Child,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Console {
    /// Starts it.
    pub fn spawn(mut c: Command) -> Result<Console> {
        let mut child = c.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let heard: Arc<Mutex<Vec<u8>>> = Arc::default();
        let (ours, mut out) = (heard.clone(), child.stdout.take().context("no output")?);
        std::thread::spawn(move || {
            let mut buf = [0; 4096];
            while let Ok(n @ 1..) = out.read(&mut buf) {
                ours.lock().unwrap_or_else(|e| e.into_inner()).extend(&buf[..n]);
            }
        });
        Ok(Console { child, heard })
    }

    /// All that came out so far.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.heard.lock().unwrap_or_else(|e| e.into_inner())).into_owned()
    }

    /// Waits for words.
    pub fn wait(&self, words: &str) -> Result<()> {
        let begun = Instant::now();
        while !self.text().contains(words) {
            if begun.elapsed() > Duration::from_secs(240) {
                bail!("the console does not say `{words}`:\n{}", self.text());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Types a line.
    pub fn say(&mut self, line: &str) -> Result<()> {
        let input = self.child.stdin.as_mut().context("no input")?;
        Ok(input.write_all(format!("{line}\n").as_bytes()).and_then(|()| input.flush())?)
    }

    /// It boots: has the guest take its address, and write. Returns when it does.
    pub fn begin(&mut self, load: &Load) -> Result<()> {
        if load.whole {
            self.wait("login:")?;
            self.say("root")?;
            self.wait("~# ")?;
            // Until it is idle; and the address is not its network's to give.
            self.say(
                "systemctl is-system-running --wait; systemctl stop systemd-networkd.socket systemd-networkd.service; \
                 ip addr flush dev eth0; cat /dev/vdb > /writer; chmod 755 /writer; echo read\"\"y",
            )?;
            self.wait("ready")?;
        } else {
            self.wait("# ")?;
        }
        self.say("ip link set eth0 up; ip addr add 10.9.0.2/24 dev eth0; ping -c 1 -W 2 10.9.0.1 > /dev/null; echo on\"\"line")?;
        self.wait("online")?;
        self.say(&format!("/writer {} {} &", load.rate, load.set))?;
        self.wait(&format!("writing {} MB/s", load.rate))
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
