//! The table of docs/http.md, run against the server: what a shared cache stores, reuses, asks for again and
//! passes on (RFC 9110, 9111, 5861, 8246, 9211, 9213).
//!
//! A row asks for a page of its own, lets time pass, asks again, and looks whether the upstream was asked. What
//! takes more than two requests is in [`STORIES`]. `POND_WRITE_DOCS=1` writes the table anew.

use crate::support::upstream::Seen;
use crate::support::{Answer, Ended, Pond, Upstream, eventually, request};
use millpond::clock::{Clock, ManualClock, from_unix_seconds};
use millpond::header::print_date;
use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use Expect::{Anew, Hit, Validated};

/// How the second request is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    /// The stored reply; the upstream is not asked.
    Hit,
    /// The upstream is asked without a condition.
    Anew,
    /// The upstream is asked with a condition.
    Validated,
    /// An answer of millpond's own with that status; the upstream is not asked.
    Own(u16),
}

/// A row: a section, what is claimed, the reply, how many seconds later it is asked for again, the fields of
/// both requests (`first | second`, or of the second alone), and how it is answered.
///
/// Fields stand one a line. `{-9}` is the date nine seconds ago. A first line that is a number is the status.
type Row = (&'static str, &'static str, &'static str, u64, &'static str, Expect);

