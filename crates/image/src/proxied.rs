//! `http://` through an HTTP proxy, the way proxies for packages expect it: the whole address in the
//! request line (RFC 9112 section 3.2.2). The HTTP library would ask for a CONNECT tunnel to port 80,
//! which common proxies refuse and caching ones cannot cache. `https://` does go by that tunnel, through
//! the library.
//!
//! One request a connection, as HTTP/1.0, so that an answer is never chunked.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

const MAX_LINE: u64 = 16 << 10;
const MAX_HEADERS: usize = 100;
const MAX_REDIRECTS: usize = 5;

/// An HTTP proxy.
#[derive(Debug, Clone)]
pub(crate) struct HttpProxy {
    address: String,
    /// `Basic` credentials, already encoded.
    credentials: Option<String>,
}

/// An answer, its body still to be read.
pub(crate) struct Response {
    pub status: u16,
    pub content_length: Option<u64>,
    pub content_range: String,
    location: Option<String>,
    pub body: BufReader<TcpStream>,
}

impl HttpProxy {
    /// `http://[user:password@]host:port[/]`; `None` for other kinds of proxy.
    pub fn parse(text: &str) -> Option<HttpProxy> {
        let rest = match text.split_once("://") {
            Some(("http", rest)) => rest,
            None => text,
            Some(_) => return None,
        };
        let rest = rest.trim_end_matches('/');
        let (user, host) = rest.rsplit_once('@').map_or((None, rest), |(u, h)| (Some(u), h));
        let has_port = host.rsplit(']').next().is_some_and(|tail| tail.contains(':'));
        let address = if has_port { host.to_owned() } else { format!("{host}:80") };
        Some(HttpProxy { address, credentials: user.map(|u| base64(u.as_bytes())) })
    }

    /// Asks for `url` (which is `http://`) from byte `from` on.
    pub fn get(&self, url: &str, from: u64, connect: Duration, stall: Duration) -> io::Result<Response> {
        let mut url = url.to_owned();
        for _ in 0..=MAX_REDIRECTS {
            let answer = self.once(&url, from, connect, stall)?;
            match (answer.status, &answer.location) {
                (301 | 302 | 303 | 307 | 308, Some(to)) if to.starts_with("http://") => url.clone_from(to),
                _ => return Ok(answer),
            }
        }
        Err(io::Error::other("redirected too often"))
    }

    fn once(&self, url: &str, from: u64, connect: Duration, stall: Duration) -> io::Result<Response> {
        let host = url.strip_prefix("http://").and_then(|r| r.split('/').next()).unwrap_or("");
        if url.chars().any(|c| c.is_whitespace() || c.is_control()) || host.is_empty() {
            return Err(io::Error::other("not an address"));
        }
        let mut last = io::Error::other(format!("the proxy {} has no address", self.address));
        let mut stream = None;
        for address in self.address.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, connect) {
                Ok(s) => {
                    stream = Some(s);
                    break;
                }
                Err(e) => last = e,
            }
        }
        let mut stream = stream.ok_or(last)?;
        stream.set_read_timeout(Some(stall))?;
        stream.set_write_timeout(Some(stall))?;
        let agent = concat!("strata/", env!("CARGO_PKG_VERSION"));
        let mut request =
            format!("GET {url} HTTP/1.0\r\nHost: {host}\r\nUser-Agent: {agent}\r\nAccept: */*\r\n");
        if from > 0 {
            request.push_str(&format!("Range: bytes={from}-\r\n"));
        }
        if let Some(c) = &self.credentials {
            request.push_str(&format!("Proxy-Authorization: Basic {c}\r\n"));
        }
        request.push_str("Connection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        head(BufReader::with_capacity(64 << 10, stream))
    }
}

fn line(from: &mut impl BufRead) -> io::Result<String> {
    let mut bytes = Vec::new();
    from.take(MAX_LINE).read_until(b'\n', &mut bytes)?;
    if bytes.last() != Some(&b'\n') {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the proxy's answer is no HTTP"));
    }
    Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
}

fn head(mut body: BufReader<TcpStream>) -> io::Result<Response> {
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "the proxy's answer is no HTTP");
    let first = line(&mut body)?;
    let mut words = first.split_whitespace();
    let http = words.next().is_some_and(|v| v.starts_with("HTTP/1."));
    let status = words.next().and_then(|s| s.parse().ok()).filter(|_| http).ok_or_else(bad)?;
    let (mut content_length, mut content_range, mut location) = (None, String::new(), None);
    for _ in 0..MAX_HEADERS {
        let header = line(&mut body)?;
        if header.is_empty() {
            return Ok(Response { status, content_length, content_range, location, body });
        }
        let Some((name, value)) = header.split_once(':').map(|(n, v)| (n.to_ascii_lowercase(), v.trim()))
        else {
            continue;
        };
        match name.as_str() {
            "content-length" => content_length = value.parse().ok(),
            "content-range" => value.clone_into(&mut content_range),
            "location" => location = Some(value.to_owned()),
            "transfer-encoding" => return Err(io::Error::other("the proxy chunks an HTTP/1.0 answer")),
            _ => {}
        }
    }
    Err(bad())
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for three in bytes.chunks(3) {
        let word = three.iter().fold(0u32, |w, b| (w << 8) | u32::from(*b)) << (8 * (3 - three.len()));
        for i in 0..4 {
            let digit = DIGITS.get((word >> (18 - 6 * i)) as usize & 63).copied().unwrap_or(b'=');
            out.push(if i <= three.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_read() {
        let p = HttpProxy::parse("http://user:pass@p.test:3128/").unwrap();
        assert_eq!((p.address.as_str(), p.credentials.as_deref()), ("p.test:3128", Some("dXNlcjpwYXNz")));
        assert_eq!(HttpProxy::parse("p.test").unwrap().address, "p.test:80");
        assert_eq!(HttpProxy::parse("http://[::1]:8").unwrap().address, "[::1]:8");
        assert!(HttpProxy::parse("socks5h://p.test").is_none());
        assert_eq!(
            (base64(b"a"), base64(b"ab"), base64(b"abc")),
            ("YQ==".into(), "YWI=".into(), "YWJj".into())
        );
    }
}
