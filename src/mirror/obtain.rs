//! A listing from its server: all pages of it, or the reason why there is none to be believed.
//!
//! A listing is complete where the reply is 200 (207 for PROPFIND), came from the URL that was asked, has the type of its
//! format, ended as its framing says, was read to the end of its format, with every page, and no name was left out. All else
//! is partial or none: it may say what is there, never what is not.

use super::listing::{self, ListedMember, ListingFault, ListingPage, ListingSource, MAX_LISTING_BYTES, MAX_MEMBERS};
use super::source::{s3_listing, url_of};
use crate::config::ListingFormat;
use crate::directory::TreePath;
use crate::header::parse_date;
use crate::key::ObjectKey;
use crate::upstream::{Class, Client, ConfiguredUpstream, Exchange, Framing, Relay, Target, Trust};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};
use url::Url;

/// How often a listing is asked for that the upstream does not give for the moment: 429, 503, a connection that was lost.
/// A judgement: the next walk asks again anyhow.
const TRIES: usize = 3;

/// The longest rest between two of them. A judgement: an upstream that asks for more is left alone until the next walk.
const LONGEST_REST: Duration = Duration::from_secs(60);

/// The most pages of one listing. A judgement: a million members in pages of a thousand.
const MAX_PAGES: usize = 1000;

/// The members on a page of our own JSON that are asked for: as many as a page may have.
const OUR_PAGE: &str = "as=json&limit=10000";

/// The outcome of asking for a listing.
#[derive(Debug)]
pub(super) enum Obtained {
    /// All that is there.
    Complete(ListedCollection),
    /// The listing is the one that is known (304).
    Unchanged,
    /// Some of what is there, and why not all.
    Partial(ListedCollection, String),
    /// The upstream does not let us list it: 401 or 403.
    Refused(u16),
    /// The upstream has no such collection: 404 or 410.
    Gone(u16),
    /// There is no listing, for another reason.
    Failed(String),
}

/// The members of a collection, as its server lists them.
#[derive(Debug, Default)]
pub(super) struct ListedCollection {
    /// In the order of their names' bytes, each once.
    pub(super) members: Vec<ListedMember>,
    /// The entity tag of the listing, where it is of one page.
    pub(super) tag: Option<String>,
    /// The server's clock when it listed them, in nanoseconds since 1970.
    pub(super) date: Option<i64>,
    /// The format, where it was found out just now.
    pub(super) found: Option<ListingFormat>,
}

/// Asks one upstream for listings.
pub(super) struct Lister<'a> {
    pub(super) client: &'a Client,
    pub(super) upstream: &'a Arc<ConfiguredUpstream>,
    /// Counts the requests. Relaxed: a counter that orders nothing.
    pub(super) requests: &'a AtomicU64,
}

/// A reply, as far as a listing needs it.
struct Reply {
    status: u16,
    tag: Option<String>,
    date: Option<i64>,
    media: String,
    body: Vec<u8>,
    /// The body ended with the connection, so it may have been cut.
    is_doubtful: bool,
}