#[rustfmt::skip]
const ROWS: &[Row] = &[
    ("9111 §5.2.2.1", "`max-age` keeps a reply fresh", "Cache-Control: max-age=100", 50, "", Hit),
    ("9111 §5.2.2.1", "and for no second longer than it says", "Cache-Control: max-age=100", 100, "", Anew),
    ("9111 §5.2.2.1", "`max-age=0` is stale at once", "Cache-Control: max-age=0\nETag: \"e\"\n", 0, "", Validated),
    ("9111 §4.2", "a stale reply with a tag is validated", "ETag: \"e\"\nCache-Control: max-age=100", 100, "", Validated),
    ("9111 §4.2", "a stale reply with a date only is validated", "Last-Modified: {-1000}\nDate: {0}\nCache-Control: max-age=100", 100, "", Validated),
    ("9111 §4.2.1", "`s-maxage` outranks `max-age`", "Cache-Control: max-age=1, s-maxage=100", 50, "", Hit),
    ("9111 §4.2.1", "also where it is the shorter one", "Cache-Control: max-age=100, s-maxage=1", 50, "", Anew),
    ("9111 §4.2.1", "`s-maxage` outranks `Expires`", "Cache-Control: s-maxage=100\nExpires: {-10}", 50, "", Hit),
    ("9111 §4.2.1", "`max-age` outranks `Expires`", "Cache-Control: max-age=100\nExpires: {-10}\nDate: {0}", 50, "", Hit),
    ("9111 §4.2.1", "also where `Expires` is later", "Cache-Control: max-age=1\nExpires: {1000}\nDate: {0}", 50, "", Anew),
    ("9111 §4.2.1", "`max-age` in a second line counts", "Cache-Control: public\nCache-Control: max-age=100", 50, "", Hit),
    ("9111 §4.2.1", "of two `max-age` the least counts", "Cache-Control: max-age=100, max-age=1", 50, "", Anew),
    ("9111 §4.2.1", "in whatever order", "Cache-Control: max-age=1, max-age=100", 50, "", Anew),
    ("9111 §4.2.1", "of two `s-maxage` the least counts", "Cache-Control: s-maxage=100\nCache-Control: s-maxage=1", 50, "", Anew),
    ("9111 §5.3", "`Expires` keeps a reply fresh", "Expires: {100}\nDate: {0}", 50, "", Hit),
    ("9111 §5.3", "`Expires` is measured from `Date`", "Expires: {100}\nDate: {90}", 50, "", Anew),
    ("9111 §5.3", "`Expires` without `Date` is measured from when it came", "Expires: {100}", 50, "", Hit),
    ("9111 §5.3", "`Expires` in the past is stale", "Expires: {-1}\nDate: {0}\nETag: \"e\"\n", 0, "", Validated),
    ("9111 §5.3", "`Expires: 0` is in the past", "Expires: 0\nETag: \"e\"\n", 0, "", Validated),
    ("9111 §5.3", "a malformed `Expires` is in the past", "Expires: tomorrow\nETag: \"e\"\n", 0, "", Validated),
    ("9111 §5.3", "of two `Expires` that differ the first counts", "Expires: {100}\nExpires: {200}\nETag: \"e\"\n", 0, "", Hit),
    ("9111 §5.3", "two `Expires` that agree are one", "Expires: {100}\nExpires: {100}", 50, "", Hit),
    ("9111 §5.3", "an `Expires` in another zone than GMT is read", "Expires: Thu, 01 Dec 2050 16:00:00 PST\nETag: \"e\"\n", 0, "", Hit),
    ("9110 §5.6.7", "the date of RFC 850 is understood", "Expires: Thursday, 01-Dec-33 16:00:00 GMT\nDate: {0}", 50, "", Hit),
    ("9110 §5.6.7", "the date of asctime is understood", "Expires: Thu Dec  1 16:00:00 2033\nDate: {0}", 50, "", Hit),
    ("9111 §4.2.3", "`Age` counts against freshness", "Cache-Control: max-age=100\nAge: 60", 50, "", Anew),
    ("9111 §4.2.3", "as long as it is less the reply is fresh", "Cache-Control: max-age=100\nAge: 40", 50, "", Hit),
    ("9111 §4.2.3", "a reply that came older than it may be is stale", "ETag: \"e\"\nCache-Control: max-age=100\nAge: 200", 0, "", Validated),
    ("9111 §4.2.3", "an old `Date` counts as an age", "ETag: \"e\"\nCache-Control: max-age=100\nDate: {-200}", 0, "", Validated),
    ("9111 §4.2.3", "a `Date` that is a little old leaves the rest", "Cache-Control: max-age=100\nDate: {-40}", 50, "", Hit),
    ("9111 §4.2.3", "a `Date` in the future makes nothing younger", "Cache-Control: max-age=100\nDate: {500}", 100, "", Anew),
    ("9111 §4.2.3", "a malformed `Date` is passed over", "Cache-Control: max-age=100\nDate: then", 50, "", Hit),
    ("9111 §4.2.3", "`Age` counts against `Expires` too", "Expires: {100}\nDate: {0}\nAge: 60", 50, "", Anew),
    ("9111 §5.1", "an `Age` that is no number is ignored", "Cache-Control: max-age=100\nAge: old", 50, "", Hit),
    ("9111 §5.1", "a negative `Age` is ignored", "Cache-Control: max-age=100\nAge: -60", 50, "", Hit),
    ("9111 §5.1", "a fraction of an `Age` is ignored", "Cache-Control: max-age=100\nAge: 60.5", 50, "", Hit),
    ("9111 §5.1", "of several members of `Age` the first counts", "Cache-Control: max-age=100\nAge: 60, 0", 50, "", Anew),
    ("9111 §5.1", "of several lines of `Age` the first counts", "Cache-Control: max-age=100\nAge: 60\nAge: 0", 50, "", Anew),
    ("9111 §1.2.2", "an `Age` beyond counting is very old", "ETag: \"e\"\nCache-Control: max-age=100\nAge: 99999999999999999999999", 0, "", Validated),
    ("9111 §1.2.2", "a `max-age` beyond counting is very long", "Cache-Control: max-age=99999999999999999999999", 86400, "", Hit),
    ("9111 §1.2.2", "2^31 seconds are as good as for ever", "Cache-Control: max-age=2147483648", 86400, "", Hit),
    ("9111 §4.2.1", "a `max-age` without a number is stale", "Cache-Control: max-age\nETag: \"e\"\n", 0, "", Validated),
    ("9111 §4.2.1", "a negative `max-age` is stale", "Cache-Control: max-age=-5\nETag: \"e\"\n", 0, "", Validated),
    ("9111 §4.2.1", "a `max-age` with a fraction is stale", "Cache-Control: max-age=100.5\nETag: \"e\"\n", 0, "", Validated),
    ("9111 §4.2.1", "a `max-age` followed by letters is stale", "Cache-Control: max-age=100a\nETag: \"e\"\n", 0, "", Validated),
    ("9111 §4.2.1", "a quoted `max-age` is understood", "Cache-Control: max-age=\"100\"", 50, "", Hit),
    ("9111 §4.2.1", "`max-age` with leading zeros is understood", "Cache-Control: max-age=0100", 50, "", Hit),
    ("9111 §4.2.1", "directives are known in any case", "Cache-Control: MaX-aGe=100", 50, "", Hit),
    ("9111 §4.2.1", "white space and empty members around them count for nothing", "Cache-Control:   ,, max-age=100 ,,", 50, "", Hit),
    ("9111 §4.2.1", "a directive inside a quoted value is none", "Cache-Control: x=\"no-store, max-age=1\", max-age=100", 50, "", Hit),
    ("9111 §4.2.1", "a directive whose name ends like another is another", "Cache-Control: x-max-age=1, max-age=100", 50, "", Hit),
    ("9111 §5.2.3", "an unknown directive is passed over", "Cache-Control: foo, bar=1, max-age=100", 50, "", Hit),
    ("9111 §5.2.2.5", "`no-store` is not stored", "Cache-Control: max-age=100, no-store", 0, "", Anew),
    ("9111 §5.2.2.5", "in any case", "Cache-Control: No-StOrE, max-age=100", 0, "", Anew),
    ("9111 §5.2.2.5", "also in another line", "Cache-Control: max-age=100\nCache-Control: no-store", 0, "", Anew),
    ("9111 §5.2.2.5", "also with a value", "Cache-Control: max-age=100, no-store=1", 0, "", Anew),
    ("9111 §5.2.2.7", "`private` is not stored", "Cache-Control: max-age=100, private", 0, "", Anew),
    ("9111 §5.2.2.7", "`private` beside `public` is not stored", "Cache-Control: max-age=100, private, public", 0, "", Anew),
    ("9111 §5.2.2.7", "`private` beside `s-maxage` is not stored", "Cache-Control: private, s-maxage=100", 0, "", Anew),
    ("9111 §5.2.2.7", "`private=\"field\"` is of that field alone", "Cache-Control: max-age=100, private=\"x-mine\"", 50, "", Hit),
    ("9111 §5.2.2.7", "an empty list of `private` is the whole", "Cache-Control: max-age=100, private=\"\"", 0, "", Anew),
    ("9111 §5.2.2.4", "`no-cache` is validated each time", "ETag: \"e\"\nCache-Control: max-age=100, no-cache", 0, "", Validated),
    ("9111 §5.2.2.4", "`no-cache` without a validator is fetched each time", "Cache-Control: max-age=100, no-cache", 0, "", Anew),
    ("9111 §5.2.2.4", "`no-cache` outranks `s-maxage`", "ETag: \"e\"\nCache-Control: s-maxage=100, no-cache", 0, "", Validated),
    ("9111 §5.2.2.4", "`no-cache` in another line counts", "ETag: \"e\"\nCache-Control: max-age=100\nCache-Control: no-cache", 0, "", Validated),
    ("9111 §5.2.2.9", "`public` alone gives no freshness", "ETag: \"e\"\nCache-Control: public\nContent-Type: text/html", 0, "", Validated),
    ("9111 §5.2.2.2", "`must-revalidate` alone keeps the reply, and validates it", "ETag: \"e\"\nCache-Control: must-revalidate\nContent-Type: text/html", 0, "", Validated),
    ("9111 §5.2.2.2", "`must-revalidate` leaves a fresh reply alone", "ETag: \"e\"\nCache-Control: max-age=100, must-revalidate", 50, "", Hit),
    ("9111 §5.2.2.8", "`proxy-revalidate` leaves a fresh reply alone", "ETag: \"e\"\nCache-Control: max-age=100, proxy-revalidate", 50, "", Hit),
    ("9111 §5.2.2.3", "`must-understand` with a status that is understood outranks `no-store`", "200\nCache-Control: max-age=100, no-store, must-understand", 50, "", Hit),
    ("9111 §5.2.2.3", "`must-understand` with one that is not is not stored", "499\nCache-Control: max-age=100, must-understand", 0, "", Anew),
    ("9111 §5.2.2.6", "`no-transform` is kept: nothing is ever transformed", "Cache-Control: max-age=100, no-transform", 50, "", Hit),
    ("8246 §2", "`immutable` leaves a fresh reply alone", "Cache-Control: max-age=100, immutable", 50, "", Hit),
    ("8246 §2", "`immutable` does not outlive its freshness", "ETag: \"e\"\nCache-Control: max-age=100, immutable", 100, "", Validated),
    ("9111 §5.4", "`Pragma` in a reply says nothing", "Cache-Control: max-age=100\nPragma: no-cache", 50, "", Hit),
    ("9111 §5.4", "`Pragma: no-cache` in a request asks the upstream", "ETag: \"e\"\nCache-Control: max-age=100", 0, "Pragma: no-cache", Validated),
    ("9111 §5.4", "beside `Cache-Control` it does not count", "ETag: \"e\"\nCache-Control: max-age=100", 0, "Pragma: no-cache\nCache-Control: max-age=50", Hit),
    ("9111 §5.2.1.4", "`no-cache` asks the upstream", "ETag: \"e\"\nCache-Control: max-age=100", 0, "Cache-Control: no-cache", Validated),
    ("9111 §5.2.1.4", "in any case", "ETag: \"e\"\nCache-Control: max-age=100", 0, "Cache-Control: NO-CACHE", Validated),
    ("9111 §5.2.1.1", "`max-age=0` asks the upstream", "ETag: \"e\"\nCache-Control: max-age=100", 0, "Cache-Control: max-age=0", Validated),
    ("9111 §5.2.1.1", "a reply as old as `max-age` says is taken", "ETag: \"e\"\nCache-Control: max-age=100", 10, "Cache-Control: max-age=10", Hit),
    ("9111 §5.2.1.1", "an older one is not", "ETag: \"e\"\nCache-Control: max-age=100", 11, "Cache-Control: max-age=10", Validated),
    ("9111 §5.2.1.1", "`max-age` does not make stale what is fresh enough", "ETag: \"e\"\nCache-Control: max-age=100", 10, "Cache-Control: max-age=1000", Hit),
    ("9111 §5.2.1.1", "nor fresh what is stale", "ETag: \"e\"\nCache-Control: max-age=100", 100, "Cache-Control: max-age=1000", Validated),
    ("9111 §5.2.1.1", "the `Age` that a reply came with counts", "ETag: \"e\"\nCache-Control: max-age=100\nAge: 50", 0, "Cache-Control: max-age=10", Validated),
    ("9111 §5.2.1.2", "`max-stale` takes a stale reply", "ETag: \"e\"\nCache-Control: max-age=100", 150, "Cache-Control: max-stale", Hit),
    ("9111 §5.2.1.2", "within what it says", "ETag: \"e\"\nCache-Control: max-age=100", 150, "Cache-Control: max-stale=50", Hit),
    ("9111 §5.2.1.2", "and none beyond", "ETag: \"e\"\nCache-Control: max-age=100", 151, "Cache-Control: max-stale=50", Validated),
    ("9111 §5.2.1.2", "`must-revalidate` outranks it", "ETag: \"e\"\nCache-Control: max-age=100, must-revalidate", 150, "Cache-Control: max-stale", Validated),
    ("9111 §5.2.1.2", "`proxy-revalidate` outranks it", "ETag: \"e\"\nCache-Control: max-age=100, proxy-revalidate", 150, "Cache-Control: max-stale", Validated),
    ("9111 §5.2.1.2", "`s-maxage` outranks it", "ETag: \"e\"\nCache-Control: s-maxage=100", 150, "Cache-Control: max-stale", Validated),
    ("9111 §5.2.1.2", "`no-cache` of the reply outranks it", "ETag: \"e\"\nCache-Control: max-age=100, no-cache", 0, "Cache-Control: max-stale", Validated),
    ("9111 §5.2.1.3", "`min-fresh` takes what is fresh for so long", "ETag: \"e\"\nCache-Control: max-age=100", 50, "Cache-Control: min-fresh=50", Hit),
    ("9111 §5.2.1.3", "and nothing else", "ETag: \"e\"\nCache-Control: max-age=100", 51, "Cache-Control: min-fresh=50", Validated),
    ("9111 §5.2.1.5", "`no-store` in a request is not stored", "Cache-Control: max-age=100", 0, "Cache-Control: no-store | ", Anew),
    ("9111 §5.2.1.5", "but what is stored may answer it", "Cache-Control: max-age=100", 0, "Cache-Control: no-store", Hit),
    ("9111 §5.2.1.7", "`only-if-cached` is answered from the store", "Cache-Control: max-age=100", 0, "Cache-Control: only-if-cached", Hit),
    ("9111 §5.2.1.7", "and by 504 where that would be stale", "Cache-Control: max-age=100", 100, "Cache-Control: only-if-cached", Expect::Own(504)),
    ("9111 §5.2.1.7", "beside `max-stale` a stale reply is taken", "Cache-Control: max-age=100", 150, "Cache-Control: only-if-cached, max-stale=60", Hit),
    ("9111 §5.2.1.6", "`no-transform` changes nothing", "Cache-Control: max-age=100", 50, "Cache-Control: no-transform", Hit),
    ("9111 §5.2.1", "unknown directives of a request are passed over", "Cache-Control: max-age=100", 50, "Cache-Control: foo=1", Hit),
    ("9111 §4.2.2", "a page that says nothing is validated each time", "ETag: \"e\"\nContent-Type: text/html", 0, "", Validated),
    ("9111 §4.2.2", "a film that says nothing is fresh for `fresh_for`", "ETag: \"e\"\nContent-Type: video/mp4", 3599, "", Hit),
    ("9111 §4.2.2", "and then validated", "ETag: \"e\"\nContent-Type: video/mp4", 3600, "", Validated),
    ("9111 §4.2.2", "a page without freshness and validator is fetched each time", "Content-Type: text/html", 0, "", Anew),
    ("9111 §4.2.2", "what has not changed for long is guessed fresh for a tenth of that", "Last-Modified: {-1000}\nDate: {0}\nContent-Type: text/css", 90, "", Hit),
    ("9111 §4.2.2", "and no longer", "Last-Modified: {-1000}\nDate: {0}\nContent-Type: text/css", 101, "", Validated),
    ("9111 §4.2.2", "`fresh_for` is the most that is guessed", "Last-Modified: {-1000000}\nDate: {0}\nContent-Type: text/css", 3600, "", Validated),
    ("9111 §4.2.2", "a 203 may be guessed at", "203\nLast-Modified: {-1000}\nDate: {0}\nContent-Type: text/css", 50, "", Hit),
    ("9111 §4.2.2", "a 404 may be guessed at", "404\nLast-Modified: {-1000}\nDate: {0}\nContent-Type: text/css", 50, "", Hit),
    ("9111 §4.2.2", "a 405 may be guessed at", "405\nLast-Modified: {-1000}\nDate: {0}\nContent-Type: text/css", 50, "", Hit),
    ("9111 §4.2.2", "a 410 may be guessed at", "410\nLast-Modified: {-1000}\nDate: {0}\nContent-Type: text/css", 50, "", Hit),
    ("9111 §4.2.2", "a 414 may be guessed at", "414\nLast-Modified: {-1000}\nDate: {0}\nContent-Type: text/css", 50, "", Hit),
    ("9111 §4.2.2", "a 501 may be guessed at", "501\nLast-Modified: {-1000}\nDate: {0}\nContent-Type: text/css", 50, "", Hit),
    ("9111 §4.2.2", "a 300 may be guessed at", "300\nLast-Modified: {-1000}\nDate: {0}\nContent-Type: text/css", 50, "", Hit),
    ("9111 §4.2.2", "a 201 may not be guessed at", "201\nLast-Modified: {-1000}\nDate: {0}", 0, "", Anew),
    ("9111 §4.2.2", "a 202 may not be guessed at", "202\nLast-Modified: {-1000}\nDate: {0}", 0, "", Anew),
    ("9111 §4.2.2", "a 400 may not be guessed at", "400\nLast-Modified: {-1000}\nDate: {0}", 0, "", Anew),
    ("9111 §4.2.2", "a 403 may not be guessed at", "403\nLast-Modified: {-1000}\nDate: {0}", 0, "", Anew),
    ("9111 §4.2.2", "a 418 may not be guessed at", "418\nLast-Modified: {-1000}\nDate: {0}", 0, "", Anew),
    ("9111 §4.2.2", "a 500 may not be guessed at", "500\nLast-Modified: {-1000}\nDate: {0}", 0, "", Anew),
    ("9111 §4.2.2", "a 502 may not be guessed at", "502\nLast-Modified: {-1000}\nDate: {0}", 0, "", Anew),
    ("9111 §4.2.2", "a 503 may not be guessed at", "503\nLast-Modified: {-1000}\nDate: {0}", 0, "", Anew),
    ("9111 §4.2.2", "a 504 may not be guessed at", "504\nLast-Modified: {-1000}\nDate: {0}", 0, "", Anew),
    ("9111 §4.2.2", "a 599 may not be guessed at", "599\nLast-Modified: {-1000}\nDate: {0}", 0, "", Anew),
    ("9111 §4.2.2", "`public` allows a guess at any status", "418\nCache-Control: public\nLast-Modified: {-1000}\nDate: {0}\nContent-Type: text/css", 50, "", Hit),
    ("9111 §4.2.2", "nothing is guessed where `Expires` says something", "Last-Modified: {-1000}\nDate: {0}\nExpires: {1}", 50, "", Validated),
    ("9111 §4.2.2", "nor where `max-age` does", "Last-Modified: {-1000}\nDate: {0}\nCache-Control: max-age=1", 50, "", Validated),
    ("9111 §3", "a 200 that says how long is kept", "200\nCache-Control: max-age=100", 50, "", Hit),
    ("9111 §3", "a 203 that says how long is kept", "203\nCache-Control: max-age=100", 50, "", Hit),
    ("9111 §3", "a 204 that says how long is kept", "204\nCache-Control: max-age=100", 50, "", Hit),
    ("9111 §3", "a 299 that says how long is kept", "299\nCache-Control: max-age=100", 50, "", Hit),
    ("9111 §3", "a 400 that says how long is kept", "400\nCache-Control: max-age=100", 50, "", Hit),
    ("9111 §3", "a 404 that says how long is kept", "404\nCache-Control: max-age=100", 50, "", Hit),
    ("9111 §3", "a 410 that says how long is kept", "410\nCache-Control: max-age=100", 50, "", Hit),
    ("9111 §3", "a 451 that says how long is kept", "451\nCache-Control: max-age=100", 50, "", Hit),
    ("9111 §3", "a 499 that says how long is kept", "499\nCache-Control: max-age=100", 50, "", Hit),
    ("9111 §3", "a 500 that says how long is kept", "500\nCache-Control: max-age=100", 50, "", Hit),
    ("9111 §3", "a 502 that says how long is kept", "502\nCache-Control: max-age=100", 50, "", Hit),
    ("9111 §3", "a 503 that says how long is kept", "503\nCache-Control: max-age=100", 50, "", Hit),
    ("9111 §3", "a 504 that says how long is kept", "504\nCache-Control: max-age=100", 50, "", Hit),
    ("9111 §3", "a 599 that says how long is kept", "599\nCache-Control: max-age=100", 50, "", Hit),
    ("9111 §3", "a 405 that says how long is kept", "405\nCache-Control: max-age=100", 50, "", Hit),
    ("9111 §3", "a 414 that says how long is kept", "414\nCache-Control: max-age=100", 50, "", Hit),
    ("9111 §3", "a 501 that says how long is kept", "501\nCache-Control: max-age=100", 50, "", Hit),
    ("9111 §3", "a 300 that says how long is kept", "300\nCache-Control: max-age=100", 50, "", Hit),
    ("9111 §3", "a 404 that says nothing is not", "404", 0, "", Anew),
    ("9111 §3", "a 410 that says nothing is not", "410", 0, "", Anew),
    ("9111 §3", "a 500 that says nothing is not", "500", 0, "", Anew),
    ("9111 §3", "a 503 that says nothing is not", "503", 0, "", Anew),
    ("9111 §3", "a 404 with `Expires` is kept", "404\nExpires: {100}\nDate: {0}", 50, "", Hit),
    ("9111 §3", "a 404 with `no-store` is not", "404\nCache-Control: max-age=100, no-store", 0, "", Anew),
    ("9111 §3", "a 404 that is stale is validated by its tag", "404\nETag: \"e\"\nCache-Control: max-age=100", 100, "", Validated),
    ("9111 §3.5", "`public` shares an answer to credentials", "Cache-Control: max-age=100, public", 50, "Authorization: a | ", Hit),
    ("9111 §3.5", "`s-maxage=100` shares an answer to credentials", "Cache-Control: max-age=100, s-maxage=100", 50, "Authorization: a | ", Hit),
    ("9111 §3.5", "`must-revalidate` shares an answer to credentials", "Cache-Control: max-age=100, must-revalidate", 50, "Authorization: a | ", Hit),
    ("9111 §3.5", "an answer to credentials is not shared", "Cache-Control: max-age=100", 0, "Authorization: a | ", Anew),
    ("9111 §3.5", "nor with those who have the same ones", "Cache-Control: max-age=100", 0, "Authorization: a | Authorization: a", Anew),
    ("9111 §3.5", "`proxy-revalidate` does not share it", "Cache-Control: max-age=100, proxy-revalidate", 0, "Authorization: a | ", Anew),
    ("9111 §3.5", "`Expires` does not share it", "Expires: {100}\nDate: {0}", 0, "Authorization: a | ", Anew),
    ("9111 §3.5", "what was stored for all may answer who has credentials", "Cache-Control: max-age=100", 50, " | Authorization: a", Hit),
    ("9111 §7.3", "a reply that sets a cookie is not shared", "Cache-Control: max-age=100\nSet-Cookie: a=b", 0, "", Anew),
    ("9111 §7.3", "nor one that is only guessed fresh", "Last-Modified: {-1000}\nDate: {0}\nSet-Cookie: a=b", 0, "", Anew),
    ("9111 §7.3", "`public` shares it", "Cache-Control: max-age=100, public\nSet-Cookie: a=b", 50, "", Hit),
    ("9111 §7.3", "`s-maxage` does not", "Cache-Control: s-maxage=100\nSet-Cookie: a=b", 0, "", Anew),
    ("9111 §7.3", "a cookie of the request alone prevents nothing", "Cache-Control: max-age=100", 50, "Cookie: a=1 | Cookie: a=2", Hit),
    ("9111 §4.1", "the same fields select the stored reply", "Cache-Control: max-age=100\nVary: X-A", 50, "X-A: 1 | X-A: 1", Hit),
    ("9111 §4.1", "another value does not", "Cache-Control: max-age=100\nVary: X-A", 50, "X-A: 1 | X-A: 2", Anew),
    ("9111 §4.1", "a field that is not there is another value", "Cache-Control: max-age=100\nVary: X-A", 50, "X-A: 1 | ", Anew),
    ("9111 §4.1", "also the other way round", "Cache-Control: max-age=100\nVary: X-A", 50, " | X-A: 1", Anew),
    ("9111 §4.1", "fields that are nowhere agree", "Cache-Control: max-age=100\nVary: X-A", 50, " | ", Hit),
    ("9111 §4.1", "an empty field is another value than none", "Cache-Control: max-age=100\nVary: X-A", 50, " | X-A:", Anew),
    ("9111 §4.1", "all fields that it names must agree", "Cache-Control: max-age=100\nVary: X-A, X-B", 50, "X-A: 1\nX-B: 1 | X-A: 1\nX-B: 2", Anew),
    ("9111 §4.1", "and no others", "Cache-Control: max-age=100\nVary: X-A, X-B", 50, "X-A: 1\nX-B: 1\nX-C: 1 | X-A: 1\nX-B: 1\nX-C: 2", Hit),
    ("9111 §4.1", "names are known in any case", "Cache-Control: max-age=100\nVary: x-A", 50, "X-a: 1 | X-A: 2", Anew),
    ("9111 §4.1", "values are not", "Cache-Control: max-age=100\nVary: X-A", 50, "X-A: a | X-A: A", Anew),
    ("9111 §4.1", "white space around commas counts for nothing", "Cache-Control: max-age=100\nVary: X-A", 50, "X-A: 1,2 | X-A: 1 ,  2", Hit),
    ("9111 §4.1", "two lines are one list", "Cache-Control: max-age=100\nVary: X-A", 50, "X-A: 1\nX-A: 2 | X-A: 1, 2", Hit),
    ("9111 §4.1", "the order of an unknown list counts", "Cache-Control: max-age=100\nVary: X-A", 50, "X-A: 1, 2 | X-A: 2, 1", Anew),
    ("9111 §4.1", "`*` never matches", "Cache-Control: max-age=100\nVary: *", 50, " | ", Anew),
    ("9111 §4.1", "nor `*` among others", "Cache-Control: max-age=100\nVary: X-A, *", 50, " | ", Anew),
    ("9111 §4.1", "the case of a language counts for nothing", "Cache-Control: max-age=100\nVary: Accept-Language", 50, "Accept-Language: en-US | Accept-Language: EN-us", Hit),
    ("9111 §4.1", "nor does the order of languages", "Cache-Control: max-age=100\nVary: Accept-Language", 50, "Accept-Language: en, de | Accept-Language: de, en", Hit),
    ("9111 §4.1", "their weights do", "Cache-Control: max-age=100\nVary: Accept-Language", 50, "Accept-Language: en, de;q=0.5 | Accept-Language: de, en;q=0.5", Anew),
    ("9111 §4.1", "a weight of 1 is none", "Cache-Control: max-age=100\nVary: Accept-Language", 50, "Accept-Language: en | Accept-Language: en;q=1.0", Hit),
    ("9111 §4.1", "white space in a weighted member counts for nothing", "Cache-Control: max-age=100\nVary: Accept-Language", 50, "Accept-Language: en;q=0.5, de | Accept-Language: de , en ; q=0.5", Hit),
    ("9111 §4.1", "media types are compared in the same way", "Cache-Control: max-age=100\nVary: Accept", 50, "Accept: text/html, A/b | Accept: a/b,text/html", Hit),
    ("9111 §4.1", "codings select nothing: millpond asks for none", "Cache-Control: max-age=100\nVary: Accept-Encoding", 50, "Accept-Encoding: gzip | Accept-Encoding: br", Hit),
    ("9111 §4.1", "cookies select by their text", "Cache-Control: max-age=100\nVary: Cookie", 50, "Cookie: a=1 | Cookie: a=2", Anew),
    ("9111 §4.1", "`User-Agent` selects by its text", "Cache-Control: max-age=100\nVary: User-Agent", 50, "User-Agent: a | User-Agent: b", Anew),
    ("9111 §4.1", "an empty `Vary` selects nothing", "Cache-Control: max-age=100\nVary:", 50, "X-A: 1 | X-A: 2", Hit),
    ("9111 §4.1", "lines of `Vary` are one list", "Cache-Control: max-age=100\nVary: X-A\nVary: X-B", 50, "X-B: 1 | X-B: 2", Anew),
    ("9213 §2.2", "`CDN-Cache-Control` stands for `Cache-Control`", "CDN-Cache-Control: max-age=100\nCache-Control: no-store", 50, "", Hit),
    ("9213 §2.2", "also where it is the stricter one", "CDN-Cache-Control: no-store\nCache-Control: max-age=100", 0, "", Anew),
    ("9213 §2.2", "`Expires` does not count beside it", "ETag: \"e\"\nCDN-Cache-Control: foo\nExpires: {100}\nDate: {0}\nContent-Type: text/html", 0, "", Validated),
    ("9213 §2.2", "a malformed one is passed over", "CDN-Cache-Control: max-age=10 0, (\nCache-Control: max-age=100", 50, "", Hit),
    ("9213 §2.2", "an empty one is passed over", "CDN-Cache-Control:\nCache-Control: max-age=100", 50, "", Hit),
    ("9213 §2.2", "its `max-age` is a number, not a string", "CDN-Cache-Control: max-age=\"100\"\nETag: \"e\"\n", 0, "", Validated),
    ("9213 §2.2", "its `no-cache` validates", "ETag: \"e\"\nCDN-Cache-Control: no-cache\nCache-Control: max-age=100", 0, "", Validated),
    ("9213 §2.2", "its `private` is not stored", "CDN-Cache-Control: private, max-age=100", 0, "", Anew),
    ("9213 §2.2", "the later line of the same directive counts", "CDN-Cache-Control: max-age=1\nCDN-Cache-Control: max-age=100", 50, "", Hit),
    ("Edge Architecture §2.2", "`Surrogate-Control` stands for `Cache-Control`", "Surrogate-Control: max-age=100\nCache-Control: no-store", 50, "", Hit),
    ("Edge Architecture §2.2", "`CDN-Cache-Control` stands for both", "CDN-Cache-Control: max-age=100\nSurrogate-Control: no-store", 50, "", Hit),
    ("9110 §13", "a condition of the client is answered from the store", "ETag: \"e\"\nCache-Control: max-age=100", 50, " | If-None-Match: \"other\"", Hit),
    ("9110 §13", "an unsatisfied condition does not reach the upstream", "ETag: \"e\"\nCache-Control: max-age=100", 50, "If-None-Match: \"other\" | ", Hit),
];

