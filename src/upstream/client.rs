//! The HTTP client, and where it may connect to.
//!
//! A URL that a client of ours named must not become a door into the operator's network: its host
//! is resolved by our own resolver, which keeps public addresses only, so the check is made on the
//! very addresses that are connected to, on every hop. Redirects are followed here by hand.

use super::budget::{Budget, BudgetSettings};
use super::budgets::Budgets;
use super::configured::ConfiguredUpstream;
use super::error::UpstreamError;
use super::exchange::{Exchange, Reply};
use super::failures::Failures;
use super::public_addresses::{NotPublic, PublicOnly, is_web_port, may_be_asked};
use super::request::{Ask, Relay, Target, Trust};
use super::tls;
use crate::clock::Instant;
use crate::config::Networks;
use crate::header::{MAX_REPLY_HEAD_BYTES, head_bytes, value_of};
use crate::telemetry::Metrics;
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;
use tokio::sync::oneshot;
use url::{Host, Url};

/// The most redirects followed for one request: as many as the HTTP client would follow by default.
const MAX_REDIRECTS: usize = 10;

/// How many new connections a request is sent on that found its connection closed. One for a connection that was closed
/// in the moment of its use; one more since a balancer that takes a node away may close the next one too.
const NEW_CONNECTIONS: u32 = 2;

/// The most fields of a reply's head. A judgement: ten times the HTTP library's default, which ordinary servers pass.
const MAX_FIELDS: usize = 1000;

/// The cause of a connection that was lost before the reply's head.
const LOST: &str = "lost";

/// How the client behaves.
#[derive(Debug, Clone)]
pub struct ClientSettings {
    /// The longest that connecting may take, TLS included.
    pub connect_timeout: Duration,
    /// The longest from the request to the reply's header.
    pub reply_timeout: Duration,
    /// The longest silence within a body.
    pub read_idle_timeout: Duration,
    /// Whether URLs that clients name may lead to private addresses.
    pub allow_private: bool,
    /// Addresses that are private beside those that always are.
    pub private_networks: Networks,
    /// Whether a weak tag is passed over where `Last-Modified` is old.
    pub join_weak: bool,
    /// The content of a PEM file of authorities to trust beside the system's.
    pub authorities: Option<Vec<u8>>,
    /// The budget of each upstream.
    pub budget: BudgetSettings,
}

/// Asks upstreams.
#[derive(Debug, Clone)]
pub struct Client {
    any: Connections,
    public: Connections,
    budgets: Arc<Budgets>,
    failures: Arc<Failures>,
    settings: ClientSettings,
}

/// Connections to addresses of one kind.
#[derive(Debug, Clone)]
struct Connections {
    /// Kept open, and used again.
    kept: reqwest::Client,
    /// Each of them new: for what was sent on one that the upstream had just closed.
    new: reqwest::Client,
}

impl Connections {
    fn build(builder: impl Fn() -> reqwest::ClientBuilder) -> Result<Self, UpstreamError> {
        Ok(Self {
            kept: builder().build().map_err(UpstreamError::Setup)?,
            new: builder()
                // No connection is kept, so none can have been closed.
                .pool_max_idle_per_host(0)
                .build()
                .map_err(UpstreamError::Setup)?,
        })
    }
}

impl Client {
    /// A client with these settings.
    ///
    /// # Errors
    /// Where TLS cannot be set up.
    pub fn new(settings: ClientSettings, metrics: Arc<Metrics>) -> Result<Self, UpstreamError> {
        let tls = tls::trusting(settings.authorities.as_deref()).map_err(UpstreamError::Certificates)?;
        let builder = || builder(&settings).tls_backend_preconfigured(tls.clone());
        Ok(Self {
            any: Connections::build(builder)?,
            public: Connections::build(|| {
                let private = settings.private_networks.clone();
                builder().dns_resolver(Arc::new(PublicOnly { private }))
            })?,
            budgets: Arc::new(Budgets::new(settings.budget.clone())),
            failures: Arc::new(Failures::new(metrics)),
            settings,
        })
    }

    /// The budget that exchanges with the upstream of `url` are taken from.
    pub fn budget_of(&self, url: &Url) -> Arc<Budget> {
        self.budgets.of(url)
    }

    /// The longest silence within a body.
    pub fn read_idle_timeout(&self) -> Duration {
        self.settings.read_idle_timeout
    }

