//! Bearer tokens with scopes, of which only hashes are stored. Pure but for making one.
//!
//! ```toml
//! [laptop]                        # the caller's name in the access log
//! sha256 = "9f86d081884c7d65…"    # of the token
//! scopes = ["read", "write"]
//! prefix = "/films/"              # left out: everywhere
//!
//! [anonymous]                     # callers without a token; left out: they may do nothing
//! scopes = ["read"]
//! ```
//!
//! A token is 256 random bits, made by us: no dictionary has it, so a plain hash keeps it as well as a slow one would.

use super::path::TreePath;
use super::sha256::Digest;
use crate::crypto::digest::{SHA256, digest};
use crate::crypto::{is_same_secret, random};
use crate::key::Hex;
use serde::Deserialize;
use std::collections::BTreeMap;

/// The name of callers without a token.
const ANONYMOUS: &str = "anonymous";

/// The start of every token, by which people and scanners for secrets recognise one.
const TOKEN_PREFIX: &str = "millpond_";

/// A right that a scope gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Right {
    /// Read and list.
    Read,
    /// Change.
    Write,
}

/// A caller, with the rights of its token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The token's name; `None` without one.
    pub name: Option<String>,
    rights: Vec<Right>,
    prefix: TreePath,
}

impl Caller {
    /// A caller with every right, where there is no file of tokens.
    pub fn unrestricted() -> Self {
        Self {
            name: None,
            rights: vec![Right::Read, Right::Write],
            prefix: TreePath::root(),
        }
    }

    /// A caller without rights.
    fn without_rights() -> Self {
        Self {
            name: None,
            rights: Vec::new(),
            prefix: TreePath::root(),
        }
    }

    /// Whether the caller has that right to the path.
    pub fn may(&self, right: Right, path: &TreePath) -> bool {
        self.rights.contains(&right) && path.is_within(&self.prefix)
    }
}

/// The tokens of one file.
#[derive(Debug, Clone)]
pub struct Tokens {
    known: Vec<(Digest, Caller)>,
    anonymous: Caller,
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
            anonymous: Caller::without_rights(),
        };
        for (name, entry) in entries {
            let prefix = match entry.prefix.as_deref() {
                None => TreePath::root(),
                Some(text) if text.starts_with('/') => {
                    TreePath::parse(text).map_err(|error| format!("[{name}] prefix: {error}"))?
                }
                Some(_) => return Err(format!("[{name}] prefix: it begins with a slash, like /films/")),
            };
            let caller = Caller {
                name: (name != ANONYMOUS).then(|| name.clone()),
                rights: entry.scopes,
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

    /// The caller that has that token; `None` where there is no such token. All hashes are compared, each in constant
    /// time: the time taken tells nothing of them.
    pub fn caller_of(&self, token: &str) -> Option<&Caller> {
        let hash = token_hash(token);
        let mut found = None;
        for (known, caller) in &self.known {
            if is_same_secret(known, &hash) {
                found = Some(caller);
            }
        }
        found
    }

    /// The caller without a token.
    pub fn anonymous(&self) -> &Caller {
        &self.anonymous
    }

    /// A line for each token, with its rights, for people.
    pub fn describe(&self) -> Vec<String> {
        let line = |caller: &Caller| {
            let rights: Vec<&str> = caller
                .rights
                .iter()
                .map(|right| match right {
                    Right::Read => "read",
                    Right::Write => "write",
                })
                .collect();
            let name = caller.name.as_deref().unwrap_or(ANONYMOUS);
            format!("{name}\t{}\t{}", rights.join(","), caller.prefix)
        };
        let anonymous = Some(&self.anonymous).filter(|caller| !caller.rights.is_empty());
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
pub fn new_token(name: &str, writes: bool, prefix: Option<&str>) -> Result<(String, String), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if name.is_empty() || !name.chars().all(plain) || name == ANONYMOUS {
        return Err(format!(
            "{name:?} cannot be the name of a token; use letters, digits, - and _"
        ));
    }
    let secret: [u8; 32] = random().map_err(|error| format!("no token is made: {error}"))?;
    let token = format!("{TOKEN_PREFIX}{}", Hex(&secret));
    let hash: String = token_hash(&token).iter().map(|byte| format!("{byte:02x}")).collect();
    let scopes = if writes { "[\"read\", \"write\"]" } else { "[\"read\"]" };
    let mut lines = format!("[{name}]\nsha256 = \"{hash}\"\nscopes = {scopes}\n");
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
        let (secret, lines) = new_token("laptop", true, Some("/films")).expect("made");
        let (reader, more) = new_token("tv", false, None).expect("made");
        assert!(!lines.contains(&secret));
        let tokens = Tokens::read(&format!("{lines}\n{more}")).expect("valid");
        let laptop = tokens.caller_of(&secret).expect("known");
        assert_eq!(laptop.name.as_deref(), Some("laptop"));
        assert!(laptop.may(Right::Write, &path("/films/a")) && laptop.may(Right::Read, &path("/films")));
        assert!(!laptop.may(Right::Read, &path("/filmsx")) && !laptop.may(Right::Read, &path("/")));
        let tv = tokens.caller_of(&reader).expect("known");
        assert!(tv.may(Right::Read, &path("/")) && !tv.may(Right::Write, &path("/a")));
        assert!(tokens.caller_of("").is_none() && tokens.caller_of(&secret[1..]).is_none());
        assert!(!tokens.anonymous().may(Right::Read, &path("/")));
    }

    #[test]
    fn requests_without_a_token_have_the_anonymous_scopes() {
        let tokens = Tokens::read("[anonymous]\nscopes = [\"read\"]\nprefix = \"/pub/\"").expect("valid");
        assert!(tokens.anonymous().may(Right::Read, &path("/pub/a")));
        assert!(!tokens.anonymous().may(Right::Read, &path("/a")));
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
        assert!(new_token("a b", false, None).is_err() && new_token("anonymous", false, None).is_err());
        assert!(new_token("a", false, Some("films")).is_err());
    }
}
