//! The mounts of a server: upstreams and directories, each under a name of its own, or one of them without a name at `/`.
//!
//! ```text
//! upstream  = ["URL", "NAME=URL"]            directory = ["DIR", "NAME=DIR", "NAME=DIR,writable"]
//! [upstreams.NAME]                           [directories.NAME]
//! url = "URL"                                path = "DIR"
//! and the rules of its own                   and the rules of its own
//! ```
//!
//! A rule that a mount does not have of its own is the setting of the same key. Names are unique over both kinds, since
//! each is the first segment of a path.

use super::mirrors::{self, MIRROR_RULES, MirrorRules, Offline};
use super::parse::{after_last_reader, delivery, list_of_names, size_or_none, truth};
use super::reader::Reader;
use super::units::duration;
use super::{AfterLastReader, Delivery};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;
use url::Url;

/// The keys of an upstream, under `[upstreams.NAME]`.
const UPSTREAM_RULES: &[&str] = &[
    "url",
    "delivery",
    "after_last_reader",
    "ignore_query",
    "drop_cookies",
    "authorization_file",
    "mirror",
    "offline",
];

/// The keys of a directory, under `[directories.NAME]`, for whether it is read-only or not.
const DIRECTORY_RULES: &[&str] = &["path", "writable", "hidden", "new_root"];

/// The keys of a directory that have an effect only where it may be changed.
const WRITABLE_RULES: &[&str] = &[
    "portable",
    "demand_conditions",
    "deep_delete",
    "largest_upload",
    "upload_lifetime",
];

/// A configured upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamConfig {
    /// The tree is served at `/NAME/`; `None` means at `/`.
    pub name: Option<String>,
    /// The URL of the tree; the path ends in a slash.
    pub url: Url,
    /// The way in which its incomplete objects are answered, where not as all others.
    pub delivery: Option<Delivery>,
    /// The policy of its fills without readers, where it has one of its own.
    pub after_last_reader: Option<AfterLastReader>,
    /// Parameters of its queries that are no part of a key, where not as all others.
    pub ignore_query: Option<Vec<String>>,
    /// Whether cookies are taken off requests and replies, where not as all others.
    pub drop_cookies: Option<bool>,
    /// The file whose content is sent to it as `Authorization`, for requests that have none of their own.
    pub authorization_file: Option<PathBuf>,
    /// The paths of its mirrors, not encoded, with a slash at either end.
    pub mirror: Vec<String>,
    /// The rules of its mirrors, where not as of all others.
    pub mirror_rules: MirrorRules,
    /// The rule for while it is away, where not as of all others.
    pub offline: Option<Offline>,
}

/// A directory that is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryConfig {
    /// The directory is served at `/NAME/`; `None` means at `/`.
    pub name: Option<String>,
    /// The directory.
    pub root: PathBuf,
    /// Whether it may be changed.
    pub writable: bool,
    /// Whether names that begin with a dot are shown to all who read.
    pub hidden: bool,
    /// Whether it may be another directory than the one that was served from that path before.
    pub new_root: bool,
    /// Whether names are refused that some systems do not take.
    pub portable: bool,
    /// Whether changes without a condition are refused.
    pub demand_conditions: bool,
    /// Whether collections are removed and replaced with all that is in them.
    pub deep_delete: bool,
    /// The largest file that may be put, in bytes; `None` is no limit.
    pub largest_upload: Option<u64>,
    /// Time that an upload which was not finished can be resumed.
    pub upload_lifetime: Duration,
}

/// A directory, with the rules that it has of its own.
#[derive(Debug)]
pub(super) struct DirectoryRules {
    pub(super) name: Option<String>,
    pub(super) root: PathBuf,
    pub(super) writable: Option<bool>,
    pub(super) hidden: Option<bool>,
    pub(super) new_root: Option<bool>,
    pub(super) portable: Option<bool>,
    pub(super) demand_conditions: Option<bool>,
    pub(super) deep_delete: Option<bool>,
    pub(super) largest_upload: Option<Option<u64>>,
    pub(super) upload_lifetime: Option<Duration>,
}

impl DirectoryRules {
    fn new(name: Option<String>, root: PathBuf) -> Self {
        Self {
            name,
            root,
            writable: None,
            hidden: None,
            new_root: None,
            portable: None,
            demand_conditions: None,
            deep_delete: None,
            largest_upload: None,
            upload_lifetime: None,
        }
    }
}