    /// The longest from a request to the reply's header.
    pub fn reply_timeout(&self) -> Duration {
        self.settings.reply_timeout
    }

    /// Sends the request and waits for the reply's header.
    ///
    /// # Errors
    /// Where no reply came. Any status is a reply, except redirects, which are followed.
    pub async fn ask(&self, ask: &Ask) -> Result<Exchange, UpstreamError> {
        let asked = self.follow(ask).await;
        note_reach(&ask.target, asked.as_ref());
        asked.inspect_err(|error| self.noted(ask.at.as_ref().unwrap_or(&ask.target.url), error))
    }

    /// Asks for the head of an upstream's URL, on a new connection.
    pub(super) async fn head(&self, upstream: &ConfiguredUpstream, url: &Url) -> Result<HeadAnswer, UpstreamError> {
        let mut request = reqwest::Request::new(reqwest::Method::HEAD, url.clone());
        if let Some(own) = &upstream.authorization {
            request.headers_mut().insert(header::AUTHORIZATION, own.value());
        }
        let response = self.replied(url, self.any.new.execute(request)).await?;
        let is_redirect = response.status().is_redirection() && response.headers().contains_key(header::LOCATION);
        Ok(HeadAnswer {
            status: response.status().as_u16(),
            location: is_redirect
                .then(|| next_hop(url, response.headers()))
                .and_then(Result::ok),
        })
    }

    fn noted(&self, url: &Url, error: &UpstreamError) {
        self.failures.note(&host_of(url), error);
    }

