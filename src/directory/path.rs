//! A request's path as names in the tree. Pure.
//!
//! A path is split at `/` first; then each segment is decoded once, and never again. So `%2F` can be no part of a
//! name, `%252e` is the name `%2e`, and no spelling leads upwards. `+`, `(`, `;` and their like are letters. Equal
//! spellings (`%41` and `A`) make equal paths, and so one lock and one tag.
//!
//! A path that is refused here is refused for every method and before the disk is touched: a server that resolves `..`
//! otherwise than the proxy before it is a hole.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use std::fmt;

/// The longest segment, in bytes: `NAME_MAX` of Linux.
const MAX_SEGMENT_BYTES: usize = 255;

/// The longest segment of an upstream's path, in bytes: what S3 allows for a whole key. No file system need take it.
const MAX_UPSTREAM_SEGMENT_BYTES: usize = 1024;

/// The deepest path, in segments: a judgement.
const MAX_DEPTH: usize = 128;

/// The characters that are not escaped in a path that we print: RFC 3986's unreserved ones alone. Programs made with
/// neon (cadaver) write it so, and look for their own spelling in an answer; and no relative reference looks like one
/// with a scheme.
const UNESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The directory at the root in which staging lies; no path can name it.
pub(super) const STAGING_DIR: &str = ".millpond";

/// The start of the names of staged bodies, wherever they lie; no path can name them, in any case of letters.
pub(super) const STAGED_PREFIX: &str = ".millpond-";

/// The reason for which a path names nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// A `%` without two hexadecimal digits.
    #[error("the path has a % that is not followed by two hexadecimal digits; write %25 for the sign itself")]
    BadEscape,
    /// A slash, a backslash or a control character, however spelled.
    #[error(
        "the path has a slash, a backslash, a control character, no character at all or a # within a name; write %23 for the last"
    )]
    Forbidden,
    /// `.` or `..`, however spelled.
    #[error("the path has a . or .. segment; resolve it before asking")]
    Dots,
    /// `//`.
    #[error("the path has an empty segment; write one slash")]
    Empty,
    /// Bytes that are not UTF-8.
    #[error("the path is not UTF-8 when decoded")]
    NotText,
    /// A segment that no file system takes.
    #[error("a name in the path is longer than file systems take (255 bytes), or than an upstream may have it (1024)")]
    Long,
    /// More segments than are served.
    #[error("the path has more than 128 segments")]
    Deep,
}

/// A path in the tree: decoded names, none of them empty, `.` or `..`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TreePath {
    names: Vec<String>,
    /// The path ends in a slash: it can only be a collection.
    slash: bool,
}

impl TreePath {
    /// The root of the tree.
    pub fn root() -> Self {
        Self {
            names: Vec::new(),
            slash: true,
        }
    }

    /// Parses the path of a request target, as it came.
    ///
    /// # Errors
    /// Where it names nothing that could be in the tree.
    pub fn parse(raw: &str) -> Result<Self, PathError> {
        Self::parse_within(raw, MAX_SEGMENT_BYTES)
    }

    /// Parses a path of an upstream, whose names may be longer than a file system here would take.
    ///
    /// # Errors
    /// Where it names nothing that could be in a tree.
    pub fn parse_upstream(raw: &str) -> Result<Self, PathError> {
        Self::parse_within(raw, MAX_UPSTREAM_SEGMENT_BYTES)
    }

    /// Decodes one segment of an upstream's path.
    ///
    /// # Errors
    /// Where it is no name.
    pub fn decode_name(segment: &str) -> Result<String, PathError> {
        decode_segment(segment, MAX_UPSTREAM_SEGMENT_BYTES)
    }

    /// Whether a name that is not encoded can be a segment of an upstream's path.
    ///
    /// # Errors
    /// Why not.
    pub fn check_name(name: &str) -> Result<(), PathError> {
        check_name(name, MAX_UPSTREAM_SEGMENT_BYTES)
    }

    fn parse_within(raw: &str, most: usize) -> Result<Self, PathError> {
        let rest = raw.strip_prefix('/').unwrap_or(raw);
        if rest.is_empty() {
            return Ok(Self::root());
        }
        let (rest, slash) = rest.strip_suffix('/').map_or((rest, false), |rest| (rest, true));
        let names = rest.split('/').map(|segment| decode_segment(segment, most));
        let names = names.collect::<Result<Vec<_>, _>>()?;
        match names.len() {
            0..=MAX_DEPTH => Ok(Self { names, slash }),
            _ => Err(PathError::Deep),
        }
    }

    /// The names, from the root.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The last name; `None` for the root.
    pub fn name(&self) -> Option<&str> {
        self.names.last().map(String::as_str)
    }

    /// Whether this is the root.
    pub fn is_root(&self) -> bool {
        self.names.is_empty()
    }

    /// Whether the path ends in a slash.
    pub fn has_slash(&self) -> bool {
        self.slash
    }

