//! Debian's control format: stanzas of `Field: value` lines, continuation lines begin with a blank.
//! Format: deb822(5), Debian policy section 5.1.
//!
//! Borrowing and lazy: an index of 54 MB is walked stanza by stanza without a copy. A line that is
//! neither field, continuation nor comment is skipped, as every reader of this format does.

/// One stanza: its text, from its first line to the blank line after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stanza<'a>(&'a str);

impl<'a> Stanza<'a> {
    /// All fields in order: name, and value as it stands (first line trimmed, continuation lines kept
    /// with their line breaks).
    pub fn fields(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            loop {
                if rest.is_empty() {
                    return None;
                }
                let end = field_end(rest);
                let (field, tail) = rest.split_at(end);
                rest = tail;
                if field.starts_with(['#', ' ', '\t']) {
                    continue;
                }
                if let Some((name, value)) = field.split_once(':') {
                    return Some((name, value.trim_matches([' ', '\t', '\n', '\r'])));
                }
            }
        })
    }

    /// The value of a field; names compare without regard to case, the first one wins.
    pub fn get(self, name: &str) -> Option<&'a str> {
        self.fields().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v)
    }

    /// Words of a field, or nothing.
    pub fn words(self, name: &str) -> impl Iterator<Item = &'a str> {
        self.get(name).unwrap_or("").split_whitespace()
    }
}

/// Length of the first field of `text` with its continuation lines and line breaks.
fn field_end(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut at = 0;
    loop {
        match text.get(at..).and_then(|t| t.find('\n')) {
            None => return text.len(),
            Some(n) => at = at.saturating_add(n).saturating_add(1),
        }
        if !matches!(bytes.get(at), Some(b' ' | b'\t')) {
            return at;
        }
    }
}

/// The stanzas of a file.
pub fn stanzas(text: &str) -> impl Iterator<Item = Stanza<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        // Blank lines before a stanza; a line of blanks alone also separates.
        loop {
            let line = rest.split_inclusive('\n').next()?;
            if !line.trim().is_empty() {
                break;
            }
            rest = rest.get(line.len()..)?;
        }
        let mut end = 0usize;
        for line in rest.split_inclusive('\n') {
            if line.trim().is_empty() {
                break;
            }
            end = end.saturating_add(line.len());
        }
        let (stanza, tail) = rest.split_at(end);
        rest = tail;
        Some(Stanza(stanza))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fields_continue_and_stanzas_part() {
        let text = "\n# note\nPackage: a\nDepends: b,\n c | d\nX:\n 1\n\n \t\nPackage: e\nnonsense\nY: z";
        let all: Vec<_> = stanzas(text).collect();
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].get("depends"), Some("b,\n c | d"));
        assert_eq!(all[0].get("X"), Some("1"));
        assert_eq!(all[1].get("Y"), Some("z"));
        assert_eq!(all[1].get("nonsense"), None);
        assert_eq!(all[0].words("Depends").count(), 4);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(stanzas_in in prop::collection::vec(
            prop::collection::vec(("[A-Z][a-z-]{0,8}", "[!-~]{1,20}( [!-~]{1,9}){0,2}"), 1..5), 0..5)) {
            let text: String = stanzas_in.iter()
                .map(|s| s.iter().map(|(n, v)| format!("{n}: {v}\n")).collect::<String>() + "\n").collect();
            let back: Vec<Vec<(String, String)>> = stanzas(&text)
                .map(|s| s.fields().map(|(n, v)| (n.into(), v.into())).collect()).collect();
            prop_assert_eq!(back, stanzas_in);
        }

        #[test]
        fn any_text_ends(text in "(\\PC|\n| ){0,200}") {
            prop_assert!(stanzas(&text).map(|s| s.fields().count()).sum::<usize>() <= text.len());
        }
    }
}
