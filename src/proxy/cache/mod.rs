//! The cache's decisions: what is stored of a request, whether it may be reused, and whose fill brings the rest.
//!
//! `lookup` goes the whole way from a request to its answer. `variant` chooses among the replies stored under one URL, and
//! `freshness` asks the policy whether one may be reused. `fetch` joins or begins the fill that brings what is missing.
//! `admission` says who may have what another's credentials have brought, and `askers` remembers whom the upstream has allowed it. `offline` answers for an upstream that is away.
//! `bypass` relays the methods that are not answered from the store, and invalidates what they change.

pub(super) mod admission;
pub(super) mod askers;
pub(super) mod bypass;
pub(super) mod decided;
pub(super) mod fetch;
pub(super) mod freshness;
pub(super) mod lookup;
mod not_here_yet;
mod offline;
pub(super) mod variant;
