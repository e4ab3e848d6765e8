//! The code by which a browser is let in.
//!
//! A caller with *rule* makes one, and the page exchanges it, once, for a cookie. The same type goes both ways; of the exchange
//! only the code counts.

use serde::{Deserialize, Serialize};

/// A code for one session of a browser.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct SessionCode {
    /// The code, which can be exchanged once.
    pub code: String,
    /// The time for which it is good, in seconds.
    #[serde(default)]
    pub expires_in_seconds: u64,
}
