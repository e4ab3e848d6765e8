//! `millpond ls`: a line an object.
//!
//! Lines are printed as pages come, so the columns have fixed widths and a list of any length costs the
//! memory of one page. Objects that come or go meanwhile are seen or not; none is seen twice.

use super::api::{Api, RawPage};
use super::failure::Failure;
use super::output::{Output, plain};
use super::units::{ago, percent, size};
use super::{Ls, Outcome};
use millpond::api::{ObjectState, ObjectSummary};
use millpond::clock::{Clock, SystemClock, unix_seconds};
use reqwest::Method;

/// The most objects that the API tells at once.
const PAGE: &str = "1000";

/// How objects are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// The columns that fit beside a URL.
    Short,
    /// All that has a column.
    Long,
    /// The server's own words.
    Json,
}

impl Style {
    pub(super) fn of(ls: &Ls) -> Self {
        match ls {
            ls if ls.door.json => Self::Json,
            ls if ls.long => Self::Long,
            _ => Self::Short,
        }
    }
}

pub(super) async fn run(
    api: &Api,
    prefix: Option<&str>,
    style: Style,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    let now = unix_seconds(SystemClock.now());
    let (mut after, mut seen) = (None::<String>, 0_usize);
    loop {
        let mut query = vec![("limit", PAGE)];
        query.extend(prefix.map(|prefix| ("prefix", prefix)));
        query.extend(after.as_deref().map(|id| ("after", id)));
        let page: RawPage = api.read(&api.call(Method::GET, "objects", &query).await?)?;
        for line in page.objects {
            if style == Style::Json {
                output.line(&line.to_string());
            } else {
                if seen == 0 {
                    output.line(&heading(style));
                }
                output.line(&row(&api.read(&line.to_string())?, style, now));
            }
            seen += 1;
        }
        // Ids rise from page to page: a server that answers otherwise would be asked for ever.
        match page.next {
            Some(next) if after.as_ref().is_some_and(|after| next <= *after) => {
                return Err(api.stranger("its list does not go on"));
            }
            Some(next) if !output.is_closed() => after = Some(next),
            _ => break,
        }
    }
    if seen == 0 && style != Style::Json {
        crate::complain(&match prefix {
            Some(prefix) => format!("nothing is stored whose URL begins with {}", plain(prefix)),
            None => "nothing is stored".to_owned(),
        });
    }
    Ok(Outcome::Done)
}

fn heading(style: Style) -> String {
    let short = format!(
        "{:<10} {:>21} {:>4} {:>6} {:<11} {:<3}",
        "STATE", "PRESENT/LENGTH", "", "HITS", "LAST USED", "PIN"
    );
    match style {
        Style::Long => format!(
            "{:<32} {short} {:>10} {:<11} {:<20} URL",
            "ID", "DISK", "CREATED", "ETAG"
        ),
        _ => format!("{short} URL"),
    }
}

fn row(object: &ObjectSummary, style: Style, now: u64) -> String {
    let (length, share) = match object.complete_length {
        Some(length) => (size(length), percent(object.present_bytes, length)),
        None => ("?".to_owned(), String::new()),
    };
    let short = format!(
        "{:<10} {:>21} {share:>4} {:>6} {:<11} {:<3}",
        state_word(object),
        format!("{}/{length}", size(object.present_bytes)),
        object.hits,
        ago(object.last_used, now),
        if object.pinned { "pin" } else { "" },
    );
    let url = plain(&object.url);
    match style {
        Style::Long => format!(
            "{:<32} {short} {:>10} {:<11} {:<20} {url}",
            plain(&object.id),
            size(object.disk_bytes),
            ago(object.created, now),
            plain(&object.etag),
        ),
        _ => format!("{short} {url}"),
    }
}

/// The state in the API's own word.
pub(super) fn state_word(object: &ObjectSummary) -> &'static str {
    match object.state {
        ObjectState::Incomplete => "incomplete",
        ObjectState::Complete => "complete",
        ObjectState::Unverified => "unverified",
        ObjectState::Unknown => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000;

    fn object(more: &str) -> ObjectSummary {
        let text = format!(
            r#"{{"id":"00112233445566778899aabbccddeeff","url":"http://h/a\u001b[2J","state":"incomplete",
            "present":[[0,1048576]],"present_bytes":1048576,"last_used":{},"hits":7{more}}}"#,
            NOW - 3 * 3600
        );
        serde_json::from_str(&text).expect("an object")
    }

    #[test]
    fn a_row_tells_how_much_is_here_and_when_it_was_used() {
        let row = row(
            &object(r#","complete_length":4194304,"pinned":true"#),
            Style::Short,
            NOW,
        );
        let words: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(
            words,
            [
                "incomplete",
                "1.0",
                "MiB/4.0",
                "MiB",
                "25%",
                "7",
                "3",
                "h",
                "ago",
                "pin",
                "http://h/a\\u{1b}[2J"
            ]
        );
    }

    #[test]
    fn an_unknown_length_and_an_older_servers_line_are_told_as_such() {
        let row = row(&object(""), Style::Long, NOW);
        assert!(row.contains("1.0 MiB/? "), "{row}");
        assert!(!row.contains('%') && !row.contains("pin"), "{row}");
    }

    #[test]
    fn the_url_stands_below_its_heading() {
        for style in [Style::Short, Style::Long] {
            let row = row(&object(r#","complete_length":4194304,"etag":"\"a\"""#), style, NOW);
            assert_eq!(heading(style).find("URL"), row.find("http://"), "{style:?}");
        }
    }
}
