//! Sizes and times as people write them.
//!
//! A size without a unit is bytes; a time without one is refused, since seconds and milliseconds are both usual. `KB`
//! is 1000 bytes and `KiB` 1024; sizes are read in either case. Numbers are whole, without sign. What overflows is a
//! mistake, not a large value.

use std::time::Duration;

/// A number of bytes: `1048576`, `50GiB`, `20 MB`.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return Err("is not a size; write bytes with a unit, like 512MiB or 50GiB".to_owned()),
    };
    let number: u64 = number
        .parse()
        .map_err(|_| "is not a size; write bytes with a unit, like 512MiB or 50GiB".to_owned())?;
    number
        .checked_mul(factor)
        .ok_or_else(|| "is larger than any disk".to_owned())
}

/// A length of time: `250ms`, `5s`, `2m`, `1h`, `1d`. A bare number has no unit and is refused.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let mistake = || "is not a length of time; write a number with its unit, like 250ms, 5s, 2m or 1h".to_owned();
    let (number, unit) = split(text);
    let milliseconds: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(mistake()),
    };
    let number: u64 = number.parse().map_err(|_| mistake())?;
    let total = number
        .checked_mul(milliseconds)
        .filter(|total| *total <= 365 * 86_400_000);
    total
        .map(Duration::from_millis)
        .ok_or_else(|| "is longer than a year".to_owned())
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (&text[..end], text[end..].trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_read_with_their_units() {
        assert_eq!(bytes("50GiB"), Ok(50 << 30));
        assert_eq!(bytes("20 MB"), Ok(20_000_000));
        assert_eq!(bytes("7"), Ok(7));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
    }

    #[test]
    fn nonsense_is_refused_with_the_unit_named() {
        for text in ["", "fast", "5", "-5s", "5 lightyears", "99999999999d"] {
            assert!(duration(text).is_err(), "{text}");
        }
        for text in ["", "-1GiB", "1.5GiB", "50GB/s", "99999999TiB"] {
            assert!(bytes(text).is_err(), "{text}");
        }
        assert!(duration("5").expect_err("no unit").contains("unit"));
    }
}
