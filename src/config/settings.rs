//! Every setting: its key, its unit, its default, and how its text becomes a value.
//!
//! A `Reader` takes the text of a key from the strongest layer that has it, else the default of its table, and hands it
//! to a function that makes a value or says the mistake in words. A mistake is noted with the name under which the key
//! was given, and reading goes on with a value in its place, so that one start reports all mistakes. `Config::read`
//! returns a configuration only where there was none.

use super::source::{Layers, Mistakes};
use super::table::{ORIGIN_SETTINGS, SETTINGS, Setting};
use super::units;
use super::{AfterLastReader, Delivery};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use url::Url;

/// A configured upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamConfig {
    /// The tree is served at `/NAME/`; `None` means at `/`.
    pub name: Option<String>,
    /// The URL of the tree; the path ends in a slash.
    pub url: Url,
    /// How its incomplete objects are answered, where not as all others.
    pub delivery: Option<Delivery>,
    /// The policy of its fills without readers, where it has one of its own.
    pub after_last_reader: Option<AfterLastReader>,
    /// Parameters of its queries that are no part of a key, where not as all others.
    pub ignore_query: Option<Vec<String>>,
    /// Whether cookies are taken off requests and replies, where not as all others.
    pub drop_cookies: Option<bool>,
}

/// The limits of streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamConfig {
    /// How many run at once.
    pub most: usize,
    /// Media types that are streams, in lower case; `video/*` stands for all of a kind.
    pub types: Vec<String>,
    /// The longest silence of an upstream.
    pub idle: Duration,
    /// How long one goes on that nobody reads.
    pub unattended: Duration,
    /// How long one may last; `None` is no limit.
    pub total: Option<Duration>,
    /// The most that is kept of each, in bytes.
    pub window_bytes: u64,
    /// The most that is kept of each, in time; `None` is no limit.
    pub window_time: Option<Duration>,
    /// Bytes before the present that a listener of media is given first.
    pub burst_bytes: u64,
    /// How long a log is kept after the end of its stream.
    pub lifetime: Duration,
}

/// A whole and valid configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to accept connections; port 0 takes any free one.
    pub listen: SocketAddr,
    /// The data directory.
    pub data: PathBuf,
    /// The configured upstreams; at most one without a name.
    pub upstreams: Vec<UpstreamConfig>,
    /// How incomplete objects are answered.
    pub delivery: Delivery,
    /// Whether clients may name any URL, as `/https/HOST/PATH`.
    pub ad_hoc: bool,
    /// Whether URLs that clients name may lead to private addresses.
    pub allow_private: bool,
    /// The most bytes that objects may take on the disk; `None` is no limit.
    pub quota_bytes: Option<u64>,
    /// Free space to leave in the file system, in bytes; `None` depends on its size.
    pub min_free_bytes: Option<u64>,
    /// The longest that a header waits for the first wanted byte.
    pub header_wait: Duration,
    /// How long readers are held while the upstream fails.
    pub hold_limit: Duration,
    /// How long running answers may take to finish after SIGTERM.
    pub grace: Duration,
    /// The longest that connecting to an upstream may take.
    pub connect_timeout: Duration,
    /// The longest from a request to an upstream to its reply's header.
    pub reply_timeout: Duration,
    /// The longest silence within an upstream's body.
    pub read_idle_timeout: Duration,
    /// The most upstream connections of one object.
    pub sessions_per_object: usize,
    /// The most exchanges at once with one upstream.
    pub connections_per_upstream: usize,
    /// The most requests a second to one upstream.
    pub requests_per_second: Option<u32>,
    /// The most body bytes a second from one upstream.
    pub bytes_per_second: Option<u64>,
    /// How far ahead of a reader is fetched, in time at its own rate; `None` is all.
    pub read_ahead: Option<Duration>,
    /// Parameters of a query that are no part of a key.
    pub ignore_query: Vec<String>,
    /// Whether cookies are taken off requests and replies, so that replies can be shared.
    pub drop_cookies: bool,
    /// Whether pieces under a weak tag are joined where `Last-Modified` is old.
    pub join_weak: bool,
    /// A PEM file of certificate authorities to trust beside the system's.
    pub upstream_ca: Option<PathBuf>,
    /// The policy for a fill whose last reader has left.
    pub after_last_reader: AfterLastReader,
    /// How long an object that says nothing of its freshness is reused without asking.
    pub fresh_for: Duration,
    /// Whether bodies whose end was only a closed connection are reused.
    pub keep_unverified: bool,
    /// The limits of streams.
    pub streams: StreamConfig,
    /// Paths whose requests outlive their clients; one that ends in `*` stands for all that begin so.
    pub detach: Vec<String>,
    /// Threads that serve connections.
    pub workers: usize,
    /// The log filter, as `tracing` directives.
    pub log: String,
}

