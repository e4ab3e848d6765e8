//! Mirrors: the subtrees of upstreams that are kept here whole, and what is served of an upstream that is away.
//!
//! ```text
//! mirror = ["NAME/PATH", "/PATH"]        [upstreams.NAME]
//!                                        mirror = ["/PATH", …]
//! ```
//!
//! A path is given as people write it, not encoded: `/my films/` is that name. Of several rules over one path the longest
//! counts. What a mirror does with its members is a setting, which an upstream may have of its own.

use super::parse::{number, size_or_none, truth};
use super::reader::Reader;
use super::units::duration;
use std::path::PathBuf;
use std::time::Duration;

/// The shortest interval between two walks: a judgement. A tree that changes faster is read through the cache.
const LEAST_INTERVAL: Duration = Duration::from_secs(10);

/// The keys of an upstream that have an effect only beside `mirror`.
pub(super) const MIRROR_RULES: &[&str] = &[
    "listing",
    "mirror_when",
    "mirror_depth",
    "mirror_largest",
    "mirror_exclude",
    "pin_mirrors",
];

/// A format of listings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ListingFormat {
    /// Our own JSON.
    Millpond,
    /// The JSON of Caddy's `file_server browse`.
    Caddy,
    /// The JSON of nginx's `autoindex_format json`.
    NginxJson,
    /// The page of nginx's `autoindex`.
    NginxHtml,
    /// The page of Apache's `mod_autoindex`, plain or as a table.
    ApacheHtml,
    /// The page of lighttpd's `mod_dirlisting`.
    LighttpdHtml,
    /// The page of Python's `http.server`.
    PythonHtml,
    /// The page of `rclone serve`.
    RcloneHtml,
    /// The answer to a PROPFIND of depth 1 (RFC 4918 §9.1).
    Webdav,
    /// The answer of S3's ListObjectsV2.
    S3,
}

impl ListingFormat {
    /// All formats, in the order in which they are tried.
    pub const ALL: [Self; 10] = [
        Self::Millpond,
        Self::Caddy,
        Self::NginxJson,
        Self::NginxHtml,
        Self::ApacheHtml,
        Self::LighttpdHtml,
        Self::PythonHtml,
        Self::RcloneHtml,
        Self::Webdav,
        Self::S3,
    ];

    /// The name of the format, as settings and reports have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Millpond => "millpond",
            Self::Caddy => "caddy",
            Self::NginxJson => "nginx-json",
            Self::NginxHtml => "nginx-html",
            Self::ApacheHtml => "apache-html",
            Self::LighttpdHtml => "lighttpd-html",
            Self::PythonHtml => "python-html",
            Self::RcloneHtml => "rclone-html",
            Self::Webdav => "webdav",
            Self::S3 => "s3",
        }
    }

    /// The format of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    /// Whether an unchanged member of such a listing is an unchanged file: size and time are exact.
    pub fn is_precise(self) -> bool {
        !self.is_html()
    }

    /// Whether it is a page that is made for people.
    pub fn is_html(self) -> bool {
        matches!(
            self,
            Self::NginxHtml | Self::ApacheHtml | Self::LighttpdHtml | Self::PythonHtml | Self::RcloneHtml
        )
    }
}

/// When a mirror is walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MirrorWhen {
    /// By order alone; a request beneath it is to be one, and is not yet.
    Access,
    /// At this interval, and by order.
    Every(Duration),
}

/// The rule for what is served of an upstream that is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offline {
    /// Serves what is stored, unless its reply forbids that (`must-revalidate`, `no-cache`).
    Serve,
    /// Serves what is stored, whatever its reply says.
    Always,
    /// Only what the reply allows: `stale-if-error` (RFC 5861 §4).
    Refuse,
}

/// The rules of an upstream's mirrors, where it has them of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MirrorRules {
    /// The format of its listings; it is found out where none is named.
    pub listing: Option<ListingFormat>,
    /// When they are walked.
    pub when: Option<MirrorWhen>,
    /// The deepest collection that is walked, the mirror's own being 0.
    pub depth: Option<usize>,
    /// The largest file that is kept, in bytes.
    pub largest: Option<Option<u64>>,
    /// Names that are not kept: `*` stands for any letters.
    pub exclude: Option<Vec<String>>,
    /// Whether what is mirrored is never evicted.
    pub pin: Option<bool>,
}

/// The settings of a mirror.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MirrorSettings {
    /// The format of its listings; it is found out where none is named.
    pub listing: Option<ListingFormat>,
    /// When it is walked.
    pub when: MirrorWhen,
    /// The deepest collection that is walked, the mirror's own being 0.
    pub depth: usize,
    /// The largest file that is kept, in bytes; `None` is no limit.
    pub largest: Option<u64>,
    /// Names that are not kept: `*` stands for any letters.
    pub exclude: Vec<String>,
    /// Whether what is mirrored is never evicted.
    pub pin: bool,
}