/// Status, fields and body of an upstream's reply for one page.
#[derive(Debug, Clone, Default)]
struct Says {
    status: u16,
    fields: Vec<(String, String)>,
    body: String,
    /// Fields of a 304, the reply to a condition that matches.
    on_304: Vec<(String, String)>,
    /// The connection is closed in place of a reply.
    broken: bool,
}

struct Bench {
    upstream: Upstream,
    pond: Pond,
    clock: Arc<ManualClock>,
    pages: Arc<Mutex<HashMap<String, Says>>>,
}

/// A page of the upstream, and the requests for it through the server.
struct Page<'a> {
    bench: &'a Bench,
    path: String,
}

impl Bench {
    fn start() -> Self {
        let pages: Arc<Mutex<HashMap<String, Says>>> = Arc::default();
        let known = Arc::clone(&pages);
        let upstream = Upstream::scripted(move |seen, conn| {
            let says = known
                .lock()
                .expect("whole")
                .get(&seen.target)
                .cloned()
                .unwrap_or_default();
            if says.broken {
                return conn.close();
            }
            let stated = |name: &str| {
                let found = says.fields.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.as_str())
            };
            let same = |field: &str, name: &str| seen.header(field).is_some() && seen.header(field) == stated(name);
            let unchanged = same("if-none-match", "etag")
                || (seen.header("if-none-match").is_none() && same("if-modified-since", "last-modified"));
            let (status, fields) = match unchanged {
                true => (304, &says.on_304),
                false => (says.status, &says.fields),
            };
            let mut all: Vec<(&str, String)> = fields
                .iter()
                .map(|(name, value)| (name.as_str(), value.clone()))
                .collect();
            let has = |name: &str| fields.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
            if status != 304 && status != 204 && !has("content-length") && !has("transfer-encoding") {
                all.push(("Content-Length", says.body.len().to_string()));
            }
            conn.head(status, &all);
            if !matches!(status, 204 | 304) && seen.method != "HEAD" {
                conn.raw(says.body.as_bytes());
            }
            if stated("connection") == Some("close") {
                conn.close();
            }
        });
        let clock = Arc::new(ManualClock::at(from_unix_seconds(1_700_000_000)));
        let settings = [("upstream", &*upstream.url()), ("hold_limit", "300ms")];
        let pond = Pond::start_at(&settings, Arc::clone(&clock) as millpond::clock::SharedClock);
        Self {
            upstream,
            pond,
            clock,
            pages,
        }
    }

    fn page(&self, path: impl Into<String>) -> Page<'_> {
        Page {
            bench: self,
            path: path.into(),
        }
    }

    /// The lines as fields, with dates in the places of `{±seconds}`.
    fn fields(&self, text: &str) -> Vec<(String, String)> {
        let date = |shift: i64| {
            let now = millpond::clock::unix_seconds(self.clock.now());
            print_date(from_unix_seconds(now.saturating_add_signed(shift)))
        };
        let fields = text.lines().filter_map(|line| line.split_once(':'));
        fields
            .map(|(name, value)| {
                let mut value = value.trim().to_owned();
                if let (Some(from), Some(to)) = (value.find('{'), value.find('}')) {
                    let shift = value[from + 1..to].parse().expect("seconds");
                    value.replace_range(from..=to, &date(shift));
                }
                (name.trim().to_owned(), value)
            })
            .collect()
    }
}

