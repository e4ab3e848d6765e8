//! `millpond rm`, `pin` and `unpin`: what changes objects.
//!
//! Each object is a request of its own; one that is not there is told, and the others are still done. A
//! server that is gone ends it: the rest would only fail in the same way.

use super::Outcome;
use super::api::Api;
use super::failure::Failure;
use super::name::Name;
use super::output::{Output, plain};
use super::units::{count, size};
use millpond::api::Purged;
use reqwest::Method;

/// The change to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Remove,
    Expire,
    Pin,
    Unpin,
}

/// Does it to every named object.
pub(super) async fn each(
    api: &Api,
    names: &[Name],
    change: Change,
    json: bool,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    let mut all_well = true;
    for name in names {
        let done = match change {
            Change::Remove => remove(api, name, false).await,
            Change::Expire => remove(api, name, true).await,
            Change::Pin => pin(api, name, Method::PUT, "pinned").await,
            Change::Unpin => pin(api, name, Method::DELETE, "unpinned").await,
        };
        match done {
            Ok(done) if json => output.line(&done.answer),
            Ok(done) => output.line(&done.says),
            Err(failure) if failure.is_final() => return Err(failure),
            Err(failure) => {
                all_well = false;
                super::complain(failure);
            }
        }
    }
    Ok(Outcome::of(all_well))
}

/// Removes everything that is meant, or expires it. Nothing there is no failure.
pub(super) async fn remove_all(
    api: &Api,
    which: (&str, &str),
    soft: bool,
    json: bool,
    output: &mut Output,
) -> Result<Outcome, Failure> {
    let answer = api.call(Method::DELETE, "objects", &[which, softly(soft)]).await?;
    if json {
        output.line(&answer);
    } else {
        let gone: Purged = api.read(&answer)?;
        output.line(&match soft {
            true => format!("expired {}", count(gone.removed, "object")),
            false => format!("removed {}, {}", count(gone.removed, "object"), size(gone.bytes)),
        });
    }
    Ok(Outcome::Done)
}

/// A change that was made.
struct Made {
    /// The answer as it came.
    answer: String,
    /// The same in words.
    says: String,
}

fn softly(soft: bool) -> (&'static str, &'static str) {
    ("soft", if soft { "true" } else { "false" })
}

async fn remove(api: &Api, name: &Name, soft: bool) -> Result<Made, Failure> {
    let answer = match name {
        Name::Id(id) => {
            api.call(Method::DELETE, &format!("objects/{id}"), &[softly(soft)])
                .await
        }
        Name::Url(url) => api.call(Method::DELETE, "objects", &[("url", url), softly(soft)]).await,
    };
    let answer = answer.map_err(|failure| api.known(name, failure))?;
    let gone: Purged = api.read(&answer)?;
    if gone.removed == 0 {
        return Err(api.unknown(name));
    }
    let says = match soft {
        true => format!("expired {}", plain(&name.to_string())),
        false => format!("removed {}, {}", plain(&name.to_string()), size(gone.bytes)),
    };
    Ok(Made { answer, says })
}

async fn pin(api: &Api, name: &Name, method: Method, verb: &str) -> Result<Made, Failure> {
    let id = api.id_of(name).await?;
    let answer = api.call(method, &format!("objects/{id}/pin"), &[]).await;
    let answer = answer.map_err(|failure| api.known(name, failure))?;
    let says = format!("{verb} {}", plain(&name.to_string()));
    Ok(Made { answer, says })
}
