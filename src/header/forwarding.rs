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
