//! Dates as the archive and the image records write them, in seconds since 1970 UTC.
//! Formats: RFC 5322 section 3.3 as Release files use it (always UTC), and RFC 3339.

use std::time::{SystemTime, UNIX_EPOCH};

const DAY: i64 = 86_400;
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Now, by the host's clock.
pub(crate) fn now() -> i64 {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map(|d| d.as_secs()).unwrap_or(0);
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

/// `Fri, 06 Nov 2026 08:08:01 UTC`; `None` for anything else.
pub(crate) fn parse_rfc5322(text: &str) -> Option<i64> {
    let mut words = text.split_once(',')?.1.split_whitespace();
    let day: i64 = words.next()?.parse().ok().filter(|d| (1..=31).contains(d))?;
    let name = words.next()?;
    let month = MONTHS.iter().position(|m| *m == name)?;
    let year: i64 = words.next()?.parse().ok().filter(|y| (1970..=9999).contains(y))?;
    let mut clock = words.next()?.split(':').map(|n| n.parse::<i64>().ok().filter(|n| (0..=60).contains(n)));
    let (h, m, s) = (clock.next()??, clock.next()??, clock.next()??);
    if !matches!(words.next()?, "UTC" | "GMT" | "+0000") || words.next().is_some() || clock.next().is_some() {
        return None;
    }
    let month = i64::try_from(month).ok()?.checked_add(1)?;
    Some(days(year, month, day) * DAY + h * 3600 + m * 60 + s)
}

/// `2026-11-24T13:17:14Z`.
pub fn rfc3339(at: i64) -> String {
    let (y, m, d) = civil(at.div_euclid(DAY));
    let s = at.rem_euclid(DAY);
    format!("{y:04}-{m:02}-{d:02}T{:02}:{:02}:{:02}Z", s / 3600, s / 60 % 60, s % 60)
}

/// The inverse of [`parse_rfc5322`].
#[cfg(test)]
pub(crate) fn rfc5322(at: i64) -> String {
    let (y, m, d) = civil(at.div_euclid(DAY));
    let weekday =
        ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"][at.div_euclid(DAY).rem_euclid(7) as usize];
    let s = at.rem_euclid(DAY);
    let month = MONTHS[(m - 1) as usize];
    format!("{weekday}, {d:02} {month} {y} {:02}:{:02}:{:02} UTC", s / 3600, s / 60 % 60, s % 60)
}

/// Days from 1970-01-01 to a date of the Gregorian calendar, counting years from March so that the
/// leap day is the last of its year.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let era = y.div_euclid(400);
    let yoe = y.rem_euclid(400);
    era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + (153 * m + 2) / 5 + day - 1 - 719_468
}

fn civil(days: i64) -> (i64, i64, i64) {
    let z = days.saturating_add(719_468);
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (era * 400 + yoe + i64::from(month <= 2), month, doy - (153 * mp + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_read_and_write() {
        assert_eq!(parse_rfc5322("Fri, 06 Nov 2026 08:08:01 UTC"), Some(1_793_952_481));
        assert_eq!(rfc3339(1_793_952_481), "2026-11-06T08:08:01Z");
        assert_eq!(parse_rfc5322("Thu, 01 Jan 1970 00:00:00 UTC"), Some(0));
        for bad in [
            "",
            "Fri, 06 Nov 2026",
            "Fri, 06 Foo 2026 08:08:01 UTC",
            "Fri, 06 Nov 2026 08:08:01 CET",
            "x, 99 Nov 2026 1:1:1 UTC",
        ] {
            assert_eq!(parse_rfc5322(bad), None, "{bad}");
        }
        for at in (0..4_000_000_000i64).step_by(86_400 * 37 + 12_345) {
            assert_eq!(parse_rfc5322(&rfc5322(at)), Some(at));
        }
    }
}
