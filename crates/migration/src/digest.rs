//! Memory compared without sending it again: one digest at both ends.

use crate::wire::WireError;
use sha2::{Digest, Sha256};
use strata_memory::{GuestRam, PAGE, PageSet, Presence};

/// The SHA-256 digest of memory, but for the pages that are `left_out`, in hexadecimal: of each page that has a byte other
/// than zero its number (`u64`) and its bytes, and at the end the number of all pages (`u64`).
///
/// # Errors
/// Memory is not one region; a page of it that is not left out is not there.
pub fn digest(ram: &GuestRam, left_out: &PageSet) -> Result<String, WireError> {
    let [region] = ram.regions() else { return Err(WireError::Protocol("memory is not one region")) };
    let (mut hash, mut bytes) = (Sha256::new(), [0; PAGE as usize]);
    for page in 0..region.pages().pages() {
        let out = left_out.words().get(page / 64).is_some_and(|w| w >> (page % 64) & 1 != 0);
        // What nobody has written need not be read, which would take memory for it.
        if out || region.pages().presence(page) == Presence::Zero {
            continue;
        }
        ram.peek(region.gpa() + page as u64 * PAGE, &mut bytes)
            .map_err(|_| WireError::Protocol("a page of memory is not there"))?;
        if bytes.iter().any(|b| *b != 0) {
            hash.update((page as u64).to_le_bytes());
            hash.update(bytes);
        }
    }
    hash.update((region.pages().pages() as u64).to_le_bytes());
    Ok(strata_snapshot::hex(&hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = 0x8000_0000;

    #[test]
    fn every_byte_counts_and_how_zeroes_came_about_does_not() {
        let none = PageSet::of(130, |_| false);
        let ram = || GuestRam::single(BASE, 130 * PAGE).unwrap();
        let (a, b) = (ram(), ram());
        for page in [3, 64, 129] {
            a.load(BASE + page * PAGE, &[page as u8; PAGE as usize]).unwrap();
        }
        let of_a = digest(&a, &none).unwrap();
        // Zeroes that were written, and pages in another order.
        b.load(BASE + 5 * PAGE, &[0; PAGE as usize]).unwrap();
        for page in [129, 3, 64] {
            assert_ne!(digest(&b, &none).unwrap(), of_a);
            b.load(BASE + page * PAGE, &[page as u8; PAGE as usize]).unwrap();
        }
        assert_eq!(digest(&b, &none).unwrap(), of_a);
        // One bit, and the same bytes at another place.
        b.load(BASE + 129 * PAGE + 4095, &[129 ^ 4]).unwrap();
        assert_ne!(digest(&b, &none).unwrap(), of_a);
        let last = PageSet::of(130, |p| p == 129);
        assert_eq!(digest(&b, &last).unwrap(), digest(&a, &last).unwrap());
        assert_ne!(digest(&a, &last).unwrap(), of_a);
        assert_ne!(
            digest(&GuestRam::single(BASE, 131 * PAGE).unwrap(), &none).unwrap(),
            digest(&ram(), &none).unwrap()
        );
    }
}