/// Whether the key is one of a mount's.
pub(super) fn is_rule(key: &str) -> bool {
    let rule_of = |table| rule(key, table).map(|(_, rule)| rule);
    rule_of("upstreams.").is_some_and(|rule| UPSTREAM_RULES.contains(&rule) || MIRROR_RULES.contains(&rule))
        || rule_of("directories.").is_some_and(|rule| DIRECTORY_RULES.contains(&rule) || WRITABLE_RULES.contains(&rule))
}

/// The name of the directory that must be writable for the key to have an effect.
pub(super) fn needs_writable(key: &str) -> Option<&str> {
    let (name, rule) = rule(key, "directories.")?;
    WRITABLE_RULES.contains(&rule).then_some(name)
}

/// The name of the upstream that must have a mirror for the key to have an effect.
pub(super) fn needs_mirror(key: &str) -> Option<&str> {
    let (name, rule) = rule(key, "upstreams.")?;
    MIRROR_RULES.contains(&rule).then_some(name)
}

/// The mount's name and the rule in a key of a table.
fn rule<'a>(key: &'a str, table: &str) -> Option<(&'a str, &'a str)> {
    key.strip_prefix(table)?.rsplit_once('.')
}

/// The names under a table.
fn names(reader: &Reader<'_>, table: &str) -> BTreeSet<String> {
    let keys = reader.layers.keys();
    keys.filter_map(|key| Some(rule(key, table)?.0.to_owned())).collect()
}

/// The upstreams and directories of the layers.
pub(super) fn read(reader: &mut Reader<'_>) -> (Vec<UpstreamConfig>, Vec<DirectoryRules>) {
    let mut taken = Taken::default();
    let mut upstreams = upstreams(reader, &mut taken);
    read_named(reader, &mut upstreams);
    let directories = directories(reader, &mut taken);
    (upstreams, directories)
}

/// The names that mounts have so far.
#[derive(Debug, Default)]
struct Taken(BTreeSet<Option<String>>);

impl Taken {
    /// The name for a mount, or the mistake in it.
    fn take(&mut self, name: Option<&str>) -> Result<Option<String>, String> {
        if let Some(name) = name {
            let plain = name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
            if name.is_empty() || !plain || name.starts_with('.') {
                return Err(format!("{name:?} is not a name; use letters, digits, - and _"));
            }
            if matches!(name, "-" | "http" | "https") {
                return Err(format!("{name:?} is taken: /{name}/ has a meaning of its own"));
            }
        }
        let name = name.map(str::to_owned);
        match (self.0.insert(name.clone()), &name) {
            (true, _) => Ok(name),
            (false, Some(name)) => Err(format!("{name:?} is there twice")),
            (false, None) => {
                Err("only one upstream or directory can be without a name; write NAME=URL or NAME=DIR".to_owned())
            }
        }
    }
}

fn upstreams(reader: &mut Reader<'_>, taken: &mut Taken) -> Vec<UpstreamConfig> {
    let mut found = Vec::new();
    for (source, text) in reader.list("upstream") {
        let (name, url) = split_name(&text);
        match upstream(taken, name, url) {
            Ok(upstream) => found.push(upstream),
            Err(mistake) => reader.mistake(&source, mistake),
        }
    }
    for name in names(reader, "upstreams.") {
        let key = |rule: &str| format!("upstreams.{name}.{rule}");
        let (source, url) = reader
            .list(&key("url"))
            .pop()
            .unwrap_or_else(|| (key("url"), String::new()));
        let delivery = reader.read_own(&key("delivery"), delivery);
        let after_last_reader = reader.read_own(&key("after_last_reader"), after_last_reader);
        let ignore_query = reader.read_own(&key("ignore_query"), list_of_names);
        let drop_cookies = reader.read_own(&key("drop_cookies"), truth);
        let authorization_file = reader.read_own(&key("authorization_file"), mirrors::authorization_file);
        let offline = reader.read_own(&key("offline"), mirrors::offline);
        let mirror = mirrors::read_own(reader, &key("mirror"));
        let mirror_rules = mirrors::read_rules(reader, key);
        match upstream(taken, Some(name.as_str()).filter(|name| !name.is_empty()), &url) {
            Ok(upstream) => found.push(UpstreamConfig {
                delivery,
                after_last_reader,
                ignore_query,
                drop_cookies,
                authorization_file,
                mirror,
                mirror_rules,
                offline,
                ..upstream
            }),
            Err(mistake) => reader.mistake(&source, mistake),
        }
    }
    found
}

