//! The settings with one value each: an entry here is all that a setting is.
//!
//! From an entry the macro `settings` makes the field of [`Config`], its reading, the flag of the command line, the line
//! of `millpond config show`, and the row of docs/configuration.md, which a test compares. The text of an entry is
//! Markdown; the command line shows it without links and backticks. A default is text and read like any other value,
//! so it is checked by the same rules and shown as an operator would write it; `auto` stands for a value that depends
//! on the machine or on other settings.

use super::mirrors::{MirrorWhen, Offline, depth, offline_or_auto, patterns, when};
use super::mounts::{DirectoryConfig, UpstreamConfig};
use super::parse::{
    after_last_reader, data_directory, delivery, duration_or_none, file_or_none, host_names, list_of_names,
    listen_addresses, lower_case_names, number, number_or_auto, paths, quota, rate, size_or_none, text, truth,
    truth_or_auto, window, workers,
};
use super::reader::Reader;
use super::units::{bytes, duration};
use super::{AfterLastReader, Delivery, ListenAddress, Networks, PublicUrl, QuotaSetting, TrustedProxies};
use std::path::PathBuf;
use std::time::Duration;

/// The part of a server without which a setting has no effect: where it is missing, the setting is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// No part: every server has the setting.
    Nothing,
    /// An upstream, or any-URL requests.
    Cache,
    /// A configured upstream.
    Upstream,
    /// An upstream with a mirror.
    Mirror,
    /// A directory that is served.
    Directory,
    /// A directory that may be changed.
    WritableDirectory,
}

/// A setting, as commands and the manual show it.
#[derive(Debug)]
pub struct Setting {
    /// The key in the file; the flag and the variable are made of it.
    pub key: &'static str,
    /// The default, as an operator would write it.
    pub default: &'static str,
    /// The form of a value, for the help: empty for true and false.
    pub form: &'static str,
    /// The meaning, in Markdown.
    pub says: &'static str,
    /// The part of a server that it needs.
    pub needs: Needs,
}

impl Setting {
    /// The meaning without the marks of Markdown: a link is its text.
    pub fn plain(&self) -> String {
        let mut plain = String::new();
        let mut rest = self.says.trim();
        while let Some((before, behind)) = rest.split_once('[') {
            plain.push_str(before);
            match behind
                .split_once("](")
                .and_then(|(text, after)| Some((text, after.split_once(')')?.1)))
            {
                Some((text, after)) => {
                    plain.push_str(text);
                    rest = after;
                }
                None => {
                    plain.push('[');
                    rest = behind;
                }
            }
        }
        plain.push_str(rest);
        plain.replace('`', "").replace("\\|", "|")
    }
}

