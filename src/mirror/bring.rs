//! One file of a mirror, brought whole or found to be the one that is here.
//!
//! The fill does the work, after all that readers want (`Registry::bring_whole`): it goes on with what is here, asks whether
//! what is whole is unchanged, and compares what it joins. What comes of it is told in the words of a report.

use super::disk::on_disk;
use crate::api::WalkReport;
use crate::fill::{JoinRequest, Phase, Registry};
use crate::store::{Object, Store};
use crate::upstream::{Span, Target};
use std::sync::Arc;
use std::time::Duration;

/// How long a fill may make no progress, with a trouble, before a walk goes on without it. A judgement: the upstream's
/// restarts take seconds, and the next walk asks again.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often a file is begun again whose fill was another's, and ended before it was whole. A judgement.
const TRIES: usize = 3;

/// The outcome for a file.
#[derive(Debug)]
pub(super) enum Brought {
    /// The upstream says that what is here is it.
    Unchanged(Arc<Object>),
    /// Fetched.
    Fetched(Arc<Object>),
    /// There is no room for it.
    NoRoom,
    /// Not here, or not confirmed: why.
    Failed(String),
}

impl Brought {
    /// Tells the report of the file at the path; the object, where it is here.
    pub(super) fn tell(self, report: &mut WalkReport, path: &str) -> Option<Arc<Object>> {
        match self {
            Self::Unchanged(object) => {
                report.unchanged += 1;
                Some(object)
            }
            Self::Fetched(object) => {
                report.fetched += 1;
                report.bytes += object.length().unwrap_or_default();
                Some(object)
            }
            Self::NoRoom => {
                report.fail("no room", path);
                report.stopped.get_or_insert_with(|| "no room".to_owned());
                None
            }
            Self::Failed(why) => {
                report.fail(&why, path);
                None
            }
        }
    }
}

/// Brings the object of the target whole.
pub(super) async fn bring(fills: &Registry, store: &Arc<Store>, target: &Arc<Target>) -> Brought {
    for _ in 0..TRIES {
        let (loading, key) = (Arc::clone(store), target.key.clone());
        let known = match on_disk(move || loading.load(&key)).await {
            Ok(known) => known,
            Err(error) => return Brought::Failed(error.to_string()),
        };
        let whole = known
            .clone()
            .filter(|known| known.is_whole() && !known.head().is_bare_response());
        let join = match whole {
            Some(_) => JoinRequest::Validity { bytes: true },
            None => JoinRequest::Bytes(Span::From(0)),
        };
        let patron = fills.bring_whole(target, join, known);
        let trouble = match patron.opened().await {
            Phase::Ready(_) => patron.ended(PATIENCE).await.or_else(|| patron.trouble()),
            Phase::Refused(refusal) => return Brought::Failed(format!("the upstream answers {}", refusal.status)),
            Phase::Failed(error) => return Brought::Failed(error.to_string()),
            Phase::Resting(_) => return Brought::Failed("the upstream is down, or asked to be left alone".to_owned()),
            Phase::Redirected(_) => return Brought::Failed("the upstream redirects to another page".to_owned()),
            Phase::Disk(why) => return Brought::Failed(why.to_string()),
            Phase::WithoutParts | Phase::Opening | Phase::Stopping => {
                return Brought::Failed("the server is stopping".to_owned());
            }
        };
        let Some(object) = patron.object() else {
            return Brought::Failed("the server is stopping".to_owned());
        };
        if let Some(why) = patron.not_stored() {
            return Brought::Failed(refused(&object, why.token()));
        }
        let status = object.head().representation().status;
        if status != 200 {
            return Brought::Failed(format!("the upstream answers {status}"));
        }
        if let Some(trouble) = trouble {
            return Brought::Failed(trouble.what.to_string());
        }
        if object.is_whole() && !object.is_discarded() {
            let is_known = whole.is_some_and(|whole| Arc::ptr_eq(&whole, &object));
            return match is_known {
                true => Brought::Unchanged(object),
                false => Brought::Fetched(object),
            };
        }
        let missing = object
            .length()
            .map(|length| length.saturating_sub(object.presence().present_bytes()));
        if store.room().zip(missing).is_some_and(|(room, missing)| room < missing) {
            return Brought::NoRoom;
        }
    }
    Brought::Failed("it ended before it was whole".to_owned())
}

/// Why a reply is not kept, in words.
fn refused(object: &Object, token: &str) -> String {
    match object.head().representation().status {
        200 => format!("its reply may not be stored ({token})"),
        status => format!("the upstream answers {status}"),
    }
}
