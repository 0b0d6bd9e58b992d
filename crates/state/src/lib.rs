//! How a part of a machine is written down and read back.
//!
//! Every part that the guest can see keeps its guest-visible state in one struct, apart from its wiring (lines,
//! memory) and its host side (files, sockets). [`state!`] declares that struct with fields numbered for life; from
//! the declaration come the encoding, the decoding and the schema, so that a field cannot be forgotten.
//!
//! What can be derived (interrupt pins, armed timers) is not stored: [`Stateful::settle`] derives it, after a
//! register write and after a load alike.
//!
//! The encoding of a record, little-endian throughout:
//! ```text
//! record := id_len:u8  id:bytes  version:u16  fields:u16  field*
//! field  := number:u16  len:u32  value:bytes
//! ```
//! A reader refuses a newer version and an unknown field by name, and fills a field that an older version lacked
//! from its default. Nothing here names a host resource; nothing here depends on a foreign crate's layout.
//!
//! `file.rs` puts the records of a whole machine into one checked block of bytes.
//!
//! Deliberately not here: memory, disks and compression.
#![forbid(unsafe_code)]

mod file;
mod part;
mod record;
mod value;

pub use file::{DETERMINISTIC, StateFile, StateHeader};
pub use part::{Part, Stateful, laws};
pub use record::{Fields, Record, Schema, read_record, write_record};
pub use value::{Reader, Value};

/// Why a saved state cannot be loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// The bytes end before the value does.
    #[error("the saved state of `{what}` is cut short")]
    Short {
        /// The record or value being read.
        what: String,
    },
    /// The record is another part's.
    #[error("expected the saved state of `{expected}`, found `{found}`")]
    WrongRecord {
        /// The id asked for.
        expected: &'static str,
        /// The id found.
        found: String,
    },
    /// Written by a newer build.
    #[error(
        "the saved state of `{id}` has version {found}, this build reads up to {known}; use a newer strata"
    )]
    Newer {
        /// Record id.
        id: &'static str,
        /// Version found.
        found: u16,
        /// Newest version known here.
        known: u16,
    },
    /// A field that this build does not know.
    #[error("the saved state of `{id}` has an unknown field {number}; use a newer strata")]
    UnknownField {
        /// Record id.
        id: &'static str,
        /// Field number.
        number: u16,
    },
    /// A field without a default is not there.
    #[error("the saved state of `{id}` lacks field {number} ({name})")]
    MissingField {
        /// Record id.
        id: &'static str,
        /// Field number.
        number: u16,
        /// Field name.
        name: &'static str,
    },
    /// The bytes do not form a value of the field's type, or the part refuses the value.
    #[error("the saved state of `{id}` is not valid: {why}")]
    Invalid {
        /// Record or value.
        id: String,
        /// What is wrong with it.
        why: String,
    },
}

/// Declares a part's guest-visible state: a struct with numbered fields, and its [`Record`] implementation.
///
/// A field reads `number name: type`, with `= default` where an older version may lack it. Numbers are never
/// reused; a removed field's number stays unused.
///
/// ```
/// strata_state::state! {
///     /// Guest-visible state of a counter.
///     pub struct CounterState("counter", 2) {
///         /// Current count.
///         1 count: u64,
///         /// Since version 2.
///         2 step: u8 = 1,
///     }
/// }
/// use strata_state::Record;
/// let s = CounterState { count: 7, step: 2 };
/// let bytes = strata_state::write_record(&s);
/// assert_eq!(strata_state::read_record::<CounterState>(&bytes).unwrap(), s);
/// assert!(CounterState::schema_text().contains("counter v2"));
/// ```
#[macro_export]
macro_rules! state {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident($id:literal, $version:literal) {
            $( $(#[$fmeta:meta])* $n:literal $field:ident : $ty:ty $(= $default:expr)? ),* $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        $vis struct $name {
            $( $(#[$fmeta])* pub $field: $ty, )*
        }

        impl $crate::Record for $name {
            const ID: &'static str = $id;
            const VERSION: u16 = $version;

            fn save_fields(&self, out: &mut $crate::Fields) {
                // Destructured without `..`: a field that is not written does not compile.
                let Self { $( $field, )* } = self;
                $( out.put($n, $field); )*
                let _ = out;
            }

            fn load_fields(from: &mut $crate::Fields) -> Result<Self, $crate::StateError> {
                Ok(Self {
                    $( $field: match from.take::<$ty>($id, $n)? {
                        Some(v) => v,
                        None => $crate::state!(@default $id, $n, $field $(, $default)?),
                    }, )*
                })
            }

            fn describe_fields(out: &mut $crate::Schema) {
                out.record::<Self>(&[ $( ($n, stringify!($field), <$ty as $crate::Value>::type_name()), )* ]);
                $( <$ty as $crate::Value>::describe(out); )*
            }
        }

        impl $crate::Value for $name {
            fn put(&self, out: &mut Vec<u8>) { $crate::write_record(self).put(out) }
            fn get(r: &mut $crate::Reader<'_>) -> Result<Self, $crate::StateError> {
                let bytes = <Vec<u8> as $crate::Value>::get(r)?;
                $crate::read_record::<Self>(&bytes)
            }
            fn type_name() -> String { format!("record {}", $id) }
            fn describe(out: &mut $crate::Schema) { <Self as $crate::Record>::describe_fields(out) }
        }
    };
    (@default $id:literal, $n:literal, $field:ident) => {
        return Err($crate::StateError::MissingField { id: $id, number: $n, name: stringify!($field) })
    };
    (@default $id:literal, $n:literal, $field:ident, $default:expr) => { $default };
}

#[cfg(test)]
mod tests;
