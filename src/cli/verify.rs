//! `millpond verify`: stored bytes against their checksums, by the server or, when none runs, by ourselves.
//!
//! Both ways tell the same story in the same lines: how far it is, each bad block as it is found, and a
//! summary at the end. The summary is the proof that everything was looked at: without it the outcome is a
//! failure, however good all looked until then.

use super::Outcome;
use super::api::Api;
use super::failure::Failure;
use super::name::Name;
use super::output::{Output, plain};
use super::units::{count, size};
use indicatif::{ProgressBar, ProgressStyle};
use millpond::api::{BadBlock, ObjectSummary, VerifyLine, VerifySummary};
use millpond::store::verify_offline;
use reqwest::Method;
use std::io::IsTerminal;
use std::path::Path;

/// Has the server verify one object, or all.
pub(super) async fn online(
    api: &Api,
    name: Option<&Name>,
    repair: bool,
    json: bool,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    // Looked up also where the name is an id: so an unknown one is told before the stream begins.
    let id = match name {
        Some(name) => Some(api.read::<ObjectSummary>(&api.find(name).await?)?.id),
        None => None,
    };
    let mut query = vec![("repair", if repair { "true" } else { "false" })];
    query.extend(id.as_deref().map(|id| ("id", id)));
    let lines = api.lines(Method::POST, "verify", &query).await;
    let mut lines = lines.map_err(|failure| match name {
        Some(name) => api.known(name, failure),
        None => failure,
    })?;
    let mut story = Story::new(json, output);
    while let Some(text) = lines.next().await? {
        // A server may send empty lines so that a slow disk does not look like a dead line.
        if text.trim().is_empty() {
            continue;
        }
        story.tell(api.read(&text)?, || text);
    }
    story.end(&api.server().address())
}

/// Verifies a data directory that no server holds.
pub(super) fn offline(dir: &Path, repair: bool, json: bool, output: &mut Output) -> Result<Outcome, Failure> {
    if !dir.is_dir() {
        return Err(Failure::NoDirectory(dir.display().to_string()));
    }
    let mut story = Story::new(json, output);
    verify_offline(dir, repair, &mut |check| {
        let text = serde_json::to_string(&check).unwrap_or_default();
        story.tell(check.into(), || text);
    })?;
    story.end(&dir.display().to_string())
}

/// A verification as it is told.
struct Story<'a> {
    output: &'a mut Output,
    json: bool,
    /// Only where somebody looks.
    bar: Option<ProgressBar>,
    verified: Option<VerifySummary>,
}

impl<'a> Story<'a> {
    fn new(json: bool, output: &'a mut Output) -> Self {
        let watched = !json && std::io::stderr().is_terminal();
        Self {
            output,
            json,
            bar: watched.then(progress_bar),
            verified: None,
        }
    }

    /// Tells one line. A reader of our output that has gone does not stop it: a repair is not left half done.
    fn tell(&mut self, line: VerifyLine, text: impl FnOnce() -> String) {
        if self.json {
            self.output.line(&text());
        }
        if let (Some(progress), Some(bar)) = (&line.progress, &self.bar) {
            bar.set_length(progress.bytes);
            bar.set_position(progress.bytes_done);
            bar.set_message(format!(
                "{} of {}",
                progress.objects_done,
                count(progress.objects, "object")
            ));
        }
        if let Some(bad) = line.bad.filter(|_| !self.json) {
            let text = told(&bad);
            match &self.bar {
                // The line must not land inside the bar.
                Some(bar) => bar.suspend(|| self.output.line(&text)),
                None => self.output.line(&text),
            }
        }
        self.verified = line.verified.or(self.verified.take());
    }

    /// Tells the summary; `by` is who verified.
    fn end(mut self, by: &str) -> Result<Outcome, Failure> {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        let verified = self.verified.ok_or_else(|| Failure::NoSummary { by: by.to_owned() })?;
        if !self.json {
            self.output.line(&summary(&verified));
        }
        Ok(Outcome::of(verified.repaired >= verified.bad_blocks))
    }
}