    /// The parent collection; the root is its own.
    #[must_use]
    pub fn parent(&self) -> Self {
        let above = self.names.len().saturating_sub(1);
        Self {
            names: self.names[..above].to_vec(),
            slash: true,
        }
    }

    /// The entry of that name in this collection.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        let names = self.names.iter().cloned().chain([name.to_owned()]).collect();
        Self { names, slash: false }
    }

    /// The path as seen from above the tree, whose root is called `name` there.
    #[must_use]
    pub fn beneath(&self, name: &str) -> Self {
        let names = std::iter::once(name.to_owned()).chain(self.names.iter().cloned());
        Self {
            names: names.collect(),
            slash: self.slash,
        }
    }

    /// The path without its slash: locks and caches compare such.
    #[must_use]
    pub fn without_slash(&self) -> Self {
        Self {
            names: self.names.clone(),
            slash: false,
        }
    }

    /// The path with a slash, as of a collection.
    #[must_use]
    pub fn with_slash(&self) -> Self {
        Self {
            names: self.names.clone(),
            slash: true,
        }
    }

    /// Whether this is `other` or beneath it.
    pub fn is_within(&self, other: &Self) -> bool {
        self.names.starts_with(&other.names)
    }

    /// Whether a name in it begins with a dot.
    pub fn is_hidden(&self) -> bool {
        self.names.iter().any(|name| name.starts_with('.'))
    }

    /// Whether it is one of millpond's own.
    pub fn is_reserved(&self) -> bool {
        self.names.first().is_some_and(|name| is_reserved_at_root(name))
            || self.names.iter().any(|name| is_unfinished(name))
    }

    /// The reason for which the last name would not do on other systems; `None` where it would.
    pub fn unportable(&self) -> Option<&'static str> {
        let name = self.name()?;
        let stem = name.split('.').next().unwrap_or_default().to_ascii_uppercase();
        let numbered = |prefix: &str| {
            stem.strip_prefix(prefix)
                .is_some_and(|rest| rest.len() == 1 && rest.bytes().all(|byte| byte.is_ascii_digit()))
        };
        match name {
            _ if matches!(stem.as_str(), "CON" | "PRN" | "AUX" | "NUL") || numbered("COM") || numbered("LPT") => {
                Some("is the name of a device on some systems")
            }
            _ if name.ends_with(['.', ' ']) => Some("ends in a dot or a space, which some systems drop"),
            _ if name.contains(['<', '>', ':', '"', '|', '?', '*']) => {
                Some("has one of <>:\"|?*, which some systems do not allow")
            }
            _ => None,
        }
    }
}

/// The path as it stands in a URL, in the one spelling that we print.
impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for name in &self.names {
            write!(f, "/{}", encode_segment(name))?;
        }
        f.write_str(if self.slash { "/" } else { "" })
    }
}

/// A name as a segment of a URL's path.
pub fn encode_segment(name: &str) -> impl fmt::Display + '_ {
    utf8_percent_encode(name, UNESCAPED)
}

/// Whether the name, at the root, is millpond's own: `/-/` and staging.
pub(super) fn is_reserved_at_root(name: &str) -> bool {
    name == "-" || name.eq_ignore_ascii_case(STAGING_DIR) || is_unfinished(name)
}

/// Whether the name is of a staged body, at any depth. Some file systems take other letters for the same name.
pub(super) fn is_unfinished(name: &str) -> bool {
    let start = name.as_bytes().get(..STAGED_PREFIX.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(STAGED_PREFIX.as_bytes()))
}

/// Whether a path can lead to a file of that name. Our own writes make no others, other programs may. The last two
/// code points are no characters, and no XML can hold them.
pub(super) fn can_be_named(name: &str) -> bool {
    !name.contains(['\\', '\u{fffe}', '\u{ffff}']) && !name.chars().any(|c| c.is_ascii_control())
}

/// A key that is the same for all spellings which some file systems take for one name.
pub(super) fn case_folded(name: &str) -> String {
    use unicode_normalization::UnicodeNormalization;
    // Composed once more at the end: a letter in lower case may be two code points.
    name.nfc().flat_map(char::to_lowercase).nfc().collect()
}

