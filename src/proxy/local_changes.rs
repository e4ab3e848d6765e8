//! The guard of changes without a token: through the API, or in a directory that is ours.
//!
//! Whoever can reach the port may read; only programs on this machine may change anything. A web
//! page that the user looks at is no such program, though its requests come from this machine: a browser
//! names the page's origin in them, and a page that had its own name point at this machine (DNS
//! rebinding) names that in `Host`.

use actix_web::http::header::{self, HeaderMap};
use std::net::{IpAddr, SocketAddr};

/// Why a request may not change anything; `None` where it may.
pub fn refusal(peer: Option<SocketAddr>, headers: &HeaderMap) -> Option<&'static str> {
    let peer = peer.map(|peer| peer.ip());
    let text = |name| {
        let value = headers.get(name);
        value.map(|value| value.to_str().unwrap_or("?").to_owned())
    };
    judge(peer, text(header::HOST).as_deref(), text(header::ORIGIN).as_deref())
}

fn judge(peer: Option<IpAddr>, host: Option<&str>, origin: Option<&str>) -> Option<&'static str> {
    if !peer.is_some_and(|peer| peer.to_canonical().is_loopback()) {
        return Some("only programs on the server's own machine may change what is stored");
    }
    let host = host.unwrap_or_default();
    if !is_local_name(host) {
        return Some("the request names this server by a name that is not its own; use its address");
    }
    match origin {
        Some(origin) if origin.split_once("://").map(|(_, host)| host) != Some(host) => {
            Some("a page of another site may not change what is stored")
        }
        _ => None,
    }
}

/// Whether a `Host` is an address or `localhost`, with or without a port.
fn is_local_name(host: &str) -> bool {
    let bare = host.rsplit_once(':').map_or(host, |(name, port)| {
        if port.bytes().all(|byte| byte.is_ascii_digit()) {
            name
        } else {
            host
        }
    });
    let bare = bare.trim_start_matches('[').trim_end_matches(']');
    bare == "localhost" || bare.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_programs_on_this_machine_may_change_things() {
        let local = Some(IpAddr::from([127, 0, 0, 1]));
        let far = Some(IpAddr::from([192, 168, 1, 7]));
        let allowed = |peer, host, origin| judge(peer, host, origin).is_none();
        assert!(allowed(local, Some("127.0.0.1:8080"), None));
        assert!(allowed(local, Some("localhost"), None));
        assert!(allowed(local, Some("[::1]:8080"), None));
        assert!(allowed(local, Some("127.0.0.1:8080"), Some("http://127.0.0.1:8080")));
        assert!(!allowed(far, Some("127.0.0.1:8080"), None));
        assert!(!allowed(None, Some("127.0.0.1:8080"), None));
        assert!(!allowed(local, Some("127.0.0.1:8080"), Some("https://evil.example")));
        assert!(!allowed(
            local,
            Some("evil.example:8080"),
            Some("http://evil.example:8080")
        ));
        assert!(!allowed(local, None, None));
    }
}
