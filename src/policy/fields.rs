//! Header fields as policy reads them: by lower-case name, all lines of one.
//!
//! A trait, since the same rules read a stored representation, a reply that is just coming and a client's request, and
//! each keeps its fields in a shape of its own. Names are compared byte for byte: they are in lower case on both sides.
//! The lines of a field stay apart, in their order; whether a field is a list is for its reader to know.

/// The header fields of a request or reply.
pub trait Fields {
    /// The lines of the field with that lower-case name, in order. A line that is no text is passed over.
    fn lines<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> + 'a;

    /// The first of them.
    fn first<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        self.lines(name).next()
    }

    /// Whether every line of the field is text, so that [`Fields::lines`] passes none over.
    fn is_text(&self, _name: &str) -> bool {
        true
    }

    /// Whether there is such a field.
    fn has(&self, name: &str) -> bool {
        self.lines(name).next().is_some()
    }
}

impl Fields for [(String, String)] {
    fn lines<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        self.iter()
            .filter(move |(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

impl Fields for [(&str, &str)] {
    fn lines<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        self.iter()
            .filter(move |(key, _)| *key == name)
            .map(|(_, value)| *value)
    }
}
