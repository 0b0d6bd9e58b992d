//! What memory a process has for itself.

use anyhow::{Context, Result};

/// In MiB.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Own {
    /// All private pages but code made by the translator (`Private_*` of `smaps`).
    pub private: f64,
    /// Of those, pages of the guest's memory that it has written.
    pub guest: f64,
    /// Code made by the translator. It is mapped twice and counted once.
    pub code: f64,
}

/// Of the process `pid`.
pub fn of(pid: u32) -> Result<Own> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps"));
    Ok(parse(&text.with_context(|| format!("reading the memory of process {pid}"))?))
}

fn parse(smaps: &str) -> Own {
    let (mut own, mut file) = (Own::default(), "");
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let (Some(key), Some(value)) = (words.next(), words.next()) else { continue };
        if !key.ends_with(':') {
            file = line.splitn(6, ' ').last().unwrap_or_default().trim().trim_end_matches(" (deleted)");
            continue;
        }
        let mib = value.parse::<f64>().unwrap_or(0.0) / 1024.0;
        let code = file.starts_with("/memfd:strata-code");
        match key {
            "Rss:" if code => own.code = own.code.max(mib),
            "Private_Dirty:" | "Private_Clean:" if !code => {
                own.private += mib;
                if key == "Private_Dirty:" && file.ends_with("/memory") {
                    own.guest += mib;
                }
            }
            _ => {}
        }
    }
    own
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_pages_are_added_and_code_is_apart() {
        let text = "\
7f00-7f10 rw-p 00000000 00:00 0 \n\
Size:               2048 kB\n\
Private_Clean:       512 kB\n\
Private_Dirty:       512 kB\n\
8f00-8f10 rw-p 00001000 fe:00 12                 /a/saved-1/memory (deleted)\n\
Private_Dirty:        64 kB\n\
8f10-8f20 rw-p 00001000 fe:00 12                 /a/saved-1/memory\n\
Private_Dirty:      2048 kB\n\
9f00-9f10 rw-s 00000000 00:01 34                 /memfd:strata-code (deleted)\n\
Rss:                1024 kB\n\
Private_Dirty:      1024 kB\n\
af00-af10 r-xs 00000000 00:01 34                 /memfd:strata-code (deleted)\n\
Rss:                 512 kB\n";
        let own = parse(text);
        assert_eq!((own.private, own.code), (3.0625, 1.0));
        assert_eq!(own.guest, 2.0625);
    }
}