/// The mirrors that are named beside the upstreams, each given to its own.
fn read_named(reader: &mut Reader<'_>, upstreams: &mut [UpstreamConfig]) {
    for (source, text) in reader.list("mirror") {
        let (name, rest) = text.split_once('/').unwrap_or((text.as_str(), ""));
        let upstream = upstreams
            .iter_mut()
            .find(|upstream| upstream.name.as_deref().unwrap_or_default() == name);
        let Some(upstream) = upstream else {
            let what = match name {
                "" => format!("{text:?} is of an upstream without a name, and there is none; write NAME/PATH"),
                name => format!(
                    "{text:?} is of the upstream {name:?}, and there is none; name it with --upstream {name}=URL"
                ),
            };
            reader.mistake(&source, what);
            continue;
        };
        match mirrors::path(&format!("/{rest}")) {
            Ok(path) => upstream.mirror.push(path),
            Err(mistake) => reader.mistake(&source, mistake),
        }
    }
    for upstream in upstreams {
        upstream.mirror.sort();
        upstream.mirror.dedup();
    }
}

/// `NAME=URL` where what stands before the first `=` can be a name, so that a URL's query stays whole.
fn split_name(text: &str) -> (Option<&str>, &str) {
    match text.split_once('=') {
        Some((name, rest)) if !name.contains([':', '/', '?']) => (Some(name), rest),
        _ => (None, text),
    }
}

fn upstream(taken: &mut Taken, name: Option<&str>, url: &str) -> Result<UpstreamConfig, String> {
    let name = taken.take(name)?;
    let parsed = Url::parse(url)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let Some(mut url) = parsed else {
        return Err(format!("{url:?} is not a URL that begins with http:// or https://"));
    };
    if url.query().is_some() || url.fragment().is_some() {
        return Err(format!("{url} has a query or fragment; an upstream is a tree"));
    }
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    Ok(UpstreamConfig {
        name,
        url,
        delivery: None,
        after_last_reader: None,
        ignore_query: None,
        drop_cookies: None,
        authorization_file: None,
        mirror: Vec::new(),
        mirror_rules: MirrorRules::default(),
        offline: None,
    })
}

fn directories(reader: &mut Reader<'_>, taken: &mut Taken) -> Vec<DirectoryRules> {
    let mut found = Vec::new();
    for (source, text) in reader.list("directory") {
        let (name, path) = split_name(&text);
        let (path, writable) = match path.rsplit_once(',') {
            Some((path, "writable")) => (path, Some(true)),
            Some((path, "read-only")) => (path, Some(false)),
            _ => (path, None),
        };
        match directory(taken, name, path) {
            Ok(directory) => found.push(DirectoryRules { writable, ..directory }),
            Err(mistake) => reader.mistake(&source, mistake),
        }
    }
    for name in names(reader, "directories.") {
        let key = |rule: &str| format!("directories.{name}.{rule}");
        let (source, path) = reader
            .list(&key("path"))
            .pop()
            .unwrap_or_else(|| (key("path"), String::new()));
        let rules = DirectoryRules {
            writable: reader.read_own(&key("writable"), truth),
            hidden: reader.read_own(&key("hidden"), truth),
            new_root: reader.read_own(&key("new_root"), truth),
            portable: reader.read_own(&key("portable"), truth),
            demand_conditions: reader.read_own(&key("demand_conditions"), truth),
            deep_delete: reader.read_own(&key("deep_delete"), truth),
            largest_upload: reader.read_own(&key("largest_upload"), size_or_none),
            upload_lifetime: reader.read_own(&key("upload_lifetime"), duration),
            ..DirectoryRules::new(None, PathBuf::new())
        };
        match directory(taken, Some(name.as_str()).filter(|name| !name.is_empty()), &path) {
            Ok(DirectoryRules { name, root, .. }) => found.push(DirectoryRules { name, root, ..rules }),
            Err(mistake) => reader.mistake(&source, mistake),
        }
    }
    found
}

fn directory(taken: &mut Taken, name: Option<&str>, path: &str) -> Result<DirectoryRules, String> {
    let name = taken.take(name)?;
    if path.is_empty() {
        return Err("no directory is named; write DIR, NAME=DIR or NAME=DIR,writable".to_owned());
    }
    let root = Path::new(path);
    match std::fs::metadata(root) {
        Ok(metadata) if !metadata.is_dir() => Err(format!("{path:?} is not a directory")),
        // One that was served before is waited for: the way to its mount point may be on a disk, too.
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("{path:?} cannot be served: {error}"))
        }
        _ => Ok(DirectoryRules::new(name, root.to_owned())),
    }
}
