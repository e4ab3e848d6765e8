//! Policy beside another implementation: `http-cache-semantics`, in its mode for shared caches. Every combination
//! of what replies and requests commonly say is asked of both; where they differ, the reason is here.

use http_cache_semantics::{BeforeRequest, CacheOptions, CachePolicy};
use millpond::clock::{from_unix_seconds, unix_seconds};
use millpond::header::print_date;
use millpond::policy::{Fields, FreshnessDefaults, RequestDirectives, Reuse, Terms, storable};
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

const REPLIES: &[&str] = &[
    "",
    "max-age=100",
    "s-maxage=100",
    "max-age=10, s-maxage=100",
    "max-age=0",
    "no-store",
    "private, max-age=100",
    "no-cache, max-age=100",
    "public",
    "public, max-age=100",
    "must-revalidate, max-age=100",
    "proxy-revalidate, max-age=100",
    "immutable, max-age=100",
    "stale-while-revalidate=50, max-age=100",
    "unknown, max-age=100",
];

const REQUESTS: &[&str] = &[
    "",
    "no-cache",
    "no-store",
    "max-age=60",
    "max-age=0",
    "min-fresh=30",
    "max-stale",
    "max-stale=10",
];

/// A reply, the request that brought it, the next one, and the seconds between them.
#[derive(Debug, Clone)]
struct Case {
    status: u16,
    reply: Vec<(&'static str, String)>,
    first: Vec<(&'static str, String)>,
    asked: &'static str,
    later: u64,
}

impl Case {
    fn reply(&self) -> Vec<(&str, &str)> {
        self.reply.iter().map(|(name, value)| (*name, value.as_str())).collect()
    }

    fn control(&self) -> &str {
        self.reply[0].1.as_str()
    }

    fn has(&self, name: &str) -> bool {
        self.reply.iter().any(|(known, _)| *known == name)
    }
}

/// Whether millpond answers the second request without asking.
fn ours(case: &Case, now: SystemTime) -> bool {
    let reply = case.reply();
    let first: Vec<(&str, &str)> = case.first.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let terms = Terms::read(case.status, &reply[..], now);
    let asked_first = RequestDirectives::read(&first[..]);
    let authorized = first[..].has("authorization");
    if storable("GET", &asked_first, authorized, case.status, &reply[..], &terms).is_err() {
        return false;
    }
    let asked = RequestDirectives::read(&[("cache-control", case.asked)][..]);
    let came = Fields::first(&reply[..], "age").map_or(0, |age| age.parse().expect("a number"));
    let leeway = FreshnessDefaults {
        fresh_for: Duration::from_secs(1 << 30),
        lasting: false,
        stale_if_error: Duration::ZERO,
    };
    let reuse = terms.reuse(&asked, Duration::from_secs(came + case.later), leeway);
    matches!(reuse, Reuse::Fresh | Reuse::Stale | Reuse::StaleMeanwhile)
}

/// Whether the other one does.
fn theirs(case: &Case, now: SystemTime) -> bool {
    let mut first = http::Request::builder().uri("http://h/");
    for (name, value) in &case.first {
        first = first.header(*name, value);
    }
    let mut reply = http::Response::builder().status(case.status);
    for (name, value) in &case.reply {
        reply = reply.header(*name, value);
    }
    let (first, reply) = (first.body(()).expect("a request"), reply.body(()).expect("a reply"));
    let policy = CachePolicy::new_options(&first, &reply, now, CacheOptions::default());
    let second = http::Request::builder()
        .uri("http://h/")
        .header("cache-control", case.asked);
    let mut second = second.body(()).expect("a request");
    if case.asked.is_empty() {
        second.headers_mut().clear();
    }
    let later = now + Duration::from_secs(case.later);
    policy.is_storable() && matches!(policy.before_request(&second, later), BeforeRequest::Fresh(_))
}

/// As many as there are in [`reason`].
const REASONS: usize = 8;

/// Why the two may differ.
fn reason(case: &Case, ours: bool) -> Option<&'static str> {
    let control = case.control();
    let stated = case.has("expires") || control.contains("max-age") || control.contains("s-maxage");
    if case.has("set-cookie") && !ours {
        return Some("a cookie is shared only by `public`; they count it as no reason");
    }
    if matches!(case.status, 418 | 500 | 302) && (stated || control.contains("public")) && ours {
        return Some("any status that says how long, or `public`, is stored (§3); they store those that they know");
    }
    if case.asked.starts_with("max-stale") && !stated && !ours {
        return Some("`max-stale` is not taken for a reply of which nothing is known");
    }
    if control.contains("proxy-revalidate") && ours {
        return Some("`proxy-revalidate` is of stale replies; they take it for no freshness at all");
    }
    if case.asked.starts_with("max-stale") && control.contains("no-cache") && !ours {
        return Some("`no-cache` of a reply outranks `max-stale`: it forbids the use, not the staleness (§5.2.2.4)");
    }
    let strict = control.contains("s-maxage") || control.contains("proxy-revalidate");
    if case.asked.starts_with("max-stale") && strict && !ours {
        return Some("`s-maxage` and `proxy-revalidate` forbid shared caches what is stale (§5.2.2.10)");
    }
    if case.asked == "max-age=0" && case.later == 0 && !ours {
        return Some("`max-age=0` asks for the upstream's word, also of a reply that is not a second old");
    }
    if control.contains("stale-while-revalidate") && ours {
        return Some("a stale reply answers while it is validated");
    }
    None
}

fn cases(now: u64) -> Vec<Case> {
    let date = |shift: i64| print_date(from_unix_seconds(now.saturating_add_signed(shift)));
    let mut all = Vec::new();
    for reply in REPLIES {
        for status in [200, 302, 404, 418, 500] {
            for expires in [None, Some(100), Some(-100)] {
                for age in [None, Some(50), Some(200)] {
                    for validator in 0..3 {
                        for cookie in [false, true] {
                            let mut fields = vec![("cache-control", (*reply).to_owned()), ("date", date(0))];
                            fields.extend(expires.map(|shift| ("expires", date(shift))));
                            fields.extend(age.map(|age: u64| ("age", age.to_string())));
                            match validator {
                                0 => {}
                                1 => fields.push(("etag", "\"e\"".to_owned())),
                                _ => fields.push(("last-modified", date(-1000))),
                            }
                            if cookie {
                                fields.push(("set-cookie", "a=b".to_owned()));
                            }
                            for first in ["", "authorization", "no-store"] {
                                let first = match first {
                                    "" => Vec::new(),
                                    "authorization" => vec![("authorization", "Basic YQ==".to_owned())],
                                    _ => vec![("cache-control", "no-store".to_owned())],
                                };
                                for asked in REQUESTS {
                                    for later in [0, 45, 70, 105] {
                                        all.push(Case {
                                            status,
                                            reply: fields.clone(),
                                            first: first.clone(),
                                            asked,
                                            later,
                                        });
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
    all
}

#[test]
fn reuse_agrees_with_http_cache_semantics_except_for_known_reasons() {
    let now = from_unix_seconds(1_700_000_000);
    let (mut total, mut differing) = (0, 0);
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    let mut unexplained = Vec::new();
    for case in cases(unix_seconds(now)) {
        total += 1;
        let (ours, theirs) = (ours(&case, now), theirs(&case, now));
        if ours == theirs {
            continue;
        }
        differing += 1;
        match reason(&case, ours) {
            Some(reason) => *reasons.entry(reason).or_default() += 1,
            None if unexplained.len() < 10 => unexplained.push((ours, case)),
            None => {}
        }
    }
    eprintln!("{differing} of {total} differ: {reasons:#?}");
    assert_eq!(
        reasons.len(),
        REASONS,
        "each reason is there for something: {reasons:#?}"
    );
    assert!(unexplained.is_empty(), "ours, case: {unexplained:#?}");
}
