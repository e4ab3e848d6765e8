//! Access: who sends a request, and what it may do, before anything is looked up or revealed.
//!
//! ```text
//!                     play    look    write   rule     any URL
//! control socket      yes     yes     yes     yes      yes       DATA/control.sock, for the owner of the data
//! token               as its scopes say, beneath its prefix      yes, with play
//! session             –       yes     –       yes      yes       the page, let in by a code from the socket
//! without tokens:
//!   from loopback     yes     yes     open    –        yes       requests that nobody has forwarded
//!   from elsewhere    yes     –       open    –        if ad_hoc = true
//!   forwarded         yes     –       –       –        –         for another machine, and not by a proxy of trusted_proxies
//! with a file of tokens, [anonymous] says what callers without one may do
//! ```
//!
//! No right to change anything comes from an address: whatever stands on this machine before the server, a proxy most of
//! all, has that of loopback, and so have the pages that a browser here looks at. `forwarded` tells requests that somebody
//! has forwarded, which have no right from their address at all; `host` refuses names that are not this server's; a
//! change that a page of another site asks for needs a credential which browsers do not send by themselves.
//!
//! The server's own fields of a request end here ([`Access::admit`]); `own_fields` knows which they are.

mod caller;
mod forwarded;
mod host;
mod own_fields;
mod right;
mod sessions;
mod token_file;
mod tokens;

pub use caller::Caller;
pub use forwarded::{is_same_authority, named_hosts};
pub use host::HostError;
pub use own_fields::TOKEN_FIELD;
pub use right::{Right, Rights};
pub(crate) use sessions::{CODE_LIFETIME, SESSION_LIFETIME, Sessions};
pub use token_file::TokenFileError;
pub use tokens::{Tokens, new_token};

use self::host::KnownHosts;
use self::own_fields::{ShownToken, cookie_values, own_token, shown_token, token_of, without_own};
use self::token_file::TokenFile;
use self::tokens::TokenRights;
use crate::config::{Config, PublicUrl, TrustedProxies};
use crate::directory::TreePath;
use crate::proxy::{Problem, is_asked_by_other_site};
use actix_web::dev::RequestHead;
use actix_web::http::header::{self, HeaderMap, HeaderName};
use actix_web::http::{StatusCode, Version};
use std::borrow::Cow;
use std::net::IpAddr;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The kind of listener that a request has come by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// The control socket in the data directory.
    Control,
    /// One that the operator has named.
    Public,
}

/// The rules of access of one server.
#[derive(Debug)]
pub struct Access {
    tokens: Option<TokenFile>,
    /// The sessions of the operator's browsers.
    pub(crate) sessions: Sessions,
    /// Whether everybody may change directories.
    open: bool,
    /// Whether the operator has said that clients may name any URL.
    any_url_told: bool,
    proxies: TrustedProxies,
    public_url: PublicUrl,
    /// Whether browsers reach this server by HTTPS, as far as the configuration tells.
    is_https: bool,
    hosts: KnownHosts,
}

/// Why a server's rules of access cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The file of tokens does not read.
    #[error(transparent)]
    Tokens(#[from] TokenFileError),
    /// There are no random bits.
    #[error("no session could be opened: {0}")]
    Random(String),
}

/// A request that may be answered from the cache.
#[derive(Debug)]
pub struct Admitted<'h> {
    /// The request as policy and the upstream are to see it.
    pub head: Cow<'h, RequestHead>,
    /// The sender of the request.
    pub caller: Caller,
}

/// Whose the credentials in `Authorization` are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Audience {
    /// This server's, so that unknown ones are refused.
    Server,
    /// An upstream's, unless they are a token of ours.
    Upstream,
}

impl Access {
    /// The rules that a configuration says.
    ///
    /// # Errors
    /// Where the file of tokens does not read.
    pub fn open(config: &Config) -> Result<Self, AccessError> {
        Ok(Self {
            tokens: config.tokens.as_deref().map(TokenFile::open).transpose()?,
            sessions: Sessions::new().map_err(|error| AccessError::Random(error.to_string()))?,
            open: config.open,
            any_url_told: config.ad_hoc == Some(true),
            proxies: config.trusted_proxies.clone(),
            public_url: config.public_url.clone(),
            is_https: config.public_url.is_https().unwrap_or(config.tls_certificate.is_some()),
            hosts: KnownHosts::new(config),
        })
    }

