//! The words of Redis (RESP 2), as far as the tests speak it.

use super::load::{Connection, Service, value, wrong};
use std::io::{self, BufRead, Read, Write};

/// A Redis.
#[derive(Clone, Copy)]
pub struct Redis;

/// What it answers, other than that something failed.
#[derive(Debug, PartialEq)]
enum Answer {
    Text(String),
    Number(u64),
    Bytes(Option<Vec<u8>>),
}

fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        out.extend(format!("${}\r\n", word.len()).bytes());
        out.extend_from_slice(word);
        out.extend(b"\r\n");
    }
    out
}

fn answer(from: &mut dyn BufRead) -> io::Result<Answer> {
    let mut line = String::new();
    from.read_line(&mut line)?;
    let bad = || wrong(format!("no answer of Redis: {line:?}"));
    let text = line.strip_suffix("\r\n").ok_or_else(bad)?;
    let (kind, text) = text.split_at_checked(1).ok_or_else(bad)?;
    match kind {
        "+" => Ok(Answer::Text(text.into())),
        ":" => text.parse().map(Answer::Number).map_err(|_| bad()),
        "$" if text == "-1" => Ok(Answer::Bytes(None)),
        "$" => {
            let mut bytes = vec![0; text.parse::<usize>().map_err(|_| bad())? + 2];
            from.read_exact(&mut bytes)?;
            if !bytes.ends_with(b"\r\n") {
                return Err(wrong("an answer of Redis does not end where it says"));
            }
            bytes.truncate(bytes.len() - 2);
            Ok(Answer::Bytes(Some(bytes)))
        }
        _ => Err(wrong(format!("Redis says {line:?}"))),
    }
}

fn is(found: Answer, expected: &Answer) -> io::Result<()> {
    if found == *expected { Ok(()) } else { Err(wrong(format!("{found:?} and not {expected:?}"))) }
}

fn key(client: u32, number: u64) -> Vec<u8> {
    format!("{client}:{number}").into_bytes()
}

impl Service for Redis {
    fn greet(self, on: &mut Connection) -> io::Result<()> {
        on.stream.write_all(&command(&[b"PING"]))?;
        is(answer(&mut on.heard)?, &Answer::Text("PONG".into()))
    }

    /// And counts, so that a write that is made twice shows.
    fn write(self, client: u32, number: u64) -> Vec<u8> {
        let count = format!("count:{client}");
        let set = command(&[b"SET", &key(client, number), &value(client, number)]);
        [set, command(&[b"INCR", count.as_bytes()])].concat()
    }

    fn acknowledged(self, _client: u32, number: u64, from: &mut dyn BufRead) -> io::Result<()> {
        is(answer(from)?, &Answer::Text("OK".into()))?;
        is(answer(from)?, &Answer::Number(number))
    }

    fn read(self, client: u32, number: u64) -> Vec<u8> {
        command(&[b"GET", &key(client, number)])
    }

    fn found(self, from: &mut dyn BufRead) -> io::Result<Option<Vec<u8>>> {
        match answer(from)? {
            Answer::Bytes(bytes) => Ok(bytes),
            other => Err(wrong(format!("{other:?} and not what was written"))),
        }
    }
}
