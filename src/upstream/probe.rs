//! Probes: whether an upstream that is away, or suspected to be, can be reached.
//!
//! First a connection, for a second at most, to whichever of its addresses answers first: a line that is dead drops packets,
//! and nothing tells so but time. Then a HEAD, on a connection of its own, since those that are kept may be as dead as the line
//! was. It asks for a URL that the upstream has answered by itself before, the witness. An answer of any status is the
//! upstream's, but for those of a gateway (502, 503, 504), of a network that wants a login (511), and a redirect of the witness
//! to another host, which is how a hotel's network answers for everybody. Without a witness a redirect says nothing: there are
//! upstreams whose own page is elsewhere.

use super::client::Client;
use super::configured::ConfiguredUpstream;
use futures::future::select_ok;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::net::{TcpStream, lookup_host};
use url::Url;

/// The longest that a probe's connection may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);

/// The time between two probes while the upstream is used.
const OFTEN: Duration = Duration::from_secs(1);

/// The same where nobody asks for it. A judgement: some packets a minute.
const SELDOM: Duration = Duration::from_secs(30);

impl Client {
    /// Probes the upstream, and closes or opens its circuit by what it finds.
    pub async fn probe(&self, upstream: &ConfiguredUpstream) {
        match self.find(upstream).await {
            Ok(()) => {
                if upstream.circuit.is_away() {
                    tracing::info!(upstream = %upstream.base, "the upstream is back");
                }
                upstream.circuit.answered();
            }
            Err(why) => {
                if !upstream.circuit.is_away() {
                    tracing::warn!(upstream = %upstream.base, why, "the upstream is away: what is stored is served");
                }
                upstream.circuit.failed(&why);
            }
        }
    }

    async fn find(&self, upstream: &ConfiguredUpstream) -> Result<(), String> {
        let base = &upstream.base;
        let (host, port) = (
            base.host_str().unwrap_or_default().trim_matches(['[', ']']),
            base.port_or_known_default().unwrap_or(80),
        );
        match tokio::time::timeout(CONNECT_WITHIN, connect_to_any(host, port)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(format!("no connection: {error}")),
            Err(_) => return Err("no connection within a second".to_owned()),
        }
        let witness = upstream.circuit.witness();
        let asked = self.head(upstream, witness.as_ref().unwrap_or(base)).await;
        let answer = asked.map_err(|error| error.to_string())?;
        let is_elsewhere = |location: Url| location.host() != base.host();
        let leads_away = witness.is_some() && answer.location.is_some_and(is_elsewhere);
        match answer.status {
            status @ (502..=504) => Err(format!("a gateway before it answers {status}")),
            511 => Err("the network wants a login (511)".to_owned()),
            status if leads_away => Err(format!(
                "another host answers for it ({status}): a network that wants a login"
            )),
            _ => Ok(()),
        }
    }

    /// Probes the upstream from now on, whenever there is reason to, for as long as it is held.
    pub async fn keep_probing(self, upstream: Weak<ConfiguredUpstream>) {
        loop {
            let Some(held) = upstream.upgrade() else { return };
            if !held.circuit.wants_probe() {
                held.circuit.rung().await;
                continue;
            }
            self.probe(&held).await;
            if !held.circuit.wants_probe() {
                continue;
            }
            let pause = if held.circuit.is_used() { OFTEN } else { SELDOM };
            let rung = Arc::clone(&held);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = rung.circuit.rung() => {}
            }
        }
    }
}

/// Connects to the first address of the host that lets itself be connected to, all of them at once: one of two protocols may
/// be dead on a line that is not.
async fn connect_to_any(host: &str, port: u16) -> std::io::Result<()> {
    let addresses = lookup_host((host, port)).await?;
    let attempts: Vec<_> = addresses.map(|address| Box::pin(TcpStream::connect(address))).collect();
    if attempts.is_empty() {
        return Err(std::io::Error::other("the host has no address"));
    }
    select_ok(attempts).await.map(drop)
}
