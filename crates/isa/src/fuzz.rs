//! Fuzz targets: plain functions over bytes, for any fuzzer and for the bounded test below.

use crate::{decode, disasm, encode};

/// Reads `data` as a stream of instructions. Whatever decodes must encode to the same bits, disassemble, and, if
/// compressed, have an expansion that stands for the same.
pub fn fuzz_decode(data: &[u8]) {
    let mut at = 0;
    while let Some(bytes) = data.get(at..at + 2) {
        // A stream may end in the middle of an instruction; the missing half reads as zero, as good as any.
        let upper = data.get(at + 2..at + 4).unwrap_or(&[0, 0]);
        let raw = u32::from_le_bytes([bytes[0], bytes[1], upper[0], upper[1]]);
        at += if raw & 3 == 3 { 4 } else { 2 };
        let insn = match decode(raw) {
            Ok(insn) => insn,
            Err(bits) => {
                assert_eq!(bits, if raw & 3 == 3 { raw } else { raw & 0xffff });
                continue;
            }
        };
        assert_eq!(encode(&insn), Ok(insn.raw));
        let wide = crate::Insn { len: 4, ..insn };
        let word = encode(&wide).expect("an expansion is encodable");
        assert_eq!(decode(word), Ok(crate::Insn { raw: word, ..wide }));
        assert!(!disasm(&insn, at as u64).is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SplitMix64;

    #[test]
    fn corpus_and_random_streams() {
        let corpus = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/decode"));
        let files: Vec<_> = corpus.expect("the corpus is there").collect();
        assert!(!files.is_empty());
        for file in files {
            fuzz_decode(&std::fs::read(file.expect("listed").path()).expect("readable"));
        }
        let mut rng = SplitMix64::new(7);
        for _ in 0..4000 {
            let len = rng.below(256) as usize;
            let data: Vec<u8> = (0..len).map(|_| rng.next_u64() as u8).collect();
            fuzz_decode(&data);
        }
    }
}
