//! Bearer tokens with scopes, of which only hashes are stored. Pure but for making one.
//!
//! ```toml
//! [laptop]                        # the caller's name in the access log
//! sha256 = "9f86d081884c7d65…"    # of the token
//! scopes = ["play", "write"]      # of play, look, write and rule
//! prefix = "/films/"              # left out: everywhere
//!
//! [anonymous]                     # callers without a token; left out: they may do nothing
//! scopes = ["play"]
//! ```
//!
//! A token is 256 random bits, made by us: no dictionary has it, so a plain hash keeps it as well as a slow one would.

use super::right::{Right, Rights};
use crate::crypto::digest::{SHA256, digest};
use crate::crypto::{is_same_secret, random};
use crate::directory::{Digest, TreePath};
use crate::key::Hex;
use serde::Deserialize;
use std::collections::BTreeMap;

/// The name of callers without a token.
const ANONYMOUS: &str = "anonymous";

/// The start of every token, by which people and scanners for secrets recognise one.
const TOKEN_PREFIX: &str = "millpond_";

/// The rights of the holder of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRights {
    /// The token's name; `None` for callers without one.
    pub name: Option<String>,
    /// The rights.
    pub rights: Rights,
    /// The path beneath which they count.
    pub prefix: TreePath,
}

impl TokenRights {
    fn none() -> Self {
        Self {
            name: None,
            rights: Rights::default(),
            prefix: TreePath::root(),
        }
    }
}

/// The tokens of one file.
#[derive(Debug, Clone)]
pub struct Tokens {
    known: Vec<(Digest, TokenRights)>,
    anonymous: TokenRights,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    sha256: Option<String>,
    scopes: Vec<Right>,
    prefix: Option<String>,
}

impl Tokens {
    /// Parses a file of tokens.
    ///
    /// # Errors
    /// The first mistake in it, in words.
    pub fn read(text: &str) -> Result<Self, String> {
        let entries: BTreeMap<String, Entry> = toml::from_str(text).map_err(|error| error.to_string())?;
        let mut tokens = Self {
            known: Vec::new(),
            anonymous: TokenRights::none(),
        };
        for (name, entry) in entries {
            let prefix = match entry.prefix.as_deref() {
                None => TreePath::root(),
                Some(text) if text.starts_with('/') => {
                    TreePath::parse(text).map_err(|error| format!("[{name}] prefix: {error}"))?
                }
                Some(_) => return Err(format!("[{name}] prefix: it begins with a slash, like /films/")),
            };
            let caller = TokenRights {
                name: (name != ANONYMOUS).then(|| name.clone()),
                rights: Rights::of(&entry.scopes),
                prefix,
            };
            match (name.as_str(), entry.sha256) {
                (ANONYMOUS, None) => tokens.anonymous = caller,
                (ANONYMOUS, Some(_)) => {
                    return Err("[anonymous] has a sha256, but is for those without a token".to_owned());
                }
                (_, None) => return Err(format!("[{name}] has no sha256; millpond token add makes one")),
                (_, Some(hash)) => {
                    let hash =
                        from_hex(&hash).ok_or_else(|| format!("[{name}] sha256: it is not 64 hexadecimal digits"))?;
                    tokens.known.push((hash, caller));
                }
            }
        }
        Ok(tokens)
    }

    /// The rights of that token; `None` where there is no such token. All hashes are compared, each in constant time: the
    /// time taken tells nothing of them.
    pub fn of(&self, token: &str) -> Option<&TokenRights> {
        let hash = token_hash(token);
        let mut found = None;
        for (known, caller) in &self.known {
            if is_same_secret(known, &hash) {
                found = Some(caller);
            }
        }
        found
    }

    /// The rights of callers without a token.
    pub fn anonymous(&self) -> &TokenRights {
        &self.anonymous
    }

    /// A line for each token, with its rights, for people.
    pub fn describe(&self) -> Vec<String> {
        let line = |caller: &TokenRights| {
            let name = caller.name.as_deref().unwrap_or(ANONYMOUS);
            format!("{name}\t{}\t{}", caller.rights.names(), caller.prefix)
        };
        let anonymous = Some(&self.anonymous).filter(|caller| caller.rights != Rights::default());
        self.known
            .iter()
            .map(|(_, caller)| caller)
            .chain(anonymous)
            .map(line)
            .collect()
    }
}