/// The rules of the upstream of that name.
pub(super) fn read_rules(reader: &mut Reader<'_>, key: impl Fn(&str) -> String) -> MirrorRules {
    MirrorRules {
        listing: reader.read_own(&key("listing"), listing),
        when: reader.read_own(&key("mirror_when"), when),
        depth: reader.read_own(&key("mirror_depth"), depth),
        largest: reader.read_own(&key("mirror_largest"), size_or_none),
        exclude: reader.read_own(&key("mirror_exclude"), patterns),
        pin: reader.read_own(&key("pin_mirrors"), truth),
    }
}

/// The mirrors that an upstream's own list names.
pub(super) fn read_own(reader: &mut Reader<'_>, key: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for (source, text) in reader.list(key) {
        match path(&text) {
            Ok(path) => paths.push(path),
            Err(mistake) => reader.mistake(&source, mistake),
        }
    }
    paths
}

/// A path of a mirror, with a slash at either end.
pub(super) fn path(text: &str) -> Result<String, String> {
    let text = text.trim();
    let Some(inner) = text.strip_prefix('/') else {
        return Err(format!(
            "{text:?} is no path; write /PATH/, or / for all of the upstream"
        ));
    };
    let inner = inner.strip_suffix('/').unwrap_or(inner);
    let is_name = |name: &str| !matches!(name, "" | "." | "..") && !name.contains(['\\', '\0']);
    match text == "/" || inner.split('/').all(is_name) {
        true if text == "/" => Ok("/".to_owned()),
        true => Ok(format!("/{inner}/")),
        false => Err(format!(
            "{text:?} has a name that is empty, a dot or two; write it as the upstream has it"
        )),
    }
}

fn listing(text: &str) -> Result<ListingFormat, String> {
    ListingFormat::named(text).ok_or_else(|| {
        let all: Vec<&str> = ListingFormat::ALL.iter().map(|format| format.name()).collect();
        format!("is no format of listings; write one of {}", all.join(", "))
    })
}

pub(super) fn when(text: &str) -> Result<MirrorWhen, String> {
    if text == "access" {
        return Ok(MirrorWhen::Access);
    }
    match duration(text).map_err(|_| "is not access, nor an interval like 1h or 15m".to_owned())? {
        interval if interval < LEAST_INTERVAL => Err("is too often; write 10s or more".to_owned()),
        interval => Ok(MirrorWhen::Every(interval)),
    }
}

pub(super) fn depth(text: &str) -> Result<usize, String> {
    match text {
        "0" => Ok(0),
        text => number(text, 128),
    }
}

pub(super) fn offline_or_auto(text: &str) -> Result<Option<Offline>, String> {
    match text {
        "auto" => Ok(None),
        text => offline(text).map(Some),
    }
}

pub(super) fn offline(text: &str) -> Result<Offline, String> {
    match text {
        "serve" => Ok(Offline::Serve),
        "always" => Ok(Offline::Always),
        "refuse" => Ok(Offline::Refuse),
        _ => Err("is not serve, always or refuse".to_owned()),
    }
}

/// Patterns of names, separated by commas: a name may have spaces.
pub(super) fn patterns(text: &str) -> Result<Vec<String>, String> {
    let patterns = text.split(',').map(str::trim).filter(|pattern| !pattern.is_empty());
    let patterns: Vec<String> = patterns.map(str::to_owned).collect();
    match patterns.iter().find(|pattern| pattern.contains('/')) {
        Some(pattern) => Err(format!("has {pattern:?}; a pattern is of one name, without a slash")),
        None => Ok(patterns),
    }
}

/// The file in which an upstream's credential stands.
pub(super) fn authorization_file(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    match std::fs::metadata(&path) {
        Ok(metadata) if metadata.is_file() => Ok(path),
        Ok(_) => Err("is not a file".to_owned()),
        Err(error) => Err(format!("cannot be read: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_a_mirror_has_a_slash_at_either_end() {
        for (text, read) in [("/", "/"), ("/a", "/a/"), ("/my films/é/", "/my films/é/")] {
            assert_eq!(path(text).as_deref(), Ok(read), "{text}");
        }
        for text in ["", "a", "//", "/a//b", "/../b", "/."] {
            assert!(path(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_interval_is_no_shorter_than_a_walk_takes() {
        assert_eq!(when("access"), Ok(MirrorWhen::Access));
        assert_eq!(when("1h"), Ok(MirrorWhen::Every(Duration::from_secs(3600))));
        assert!(when("1s").is_err() && when("often").is_err());
    }
}
