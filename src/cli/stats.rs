//! `millpond stats`: the server's counters as a table.
//!
//! The server decides what there is to count: fields we know come first and in a sensible order, others
//! behind them under their own names, missing ones are left out.

use super::Outcome;
use super::api::Api;
use super::failure::Failure;
use super::output::{Output, plain};
use super::units::exact_size;
use reqwest::Method;
use serde_json::{Map, Value};

/// The order of the fields we know.
const ORDER: [&str; 16] = [
    "objects",
    "complete",
    "incomplete",
    "pinned",
    "present_bytes",
    "disk_bytes",
    "quota_bytes",
    "reserved_bytes",
    "free_bytes",
    "fills",
    "hits",
    "misses",
    "sent_bytes",
    "evicted",
    "punched_bytes",
    "bad_blocks",
];

pub(super) async fn run(api: &Api, json: bool, output: &mut Output) -> Result<Outcome, Failure> {
    let answer = api.call(Method::GET, "stats", &[]).await?;
    if json {
        output.line(&answer);
        return Ok(Outcome::Done);
    }
    for line in table(&api.read(&answer)?) {
        output.line(&line);
    }
    Ok(Outcome::Done)
}

fn table(stats: &Map<String, Value>) -> Vec<String> {
    let known = ORDER.iter().filter_map(|key| Some((*key, stats.get(*key)?)));
    let others = stats.iter().map(|(key, value)| (key.as_str(), value));
    known
        .chain(others.filter(|(key, _)| !ORDER.contains(key)))
        .map(|(key, value)| {
            let label = key.strip_suffix("_bytes").unwrap_or(key).replace('_', " ");
            format!("{:<12} {}", plain(&label), said(key, value))
        })
        .collect()
}

fn said(key: &str, value: &Value) -> String {
    match (value, value.as_u64()) {
        (_, Some(bytes)) if key.ends_with("_bytes") => exact_size(bytes),
        (Value::Null, _) if key == "quota_bytes" => "none".to_owned(),
        (Value::Null, _) => "unknown".to_owned(),
        (Value::String(text), _) => plain(text),
        (value, _) => plain(&value.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_of_the_api_has_its_place_in_the_table() {
        let stats = serde_json::to_value(millpond::api::Stats::default()).expect("JSON");
        let mut fields: Vec<&str> = stats
            .as_object()
            .expect("an object")
            .keys()
            .map(String::as_str)
            .collect();
        let mut order = ORDER.to_vec();
        fields.sort_unstable();
        order.sort_unstable();
        assert_eq!(fields, order);
    }

    #[test]
    fn known_fields_come_in_order_then_all_others() {
        let stats = serde_json::from_str(
            r#"{"zander":1,"hits":5,"objects":2,"quota_bytes":null,"free_bytes":null,"disk_bytes":2048,"age":{"s":3}}"#,
        );
        assert_eq!(
            table(&stats.expect("an object")),
            [
                "objects      2",
                "disk         2.0 KiB (2048 bytes)",
                "quota        none",
                "free         unknown",
                "hits         5",
                "age          {\"s\":3}",
                "zander       1",
            ]
        );
    }
}
