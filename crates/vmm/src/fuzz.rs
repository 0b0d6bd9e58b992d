//! Fuzz targets of the control protocol and of stored records.

use crate::instances::InstanceRecord;
use crate::protocol::Message;
use crate::wire::{Decoder, encode};

/// Any bytes as a connection's: every frame is refused, or is a message that survives being sent on.
pub fn fuzz_frames(data: &[u8]) {
    let mut decoder = Decoder::default();
    // The first byte says how the rest is cut.
    let (cut, rest) = data.split_first().map_or((1, data), |(c, rest)| (usize::from(*c).max(1), rest));
    for piece in rest.chunks(cut) {
        decoder.push(piece);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => fuzz_message(frame),
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
}

/// Any bytes as a frame's JSON.
pub fn fuzz_message(data: &[u8]) {
    let Ok(message) = serde_json::from_slice::<Message>(data) else { return };
    let Ok(bytes) = encode(&message) else { return };
    let again: Message = serde_json::from_slice(bytes.get(4..).unwrap_or(&[])).expect("our own JSON is read");
    assert_eq!(again.fds(), message.fds());
}

/// Any bytes as an instance's record.
pub fn fuzz_record(data: &[u8]) {
    let Ok(record) = InstanceRecord::parse(data) else { return };
    let again = InstanceRecord::parse(&record.bytes()).expect("our own record is read");
    // It is written with the least schema that says what it says.
    assert_eq!(again, InstanceRecord { schema: again.schema, ..record });
}

#[cfg(test)]
mod tests {
    use strata_engine::SeededEntropy;
    use strata_engine::fuzz::mutate;

    const CORPUS: [&[u8]; 5] = [
        include_bytes!("../corpus/hello"),
        include_bytes!("../corpus/request"),
        include_bytes!("../corpus/response"),
        include_bytes!("../corpus/event"),
        include_bytes!("../corpus/record"),
    ];

    fn all(data: &[u8]) {
        super::fuzz_message(data);
        super::fuzz_record(data);
        let framed = [&[7][..], &(data.len() as u32).to_le_bytes(), data].concat();
        super::fuzz_frames(&framed);
        super::fuzz_frames(data);
    }

    #[test]
    fn corpus_is_of_messages_and_records() {
        for (i, seed) in CORPUS.iter().enumerate() {
            let message = serde_json::from_slice::<crate::protocol::Message>(seed).is_ok();
            assert!(
                message || crate::instances::InstanceRecord::parse(seed).is_ok(),
                "corpus file {i} is stale"
            );
        }
    }

    #[test]
    fn corpus_and_its_mutants() {
        let mut random = SeededEntropy(7);
        for seed in CORPUS {
            all(seed);
            for _ in 0..1000 {
                let mut bytes = seed.to_vec();
                mutate(&mut bytes, &mut random);
                all(&bytes);
            }
        }
    }
}
