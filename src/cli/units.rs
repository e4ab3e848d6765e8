//! Sizes and times in words.
//!
//! Sizes are in units of 1024, times in one unit. No text is longer than a column of a list, and none rounds to a claim
//! that is not true: 100 % is all, 0 % is nothing.

/// Units of 1024.
const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// A number of bytes in at most ten characters: `0 B`, `1.5 KiB`, `1023.9 GiB`.
pub(super) fn size(bytes: u64) -> String {
    let (mut value, mut unit) = (bytes as f64, 0);
    // A value that would be printed as 1024.0 is one of the next unit.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ => format!("{value:.1} {}", UNITS[unit]),
    }
}

/// A size with the exact number behind it, where that says more.
pub(super) fn exact_size(bytes: u64) -> String {
    match size(bytes) {
        short if bytes < 1000 => short,
        short => format!("{short} ({bytes} bytes)"),
    }
}

/// How much of `whole` a part is; 100 % is said only of all of it, 0 % only of nothing.
pub(super) fn percent(part: u64, whole: u64) -> String {
    if part >= whole {
        return "100%".to_owned();
    }
    match u128::from(part) * 100 / u128::from(whole) {
        0 if part > 0 => "<1%".to_owned(),
        percent => format!("{percent}%"),
    }
}

/// How long ago a time was, both in seconds since 1970. A time that is still to come is another clock's now.
pub(super) fn ago(then: u64, now: u64) -> String {
    // In seconds. A year of 365 days is exact enough for "2 y ago".
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    const YEAR: u64 = 365 * DAY;
    if then == 0 {
        return "never".to_owned();
    }
    let (count, unit) = match now.saturating_sub(then) {
        0 => return "now".to_owned(),
        seconds if seconds < MINUTE => (seconds, "s"),
        seconds if seconds < HOUR => (seconds / MINUTE, "min"),
        seconds if seconds < 2 * DAY => (seconds / HOUR, "h"),
        seconds if seconds < 2 * YEAR => (seconds / DAY, "d"),
        seconds => (seconds / YEAR, "y"),
    };
    format!("{count} {unit} ago")
}

/// A count with its noun: `1 object`, `2 objects`.
pub(super) fn count(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_stay_short_at_every_edge() {
        let sizes = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            ((1 << 40) - (100 << 20), "1023.9 GiB"),
            (u64::MAX, "16.0 EiB"),
        ];
        for (bytes, text) in sizes {
            assert_eq!(size(bytes), text);
            assert!(text.len() <= 10, "{text}");
        }
        assert_eq!(exact_size(999), "999 B");
        assert_eq!(exact_size(2048), "2.0 KiB (2048 bytes)");
    }

    #[test]
    fn percents_do_not_round_up_to_whole_nor_down_to_nothing() {
        assert_eq!(percent(u64::MAX - 1, u64::MAX), "99%");
        assert_eq!(percent(1, 1000), "<1%");
        assert_eq!(percent(0, 1000), "0%");
        assert_eq!(percent(0, 0), "100%");
    }

    #[test]
    fn times_are_told_in_the_unit_that_fits() {
        let now = 1_700_000_000;
        let times = [
            (0, "now"),
            (59, "59 s ago"),
            (60, "1 min ago"),
            (3 * 3600 + 59, "3 h ago"),
            (47 * 3600, "47 h ago"),
            (48 * 3600, "2 d ago"),
            (800 * 86_400, "2 y ago"),
        ];
        for (seconds, text) in times {
            assert_eq!(ago(now - seconds, now), text);
        }
        assert_eq!(ago(now + 5, now), "now");
        assert_eq!(ago(0, now), "never");
    }
}