    async fn follow(&self, ask: &Ask) -> Result<Exchange, UpstreamError> {
        let mut url = ask.at.as_ref().unwrap_or(&ask.target.url).clone();
        let asked = Instant::now();
        let mut redirected = None;
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send(&url, ask).await?;
            let status = response.status().as_u16();
            let leads_on =
                matches!(status, 301 | 302 | 303 | 307 | 308) && response.headers().contains_key(header::LOCATION);
            // A redirect without a location is a page like any other (RFC 9110 §15.4).
            if !leads_on {
                let mut reply = reply_of(&url, &response, asked)?;
                if self.settings.join_weak {
                    reply.validators = reply.validators.by_old_date();
                }
                let target = Arc::clone(&ask.target);
                return Ok(Exchange {
                    reply,
                    url,
                    redirected,
                    target,
                    response,
                });
            }
            redirected = redirected.or(Some(status));
            url = next_hop(&url, response.headers())?;
        }
        Err(UpstreamError::Redirect {
            host: host_of(&url),
            what: "too often",
        })
    }

    /// Sends a request as it is, once, and waits for the reply's header; redirects are replies.
    ///
    /// # Errors
    /// Where no reply came: the upstream may have seen the request all the same.
    pub async fn relay(&self, passing: Relay) -> Result<Exchange, UpstreamError> {
        let url = passing.target.url.clone();
        let target = Arc::clone(&passing.target);
        let passed = self.relay_once(passing).await;
        note_reach(&target, passed.as_ref());
        passed.inspect_err(|error| self.noted(&url, error))
    }

    async fn relay_once(&self, passing: Relay) -> Result<Exchange, UpstreamError> {
        let asked = Instant::now();
        let target = &passing.target;
        let client = &self.client_for(&target.url, target)?.kept;
        let method = reqwest::Method::from_bytes(passing.method.as_bytes()).unwrap_or_default();
        let mut request = client
            .request(method, target.url.clone())
            .headers(match reads_only(&passing.method) {
                true => fields_for(target, &target.url),
                // The operator's credential is for reading: by it a client of ours would change what it may only read.
                false => client_fields(&target.fields, true),
            });
        let (sent, is_sent) = oneshot::channel::<()>();
        let mut sent = Some(sent);
        if let Some(mut pieces) = passing.body {
            if let Some(length) = passing.length {
                request = request.header(header::CONTENT_LENGTH, length);
            }
            let mut sent = sent.take();
            let pieces = futures::stream::poll_fn(move |context| {
                let piece = ready!(pieces.as_mut().poll_next(context));
                if piece.is_none() {
                    drop(sent.take());
                }
                Poll::Ready(piece)
            });
            request = request.body(reqwest::Body::wrap_stream(pieces));
        }
        // The upstream's time begins when it has heard all.
        drop(sent);
        let (limit, host) = (self.settings.reply_timeout, host_of(&target.url));
        let silence = async move {
            let _ = is_sent.await;
            tokio::time::sleep(limit).await;
        };
        let response = tokio::select! {
            response = request.send() => response.map_err(|error| self.failure(&target.url, error))?,
            () = silence => return Err(UpstreamError::Silent { host, limit }),
        };
        let url = target.url.clone();
        let reply = reply_of(&url, &response, asked)?;
        Ok(Exchange {
            reply,
            url,
            redirected: None,
            target: Arc::clone(target),
            response,
        })
    }

    /// Sends a request that may be sent twice (RFC 9110 §9.2.2). An upstream may close a connection in the moment in
    /// which it is used again: the request is then sent once more, on a new one. A balancer that is taking a node away may
    /// close that one too: there is one more.
    async fn send(&self, url: &Url, ask: &Ask) -> Result<reqwest::Response, UpstreamError> {
        let client = self.client_for(url, &ask.target)?;
        let mut replied = self.replied(url, client.kept.execute(request(url, ask))).await;
        for _ in 0..NEW_CONNECTIONS {
            let Err(UpstreamError::Unreachable { cause: LOST, .. }) = replied else {
                break;
            };
            replied = self.replied(url, client.new.execute(request(url, ask))).await;
        }
        replied
    }

    async fn replied(
        &self,
        url: &Url,
        sending: impl Future<Output = reqwest::Result<reqwest::Response>>,
    ) -> Result<reqwest::Response, UpstreamError> {
        let limit = self.settings.reply_timeout;
        match tokio::time::timeout(limit, sending).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(self.failure(url, error)),
            Err(_) => Err(UpstreamError::Silent {
                host: host_of(url),
                limit,
            }),
        }
    }

    fn failure(&self, url: &Url, error: reqwest::Error) -> UpstreamError {
        let host = host_of(url);
        match error {
            error if was_refused(&error) => UpstreamError::Refused { host },
            error if let Some(code) = exhaustion(&error) => UpstreamError::Exhausted {
                host,
                source: std::io::Error::from_raw_os_error(code),
            },
            error if error.is_timeout() => UpstreamError::Silent {
                host,
                limit: self.settings.read_idle_timeout,
            },
            error if is_malformed(&error) => UpstreamError::Malformed {
                host,
                source: error.without_url().into(),
            },
            error => UpstreamError::Unreachable {
                host,
                cause: cause_of(&error),
                source: error.without_url().into(),
            },
        }
    }

    /// The configured host itself, at any port, may have any address; everything else is held to public ones.
    fn client_for(&self, url: &Url, target: &Target) -> Result<&Connections, UpstreamError> {
        let configured = target.trust == Trust::Configured && url.host() == target.url.host();
        if self.settings.allow_private || configured {
            return Ok(&self.any);
        }
        if let Some(port) = url.port_or_known_default().filter(|port| !is_web_port(*port)) {
            let host = host_of(url);
            return Err(UpstreamError::RefusedPort { host, port });
        }
        // The resolver is not asked about literal addresses.
        let private = &self.settings.private_networks;
        let public = match url.host() {
            Some(Host::Ipv4(address)) => may_be_asked(IpAddr::V4(address), private),
            Some(Host::Ipv6(address)) => may_be_asked(IpAddr::V6(address), private),
            Some(Host::Domain(_)) => true,
            None => false,
        };
        if public {
            Ok(&self.public)
        } else {
            Err(UpstreamError::Refused { host: host_of(url) })
        }
    }
}

/// The answer to a HEAD, as far as it tells who gave it.
pub(super) struct HeadAnswer {
    pub(super) status: u16,
    /// Where it redirects to.
    pub(super) location: Option<Url>,
}

