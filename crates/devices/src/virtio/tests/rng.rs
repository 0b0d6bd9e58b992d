use super::driver::*;
use crate::virtio::{rng, rng::MAX_FILL};
use strata_engine::{Entropy, SeededEntropy};

#[test]
fn random_bytes_land_where_they_were_asked_for() {
    let mut d = Driver::ready(|w| rng(w, Box::new(SeededEntropy(7))), 0);
    let (a, b) = (d.room(16), d.room(5000));
    assert_eq!(d.request(0, &[(a + 4, 8, true), (b, 4992, true)]), 5000);
    let mut expect = vec![0; 5000];
    // The pieces are those of the buffers: 8, 4096, 896.
    let mut e = SeededEntropy(7);
    let (x, rest) = expect.split_at_mut(8);
    let (y, z) = rest.split_at_mut(4096);
    [x, y, z].into_iter().for_each(|p| e.fill(p));
    assert_eq!(d.bytes(a, 16), [&[0xee; 4], &expect[..8], &[0xee; 4]].concat());
    assert_eq!(d.bytes(b, 5000), [&expect[8..], &[0xee; 8]].concat());
}

#[test]
fn a_request_is_filled_up_to_the_limit_only() {
    let mut d = Driver::ready(|w| rng(w, Box::new(SeededEntropy(7))), 0);
    let len = MAX_FILL as usize + 100;
    let gpa = d.room(len);
    assert_eq!(u64::from(d.request(0, &[(gpa, len as u32, true)])), MAX_FILL);
    assert_eq!(d.bytes(gpa + MAX_FILL, 100), [0xee; 100]);
    assert_eq!(d.request(0, &[(gpa, 0, true)]), 0, "nothing asked, nothing given");
}
