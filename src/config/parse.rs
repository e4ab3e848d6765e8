//! Texts of settings as values.
//!
//! Each function takes the trimmed text of a setting and makes its value, or says in words what is wrong with it and
//! what to write instead. The words follow the setting's name and text: `--grace: "30" is not a length of time; …`.
//! A function sees no other setting; what settings owe each other is compared when all are read (`check.rs`).

use super::{AfterLastReader, Delivery, ListenAddress, QuotaSetting, units};
use std::path::PathBuf;
use std::time::Duration;

/// The least window of a stream: it must hold what is on its way between the upstream and a reader. A judgement: a
/// second of 8 Mbit/s.
const LEAST_WINDOW: u64 = 1 << 20;

/// The most requests a second that one upstream can be promised. A judgement: more is no limit.
const MOST_REQUESTS: usize = 100_000;

/// The most threads that serve connections. A judgement: more than any machine has processors for.
const MOST_WORKERS: usize = 256;

pub(super) fn text(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

pub(super) fn truth(text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err("is not true or false".to_owned()),
    }
}

/// `None` for `auto`.
pub(super) fn truth_or_auto(text: &str) -> Result<Option<bool>, String> {
    match text {
        "auto" => Ok(None),
        text => truth(text)
            .map(Some)
            .map_err(|_| "is not true, false or auto".to_owned()),
    }
}

pub(super) fn number(text: &str, most: usize) -> Result<usize, String> {
    let in_bounds = text.parse().ok().filter(|number| (1..=most).contains(number));
    in_bounds.ok_or_else(|| format!("is not a number from 1 to {most}"))
}

/// `None` for `auto`.
pub(super) fn number_or_auto(text: &str, most: usize) -> Result<Option<usize>, String> {
    match text {
        "auto" => Ok(None),
        text => number(text, most).map(Some),
    }
}

pub(super) fn workers(text: &str) -> Result<usize, String> {
    match text {
        "auto" => Ok(std::thread::available_parallelism().map_or(1, usize::from)),
        text => number(text, MOST_WORKERS),
    }
}

pub(super) fn rate(text: &str) -> Result<Option<u32>, String> {
    match text {
        "none" => Ok(None),
        text => number(text, MOST_REQUESTS).map(|rate| u32::try_from(rate).ok()),
    }
}

pub(super) fn size_or_none(text: &str) -> Result<Option<u64>, String> {
    match text {
        "none" => Ok(None),
        text => units::bytes(text).map(Some),
    }
}

pub(super) fn quota(text: &str) -> Result<QuotaSetting, String> {
    match text {
        "auto" => Ok(QuotaSetting::Auto),
        text => Ok(size_or_none(text)?.map_or(QuotaSetting::None, QuotaSetting::Bytes)),
    }
}

pub(super) fn duration_or_none(text: &str) -> Result<Option<Duration>, String> {
    match text {
        "none" => Ok(None),
        text => units::duration(text).map(Some),
    }
}

pub(super) fn window(text: &str) -> Result<u64, String> {
    match units::bytes(text)? {
        bytes if bytes < LEAST_WINDOW => Err("is too little to read along; write 1MiB or more".to_owned()),
        bytes => Ok(bytes),
    }
}

pub(super) fn delivery(text: &str) -> Result<Delivery, String> {
    match text {
        "follow" => Ok(Delivery::Follow),
        "capped" => Ok(Delivery::Capped),
        _ => Err("is not follow or capped".to_owned()),
    }
}

pub(super) fn after_last_reader(text: &str) -> Result<AfterLastReader, String> {
    let mistake = || "is not complete, stop or finish:PERCENT%,SIZE (like finish:80%,100MiB)".to_owned();
    match text {
        "complete" => Ok(AfterLastReader::Complete),
        "stop" => Ok(AfterLastReader::Stop),
        text => {
            let (percent, size) = text
                .strip_prefix("finish:")
                .and_then(|bounds| bounds.split_once(','))
                .ok_or_else(mistake)?;
            let percent = percent
                .trim()
                .strip_suffix('%')
                .and_then(|percent| percent.parse().ok());
            Ok(AfterLastReader::Finish {
                percent: percent
                    .filter(|percent| (1..=100).contains(percent))
                    .ok_or_else(mistake)?,
                bytes: units::bytes(size.trim()).map_err(|_| mistake())?,
            })
        }
    }
}