fn decode_segment(segment: &str, most: usize) -> Result<String, PathError> {
    let escapes = segment.split('%').skip(1);
    let whole = |escape: &str| {
        let digits = escape.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    if !escapes.into_iter().all(whole) {
        return Err(PathError::BadEscape);
    }
    let name = percent_decode_str(segment)
        .decode_utf8()
        .map_err(|_| PathError::NotText)?;
    check_name(&name, most)?;
    Ok(name.into_owned())
}

/// Whether a decoded name of at most so many bytes can be a segment.
fn check_name(name: &str, most: usize) -> Result<(), PathError> {
    match name {
        "" => Err(PathError::Empty),
        "." | ".." => Err(PathError::Dots),
        _ if name.contains('/') || !can_be_named(name) => Err(PathError::Forbidden),
        _ if name.len() > most => Err(PathError::Long),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(raw: &str) -> Result<Vec<String>, PathError> {
        TreePath::parse(raw).map(|path| path.names)
    }

    #[test]
    fn a_segment_is_decoded_once_and_never_again() {
        assert_eq!(names("/a%20b/%2525"), Ok(vec!["a b".to_owned(), "%25".to_owned()]));
        assert_eq!(names("/%252e%252e/x"), Ok(vec!["%2e%2e".to_owned(), "x".to_owned()]));
        assert_eq!(names("/a+b(c);d=e"), Ok(vec!["a+b(c);d=e".to_owned()]));
        assert_eq!(TreePath::parse("/%41%7e"), TreePath::parse("/A~"));
    }

    #[test]
    fn no_spelling_leads_out_of_the_tree() {
        for (raw, why) in [
            ("/..", PathError::Dots),
            ("/a/../b", PathError::Dots),
            ("/%2e%2E/b", PathError::Dots),
            ("/.", PathError::Dots),
            ("/%2e/", PathError::Dots),
            ("/a%2fb", PathError::Forbidden),
            ("/..%2Fb", PathError::Forbidden),
            ("/..%5cb", PathError::Forbidden),
            ("/a\\b", PathError::Forbidden),
            ("/a%00", PathError::Forbidden),
            ("/%EF%BF%BE", PathError::Forbidden),
            ("/a%0d%0a", PathError::Forbidden),
            ("/a//b", PathError::Empty),
            ("//", PathError::Empty),
            ("/a%2", PathError::BadEscape),
            ("/a%zz", PathError::BadEscape),
            ("/%ff", PathError::NotText),
        ] {
            assert_eq!(names(raw), Err(why), "{raw}");
        }
        assert_eq!(names(&format!("/{}", "a".repeat(256))), Err(PathError::Long));
        assert_eq!(names(&"/a".repeat(129)), Err(PathError::Deep));
    }

    #[test]
    fn a_path_is_printed_in_the_spelling_that_listings_use() {
        for (raw, printed) in [
            ("/a b", "/a%20b"),
            ("/%3F%23%25", "/%3F%23%25"),
            ("/()+;:@&=,", "/%28%29%2B%3B%3A%40%26%3D%2C"),
            ("/%C3%A9/", "/%C3%A9/"),
            ("/", "/"),
            ("", "/"),
        ] {
            assert_eq!(TreePath::parse(raw).expect("a path").to_string(), printed);
        }
    }

    #[test]
    fn reserved_and_hidden_paths_are_told_from_ordinary_ones() {
        let path = |raw| TreePath::parse(raw).expect("a path");
        assert!(path("/.millpond/x").is_reserved());
        assert!(path("/a/.millpond-1").is_reserved());
        assert!(path("/.MillPond/x").is_reserved() && path("/a/.MILLPOND-1").is_reserved());
        assert!(path("/-/x").is_reserved());
        assert!(!path("/a/-").is_reserved() && !path("/a/.millpond").is_reserved());
        assert!(path("/a/.b/c").is_hidden() && !path("/a.b").is_hidden());
    }

    #[test]
    fn portable_names_are_those_that_every_system_takes() {
        let path = |raw| TreePath::parse(raw).expect("a path");
        for raw in ["/con", "/NUL.txt", "/com1", "/a.", "/a%20", "/a:b", "/a%3F"] {
            assert!(path(raw).unportable().is_some(), "{raw}");
        }
        for raw in ["/console", "/com10", "/a.b", "/é", "/lpt"] {
            assert!(path(raw).unportable().is_none(), "{raw}");
        }
    }

    #[test]
    fn names_that_differ_in_case_or_normal_form_fold_alike() {
        assert_eq!(case_folded("\u{e9}A"), case_folded("E\u{301}a"));
        assert_ne!(case_folded("a"), case_folded("b"));
    }

    proptest! {
        #[test]
        fn no_parsed_path_leads_upwards(raw in "[/.%2eEfF5cC0a\\\\é ]{0,40}") {
            if let Ok(path) = TreePath::parse(&raw) {
                for name in path.names() {
                    prop_assert!(!name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', '\0']));
                }
                prop_assert_eq!(TreePath::parse(&path.to_string()), Ok(path));
            }
        }
    }

    #[test]
    fn fuzzed_paths_have_names_that_stay_in_the_tree() {
        crate::fuzzing::fuzz("path", |raw| {
            let Ok(path) = TreePath::parse(&String::from_utf8_lossy(raw)) else {
                return;
            };
            let is_name = |name: &str| !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0']);
            assert!(path.names().iter().all(|name| is_name(name)), "{path}");
            assert_eq!(
                TreePath::parse(&path.to_string()).expect("printed").names(),
                path.names()
            );
        });
    }
}