/// The settings of one upstream, under `[upstreams.NAME]`.
const RULES: &[&str] = &["url", "delivery", "after_last_reader", "ignore_query", "drop_cookies"];

/// Every setting with its default and meaning, for `millpond config` and the manual.
pub fn describe() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    let upstream = ("upstream", "", "URL or NAME=URL, any number: served at / or /NAME/");
    all_settings()
        .map(|setting| (setting.key, setting.default, setting.says))
        .chain([upstream])
}

fn all_settings() -> impl Iterator<Item = &'static Setting> {
    SETTINGS.iter().chain(ORIGIN_SETTINGS)
}

pub(super) struct Reader<'a> {
    pub(super) layers: &'a Layers,
    pub(super) mistakes: Vec<String>,
}

impl<'a> Reader<'a> {
    pub(super) fn of(layers: &'a Layers) -> Self {
        Self {
            layers,
            mistakes: layers.mistakes().to_vec(),
        }
    }

    /// The setting's text, with the name that it goes by.
    pub(super) fn text(&self, key: &str) -> (String, String) {
        if let Some((name, values)) = self.layers.find(key) {
            return (name, values.last().cloned().unwrap_or_default());
        }
        let default = all_settings()
            .find(|setting| setting.key == key)
            .map_or("", |setting| setting.default);
        (key.to_owned(), default.to_owned())
    }

    /// The setting's value; a mistake is noted and `spare` goes on in its place.
    pub(super) fn read<T>(&mut self, key: &str, spare: T, parse: impl FnOnce(&str) -> Result<T, String>) -> T {
        let (name, text) = self.text(key);
        parse(text.trim()).unwrap_or_else(|mistake| {
            self.mistakes.push(format!("{name}: {text:?} {mistake}"));
            spare
        })
    }

    /// The setting of one upstream, where it has one of its own.
    fn rule<T>(
        &mut self,
        upstream: &str,
        key: &str,
        spare: T,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let key = format!("upstreams.{upstream}.{key}");
        self.layers.find(&key).is_some().then(|| self.read(&key, spare, parse))
    }

    pub(super) fn duration(&mut self, key: &str) -> Duration {
        self.read(key, Duration::ZERO, units::duration)
    }

    pub(super) fn truth(&mut self, key: &str) -> bool {
        self.read(key, false, truth)
    }

    pub(super) fn listen(&mut self) -> SocketAddr {
        self.read("listen", SocketAddr::from(([127, 0, 0, 1], 8080)), |text| {
            text.parse()
                .map_err(|_| "is not an address with a port, like 127.0.0.1:8080 or [::]:8080".to_owned())
        })
    }

    pub(super) fn workers(&mut self) -> usize {
        self.read("workers", 1, |text| match text {
            "auto" => Ok(std::thread::available_parallelism().map_or(1, usize::from)),
            text => number(text, 256),
        })
    }

    pub(super) fn min_free(&mut self) -> Option<u64> {
        self.read("min_free", None, |text| match text {
            "auto" => Ok(None),
            text => units::bytes(text).map(Some),
        })
    }
}