impl Lister<'_> {
    /// The listing of the collection at the path, in that format where one is known; `tag` is that of the listing that is
    /// known.
    pub(super) async fn obtain(&self, path: &TreePath, format: Option<ListingFormat>, tag: Option<&str>) -> Obtained {
        match format {
            Some(format) => self.obtain_in(path, format, tag).await,
            None => self.probe(path).await,
        }
    }

    /// Finds out the format: what a GET brings, if that is precise; else WebDAV; else what the GET brought; else S3.
    async fn probe(&self, path: &TreePath) -> Obtained {
        let url = url_of(&self.upstream.base, path);
        let reply = self.get(&url, None).await;
        let by_get = reply
            .as_ref()
            .ok()
            .filter(|reply| reply.status == 200)
            .and_then(|reply| {
                let source = ListingSource { url: &url, prefix: "" };
                listing::recognize(source, &reply.body)
            });
        if let Some(format) = by_get.filter(|format| format.is_precise()) {
            return found(self.obtain_in(path, format, None).await, format);
        }
        if let Ok(reply) = &reply
            && reply.status == 200
            && listing::is_empty_array(&reply.body)
        {
            return Obtained::Complete(ListedCollection::default());
        }
        let by_webdav = self.obtain_in(path, ListingFormat::Webdav, None).await;
        if matches!(by_webdav, Obtained::Complete(_) | Obtained::Partial(..)) {
            return found(by_webdav, ListingFormat::Webdav);
        }
        if let Some(format) = by_get {
            return found(self.obtain_in(path, format, None).await, format);
        }
        let by_s3 = self.obtain_in(path, ListingFormat::S3, None).await;
        if matches!(by_s3, Obtained::Complete(_) | Obtained::Partial(..)) {
            return found(by_s3, ListingFormat::S3);
        }
        match reply {
            Err(failed) => failed,
            Ok(reply) => match refusal(reply.status) {
                Some(refusal) => refusal,
                None => Obtained::Failed(
                    "no format of listings is known that the upstream answers in; name one with listing".to_owned(),
                ),
            },
        }
    }

    async fn obtain_in(&self, path: &TreePath, format: ListingFormat, tag: Option<&str>) -> Obtained {
        match format {
            ListingFormat::S3 => self.obtain_s3(path).await,
            ListingFormat::Millpond => self.obtain_ours(path, tag).await,
            ListingFormat::Webdav => {
                let url = url_of(&self.upstream.base, path);
                let reply = self.propfind(&url).await;
                self.read_one(reply, 207, format, &url, "")
            }
            _ => {
                let url = url_of(&self.upstream.base, path);
                let reply = self.get(&url, tag).await;
                self.read_one(reply, 200, format, &url, "")
            }
        }
    }

    fn read_one(
        &self,
        reply: Result<Reply, Obtained>,
        wanted: u16,
        format: ListingFormat,
        url: &Url,
        prefix: &str,
    ) -> Obtained {
        let reply = match reply {
            Ok(reply) if reply.status == wanted => reply,
            Ok(reply) => return unwanted(&reply),
            Err(failed) => return failed,
        };
        match read(&reply, format, ListingSource { url, prefix }) {
            Ok(page) => {
                let mut pages = Pages::default();
                pages.add(&reply, page);
                pages.finish(reply.tag)
            }
            Err(why) => Obtained::Failed(why),
        }
    }

    async fn obtain_ours(&self, path: &TreePath, tag: Option<&str>) -> Obtained {
        let base = url_of(&self.upstream.base, path);
        let place = |next: Option<&str>| {
            let mut url = base.clone();
            url.set_query(Some(next.map_or(OUR_PAGE, |next| next.trim_start_matches('?'))));
            Some((url, String::new()))
        };
        self.obtain_pages(ListingFormat::Millpond, tag, place).await
    }

    async fn obtain_s3(&self, path: &TreePath) -> Obtained {
        let by_path = self.obtain_bucket(path, false).await;
        match by_path {
            Obtained::Failed(_) | Obtained::Gone(_) => {}
            by_path => return by_path,
        }
        match self.obtain_bucket(path, true).await {
            Obtained::Failed(_) => by_path,
            by_host => by_host,
        }
    }

    async fn obtain_bucket(&self, path: &TreePath, by_host: bool) -> Obtained {
        let place = |next: Option<&str>| s3_listing(&self.upstream.base, path, by_host, next);
        self.obtain_pages(ListingFormat::S3, None, place).await
    }

    /// A listing in pages; `place` tells where each is, by what the page before it says of the next, and for S3 the keys'
    /// common start.
    async fn obtain_pages(
        &self,
        format: ListingFormat,
        tag: Option<&str>,
        place: impl Fn(Option<&str>) -> Option<(Url, String)>,
    ) -> Obtained {
        let (mut pages, mut reading, mut next) = (Pages::default(), None, None::<String>);
        for number in 0..MAX_PAGES {
            let Some((url, prefix)) = place(next.as_deref()) else {
                return Obtained::Failed("the URL names no bucket".to_owned());
            };
            let reply = match self.get(&url, tag.filter(|_| number == 0)).await {
                Ok(reply) if reply.status == 200 => reply,
                Ok(reply) if number == 0 => return unwanted(&reply),
                Ok(reply) => return pages.cut(format!("a page of it is {}", reply.status)),
                Err(failed) if number == 0 => return failed,
                Err(_) => return pages.cut("a page of it did not come".to_owned()),
            };
            let source = ListingSource {
                url: &url,
                prefix: &prefix,
            };
            let page = match read(&reply, format, source) {
                Ok(page) => page,
                Err(why) if number == 0 => return Obtained::Failed(why),
                Err(why) => return pages.cut(why),
            };
            if number > 0 && reading != page.reading {
                return pages.cut("it changed while it was read, page by page".to_owned());
            }
            reading.clone_from(&page.reading);
            next.clone_from(&page.next);
            pages.add(&reply, page);
            if next.is_none() {
                // The tag of one page says nothing of the others.
                return pages.finish(reply.tag.filter(|_| number == 0));
            }
            if pages.listing.members.len() > MAX_MEMBERS {
                return pages.cut(ListingFault::TooMany.to_string());
            }
        }
        pages.cut("it has more pages than are read".to_owned())
    }

    /// The status by which the upstream answers for a URL; `None` where it does not answer.
    pub(super) async fn status_of(&self, url: &Url) -> Option<u16> {
        match self.ask("HEAD", url, &[], None).await.ok()?.status {
            // A server that knows no HEAD is asked for a byte.
            405 | 501 => {
                let answer = self.ask("GET", url, &[("range", "bytes=0-0")], None).await;
                answer.ok().map(|reply| reply.status)
            }
            status => Some(status),
        }
    }

    async fn get(&self, url: &Url, tag: Option<&str>) -> Result<Reply, Obtained> {
        let mut fields = vec![("accept", "application/json, text/html;q=0.5, */*;q=0.1")];
        fields.extend(tag.map(|tag| ("if-none-match", tag)));
        self.ask("GET", url, &fields, None).await
    }

    async fn propfind(&self, url: &Url) -> Result<Reply, Obtained> {
        let fields = [("depth", "1"), ("content-type", "application/xml; charset=utf-8")];
        self.ask("PROPFIND", url, &fields, Some(listing::PROPFIND)).await
    }

    /// Sends a request, some times where the upstream does not answer it for the moment.
    async fn ask(
        &self,
        method: &str,
        url: &Url,
        fields: &[(&str, &str)],
        body: Option<&'static str>,
    ) -> Result<Reply, Obtained> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let target = Target {
            upstream: Some(Arc::clone(self.upstream)),
            ..Target::new(url.clone(), Trust::Configured).with_fields(fields.iter().map(owned).collect())
        };
        let (target, key) = (Arc::new(target), ObjectKey::of(url));
        let budget = self.client.budget_of(url);
        let mut failed = String::new();
        for _ in 0..TRIES {
            budget.rested(key.id()).await;
            let permit = budget.acquire(Class::Mirror).await;
            self.requests.fetch_add(1, Ordering::Relaxed);
            let relay = Relay {
                target: Arc::clone(&target),
                method: method.to_owned(),
                length: body.map(|body| body.len() as u64),
                body: body.map(|body| {
                    let pieces = futures::stream::iter([Ok(Bytes::from_static(body.as_bytes()))]);
                    Box::pin(pieces) as _
                }),
            };
            let exchange = match self.client.relay(relay).await {
                Ok(exchange) => exchange,
                Err(error) if error.is_no_outage() => return Err(Obtained::Failed(error.to_string())),
                Err(error) => {
                    permit.unanswered();
                    failed = error.to_string();
                    continue;
                }
            };
            permit.answered();
            let status = exchange.reply.status;
            if matches!(status, 429 | 503) {
                let rest = exchange.reply.rest().unwrap_or(Duration::from_secs(1));
                failed = format!("the upstream answers {status}");
                permit.refused(key.id(), status, rest);
                if rest > LONGEST_REST {
                    break;
                }
                continue;
            }
            match self.body(exchange).await {
                Ok(reply) => return Ok(reply),
                Err(why) => failed = why,
            }
        }
        Err(Obtained::Failed(failed))
    }

    async fn body(&self, mut exchange: Exchange) -> Result<Reply, String> {
        let head = &exchange.reply;
        let date = head.validators.date.as_deref().and_then(parse_date);
        let date = date.and_then(|date| date.duration_since(UNIX_EPOCH).ok());
        let mut reply = Reply {
            status: head.status,
            tag: head.validators.etag.clone(),
            date: date.and_then(|date| i64::try_from(date.as_nanos()).ok()),
            media: head.header("content-type").unwrap_or_default().to_ascii_lowercase(),
            body: Vec::new(),
            is_doubtful: head.framing == Framing::Close,
        };
        if head.content_encoded {
            return Err("it is compressed, though nothing of the kind was asked for".to_owned());
        }
        let silence = self.client.read_idle_timeout();
        loop {
            match exchange.next_within(silence).await {
                Ok(Some(piece)) if reply.body.len() + piece.len() > MAX_LISTING_BYTES => {
                    return Err(format!("it is larger than {MAX_LISTING_BYTES} bytes"));
                }
                Ok(Some(piece)) => reply.body.extend_from_slice(&piece),
                Ok(None) => return Ok(reply),
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}

/// The pages of a listing, as they are gathered.
#[derive(Default)]
struct Pages {
    listing: ListedCollection,
    why_partial: Option<String>,
}

impl Pages {
    fn add(&mut self, reply: &Reply, page: ListingPage) {
        self.listing.members.extend(page.members);
        self.listing.date = self.listing.date.or(reply.date);
        if page.is_cut {
            self.why_partial = Some("the server says that it has not listed all".to_owned());
        }
        if reply.is_doubtful {
            self.why_partial = Some("it ended with the connection, and may have been cut".to_owned());
        }
        if let Some(first) = page.left_out.first() {
            let others = page.left_out.len() - 1;
            self.why_partial = Some(match others {
                0 => format!("a name in it cannot be mirrored: {first}"),
                others => format!("names in it cannot be mirrored: {first}, and {others} more"),
            });
        }
    }

    fn cut(mut self, why: String) -> Obtained {
        self.why_partial = Some(why);
        self.finish(None)
    }

    fn finish(mut self, tag: Option<String>) -> Obtained {
        let members = &mut self.listing.members;
        members.sort_by(|one, other| one.name.cmp(&other.name));
        members.dedup_by(|one, other| one.name == other.name);
        self.listing.tag = tag;
        match self.why_partial {
            None => Obtained::Complete(self.listing),
            Some(why) => Obtained::Partial(self.listing, why),
        }
    }
}

fn found(obtained: Obtained, format: ListingFormat) -> Obtained {
    let with = |listing: ListedCollection| ListedCollection {
        found: Some(format),
        ..listing
    };
    match obtained {
        Obtained::Complete(listing) => Obtained::Complete(with(listing)),
        Obtained::Partial(listing, why) => Obtained::Partial(with(listing), why),
        other => other,
    }
}

fn read(reply: &Reply, format: ListingFormat, source: ListingSource<'_>) -> Result<ListingPage, String> {
    let wanted: &[&str] = match format {
        ListingFormat::Webdav | ListingFormat::S3 => &["application/xml", "text/xml"],
        format if format.is_html() => &["text/html", "application/xhtml+xml"],
        _ => &["application/json"],
    };
    if !wanted.iter().any(|wanted| reply.media.starts_with(wanted)) {
        return Err(format!(
            "it comes as {:?}, not as {}: it is no listing in the format {}",
            reply.media,
            wanted[0],
            format.name()
        ));
    }
    listing::read(format, source, &reply.body).map_err(|fault| fault.to_string())
}

/// The meaning of a status that is not the wanted one.
fn unwanted(reply: &Reply) -> Obtained {
    match reply.status {
        304 => Obtained::Unchanged,
        status @ (301 | 302 | 303 | 307 | 308) => Obtained::Failed(format!(
            "the upstream redirects its listing ({status}): another place's listing is not believed; name that place"
        )),
        status => refusal(status).unwrap_or_else(|| Obtained::Failed(format!("the upstream answers {status}"))),
    }
}

fn refusal(status: u16) -> Option<Obtained> {
    match status {
        401 | 403 | 407 => Some(Obtained::Refused(status)),
        404 | 410 => Some(Obtained::Gone(status)),
        _ => None,
    }
}