    /// Whether every caller may read what there is.
    pub fn is_free_to_play(&self) -> bool {
        self.tokens.is_none()
    }

    /// The request for what an upstream has, as policy and the upstream are to see it: without what is this server's own.
    ///
    /// # Errors
    /// 401 for a `Millpond-Token` that is no token, and for a caller who may not read the path; 403 for one whose token
    /// does not allow it.
    pub fn admit<'h>(&self, door: Door, head: &'h RequestHead) -> Result<Admitted<'h>, Problem> {
        let (caller, is_ours) = self.identify(door, head, Audience::Upstream)?;
        caller.allow(Right::Play, &path_for_scopes(head.uri.path()))?;
        let head = without_own(head, is_ours);
        Ok(Admitted { head, caller })
    }

    /// The caller of a request for what is this server's own: a directory, or the API.
    ///
    /// # Errors
    /// 401 for credentials that no token has.
    pub fn caller(&self, door: Door, head: &RequestHead) -> Result<Caller, Problem> {
        self.identify(door, head, Audience::Server).map(|(caller, _)| caller)
    }

    /// Whether a request carries something that ends at this server, whoever its caller is.
    pub fn has_own_fields(headers: &HeaderMap) -> bool {
        own_fields::has_own_fields(headers)
    }

    /// The name of the token that the request shows, for the log.
    pub fn token_name(&self, head: &RequestHead) -> Option<String> {
        let tokens = self.tokens.as_ref()?.tokens();
        tokens.of(&shown_token(&head.headers)?.token)?.name.clone()
    }

    /// The `Set-Cookie` of a session, which pages of other sites do not send and scripts do not see.
    pub fn session_cookie(&self, value: &str, seconds: u64) -> String {
        let name = self.sessions.cookie_name();
        let secure = if self.is_https { "; Secure" } else { "" };
        let path = self.public_url.prefix();
        format!("{name}={value}; Path={path}/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}")
    }

    /// Ends the session whose cookie a request shows.
    pub fn close_session(&self, head: &RequestHead) {
        for cookie in cookie_values(&head.headers, self.sessions.cookie_name()) {
            self.sessions.close(cookie);
        }
    }

    /// The address of the client, for the log and for what it has its share of; `None` where a proxy does not say it.
    pub fn client_address(&self, head: &RequestHead) -> Option<IpAddr> {
        forwarded::client_address(head, &self.proxies)
    }

    /// Whether a request says that somebody has forwarded it.
    pub fn is_forwarded(head: &RequestHead) -> bool {
        forwarded::is_forwarded(&head.headers)
    }

    /// Whether the server goes by that name, the value of a `Host`.
    pub fn is_own_host(&self, host: &[u8]) -> bool {
        self.hosts.check(host).is_ok()
    }

    /// Fails for a request that names another server, or none.
    ///
    /// # Errors
    /// 421 for a name that is not this server's, 400 for what is no name, and where there is none or two.
    pub fn check_host(&self, door: Door, head: &RequestHead) -> Result<(), Problem> {
        let bad = |what: &str| Err(Problem::new(StatusCode::BAD_REQUEST, what).without_story());
        let mut fields = head.headers.get_all(header::HOST);
        let (first, second) = (fields.next(), fields.next());
        if second.is_some() {
            return bad("the request has two Host fields; send one");
        }
        let authority = head.uri.authority().map(|authority| authority.as_str().as_bytes());
        let named = [authority, first.map(header::HeaderValue::as_bytes)];
        if named.iter().all(Option::is_none) && !is_old(head) {
            return bad("the request has no Host; HTTP/1.1 needs one");
        }
        for name in named.into_iter().flatten() {
            match self.hosts.check(name) {
                Ok(()) => {}
                Err(HostError::Malformed) => return bad("the Host is no name or address, with or without a port"),
                // A page in a browser cannot ask by a socket in the file system.
                Err(HostError::Unknown) if door == Door::Control || head.peer_addr.is_none() => {}
                Err(HostError::Unknown) => return Err(misdirected(name)),
            }
        }
        Ok(())
    }

    /// The caller of a request, and whether its `Authorization` is a token of ours.
    fn identify(&self, door: Door, head: &RequestHead, audience: Audience) -> Result<(Caller, bool), Problem> {
        let tokens = self.tokens.as_ref().map(TokenFile::tokens);
        if door == Door::Control {
            return Ok((Caller::control(), false));
        }
        let foreign = self.is_foreign_change(head);
        let peer = head.peer_addr.map(|peer| peer.ip().to_canonical());
        let is_proxy = self.proxies.contains(peer);
        let is_forwarded = forwarded::is_forwarded(&head.headers);
        let has_session = self.has_session(head);
        let mut everywhere = Rights::default();
        // Clients of a proxy of which the operator has not said a word are not those of this server.
        let is_for_another = || !is_proxy && forwarded::is_for_another_machine(&head.headers);
        if self.open && foreign.is_none() && !is_for_another() {
            everywhere = everywhere.and(Rights::of(&[Right::Write]));
        }
        if has_session {
            everywhere = everywhere.and(Rights::of(&[Right::Look, Right::Rule]));
        }
        let (mut name, mut beneath, mut is_ours) = (None, None, false);
        let mut has_token = false;
        match &tokens {
            None => {
                everywhere = everywhere.and(Rights::of(&[Right::Play]));
                let is_here = peer.is_some_and(|peer| peer.is_loopback());
                // HTTP/1.0 is what some proxies speak that say nothing of themselves.
                if is_here && !is_forwarded && !self.is_behind_proxy() && !is_old(head) {
                    everywhere = everywhere.and(Rights::of(&[Right::Look]));
                }
            }
            Some(tokens) => {
                let (shown, ours) = found_token(head, audience, tokens)?;
                is_ours = ours;
                has_token = shown.is_some();
                let (rights, is_ambient) = match &shown {
                    Some((rights, shown)) => (*rights, shown.is_ambient),
                    None => (tokens.anonymous(), true),
                };
                name.clone_from(&rights.name);
                let mut scopes = rights.rights;
                if is_ambient && foreign.is_some() {
                    scopes = scopes.without_changes();
                }
                beneath = Some((scopes, rights.prefix.clone()));
            }
        }
        let any_url = match () {
            () if has_token || has_session => Ok(()),
            () if is_forwarded && !is_proxy => Err(
                "a request that a proxy has forwarded may not name any URL; name the proxy with --trusted-proxies and say --ad-hoc true, or configure an upstream",
            ),
            () if is_old(head) && !self.any_url_told => Err(
                "a request of HTTP/1.0 may come from a proxy, and so may not name any URL; say --ad-hoc true where it may",
            ),
            () => Ok(()),
        };
        let caller = Caller {
            name,
            is_control: false,
            has_session,
            everywhere,
            beneath,
            any_url,
            has_tokens: tokens.is_some(),
            refused_change: foreign,
        };
        Ok((caller, is_ours))
    }

    /// Whether the operator has said that a proxy stands before this server, so that loopback is everybody's address.
    fn is_behind_proxy(&self) -> bool {
        self.public_url != PublicUrl::Unknown || !self.proxies.is_empty()
    }

    /// Why a change that the request asks for may be a page's of another site; `None` where it is not, or where the
    /// request changes nothing.
    fn is_foreign_change(&self, head: &RequestHead) -> Option<&'static str> {
        let changes = !matches!(head.method.as_str(), "GET" | "HEAD" | "OPTIONS" | "PROPFIND" | "TRACE");
        let is_foreign = || self.is_own_origin(head) == Some(false) || is_asked_by_other_site(head);
        (changes && is_foreign()).then_some("a page of another site may not change what is stored")
    }

    /// Whether the origin of the page that asks is this server; `None` where the request names none.
    fn is_own_origin(&self, head: &RequestHead) -> Option<bool> {
        let origin = head.headers.get(header::ORIGIN)?;
        let authority = origin
            .to_str()
            .ok()
            .and_then(|origin| Some(origin.split_once("://")?.1));
        let Some(authority) = authority else {
            return Some(false);
        };
        let host = head.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let host = host.or_else(|| head.uri.authority().map(|authority| authority.as_str()));
        let is_host = host.is_some_and(|host| is_same_authority(host, authority));
        let is_told = || {
            let told = named_hosts(&head.headers, head.peer_addr, &self.proxies);
            told.iter().any(|host| is_same_authority(host, authority))
        };
        let is_public = || match &self.public_url {
            PublicUrl::Known { authority: own, .. } => is_same_authority(own, authority),
            PublicUrl::Unknown | PublicUrl::Any => false,
        };
        Some(is_host || is_public() || is_told())
    }

    /// Whether the request is our own page's. A change by its cookie names our origin, as browsers do.
    fn has_session(&self, head: &RequestHead) -> bool {
        let mut cookies = cookie_values(&head.headers, self.sessions.cookie_name());
        if !cookies.any(|cookie| self.sessions.is_open(cookie)) {
            return false;
        }
        let site = head.headers.get(SEC_FETCH_SITE).map(header::HeaderValue::as_bytes);
        match head.method.as_str() {
            // A link that is typed or kept comes from nowhere.
            "GET" | "HEAD" | "OPTIONS" => site.is_none_or(|site| matches!(site, b"same-origin" | b"none")),
            _ => self.is_own_origin(head).unwrap_or(site == Some(b"same-origin")) && !is_asked_by_other_site(head),
        }
    }
}

