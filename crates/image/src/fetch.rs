//! Getting files from the mirror: bounded, resumable, checked.
//!
//! A file is wanted by hash: it is written to `<cache>/<sha256>.part`, and named `<cache>/<sha256>` once
//! length and hash are right, so a cache entry is either right or absent, and an interrupted download
//! goes on where it stopped (HTTP Range, RFC 9110 section 14). Three attempts without progress end it;
//! an attempt that got further does not count. What the server says is never trusted: lengths are
//! bounded before a byte is stored.

use crate::error::{Error, Result};
use crate::mirror::Source;
use crate::progress::Cancel;
use crate::proxied::HttpProxy;
use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Attempts that bring nothing before a download is given up.
const ATTEMPTS: u32 = 3;
/// No byte for this long: the connection is dead.
const STALL: Duration = Duration::from_secs(30);
const CONNECT: Duration = Duration::from_secs(15);
const CHUNK: usize = 128 << 10;

/// A file by its contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// SHA-256 in lower-case hexadecimal, 64 digits (checked where it is parsed).
    pub sha256: String,
    /// Length in bytes.
    pub size: u64,
}

/// An HTTP client for one mirror. Clones share connections.
#[derive(Clone)]
pub struct Client {
    agent: ureq::Agent,
    /// Set where the proxy is one for plain HTTP; the agent's own use of it is for https only.
    http_proxy: Option<HttpProxy>,
    cancel: Cancel,
    pause: Duration,
}

