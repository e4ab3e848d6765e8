//! `millpond show`: all fields of one object, and a picture of what of it is here.
//!
//! The server's answer is shown with all that it has, also fields that this program does not know. Text that comes from
//! upstreams is printed with its control characters escaped; `--json` prints the answer as it came.

use super::Outcome;
use super::api::Api;
use super::bar::bar;
use super::failure::Failure;
use super::list::state_word;
use super::name::Name;
use super::output::{Output, plain};
use super::units::{ago, count, exact_size, percent};
use millpond::api::ObjectSummary;
use millpond::clock::{Clock, SystemClock, from_unix_seconds, unix_seconds};

/// The most ranges that are listed: a torn object can have thousands, and JSON has them all. A judgement: a screen.
const MAX_RANGES: usize = 20;

pub(super) async fn run(api: &Api, name: &Name, json: bool, output: &mut Output) -> Result<Outcome, Failure> {
    let line = api.find(name).await?;
    if json {
        output.line(&line);
        return Ok(Outcome::Done);
    }
    let now = unix_seconds(SystemClock.now());
    for line in lines(&api.read(&line)?, now) {
        output.line(&line);
    }
    Ok(Outcome::Done)
}

fn lines(object: &ObjectSummary, now: u64) -> Vec<String> {
    let unknown = || "unknown".to_owned();
    let time = |seconds: u64| match seconds {
        0 => "never".to_owned(),
        seconds => {
            let date = httpdate::fmt_http_date(from_unix_seconds(seconds));
            format!("{date} ({})", ago(seconds, now))
        }
    };
    let fields = [
        ("url", plain(&object.url)),
        ("id", plain(&object.id)),
        ("state", state_word(object).to_owned()),
        ("length", object.complete_length.map_or_else(unknown, exact_size)),
        ("present", present(object)),
        ("ranges", ranges(&object.present)),
        ("disk", exact_size(object.disk_bytes)),
        ("etag", plain(&object.etag)),
        ("created", time(object.created)),
        ("last used", time(object.last_used)),
        ("hits", object.hits.to_string()),
        ("pinned", if object.pinned { "yes" } else { "no" }.to_owned()),
    ];
    let more = object.more.iter().map(|(key, value)| (key.replace('_', " "), value));
    fields
        .into_iter()
        .map(|(key, value)| format!("{key:<10} {value}"))
        .chain(more.map(|(key, value)| format!("{:<10} {}", plain(&key), plain(&value.to_string()))))
        .chain([picture(object)])
        .collect()
}

fn present(object: &ObjectSummary) -> String {
    let ranges = count(object.present.len() as u64, "range");
    let here = exact_size(object.present_bytes);
    match object.complete_length {
        Some(length) => format!("{here}, {}, in {ranges}", percent(object.present_bytes, length)),
        None => format!("{here}, in {ranges}"),
    }
}

/// First and last bytes, as in a `Range` field.
fn ranges(present: &[[u64; 2]]) -> String {
    let mut text: Vec<String> = present
        .iter()
        .take(MAX_RANGES)
        .map(|[start, end]| format!("{start}-{}", end.saturating_sub(1)))
        .collect();
    match present.len() {
        0 => text.push("none".to_owned()),
        all if all > MAX_RANGES => text.push(format!("and {} more (--json has all)", all - MAX_RANGES)),
        _ => {}
    }
    text.join(", ")
}

/// Where the length is not known the picture ends with the last byte that is here.
fn picture(object: &ObjectSummary) -> String {
    let last = object.present.iter().map(|[_, end]| *end).max().unwrap_or(0);
    match object.complete_length {
        Some(length) => format!("[{}]", bar(&object.present, length)),
        None if last == 0 => format!("[{}...", ".".repeat(60)),
        None => format!("[{}...", bar(&object.present, last)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        lines(&serde_json::from_str(text).expect("an object"), 1_700_000_060).join("\n")
    }

    #[test]
    fn every_field_is_told_also_those_of_a_newer_server() {
        let text = shown(
            r#"{"id":"aa","url":"http://h/a","state":"incomplete","complete_length":120,"present":[[0,60],[119,120]],
            "present_bytes":61,"disk_bytes":4096,"etag":"\"t\"","last_used":1700000000,"created":1700000000,
            "hits":3,"pinned":true,"bad_blocks":2}"#,
        );
        for part in [
            "http://h/a",
            "120 B",
            "61 B, 50%, in 2 ranges",
            "0-59, 119-119",
            "4.0 KiB (4096 bytes)",
            "\"t\"",
            "Tue, 14 Nov 2023 22:13:20 GMT (1 min ago)",
            "pinned     yes",
            "bad blocks 2",
        ] {
            assert!(text.contains(part), "{part} is missing in:\n{text}");
        }
        let picture = format!("[{}{}+]", "#".repeat(30), ".".repeat(29));
        assert!(text.ends_with(&picture), "{text}");
    }

    #[test]
    fn an_unknown_length_leaves_the_picture_open() {
        let text = shown(r#"{"id":"aa","url":"http://h/a","present":[[0,60]],"present_bytes":60}"#);
        assert!(text.contains("length     unknown"), "{text}");
        assert!(text.ends_with(&format!("[{}...", "#".repeat(60))), "{text}");
        let empty = shown(r#"{"id":"aa","url":"http://h/a"}"#);
        assert!(empty.contains("ranges     none"), "{empty}");
        assert!(empty.ends_with(&format!("[{}...", ".".repeat(60))), "{empty}");
    }

    #[test]
    fn a_torn_object_does_not_fill_the_screen() {
        let present: Vec<[u64; 2]> = (0..50).map(|n| [n * 10, n * 10 + 5]).collect();
        let text = ranges(&present);
        assert!(text.ends_with("190-194, and 30 more (--json has all)"), "{text}");
    }
}
