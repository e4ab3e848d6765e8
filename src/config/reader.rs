//! Reading settings out of the layers, so that all mistakes are told at once.
//!
//! A [`Reader`] takes the text of a key from the strongest layer that has it, else the default, and hands it to a function
//! that makes a value or says the mistake in words. A mistake is noted with the name under which the key was given, the
//! value is missing (`None`), and reading goes on: a configuration is made only where nothing was missing.

use super::source::Layers;

/// The layers, and the mistakes that were met in them.
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

    /// The value of a setting. Several texts under one key are one text with spaces between them.
    pub(super) fn read<T>(
        &mut self,
        key: &str,
        default: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let (name, text) = match self.layers.find(key) {
            Some((name, values)) => (name, values.join(" ")),
            None => (key.to_owned(), default.to_owned()),
        };
        parse(text.trim())
            .map_err(|mistake| self.mistakes.push(format!("{name}: {text:?} {mistake}")))
            .ok()
    }

    /// The value of a setting of one mount, where it has one of its own.
    pub(super) fn read_own<T>(&mut self, key: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        self.layers.find(key).is_some().then(|| self.read(key, "", parse))?
    }

    /// The values of a setting that can be given several times, with the name that it goes by.
    pub(super) fn list(&self, key: &str) -> Vec<(String, String)> {
        let listed = self.layers.find(key);
        let values = listed.into_iter().flat_map(|(name, values)| {
            let values = values.iter();
            values.map(move |value| (name.clone(), value.clone()))
        });
        values.collect()
    }

    pub(super) fn mistake(&mut self, name: &str, what: impl std::fmt::Display) {
        self.mistakes.push(format!("{name}: {what}"));
    }
}
