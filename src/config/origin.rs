//! The settings of `millpond origin`.
//!
//! Read like those of `serve` (settings.rs), from the same layers and with the same units; a key that only the other
//! command knows is no mistake, so that one file serves both. Beside each value its neighbours are looked at: HTTPS
//! needs a certificate and a key, and no file of the server's own may lie in the directory that is served, where
//! clients could read it. All mistakes are collected before any is reported.

use super::PublicUrl;
use super::settings::{Reader, data_directory, unknown_keys};
use super::source::{Layers, Mistakes};
use super::units;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A whole and valid configuration of a directory that is served.
#[derive(Debug, Clone)]
pub struct OriginConfig {
    /// Where to accept connections; port 0 takes any free one.
    pub listen: SocketAddr,
    /// The directory that is served.
    pub root: PathBuf,
    /// Where what is known of its files is kept; never within `root`.
    pub data: PathBuf,
    /// Whether the directory may be changed.
    pub writable: bool,
    /// Whether names that begin with a dot are shown to all who read.
    pub hidden: bool,
    /// The URL that clients use.
    pub public_url: PublicUrl,
    /// Proxies that are believed under which name they were asked, beside those on this machine.
    pub trusted_proxies: Vec<IpAddr>,
    /// Whether the directory may be another than the one that was served before.
    pub new_root: bool,
    /// Whether names are refused that some systems do not take.
    pub portable: bool,
    /// Whether changes without a condition are refused.
    pub demand_conditions: bool,
    /// Whether collections are removed and replaced with all that is in them.
    pub deep_delete: bool,
    /// The largest file that may be put, in bytes; `None` is no limit.
    pub largest_upload: Option<u64>,
    /// How long an upload that was not finished can be resumed.
    pub upload_lifetime: Duration,
    /// Free space to leave in the file system, in bytes; `None` depends on its size.
    pub min_free_bytes: Option<u64>,
    /// The file of tokens; `None` lets everybody read, and who is on this machine write.
    pub tokens: Option<PathBuf>,
    /// The file that requests are logged in.
    pub access_log: Option<PathBuf>,
    /// The certificate to serve HTTPS with, and its key.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// How long running answers may take to finish after SIGTERM.
    pub grace: Duration,
    /// Threads that serve connections.
    pub workers: usize,
    /// The log filter, as `tracing` directives.
    pub log: String,
}

impl OriginConfig {
    /// Reads all settings out of the layers.
    ///
    /// # Errors
    /// All mistakes at once, each with the name of its setting where it was made and with the unit.
    pub fn read(layers: &Layers) -> Result<Self, Mistakes> {
        let mut reader = Reader::of(layers);
        let listen = reader.listen();
        let certificate = reader.read("tls_certificate", None, file);
        let key = reader.read("tls_key", None, file);
        if certificate.is_some() != key.is_some() {
            let mistake = "tls_certificate and tls_key: one is there without the other; HTTPS needs both";
            reader.mistakes.push(mistake.to_owned());
        }
        let config = Self {
            listen,
            root: reader.read("root", PathBuf::new(), |text| match text {
                "" => Err("is empty; name the directory to serve: millpond origin DIR".to_owned()),
                text => directory(Path::new(text)),
            }),
            data: reader.read("data", PathBuf::new(), data_directory),
            writable: reader.truth("writable"),
            hidden: reader.truth("hidden"),
            public_url: reader.read("public_url", PublicUrl::Unknown, PublicUrl::read),
            trusted_proxies: reader.read("trusted_proxies", Vec::new(), addresses),
            new_root: reader.truth("new_root"),
            portable: reader.truth("portable"),
            demand_conditions: reader.truth("demand_conditions"),
            deep_delete: reader.truth("deep_delete"),
            largest_upload: reader.read("largest_upload", None, |text| match text {
                "none" => Ok(None),
                text => units::bytes(text).map(Some),
            }),
            upload_lifetime: reader.duration("upload_lifetime"),
            min_free_bytes: reader.min_free(),
            tokens: reader.read("tokens", None, file),
            access_log: reader.read("access_log", None, file),
            tls: certificate.zip(key),
            grace: reader.duration("grace"),
            workers: reader.workers(),
            log: reader.read("log", String::new(), |text| Ok(text.to_owned())),
        };
        if config.writable && config.tokens.is_none() && !listen.ip().is_loopback() {
            let mistake = format!(
                "writable: whoever reaches {listen} could change the directory; name a file with --tokens (millpond token add FILE NAME makes one), or listen at 127.0.0.1"
            );
            reader.mistakes.push(mistake);
        }
        let own = [
            ("data", Some(&config.data)),
            ("tokens", config.tokens.as_ref()),
            ("access_log", config.access_log.as_ref()),
            ("tls_key", config.tls.as_ref().map(|(_, key)| key)),
        ];
        for (key, path) in own {
            if let Some(path) = path.filter(|path| is_within(path, &config.root)) {
                let mistake = format!(
                    "{key}: {} is within the directory that is served, where clients could read it; name a place outside",
                    path.display()
                );
                reader.mistakes.push(mistake);
            }
        }
        unknown_keys(&mut reader);
        match reader.mistakes.is_empty() {
            true => Ok(config),
            false => Err(Mistakes(reader.mistakes)),
        }
    }
}