/// Tells the circuit of the target's upstream whether it could be reached.
fn note_reach(target: &Target, reached: Result<&Exchange, &UpstreamError>) {
    let Some(upstream) = target.upstream.as_ref().filter(|upstream| upstream.is_served_offline()) else {
        return;
    };
    match reached.map(|exchange| (exchange.reply.status, exchange)) {
        // A gateway's answer, or a network's, says nothing of the upstream.
        Ok((502..=504 | 511, _)) => upstream.circuit.suspect(),
        // Neither does the page that another host's redirect leads to.
        Ok((_, exchange)) if exchange.url.host() != target.url.host() => {}
        Ok((status, exchange)) => {
            if matches!(status, 200 | 206 | 207 | 304) {
                upstream.circuit.is_witnessed_by(&exchange.url);
            }
            upstream.circuit.answered();
        }
        Err(error) if error.is_no_outage() => {}
        Err(UpstreamError::Unreachable { cause, .. }) if *cause != LOST => {
            upstream.circuit.failed(&format!("it cannot be reached ({cause})"));
        }
        Err(_) => upstream.circuit.suspect(),
    }
}

/// The head of a response to what was asked at `asked`.
fn reply_of(url: &Url, response: &reqwest::Response, asked: Instant) -> Result<Reply, UpstreamError> {
    let status = response.status().as_u16();
    if status < 200 {
        // No request of ours asks for another protocol.
        return Err(UpstreamError::Malformed {
            host: host_of(url),
            source: format!("it answers {status} and goes on in a protocol that nobody asked for").into(),
        });
    }
    let fields = response.headers();
    let lengths = fields.iter().map(|(name, value)| (name.as_str().len(), value.len()));
    let bytes = head_bytes(lengths);
    if bytes > MAX_REPLY_HEAD_BYTES {
        return Err(UpstreamError::HeadTooLarge {
            host: host_of(url),
            bytes,
            fields: fields.len(),
        });
    }
    Reply::read(status, response.version(), response.headers(), asked.elapsed()).map_err(|coding| {
        UpstreamError::TransferCoding {
            host: host_of(url),
            coding,
        }
    })
}

fn builder(settings: &ClientSettings) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .user_agent(concat!("millpond/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        // A proxy from the environment would connect to addresses that our resolver has not seen.
        .no_proxy()
        .tcp_nodelay(true)
        // Accepted as curl, wget and browsers do, since it leaves no doubt about the body: spaces before a colon, folded
        // lines, lines among the fields that are none, many fields.
        .http1_allow_spaces_after_header_name_in_responses(true)
        .http1_allow_obsolete_multiline_headers_in_responses(true)
        .http1_ignore_invalid_headers_in_responses(true)
        .http1_max_headers(MAX_FIELDS)
        // Twice the bound: what is just above is refused by us, and by name.
        .http2_max_header_list_size(2 * MAX_REPLY_HEAD_BYTES as u32)
        .connect_timeout(settings.connect_timeout)
        // A judgement: servers close idle connections after 5 seconds (Apache) to 75 (nginx).
        .pool_idle_timeout(Duration::from_secs(30))
}

/// A GET with what is asked for.
fn request(url: &Url, ask: &Ask) -> reqwest::Request {
    let mut request = reqwest::Request::new(reqwest::Method::GET, url.clone());
    *request.headers_mut() = fields(url, ask);
    request
}

/// The fields that follow a redirect to another origin: nothing that names a person, a session or a network.
const FOR_ANYBODY: &[&str] = &[
    "accept",
    "accept-language",
    "cache-control",
    "pragma",
    "user-agent",
    "via",
];

fn fields(url: &Url, ask: &Ask) -> HeaderMap {
    let mut fields = fields_for(&ask.target, url);
    // A coded body has other bytes: ranges of it mean something else.
    fields.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let conditions = [
        (header::RANGE, ask.span.field()),
        (header::IF_MATCH, ask.if_match.clone()),
        (header::IF_RANGE, ask.if_range.clone()),
        (header::IF_NONE_MATCH, ask.if_none_match.clone()),
        (header::IF_MODIFIED_SINCE, ask.if_modified_since.clone()),
    ];
    for (name, value) in conditions {
        if let Some(value) = value.and_then(|value| HeaderValue::from_str(&value).ok()) {
            fields.insert(name, value);
        }
    }
    fields
}

/// The fields of the target's request, as they go to that URL: with the operator's credential, where the request has none of
/// its own and the URL is the upstream's.
fn fields_for(target: &Target, url: &Url) -> HeaderMap {
    let same_origin = url.origin() == target.url.origin();
    let mut fields = client_fields(&target.fields, same_origin);
    let own = target
        .upstream
        .as_ref()
        .and_then(|upstream| upstream.authorization.as_ref());
    if let Some(own) = own.filter(|_| same_origin && !fields.contains_key(header::AUTHORIZATION)) {
        fields.insert(header::AUTHORIZATION, own.value());
    }
    fields
}

/// Whether a request by that method changes nothing (RFC 9110 §9.2.1, RFC 4918 §9.1).
fn reads_only(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS" | "PROPFIND")
}

/// The fields of a client's request, as they go to the upstream.
fn client_fields(of_client: &[(String, String)], same_origin: bool) -> HeaderMap {
    let mut fields = HeaderMap::new();
    for (name, value) in of_client {
        if !same_origin && !FOR_ANYBODY.contains(&name.as_str()) {
            continue;
        }
        if let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(name.as_bytes()),
            HeaderValue::from_bytes(&value_of(value)),
        ) {
            fields.append(name, value);
        }
    }
    fields
}

