//! Where packages come from: the host's own apt configuration, or `--mirror`.
//!
//! Read are `/etc/apt/sources.list`, `/etc/apt/sources.list.d/*.{list,sources}` (sources.list(5)) and
//! `/etc/apt/apt.conf.d/*`, `/etc/apt/apt.conf` (apt.conf(5)): the first `deb` source that looks like
//! Debian's main archive, the proxies, and whether Valid-Until is enforced. The image's own apt gets
//! the same settings. No address of any mirror is written in this program: a host without apt must say
//! `--mirror`.

use crate::deb822;
use crate::error::{Error, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// A mirror with the settings to reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Base address, without a trailing slash.
    pub mirror: String,
    /// Proxy for it, if any.
    pub proxy: Option<String>,
    /// Whether a Release past its Valid-Until is refused.
    pub check_valid_until: bool,
    /// Where these settings come from, for people.
    pub origin: String,
}

/// What the environment of the process contributes; apt's own settings come first.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// `http_proxy`.
    pub http_proxy: Option<String>,
    /// `https_proxy`.
    pub https_proxy: Option<String>,
    /// `no_proxy`: host names, or suffixes, that are reached directly.
    pub no_proxy: Option<String>,
}

impl Environment {
    /// The process's own, lower-case names before upper-case ones.
    pub fn of_process() -> Environment {
        let get = |name: &str| {
            std::env::var(name).or_else(|_| std::env::var(name.to_uppercase())).ok().filter(|v| !v.is_empty())
        };
        Environment {
            http_proxy: get("http_proxy"),
            https_proxy: get("https_proxy"),
            no_proxy: get("no_proxy"),
        }
    }
}

/// Finds the mirror to use. `root` is where `etc/apt` is found (`/`, except in tests); `explicit` is
/// `--mirror`.
///
/// # Errors
/// [`Error::NoMirror`] if there is none, [`Error::BadSetting`] if the one given is no http(s) address.
pub fn discover(root: &Path, explicit: Option<&str>, env: &Environment) -> Result<Source> {
    let apt = root.join("etc/apt");
    let conf = read_conf(&apt);
    let found = match explicit {
        Some(mirror) => Some(Candidate { uri: mirror.to_owned(), check: None, origin: "--mirror".into() }),
        None => read_sources(&apt),
    };
    let Some(found) = found else {
        return Err(Error::NoMirror { hint: format!(" (looked in {})", apt.display()) });
    };
    let mirror = found.uri.trim_end_matches('/').to_owned();
    let scheme_ok = mirror.starts_with("http://") || mirror.starts_with("https://");
    if !scheme_ok || host_of(&mirror).is_empty() || mirror.contains(char::is_whitespace) {
        return Err(Error::BadSetting {
            what: format!("the mirror {mirror:?}"),
            why: "it must be an http:// or https:// address".into(),
        });
    }
    let proxy = proxy_for(&mirror, &conf, env);
    let global = !matches!(lookup(&conf, "acquire::check-valid-until"), Some(v) if is_false(v));
    Ok(Source { check_valid_until: found.check.unwrap_or(global), proxy, origin: found.origin, mirror })
}

struct Candidate {
    uri: String,
    check: Option<bool>,
    origin: String,
}

fn host_of(uri: &str) -> &str {
    let rest = uri.split_once("://").map(|(_, r)| r).unwrap_or("");
    let authority = rest.split(['/', '?']).next().unwrap_or("");
    let host = authority.rsplit('@').next().unwrap_or("");
    match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or(""),
        None => host.split(':').next().unwrap_or(""),
    }
}

fn proxy_for(mirror: &str, conf: &[(String, String)], env: &Environment) -> Option<String> {
    let scheme = if mirror.starts_with("https:") { "https" } else { "http" };
    let host = host_of(mirror);
    let own = lookup(conf, &format!("acquire::{scheme}::proxy::{}", host.to_lowercase()));
    let general = lookup(conf, &format!("acquire::{scheme}::proxy"));
    let fallback = if scheme == "https" { lookup(conf, "acquire::http::proxy") } else { None };
    if let Some(p) = own.or(general).or(fallback).filter(|p| !p.is_empty()) {
        return if p.eq_ignore_ascii_case("direct") { None } else { Some(p.to_owned()) };
    }
    let direct = env.no_proxy.as_deref().unwrap_or("").split(',').map(str::trim).any(|d| {
        let suffix = d.trim_start_matches('.');
        d == "*" || (!suffix.is_empty() && (host == suffix || host.ends_with(&format!(".{suffix}"))))
    });
    if direct {
        return None;
    }
    if scheme == "https" { env.https_proxy.clone() } else { env.http_proxy.clone() }
}