/// A new token, and the entry of the file that has its hash.
///
/// # Errors
/// Where the name or the prefix cannot stand in the file.
pub fn new_token(name: &str, rights: Rights, prefix: Option<&str>) -> Result<(String, String), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if name.is_empty() || !name.chars().all(plain) || name == ANONYMOUS {
        return Err(format!(
            "{name:?} cannot be the name of a token; use letters, digits, - and _"
        ));
    }
    let secret: [u8; 32] = random().map_err(|error| format!("no token is made: {error}"))?;
    let token = format!("{TOKEN_PREFIX}{}", Hex(&secret));
    let hash: String = token_hash(&token).iter().map(|byte| format!("{byte:02x}")).collect();
    let scopes = rights.names().replace(',', "\", \"");
    let mut lines = format!("[{name}]\nsha256 = \"{hash}\"\nscopes = [\"{scopes}\"]\n");
    if let Some(prefix) = prefix {
        let path = TreePath::parse(prefix).map_err(|error| format!("--prefix: {error}"))?;
        if !prefix.starts_with('/') {
            return Err("--prefix: it begins with a slash, like /films/".to_owned());
        }
        lines.push_str(&format!("prefix = \"{}\"\n", path.with_slash()));
    }
    Ok((token, lines))
}

fn token_hash(token: &str) -> Digest {
    let mut hash = Digest::default();
    hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    hash
}

fn from_hex(text: &str) -> Option<Digest> {
    let mut hash = Digest::default();
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (index, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(index * 2..index * 2 + 2)?, 16).ok()?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(raw: &str) -> TreePath {
        TreePath::parse(raw).expect("a path")
    }

    #[test]
    fn a_token_is_known_by_its_hash_and_held_to_its_scopes() {
        let writes = Rights::of(&[Right::Play, Right::Write]);
        let (secret, lines) = new_token("laptop", writes, Some("/films")).expect("made");
        let (reader, more) = new_token("tv", Rights::of(&[Right::Play]), None).expect("made");
        assert!(
            !lines.contains(&secret) && lines.contains("scopes = [\"play\", \"write\"]"),
            "{lines}"
        );
        let tokens = Tokens::read(&format!("{lines}\n{more}")).expect("valid");
        let laptop = tokens.of(&secret).expect("known");
        assert_eq!((laptop.name.as_deref(), laptop.rights), (Some("laptop"), writes));
        assert_eq!(laptop.prefix, path("/films/"));
        assert_eq!(tokens.of(&reader).expect("known").rights, Rights::of(&[Right::Play]));
        assert!(tokens.of("").is_none() && tokens.of(&secret[1..]).is_none());
        assert_eq!(tokens.anonymous().rights, Rights::default());
    }

    #[test]
    fn requests_without_a_token_have_the_anonymous_scopes() {
        let tokens = Tokens::read("[anonymous]\nscopes = [\"read\", \"look\"]\nprefix = \"/pub/\"").expect("valid");
        let anonymous = tokens.anonymous();
        assert_eq!(anonymous.rights, Rights::of(&[Right::Play, Right::Look]));
        assert_eq!(anonymous.prefix, path("/pub/"));
        assert_eq!(tokens.describe(), ["anonymous\tplay,look\t/pub/"]);
    }

    #[test]
    fn a_malformed_tokens_file_is_refused_with_its_reason() {
        for (text, part) in [
            ("[a]\nscopes = [\"read\"]", "no sha256"),
            ("[a]\nsha256 = \"12\"\nscopes = []", "64 hexadecimal"),
            ("[a]\nsha256 = \"12\"\nscopes = [\"all\"]", "all"),
            ("[a]\nsha256 = \"12\"\nscopes = []\nuntil = 1", "until"),
            ("[anonymous]\nscopes = []\nprefix = \"a\"", "slash"),
            ("[anonymous]\nscopes = []\nsha256 = \"\"", "without a token"),
            ("rubbish", ""),
        ] {
            let mistake = Tokens::read(text).expect_err("wrong");
            assert!(mistake.contains(part), "{mistake}");
        }
        assert!(new_token("a b", Rights::all(), None).is_err() && new_token("anonymous", Rights::all(), None).is_err());
        assert!(new_token("a", Rights::all(), Some("films")).is_err());
    }

    #[test]
    fn fuzzed_files_of_tokens_are_read_or_refused() {
        crate::fuzzing::fuzz("tokens", |text| {
            if let Ok(tokens) = Tokens::read(&String::from_utf8_lossy(text)) {
                let _ = (tokens.describe(), tokens.of("millpond_x"));
            }
        });
    }
}
