//! The cryptographic library: digests, and what TLS is made with; random bytes are the kernel's.
//!
//! There are two, by feature, and this module alone knows which is compiled in (docs/decisions/0036). They have one
//! interface where it is used here. With both features, as the tests are built, it is AWS-LC.

#[cfg(feature = "aws-lc")]
use aws_lc_rs as library;
#[cfg(all(feature = "ring", not(feature = "aws-lc")))]
use ring as library;
use rustls::crypto::CryptoProvider;
use std::sync::Arc;

#[cfg(not(any(feature = "aws-lc", feature = "ring")))]
compile_error!("TLS needs a cryptographic library: --features ring, or --features aws-lc");

pub(crate) use library::digest;

/// The system had no random bytes to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system gives no random bytes")]
pub(crate) struct NoRandomness;

/// As many random bytes as nobody can guess, of the kernel's own: AWS-LC collects entropy before it gives the first, which
/// took half of a start.
///
/// # Errors
/// Where the system gives none, which Linux does not do once it has started.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], NoRandomness> {
    use rustix::rand::{GetRandomFlags, getrandom};
    let mut bytes = [0; N];
    // The kernel gives up to 256 bytes in one piece, whatever signal comes.
    match getrandom(&mut bytes, GetRandomFlags::empty()) {
        Ok(given) if given == N => Ok(bytes),
        _ => Err(NoRandomness),
    }
}

/// Whether two values of a secret are the same, in a time that tells nothing of where they differ.
#[must_use]
pub(crate) fn is_same_secret<const N: usize>(one: &[u8; N], other: &[u8; N]) -> bool {
    use subtle::ConstantTimeEq;
    one.ct_eq(other).into()
}

/// Ciphers, key exchanges and signatures for TLS.
#[must_use]
pub(crate) fn tls_provider() -> Arc<CryptoProvider> {
    #[cfg(feature = "aws-lc")]
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    #[cfg(all(feature = "ring", not(feature = "aws-lc")))]
    let provider = rustls::crypto::ring::default_provider();
    Arc::new(provider)
}