impl Config {
    /// Reads all settings out of the layers.
    ///
    /// # Errors
    /// All mistakes at once, each with the name of its setting where it was made and with the unit.
    pub fn read(layers: &Layers) -> Result<Self, Mistakes> {
        let mut reader = Reader::of(layers);
        let listen = reader.listen();
        let config = Self {
            listen,
            data: reader.read("data", PathBuf::new(), data_directory),
            delivery: reader.read("delivery", Delivery::Follow, delivery),
            ad_hoc: reader.read("ad_hoc", false, |text| match text {
                "auto" => Ok(listen.ip().is_loopback()),
                text => truth(text).map_err(|_| "is not true, false or auto".to_owned()),
            }),
            allow_private: reader.truth("allow_private"),
            quota_bytes: reader.read("quota", None, |text| match text {
                "none" => Ok(None),
                text => units::bytes(text).map(Some),
            }),
            min_free_bytes: reader.min_free(),
            header_wait: reader.duration("header_wait"),
            hold_limit: reader.duration("hold_limit"),
            grace: reader.duration("grace"),
            connect_timeout: reader.duration("connect_timeout"),
            reply_timeout: reader.duration("reply_timeout"),
            read_idle_timeout: reader.duration("read_idle_timeout"),
            sessions_per_object: reader.read("sessions_per_object", 1, |text| number(text, 64)),
            connections_per_upstream: reader.read("connections_per_upstream", 1, |text| number(text, 256)),
            requests_per_second: reader.read("requests_per_second", None, |text| match text {
                "none" => Ok(None),
                text => number(text, 100_000).map(|rate| u32::try_from(rate).ok()),
            }),
            bytes_per_second: reader.read("bytes_per_second", None, |text| match text {
                "none" => Ok(None),
                text => units::bytes(text).and_then(|rate| match rate {
                    0 => Err("would let nothing through; write a size like 20MB, or none".to_owned()),
                    rate => Ok(Some(rate)),
                }),
            }),
            read_ahead: reader.read("read_ahead", None, |text| match text {
                "all" => Ok(None),
                text => units::duration(text).map(Some),
            }),
            after_last_reader: reader.read("after_last_reader", AfterLastReader::Complete, after_last_reader),
            ignore_query: reader.read("ignore_query", Vec::new(), |text| Ok(list_of_names(text))),
            drop_cookies: reader.truth("drop_cookies"),
            join_weak: reader.truth("join_weak"),
            upstream_ca: reader.read("upstream_ca", None, |text| match text {
                "none" => Ok(None),
                "" => Err("is empty; name a PEM file, or none".to_owned()),
                text => Ok(Some(PathBuf::from(text))),
            }),
            fresh_for: reader.duration("fresh_for"),
            keep_unverified: reader.truth("keep_unverified"),
            streams: StreamConfig::read(&mut reader),
            detach: reader.read("detach", Vec::new(), |text| {
                let paths = list_of_names(text);
                match paths.iter().find(|path| !path.starts_with('/')) {
                    Some(path) => Err(format!("has {path:?}, which is no path; write /NAME/PATH or /PATH*")),
                    None => Ok(paths),
                }
            }),
            workers: reader.workers(),
            log: reader.read("log", String::new(), |text| Ok(text.to_owned())),
            upstreams: upstreams(&mut reader),
        };
        unknown_keys(&mut reader);
        if reader.mistakes.is_empty() {
            Ok(config)
        } else {
            Err(Mistakes(reader.mistakes))
        }
    }
}

impl StreamConfig {
    fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            most: reader.read("streams", 1, |text| number(text, 10_000)),
            types: reader.read("stream_types", Vec::new(), |text| {
                Ok(list_of_names(&text.to_ascii_lowercase()))
            }),
            idle: reader.duration("stream_idle"),
            unattended: reader.duration("stream_unattended"),
            total: reader.read("stream_total", None, duration_or_none),
            window_bytes: reader.read("stream_window", LEAST_WINDOW, |text| match units::bytes(text)? {
                bytes if bytes < LEAST_WINDOW => Err("is too little to read along; write 1MiB or more".to_owned()),
                bytes => Ok(bytes),
            }),
            window_time: reader.read("stream_window_time", None, duration_or_none),
            burst_bytes: reader.read("stream_burst", 0, units::bytes),
            lifetime: reader.duration("stream_lifetime"),
        }
    }
}

/// A window must hold what is on its way between the upstream and a reader. A judgement: a second of 8 Mbit/s.
const LEAST_WINDOW: u64 = 1 << 20;

fn duration_or_none(text: &str) -> Result<Option<Duration>, String> {
    match text {
        "none" => Ok(None),
        text => units::duration(text).map(Some),
    }
}

fn truth(text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err("is not true or false".to_owned()),
    }
}

fn number(text: &str, most: usize) -> Result<usize, String> {
    let in_bounds = text.parse().ok().filter(|number| (1..=most).contains(number));
    in_bounds.ok_or_else(|| format!("is not a number from 1 to {most}"))
}

