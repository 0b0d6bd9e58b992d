//! Tables that are large, mostly empty at first, and about to be filled at random.
//!
//! Memory that is all zeroes is first read where it is looked up in, and so mapped to the host's page of zeroes; the first
//! write after that has to take the mapping back on every processor that the process runs on, which makes a vCPU wait some
//! hundred microseconds, for each page of the table. Memory that is written first costs a fraction of one.

use std::hint::black_box;

/// Bytes that are mapped at a time, at least.
const HOST_PAGE: usize = 4096;

/// Writes `empty`, which `table` is full of, to each page of it.
pub fn populate<T: Copy>(table: &mut [T], empty: T) {
    let each = (HOST_PAGE / size_of::<T>().max(1)).max(1);
    for chunk in table.chunks_mut(each) {
        if let Some(first) = chunk.first_mut() {
            // What the compiler knows of memory that has just been made is not what matters here.
            *first = black_box(empty);
        }
    }
}
