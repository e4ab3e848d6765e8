//! Where settings come from: layers of text under keys, the first that has a key wins.
//!
//! Layers are added strongest first: flags, the environment, a file. All of them have the same keys, in lower case with
//! underscores; a layer knows how its keys are named in a message, so that a mistake is reported in the words in which
//! it was made. Values are texts here, a list for each key; what they mean is for parse.rs, and which keys there are for
//! settings.rs and mounts.rs.

use std::collections::BTreeMap;
use std::fmt;

/// The prefix of environment variables.
const PREFIX: &str = "MILLPOND_";

/// All that is wrong with a configuration, one line each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mistakes(pub Vec<String>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Mistakes {}

#[derive(Debug, Clone)]
struct Layer {
    /// How a key of this layer is named in a message.
    name: fn(&str) -> String,
    /// Whether a key that is no setting, or has no effect, is a mistake. It is none in the environment: container
    /// platforms set `MILLPOND_PORT` and the like by themselves for a service of that name, and one environment may be
    /// that of several commands.
    is_strict: bool,
    values: BTreeMap<String, Vec<String>>,
}

/// The layers, strongest first.
#[derive(Debug, Clone, Default)]
pub struct Layers {
    layers: Vec<Layer>,
    mistakes: Vec<String>,
}

impl Layers {
    /// No layers: every setting has its default.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the values of the command line, under keys with underscores.
    pub fn add_flags(&mut self, flags: impl IntoIterator<Item = (String, Vec<String>)>) {
        self.layers.push(Layer {
            name: |key| format!("--{}", key.replace('_', "-")),
            is_strict: true,
            values: flags.into_iter().filter(|(_, values)| !values.is_empty()).collect(),
        });
    }

    /// Adds `MILLPOND_*` variables; a list is separated by white space.
    pub fn add_environment(&mut self, variables: impl IntoIterator<Item = (String, String)>) {
        let values = variables
            .into_iter()
            .filter_map(|(name, value)| Some((name.strip_prefix(PREFIX)?.to_ascii_lowercase(), value)))
            .map(|(key, value)| {
                let values = match key.as_str() {
                    "upstream" | "directory" | "mirror" => value.split_whitespace().map(str::to_owned).collect(),
                    _ => vec![value],
                };
                (key, values)
            })
            .collect();
        self.layers.push(Layer {
            name: |key| format!("{PREFIX}{}", key.to_ascii_uppercase()),
            is_strict: false,
            values,
        });
    }

    /// Adds values that a command stands for, where no other layer says something else.
    pub fn add_defaults(&mut self, defaults: impl IntoIterator<Item = (String, String)>) {
        self.layers.push(Layer {
            name: |key| format!("{key} of the command"),
            is_strict: false,
            values: defaults.into_iter().map(|(key, value)| (key, vec![value])).collect(),
        });
    }

    /// Adds the text of a TOML file; what is wrong with it is reported with everything else.
    pub fn add_toml(&mut self, text: &str, path: &str) {
        let table: toml::Table = match text.parse() {
            Ok(table) => table,
            Err(error) => {
                self.mistakes.push(format!("{path}: {}", error.to_string().trim_end()));
                return;
            }
        };
        let mut values = BTreeMap::new();
        for (key, value) in &table {
            self.flatten(key, value, path, &mut values);
        }
        self.layers.push(Layer {
            name: |key| format!("{key} in the configuration file"),
            is_strict: true,
            values,
        });
    }

    fn flatten(&mut self, key: &str, value: &toml::Value, path: &str, into: &mut BTreeMap<String, Vec<String>>) {
        match value {
            toml::Value::Table(table) => {
                for (inner, value) in table {
                    self.flatten(&format!("{key}.{inner}"), value, path, into);
                }
            }
            toml::Value::Array(list) => {
                let texts = list.iter().filter_map(|value| {
                    text_of(value).or_else(|| {
                        self.mistakes.push(format!("{path}: {key} is a list of texts"));
                        None
                    })
                });
                let texts = texts.collect();
                into.insert(key.to_owned(), texts);
            }
            value => {
                into.insert(key.to_owned(), text_of(value).into_iter().collect());
            }
        }
    }

    /// The values of `key` in the strongest layer that has it, with the name it goes by there.
    pub(super) fn find(&self, key: &str) -> Option<(String, &[String])> {
        self.layers.iter().find_map(|layer| {
            let values = layer.values.get(key)?;
            Some(((layer.name)(key), values.as_slice()))
        })
    }

    /// All keys.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.layers
            .iter()
            .flat_map(|layer| layer.values.keys().map(String::as_str))
    }

    /// The keys of the layers in which a key of no effect is a mistake, or of those in which it is none, each with the
    /// name that it goes by.
    pub(super) fn named_keys(&self, strict: bool) -> impl Iterator<Item = (&str, String)> {
        let layers = self.layers.iter().filter(move |layer| layer.is_strict == strict);
        layers.flat_map(|layer| layer.values.keys().map(|key| (key.as_str(), (layer.name)(key))))
    }

    pub(super) fn mistakes(&self) -> &[String] {
        &self.mistakes
    }
}

fn text_of(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        toml::Value::Boolean(truth) => Some(truth.to_string()),
        _ => None,
    }
}