fn file(text: &str) -> Result<Option<PathBuf>, String> {
    match text {
        "none" => Ok(None),
        "" => Err("is empty; name a file, or none".to_owned()),
        text => Ok(Some(PathBuf::from(text))),
    }
}

/// Addresses between commas or white space.
fn addresses(text: &str) -> Result<Vec<IpAddr>, String> {
    let named = text.split([',', ' ', '\t']).filter(|name| !name.is_empty());
    let address = |name: &str| {
        let parsed: Result<IpAddr, _> = name.parse();
        parsed.map_err(|_| format!("has {name:?}, which is no address"))
    };
    named.map(address).collect()
}

fn directory(path: &Path) -> Result<PathBuf, String> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(path.to_owned()),
        Ok(_) => Err("is not a directory".to_owned()),
        // One that was served before is waited for (`app::root`): the way to its mount point may be on a disk, too.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(path.to_owned()),
        Err(error) => Err(format!("cannot be served: {error}")),
    }
}

/// Whether the path is, or would be, beneath `root`, links resolved as far as there is something.
fn is_within(path: &Path, root: &Path) -> bool {
    let Ok(root) = std::fs::canonicalize(root) else {
        return false;
    };
    let Ok(path) = std::path::absolute(path) else {
        return false;
    };
    path.ancestors()
        .find_map(|above| std::fs::canonicalize(above).ok())
        .is_some_and(|above| above.starts_with(&root))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(flags: &[(&str, &str)]) -> Result<OriginConfig, Mistakes> {
        let mut layers = Layers::new();
        layers.add_flags(
            flags
                .iter()
                .map(|(key, value)| ((*key).to_owned(), vec![(*value).to_owned()])),
        );
        OriginConfig::read(&layers)
    }

    #[test]
    fn all_mistakes_are_reported_at_once_with_their_mend() {
        let flags = [
            ("root", "/proc/self/status"),
            ("writable", "perhaps"),
            ("largest_upload", "much"),
            ("tls_key", "/k"),
            ("upstream_speed", "9"),
        ];
        let mistakes = read(&flags).expect_err("invalid").0;
        for part in ["--root", "true or false", "512MiB", "needs both", "no such setting"] {
            assert!(mistakes.iter().any(|line| line.contains(part)), "{part}: {mistakes:#?}");
        }
        assert!(read(&[]).expect_err("no root").0[0].contains("millpond origin DIR"));
    }

    #[test]
    fn a_writable_origin_beyond_loopback_requires_tokens() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().display().to_string();
        let far = [
            ("root", root.as_str()),
            ("listen", "0.0.0.0:0"),
            ("writable", "true"),
            ("data", "/d"),
        ];
        assert!(read(&far).expect_err("refused").0[0].contains("--tokens"));
        assert!(read(&[&far[..], &[("tokens", "/t")]].concat()).is_ok());
        assert!(read(&[far[0], far[2], far[3]]).is_ok());
        assert!(read(&[far[0], far[1], far[3]]).is_ok());
    }

    #[test]
    fn data_tokens_and_log_inside_the_tree_are_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().display().to_string();
        for key in ["data", "tokens", "access_log"] {
            let inside = format!("{root}/a/b");
            let flags = [("data", "/d"), ("root", root.as_str()), (key, inside.as_str())];
            // The last of a flag's values counts; here the key may be there twice.
            let flags: Vec<_> = flags.into_iter().rev().collect();
            let flags: Vec<_> = match key {
                "data" => flags[..2].to_vec(),
                _ => flags,
            };
            let mistakes = read(&flags).expect_err("refused").0;
            assert!(
                mistakes[0].contains(key) && mistakes[0].contains("outside"),
                "{mistakes:#?}"
            );
        }
    }
}