/// Names between commas or white space.
fn names(text: &str) -> impl Iterator<Item = &str> {
    text.split([',', ' ', '\t']).filter(|name| !name.is_empty())
}

pub(super) fn list_of_names(text: &str) -> Result<Vec<String>, String> {
    Ok(names(text).map(str::to_owned).collect())
}

pub(super) fn lower_case_names(text: &str) -> Result<Vec<String>, String> {
    list_of_names(&text.to_ascii_lowercase())
}

pub(super) fn paths(text: &str) -> Result<Vec<String>, String> {
    match names(text).find(|path| !path.starts_with('/')) {
        Some(path) => Err(format!("has {path:?}, which is no path; write /NAME/PATH or /PATH*")),
        None => list_of_names(text),
    }
}

pub(super) fn host_names(text: &str) -> Result<Vec<String>, String> {
    let is_name = |name: &str| {
        let host = name.strip_prefix("*.").unwrap_or(name);
        let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        !host.trim_matches('.').is_empty() && host.bytes().all(is_letter)
    };
    match names(text).find(|name| !is_name(name)) {
        Some(name) => Err(format!(
            "has {name:?}, which is no host; write NAME or *.NAME, without a port"
        )),
        None => lower_case_names(text),
    }
}

pub(super) fn listen_addresses(text: &str) -> Result<Vec<ListenAddress>, String> {
    let mut addresses = Vec::new();
    for name in names(text) {
        let address = match name.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => ListenAddress::Unix(PathBuf::from(path)),
            Some(_) => return Err(format!("has {name:?}, whose path is not absolute; write unix:/PATH")),
            None => ListenAddress::Tcp(name.parse().map_err(|_| {
                format!("has {name:?}, which is not an address with a port, like 127.0.0.1:8080 or [::]:8080")
            })?),
        };
        // Port 0 may stand there twice: each takes another port.
        let is_free_port = matches!(address, ListenAddress::Tcp(address) if address.port() == 0);
        if addresses.contains(&address) && !is_free_port {
            return Err(format!("has {name:?} twice"));
        }
        addresses.push(address);
    }
    match addresses.is_empty() {
        true => Err("is empty; name an address with a port, like 127.0.0.1:8080".to_owned()),
        false => Ok(addresses),
    }
}

pub(super) fn file_or_none(text: &str) -> Result<Option<PathBuf>, String> {
    match text {
        "none" => Ok(None),
        "" => Err("is empty; name a file, or none".to_owned()),
        text => Ok(Some(PathBuf::from(text))),
    }
}

pub(super) fn data_directory(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("is empty; name a directory".to_owned());
    }
    if text != "auto" {
        return Ok(PathBuf::from(text));
    }
    let set = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    set("XDG_CACHE_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".cache")))
        .map(|cache| cache.join("millpond"))
        .ok_or_else(|| "needs HOME or XDG_CACHE_HOME; name a directory instead".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_stands_without_scheme_and_port() {
        assert_eq!(
            host_names("Nas *.lan.example").expect("valid"),
            ["nas", "*.lan.example"]
        );
        for text in ["nas:8080", "http://nas", "*", "a/b", "*.", "café"] {
            assert!(host_names(text).is_err(), "{text}");
        }
    }

    #[test]
    fn several_addresses_are_listened_at_and_a_mistaken_one_is_named() {
        let read = listen_addresses("127.0.0.1:0, [::1]:0 unix:/run/pond.sock").expect("valid");
        assert_eq!(read.len(), 3);
        assert!(read[0].is_loopback() && read[1].is_loopback() && !read[2].is_loopback());
        for (text, part) in [
            ("", "empty"),
            ("nowhere", "nowhere"),
            ("127.0.0.1:80 films", "films"),
            ("unix:pond.sock", "not absolute"),
            ("127.0.0.1:80,127.0.0.1:80", "twice"),
        ] {
            let mistake = listen_addresses(text).expect_err("mistaken");
            assert!(mistake.contains(part), "{text}: {mistake}");
        }
    }
}
