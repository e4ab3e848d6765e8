//! The places of a mirrored tree: which URL is asked for a path, and under which key it is stored.
//!
//! A path is decoded names. On the wire all but unreserved characters are escaped, which every server decodes, and which S3
//! alone tells a plus sign from a space by. Stored is under the spelling that clients use, with `(`, `+` and their like as they
//! are: one name has one key, however it comes.

use crate::directory::TreePath;
use crate::key::{ObjectKey, digest_of};
use crate::store::MirrorSource;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use url::Url;

/// The characters that stand for themselves in a key: unreserved ones, and those that RFC 3986 §3.3 allows in a segment.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'!')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b',')
    .remove(b';')
    .remove(b'=')
    .remove(b':')
    .remove(b'@');

/// The URL by which the upstream is asked for the path beneath `base`, whose path ends in a slash.
pub fn url_of(base: &Url, path: &TreePath) -> Url {
    with_path(base, &path.to_string())
}

/// The key under which the path beneath `base` is stored.
pub fn key_of(base: &Url, path: &TreePath) -> ObjectKey {
    let mut spelled = String::new();
    for name in path.names() {
        spelled.push('/');
        spelled.extend(utf8_percent_encode(name, PLAIN));
    }
    if path.has_slash() {
        spelled.push('/');
    }
    ObjectKey::of(&with_path(base, &spelled))
}

fn with_path(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    let path = path.strip_prefix('/').unwrap_or(path);
    url.set_path(&format!("{}{path}", base.path()));
    url
}

/// The name of an upstream in the tree index.
pub(super) fn source_of(base: &Url) -> MirrorSource {
    let digest = digest_of(&[base.as_str().as_bytes()]);
    let mut id = [0; 16];
    id.copy_from_slice(&digest[..16]);
    MirrorSource(id)
}

/// The URL by which a bucket's keys are listed, and the keys' start for the path: of a bucket that is the first segment of
/// the base's path, or of one that is named by its host.
pub(super) fn s3_listing(base: &Url, path: &TreePath, by_host: bool, token: Option<&str>) -> Option<(Url, String)> {
    let above = TreePath::parse_upstream(base.path()).ok()?;
    let mut names = above.names().iter().chain(path.names());
    let mut url = base.clone();
    match by_host {
        true => url.set_path("/"),
        false => url.set_path(&TreePath::root().child(names.next()?).to_string()),
    }
    let prefix: String = names.map(|name| format!("{name}/")).collect();
    url.query_pairs_mut()
        .clear()
        .append_pair("list-type", "2")
        .append_pair("delimiter", "/")
        .append_pair("encoding-type", "url")
        .append_pair("prefix", &prefix);
    if let Some(token) = token {
        url.query_pairs_mut().append_pair("continuation-token", token);
    }
    Some((url, prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_key_and_goes_out_fully_escaped() {
        let base = Url::parse("http://h/base/").expect("a URL");
        let path = |raw: &str| TreePath::parse_upstream(raw).expect("a path");
        for (raw, asked) in [
            ("/a(b)+c.mkv", "http://h/base/a%28b%29%2Bc.mkv"),
            ("/a%28b%29%2bc.mkv", "http://h/base/a%28b%29%2Bc.mkv"),
            ("/50%25 é/", "http://h/base/50%25%20%C3%A9/"),
            ("/", "http://h/base/"),
        ] {
            assert_eq!(url_of(&base, &path(raw)).as_str(), asked);
        }
        let by_clients = ["http://h/base/a(b)+c.mkv", "http://h/base/a:b@c=d,e;f'g!h*i$j&k"];
        for url in by_clients {
            let raw = &url["http://h/base".len()..];
            let key = ObjectKey::of(&Url::parse(url).expect("a URL"));
            assert_eq!(key_of(&base, &path(raw)), key, "{url}");
        }
        assert_eq!(key_of(&base, &path("/%28")), key_of(&base, &path("/(")));
        assert_ne!(key_of(&base, &path("/e%CC%81")), key_of(&base, &path("/%C3%A9")));
    }

    #[test]
    fn a_bucket_is_the_first_segment_or_the_host() {
        let base = Url::parse("http://h/bucket/sub/").expect("a URL");
        let path = TreePath::parse_upstream("/a+b/").expect("a path");
        let (url, prefix) = s3_listing(&base, &path, false, Some("t=")).expect("a bucket");
        assert_eq!((url.path(), prefix.as_str()), ("/bucket", "sub/a+b/"));
        let query = url.query().expect("a query");
        assert!(
            query.contains("prefix=sub%2Fa%2Bb%2F") && query.contains("continuation-token=t%3D"),
            "{query}"
        );
        let (url, prefix) = s3_listing(&base, &path, true, None).expect("a bucket");
        assert_eq!((url.path(), prefix.as_str()), ("/", "bucket/sub/a+b/"));
        let host = Url::parse("http://h/").expect("a URL");
        assert!(s3_listing(&host, &TreePath::root(), false, None).is_none());
    }
}
