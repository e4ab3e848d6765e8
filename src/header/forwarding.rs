//! The fields of a message that go on to the next hop (RFC 9110 §7.6).
//!
//! Fields of one connection stay on it: those that the RFC lists, and those that `Connection` names, in whatever case.
//! The rest goes on in its order, lines of one name apart, with names in lower case. What this server says itself, and
//! what it must not pass on for other reasons, is taken out by the callers.

/// Fields of one connection, whether `Connection` names them or not.
const HOP_BY_HOP: &[&str] = &[
    "connection",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Fields by which a proxy says that it has forwarded a request (RFC 7239, RFC 9110 §7.6.3), and for whom.
const FORWARDING: &[&str] = &[
    "cf-connecting-ip",
    "client-ip",
    "fastly-client-ip",
    "forwarded",
    "forwarded-for",
    "true-client-ip",
    "via",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-envoy-external-address",
    "x-original-forwarded-for",
    "x-real-ip",
];

/// The family of those whose names begin so.
const FORWARDING_FAMILY: &str = "x-forwarded";

/// Whether a field of that name says that somebody has forwarded the request. `_` counts as `-`, as CGI and its like
/// have it.
pub fn is_forwarding(name: &str) -> bool {
    let is = |known: &str, name: &str| {
        let same = |(own, other): (u8, u8)| own == other.to_ascii_lowercase() || (own == b'-' && other == b'_');
        known.bytes().zip(name.bytes()).all(same)
    };
    let begins = name.len() >= FORWARDING_FAMILY.len() && is(FORWARDING_FAMILY, name);
    begins
        || FORWARDING
            .iter()
            .any(|known| known.len() == name.len() && is(known, name))
}

/// The fields that are meant for the other end: without those of this connection, and without those that
/// `Connection` names. Names in lower case.
pub fn end_to_end(fields: &[(&str, &str)]) -> Vec<(String, String)> {
    let named: Vec<String> = fields
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case("connection"))
        .flat_map(|(_, value)| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    fields
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), (*value).to_owned()))
        .filter(|(name, _)| !HOP_BY_HOP.contains(&name.as_str()) && !named.contains(name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwarding_fields_are_known_in_every_spelling() {
        for name in [
            "Via",
            "X-Real-IP",
            "x_real_ip",
            "Forwarded",
            "X-Forwarded-For",
            "X_FORWARDED_PREFIX",
            "x-forwarded",
        ] {
            assert!(is_forwarding(name), "{name}");
        }
        for name in ["vi", "viable", "x-real-ips", "range", "x-forward", ""] {
            assert!(!is_forwarding(name), "{name}");
        }
    }

    #[test]
    fn hop_by_hop_fields_are_not_forwarded() {
        let fields = [
            ("Host", "h"),
            ("Connection", "close, X-Mine"),
            ("x-mine", "1"),
            ("Keep-Alive", "5"),
            ("TE", "trailers"),
            ("Transfer-Encoding", "chunked"),
            ("Upgrade", "websocket"),
            ("Connection", "Other"),
            ("other", "2"),
            ("X-Theirs", "3"),
        ];
        let kept = end_to_end(&fields);
        let names: Vec<&str> = kept.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["host", "x-theirs"]);
    }
}