fn is_false(v: &str) -> bool {
    ["false", "no", "0", "off", "without", "disable"].iter().any(|f| v.eq_ignore_ascii_case(f))
}

/// Files of a directory with one of the endings, in the order apt reads them.
fn listing(dir: &Path, keep: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.file_name().and_then(|n| n.to_str()).is_some_and(&keep))
        .collect();
    all.sort();
    all
}

fn read_sources(apt: &Path) -> Option<Candidate> {
    let mut files = vec![apt.join("sources.list")];
    files.extend(listing(&apt.join("sources.list.d"), |n| n.ends_with(".list") || n.ends_with(".sources")));
    let all: Vec<Candidate> = files
        .iter()
        .filter_map(|f| fs::read_to_string(f).ok().map(|text| (f, text)))
        .flat_map(|(f, text)| {
            let origin = f.display().to_string();
            if origin.ends_with(".sources") {
                stanza_sources(&text, &origin)
            } else {
                line_sources(&text, &origin)
            }
        })
        .collect();
    all.into_iter().find(|c| is_main_archive(&c.uri))
}

/// Debian's main archive ends in `/debian` on every mirror; security, ports and vendors do not.
fn is_main_archive(uri: &str) -> bool {
    uri.starts_with("http") && uri.trim_end_matches('/').rsplit('/').next() == Some("debian")
}

fn stanza_sources(text: &str, origin: &str) -> Vec<Candidate> {
    deb822::stanzas(text)
        .filter(|s| s.words("Types").any(|t| t == "deb") && s.words("Components").any(|c| c == "main"))
        .filter(|s| !s.get("Enabled").is_some_and(is_false))
        .flat_map(|s| {
            let check = s.get("Check-Valid-Until").map(|v| !is_false(v));
            s.words("URIs").map(move |uri| (uri, check)).collect::<Vec<_>>()
        })
        .map(|(uri, check)| Candidate { uri: uri.to_owned(), check, origin: origin.to_owned() })
        .collect()
}

/// `deb [option=value ...] uri suite component...`, one a line.
fn line_sources(text: &str, origin: &str) -> Vec<Candidate> {
    let line = |l: &str| -> Option<Candidate> {
        let l = l.split('#').next()?.trim();
        let mut rest = l.strip_prefix("deb")?;
        rest = rest.strip_prefix([' ', '\t'])?.trim_start();
        let mut check = None;
        if let Some(options) = rest.strip_prefix('[') {
            let (inside, after) = options.split_once(']')?;
            check = inside
                .split_whitespace()
                .find_map(|o| o.strip_prefix("check-valid-until="))
                .map(|v| !is_false(v));
            rest = after;
        }
        let mut words = rest.split_whitespace();
        let uri = words.next()?.to_owned();
        words.next()?;
        words.any(|c| c == "main").then(|| Candidate { uri, check, origin: origin.to_owned() })
    };
    text.lines().filter_map(line).collect()
}

/// Every setting of apt's configuration as (lower-case `scope::name`, value), in order.
fn read_conf(apt: &Path) -> Vec<(String, String)> {
    // apt itself skips names with other endings.
    let mut files = listing(&apt.join("apt.conf.d"), |n| !n.contains('.') || n.ends_with(".conf"));
    files.push(apt.join("apt.conf"));
    files.iter().filter_map(|f| fs::read_to_string(f).ok()).flat_map(|t| parse_conf(&t)).collect()
}

/// The last setting wins, as in apt.
fn lookup<'a>(conf: &'a [(String, String)], name: &str) -> Option<&'a str> {
    conf.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
}

/// apt.conf(5): `scope::name "value";` and `scope { name "value"; };`, comments as in C++ and with `#`.
fn parse_conf(text: &str) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let mut scopes: Vec<String> = Vec::new();
    let mut words: Vec<String> = Vec::new();
    for token in conf_tokens(text) {
        match token {
            Token::Word(w) => words.push(w),
            Token::Open => {
                scopes.push(words.first().cloned().unwrap_or_default());
                words.clear();
            }
            Token::Close => {
                scopes.pop();
                words.clear();
            }
            Token::End => {
                if let [name, value, ..] = words.as_slice() {
                    let path: Vec<&str> = scopes.iter().map(String::as_str).chain([name.as_str()]).collect();
                    out.push((path.join("::").to_lowercase(), value.clone()));
                }
                words.clear();
            }
        }
    }
    out
}