impl Page<'_> {
    /// From now on the upstream says this, with a body of its own.
    fn says(&self, reply: &str) -> &Self {
        let (status, fields) = match reply.split_once('\n').or(Some((reply, ""))) {
            Some((first, rest)) if first.parse::<u16>().is_ok() => (first.parse().expect("a status"), rest),
            _ => (200, reply),
        };
        let fields = self.bench.fields(fields);
        let mut pages = self.bench.pages.lock().expect("whole");
        let before = pages.get(&self.path).map_or(0, |says| says.body.len());
        let says = Says {
            status,
            on_304: fields
                .iter()
                .filter(|(name, _)| !name.eq_ignore_ascii_case("set-cookie"))
                .cloned()
                .collect(),
            fields,
            body: "x".repeat(before + 1),
            broken: false,
        };
        pages.insert(self.path.clone(), says);
        self
    }

    fn changes(&self, change: impl FnOnce(&mut Says)) -> &Self {
        change(
            self.bench
                .pages
                .lock()
                .expect("whole")
                .get_mut(&self.path)
                .expect("a page"),
        );
        self
    }

    fn breaks(&self) -> &Self {
        self.changes(|says| says.broken = true)
    }

    /// Replies to conditions carry these.
    fn vouches(&self, fields: &str) -> &Self {
        let fields = self.bench.fields(fields);
        self.changes(|says| says.on_304 = fields)
    }

    fn after(&self, seconds: u64) -> &Self {
        self.bench.clock.advance(Duration::from_secs(seconds));
        self
    }

    /// How often the upstream was asked for it. A question that was refused, and put once more without its range, is
    /// one.
    fn asked(&self) -> usize {
        let seen = self.bench.upstream.requests();
        let seen: Vec<_> = seen.iter().filter(|seen| seen.target == self.path).collect();
        let is_again = |pair: &[&Seen]| {
            let same = |name| pair[0].header(name) == pair[1].header(name);
            let lost_range = pair[0].header("range").is_some() && pair[1].header("range").is_none();
            pair[0].method == pair[1].method && lost_range && same("if-none-match") && same("if-modified-since")
        };
        seen.len() - seen.windows(2).filter(|pair| is_again(pair)).count()
    }

    fn last_seen(&self, name: &str) -> Option<String> {
        let seen = self.bench.upstream.requests();
        let last = seen.iter().rfind(|seen| seen.target == self.path)?;
        last.header(name).map(str::to_owned)
    }

    fn send(&self, method: &str, fields: &str) -> Answer {
        let fields = self.bench.fields(fields);
        let fields: Vec<(&str, &str)> = fields
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let answer = request(self.bench.pond.address(), method, &self.path, &fields);
        eventually("its fill is over", || self.bench.pond.metric("millpond_fills") == 0);
        answer
    }

    fn get(&self, fields: &str) -> Answer {
        self.send("GET", fields)
    }

    /// Asks, and says what came of it.
    fn outcome(&self, fields: &str) -> (Expect, Answer) {
        let before = self.asked();
        let answer = self.get(fields);
        let outcome = match self.asked() - before {
            0 if answer.story().is_some_and(|story| story.starts_with("millpond; hit")) => Hit,
            0 => Expect::Own(answer.status),
            1 if self.last_seen("if-none-match").is_some() || self.last_seen("if-modified-since").is_some() => {
                Validated
            }
            1 => Anew,
            more => panic!("{}: asked {more} times", self.path),
        };
        (outcome, answer)
    }

    #[track_caller]
    fn expect(&self, fields: &str, expected: Expect) -> Answer {
        let (outcome, answer) = self.outcome(fields);
        assert_eq!(outcome, expected, "{}: {answer:?}", self.path);
        answer
    }
}

