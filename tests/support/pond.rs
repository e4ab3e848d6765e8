//! A server in process, with a data directory of its own and port 0.

use super::Upstream;
use millpond::clock::{ManualClock, SharedClock, SystemClock};
use millpond::config::{Config, Layers, ListenAddress};
use millpond::server::Server;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use tempfile::TempDir;

pub(crate) struct Pond {
    server: Option<Server>,
    dir: Arc<TempDir>,
    settings: Vec<(String, String)>,
    clock: SharedClock,
}

impl Pond {
    /// A server in front of the upstream.
    pub(crate) fn before(upstream: &Upstream) -> Self {
        Self::with(upstream, &[])
    }

    /// A server in front of the upstream, with settings.
    pub(crate) fn with(upstream: &Upstream, settings: &[(&str, &str)]) -> Self {
        let url = upstream.url();
        let mut all = vec![("upstream", url.as_str())];
        all.extend(settings);
        Self::start(&all)
    }

    /// A server with these settings only.
    pub(crate) fn start(settings: &[(&str, &str)]) -> Self {
        Self::start_at(settings, Arc::new(SystemClock))
    }

    /// A server in front of the upstream whose wall clock is in the test's hand.
    pub(crate) fn with_clock(upstream: &Upstream, clock: Arc<ManualClock>) -> Self {
        Self::start_at(&[("upstream", &upstream.url())], clock)
    }

    /// A server with these settings only, and a wall clock of the caller's.
    pub(crate) fn start_at(settings: &[(&str, &str)], clock: SharedClock) -> Self {
        let settings = settings
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        let dir = Arc::new(TempDir::new().expect("a directory"));
        let mut pond = Self {
            server: None,
            dir,
            settings,
            clock,
        };
        pond.launch();
        pond
    }

    fn launch(&mut self) {
        let mut flags: Vec<(String, Vec<String>)> = vec![
            ("listen".to_owned(), vec!["127.0.0.1:0".to_owned()]),
            ("data".to_owned(), vec![self.dir.path().display().to_string()]),
            ("workers".to_owned(), vec!["2".to_owned()]),
            ("grace".to_owned(), vec!["0s".to_owned()]),
        ];
        for (key, value) in &self.settings {
            flags.retain(|(other, _)| other != key);
            // Several upstreams or directories stand in one text, as in the environment.
            let values = match key.as_str() {
                "upstream" | "directory" => value.split_whitespace().map(str::to_owned).collect(),
                _ => vec![value.clone()],
            };
            flags.push((key.clone(), values));
        }
        let has = |wanted: &str| self.settings.iter().any(|(key, _)| key == wanted);
        let is_writable = self.settings.iter().any(|(_, value)| value.contains(",writable"));
        // Everybody may change it, unless the test has tokens or says otherwise.
        if is_writable && !has("tokens") && !has("open") {
            flags.push(("open".to_owned(), vec!["true".to_owned()]));
        }
        let mut layers = Layers::new();
        layers.add_flags(flags);
        let config = Config::read(&layers).expect("valid");
        self.server = Some(Server::start_with_clock(&config, Arc::clone(&self.clock)).expect("started"));
        for address in self.addresses() {
            super::started(address, &config.data);
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.as_ref().expect("running").address()
    }

    /// All addresses with a port, in the order in which they were named.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        let all = self.server.as_ref().expect("running").addresses().iter();
        let with_port = all.filter_map(|address| match address {
            ListenAddress::Tcp(address) => Some(*address),
            ListenAddress::Unix(_) => None,
        });
        with_port.collect()
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Stops the server in the orderly way.
    pub(crate) fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop().expect("stopped");
        }
    }

    /// Stops it and starts another on the same data directory.
    pub(crate) fn restart(&mut self) {
        self.stop();
        self.launch();
    }

    /// The only object, as the API tells it.
    pub(crate) fn object(&self) -> serde_json::Value {
        let list = super::rule(self.address(), "GET", "/-/api/v1/objects", &[]).json();
        list["objects"][0].clone()
    }

    /// Waits until the only object is in this state.
    pub(crate) fn until_state(&self, state: &str) {
        let start = Instant::now();
        super::eventually(&format!("an object that is {state}"), || {
            let is = self.object()["state"] == state;
            if !is && start.elapsed() > super::PATIENCE.mul_f32(0.9) {
                // The wait is given up soon: the panic tells what the fills wait for.
                panic!("{}", super::rule(self.address(), "GET", "/-/api/v1/fills", &[]).text());
            }
            is
        });
    }

    /// Waits until that many bytes are present.
    pub(crate) fn until_present(&self, bytes: u64) {
        super::eventually(&format!("{bytes} bytes"), || {
            self.object()["present_bytes"].as_u64() >= Some(bytes)
        });
    }

    pub(crate) fn metric(&self, name: &str) -> u64 {
        let text = super::rule(self.address(), "GET", "/-/metrics", &[]).text();
        let line = text
            .lines()
            .find(|line| line.starts_with(name) && !line.starts_with('#'));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .map_or(0, |value| value as u64)
    }
}

impl Drop for Pond {
    fn drop(&mut self) {
        self.stop();
    }
}