fn next_hop(url: &Url, headers: &HeaderMap) -> Result<Url, UpstreamError> {
    let fault = |what| UpstreamError::Redirect {
        host: host_of(url),
        what,
    };
    let location = headers
        .get(header::LOCATION)
        .map(HeaderValue::as_bytes)
        .unwrap_or_default();
    let next = url
        .join(&ascii_of(location))
        .map_err(|_| fault("to something that is no URL"))?;
    if !matches!(next.scheme(), "http" | "https") {
        return Err(fault("to another scheme than http and https"));
    }
    Ok(next)
}

/// A reference whose bytes beyond ASCII, Latin-1 or UTF-8, are percent-encoded as they stand: so do browsers, curl and
/// wget, and so the server finds the name that it has sent.
fn ascii_of(reference: &[u8]) -> String {
    let mut ascii = String::with_capacity(reference.len());
    for &byte in reference.trim_ascii() {
        match byte {
            0x21..=0x7e => ascii.push(char::from(byte)),
            _ => ascii.push_str(percent_encoding::percent_encode_byte(byte)),
        }
    }
    ascii
}

fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port()
        .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// The error and all its causes, from the outermost to the innermost.
fn causes<'a>(error: &'a reqwest::Error) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    let first: &(dyn std::error::Error + 'static) = error;
    std::iter::successors(Some(first), |error| match error.downcast_ref::<std::io::Error>() {
        // The error inside an `io::Error` is not its `source()`, but it is the cause.
        Some(wrapper) if wrapper.get_ref().is_some() => wrapper.get_ref().map(|inner| inner as _),
        _ => error.source(),
    })
}

fn was_refused(error: &reqwest::Error) -> bool {
    causes(error).any(|cause| cause.is::<NotPublic>())
}

fn is_malformed(error: &reqwest::Error) -> bool {
    let of_protocol = |error: &hyper::Error| error.is_parse();
    causes(error).any(|cause| cause.downcast_ref().is_some_and(of_protocol))
}

/// Why there was no reply, in a word.
/// The operating system's code where this machine itself could not make a connection: no descriptor (`EMFILE`, `ENFILE`), no
/// port (`EADDRNOTAVAIL`) or no memory (`ENOMEM`, `ENOBUFS`).
fn exhaustion(error: &reqwest::Error) -> Option<i32> {
    use rustix::io::Errno;
    const CODES: [Errno; 5] = [
        Errno::MFILE,
        Errno::NFILE,
        Errno::ADDRNOTAVAIL,
        Errno::NOMEM,
        Errno::NOBUFS,
    ];
    let mut codes = causes(error)
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .filter_map(std::io::Error::raw_os_error);
    codes.find(|code| CODES.iter().any(|known| known.raw_os_error() == *code))
}

fn cause_of(error: &reqwest::Error) -> &'static str {
    if causes(error).any(|cause| cause.is::<rustls::Error>()) {
        return "tls";
    }
    if !error.is_connect() {
        return LOST;
    }
    let kind = causes(error)
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .map(std::io::Error::kind)
        .last();
    match kind {
        Some(std::io::ErrorKind::ConnectionRefused) => "connection-refused",
        Some(std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::UnexpectedEof) => "connection-reset",
        Some(std::io::ErrorKind::HostUnreachable | std::io::ErrorKind::NetworkUnreachable) => "no-route",
        _ if causes(error).any(|cause| cause.to_string() == "dns error") => "dns",
        _ => "connect",
    }
}
