//! The first request of a fill: from nothing, or from a stale object, to a representation.

use super::super::join::{Brings, Known, Verdict, join};
use super::super::registry::{Phase, Refusal, Trouble, Want};
use super::{Owner, on_disk};
use crate::ranges::ByteRange;
use crate::store::Representation;
use crate::upstream::{Ask, Exchange, Framing, Span};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The most that is kept of the body of a refusal.
const MAX_REFUSAL_BYTES: usize = 64 * 1024;

/// The longest that is waited for it: the answer's status is what matters.
const REFUSAL_TIME: Duration = Duration::from_secs(2);

/// How often the first request is put another way before the upstream is called broken.
const MAX_OPENING_ASKS: usize = 4;

impl Owner {
    /// Comes to an object, with its first session under way where that brings bytes.
    pub(super) async fn open(&mut self, want: Want) -> Result<(), Phase> {
        let span = match want {
            Want::Validity => return self.revalidate().await,
            Want::Bytes(_) | Want::Head if self.object.is_some() => return Ok(()),
            Want::Head => first_byte(),
            Want::Bytes(span) | Want::Anew(span) => span,
        };
        self.object = None;
        self.first_ask(span).await
    }

    async fn first_ask(&mut self, mut span: Span) -> Result<(), Phase> {
        for _ in 0..MAX_OPENING_ASKS {
            let ask = Ask::new(self.shared.target.clone(), span);
            let exchange = self
                .context
                .client
                .ask(&ask)
                .await
                .map_err(|error| Phase::Failed(Arc::new(error)))?;
            match join(None, span, &exchange.reply) {
                Verdict::Begins(representation, brings)
                    if brings.at > 0 && representation.validators.strong().is_none() =>
                {
                    // Other pieces could never be joined to this one: read the whole instead.
                    span = Span::Whole;
                }
                Verdict::Begins(representation, brings) => {
                    return self.begin(representation, brings, exchange).await;
                }
                Verdict::Unsatisfiable(size) => match span {
                    Span::From(start) | Span::Suffix(start) if size.is_none_or(|size| size > 0) && start > 0 => {
                        return Err(Phase::Refused(Arc::new(refusal(exchange, size).await)));
                    }
                    // An empty object has no first byte to ask for.
                    _ => span = Span::Whole,
                },
                Verdict::Contradiction(what) if span != Span::Whole => {
                    tracing::warn!(url = self.shared.target.key.url(), what, "asking for the whole instead");
                    span = Span::Whole;
                    self.distrusts_ranges = true;
                }
                _ => return Err(Phase::Refused(Arc::new(refusal(exchange, None).await))),
            }
        }
        Err(Phase::Refused(Arc::new(Refusal {
            status: 502,
            headers: Vec::new(),
            retry_after: None,
            body: bytes::Bytes::from_static(b"the upstream's replies contradict each other\n"),
            complete_length: None,
        })))
    }

    async fn begin(
        &mut self,
        mut representation: Representation,
        brings: Brings,
        exchange: Exchange,
    ) -> Result<(), Phase> {
        representation.ranges &= !self.distrusts_ranges;
        self.become_generation(representation).await.map_err(|error| {
            tracing::error!(url = self.shared.target.key.url(), %error, "could not store the object");
            Phase::Disk(error.to_string().into())
        })?;
        let only_head = !self.shared.bytes_wanted.load(Ordering::Acquire);
        if !(only_head && brings.end != Some(1)) {
            self.adopt(exchange, brings);
        }
        Ok(())
    }

    /// Asks whether a complete object is still that of the upstream. One that cannot be reached or
    /// fails is no reason to withhold what is here.
    async fn revalidate(&mut self) -> Result<(), Phase> {
        let Some(object) = self.object.clone() else {
            return self.first_ask(Span::From(0)).await;
        };
        let validators = &object.representation().validators;
        let ask = Ask {
            if_none_match: validators.etag.clone(),
            if_modified_since: validators.last_modified.clone().filter(|_| validators.etag.is_none()),
            ..Ask::new(self.shared.target.clone(), first_byte())
        };
        let asking = self.context.client.ask(&ask);
        let Ok(Ok(exchange)) = tokio::time::timeout(self.context.settings.revalidate_wait, asking).await else {
            tracing::warn!(
                url = object.url(),
                "could not be revalidated: answering with what is stored"
            );
            self.shared.trouble.send_replace(Some(Trouble {
                what: "could not be revalidated".into(),
                refusal: None,
            }));
            return Ok(());
        };
        let known = Known {
            representation: object.representation(),
            length: object.length(),
        };
        match join(Some(known), ask.span, &exchange.reply) {
            Verdict::NotModified | Verdict::Continues(_) => {
                let confirmed = Arc::clone(&object);
                on_disk(move || confirmed.confirm()).await.unwrap_or_else(|error| {
                    tracing::warn!(url = object.url(), %error, "could not record that it is unchanged");
                });
                Ok(())
            }
            Verdict::Begins(representation, brings) => self.begin(representation, brings, exchange).await,
            Verdict::Unsatisfiable(_) => self.first_ask(Span::Whole).await,
            Verdict::Status(status) if status >= 500 => {
                tracing::warn!(
                    url = object.url(),
                    status,
                    "could not be revalidated: answering with what is stored"
                );
                Ok(())
            }
            Verdict::Status(_) => Err(Phase::Refused(Arc::new(refusal(exchange, None).await))),
            Verdict::Contradiction(_) => self.first_ask(Span::Whole).await,
        }
    }
}

/// Enough to learn the head and whether ranges work, on servers that refuse HEAD too.
fn first_byte() -> Span {
    ByteRange::new(0, 1).map_or(Span::Whole, Span::Range)
}

pub(super) async fn refusal(exchange: Exchange, complete_length: Option<u64>) -> Refusal {
    let reply = exchange.reply.clone();
    let body = match reply.framing {
        Framing::Length(0) => Vec::new(),
        _ => exchange.small_body(MAX_REFUSAL_BYTES, REFUSAL_TIME).await,
    };
    Refusal {
        status: reply.status,
        headers: reply.headers,
        retry_after: reply.retry_after,
        body: body.into(),
        complete_length,
    }
}