impl Client {
    /// A client that goes through the proxy of `source`, and stops when `cancel` says so.
    ///
    /// # Errors
    /// [`Error::BadSetting`] if the proxy is not an address.
    pub fn new(source: &Source, cancel: &Cancel) -> Result<Client> {
        let proxy =
            match &source.proxy {
                None => None,
                Some(p) => Some(ureq::Proxy::new(p).map_err(|e| Error::BadSetting {
                    what: format!("the proxy {p:?}"),
                    why: e.to_string(),
                })?),
            };
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .proxy(proxy)
            .user_agent(concat!("strata/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(CONNECT))
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(STALL))
            .timeout_per_read(Some(STALL))
            .build();
        let http_proxy = source.proxy.as_deref().and_then(HttpProxy::parse);
        Ok(Client {
            agent: config.new_agent(),
            http_proxy,
            cancel: cancel.clone(),
            pause: Duration::from_millis(500),
        })
    }

    /// A small file whose hash is not known beforehand (a Release), at most `limit` bytes.
    ///
    /// # Errors
    /// [`Error::NoNetwork`], [`Error::NotFound`], [`Error::Malformed`] if longer, [`Error::Cancelled`].
    pub fn small(&self, url: &str, limit: u64) -> Result<Vec<u8>> {
        self.retry(url, |_| {
            let mut out = Vec::new();
            let mut body = self.get(url, 0)?.body;
            let read = (&mut body).take(limit.saturating_add(1)).read_to_end(&mut out);
            read.map_err(|e| Attempt::Again(e.to_string()))?;
            if u64::try_from(out.len()).unwrap_or(u64::MAX) > limit {
                return Err(Error::malformed(url, format!("longer than {limit} bytes")).into());
            }
            Ok(out)
        })
    }

    /// A file by hash, from the first of `urls` that has it, into `cache`; its path. `news` hears how
    /// many bytes came in (negative: thrown away again).
    ///
    /// # Errors
    /// [`Error::HashMismatch`] if no address gives the right bytes, else those of [`Client::small`] and
    /// of the file system.
    pub fn file(&self, urls: &[String], want: &Wanted, cache: &Path, news: &dyn Fn(i64)) -> Result<PathBuf> {
        let path = cache.join(&want.sha256);
        let size = i64::try_from(want.size).unwrap_or(i64::MAX);
        if let Ok(mut f) = File::open(&path) {
            if hash_of(&mut f, &path)? == *want {
                news(size);
                return Ok(path);
            }
            fs::remove_file(&path).map_err(|e| Error::io("remove", &path, e))?;
        }
        let part = cache.join(format!("{}.part", want.sha256));
        let mut last = None;
        for url in urls {
            match self.one(url, want, &part, news) {
                Ok(()) => {
                    fs::rename(&part, &path).map_err(|e| Error::io("rename", &part, e))?;
                    return Ok(path);
                }
                Err(e @ (Error::NotFound { .. } | Error::HashMismatch { .. })) => last = Some(e),
                Err(e) => return Err(e),
            }
        }
        Err(last.unwrap_or_else(|| Error::malformed("a list of addresses", "it is empty")))
    }

    fn one(&self, url: &str, want: &Wanted, part: &Path, news: &dyn Fn(i64)) -> Result<()> {
        let resumed = fs::metadata(part).map(|m| m.len()).unwrap_or(0) > 0;
        let mut result = self.fill(url, want, part, news);
        if resumed && matches!(result, Err(Error::HashMismatch { .. })) {
            // A kept beginning may be of another file (or the disk's fault): once more from nothing.
            let _ = fs::remove_file(part);
            result = self.fill(url, want, part, news);
        }
        if matches!(result, Err(Error::HashMismatch { .. })) {
            let _ = fs::remove_file(part);
        }
        result
    }

    /// Brings `part` to its full length over as many attempts as make progress, then checks it.
    fn fill(&self, url: &str, want: &Wanted, part: &Path, news: &dyn Fn(i64)) -> Result<()> {
        let io = |doing| move |e| Error::io(doing, part, e);
        let mut file =
            OpenOptions::new().read(true).append(true).create(true).open(part).map_err(io("open"))?;
        let mut have = file.metadata().map_err(io("read"))?.len();
        if have > want.size {
            file.set_len(0).map_err(io("truncate"))?;
            have = 0;
        }
        news(i64::try_from(have).unwrap_or(i64::MAX));
        if have < want.size {
            self.retry(url, |progress| self.append(url, want, &mut file, part, progress, news))?;
        }
        file.rewind().map_err(io("read"))?;
        let got = hash_of(&mut file, part)?;
        if got == *want {
            return Ok(());
        }
        news(i64::try_from(got.size).map_or(i64::MIN, i64::wrapping_neg));
        Err(Error::HashMismatch { url: url.to_owned(), want: want.sha256.clone(), got: got.sha256 })
    }

    /// One request for what is missing.
    fn append(
        &self,
        url: &str,
        want: &Wanted,
        file: &mut File,
        part: &Path,
        progress: &mut bool,
        news: &dyn Fn(i64),
    ) -> Attempted<()> {
        let io = |doing| move |e| Attempt::Fatal(Error::io(doing, part, e));
        let mut have = file.seek(SeekFrom::End(0)).map_err(io("read"))?;
        let mut answer = self.get(url, have)?;
        // The whole file's length, where the server tells it: another length is another file.
        if let Some(whole) = answer.len.map(|l| l.saturating_add(answer.start)).filter(|w| *w != want.size) {
            let (url, want) = (url.to_owned(), format!("{} of {} bytes", want.sha256, want.size));
            return Err(Attempt::Fatal(Error::HashMismatch {
                url,
                want,
                got: format!("a file of {whole} bytes"),
            }));
        }
        let before = have;
        if answer.start != have {
            // The server does not do ranges: it sends everything again.
            file.set_len(0).map_err(io("truncate"))?;
            news(i64::try_from(have).map_or(i64::MIN, i64::wrapping_neg));
            have = 0;
        }
        let mut buf = vec![0u8; CHUNK];
        loop {
            self.cancel.check()?;
            let n = match answer.body.read(&mut buf) {
                Ok(0) if have == want.size => return Ok(()),
                Ok(0) => return Err(Attempt::Again(format!("ended after {have} of {} bytes", want.size))),
                Ok(n) => n,
                Err(e) => return Err(Attempt::Again(e.to_string())),
            };
            have = have.saturating_add(n as u64);
            if have > want.size {
                return Err(Attempt::Fatal(Error::HashMismatch {
                    url: url.to_owned(),
                    want: want.sha256.clone(),
                    got: format!("more than the {} bytes it should have", want.size),
                }));
            }
            file.write_all(buf.get(..n).unwrap_or(&[])).map_err(io("write"))?;
            // A server that starts over each time makes progress only beyond what we had.
            *progress |= have > before;
            news(i64::try_from(n).unwrap_or(0));
        }
    }

    fn retry<T>(&self, url: &str, mut attempt: impl FnMut(&mut bool) -> Attempted<T>) -> Result<T> {
        let mut fruitless = 0;
        loop {
            self.cancel.check()?;
            let mut progress = false;
            let why = match attempt(&mut progress) {
                Ok(done) => return Ok(done),
                Err(Attempt::Fatal(e)) => return Err(e),
                Err(Attempt::Again(why)) => why,
            };
            fruitless = if progress { 1 } else { fruitless + 1 };
            if fruitless >= ATTEMPTS {
                return Err(Error::NoNetwork { url: url.to_owned(), why, attempts: ATTEMPTS });
            }
            std::thread::sleep(self.pause);
        }
    }

    fn get(&self, url: &str, from: u64) -> Attempted<Answer> {
        let (status, range, len, body) = match self.http_proxy.as_ref().filter(|_| url.starts_with("http://"))
        {
            Some(proxy) => {
                let r = proxy.get(url, from, CONNECT, STALL).map_err(|e| Attempt::Again(e.to_string()))?;
                // A proxy may keep the connection open: the body ends where it said.
                let body = r.body.take(r.content_length.unwrap_or(u64::MAX));
                (r.status, r.content_range, r.content_length, Box::new(body) as Box<dyn Read>)
            }
            None => self.get_direct(url, from)?,
        };
        let start = match status {
            200 => 0,
            206 => {
                let start = range.strip_prefix("bytes ").and_then(|r| r.split('-').next());
                match start.and_then(|s| s.trim().parse::<u64>().ok()) {
                    Some(start) if start == from => start,
                    _ => return Err(Attempt::Again(format!("asked for bytes from {from}, got {range:?}"))),
                }
            }
            416 => {
                return Err(Attempt::Fatal(Error::HashMismatch {
                    url: url.to_owned(),
                    want: format!("more than {from} bytes"),
                    got: "a shorter file".into(),
                }));
            }
            401 | 403 | 404 | 410 | 451 => {
                return Err(Attempt::Fatal(Error::NotFound { url: url.to_owned(), status }));
            }
            other => return Err(Attempt::Again(format!("HTTP status {other}"))),
        };
        Ok(Answer { start, len, body })
    }

    fn get_direct(&self, url: &str, from: u64) -> Attempted<Raw> {
        let mut request = self.agent.get(url);
        if from > 0 {
            request = request.header("Range", format!("bytes={from}-"));
        }
        let answer = request.call().map_err(|e| match e {
            ureq::Error::BadUri(_) | ureq::Error::InvalidProxyUrl | ureq::Error::Http(_) => {
                Attempt::Fatal(Error::BadSetting { what: format!("the address {url:?}"), why: e.to_string() })
            }
            other => Attempt::Again(other.to_string()),
        })?;
        let range =
            answer.headers().get("content-range").and_then(|v| v.to_str().ok()).unwrap_or("").to_owned();
        let (status, len) = (answer.status().as_u16(), answer.body().content_length());
        Ok((status, range, len, Box::new(answer.into_body().into_with_config().limit(u64::MAX).reader())))
    }
}

/// Status, Content-Range, length and body.
type Raw = (u16, String, Option<u64>, Box<dyn Read>);

struct Answer {
    start: u64,
    /// Bytes to come, if told.
    len: Option<u64>,
    body: Box<dyn Read>,
}

/// How an attempt ends when it does not end well.
enum Attempt {
    Again(String),
    Fatal(Error),
}

type Attempted<T> = std::result::Result<T, Attempt>;

impl From<Error> for Attempt {
    fn from(e: Error) -> Attempt {
        Attempt::Fatal(e)
    }
}

/// Length and hash of what `from` still gives.
pub(crate) fn hash_of(from: &mut impl Read, path: &Path) -> Result<Wanted> {
    let mut hash = Sha256::new();
    let mut size = 0u64;
    let mut buf = vec![0u8; CHUNK];
    loop {
        let n = from.read(&mut buf).map_err(|e| Error::io("read", path, e))?;
        if n == 0 {
            return Ok(Wanted { sha256: hex(&hash.finalize()), size });
        }
        hash.update(buf.get(..n).unwrap_or(&[]));
        size = size.saturating_add(n as u64);
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut s, b| {
        let _ = write!(s, "{b:02x}");
        s
    })
}

#[cfg(test)]
impl Client {
    /// The same client without waits between attempts.
    pub(crate) fn impatient(mut self) -> Client {
        self.pause = Duration::ZERO;
        self
    }
}
