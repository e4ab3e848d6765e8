//! Names that nobody guesses and nothing has yet: of bodies in staging, of the mark of a root, of tokens.
//!
//! They are 128 random bits, so two do not meet. Without randomness they would: each file of such a name is therefore
//! made with `O_EXCL`, and making the second one fails.

use crate::key::Hex;
use aws_lc_rs::rand::{SecureRandom, SystemRandom};

/// 128 random bits, in hexadecimal.
pub(super) fn random_name() -> String {
    let mut bytes = [0; 16];
    // Without randomness names repeat; making the second file then fails, since each is made with `O_EXCL`.
    let _ = SystemRandom::new().fill(&mut bytes);
    Hex(&bytes).to_string()
}
