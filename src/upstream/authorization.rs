//! The operator's credential for an upstream, which stands in a file: it is in no command line, log or answer.
//!
//! The file has one line: the value of `Authorization` (`Bearer TOKEN`, `Basic …`), or `USER:PASSWORD`. It is read when the
//! server starts, and again by [`Authorization::reload`], so that a credential that was renewed needs no restart. A file
//! that has gone or does not read leaves the credential as it was.

use crate::sync::lock;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::HeaderValue;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// The credential of one upstream.
pub struct Authorization {
    path: PathBuf,
    /// Held for a copy or a replacement.
    value: Mutex<HeaderValue>,
}

impl Authorization {
    /// Reads the credential in the file.
    ///
    /// # Errors
    /// What is wrong with the file, and the mend.
    pub fn read(path: &Path) -> Result<Self, String> {
        Ok(Self {
            path: path.to_owned(),
            value: Mutex::new(read(path)?),
        })
    }

    /// The value of `Authorization`.
    pub fn value(&self) -> HeaderValue {
        lock(&self.value).clone()
    }

    /// A digest that tells one credential from another, and nothing of either.
    pub fn id(&self) -> [u8; 16] {
        let digest = blake3::derive_key("millpond upstream credential", self.value().as_bytes());
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        id
    }

    /// Reads the file again: for a thread that may wait for the disk.
    pub fn reload(&self) {
        match read(&self.path) {
            Ok(value) => *lock(&self.value) = value,
            Err(error) => tracing::warn!(%error, "the upstream's credential stays as it was"),
        }
    }
}

impl std::fmt::Debug for Authorization {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authorization")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

fn read(path: &Path) -> Result<HeaderValue, String> {
    let wrong = |what: &str| {
        format!(
            "{}: {what}; write one line, Bearer TOKEN or USER:PASSWORD",
            path.display()
        )
    };
    let text = std::fs::read_to_string(path).map_err(|error| wrong(&error.to_string()))?;
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let line = lines.next().ok_or_else(|| wrong("it is empty"))?;
    if lines.next().is_some() {
        return Err(wrong("it has more than one line"));
    }
    let value = match line.split_once(' ') {
        Some((scheme, _)) if scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') => line.to_owned(),
        _ if line.contains(':') => format!("Basic {}", STANDARD.encode(line)),
        _ => return Err(wrong("it has no scheme")),
    };
    let mut value = HeaderValue::from_str(&value).map_err(|_| wrong("it has letters that no field takes"))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Result<String, String> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("credential");
        std::fs::write(&path, text).expect("written");
        let read = Authorization::read(&path)?;
        Ok(read.value().to_str().expect("text").to_owned())
    }

    #[test]
    fn a_credential_is_a_field_or_a_name_with_a_password() {
        assert_eq!(value("Bearer abc\n").as_deref(), Ok("Bearer abc"));
        assert_eq!(value("user:pass word\n").as_deref(), Ok("Basic dXNlcjpwYXNzIHdvcmQ="));
        for (text, part) in [("", "empty"), ("abc", "scheme"), ("Bearer a\nBearer b", "one line")] {
            let mistake = value(text).expect_err("mistaken");
            assert!(mistake.contains(part) && mistake.contains("USER:PASSWORD"), "{mistake}");
        }
    }

    #[test]
    fn a_credential_is_shown_nowhere() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("credential");
        std::fs::write(&path, "Bearer secret").expect("written");
        let read = Authorization::read(&path).expect("a credential");
        assert!(!format!("{read:?} {:?}", read.value()).contains("secret"));
        std::fs::write(&path, "Bearer renewed").expect("written");
        let before = read.id();
        read.reload();
        assert_eq!(read.value().as_bytes(), b"Bearer renewed");
        assert_ne!(read.id(), before);
        std::fs::remove_file(&path).expect("removed");
        read.reload();
        assert_eq!(read.value().as_bytes(), b"Bearer renewed", "it stays as it was");
    }
}
