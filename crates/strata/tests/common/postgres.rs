//! The words of PostgreSQL (protocol 3.0, simple queries), as far as the tests speak it.

use super::load::{Connection, Service, value, wrong};
use std::io::{self, BufRead, Read, Write};

/// A PostgreSQL that trusts its user `postgres`, and has a table `writes` (c int, n bigint, v text, primary key (c, n)).
#[derive(Clone, Copy)]
pub struct Postgres;

/// Longer than any message that the tests ask for.
const LONGEST: usize = 1 << 20;

fn query(text: &str) -> Vec<u8> {
    let length = u32::try_from(text.len() + 5).unwrap();
    [b"Q", &length.to_be_bytes()[..], text.as_bytes(), &[0]].concat()
}

/// The next message that answers something: kind and content.
fn message(from: &mut dyn BufRead) -> io::Result<(u8, Vec<u8>)> {
    loop {
        let mut head = [0; 5];
        from.read_exact(&mut head)?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if !(4..LONGEST).contains(&length) {
            return Err(wrong(format!("no message of PostgreSQL: {head:?}")));
        }
        let mut content = vec![0; length - 4];
        from.read_exact(&mut content)?;
        match head[0] {
            // Settings, the key to cancel with, and what somebody may like to know.
            b'S' | b'K' | b'N' => {}
            b'E' => {
                return Err(wrong(format!("PostgreSQL says {:?}", String::from_utf8_lossy(&content))));
            }
            kind => return Ok((kind, content)),
        }
    }
}

fn expect(from: &mut dyn BufRead, kind: u8, content: Option<&[u8]>) -> io::Result<()> {
    let found = message(from)?;
    if found.0 == kind && content.is_none_or(|c| c == found.1) {
        return Ok(());
    }
    Err(wrong(format!("{found:?} and not {:?} {content:?}", char::from(kind))))
}

impl Service for Postgres {
    fn greet(self, on: &mut Connection) -> io::Result<()> {
        let words = b"user\0postgres\0database\0postgres\0\0";
        let length = u32::try_from(words.len() + 8).unwrap();
        on.stream.write_all(&[&length.to_be_bytes()[..], &196_608_u32.to_be_bytes(), words].concat())?;
        // Trusted, and ready.
        expect(&mut on.heard, b'R', Some(&[0; 4]))?;
        expect(&mut on.heard, b'Z', None)
    }

    /// No number twice: the table has a key.
    fn write(self, client: u32, number: u64) -> Vec<u8> {
        let value = String::from_utf8(value(client, number)).unwrap();
        query(&format!("insert into writes values ({client}, {number}, '{value}')"))
    }

    fn acknowledged(self, _client: u32, _number: u64, from: &mut dyn BufRead) -> io::Result<()> {
        expect(from, b'C', Some(b"INSERT 0 1\0"))?;
        expect(from, b'Z', Some(b"I"))
    }

    fn read(self, client: u32, number: u64) -> Vec<u8> {
        query(&format!("select v from writes where c = {client} and n = {number}"))
    }

    fn found(self, from: &mut dyn BufRead) -> io::Result<Option<Vec<u8>>> {
        expect(from, b'T', None)?;
        let (kind, content) = message(from)?;
        let found = match kind {
            // One column, its length, and it.
            b'D' => {
                expect(from, b'C', Some(b"SELECT 1\0"))?;
                Some(content.get(6..).unwrap_or_default().to_vec())
            }
            b'C' => None,
            _ => return Err(wrong(format!("{kind} and no row"))),
        };
        expect(from, b'Z', Some(b"I"))?;
        Ok(found)
    }
}
