//! Names that nobody guesses and nothing has yet: of bodies in staging, of the mark of a root, of tokens.
//!
//! They are 128 random bits, so two do not meet. Without randomness they would: each file of such a name is therefore
//! made with `O_EXCL`, and making the second one fails.

use crate::crypto::random;
use crate::key::Hex;

/// 128 random bits, in hexadecimal.
pub(super) fn random_name() -> String {
    // Without randomness names repeat; making the second file then fails, since each is made with `O_EXCL`.
    let bytes: [u8; 16] = random().unwrap_or_default();
    Hex(&bytes).to_string()
}
