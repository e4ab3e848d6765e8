//! Places at which a test lets the process die: between any two steps of the commit order.
//!
//! `POND_FAULT=NAME:N` in the environment ends the process, with no chance to do anything, the
//! N-th time that it comes to the point of that name. Release builds have no such points.

#[cfg(debug_assertions)]
pub(super) fn point(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    // Read once: the variable does not change, and points lie in the way of every piece.
    static WANTED: OnceLock<Option<(String, u64)>> = OnceLock::new();
    // How often the wanted point was passed. AcqRel; a counter that orders nothing, in debug builds alone.
    static PASSED: AtomicU64 = AtomicU64::new(0);
    let wanted = WANTED.get_or_init(|| {
        let text = std::env::var("POND_FAULT").ok()?;
        let (name, count) = text.split_once(':')?;
        Some((name.to_owned(), count.parse().ok()?))
    });
    if let Some((wanted, count)) = wanted
        && wanted == name
        && PASSED.fetch_add(1, Ordering::AcqRel) + 1 == *count
    {
        std::process::abort();
    }
}

#[cfg(not(debug_assertions))]
pub(super) fn point(_: &str) {}