fn delivery(text: &str) -> Result<Delivery, String> {
    match text {
        "follow" => Ok(Delivery::Follow),
        "capped" => Ok(Delivery::Capped),
        _ => Err("is not follow or capped".to_owned()),
    }
}

fn after_last_reader(text: &str) -> Result<AfterLastReader, String> {
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
fn list_of_names(text: &str) -> Vec<String> {
    text.split([',', ' ', '\t'])
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
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

/// `upstream = ["URL", "NAME=URL"]`, and `[upstreams.NAME]` with the [`RULES`].
fn upstreams(reader: &mut Reader<'_>) -> Vec<UpstreamConfig> {
    let mut found: Vec<UpstreamConfig> = Vec::new();
    let listed = reader
        .layers
        .find("upstream")
        .map(|(name, values)| (name, values.to_vec()));
    for (source, text) in listed
        .iter()
        .flat_map(|(name, values)| values.iter().map(move |value| (name, value)))
    {
        let (name, url) = split_name(text);
        add_upstream(reader, &mut found, source, name, url);
    }
    let names: std::collections::BTreeSet<String> = reader
        .layers
        .keys()
        .filter_map(|key| Some(key.strip_prefix("upstreams.")?.rsplit_once('.')?.0.to_owned()))
        .collect();
    for name in names {
        let (source, url) = reader.text(&format!("upstreams.{name}.url"));
        let unnamed = name.is_empty();
        let before = found.len();
        add_upstream(reader, &mut found, &source, (!unnamed).then_some(name.as_str()), &url);
        let delivery = reader.rule(&name, "delivery", Delivery::Follow, delivery);
        let after = reader.rule(&name, "after_last_reader", AfterLastReader::Complete, after_last_reader);
        let ignored = reader.rule(&name, "ignore_query", Vec::new(), |text| Ok(list_of_names(text)));
        let drop_cookies = reader.rule(&name, "drop_cookies", false, truth);
        if let Some(upstream) = found.get_mut(before) {
            upstream.drop_cookies = drop_cookies;
            upstream.delivery = delivery;
            upstream.after_last_reader = after;
            upstream.ignore_query = ignored;
        }
    }
    found
}

/// `NAME=URL` where what stands before the first `=` can be a name, so that a URL's query stays whole.
fn split_name(text: &str) -> (Option<&str>, &str) {
    match text.split_once('=') {
        Some((name, url)) if !name.contains([':', '/', '?']) => (Some(name), url),
        _ => (None, text),
    }
}

fn add_upstream(reader: &mut Reader<'_>, found: &mut Vec<UpstreamConfig>, source: &str, name: Option<&str>, url: &str) {
    let mut mistake = |what: String| reader.mistakes.push(format!("{source}: {what}"));
    if let Some(name) = name {
        let plain = name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if name.is_empty() || !plain || name.starts_with('.') {
            return mistake(format!("{name:?} is not a name; use letters, digits, - and _"));
        }
        if matches!(name, "-" | "http" | "https") {
            return mistake(format!("{name:?} is taken: /{name}/ has a meaning of its own"));
        }
    }
    if found.iter().any(|other| other.name.as_deref() == name) {
        return mistake(match name {
            Some(name) => format!("{name:?} is there twice"),
            None => "only one upstream can be without a name; write NAME=URL".to_owned(),
        });
    }
    let parsed = Url::parse(url)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let Some(mut url) = parsed else {
        return mistake(format!("{url:?} is not a URL that begins with http:// or https://"));
    };
    if url.query().is_some() || url.fragment().is_some() {
        return mistake(format!("{url} has a query or fragment; an upstream is a tree"));
    }
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    found.push(UpstreamConfig {
        name: name.map(str::to_owned),
        url,
        delivery: None,
        after_last_reader: None,
        ignore_query: None,
        drop_cookies: None,
    });
}

/// Whether a setting has that key, of whichever server.
pub(super) fn is_setting(key: &str) -> bool {
    key == "upstream"
        || key == "config"
        || all_settings().any(|setting| setting.key == key)
        || key
            .strip_prefix("upstreams.")
            .and_then(|rest| rest.rsplit_once('.'))
            .is_some_and(|(_, rule)| RULES.contains(&rule))
}

pub(super) fn unknown_keys(reader: &mut Reader<'_>) {
    let unknown = reader.layers.unknown(false);
    let mistake = |name| format!("{name}: there is no such setting; `millpond config show` lists them");
    reader.mistakes.extend(unknown.map(mistake));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(flags: &[(&str, &str)], variables: &[(&str, &str)], toml: &str) -> Layers {
        let mut layers = Layers::new();
        layers.add_flags(
            flags
                .iter()
                .map(|(key, value)| ((*key).to_owned(), vec![(*value).to_owned()])),
        );
        layers.add_environment(
            variables
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned())),
        );
        layers.add_toml(toml, "pond.toml");
        layers
    }

    #[test]
    fn flags_outrank_variables_and_variables_the_file() {
        let toml = "grace = \"1s\"\nhold_limit = \"1s\"\nheader_wait = \"1s\"\ndata = \"/d\"";
        let variables = [
            ("MILLPOND_GRACE", "2s"),
            ("MILLPOND_HOLD_LIMIT", "2s"),
            ("PATH", "/bin"),
        ];
        let config = Config::read(&layers(&[("grace", "3s")], &variables, toml)).expect("valid");
        let seconds = [config.grace, config.hold_limit, config.header_wait].map(|time| time.as_secs());
        assert_eq!(seconds, [3, 2, 1]);
    }

    #[test]
    fn all_mistakes_are_reported_at_once_with_key_and_unit() {
        let flags = [("listen", "nowhere"), ("quota", "50 bananas"), ("data", "/d")];
        let variables = [("MILLPOND_GRACE", "30")];
        let toml = "speed = 11\ndelivery = \"later\"\nupstream = [\"ftp://h/\", \"http=http://h/\"]\n";
        let mistakes = Config::read(&layers(&flags, &variables, toml)).expect_err("invalid").0;
        for (key, mend) in [
            ("--listen", "port"),
            ("--quota", "50GiB"),
            ("MILLPOND_GRACE", "unit"),
            ("speed in the configuration file", "no such setting"),
            ("delivery in the configuration file", "follow or capped"),
            ("upstream in", "http://"),
            ("upstream in", "taken"),
        ] {
            assert!(
                mistakes.iter().any(|line| line.contains(key) && line.contains(mend)),
                "{key}: {mistakes:#?}"
            );
        }
        assert_eq!(mistakes.len(), 7, "{mistakes:#?}");
    }

    #[test]
    fn an_unknown_variable_is_a_warning_and_no_mistake() {
        let variables = [
            ("MILLPOND_PORT", "tcp://10.0.0.1:80"),
            ("MILLPOND_GRACE", "2s"),
            ("HOME", "/"),
        ];
        let layers = layers(&[("data", "/d")], &variables, "");
        assert_eq!(Config::read(&layers).expect("valid").grace.as_secs(), 2);
        let warnings = layers.warnings();
        assert!(
            warnings.len() == 1 && warnings[0].contains("MILLPOND_PORT"),
            "{warnings:?}"
        );
    }

    #[test]
    fn upstreams_are_named_or_not_and_their_queries_are_no_names() {
        let toml = "data = \"/d\"\nupstream = [\"http://h/a?b=c\", \"films=http://h/x\"]\n[upstreams.shows]\nurl = \"http://s\"\ndelivery = \"capped\"";
        let mistakes = Config::read(&layers(&[], &[], toml)).expect_err("a query").0;
        assert!(mistakes.len() == 1 && mistakes[0].contains("query"), "{mistakes:#?}");
        let config = Config::read(&layers(&[], &[], &toml.replace("?b=c", ""))).expect("valid");
        let names: Vec<_> = config
            .upstreams
            .iter()
            .map(|upstream| upstream.name.as_deref())
            .collect();
        assert_eq!(names, [None, Some("films"), Some("shows")]);
        assert_eq!(config.upstreams[0].url.path(), "/a/");
        assert_eq!(config.upstreams[2].delivery, Some(Delivery::Capped));
    }

    #[test]
    fn any_url_is_served_on_loopback_only() {
        let ad_hoc = |listen| {
            let layers = layers(&[("listen", listen), ("data", "/d")], &[], "");
            Config::read(&layers).expect("valid").ad_hoc
        };
        assert!(ad_hoc("127.0.0.1:0") && ad_hoc("[::1]:0"));
        assert!(!ad_hoc("0.0.0.0:0"));
    }
}
