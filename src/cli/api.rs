//! Requests to the API and their answers.
//!
//! An answer is JSON or a failure; a refusal counts as the server's own only where it is a problem of
//! RFC 9457, since anything may listen at a port. Proxies of the environment are passed over: the server
//! is mostly on this machine.

use super::ServerArgs;
use super::failure::Failure;
use super::name::Name;
use super::server::{RemoteServer, TOKEN_VARIABLE};
use millpond::api::{About, ObjectSummary, ProblemDetails};
use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Method, Response};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::time::Duration;
use url::Url;

/// The longest wait for a connection: a judgement, as servers are mostly on this machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest silence: removing a large part of a cache takes its time, and so does reading a film. A judgement.
const READ_IDLE_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// The most that an answer may hold: a page of a thousand objects is far below. A judgement.
const MAX_ANSWER_BYTES: usize = 256 << 20;

/// The most that a line of a stream may hold. A judgement: a line names one object, and some of its ranges.
const MAX_LINE_BYTES: usize = 1 << 20;

/// A server's API.
#[derive(Debug)]
pub(super) struct Api {
    http: reqwest::Client,
    server: RemoteServer,
}

/// The field that shows the token of the environment, where there is one.
fn own_token() -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::new();
    if let Some(token) = std::env::var_os(TOKEN_VARIABLE).filter(|token| !token.is_empty()) {
        let value = token
            .to_str()
            .and_then(|token| HeaderValue::from_str(token.trim()).ok());
        let mut value = value.ok_or_else(|| Failure::Usage(format!("{TOKEN_VARIABLE} is no token")))?;
        value.set_sensitive(true);
        headers.insert("millpond-token", value);
    }
    Ok(headers)
}

/// A page of the list of objects; its lines are kept as they came, for `--json`.
#[derive(Debug, Deserialize)]
pub(super) struct RawPage {
    pub(super) objects: Vec<Value>,
    /// After which id the next page begins.
    #[serde(default)]
    pub(super) next: Option<String>,
}