#[test]
fn every_row_holds() {
    let bench = Bench::start();
    let mut wrong = String::new();
    for (number, (section, claim, reply, wait, requests, expected)) in ROWS.iter().enumerate() {
        let page = bench.page(format!("/row/{number}"));
        page.says(reply);
        let (first, second) = requests.split_once('|').unwrap_or(("", requests));
        let answer = page.get(first);
        let body = answer.text();
        let (outcome, again) = page.after(*wait).outcome(second);
        let story = again.story().unwrap_or_default().to_owned();
        if outcome != *expected {
            let _ = writeln!(
                wrong,
                "{number}: {section} {claim}: {outcome:?}, not {expected:?} ({story})"
            );
        } else if !matches!(expected, Expect::Own(_)) && (again.text() != body || again.status != answer.status) {
            let _ = writeln!(
                wrong,
                "{number}: {section} {claim}: {} {:?} ({story})",
                again.status,
                again.text()
            );
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// A claim whose proof takes more than two requests: its section, the claim, and the proof.
type Story = (&'static str, &'static str, fn(&Bench, Page<'_>));

#[rustfmt::skip]
const STORIES: &[Story] = &[
    ("9111 §4.3.1", "a tag goes into `If-None-Match`", |_, page| {
        page.says("ETag: \"a\"\nCache-Control: max-age=0").get("");
        page.expect("", Validated);
        assert_eq!(page.last_seen("if-none-match").as_deref(), Some("\"a\""));
    }),
    ("9111 §4.3.1", "a weak tag too", |_, page| {
        page.says("ETag: W/\"a\"\nCache-Control: max-age=0").get("");
        page.expect("", Validated);
        assert_eq!(page.last_seen("if-none-match").as_deref(), Some("W/\"a\""));
    }),
    ("9111 §4.3.1", "a date goes into `If-Modified-Since`, as it came", |_, page| {
        page.says("Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\nCache-Control: max-age=0").get("");
        page.expect("", Validated);
        assert_eq!(page.last_seen("if-modified-since").as_deref(), Some("Sun, 06 Nov 1994 08:49:37 GMT"));
    }),
    ("9111 §4.3.1", "a validation carries the fields of the request that caused it", |_, page| {
        page.says("ETag: \"a\"\nCache-Control: max-age=0").get("");
        page.get("X-Mine: 1\nCache-Control: max-age=7");
        assert_eq!(page.last_seen("x-mine").as_deref(), Some("1"));
        assert_eq!(page.last_seen("cache-control").as_deref(), Some("max-age=7"));
    }),
    ("9111 §4.3.3", "a 304 makes the stored reply fresh again", |_, page| {
        page.says("ETag: \"a\"\nCache-Control: max-age=10").get("");
        page.after(10).expect("", Validated);
        page.after(9).expect("", Hit);
        page.after(1).expect("", Validated);
    }),
    ("9111 §4.3.3", "a 200 replaces it", |_, page| {
        page.says("ETag: \"a\"\nCache-Control: max-age=10").get("");
        page.says("ETag: \"b\"\nCache-Control: max-age=10").after(10);
        assert_eq!(page.expect("", Validated).text(), "xx");
        assert_eq!(page.after(5).expect("", Hit).text(), "xx");
    }),
    ("9111 §4.3.3", "so does one with another status", |_, page| {
        page.says("ETag: \"a\"\nCache-Control: max-age=10").get("");
        page.says("410\nCache-Control: max-age=10").after(10);
        assert_eq!(page.expect("", Validated).status, 410);
        assert_eq!(page.after(5).expect("", Hit).status, 410);
    }),
    ("9111 §4.3.3", "a reply without a tag replaces one with a tag", |_, page| {
        page.says("ETag: \"a\"\nCache-Control: max-age=10").get("");
        page.says("Cache-Control: max-age=10").after(10);
        assert_eq!(page.expect("", Validated).text(), "xx");
        assert!(page.after(5).expect("", Hit).header("etag").is_some(), "one of ours");
        page.after(10).expect("", Anew);
    }),
    ("9111 §4.3.3", "what is gone (404, 410) is forgotten, also for when the upstream fails", |_, page| {
        page.says("ETag: \"a\"\nCache-Control: max-age=10").get("");
        page.says("404").after(10);
        assert_eq!(page.expect("", Validated).status, 404);
        page.breaks();
        assert_eq!(page.get("").status, 502);
    }),
    ("9111 §3.2", "a 304 changes the fields that it names", |_, page| {
        page.says("ETag: \"a\"\nCache-Control: max-age=10\nX-A: old\nX-B: stays").get("");
        page.vouches("X-A: new\nX-C: more").after(10);
        let answer = page.expect("", Validated);
        let fields = ["x-a", "x-b", "x-c"].map(|name| answer.header(name).map(str::to_owned));
        assert_eq!(fields.each_ref().map(|field| field.as_deref()), [Some("new"), Some("stays"), Some("more")]);
        assert_eq!(page.get("").header("x-a"), Some("new"));
    }),
    ("9111 §3.2", "a 304 changes how long the reply is fresh", |_, page| {
        page.says("ETag: \"a\"\nCache-Control: max-age=10").get("");
        page.vouches("Cache-Control: max-age=1000").after(10);
        page.expect("", Validated);
        page.after(900).expect("", Hit);
    }),
    ("9111 §3.2", "a 304 never changes `Content-Length`, `-Encoding`, `-Range`, `-Type` and the tag", |_, page| {
        page.says("ETag: \"a\"\nCache-Control: max-age=10\nContent-Type: a/b").get("");
        page.vouches("Content-Length: 0\nContent-Encoding: gzip\nContent-Range: bytes 0-0/9\nContent-Type: c/d\nETag: \"z\"").after(10);
        let answer = page.expect("", Validated);
        assert_eq!((answer.text().as_str(), answer.header("content-type"), answer.header("etag")), ("x", Some("a/b"), Some("\"a\"")));
        assert_eq!((answer.header("content-encoding"), answer.header("content-range")), (None, None));
    }),
    ("9111 §3.2", "a 304 that says `no-store` ends the storing", |_, page| {
        page.says("ETag: \"a\"\nCache-Control: max-age=10").get("");
        page.vouches("Cache-Control: no-store").after(10);
        page.expect("", Validated);
        page.expect("", Anew);
    }),
    ("9111 §4.3.2", "a fresh reply answers `If-None-Match` with 304", |_, page| {
        page.says("ETag: \"a\"\nCache-Control: max-age=10").get("");
        assert_eq!(page.expect("If-None-Match: \"a\"", Hit).status, 304);
        assert_eq!(page.expect("If-None-Match: \"b\", W/\"a\"", Hit).status, 304);
        assert_eq!(page.expect("If-None-Match: *", Hit).status, 304);
        assert_eq!(page.expect("If-None-Match: \"b\"", Hit).status, 200);
    }),
    ("9111 §4.3.2", "and `If-Modified-Since`", |_, page| {
        page.says("Last-Modified: {-100}\nDate: {0}\nCache-Control: max-age=10").get("");
        assert_eq!(page.expect("If-Modified-Since: {-100}", Hit).status, 304);
        assert_eq!(page.expect("If-Modified-Since: {-50}", Hit).status, 304);
        assert_eq!(page.expect("If-Modified-Since: {-200}", Hit).status, 200);
    }),
    ("9111 §4.3.2", "a validation for a client with the same tag ends in its 304", |_, page| {
        page.says("ETag: \"a\"\nCache-Control: max-age=0").get("");
        assert_eq!(page.expect("If-None-Match: \"a\"", Validated).status, 304);
    }),
    ("9110 §13.2.2", "`If-None-Match` outranks `If-Modified-Since`", |_, page| {
        page.says("ETag: \"a\"\nLast-Modified: {-100}\nDate: {0}\nCache-Control: max-age=10").get("");
        assert_eq!(page.expect("If-None-Match: \"b\"\nIf-Modified-Since: {-100}", Hit).status, 200);
    }),
    ("9110 §13.2.1", "conditions are not looked at where the reply is no success", |_, page| {
        page.says("404\nETag: \"a\"\nCache-Control: max-age=10").get("");
        assert_eq!(page.expect("If-None-Match: \"a\"", Hit).status, 404);
    }),
    ("9111 §4.2.4", "a stale reply answers while the upstream is broken", |_, page| {
        page.says("ETag: \"a\"\nCache-Control: max-age=10").get("");
        page.breaks().after(10);
        let answer = page.get("");
        assert_eq!((answer.status, answer.text().as_str()), (200, "x"));
        assert!(answer.story().is_some_and(|story| story.contains("detail=not-revalidated")));
    }),
    ("9111 §4.2.4", "also one without a validator", |_, page| {
        page.says("Cache-Control: max-age=10").get("");
        page.breaks().after(10);
        assert_eq!(page.get("").text(), "x");
    }),
    ("9111 §4.2.4", "a stale reply answers in the place of a 5xx", |_, page| {
        for status in [500, 502, 503, 504] {
            page.says("ETag: \"a\"\nCache-Control: max-age=10").get("Cache-Control: no-cache");
            let body = page.get("").text();
            page.says(&status.to_string()).after(10);
            assert_eq!(page.get("").text(), body, "{status}");
        }
    }),
    ("9111 §4.2.4", "also one without a validator, and for the next request still", |_, page| {
        page.says("Cache-Control: max-age=10").get("");
        page.says("503").after(10);
        assert_eq!(page.get("").text(), "x");
        assert_eq!(page.get("").text(), "x");
    }),
    ("9111 §4.2.4", "for seven days, where nothing says for how long", |_, page| {
        page.says("ETag: \"a\"\nCache-Control: max-age=10").get("");
        page.breaks().after(10 + 7 * 24 * 3600);
        assert_eq!(page.get("").status, 200);
        assert_eq!(page.after(1).get("").status, 504);
    }),
    ("9111 §5.2.2.2", "`must-revalidate` is 504 while the upstream is broken", |_, page| {
        page.says("ETag: \"a\"\nCache-Control: max-age=10, must-revalidate").get("");
        assert_eq!(page.breaks().after(10).get("").status, 504);
    }),
    ("9111 §5.2.2.8", "so is `proxy-revalidate`", |_, page| {
        page.says("ETag: \"a\"\nCache-Control: max-age=10, proxy-revalidate").get("");
        assert_eq!(page.breaks().after(10).get("").status, 504);
    }),
    ("9111 §5.2.2.10", "so is `s-maxage`", |_, page| {
        page.says("ETag: \"a\"\nCache-Control: s-maxage=10").get("");
        assert_eq!(page.breaks().after(10).get("").status, 504);
    }),
    ("9111 §5.2.2.4", "so is `no-cache`", |_, page| {
        page.says("ETag: \"a\"\nCache-Control: no-cache").get("");
        assert_eq!(page.breaks().get("").status, 504);
    }),
    ("5861 §4", "`stale-if-error` says for how long", |_, page| {
        page.says("ETag: \"a\"\nCache-Control: max-age=10, stale-if-error=20").get("");
        assert_eq!(page.breaks().after(30).get("").status, 200);
        assert_eq!(page.after(1).get("").status, 504);
    }),
    ("5861 §4", "the request's `stale-if-error` outranks the reply's", |_, page| {
        page.says("ETag: \"a\"\nCache-Control: max-age=10, stale-if-error=20").get("");
        assert_eq!(page.breaks().after(100).get("Cache-Control: stale-if-error=100").status, 200);
    }),
    ("5861 §4", "`must-revalidate` outranks both", |_, page| {
        page.says("ETag: \"a\"\nCache-Control: max-age=10, stale-if-error=20, must-revalidate").get("");
        assert_eq!(page.breaks().after(11).get("").status, 504);
    }),
    ("5861 §3", "`stale-while-revalidate` answers at once and asks meanwhile, with the fields of the request", |bench, page| {
        page.says("ETag: \"a\"\nCache-Control: max-age=10, stale-while-revalidate=20").get("");
        page.says("ETag: \"b\"\nCache-Control: max-age=10, stale-while-revalidate=20").after(15);
        let answer = request(bench.pond.address(), "GET", &page.path, &[("X-Mine", "1")]);
        assert_eq!(answer.text(), "x");
        assert!(answer.story().is_some_and(|story| story.ends_with("; detail=stale-while-revalidate")));
        eventually("it is asked for", || page.asked() == 2);
        eventually("its fill is over", || bench.pond.metric("millpond_fills") == 0);
        assert_eq!(page.last_seen("x-mine").as_deref(), Some("1"));
        assert_eq!(page.expect("", Hit).text(), "xx");
    }),
    ("5861 §3", "and not beyond its time", |_, page| {
        page.says("ETag: \"a\"\nCache-Control: max-age=10, stale-while-revalidate=20").get("");
        page.after(30).expect("", Validated);
    }),
    ("9111 §5.2.1.7", "`only-if-cached` is 504 where nothing is stored", |_, page| {
        assert_eq!(page.outcome("Cache-Control: only-if-cached").0, Expect::Own(504));
    }),
    ("9111 §4.1", "several variants are stored beside each other", |_, page| {
        page.says("Cache-Control: max-age=100\nVary: X-A");
        page.get("X-A: 1");
        page.says("Cache-Control: max-age=100\nVary: X-A");
        page.get("X-A: 2");
        page.says("Cache-Control: max-age=100\nVary: X-A");
        page.get("");
        assert_eq!(page.expect("X-A: 1", Hit).text(), "x");
        assert_eq!(page.expect("X-A: 2", Hit).text(), "xx");
        assert_eq!(page.expect("", Hit).text(), "xxx");
    }),
    ("9111 §4.1", "each is validated by its own tag", |_, page| {
        page.says("Cache-Control: max-age=10\nVary: X-A\nETag: \"one\"");
        page.get("X-A: 1");
        page.says("Cache-Control: max-age=10\nVary: X-A\nETag: \"two\"");
        page.get("X-A: 2");
        page.after(10).expect("X-A: 2", Validated);
        assert_eq!(page.last_seen("if-none-match").as_deref(), Some("\"two\""));
    }),
    ("9111 §4.1", "a stale variant is validated with the fields that select it", |_, page| {
        page.says("Cache-Control: max-age=10\nVary: X-A\nETag: \"one\"");
        page.get("X-A: 1");
        page.after(10).expect("X-A: 1", Validated);
        assert_eq!(page.last_seen("x-a").as_deref(), Some("1"));
    }),
    ("9111 §4.1", "a variant whose own reply varies by more answers only whom that selects", |_, page| {
        page.says("Cache-Control: max-age=100\nVary: X-A").get("X-A: 1");
        page.says("Cache-Control: max-age=100\nVary: X-A, X-B").get("X-A: 2\nX-B: 1");
        assert_eq!(page.expect("X-A: 2\nX-B: 1", Hit).text(), "xx");
        page.says("Cache-Control: max-age=100\nVary: X-A, X-B");
        assert_eq!(page.expect("X-A: 2\nX-B: 2", Anew).expect(200).text(), "xxx");
        assert_eq!(page.expect("X-A: 1", Hit).text(), "x");
    }),
    ("9111 §4", "HEAD is answered from a stored GET", |_, page| {
        page.says("Cache-Control: max-age=10\nX-A: 1").get("");
        let head = page.send("HEAD", "");
        assert_eq!((page.asked(), head.status, head.header("x-a"), head.header("content-length")), (1, 200, Some("1"), Some("1")));
    }),
    ("9111 §4", "a HEAD on an empty cache asks by GET, and leaves the reply to the next", |_, page| {
        let head = page.says("Cache-Control: max-age=10").send("HEAD", "");
        assert_eq!((head.status, head.header("content-length"), head.text().as_str()), (200, Some("1"), ""));
    }),
    ("9111 §4.4", "a POST that succeeds forgets what is stored", |_, page| {
        page.says("Cache-Control: max-age=100").get("");
        page.send("POST", "Content-Length: 0");
        page.expect("", Anew);
    }),
    ("9111 §4.4", "so do PUT, DELETE, PATCH and methods that are not known", |_, page| {
        for method in ["PUT", "DELETE", "PATCH", "FOO"] {
            page.says("Cache-Control: max-age=100").get("");
            page.send(method, "Content-Length: 0");
            page.expect("", Anew);
        }
    }),
    ("9111 §4.4", "one that fails does not", |_, page| {
        page.says("Cache-Control: max-age=100").get("");
        page.says("500").send("POST", "Content-Length: 0");
        page.expect("", Hit);
    }),
    ("9111 §4.4", "all variants go with it", |_, page| {
        page.says("Cache-Control: max-age=100\nVary: X-A");
        page.get("X-A: 1");
        page.get("X-A: 2");
        page.send("POST", "Content-Length: 0");
        page.expect("X-A: 2", Anew);
        page.expect("X-A: 1", Anew);
    }),
    ("9111 §4.4", "`Location` and `Content-Location` of the same origin go too", |bench, page| {
        let (first, second) = (bench.page(format!("{}/a", page.path)), bench.page(format!("{}/b", page.path)));
        first.says("Cache-Control: max-age=100").get("");
        second.says("Cache-Control: max-age=100").get("");
        page.says(&format!("201\nLocation: {}\nContent-Location: {}", first.path, second.path));
        page.send("POST", "Content-Length: 0");
        first.expect("", Anew);
        second.expect("", Anew);
    }),
    ("9111 §4.4", "those of other origins stay", |bench, page| {
        let other = bench.page(format!("{}/a", page.path));
        other.says("Cache-Control: max-age=100").get("");
        page.says(&format!("201\nLocation: http://elsewhere.example{}", other.path));
        page.send("POST", "Content-Length: 0");
        other.expect("", Hit);
    }),
    ("9111 §4", "the answer to a POST is not reused", |_, page| {
        page.says("Cache-Control: max-age=100").send("POST", "Content-Length: 0");
        page.expect("", Anew);
    }),
    ("9111 §4", "other methods are never answered from the store", |_, page| {
        page.says("Cache-Control: max-age=100").get("");
        page.send("OPTIONS", "");
        page.send("FOO", "");
        assert_eq!(page.asked(), 3);
    }),
    ("9111 §5.1", "every answer from the store has an `Age`", |_, page| {
        page.says("Cache-Control: max-age=100\nAge: 30").get("");
        assert_eq!(page.after(20).expect("", Hit).header("age"), Some("50"));
    }),
    ("9111 §5.1", "an `Age` of the upstream is replaced, not repeated", |_, page| {
        let answer = page.says("Cache-Control: max-age=100\nAge: 30").get("");
        let ages = answer.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("age"));
        assert_eq!((ages.count(), answer.header("age")), (1, Some("30")));
    }),
    ("9110 §6.6.1", "the upstream's `Date` is kept", |_, page| {
        page.says("Cache-Control: max-age=100\nDate: {-5}").get("");
        let first = page.get("");
        let second = page.after(20).get("");
        assert!(first.header("date").is_some());
        assert_eq!(first.header("date"), second.header("date"));
    }),
    ("9111 §4.2", "a wall clock that is set forward makes nothing stale", |bench, page| {
        page.says("Cache-Control: max-age=100\nDate: {0}").get("");
        let right = bench.clock.now();
        bench.clock.set(right + Duration::from_secs(86_400));
        page.after(99).expect("", Hit);
        bench.clock.set(right + Duration::from_secs(99));
        page.after(1).expect("", Anew);
    }),
    ("9111 §4.2", "one that is set back keeps nothing fresh", |bench, page| {
        page.says("Cache-Control: max-age=100\nDate: {0}").get("");
        let right = bench.clock.now();
        bench.clock.set(right - Duration::from_secs(86_400));
        let answer = page.after(99).expect("", Hit);
        assert_eq!(answer.header("age"), Some("99"));
        page.after(1).expect("", Anew);
        bench.clock.set(right + Duration::from_secs(100));
    }),
    ("9111 §3.1", "unknown fields are stored, twice where they came twice", |_, page| {
        page.says("Cache-Control: max-age=100\nX-A: 1\nX-A: 2\nX-Long: abc def").get("");
        let answer = page.expect("", Hit);
        let twice: Vec<&str> = answer.headers.iter().filter(|(name, _)| name == "x-a").map(|(_, value)| value.as_str()).collect();
        assert_eq!((twice, answer.header("x-long")), (vec!["1", "2"], Some("abc def")));
    }),
    ("9111 §3.1", "fields of the connection are not stored", |_, page| {
        page.says("Cache-Control: max-age=100\nConnection: X-Hop\nX-Hop: 1\nKeep-Alive: 5\nProxy-Authenticate: Basic\nUpgrade: foo").get("");
        let answer = page.expect("", Hit);
        for name in ["x-hop", "keep-alive", "proxy-authenticate", "upgrade"] {
            assert_eq!(answer.header(name), None, "{name}");
        }
    }),
    ("6797 §8", "`Strict-Transport-Security` binds the upstream's host, not ours", |_, page| {
        let answer = page.says("Cache-Control: max-age=100\nStrict-Transport-Security: max-age=9").get("");
        assert_eq!(answer.header("strict-transport-security"), None);
    }),
    ("9110 §14.2", "a stored reply answers any range of it", |_, page| {
        page.says("Cache-Control: max-age=100\nETag: \"a\"");
        page.changes(|says| says.body = "0123456789".to_owned()).get("");
        for (range, wanted) in [("bytes=0-3", "0123"), ("bytes=7-", "789"), ("bytes=-2", "89"), ("bytes=8-100", "89")] {
            let answer = page.expect(&format!("Range: {range}"), Hit);
            assert_eq!((answer.status, answer.text().as_str()), (206, wanted));
        }
        assert_eq!(page.expect("Range: bytes=10-", Hit).status, 416);
    }),
    ("9110 §14.2", "a range of another unit is the whole", |_, page| {
        page.says("Cache-Control: max-age=100").get("");
        assert_eq!(page.expect("Range: lines=1-2", Hit).status, 200);
    }),
    ("9110 §13.1.5", "`If-Range` with the tag gives the range, with another the whole", |_, page| {
        page.says("Cache-Control: max-age=100\nETag: \"a\"");
        page.changes(|says| says.body = "0123456789".to_owned()).get("");
        assert_eq!(page.expect("Range: bytes=0-3\nIf-Range: \"a\"", Hit).status, 206);
        assert_eq!(page.expect("Range: bytes=0-3\nIf-Range: \"b\"", Hit).status, 200);
        assert_eq!(page.expect("Range: bytes=0-3\nIf-Range: W/\"a\"", Hit).status, 200);
    }),
    ("9110 §14.2", "a stale reply is validated before a range of it is given", |_, page| {
        page.says("Cache-Control: max-age=10\nETag: \"a\"");
        page.changes(|says| says.body = "0123456789".to_owned()).get("");
        let answer = page.after(10).expect("Range: bytes=2-3", Validated);
        assert_eq!((answer.status, answer.text().as_str()), (206, "23"));
    }),
    ("9110 §8.4", "a coded reply is passed on as it is, without ranges, and kept only where it says for how long", |_, page| {
        page.says("Cache-Control: max-age=100\nContent-Encoding: gzip\nETag: \"a\"");
        for _ in 0..2 {
            let answer = page.get("Range: bytes=0-0");
            assert_eq!((answer.status, answer.header("content-encoding"), answer.header("accept-ranges")), (200, Some("gzip"), None));
        }
        page.expect("", Hit);
    }),
    ("9110 §8.4", "a coded reply that does not say for how long is not kept", |_, page| {
        page.says("Content-Encoding: gzip\nETag: \"a\"").get("");
        page.expect("", Anew);
    }),
    ("9110 §9.3.3", "the answer to a POST that says for how long and names its own URL answers later GETs", |_, page| {
        page.says(&format!("Cache-Control: max-age=100\nContent-Location: {}", page.path));
        page.send("POST", "Content-Length: 0").expect(200);
        page.expect("", Hit);
        page.expect("Range: bytes=0-0", Hit);
    }),
    ("9110 §9.3.3", "one that does not say for how long, or names another URL, does not", |_, page| {
        for says in [format!("Content-Location: {}", page.path), "Cache-Control: max-age=100\nContent-Location: /other".to_owned()] {
            page.says(&says).send("POST", "Content-Length: 0");
            page.expect("", Anew);
            page.after(100);
        }
    }),
    ("9110 §9.3.3", "nor one whose request claims to have been sent elsewhere", |_, page| {
        page.says(&format!("Cache-Control: max-age=100\nContent-Location: {}", page.path));
        page.send("POST", "Content-Length: 0\nX-Forwarded-Host: evil.example");
        page.expect("", Anew);
    }),
    ("9110 §15.4", "a redirect that does not say where to is a reply like any other", |_, page| {
        page.says("Cache-Control: max-age=100").changes(|says| says.status = 301);
        assert_eq!(page.get("").status, 301);
        page.expect("", Hit);
    }),
    ("9111 §4.3.2", "what has a date and does not say when it was modified was not modified since", |_, page| {
        page.says("Cache-Control: max-age=100\nDate: {0}").get("");
        assert_eq!(page.get("If-Modified-Since: {0}").status, 304);
        assert_eq!(page.get("If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT").status, 200);
    }),
    ("9110 §13.1.2", "a client that has the upstream's weak tag is told that it is unchanged", |_, page| {
        page.says("Cache-Control: max-age=100\nETag: W/\"a\"").get("");
        assert_eq!(page.get("If-None-Match: W/\"a\"").status, 304);
        assert_eq!(page.get("If-None-Match: W/\"b\"").status, 200);
    }),
    ("9110 §12.4", "the language that a client wants before all others suits it, whoever asked for it", |_, page| {
        page.says("Cache-Control: max-age=100\nVary: Accept-Language\nContent-Language: de").get("Accept-Language: en, de");
        page.expect("Accept-Language: fr;q=0.5, de;q=1.0", Hit);
        page.expect("Accept-Language: fr", Anew);
    }),
    ("Edge Architecture §2.2", "`Surrogate-Control` that means us by name outranks `Cache-Control`", |_, page| {
        page.says("Cache-Control: no-store\nSurrogate-Control: Max-Age=100;millpond").get("");
        page.expect("", Hit);
        page.says("Cache-Control: no-store\nSurrogate-Control: max-age=100;another");
        page.after(100).get("");
        page.expect("", Anew);
    }),
    ("9211 §2.8", "`Cache-Status` names the key by which the API knows the object", |pond, page| {
        page.says("Cache-Control: max-age=100");
        let answer = page.get("");
        let key = answer.header("cache-status").and_then(|story| story.split("; key=").nth(1)).expect("a key").trim_matches('"').to_owned();
        assert_eq!(request(pond.pond.address(), "GET", &format!("/-/api/v1/objects/{key}"), &[]).status, 200);
    }),
    ("9110 §12.5.3", "the upstream is asked for `identity`, whatever the client takes", |_, page| {
        page.says("Cache-Control: max-age=100").get("Accept-Encoding: gzip, br");
        assert_eq!(page.last_seen("accept-encoding").as_deref(), Some("identity"));
    }),
    ("9110 §7.6.1", "fields that `Connection` names go no further", |_, page| {
        page.says("Cache-Control: max-age=0").get("Connection: X-Hop\nX-Hop: 1\nX-End: 2");
        assert_eq!((page.last_seen("x-hop"), page.last_seen("x-end").as_deref()), (None, Some("2")));
    }),
    ("9110 §7.6.3", "`Via` tells the upstream of us", |_, page| {
        page.says("Cache-Control: max-age=0").get("Via: 1.0 fred");
        assert_eq!(page.last_seen("via").as_deref(), Some("1.0 fred, 1.1 millpond"));
    }),
    ("9110 §7.2", "`Host` is the upstream's", |bench, page| {
        page.says("Cache-Control: max-age=0").get("");
        let host = bench.upstream.url().trim_start_matches("http://").trim_end_matches('/').to_owned();
        assert_eq!(page.last_seen("host"), Some(host));
    }),
    ("9110 §10.1.1", "`Expect` is answered here", |_, page| {
        page.says("200").send("POST", "Expect: 100-continue\nContent-Length: 0");
        assert_eq!(page.last_seen("expect"), None);
    }),
    ("7239 §4", "`Forwarded` says who asks and by which name", |_, page| {
        page.says("Cache-Control: max-age=0").get("Forwarded: for=192.0.2.1");
        let told = page.last_seen("forwarded").expect("told");
        // The claim of an earlier hop is hearsay, and no part of a key.
        assert_eq!(told, "for=127.0.0.1;proto=http");
        page.send("POST", "Host: localhost\nContent-Length: 0\nForwarded: for=192.0.2.1");
        let told = page.last_seen("forwarded").expect("told");
        assert_eq!(told, "for=192.0.2.1, for=127.0.0.1;host=\"localhost\";proto=http");
    }),
    ("9110 §15.4.5", "a 304 to a request without a condition is no answer", |_, page| {
        let answer = page.says("304").get("");
        assert_eq!(answer.status, 502);
    }),
    ("9110 §15.3.5", "a 204 has no body and is kept as others are", |_, page| {
        page.says("204\nCache-Control: max-age=100").get("");
        let answer = page.expect("", Hit);
        assert_eq!((answer.status, answer.body.len(), answer.header("content-length")), (204, 0, None));
    }),
    ("9211 §2", "`Cache-Status` says that it is a hit, and for how long still", |_, page| {
        page.says("Cache-Control: max-age=100").get("");
        assert_eq!(page.after(10).get("").story(), Some("millpond; hit; ttl=90"));
    }),
    ("9211 §2.2", "why the upstream was asked", |_, page| {
        let story = |answer: Answer| answer.story().unwrap_or_default().to_owned();
        page.says("Cache-Control: max-age=10\nETag: \"a\"\nVary: X-A");
        assert!(story(page.get("")).contains("; fwd=uri-miss;"));
        assert!(story(page.get("Cache-Control: no-cache")).contains("; fwd=request;"));
        assert!(story(page.get("X-A: 1")).contains("; fwd=vary-miss;"));
        assert!(story(page.after(10).get("")).contains("; fwd=stale; fwd-status=304"));
        assert!(story(page.send("FOO", "")).contains("; fwd=method; fwd-status=200"));
    }),
    ("9211 §2.5", "whether the reply was stored, and why not", |_, page| {
        let story = |answer: Answer| answer.story().unwrap_or_default().to_owned();
        assert!(story(page.says("Cache-Control: max-age=10").get("")).contains("; stored"));
        for (reply, why) in [
            ("Cache-Control: no-store", "no-store"),
            ("Content-Encoding: gzip", "content-encoding"),
            ("Cache-Control: private", "private"),
            ("Cache-Control: max-age=9\nVary: *", "vary"),
            ("Cache-Control: max-age=9\nSet-Cookie: a=b", "set-cookie"),
            ("404", "no-freshness"),
        ] {
            let told = story(page.says(reply).get("Cache-Control: no-cache"));
            assert!(told.ends_with(&format!("; detail={why}")) && !told.contains("stored"), "{reply}: {told}");
        }
    }),
    ("9111 §3.3", "a reply that was cut is never taken for a complete one", |_, page| {
        page.says("Cache-Control: max-age=100\nETag: W/\"a\"\nContent-Length: 10\nConnection: close").changes(|says| says.body = "0123".to_owned());
        let cut = page.get("");
        assert_eq!((cut.status, cut.text().as_str(), cut.ended), (200, "0123", Ended::Cut));
        page.says("Cache-Control: max-age=100\nETag: W/\"b\"").changes(|says| says.body = "0123456789".to_owned());
        assert_eq!(page.get("").expect(200).text(), "0123456789");
        assert_eq!(page.expect("", Hit).text(), "0123456789");
    }),
    ("9111 §3.3", "nor an error page that was cut", |_, page| {
        page.says("404\nCache-Control: max-age=100\nContent-Length: 10\nConnection: close").changes(|says| says.body = "0123".to_owned());
        let cut = page.get("");
        assert_eq!((cut.status, cut.text().as_str(), cut.ended), (404, "0123", Ended::Cut));
        page.says("404\nCache-Control: max-age=100").changes(|says| says.body = "0123456789".to_owned());
        assert_eq!(page.get("").expect(404).text(), "0123456789");
        assert_eq!(page.expect("", Hit).text(), "0123456789");
    }),
];

#[test]
fn every_story_holds() {
    let bench = Bench::start();
    let mut wrong = String::new();
    for (number, (section, claim, story)) in STORIES.iter().enumerate() {
        let page = bench.page(format!("/story/{number}"));
        let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| story(&bench, page)));
        if told.is_err() {
            let _ = writeln!(wrong, "{number}: {section} {claim}");
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn the_manual_tells_every_row() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/http.md");
    let text = std::fs::read_to_string(&path).expect("the manual");
    let (before, rest) = text.split_once("<!-- table -->\n").expect("where the table begins");
    let (told, after) = rest.split_once("<!-- end -->").expect("where the table ends");
    let mut table = String::from("| section | what millpond does |\n|---|---|\n");
    let rows = ROWS
        .iter()
        .map(|row| (row.0, row.1))
        .chain(STORIES.iter().map(|story| (story.0, story.1)));
    let mut all: Vec<(&str, &str)> = rows.collect();
    assert!(all.len() >= 200, "{} rows", all.len());
    let distinct: BTreeSet<_> = all.iter().collect();
    assert_eq!(distinct.len(), all.len(), "a row is told twice");
    all.sort_by_key(|(section, _)| *section);
    for (section, claim) in all {
        let _ = writeln!(table, "| {section} | {claim} |");
    }
    if std::env::var_os("POND_WRITE_DOCS").is_some() {
        std::fs::write(&path, format!("{before}<!-- table -->\n{table}<!-- end -->{after}")).expect("written");
    } else {
        assert_eq!(
            told, table,
            "docs/http.md is old: POND_WRITE_DOCS=1 cargo test the_manual_tells writes it anew"
        );
    }
}
