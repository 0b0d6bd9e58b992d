//! Fuzz targets: plain functions over bytes, for any fuzzer and for the tests.

pub use crate::virtio::fuzz::{fuzz_mmio_device, fuzz_pci_device, fuzz_virtqueue};

use crate::aclint::Aclint;
use crate::goldfish_rtc::{GoldfishRtc, RtcWorker};
use crate::htif::Htif;
use crate::plic::Plic;
use crate::serial::{Serial, SerialLink};
use crate::syscon::Syscon;
use crate::uart16550::Uart16550;
use crate::{Mmio, Worker};
use std::sync::{Arc, Mutex};
use strata_engine::{ManualClock, VcpuShared};
use strata_memory::GuestRam;
use strata_state::laws;

const RAM: u64 = 0x8000_0000;

/// Drives every platform device through `data`, eight bytes a step, and checks the laws of parts at the end.
///
/// # Panics
/// When a device breaks a law: that is the finding.
pub fn fuzz_platform(data: &[u8]) {
    // A host without a descriptor is no finding.
    let Ok(link) = SerialLink::new() else { return };
    let harts: Vec<Arc<VcpuShared>> = (0..2).map(|_| Arc::default()).collect();
    let clock = Arc::new(ManualClock::default());
    let plic = Arc::new(Mutex::new(Plic::new(harts.clone())));
    let line = |n| Plic::irq_line(&plic, n);
    let Ok(ram) = GuestRam::single(RAM, 0x1000) else { return };
    let Ok(rtc) = GoldfishRtc::new(clock.clone(), line(11)) else { return };
    let rtc = Arc::new(Mutex::new(rtc));
    let mut rtc_worker = RtcWorker::new(rtc.clone());
    let mut uart = Uart16550::new(line(10), link.clone());
    let mut htif = Htif::new(ram, link.clone(), Arc::new(|_| {}));
    let mut aclint = Aclint::new(harts.clone(), clock.clone());
    let mut syscon = Syscon::new(Arc::new(|_| {}));

    for step in data.as_chunks::<8>().0 {
        let [what, size, o0, o1, o2, v0, v1, v2] = *step;
        let size = 1u8 << (size & 3);
        let offset = u64::from(u32::from_le_bytes([o0, o1, o2, 0]));
        let value = u64::from(v0) | u64::from(v1) << 31 | u64::from(v2) << 56;
        let access = |device: &mut dyn Mmio, range: u64| {
            let offset = (offset % range) & !(u64::from(size) - 1);
            if what & 0x80 != 0 {
                let got = device.read(offset, size);
                assert!(size == 8 || got >> (8 * size) == 0, "a read of {size} bytes gives {got:#x}");
            } else {
                device.write(offset, size, value);
            }
        };
        match what & 0xf {
            0..3 => access(&mut uart, 8),
            3 => access(&mut *plic.lock().unwrap_or_else(|e| e.into_inner()), 0x60_0000),
            4 => access(&mut *plic.lock().unwrap_or_else(|e| e.into_inner()), 0x3000),
            5 => access(&mut aclint, 0x1_0000),
            6 => access(&mut *rtc.lock().unwrap_or_else(|e| e.into_inner()), 0x20),
            7 => access(&mut syscon, 0x1000),
            8 => access(&mut htif, 16),
            9 => htif.write(0, 8, RAM + (offset & 0xff8)),
            10 => drop(uart.receive(&step[2..])),
            11 => drop(htif.receive(&step[2..])),
            12 => line(u32::from(o0)).set(what & 0x80 != 0),
            13 => clock.advance(value),
            14 => drop(rtc_worker.turn()),
            _ => drop(link.consume(offset as usize)),
        }
    }
    let mut rtc = rtc.lock().unwrap_or_else(|e| e.into_inner());
    let check = |part: &mut dyn Mmio| {
        if let Err(law) = laws::check(part) {
            panic!("{law}");
        }
    };
    check(&mut uart);
    check(&mut *rtc);
    check(&mut htif);
    check(&mut aclint);
    check(&mut syscon);
    check(&mut *plic.lock().unwrap_or_else(|e| e.into_inner()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use strata_engine::{Entropy, SeededEntropy};

    #[test]
    fn the_corpus_and_random_accesses_break_nothing() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/platform");
        let files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|f| f.unwrap().path()).collect();
        assert!(!files.is_empty());
        files.iter().for_each(|f| fuzz_platform(&std::fs::read(f).unwrap()));
        let mut random = SeededEntropy(1);
        for round in 0..2000 {
            let mut data = vec![0; 8 * (round % 200)];
            random.fill(&mut data);
            fuzz_platform(&data);
        }
    }
}
