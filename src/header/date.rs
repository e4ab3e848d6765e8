//! HTTP dates (RFC 9110 §5.6.7).
//!
//! The three forms of the RFC are read, and so is what servers write in their place: other cases of letters, spaces
//! and dashes that are none of the form, a one-digit hour, another zone than GMT. Curl and browsers read all of these,
//! and a date that is not read makes a reply stale, or a condition void. What has no day, month, year and time is no
//! date.

use std::time::{Duration, SystemTime};
use time::{Date, Month, PrimitiveDateTime, Time, UtcOffset};

/// The names of zones that stand in headers, with the hours that they are ahead of GMT.
const ZONES: &[(&str, i8)] = &[
    ("GMT", 0),
    ("UTC", 0),
    ("UT", 0),
    ("Z", 0),
    ("EST", -5),
    ("EDT", -4),
    ("CST", -6),
    ("CDT", -5),
    ("MST", -7),
    ("MDT", -6),
    ("PST", -8),
    ("PDT", -7),
    ("WET", 0),
    ("BST", 1),
    ("CET", 1),
    ("CEST", 2),
    ("EET", 2),
    ("EEST", 3),
    ("MSK", 3),
    ("JST", 9),
    ("AEST", 10),
    ("AEDT", 11),
];

const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];

/// Longer texts are not looked at. A judgement: twice the longest form of the RFC, 33 bytes.
const MAX_BYTES: usize = 64;

/// Reads an HTTP date; `None` for anything else, which the RFC says to ignore.
pub fn parse_date(text: &str) -> Option<SystemTime> {
    let text = text.trim();
    match httpdate::parse_http_date(text) {
        Ok(date) => Some(date),
        Err(_) if text.len() <= MAX_BYTES => tolerant(text),
        Err(_) => None,
    }
}

/// Prints an HTTP date, in the form that the RFC prefers.
pub fn print_date(time: SystemTime) -> String {
    httpdate::fmt_http_date(time)
}

/// A date by its parts, in whatever order and spelling they stand.
fn tolerant(text: &str) -> Option<SystemTime> {
    let (mut day, mut month, mut year, mut clock, mut offset) = (None, None, None, None, None);
    for part in text.split([' ', ',', '\t']).filter(|part| !part.is_empty()) {
        if clock.is_none()
            && let Some(time) = time_of(part)
        {
            clock = Some(time);
        } else if clock.is_some()
            && offset.is_none()
            && let Some(zone) = zone_of(part)
        {
            offset = Some(zone);
        } else {
            // RFC 850 has dashes between day, month and year.
            for part in part.split('-') {
                match part.parse::<u16>() {
                    Ok(number) if day.is_none() && part.len() <= 2 => day = Some(number),
                    Ok(number) if year.is_none() && day.is_some() => year = Some(full_year(number, part.len())?),
                    Ok(_) => return None,
                    Err(_) if month.is_none() && month_of(part).is_some() => month = month_of(part),
                    Err(_) if is_weekday(part) => {}
                    Err(_) => return None,
                }
            }
        }
    }
    let date = Date::from_calendar_date(i32::from(year?), month?, u8::try_from(day?).ok()?).ok()?;
    let moment = PrimitiveDateTime::new(date, clock?).assume_offset(offset.unwrap_or(UtcOffset::UTC));
    let seconds = u64::try_from(moment.unix_timestamp()).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// `02:01:18`; also with periods, and with one digit for the hour.
fn time_of(part: &str) -> Option<Time> {
    let mut numbers = part.split([':', '.']);
    let mut next = || {
        let digits = numbers.next()?;
        (matches!(digits.len(), 1 | 2) && digits.bytes().all(|byte| byte.is_ascii_digit()))
            .then(|| digits.parse::<u8>().ok())
            .flatten()
    };
    let (hour, minute, second) = (next()?, next()?, next()?);
    // A leap second is the last of its minute.
    let time = Time::from_hms(hour, minute, second.min(59)).ok()?;
    (numbers.next().is_none() && second <= 60).then_some(time)
}

fn zone_of(part: &str) -> Option<UtcOffset> {
    if let Some((_, hours)) = ZONES.iter().find(|(name, _)| part.eq_ignore_ascii_case(name)) {
        return UtcOffset::from_hms(*hours, 0, 0).ok();
    }
    let (sign, digits) = match part.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, part.strip_prefix('+')?),
    };
    let number: i8 = digits.get(..2)?.parse().ok()?;
    let minutes: i8 = digits.get(2..)?.parse().ok()?;
    UtcOffset::from_hms(sign * number, sign * minutes, 0).ok()
}

