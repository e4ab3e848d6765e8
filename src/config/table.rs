//! The tables of scalar settings: key, default, meaning.
//!
//! A key that stands in neither table, and is no list of settings.rs, is a mistake in a file or on the command line. A
//! default is text and read like any other value, so it is checked by the same rules and shown as an operator would
//! write it; `auto` stands for what depends on the machine or on other settings. `millpond config show` prints the
//! tables, and a test demands that docs/configuration.md names each key.

pub(super) struct Setting {
    pub(super) key: &'static str,
    pub(super) default: &'static str,
    pub(super) says: &'static str,
}

/// The scalar settings. `auto` defaults depend on the machine or on other settings.
pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        key: "listen",
        default: "127.0.0.1:8080",
        says: "address and port to accept connections at",
    },
    Setting {
        key: "data",
        default: "auto",
        says: "data directory; auto is millpond in the user's cache directory",
    },
    Setting {
        key: "delivery",
        default: "follow",
        says: "follow or capped: how incomplete objects are answered",
    },
    Setting {
        key: "ad_hoc",
        default: "auto",
        says: "true, false or auto: whether clients may name any URL; auto is true on loopback",
    },
    Setting {
        key: "allow_private",
        default: "false",
        says: "true or false: whether such URLs may lead to private addresses",
    },
    Setting {
        key: "quota",
        default: "none",
        says: "size that objects may take on the disk, like 50GiB; none is no limit",
    },
    Setting {
        key: "min_free",
        default: "auto",
        says: "size left free in the file system; auto is 256MiB, or a twentieth of a small one",
    },
    Setting {
        key: "header_wait",
        default: "5s",
        says: "time that a header waits for the first wanted byte",
    },
    Setting {
        key: "hold_limit",
        default: "5m",
        says: "time that readers are held while the upstream fails",
    },
    Setting {
        key: "grace",
        default: "30s",
        says: "time that running answers get to finish after SIGTERM",
    },
    Setting {
        key: "connect_timeout",
        default: "10s",
        says: "time that connecting to an upstream may take",
    },
    Setting {
        key: "reply_timeout",
        default: "30s",
        says: "time an upstream may take from request to header",
    },
    Setting {
        key: "read_idle_timeout",
        default: "30s",
        says: "time that an upstream's body may be silent",
    },
    Setting {
        key: "sessions_per_object",
        default: "8",
        says: "number of upstream connections one object may have, 1 to 64",
    },
    Setting {
        key: "connections_per_upstream",
        default: "8",
        says: "number of exchanges one upstream is asked for at once, 1 to 256, shared by all objects",
    },
    Setting {
        key: "requests_per_second",
        default: "none",
        says: "number of requests a second one upstream is asked, or none",
    },
    Setting {
        key: "bytes_per_second",
        default: "none",
        says: "size a second one upstream is asked for, like 20MB, or none",
    },
    Setting {
        key: "read_ahead",
        default: "all",
        says: "time ahead of a reader, at its rate, that is fetched while it reads; or all",
    },
    Setting {
        key: "after_last_reader",
        default: "complete",
        says: "complete, stop or finish:PERCENT%,SIZE: what a fill does without readers",
    },
    Setting {
        key: "ignore_query",
        default: "",
        says: "parameters that are no part of a key, like Expires,Signature,X-Amz-*: signed URLs",
    },
    Setting {
        key: "drop_cookies",
        default: "false",
        says: "true or false: whether cookies are taken off requests and replies, so that what sets them is shared",
    },
    Setting {
        key: "join_weak",
        default: "false",
        says: "true or false: whether pieces under a weak ETag are joined where Last-Modified is old and equal",
    },
    Setting {
        key: "upstream_ca",
        default: "none",
        says: "PEM file of certificate authorities to trust beside the system's",
    },
    Setting {
        key: "fresh_for",
        default: "1h",
        says: "time an object is reused unasked where the upstream does not say",
    },
    Setting {
        key: "keep_unverified",
        default: "false",
        says: "true or false: whether bodies that ended only by a closed connection are reused",
    },
    Setting {
        key: "streams",
        default: "64",
        says: "number of streams that may run at once, 1 to 10000",
    },
    Setting {
        key: "stream_types",
        default: "",
        says: "media types that are streams where no length is named, beside those known, like application/ogg,video/*",
    },
    Setting {
        key: "stream_idle",
        default: "60s",
        says: "time that the upstream of a stream may be silent",
    },
    Setting {
        key: "stream_unattended",
        default: "10m",
        says: "time that a stream goes on without a reader",
    },
    Setting {
        key: "stream_total",
        default: "none",
        says: "time that a stream may last, or none",
    },
    Setting {
        key: "stream_window",
        default: "256MiB",
        says: "size of a stream that is kept for who joins late or is slow",
    },
    Setting {
        key: "stream_window_time",
        default: "none",
        says: "time of a stream that is kept, or none for as much as stream_window holds",
    },
    Setting {
        key: "stream_burst",
        default: "64KiB",
        says: "size of what was before, that a listener of media is given first",
    },
    Setting {
        key: "stream_lifetime",
        default: "1h",
        says: "time that what was logged is kept after the end of its stream",
    },
    Setting {
        key: "detach",
        default: "",
        says: "paths whose requests outlive their clients, like /llm/v1/*, with any method",
    },
    Setting {
        key: "workers",
        default: "auto",
        says: "number of threads that serve connections, 1 to 256; auto is one a core",
    },
    Setting {
        key: "log",
        default: "info",
        says: "what is logged: error, warn, info, debug, or module=level,…",
    },
];

