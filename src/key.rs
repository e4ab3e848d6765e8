//! The name of an object: the URL it stands for, in one spelling.
//!
//! Equal spellings share one key (`%7e` and `~`, `%c3` and `%C3`), different resources never do:
//! scheme, host, port, path and query are all part of it (a key without the host let one site answer
//! for another elsewhere). Fragments and credentials never are. The digest of the key names things
//! on disk, so a name of any length or alphabet is a short and harmless file name.

use std::fmt;
use url::Url;

/// The canonical URL of an object: what is stored is stored under this.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ObjectKey {
    url: String,
    id: ObjectId,
}

impl ObjectKey {
    /// The key of `url`, without its fragment and credentials.
    pub fn of(url: &Url) -> Self {
        let mut bare = url.clone();
        bare.set_fragment(None);
        // Fails only for URLs that cannot have credentials; then there are none to remove.
        let _ = bare.set_username("");
        let _ = bare.set_password(None);
        let url = one_spelling(bare.as_str());
        let id = ObjectId::digest(&url);
        Self { url, id }
    }

    /// The key of one of several representations under the same URL; `name` tells them apart.
    #[must_use]
    pub fn variant(&self, name: &str) -> Self {
        Self {
            url: self.url.clone(),
            // No canonical URL has a line break in it.
            id: ObjectId::digest(&format!("{}\n{name}", self.url)),
        }
    }

    /// The canonical URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The digest that names the object on disk and in the API.
    pub fn id(&self) -> ObjectId {
        self.id
    }
}

/// The first 128 bits of the BLAKE3 digest of an object's canonical URL.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectId([u8; 16]);

impl ObjectId {
    fn digest(url: &str) -> Self {
        let mut id = [0; 16];
        id.copy_from_slice(&blake3::hash(url.as_bytes()).as_bytes()[..16]);
        Self(id)
    }

    /// The id whose bytes these are; `None` unless there are 16.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The 16 bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Reads the 32 hexadecimal digits that [`fmt::Display`] prints.
    pub fn parse(text: &str) -> Option<Self> {
        from_hex(text).map(Self)
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hex(&self.0).fmt(f)
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Bytes as hexadecimal digits, two for each, in lower case.
#[derive(Debug, Clone, Copy)]
pub struct Hex<'a>(pub &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The `N` bytes that a [`Hex`] has printed; `None` for any other text. Capital digits are read too.
pub fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    // `from_str_radix` would take a sign for a digit.
    if digits.len() != 2 * N || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

/// One digest of several texts, whatever is in each.
pub fn digest_of(parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}

/// RFC 3986 §6.2.2: unreserved characters bare, all other escapes with capital digits.
fn one_spelling(url: &str) -> String {
    let bytes = url.as_bytes();
    let mut out = String::with_capacity(url.len());
    let mut at = 0;
    while at < bytes.len() {
        if let Some(value) = escaped(&bytes[at..]) {
            if value.is_ascii_alphanumeric() || b"-._~".contains(&value) {
                out.push(char::from(value));
            } else {
                out.push_str(&format!("%{value:02X}"));
            }
            at += 3;
        } else {
            // `Url` prints ASCII only, so a byte is a character.
            out.push(char::from(bytes[at]));
            at += 1;
        }
    }
    out
}

fn escaped(bytes: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = *bytes else {
        return None;
    };
    let value = |digit: u8| char::from(digit).to_digit(16);
    u8::try_from(value(high)? * 16 + value(low)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(url: &str) -> ObjectKey {
        ObjectKey::of(&Url::parse(url).expect("a URL"))
    }

    #[test]
    fn equal_spellings_share_a_key() {
        assert_eq!(key("http://h/%7Efilm%2ca"), key("HTTP://H:80/~film%2Ca"));
        assert_eq!(key("http://user:pw@h/a#part"), key("http://h/a"));
        assert_eq!(key("http://h/é"), key("http://h/%c3%a9"));
    }

    #[test]
    fn an_id_is_read_from_hexadecimal_digits_and_nothing_else() {
        let id = key("http://h/a").id();
        assert_eq!(ObjectId::parse(&id.to_string()), Some(id));
        assert_eq!(ObjectId::parse(&id.to_string().to_uppercase()), Some(id));
        for text in [
            "",
            "aa",
            &"+f".repeat(16),
            &" f".repeat(16),
            &"é".repeat(16),
            &"f".repeat(33),
        ] {
            assert_eq!(ObjectId::parse(text), None, "{text}");
        }
    }

    #[test]
    fn different_resources_never_share_a_key() {
        let urls = [
            "http://h/a",
            "https://h/a",
            "http://h:81/a",
            "http://i/a",
            "http://h/a?x",
            "http://h/a?",
            "http://h/A",
            "http://h/a/",
            "http://h/a%2Fb",
            "http://h/a/b",
            "http://h/a+b",
            "http://h/a%20b",
            "http://h/e%CC%81",
            "http://h/%C3%A9",
            "http://h/a%2Bb",
        ];
        for (index, left) in urls.iter().enumerate() {
            for right in &urls[index + 1..] {
                assert_ne!(key(left), key(right), "{left} and {right}");
            }
        }
    }

    #[test]
    fn variants_share_the_url_and_not_the_id() {
        let base = key("http://h/a");
        let (german, french) = (
            base.variant("1:accept-language=de"),
            base.variant("1:accept-language=fr"),
        );
        assert_eq!(german.url(), base.url());
        assert_ne!(german.id(), base.id());
        assert_ne!(german.id(), french.id());
        assert_eq!(german, base.variant("1:accept-language=de"));
    }

    #[test]
    fn an_object_id_is_read_as_it_is_printed() {
        let id = key("http://h/a").id();
        assert_eq!(ObjectId::parse(&id.to_string()), Some(id));
        for bad in ["", "xyz", "é0000000000000000000000000000000", &"0".repeat(33)] {
            assert_eq!(ObjectId::parse(bad), None);
        }
    }
}
