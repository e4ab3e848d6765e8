//! A whole configuration: everything is read, then compared with its neighbours, and all mistakes are told at once.
//!
//! These are compared: a setting with the part of a server that it needs, so that none is accepted and ignored; HTTPS
//! with its two files; and the server's own files with the directories that it serves, where clients could read them. A variable of the environment that has no effect is a
//! warning, not a mistake: one environment may be that of several commands.

use super::ListenAddress;
use super::mounts::{self, DirectoryConfig, DirectoryRules, is_rule, needs_mirror, needs_writable};
use super::reader::Reader;
use super::settings::{self, Config, Needs, SETTINGS, Setting};
use super::source::{Layers, Mistakes};
use std::path::Path;

/// Keys that can be given several times, and are no entries of the table.
const LISTS: &[(&str, &str, &str)] = &[
    (
        "upstream",
        "URL | NAME=URL",
        "Upstream to serve: `URL` at `/`, or `NAME=URL` at `/NAME/`; any number. In the environment separated by spaces, in the file a list",
    ),
    (
        "directory",
        "DIR | NAME=DIR[,writable]",
        "Directory to serve: `DIR` at `/`, or `NAME=DIR` at `/NAME/`, read-only unless `,writable` stands behind it; any number. See [origin.md](origin.md)",
    ),
    (
        "mirror",
        "NAME/PATH | /PATH",
        "Subtree of an upstream to keep here whole: `PATH` of the upstream `NAME`, or of the one without a name; any number. See [mirrors.md](mirrors.md)",
    ),
];

/// The key that names the file itself.
const CONFIG: &str = "config";

/// Every setting, in the order in which they are shown. `upstream`, `directory` and `mirror` are the only ones that have
/// no default.
pub fn settings() -> impl Iterator<Item = Setting> {
    let list = |&(key, form, says): &(&'static str, &'static str, &'static str)| Setting {
        key,
        default: "",
        form,
        says,
        needs: Needs::Nothing,
    };
    let copied = |setting: &Setting| Setting { ..*setting };
    LISTS.iter().map(list).chain(SETTINGS.iter().map(copied))
}

fn setting(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}

fn is_setting(key: &str) -> bool {
    key == CONFIG || LISTS.iter().any(|(list, ..)| *list == key) || setting(key).is_some() || is_rule(key)
}

impl Config {
    /// Reads all settings out of the layers.
    ///
    /// # Errors
    /// All mistakes at once, each with the name of its setting where it was made and with the unit.
    pub fn read(layers: &Layers) -> Result<Self, Mistakes> {
        let mut reader = Reader::of(layers);
        let (upstreams, directories) = mounts::read(&mut reader);
        let config = settings::read(&mut reader, upstreams, Vec::new()).map(|mut config| {
            let directories = directories.into_iter();
            config.directories = directories.map(|rules| resolve(rules, &config)).collect();
            config
        });
        for (key, name) in layers.named_keys(true).filter(|(key, _)| !is_setting(key)) {
            let mend = match key {
                "root" => "there is no such setting; the directory is named by `directory`",
                _ => "there is no such setting; `millpond config show` lists them",
            };
            reader.mistake(&name, mend);
        }
        if let Some(config) = &config {
            for (name, why) in config.without_effect(layers, true) {
                reader.mistake(&name, format!("it has no effect here: {why}"));
            }
            config.compare(&mut reader);
        }
        match config.filter(|_| reader.mistakes.is_empty()) {
            Some(config) => Ok(config),
            None => Err(Mistakes(reader.mistakes)),
        }
    }

    /// Warnings, one line each: `MILLPOND_*` variables that name no setting or have no effect, and are ignored.
    pub fn warnings(&self, layers: &Layers) -> Vec<String> {
        let unknown = layers.named_keys(false).filter(|(key, _)| !is_setting(key));
        let unknown = unknown.map(|(_, name)| {
            format!("{name}: there is no such setting, so it is ignored; `millpond config show` lists them")
        });
        let useless = self.without_effect(layers, false).into_iter();
        let useless = useless.map(|(name, why)| format!("{name}: it has no effect here: {why}"));
        unknown
            .chain(useless)
            .chain(self.warning_of_changes())
            .chain(self.warnings_of_credentials())
            .collect()
    }

