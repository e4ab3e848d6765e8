//! The answer for bytes that are not here yet: when to come back, and that they are here by then.
//!
//! `Retry-After` is an estimate of the fill, so it is true: until the whole is here, or the missing byte is, by the rate
//! that the fill has now. Meanwhile the server waits at the missing byte in the client's place, so that a fill which goes
//! where readers wait has brought it at the next try.

use crate::fill::Cursor;
use crate::store::{Object, Watch};
use std::sync::Arc;
use std::time::Duration;

/// How long a fill is drawn to a place that a capped answer could not serve. A judgement: the client is told to come
/// back after a second.
const INTEREST: Duration = Duration::from_secs(10);

/// When to come back: when the fill will have brought what is missing.
pub(super) fn retry_after(cursor: &Cursor, object: &Arc<Object>, no_range: bool, missing: u64) -> Duration {
    let estimate = match no_range {
        true => cursor.completes_in(object),
        // With ranges the fill goes to the missing byte at once.
        false if object.head().has_ranges() => None,
        false => cursor.reaches_in(object, missing),
    };
    estimate
        .unwrap_or(Duration::from_secs(1))
        .clamp(Duration::from_secs(1), Duration::from_secs(24 * 3600))
}

/// Waits at `missing` in the client's place, so that its next try finds the byte.
pub(super) fn draw_to(cursor: Cursor, object: Arc<Object>, mut watch: Watch, missing: u64) {
    // Its own place from the wait before must not count as somebody else's.
    watch.leave();
    let already = object.presence().waiting().iter().any(|waiting| waiting.at == missing);
    if !already && object.head().has_ranges() {
        actix_web::rt::spawn(async move {
            let _held = cursor;
            let end = object.length().unwrap_or(u64::MAX);
            let _ = tokio::time::timeout(INTEREST, watch.wait(missing, end)).await;
        });
    }
}