enum Token {
    Word(String),
    Open,
    Close,
    End,
}

fn conf_tokens(text: &str) -> Vec<Token> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if let Some(block) = rest.strip_prefix("/*") {
            rest = block.split_once("*/").map(|(_, r)| r).unwrap_or("");
        } else if rest.starts_with("//") || c == '#' {
            rest = rest.split_once('\n').map(|(_, r)| r).unwrap_or("");
        } else if let Some(quoted) = rest.strip_prefix('"') {
            let (word, r) = quoted.split_once('"').unwrap_or((quoted, ""));
            out.push(Token::Word(word.to_owned()));
            rest = r;
        } else if let Some(token) = match c {
            '{' => Some(Token::Open),
            '}' => Some(Token::Close),
            ';' => Some(Token::End),
            _ => None,
        } {
            out.push(token);
            rest = rest.get(1..).unwrap_or("");
        } else if c.is_whitespace() {
            rest = rest.trim_start();
        } else {
            let end = rest.find(|c: char| c.is_whitespace() || "{};\"".contains(c)).unwrap_or(rest.len());
            let (word, r) = rest.split_at(end);
            out.push(Token::Word(word.to_owned()));
            rest = r;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join("etc/apt").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    fn find(files: &[(&str, &str)], env: &Environment) -> Result<Source> {
        discover(host(files).path(), None, env)
    }

    #[test]
    fn both_source_formats_are_read() {
        let env = Environment::default();
        let s = find(&[("sources.list", "# x\ndeb cdrom:[x]/ y main\ndeb [arch=amd64 check-valid-until=no] http://m.test/debian/ trixie main\n")], &env).unwrap();
        assert_eq!((s.mirror.as_str(), s.check_valid_until), ("http://m.test/debian", false));
        let text = "Types: deb\nURIs: http://m.test/debian-security\nSuites: t-security\nComponents: main\n\n\
                    Types: deb\nEnabled: no\nURIs: http://off.test/debian\nSuites: t\nComponents: main\n\n\
                    Types: deb deb-src\nURIs: https://m.test/x/debian/\nSuites: t t-updates\nComponents: main contrib\n";
        let s = find(
            &[
                ("sources.list.d/a.list", "deb https://vendor.test/apt x main\n"),
                ("sources.list.d/debian.sources", text),
            ],
            &env,
        )
        .unwrap();
        assert_eq!((s.mirror.as_str(), s.check_valid_until), ("https://m.test/x/debian", true));
        assert!(s.origin.ends_with("debian.sources"));
    }

    #[test]
    fn apt_conf_gives_proxy_and_validity() {
        let list = ("sources.list", "deb http://m.test/debian trixie main");
        let conf = "/* c */ Acquire { http { Proxy \"http://p.test:3128\"; }; // x\n Check-Valid-Until \"false\"; };\n";
        let env = Environment { http_proxy: Some("http://env.test".into()), ..Default::default() };
        let s = find(&[list, ("apt.conf.d/10x", conf)], &env).unwrap();
        assert_eq!((s.proxy.as_deref(), s.check_valid_until), (Some("http://p.test:3128"), false));
        let s = find(
            &[list, ("apt.conf.d/10x", conf), ("apt.conf", "Acquire::http::Proxy::m.test \"DIRECT\";")],
            &env,
        )
        .unwrap();
        assert_eq!(s.proxy, None);
        let s = find(&[list, ("apt.conf.d/skipped.bak", conf)], &env).unwrap();
        assert_eq!((s.proxy.as_deref(), s.check_valid_until), (Some("http://env.test"), true));
        let env = Environment { no_proxy: Some("x, .test".into()), ..env };
        assert_eq!(find(&[list], &env).unwrap().proxy, None);
    }

    #[test]
    fn no_apt_asks_for_a_mirror() {
        let e = find(&[], &Environment::default()).unwrap_err();
        assert!(matches!(e, Error::NoMirror { .. }) && e.to_string().contains("--mirror"));
        let e = discover(Path::new("/nowhere"), Some("ftp://x"), &Environment::default()).unwrap_err();
        assert!(matches!(e, Error::BadSetting { .. }));
    }
}
