//! Probes: whether an upstream that is away, or suspected to be, can be reached.
//!
//! First a connection, for a second at most: a line that is dead drops packets, and nothing tells so but time. Then a HEAD of
//! the upstream's own URL, on a connection of its own, since those that are kept may be as dead as the line was. An answer of
//! any status is the upstream's, but for those of a gateway (502, 503, 504), of a network that wants a login (511), and a
//! redirect to another host, which is how a hotel's network answers for everybody.

use super::client::Client;
use super::configured::ConfiguredUpstream;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::net::TcpStream;

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
        match tokio::time::timeout(CONNECT_WITHIN, TcpStream::connect((host, port))).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(format!("no connection: {error}")),
            Err(_) => return Err("no connection within a second".to_owned()),
        }
        let answer = self.head(upstream).await.map_err(|error| error.to_string())?;
        let leads_away = answer.location.is_some_and(|location| location.host() != base.host());
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