/// The token that the request shows, and whether it stands in `Authorization`.
type FoundToken<'t> = (Option<(&'t TokenRights, ShownToken)>, bool);

fn found_token<'t>(head: &RequestHead, audience: Audience, tokens: &'t Tokens) -> Result<FoundToken<'t>, Problem> {
    let known = |shown: ShownToken| Some((tokens.of(&shown.token)?, shown));
    // Every line of the field: whichever shows a token of ours is taken off.
    let mut lines = head.headers.get_all(header::AUTHORIZATION).filter_map(token_of);
    let in_authorization = lines.find_map(known);
    let is_ours = in_authorization.is_some();
    match head.headers.get(TOKEN_FIELD) {
        Some(field) => match own_token(field).and_then(known) {
            Some(found) => Ok((Some(found), is_ours)),
            None => Err(unknown("the Millpond-Token is not one of this server's tokens")),
        },
        // Credentials that are no token of ours are for the upstream, where there is one.
        None if audience == Audience::Upstream || is_ours => Ok((in_authorization, is_ours)),
        None if head.headers.contains_key(header::AUTHORIZATION) => {
            Err(unknown("the credentials are not those of any token"))
        }
        None => Ok((None, false)),
    }
}

fn is_old(head: &RequestHead) -> bool {
    matches!(head.version, Version::HTTP_10 | Version::HTTP_09)
}

fn misdirected(name: &[u8]) -> Problem {
    let name = String::from_utf8_lossy(name).into_owned();
    let what = format!(
        "{name:?} is not a name of this server; where it is, say --names with the host, or --public-url for one that a proxy serves it under"
    );
    Problem::new(StatusCode::MISDIRECTED_REQUEST, what).without_story()
}

fn unknown(why: &str) -> Problem {
    Problem::of_origin(StatusCode::UNAUTHORIZED, why).challenging()
}

/// The path of an upstream's resource, as prefixes of tokens are compared with it. A path that is none in a tree (dots,
/// an escaped slash), and one whose mount is spelled otherwise than it is routed by, is beneath no prefix but the root.
fn path_for_scopes(raw: &str) -> TreePath {
    let mount = raw.split('/').nth(1).unwrap_or_default();
    match mount.contains('%') {
        true => TreePath::root(),
        false => TreePath::parse(raw).unwrap_or_else(|_| TreePath::root()),
    }
}
