//! Values of fields: integers, booleans, text, sequences and nested records, little-endian, length-checked.

use crate::{Schema, StateError};

/// A cursor over saved bytes. Every read is checked against what is left.
pub struct Reader<'a> {
    left: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads from `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { left: bytes }
    }

    /// The next `n` bytes, named `what` in the error.
    pub fn bytes(&mut self, n: usize, what: &str) -> Result<&'a [u8], StateError> {
        let (head, tail) =
            self.left.split_at_checked(n).ok_or_else(|| StateError::Short { what: what.to_owned() })?;
        self.left = tail;
        Ok(head)
    }

    /// Bytes not read yet.
    pub fn remaining(&self) -> usize {
        self.left.len()
    }
}

/// Something a field can hold.
pub trait Value: Sized {
    /// Appends the value.
    fn put(&self, out: &mut Vec<u8>);
    /// Reads one value.
    fn get(r: &mut Reader<'_>) -> Result<Self, StateError>;
    /// The type's name in the schema.
    fn type_name() -> String;
    /// Adds the records that the type contains to the schema.
    fn describe(_out: &mut Schema) {}
}

macro_rules! integers {
    ($($t:ty),*) => { $(
        impl Value for $t {
            fn put(&self, out: &mut Vec<u8>) { out.extend_from_slice(&self.to_le_bytes()) }
            fn get(r: &mut Reader<'_>) -> Result<Self, StateError> {
                let mut b = [0; size_of::<$t>()];
                b.copy_from_slice(r.bytes(size_of::<$t>(), stringify!($t))?);
                Ok(<$t>::from_le_bytes(b))
            }
            fn type_name() -> String { stringify!($t).to_owned() }
        }
    )* };
}
integers!(u8, u16, u32, u64, u128, i8, i16, i32, i64);

impl Value for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
    fn get(r: &mut Reader<'_>) -> Result<Self, StateError> {
        match u8::get(r)? {
            0 => Ok(false),
            1 => Ok(true),
            b => Err(StateError::Invalid { id: "bool".into(), why: format!("byte {b:#x}") }),
        }
    }
    fn type_name() -> String {
        "bool".into()
    }
}

impl Value for String {
    fn put(&self, out: &mut Vec<u8>) {
        self.as_bytes().to_vec().put(out);
    }
    fn get(r: &mut Reader<'_>) -> Result<Self, StateError> {
        String::from_utf8(Vec::get(r)?)
            .map_err(|_| StateError::Invalid { id: "string".into(), why: "not UTF-8".into() })
    }
    fn type_name() -> String {
        "string".into()
    }
}

impl<T: Value> Value for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        (self.len() as u64).put(out);
        self.iter().for_each(|v| v.put(out));
    }
    fn get(r: &mut Reader<'_>) -> Result<Self, StateError> {
        let n = u64::get(r)?;
        // Every element takes at least one byte, so a length beyond what is left is a lie, not a request for memory.
        if n > r.remaining() as u64 {
            return Err(StateError::Short { what: Self::type_name() });
        }
        (0..n).map(|_| T::get(r)).collect()
    }
    fn type_name() -> String {
        format!("[{}]", T::type_name())
    }
    fn describe(out: &mut Schema) {
        T::describe(out);
    }
}

impl<T: Value + Copy + Default, const N: usize> Value for [T; N] {
    fn put(&self, out: &mut Vec<u8>) {
        self.iter().for_each(|v| v.put(out));
    }
    fn get(r: &mut Reader<'_>) -> Result<Self, StateError> {
        let mut a = [T::default(); N];
        for v in &mut a {
            *v = T::get(r)?;
        }
        Ok(a)
    }
    fn type_name() -> String {
        format!("[{}; {N}]", T::type_name())
    }
    fn describe(out: &mut Schema) {
        T::describe(out);
    }
}

impl<T: Value> Value for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        if let Some(v) = self {
            v.put(out);
        }
    }
    fn get(r: &mut Reader<'_>) -> Result<Self, StateError> {
        Ok(if bool::get(r)? { Some(T::get(r)?) } else { None })
    }
    fn type_name() -> String {
        format!("{}?", T::type_name())
    }
    fn describe(out: &mut Schema) {
        T::describe(out);
    }
}
