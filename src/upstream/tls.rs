//! Whom we believe to be an upstream: certificates of the system's authorities, and those that the operator names.
//!
//! A certificate that the operator has named in `upstream_ca` is believed for itself too. That is what
//! `openssl req -x509` makes for a NAS: its own authority, and so one that webpki takes for no server's
//! (`CaUsedAsEndEntity`). The name in it is still compared with that of the URL.

use crate::crypto::tls_provider;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use rustls_platform_verifier::Verifier;
use std::sync::Arc;

/// TLS to upstreams, or to another millpond, that trusts the PEM certificates of this file's content, if there is one, beside the system's
/// authorities. Made once for all connections: it holds every authority's certificate.
///
/// # Errors
/// The mistake in the certificates.
pub fn trusting(authorities: Option<&[u8]>) -> Result<ClientConfig, String> {
    let named = authorities.map(read_certificates).transpose()?.unwrap_or_default();
    let provider = tls_provider();
    let known = match Verifier::new_with_extra_roots(named.clone(), Arc::clone(&provider)) {
        Ok(verifier) => Some(verifier),
        Err(error) if named.is_empty() => {
            // Plenty is fetched over http: a NAS in the house, and a server in a container without this package.
            tracing::warn!(%error, "no https upstream can be believed; install ca-certificates, or name an upstream_ca");
            None
        }
        Err(error) => return Err(format!("upstream_ca cannot be used: {error}")),
    };
    let verifier = NamedOrKnown {
        known,
        named,
        provider: Arc::clone(&provider),
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("could not set up TLS: {error}"))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn read_certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("upstream_ca does not read as PEM certificates: {error}"))?;
    if certificates.is_empty() {
        return Err("upstream_ca has no certificate in it; it is to be a PEM file".to_owned());
    }
    Ok(certificates)
}

/// Certificates that an authority vouches for, or that were named themselves.
#[derive(Debug)]
struct NamedOrKnown {
    /// `None` where the system has no authority.
    known: Option<Verifier>,
    named: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for NamedOrKnown {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(known) = &self.known else {
            return Err(CertificateError::UnknownIssuer.into());
        };
        match known.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // Only where it is the issuer that is missing: a certificate that has expired stays expired.
            Err(Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::Other(_)))
                if self.named.iter().any(|named| named == end_entity) =>
            {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