fn month_of(part: &str) -> Option<Month> {
    let index = MONTHS.iter().position(|month| part.eq_ignore_ascii_case(month))?;
    Month::try_from(u8::try_from(index + 1).ok()?).ok()
}

/// Whole or cut to three letters or more.
fn is_weekday(part: &str) -> bool {
    const DAYS: [&str; 7] = [
        "sunday",
        "monday",
        "tuesday",
        "wednesday",
        "thursday",
        "friday",
        "saturday",
    ];
    let part = part.to_ascii_lowercase();
    part.len() >= 3 && DAYS.iter().any(|day| day.starts_with(&part))
}

/// A year of two digits is of this century up to 69 (RFC 6265 §5.1.1): a date in a header is never far from now.
fn full_year(number: u16, digits: usize) -> Option<u16> {
    match digits {
        4 => Some(number),
        2 if number < 70 => Some(2000 + number),
        2 => Some(1900 + number),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const IMF: &str = "Thu, 18 Aug 2050 02:01:18 GMT";

    #[test]
    fn all_forms_of_a_date_are_read_in_any_case_of_letters() {
        let expected = parse_date(IMF).expect("a date");
        for text in [
            "Thursday, 18-Aug-50 02:01:18 GMT",
            "Thu Aug 18 02:01:18 2050",
            "THU, 18 Aug 2050 02:01:18 GMT",
            "thu, 18 AUG 2050 02:01:18 gMT",
            "thursday, 18-aug-50 02:01:18 gmt",
            "thu aug 18 02:01:18 2050",
        ] {
            assert_eq!(parse_date(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn sloppy_dates_that_other_clients_read_are_read() {
        let expected = parse_date(IMF).expect("a date");
        for text in [
            "Thu, 18 Aug 2050 02:01:18 UTC",
            "Thu, 18 Aug 2050 12:01:18 AEST",
            "Thu, 18 Aug 2050 04:01:18 +0200",
            "Thu, 18 Aug 50 02:01:18 GMT",
            "Thu 18 Aug 2050 02:01:18 GMT",
            "Thu, 18  Aug  2050 02:01:18 GMT",
            "Thu, 18-Aug-2050 02:01:18 GMT",
            "Thu, 18 Aug 2050 02.01.18 GMT",
            "Thu, 18 Aug 2050 2:01:18 GMT",
            "18 Aug 2050 02:01:18",
        ] {
            assert_eq!(parse_date(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn a_malformed_date_is_none() {
        for text in [
            "",
            "0",
            "-1",
            "yesterday",
            "Thu, 18 Aug 2050",
            "02:01:18 GMT",
            "Thu, 32 Aug 2050 02:01:18 GMT",
            "Thu, 18 Aug 2050 25:01:18 GMT",
            "Thu, 18 Aug 2050 02:01:18 XYZ",
            "Thu, 18 Aug 205 02:01:18 GMT",
            "18 18 Aug 2050 02:01:18 GMT",
            "2050-08-18T02:01:18Z",
        ] {
            assert_eq!(parse_date(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_date_that_is_printed_is_read(seconds in 0_u64..253_402_300_799) {
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            prop_assert_eq!(parse_date(&print_date(time)), Some(time));
            prop_assert_eq!(parse_date(&print_date(time).to_ascii_uppercase()), Some(time));
        }

        #[test]
        fn hostile_dates_do_not_panic(text in "\\PC{0,80}") {
            let _ = parse_date(&text);
        }
    }
}
