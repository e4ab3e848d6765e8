//! An origin in process, with a directory of its own and port 0.

use super::client::{Answer, Client};
use millpond::clock::{SharedClock, SystemClock};
use millpond::config::{Config, Layers};
use millpond::server::Server;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

pub(crate) struct Origin {
    server: Option<Server>,
    dir: TempDir,
    settings: Vec<(String, String)>,
    clock: SharedClock,
}

impl Origin {
    /// An origin that may be changed.
    pub(crate) fn writable() -> Self {
        Self::with(&[("writable", "true")])
    }

    /// An origin with these settings.
    pub(crate) fn with(settings: &[(&str, &str)]) -> Self {
        Self::at(settings, Arc::new(SystemClock))
    }

    /// An origin with these settings and a wall clock of the caller's.
    pub(crate) fn at(settings: &[(&str, &str)], clock: SharedClock) -> Self {
        let dir = TempDir::new().expect("a directory");
        std::fs::create_dir(dir.path().join("root")).expect("made");
        let settings = settings
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let mut origin = Self {
            server: None,
            dir,
            settings: settings.collect(),
            clock,
        };
        origin.launch();
        origin
    }

    fn launch(&mut self) {
        let text = |path: PathBuf| vec![path.display().to_string()];
        let mut flags: Vec<(String, Vec<String>)> = vec![
            ("listen".to_owned(), vec!["127.0.0.1:0".to_owned()]),
            ("directory".to_owned(), text(self.root())),
            ("data".to_owned(), text(self.dir.path().join("data"))),
            ("workers".to_owned(), vec!["2".to_owned()]),
            ("grace".to_owned(), vec!["0s".to_owned()]),
        ];
        for (key, value) in &self.settings {
            flags.retain(|(other, _)| other != key);
            flags.push((key.clone(), vec![value.clone()]));
        }
        let has = |wanted: &str| self.settings.iter().any(|(key, _)| key == wanted);
        // Everybody may change it, unless the test has tokens or says otherwise.
        if has("writable") && !has("tokens") && !has("open") {
            flags.push(("open".to_owned(), vec!["true".to_owned()]));
        }
        let mut layers = Layers::new();
        layers.add_flags(flags);
        layers.add_defaults([("ad_hoc".to_owned(), "false".to_owned())]);
        let config = Config::read(&layers).expect("valid");
        self.server = Some(Server::start_with_clock(&config, Arc::clone(&self.clock)).expect("started"));
        super::started(self.address(), &config.data);
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.as_ref().expect("running").address()
    }

    /// The directory that is served.
    pub(crate) fn root(&self) -> PathBuf {
        let set = self.settings.iter().find(|(key, _)| key == "directory");
        set.map_or_else(|| self.dir.path().join("root"), |(_, path)| path.into())
    }

    /// A directory beside it, which is not.
    pub(crate) fn outside(&self) -> &Path {
        self.dir.path()
    }

    /// The names in the directory that is served, anything of ours included but the mark by which it is known again.
    pub(crate) fn everything(&self) -> Vec<String> {
        let mut names = Vec::new();
        walk(&self.root(), &mut names);
        let root = self.root();
        let mut names: Vec<String> = names
            .iter()
            .map(|path: &PathBuf| path.strip_prefix(&root).expect("beneath").display().to_string())
            .collect();
        names.retain(|name| name != ".millpond/root");
        names.sort();
        names
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.root().join(name);
        std::fs::create_dir_all(path.parent().expect("beneath")).expect("made");
        std::fs::write(&path, bytes).expect("written");
        path
    }

    /// Gives it a setting for its next start.
    pub(crate) fn set(&mut self, key: &str, value: &str) {
        self.settings.push((key.to_owned(), value.to_owned()));
    }

    pub(crate) fn restart(&mut self) {
        self.stop();
        self.launch();
    }

    pub(crate) fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop().expect("stopped");
        }
    }

    /// The URL by which the server names itself, for tests that speak TLS.
    pub(crate) fn url(&self) -> String {
        self.server.as_ref().expect("running").url()
    }

    pub(crate) fn get(&self, target: &str) -> Answer {
        self.request("GET", target, &[])
    }

    pub(crate) fn request(&self, method: &str, target: &str, headers: &[(&str, &str)]) -> Answer {
        super::request(self.address(), method, target, headers)
    }

    pub(crate) fn put(&self, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        send(self.address(), "PUT", target, headers, body)
    }

    pub(crate) fn etag(&self, target: &str) -> String {
        self.request("HEAD", target, &[])
            .header("etag")
            .expect("a tag")
            .to_owned()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.stop();
    }
}

fn walk(dir: &Path, into: &mut Vec<PathBuf>) {
    // An entry that is removed during the walk is not counted.
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries {
        let path = entry.expect("an entry").path();
        let Ok(inspected) = path.symlink_metadata() else {
            continue;
        };
        into.push(path.clone());
        if inspected.is_dir() {
            walk(&path, into);
        }
    }
}

/// A request with a body.
pub(crate) fn send(address: SocketAddr, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let length = body.len().to_string();
    let mut all = headers.to_vec();
    all.push(("Content-Length", &length));
    let mut client = Client::connect(address);
    client.ask(method, target, &all);
    client.send(body);
    client.read_head();
    client.finish()
}
