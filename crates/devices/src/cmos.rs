//! The real-time clock of PCs (Motorola MC146818A) with its 128 bytes of memory, behind ports 0x70 and 0x71.
//!
//! ```text
//! port 0   index of a byte (bit 7 was the NMI mask once, and is ignored)
//! port 1   the byte
//! ```
//! Bytes 0x00 to 0x09 and 0x32 are the date, in BCD and 24 hours, and always that of the machine's clock: setting it is
//! ignored. There is no alarm and no periodic interrupt, as register B says; the rest is memory.
//!
//! State: index and memory.

use crate::Mmio;
use std::sync::Arc;
use strata_engine::Clock;
use strata_state::{StateError, Stateful, state};

state! {
    /// State of the clock.
    pub struct CmosState("cmos", 1) {
        /// Byte selected, 0 to 127.
        1 index: u8,
        /// Memory, 128 bytes; those of the date are not used.
        2 memory: Vec<u8>,
    }
}

const SIZE: usize = 128;

/// Register A: an oscillator of 32768 Hz, no update under way.
const REGISTER_A: u8 = 0x26;
/// Register B: 24 hours, BCD, no interrupts.
const REGISTER_B: u8 = 0x02;
/// Register D: the battery is good.
const REGISTER_D: u8 = 0x80;

/// The device.
pub struct Cmos {
    clock: Arc<dyn Clock>,
    s: CmosState,
}

impl Cmos {
    /// One that shows the wall time of `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Cmos {
        Cmos { clock, s: CmosState { index: 0, memory: vec![0; SIZE] } }
    }

    fn byte(&self) -> u8 {
        let date = || Date::of(self.clock.wall() / 1_000_000_000);
        match self.s.index {
            0x00 => bcd(date().second),
            0x02 => bcd(date().minute),
            0x04 => bcd(date().hour),
            0x06 => bcd(date().weekday),
            0x07 => bcd(date().day),
            0x08 => bcd(date().month),
            0x09 => bcd(date().year % 100),
            0x32 => bcd(date().year / 100),
            0x0a => REGISTER_A,
            0x0b => REGISTER_B,
            0x0c => 0,
            0x0d => REGISTER_D,
            other => self.s.memory.get(usize::from(other)).copied().unwrap_or(0),
        }
    }
}

/// Two decimal digits in a byte.
fn bcd(value: u64) -> u8 {
    (value / 10 % 10 * 16 + value % 10) as u8
}

/// A moment of the Gregorian calendar, in UTC.
#[derive(Debug, PartialEq, Eq)]
struct Date {
    second: u64,
    minute: u64,
    hour: u64,
    /// 1 is Sunday.
    weekday: u64,
    day: u64,
    month: u64,
    year: u64,
}

impl Date {
    /// The moment `seconds` after the beginning of 1970.
    fn of(seconds: u64) -> Date {
        let days = seconds / 86400;
        // Years begin in March here, so that the leap day is their last; eras are 400 such years, of 146097 days.
        let since_0000 = days + 719_468;
        let (era, day_of_era) = (since_0000 / 146_097, since_0000 % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        // Months from March on have 153 days in five.
        let month_from_march = (5 * day_of_year + 2) / 153;
        let month = (month_from_march + 2) % 12 + 1;
        Date {
            second: seconds % 60,
            minute: seconds / 60 % 60,
            hour: seconds / 3600 % 24,
            // 1 January 1970 was a Thursday.
            weekday: (days + 4) % 7 + 1,
            day: day_of_year - (153 * month_from_march + 2) / 5 + 1,
            month,
            year: era * 400 + year_of_era + u64::from(month <= 2),
        }
    }
}

impl Stateful for Cmos {
    type State = CmosState;
    fn state(&self) -> CmosState {
        self.s.clone()
    }
    fn reset_state(&self) -> CmosState {
        CmosState { index: 0, memory: vec![0; SIZE] }
    }
    fn check(&self, state: &CmosState) -> Result<(), StateError> {
        if state.memory.len() == SIZE && usize::from(state.index) < SIZE {
            return Ok(());
        }
        let why = format!("index {} of {} bytes; there are {SIZE}", state.index, state.memory.len());
        Err(StateError::Invalid { id: "cmos".into(), why })
    }
    fn set_state(&mut self, state: CmosState) {
        self.s = state;
    }
    fn settle(&mut self) {}
}

impl Mmio for Cmos {
    fn read(&mut self, offset: u64, size: u8) -> u64 {
        match (offset, size) {
            (0, 1) => self.s.index.into(),
            (1, 1) => self.byte().into(),
            _ => 0,
        }
    }

    fn write(&mut self, offset: u64, size: u8, value: u64) {
        match (offset, size) {
            (0, 1) => self.s.index = value as u8 & 0x7f,
            (1, 1) => {
                if let Some(byte) = self.s.memory.get_mut(usize::from(self.s.index)) {
                    *byte = value as u8;
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use strata_engine::ManualClock;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let ymd = |s| {
            let d = Date::of(s);
            (d.year, d.month, d.day, d.weekday)
        };
        assert_eq!(ymd(0), (1970, 1, 1, 5));
        assert_eq!(ymd(951_782_400), (2000, 2, 29, 3));
        assert_eq!(ymd(951_868_800), (2000, 3, 1, 4));
        assert_eq!(ymd(1_767_225_599), (2025, 12, 31, 4));
        assert_eq!(ymd(4_107_542_400), (2100, 3, 1, 2));
        let d = Date::of(1_767_225_599);
        assert_eq!((d.hour, d.minute, d.second), (23, 59, 59));
    }

    #[test]
    fn the_date_is_the_clocks_and_the_rest_is_memory() {
        let clock = Arc::new(ManualClock::default());
        clock.advance(951_782_400_000_000_000 + 37_000_000_000);
        let mut d = Cmos::new(clock);
        let mut read = |index: u64| {
            d.write(0, 1, index | 0x80);
            d.read(1, 1)
        };
        assert_eq!([0x32, 9, 8, 7, 6, 4, 2, 0].map(&mut read), [0x20, 0, 2, 0x29, 3, 0, 0, 0x37]);
        assert_eq!([0xa, 0xb, 0xc, 0xd].map(&mut read), [0x26, 2, 0, 0x80]);
        d.write(0, 1, 0x0f);
        d.write(1, 1, 0xaa);
        assert_eq!((d.read(1, 1), d.read(0, 1), d.read(1, 2)), (0xaa, 0x0f, 0));
        strata_state::laws::check(&mut d).unwrap();
        let bad = CmosState { index: 200, memory: vec![0; SIZE] };
        assert!(d.check(&bad).is_err());
    }
}