impl Api {
    /// The API of the server that the command line or the environment names. One that is reached by its control socket is
    /// asked which URLs are its own.
    pub(super) async fn open(door: &ServerArgs) -> Result<Self, Failure> {
        let server =
            RemoteServer::choose(door.server.as_deref(), |name| std::env::var(name).ok()).map_err(Failure::Usage)?;
        let tls = millpond::upstream::trusting(None).map_err(Failure::Usage)?;
        let mut http = reqwest::Client::builder();
        if let Some(socket) = server.socket() {
            http = http.unix_socket(socket);
        }
        let http = http
            .tls_backend_preconfigured(tls)
            .default_headers(own_token()?)
            .user_agent(concat!("millpond/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_IDLE_TIMEOUT)
            .build()
            .map_err(Failure::setup)?;
        let mut api = Self { http, server };
        if api.server.socket().is_some() {
            let about = api.call(Method::GET, "about", &[]).await?;
            let About { urls, .. } = api.read(&about)?;
            api.server.is_also_at(&urls);
        }
        Ok(api)
    }

    pub(super) fn server(&self) -> &RemoteServer {
        &self.server
    }

    /// Sends a request and reads the whole answer, which is JSON.
    pub(super) async fn call(&self, method: Method, path: &str, query: &[(&str, &str)]) -> Result<String, Failure> {
        let mut response = self.send(method, self.server.api(path, query)).await?;
        let body = self.body(&mut response).await?;
        let text = String::from_utf8(body).map_err(|_| self.stranger("its answer is not UTF-8"))?;
        self.read::<Value>(&text)?;
        Ok(text.trim_end().to_owned())
    }

    /// The problem that an answer tells.
    pub(super) fn read<T: DeserializeOwned>(&self, text: &str) -> Result<T, Failure> {
        serde_json::from_str(text).map_err(|error| self.stranger(&format!("its answer is not understood ({error})")))
    }

    /// The object's line, as it came.
    pub(super) async fn find(&self, name: &Name) -> Result<String, Failure> {
        match name {
            Name::Id(id) => {
                let answer = self.call(Method::GET, &format!("objects/{id}"), &[]).await;
                answer.map_err(|failure| self.known(name, failure))
            }
            Name::Url(url) => {
                let answer = self.call(Method::GET, "objects", &[("url", url)]).await;
                let page: RawPage = self.read(&answer.map_err(|failure| self.known(name, failure))?)?;
                let first = page.objects.first().ok_or_else(|| self.unknown(name))?;
                Ok(first.to_string())
            }
        }
    }

    /// The object's id; the server is asked only where the name is a URL.
    pub(super) async fn id_of(&self, name: &Name) -> Result<String, Failure> {
        match name {
            Name::Id(id) => Ok(id.to_string()),
            Name::Url(_) => Ok(self.read::<ObjectSummary>(&self.find(name).await?)?.id),
        }
    }

    /// Opens a stream of JSON lines.
    pub(super) async fn lines(&self, method: Method, path: &str, query: &[(&str, &str)]) -> Result<Lines<'_>, Failure> {
        let response = self.send(method, self.server.api(path, query)).await?;
        Ok(Lines {
            api: self,
            response,
            buffer: Vec::new(),
        })
    }

    /// Tells a refusal that means the object is not there from all others.
    pub(super) fn known(&self, name: &Name, failure: Failure) -> Failure {
        match failure {
            Failure::Refused { status: 404, .. } => self.unknown(name),
            failure => failure,
        }
    }

    pub(super) fn unknown(&self, name: &Name) -> Failure {
        Failure::Unknown {
            name: name.to_string(),
            address: self.server.address(),
        }
    }

    pub(super) fn stranger(&self, what: &str) -> Failure {
        Failure::NotMillpond {
            address: self.server.address(),
            what: what.to_owned(),
        }
    }

    /// Sends a request; what comes back is no refusal.
    async fn send(&self, method: Method, url: Url) -> Result<Response, Failure> {
        let sending = self.http.request(method, url).send();
        let mut response = sending
            .await
            .map_err(|error| Failure::unreachable(self.server.address(), &error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status().as_u16();
        let body = self.body(&mut response).await?;
        let problem = serde_json::from_slice::<ProblemDetails>(&body).ok();
        Err(match problem.and_then(|problem| problem.detail.or(problem.title)) {
            Some(detail) => Failure::Refused {
                address: self.server.address(),
                status,
                detail,
            },
            None => self.stranger(&format!("it answered {status}")),
        })
    }

    async fn body(&self, response: &mut Response) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        while let Some(chunk) = self.chunk(response).await? {
            if body.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(self.stranger("its answer has no end"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    async fn chunk(&self, response: &mut Response) -> Result<Option<bytes::Bytes>, Failure> {
        response.chunk().await.map_err(|error| Failure::Cut {
            address: self.server.address(),
            source: error.without_url(),
        })
    }
}

/// A stream of JSON lines under way.
#[derive(Debug)]
pub(super) struct Lines<'a> {
    api: &'a Api,
    response: Response,
    /// Bytes that came and were not yet returned.
    buffer: Vec<u8>,
}

impl Lines<'_> {
    /// The next line, without its end; `None` at the end of the stream. The last one may lack its end: had
    /// the stream been cut there, that were an error.
    pub(super) async fn next(&mut self) -> Result<Option<String>, Failure> {
        let mut searched = 0;
        loop {
            if let Some(at) = self.buffer[searched..].iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(searched + at + 1);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                line.pop();
                return self.text(line).map(Some);
            }
            searched = self.buffer.len();
            if searched > MAX_LINE_BYTES {
                return Err(self.api.stranger("a line has no end"));
            }
            match self.api.chunk(&mut self.response).await? {
                Some(chunk) => self.buffer.extend_from_slice(&chunk),
                None if self.buffer.is_empty() => return Ok(None),
                None => {
                    let line = std::mem::take(&mut self.buffer);
                    return self.text(line).map(Some);
                }
            }
        }
    }

    fn text(&self, line: Vec<u8>) -> Result<String, Failure> {
        String::from_utf8(line).map_err(|_| self.api.stranger("a line is not UTF-8"))
    }
}
