//! Records: numbered fields under an id and a version, and the schema that is committed and compared.

use crate::{Reader, StateError, Value};
use std::collections::BTreeMap;
use std::fmt::Write;

/// A struct declared by [`crate::state!`].
pub trait Record: Sized {
    /// Name of the record in files, for life.
    const ID: &'static str;
    /// Grows with each change of the fields.
    const VERSION: u16;
    /// Hands every field to `out`.
    fn save_fields(&self, out: &mut Fields);
    /// Takes every field from `from`.
    fn load_fields(from: &mut Fields) -> Result<Self, StateError>;
    /// Adds this record, and those inside it, to the schema.
    fn describe_fields(out: &mut Schema);
    /// The schema of this record and those inside it, as committed text.
    fn schema_text() -> String {
        let mut s = Schema::default();
        Self::describe_fields(&mut s);
        s.text()
    }
}

/// The fields of one record while it is written or read.
#[derive(Default)]
pub struct Fields {
    by_number: BTreeMap<u16, Vec<u8>>,
}

impl Fields {
    /// Writes field `number`.
    pub fn put<T: Value>(&mut self, number: u16, value: &T) {
        let mut bytes = Vec::new();
        value.put(&mut bytes);
        let old = self.by_number.insert(number, bytes);
        debug_assert!(old.is_none(), "field number {number} used twice");
    }

    /// Takes field `number` of record `id`, if it is there; the whole of it must be one value.
    pub fn take<T: Value>(&mut self, id: &'static str, number: u16) -> Result<Option<T>, StateError> {
        let Some(bytes) = self.by_number.remove(&number) else { return Ok(None) };
        let mut r = Reader::new(&bytes);
        let v = T::get(&mut r)?;
        if r.remaining() != 0 {
            let why = format!("field {number} has {} bytes too many", r.remaining());
            return Err(StateError::Invalid { id: id.into(), why });
        }
        Ok(Some(v))
    }
}

/// Encodes a record with its id and version.
pub fn write_record<R: Record>(record: &R) -> Vec<u8> {
    let mut fields = Fields::default();
    record.save_fields(&mut fields);
    let mut out = vec![R::ID.len() as u8];
    out.extend_from_slice(R::ID.as_bytes());
    R::VERSION.put(&mut out);
    (fields.by_number.len() as u16).put(&mut out);
    for (number, bytes) in &fields.by_number {
        number.put(&mut out);
        (bytes.len() as u32).put(&mut out);
        out.extend_from_slice(bytes);
    }
    out
}

/// Decodes a record; `bytes` must hold it and nothing else.
pub fn read_record<R: Record>(bytes: &[u8]) -> Result<R, StateError> {
    let mut r = Reader::new(bytes);
    let id_len = u8::get(&mut r)?;
    let id = r.bytes(usize::from(id_len), R::ID)?;
    if id != R::ID.as_bytes() {
        let found = String::from_utf8_lossy(id).into_owned();
        return Err(StateError::WrongRecord { expected: R::ID, found });
    }
    let version = u16::get(&mut r)?;
    if version > R::VERSION {
        return Err(StateError::Newer { id: R::ID, found: version, known: R::VERSION });
    }
    let mut fields = Fields::default();
    for _ in 0..u16::get(&mut r)? {
        let number = u16::get(&mut r)?;
        let len = u32::get(&mut r)?;
        let value = r.bytes(len as usize, R::ID)?.to_vec();
        if fields.by_number.insert(number, value).is_some() {
            let why = format!("field {number} stands twice");
            return Err(StateError::Invalid { id: R::ID.into(), why });
        }
    }
    if r.remaining() != 0 {
        let why = format!("{} bytes after its end", r.remaining());
        return Err(StateError::Invalid { id: R::ID.into(), why });
    }
    let record = R::load_fields(&mut fields)?;
    match fields.by_number.keys().next() {
        Some(&number) => Err(StateError::UnknownField { id: R::ID, number }),
        None => Ok(record),
    }
}

/// A set of record descriptions, printed in order of id: the text that is committed.
#[derive(Default, Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    records: BTreeMap<&'static str, String>,
}

impl Schema {
    /// Adds one record with `(number, name, type)` of each field.
    pub fn record<R: Record>(&mut self, fields: &[(u16, &'static str, String)]) {
        let mut text = format!("{} v{}\n", R::ID, R::VERSION);
        for (n, name, ty) in fields {
            let _ = writeln!(text, "  {n} {name}: {ty}");
        }
        if let Some(old) = self.records.insert(R::ID, text.clone()) {
            debug_assert_eq!(old, text, "two records share the id {}", R::ID);
        }
    }

    /// The schema as text, one block a record.
    pub fn text(&self) -> String {
        self.records.values().cloned().collect::<Vec<_>>().join("\n")
    }
}