fn progress_bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} {bytes_per_sec}, {msg}");
    // A template is only text: what is wrong with it shows when it is first used, and costs the beauty alone.
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0).with_style(style.progress_chars("=> "))
}

fn told(bad: &BadBlock) -> String {
    format!(
        "bad: block {} (bytes {}-{}) of {} [{}]: {}",
        bad.block,
        bad.start,
        bad.end.saturating_sub(1),
        plain(&bad.url),
        plain(&bad.id),
        plain(&bad.what),
    )
}

fn summary(verified: &VerifySummary) -> String {
    let mut text = format!(
        "verified {}, {}: ",
        count(verified.objects, "object"),
        size(verified.bytes)
    );
    match (verified.bad_blocks, verified.repaired) {
        (0, _) => text.push_str("no bad blocks"),
        (bad, 0) => text.push_str(&format!("{}; --repair mends", count(bad, "bad block"))),
        (bad, repaired) => text.push_str(&format!("{}, {repaired} repaired", count(bad, "bad block"))),
    }
    if verified.unchecked_bytes > 0 {
        text.push_str(&format!("; {} have no checksum yet", size(verified.unchecked_bytes)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use millpond::api::VerifyEvent;

    fn outcome(lines: &[&str]) -> Result<Outcome, Failure> {
        let mut output = Output::to(std::io::sink());
        let mut story = Story {
            output: &mut output,
            json: false,
            bar: None,
            verified: None,
        };
        for text in lines {
            story.tell(serde_json::from_str(text).expect("a line"), || (*text).to_owned());
        }
        story.end("the test")
    }

    const PROGRESS: &str = r#"{"progress":{"objects_done":1,"objects":2,"bytes_done":3,"bytes":4}}"#;

    #[test]
    fn a_stream_without_its_summary_is_a_failure() {
        assert!(matches!(outcome(&[]), Err(Failure::NoSummary { .. })));
        assert!(matches!(outcome(&[PROGRESS]), Err(Failure::NoSummary { .. })));
    }

    #[test]
    fn bad_blocks_are_well_only_when_all_are_repaired() {
        for (bad, repaired, wanted) in [
            (0, 0, Outcome::Done),
            (2, 2, Outcome::Done),
            (2, 1, Outcome::Incomplete),
            (1, 0, Outcome::Incomplete),
        ] {
            let line = format!(r#"{{"verified":{{"objects":2,"bytes":4,"bad_blocks":{bad},"repaired":{repaired}}}}}"#);
            let outcome = outcome(&[PROGRESS, r#"{"weather":{"rain":1}}"#, &line]);
            assert_eq!(outcome.ok(), Some(wanted), "{bad} {repaired}");
        }
    }

    #[test]
    fn the_stores_own_lines_read_back_as_the_servers() {
        let check = || {
            VerifyEvent::Bad(BadBlock {
                id: "aa".to_owned(),
                url: "http://h/a".to_owned(),
                block: 3,
                start: 12,
                end: 16,
                what: "its checksum differs".to_owned(),
            })
        };
        let text = serde_json::to_string(&check()).expect("JSON");
        let read: VerifyLine = serde_json::from_str(&text).expect("a line");
        let told = [read, VerifyLine::from(check())].map(|line| line.bad.as_ref().map(told));
        assert_eq!(told[0], told[1]);
        let wanted = "bad: block 3 (bytes 12-15) of http://h/a [aa]: its checksum differs";
        assert_eq!(told[0].as_deref(), Some(wanted));
    }

    #[test]
    fn a_summary_tells_what_could_not_be_checked() {
        let verified = VerifySummary {
            objects: 1,
            bytes: 2048,
            bad_blocks: 1,
            unchecked_bytes: 1024,
            ..VerifySummary::default()
        };
        let wanted = "verified 1 object, 2.0 KiB: 1 bad block; --repair mends; 1.0 KiB have no checksum yet";
        assert_eq!(summary(&verified), wanted);
    }
}