/// The settings of `millpond origin` alone; it also has `listen`, `data`, `min_free`, `grace`, `workers` and `log`.
pub(super) const ORIGIN_SETTINGS: &[Setting] = &[
    Setting {
        key: "root",
        default: "",
        says: "origin: the directory that is served",
    },
    Setting {
        key: "writable",
        default: "false",
        says: "origin: true or false: whether the directory may be changed",
    },
    Setting {
        key: "hidden",
        default: "false",
        says: "origin: true or false: whether names that begin with a dot are shown to all who read, not only to writers",
    },
    Setting {
        key: "public_url",
        default: "none",
        says: "origin: URL that clients use, where a proxy stands before it; any takes every host in a Destination",
    },
    Setting {
        key: "trusted_proxies",
        default: "",
        says: "origin: addresses of proxies that are believed under which name they were asked; those on this machine are",
    },
    Setting {
        key: "new_root",
        default: "false",
        says: "origin: true or false: whether the directory may be another than the one that was served before",
    },
    Setting {
        key: "portable",
        default: "false",
        says: "origin: true or false: whether names are refused that some systems do not take",
    },
    Setting {
        key: "demand_conditions",
        default: "false",
        says: "origin: true or false: whether changes without If-Match and the like are refused with 428",
    },
    Setting {
        key: "deep_delete",
        default: "true",
        says: "origin: true or false: whether DELETE of a collection removes all that is in it, or only an empty one",
    },
    Setting {
        key: "largest_upload",
        default: "none",
        says: "origin: size of the largest file that may be put, like 20GiB, or none",
    },
    Setting {
        key: "upload_lifetime",
        default: "7d",
        says: "origin: time that an upload which was not finished can be resumed",
    },
    Setting {
        key: "tokens",
        default: "none",
        says: "origin: file of tokens, made by millpond token add",
    },
    Setting {
        key: "access_log",
        default: "none",
        says: "origin: file that each request is logged in, a line of JSON each",
    },
    Setting {
        key: "tls_certificate",
        default: "none",
        says: "origin: PEM file of the certificate to serve HTTPS with, and its chain",
    },
    Setting {
        key: "tls_key",
        default: "none",
        says: "origin: PEM file of the certificate's key",
    },
];