    /// The warning of each credential that clients read by.
    fn warnings_of_credentials(&self) -> impl Iterator<Item = String> + '_ {
        let with_one = self
            .upstreams
            .iter()
            .filter(|upstream| upstream.authorization_file.is_some());
        with_one.map(|upstream| {
            let mount = upstream
                .name
                .as_ref()
                .map_or_else(|| "/".to_owned(), |name| format!("/{name}/"));
            format!(
                "authorization_file: whoever may play beneath {mount} reads by this credential what is at {}",
                upstream.url
            )
        })
    }

    /// The warning of what an operator may not expect of a directory that may be changed.
    fn warning_of_changes(&self) -> Option<String> {
        let is_elsewhere = |address: &&ListenAddress| !address.is_loopback();
        match self.open {
            _ if !self.has_writable_directory() => None,
            true => self.listen.iter().find(is_elsewhere).map(|address| {
                format!("open: whoever reaches {address} may change what is in the writable directories")
            }),
            false if self.tokens.is_none() => Some("writable: without tokens only the control socket changes a directory; name a file with --tokens (millpond token add FILE NAME --write makes one), or say --open where everybody who reaches this server may change it".to_owned()),
            false => None,
        }
    }

    /// The keys that are accepted but would be ignored, by the name that they go by, with the reason.
    fn without_effect(&self, layers: &Layers, strict: bool) -> Vec<(String, &'static str)> {
        let is_read_only = |name: &str| {
            let directories = self.directories.iter();
            let mut named = directories.filter(|directory| directory.name.as_deref().unwrap_or_default() == name);
            named.any(|directory| !directory.writable)
        };
        let has_no_mirror = |name: &str| {
            let mut upstreams = self.upstreams.iter();
            upstreams.any(|upstream| upstream.name.as_deref().unwrap_or_default() == name && upstream.mirror.is_empty())
        };
        let reason = |key: &str| match setting(key) {
            Some(setting) => (!self.has(setting.needs)).then(|| setting.needs.missing()),
            None => needs_writable(key)
                .filter(|name| is_read_only(name))
                .map(|_| "this directory is read-only: say writable = true beside it")
                .or_else(|| {
                    needs_mirror(key)
                        .filter(|name| has_no_mirror(name))
                        .map(|_| "this upstream has no mirror: say mirror = [\"/PATH/\"] beside it")
                }),
        };
        let keys = layers.named_keys(strict);
        keys.filter_map(|(key, name)| Some((name, reason(key)?))).collect()
    }

    /// Notes what settings owe each other.
    fn compare(&self, reader: &mut Reader<'_>) {
        if self.tls_certificate.is_some() != self.tls_key.is_some() {
            reader.mistake(
                "tls_certificate and tls_key",
                "one is there without the other; HTTPS needs both",
            );
        }
        let has_port = self
            .listen
            .iter()
            .any(|address| matches!(address, ListenAddress::Tcp(_)));
        if !has_port && self.tls_certificate.is_some() {
            let what = "it has no effect here: HTTPS is for addresses with a port; add one to listen";
            reader.mistake("tls_certificate", what);
        }
        if !self.has_cache() && self.directories.is_empty() {
            reader.mistake(
                "upstream",
                "nothing is served: name an upstream with --upstream, a directory with --directory (or by millpond origin DIR), or say --ad-hoc true",
            );
        }
        let own = [
            ("data", Some(&self.data)),
            ("tokens", self.tokens.as_ref()),
            ("access_log", self.access_log.as_ref()),
            ("tls_key", self.tls_key.as_ref()),
        ];
        for (key, path) in own {
            let Some(path) = path else { continue };
            if self
                .directories
                .iter()
                .any(|directory| is_within(path, &directory.root))
            {
                let what = format!(
                    "{} is within the directory that is served, where clients could read it; name a place outside",
                    path.display()
                );
                reader.mistake(key, what);
            }
        }
    }
}

/// The directory, with the settings for what it has no rule of its own for.
fn resolve(rules: DirectoryRules, config: &Config) -> DirectoryConfig {
    DirectoryConfig {
        name: rules.name,
        root: rules.root,
        writable: rules.writable.unwrap_or(config.writable),
        hidden: rules.hidden.unwrap_or(config.hidden),
        new_root: rules.new_root.unwrap_or(config.new_root),
        portable: rules.portable.unwrap_or(config.portable),
        demand_conditions: rules.demand_conditions.unwrap_or(config.demand_conditions),
        deep_delete: rules.deep_delete.unwrap_or(config.deep_delete),
        largest_upload: rules.largest_upload.unwrap_or(config.largest_upload),
        upload_lifetime: rules.upload_lifetime.unwrap_or(config.upload_lifetime),
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
