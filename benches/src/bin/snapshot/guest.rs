//! The guest that is saved and restored: a shell on its console, and a service that gives back what it is sent.

use anyhow::{Context, Result, bail};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use strata_bench::host;

/// The port on which the guest echoes.
pub const PORT: u16 = 7;
/// The longest that a boot may take.
const BOOT: Duration = Duration::from_secs(600);
/// The longest that a guest that is up may take to answer.
pub const ANSWER: Duration = Duration::from_secs(60);

/// How long one connection is waited for before another is tried.
const TRY: Duration = Duration::from_secs(5);

/// An image of `strata image`, as it is booted.
#[derive(Clone, Debug)]
pub struct Image {
    /// Its name.
    pub name: String,
    /// Its folder.
    pub dir: PathBuf,
    /// Its own part of the kernel's command line.
    pub cmdline: String,
}

impl Image {
    /// The first of `names` that has been pulled.
    pub fn find(names: &[String]) -> Result<Image> {
        let images = host::store()?.join("images");
        let name = names.iter().find(|n| images.join(n).is_dir());
        let Some(name) = name else {
            bail!("none of {names:?} has been pulled: `strata image pull {}`", names[0])
        };
        let dir = images.join(name);
        let record = std::fs::read(dir.join("image.json")).with_context(|| format!("image {name}"))?;
        let record: serde_json::Value = serde_json::from_slice(&record)?;
        let cmdline = record["cmdline"].as_str().unwrap_or_default().to_owned();
        Ok(Image { name: name.clone(), dir, cmdline })
    }

    fn is_debian(&self) -> bool {
        self.name.starts_with("debian")
    }
}

/// A stream with the guest's console.
pub struct Console {
    stream: UnixStream,
    asked: u32,
}

impl Console {
    pub fn over(stream: UnixStream) -> Console {
        Console { stream, asked: 0 }
    }

    fn wait_for(&mut self, text: &str, patience: Duration) -> Result<()> {
        let (end, mut seen, mut buf) = (Instant::now() + patience, Vec::new(), [0; 4096]);
        while !seen.windows(text.len()).any(|w| w == text.as_bytes()) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("the console did not say {text:?}:\n{}", String::from_utf8_lossy(&seen));
            }
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(&mut buf) {
                Ok(0) => bail!("the console ended before {text:?}:\n{}", String::from_utf8_lossy(&seen)),
                Ok(n) => seen.extend(&buf[..n]),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    fn send(&mut self, line: &str) -> Result<()> {
        Ok(self.stream.write_all(format!("{line}\n").as_bytes())?)
    }

    /// Has the shell do `line`, and waits until it has.
    pub fn ask(&mut self, line: &str) -> Result<()> {
        self.asked += 1;
        // The quotes keep the echo of what is typed from looking like the answer.
        let mark = format!("done{}.", self.asked);
        self.send(&format!("{line}echo do''ne{}.", self.asked))?;
        self.wait_for(&mark, ANSWER)
    }

    /// From power-on to a shell and a service.
    pub fn bring_up(&mut self, image: &Image) -> Result<()> {
        if image.is_debian() {
            self.wait_for("login: ", BOOT)?;
            self.send("root")?;
        }
        self.wait_for("# ", BOOT)?;
        self.ask("until ip -4 addr | grep -q 10.0.2.15; do sleep 0.1; done; ")?;
        if image.is_debian() {
            self.ask("systemd-socket-activate --inetd -a -l 7 cat >/dev/null 2>&1 & sleep 3; ")?;
        } else {
            self.ask("nc -ll -p 7 -e cat & sleep 1; ")?;
        }
        self.ask("sync; ")
    }
}

/// Connects to `port` on this host until something that is sent comes back.
pub fn echo(port: u16) -> Result<TcpStream> {
    let end = Instant::now() + ANSWER;
    loop {
        match once(port) {
            Ok(stream) => return Ok(stream),
            Err(e) if Instant::now() > end => return Err(e.context("the guest's service does not answer")),
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn once(port: u16) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(TRY))?;
    round_trip(&mut stream)?;
    Ok(stream)
}

/// How long a byte takes to the guest and back.
pub fn round_trip(stream: &mut TcpStream) -> Result<Duration> {
    let (start, mut byte) = (Instant::now(), [0]);
    stream.write_all(b"x")?;
    stream.read_exact(&mut byte)?;
    Ok(start.elapsed())
}

/// A port that nobody listens on at the moment.
pub fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
