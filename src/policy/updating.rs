//! Updating a stored reply by a 304 (RFC 9111 §3.2, §4.3.4), and the age of a reply on its arrival (§4.2.3).
//!
//! The stored fields stay unless the 304 has a field of that name; then all of its lines take the place of all of
//! theirs. A field that the stored bytes depend on stays whatever the 304 says. Of the two ages that a reply tells, by
//! `Age` and by `Date`, the greater counts. Pure: fields in, fields out.

use super::fields::Fields;
use crate::header::{MAX_REPLY_HEAD_BYTES, head_bytes, parse_date};
use std::time::{Duration, SystemTime};

/// Fields that the stored bytes depend on, or that were read when they came: a 304 changes none of them.
/// `Content-Type` is among them because servers send their default with a 304; `Vary` because what selects the
/// stored reply was read by the one that came with it.
const FIXED: &[&str] = &[
    "content-encoding",
    "content-length",
    "content-md5",
    "content-range",
    "content-type",
    "digest",
    "content-digest",
    "repr-digest",
    "etag",
    "set-cookie",
    "vary",
];

/// Fields that say how long a reply may be used: those that a 304 is for.
const CACHING: &[&str] = &[
    "age",
    "cache-control",
    "cdn-cache-control",
    "date",
    "expires",
    "last-modified",
    "pragma",
];

/// The stored fields with those of a reply that vouches for them in their place. Where they would be more than a reply may
/// have, its word on caching alone is taken, and where that is too much nothing of it: a head does not grow without end.
pub fn updated(stored: &[(String, String)], reply: &[(String, String)]) -> Vec<(String, String)> {
    // Where the date is the only validator it is what the stored bytes are known by.
    let is_news = |name: &str| !FIXED.contains(&name);
    let is_of_caching = |name: &str| CACHING.contains(&name);
    let all = merged(stored, reply, is_news);
    let most = MAX_REPLY_HEAD_BYTES.max(size_of(stored));
    if size_of(&all) <= most {
        return all;
    }
    let some = merged(stored, reply, is_of_caching);
    if size_of(&some) <= most { some } else { stored.to_vec() }
}

fn merged(
    stored: &[(String, String)],
    reply: &[(String, String)],
    is_news: impl Fn(&str) -> bool,
) -> Vec<(String, String)> {
    let replaced = |name: &str| is_news(name) && reply.has(name);
    let kept = stored.iter().filter(|(name, _)| !replaced(name));
    let news = reply.iter().filter(|(name, _)| is_news(name));
    kept.chain(news).cloned().collect()
}

fn size_of(fields: &[(String, String)]) -> usize {
    head_bytes(fields.iter().map(|(name, value)| (name.len(), value.len())))
}

/// The age of a reply when it came (RFC 9111 §4.2.3): what its `Age` says plus the time since it was asked
/// for, or by its `Date`, whichever is more.
pub fn age_on_arrival(reply: &(impl Fields + ?Sized), age: Option<u64>, delay: Duration, now: SystemTime) -> Duration {
    let by_date = reply
        .first("date")
        .and_then(parse_date)
        .and_then(|date| now.duration_since(date).ok())
        .unwrap_or_default();
    // `Date` has whole seconds.
    let by_date = by_date.saturating_sub(Duration::from_secs(1));
    by_date.max(age.map_or(Duration::ZERO, |age| Duration::from_secs(age) + delay))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::from_unix_seconds;
    use crate::header::print_date;

    fn fields(fields: &[(&str, &str)]) -> Vec<(String, String)> {
        fields
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn fields_that_each_304_adds_do_not_grow_the_head_without_end() {
        let mut stored = fields(&[("content-type", "video/mp4"), ("cache-control", "max-age=1")]);
        for round in 0..20 {
            let mut reply = fields(&[("cache-control", "max-age=7")]);
            reply.push((format!("x-{round}"), "y".repeat(30 << 10)));
            stored = updated(&stored, &reply);
        }
        let bytes: usize = stored.iter().map(|(name, value)| name.len() + value.len()).sum();
        assert!(bytes <= MAX_REPLY_HEAD_BYTES, "{bytes}");
        assert_eq!(Fields::first(&stored[..], "content-type"), Some("video/mp4"));
        assert_eq!(Fields::first(&stored[..], "cache-control"), Some("max-age=7"));
        // A value that is too long by itself changes nothing.
        let long = [("cache-control".to_owned(), "z".repeat(MAX_REPLY_HEAD_BYTES))];
        assert_eq!(updated(&stored, &long), stored);
    }

    #[test]
    fn a_304_updates_its_fields_except_those_that_describe_the_body() {
        let stored = fields(&[
            ("content-type", "video/mp4"),
            ("cache-control", "max-age=1"),
            ("x", "old"),
            ("x", "older"),
            ("y", "stays"),
        ]);
        let reply = fields(&[
            ("content-type", "text/html"),
            ("content-length", "0"),
            ("content-encoding", "gzip"),
            ("cache-control", "max-age=100"),
            ("x", "new"),
            ("z", "added"),
        ]);
        let wanted = fields(&[
            ("content-type", "video/mp4"),
            ("y", "stays"),
            ("cache-control", "max-age=100"),
            ("x", "new"),
            ("z", "added"),
        ]);
        assert_eq!(updated(&stored, &reply), wanted);
    }

    #[test]
    fn a_reply_is_as_old_as_its_age_or_its_date_says() {
        let now = from_unix_seconds(1_000_000_000);
        let date = print_date(from_unix_seconds(1_000_000_000 - 61));
        let age = |age: Option<u64>, date: &str| {
            let delay = Duration::from_secs(2);
            age_on_arrival(&[("date", date)][..], age, delay, now).as_secs()
        };
        assert_eq!(age(None, &date), 60);
        assert_eq!(age(Some(10), &date), 60);
        assert_eq!(age(Some(100), &date), 102);
        assert_eq!(age(Some(100), "nonsense"), 102);
        assert_eq!(age(None, "nonsense"), 0);
        // An upstream whose clock is ahead makes nothing younger.
        assert_eq!(age(Some(5), &print_date(from_unix_seconds(2_000_000_000))), 7);
    }
}
