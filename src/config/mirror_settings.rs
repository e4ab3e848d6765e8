//! The settings of one upstream's mirrors: its own rules, and the settings of all for what it has none for.
//!
//! The rules are read with the upstream (mirrors.rs, mounts.rs), the settings of all by their table (settings.rs); they
//! meet here, when both are read.

use super::mirrors::{MirrorSettings, Offline};
use super::mounts::UpstreamConfig;
use super::settings::Config;

impl UpstreamConfig {
    /// The settings of its mirrors: its own rules, and the settings of all for the others.
    pub fn mirror_settings(&self, config: &Config) -> MirrorSettings {
        let rules = &self.mirror_rules;
        MirrorSettings {
            listing: rules.listing,
            when: rules.when.unwrap_or(config.mirror_when),
            depth: rules.depth.unwrap_or(config.mirror_depth),
            largest: rules.largest.unwrap_or(config.mirror_largest),
            exclude: rules.exclude.clone().unwrap_or_else(|| config.mirror_exclude.clone()),
            pin: rules.pin.unwrap_or(config.pin_mirrors),
        }
    }

    /// The rule for what is served of it while it is away.
    pub fn offline(&self, config: &Config) -> Offline {
        let by_mirror = match self.mirror.is_empty() {
            true => Offline::Refuse,
            false => Offline::Serve,
        };
        self.offline.or(config.offline).unwrap_or(by_mirror)
    }
}