macro_rules! settings {
    ($($needs:ident { $($(#[doc = $says:literal])+ $key:ident: $type:ty = $default:literal, $form:literal, $parse:expr;)+ })+) => {
        /// A whole and valid configuration.
        #[derive(Debug, Clone)]
        pub struct Config {
            /// The configured upstreams. Of them and of the directories at most one has no name.
            pub upstreams: Vec<UpstreamConfig>,
            /// The directories that are served.
            pub directories: Vec<DirectoryConfig>,
            $($($(#[doc = $says])+ pub $key: $type,)+)+
        }

        /// The settings, in the order in which they are shown.
        pub(super) const SETTINGS: &[Setting] = &[
            $($(Setting {
                key: stringify!($key),
                default: $default,
                form: $form,
                says: concat!($($says),+),
                needs: Needs::$needs,
            },)+)+
        ];

        /// Reads all of them; `None` where one is mistaken, which the reader has noted.
        pub(super) fn read(
            reader: &mut Reader<'_>,
            upstreams: Vec<UpstreamConfig>,
            directories: Vec<DirectoryConfig>,
        ) -> Option<Config> {
            // All are read before the first `?`: one start reports all mistakes.
            $($(let $key = reader.read(stringify!($key), $default, $parse);)+)+
            Some(Config { upstreams, directories, $($($key: $key?,)+)+ })
        }
    };
}

settings! {
    Nothing {
        /// Addresses and ports to accept connections at; port 0 takes a free one, which is printed, and `unix:/PATH` is a
        /// socket in the file system. Several are separated by spaces or commas, or are a list in the file
        listen: Vec<ListenAddress> = "127.0.0.1:8080", "ADDR", listen_addresses;
        /// Data directory; `auto` is `millpond` in `$XDG_CACHE_HOME` or `~/.cache`
        data: PathBuf = "auto", "DIR", data_directory;
        /// Whether clients may name any URL as `/https/HOST/PATH`; `auto` is true where every address is on loopback and
        /// no proxy is named (`trusted_proxies`, `public_url`), and false for `millpond origin`
        ad_hoc: Option<bool> = "auto", "BOOL", truth_or_auto;
        /// File of tokens: with one, clients may do what a token of theirs, or its `[anonymous]`, says; `millpond token add
        /// FILE NAME` makes one. See [security.md](security.md)
        tokens: Option<PathBuf> = "none", "FILE", file_or_none;
        /// Hosts by which clients may call this server, `*.NAME` for all beneath one; a request with another `Host` is refused
        /// (421). Addresses and `localhost` are allowed anyhow; beyond loopback also the machine's name, single labels and
        /// `*.local`
        names: Vec<String> = "", "HOSTS", host_names;
        /// Addresses and networks of proxies before this server, and `unix` for what connects to its sockets: the address of
        /// a client is the one that they tell (`X-Forwarded-For`, `Forwarded`, `X-Real-IP`). With one, loopback is everybody's
        /// address
        trusted_proxies: TrustedProxies = "", "ADDRESSES", TrustedProxies::read;
        /// The URL that clients use, where a reverse proxy stands before this server: its host is one of `names`, a
        /// `Destination` may name it, and its path stands before all that are printed; `any` takes every host in a
        /// `Destination`
        public_url: PublicUrl = "none", "URL", PublicUrl::read;
        /// File that each request is logged in, a line of JSON each
        access_log: Option<PathBuf> = "none", "FILE", file_or_none;
        /// PEM file of the certificate to serve HTTPS with, and its chain; it is read again when it is renewed
        tls_certificate: Option<PathBuf> = "none", "FILE", file_or_none;
        /// PEM file of the certificate's key
        tls_key: Option<PathBuf> = "none", "FILE", file_or_none;
        /// Connections of clients at once; the oldest idle one is closed where another comes. `auto` is a third of the
        /// descriptors that the system allows (`ulimit -n`)
        connections: Option<usize> = "auto", "NUMBER", |text| number_or_auto(text, 1_000_000);
        /// The same of one client's address, 64 at least; `auto` is a quarter of `connections`
        connections_per_client: Option<usize> = "auto", "NUMBER", |text| number_or_auto(text, 1_000_000);
        /// Time that running answers get to finish after SIGTERM; whole seconds
        grace: Duration = "30s", "TIME", duration;
        /// Threads that serve connections, 1 to 256; `auto` is one a core
        workers: usize = "auto", "NUMBER", workers;
        /// The log's level: `error`, `warn`, `info`, `debug`, or `module=level,…`; the log goes to stderr
        log: String = "info", "LEVEL", text;
        /// Space left free in the file system; `auto` is 256 MiB, or a twentieth of a small file system
        min_free: Option<u64> = "auto", "SIZE", |text| match text {
            "auto" => Ok(None),
            text => bytes(text).map(Some),
        };
    }
    Cache {
        /// `follow` or `capped`: the way in which incomplete objects are answered, see [delivery.md](delivery.md)
        delivery: Delivery = "follow", "WAY", delivery;
        /// Whether URLs that clients name may lead to private addresses
        allow_private: bool = "false", "", truth;
        /// Addresses and networks that count as private beside those that always do: what a home or a company has of the public
        /// IPv6 Internet, for instance
        private_networks: Networks = "", "ADDRESSES", Networks::read;
        /// The most that the cache may take on the disk, like `50GiB`: pages and manifests of objects, and a reserve for the
        /// catalog and directories, which grows with them to half of it at most (below `16MiB` there is none, and objects
        /// alone are counted). It holds at every moment: room is taken before a byte is written, by evicting objects that
        /// nobody uses, then by parts of films that were watched; see [storage.md](storage.md). `auto` is four
        /// fifths of the file system, or what is there already; `none` is no bound
        quota: QuotaSetting = "auto", "SIZE", quota;
        /// The longest that a header waits for the first wanted byte
        header_wait: Duration = "5s", "TIME", duration;
        /// The longest that each reader waits for one byte while the upstream fails, before its connection breaks; those
        /// whose bytes keep coming are not touched
        hold_limit: Duration = "5m", "TIME", duration;
        /// The longest that connecting to an upstream may take
        connect_timeout: Duration = "10s", "TIME", duration;
        /// The longest from a request to an upstream to its header
        reply_timeout: Duration = "30s", "TIME", duration;
        /// The longest silence within an upstream's body; then it is cut and resumed
        read_idle_timeout: Duration = "30s", "TIME", duration;
        /// Upstream connections that one object may have, 1 to 64
        sessions_per_object: usize = "8", "NUMBER", |text| number(text, 64);
        /// Exchanges that one upstream (scheme, host and port) is asked for at once, 1 to 256, shared by all its objects;
        /// see [filling.md](filling.md)
        connections_per_upstream: usize = "8", "NUMBER", |text| number(text, 256);
        /// Requests begun in a second at one upstream, or `none`
        requests_per_second: Option<u32> = "none", "NUMBER", rate;
        /// Body bytes a second from one upstream, like `20MB`, or `none`
        bytes_per_second: Option<u64> = "none", "SIZE", |text| match size_or_none(text)? {
            Some(0) => Err("would let nothing through; write a size like 20MB, or none".to_owned()),
            rate => Ok(rate),
        };
        /// Time ahead of each reader, at its own rate, that is fetched while it reads; `all` fetches everything it asked
        /// for
        read_ahead: Option<Duration> = "all", "TIME", |text| match text {
            "all" => Ok(None),
            text => duration(text).map(Some),
        };
        /// `complete` fetches the rest when the last reader has left; `stop` brings nothing for nobody: a session that
        /// serves no reader ends after 250 ms or 256 KiB (5 s or 16 MiB where the upstream has no ranges);
        /// `finish:80%,100MiB` fetches the rest where at least 80 % are here or at most 100 MiB are missing
        after_last_reader: AfterLastReader = "complete", "POLICY", after_last_reader;
        /// Parameters of the query that are no part of a key, by name or `PREFIX*`, separated by commas: for signed URLs
        ignore_query: Vec<String> = "", "NAMES", list_of_names;
        /// Fields of requests by which an upstream knows its client, beside `Authorization`, `Cookie` and those of Jellyfin, Emby,
        /// Plex and common APIs: what was fetched with one is given to others when the upstream has said that they may
        credentials: Vec<String> = "", "NAMES", lower_case_names;
        /// Whether cookies are taken off requests and replies; a reply that sets one is shared with others only then, or
        /// where it says `public`. Any-URL requests never carry cookies
        drop_cookies: bool = "false", "", truth;
        /// Whether pieces under a weak ETag are joined anywhere, without comparing bytes, where `Last-Modified` is equal and
        /// a minute old ([filling.md](filling.md))
        join_weak: bool = "false", "", truth;
        /// PEM file of certificate authorities to trust beside the system's
        upstream_ca: Option<PathBuf> = "none", "FILE", file_or_none;
        /// Time that an object which says nothing of its freshness is reused without asking
        fresh_for: Duration = "1h", "TIME", duration;
        /// Whether bodies that ended only by a closed connection are reused
        keep_unverified: bool = "false", "", truth;
        /// Streams that may run at once, 1 to 10000, and beside them as many requests that outlive their clients; see
        /// [streams.md](streams.md)
        streams: usize = "64", "NUMBER", |text| number(text, 10_000);
        /// Media types that are streams where no length is named, beside those known, like `application/ogg,video/*`
        stream_types: Vec<String> = "", "TYPES", lower_case_names;
        /// The longest silence of a stream's upstream
        stream_idle: Duration = "60s", "TIME", duration;
        /// Time that a stream goes on without a reader
        stream_unattended: Duration = "10m", "TIME", duration;
        /// Time that a stream may last, or `none`
        stream_total: Option<Duration> = "none", "TIME", duration_or_none;
        /// The part of a stream that is kept for readers who join late or are slow; `1MiB` at least
        stream_window: u64 = "256MiB", "SIZE", window;
        /// The same in time, or `none`; whichever of the two is less
        stream_window_time: Option<Duration> = "none", "TIME", duration_or_none;
        /// The part of a stream's past that a listener of media is given first: players begin at once with it
        stream_burst: u64 = "64KiB", "SIZE", bytes;
        /// Time that a stream's log is kept after its end
        stream_lifetime: Duration = "1h", "TIME", duration;
        /// Paths whose requests outlive their clients, whatever the method, like `/llm/v1/*`
        detach: Vec<String> = "", "PATHS", paths;
    }
    Upstream {
        /// The answers for an upstream that is away: `serve` what is stored, unless its reply forbids that
        /// (`must-revalidate`, `no-cache`); `always`, whatever its reply says; `refuse`, only what the reply allows
        /// (`stale-if-error`). `auto` is `serve` for an upstream with a mirror. See [mirrors.md](mirrors.md)
        offline: Option<Offline> = "auto", "WAY", offline_or_auto;
    }
    Mirror {
        /// When mirrors are walked: at an interval, or by order alone (`access`)
        mirror_when: MirrorWhen = "1h", "TIME", when;
        /// The deepest collections of a mirror that are walked, its own being 0; 0 to 128
        mirror_depth: usize = "64", "NUMBER", depth;
        /// The largest file that a mirror keeps, like `20GiB`, or `none`
        mirror_largest: Option<u64> = "none", "SIZE", size_or_none;
        /// Names that mirrors do not keep, separated by commas; `*` stands for any letters
        mirror_exclude: Vec<String> = "", "NAMES", patterns;
        /// Whether what is mirrored is never evicted: a mirror that does not fit stops, and films go around it
        pin_mirrors: bool = "true", "BOOL", truth;
    }
    Directory {
        /// Whether directories may be changed, by holders of a token with `write`
        writable: bool = "false", "", truth;
        /// Whether names that begin with a dot are shown to all who read; those who may write see and take them in any case
        hidden: bool = "false", "", truth;
        /// Whether a directory may be another than the one that was served from this path before; `--new-root` for one
        /// start
        new_root: bool = "false", "", truth;
    }
    WritableDirectory {
        /// Whether everybody who reaches the server may change its writable directories, without a token; through a proxy where
        /// that is one of `trusted_proxies`
        open: bool = "false", "", truth;
        /// Whether names are refused that some systems do not take: devices (`CON`), a dot or space at the end,
        /// `<>:"\|?*`
        portable: bool = "false", "", truth;
        /// Whether a change without `If-Match`, `If-None-Match` or `If-Unmodified-Since` is refused with 428
        demand_conditions: bool = "false", "", truth;
        /// Whether `DELETE` of a collection, and `MOVE` and `COPY` over one, remove all that is in it; `false` refuses
        /// collections that are not empty (409)
        deep_delete: bool = "true", "BOOL", truth;
        /// The largest file that may be put (413), like `20GiB`, or `none`; `min_free` is kept free in any case (507)
        largest_upload: Option<u64> = "none", "SIZE", size_or_none;
        /// Time that an upload which was not finished can be resumed
        upload_lifetime: Duration = "7d", "TIME", duration;
    }
}

impl Config {
    /// Whether clients may name any URL, as `/https/HOST/PATH`.
    pub fn allows_any_url(&self) -> bool {
        let has_proxy = !self.trusted_proxies.is_empty() || self.public_url != PublicUrl::Unknown;
        self.ad_hoc
            .unwrap_or_else(|| !has_proxy && self.listen.iter().all(ListenAddress::is_loopback))
    }

    /// Whether anything is fetched and kept: by an upstream, or by any URL.
    pub fn has_cache(&self) -> bool {
        !self.upstreams.is_empty() || self.allows_any_url()
    }

    /// Whether a directory may be changed.
    pub fn has_writable_directory(&self) -> bool {
        self.directories.iter().any(|directory| directory.writable)
    }

    /// Whether the configuration has the part that a setting needs.
    pub(super) fn has(&self, needs: Needs) -> bool {
        match needs {
            Needs::Nothing => true,
            Needs::Cache => self.has_cache(),
            Needs::Upstream => !self.upstreams.is_empty(),
            Needs::Mirror => self.upstreams.iter().any(|upstream| !upstream.mirror.is_empty()),
            Needs::Directory => !self.directories.is_empty(),
            Needs::WritableDirectory => self.has_writable_directory(),
        }
    }
}

impl Needs {
    /// The words for what is missing.
    pub(super) fn missing(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Cache => "there is no upstream, and any-URL requests are off: name one with --upstream",
            Self::Upstream => "there is no upstream: name one with --upstream",
            Self::Mirror => "no upstream has a mirror: name one with --mirror NAME/PATH",
            Self::Directory => "no directory is served: name one with --directory",
            Self::WritableDirectory => "no directory may be changed: say --directory NAME=DIR,writable",
        }
    }
}
