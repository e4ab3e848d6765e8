//! HTTPS by certificate files, which are read again when they are renewed.
//!
//! Renewal tools replace the files and expect the server to notice. It looks once a minute, at a handshake; files that
//! do not read, or do not belong together, leave the certificate as it was, and say so.

use super::AppError;
use crate::clock::Instant;
use crate::crypto::tls_provider;
use crate::sync::lock;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

/// How often it is looked whether the files have changed. A judgement: certificates are renewed weeks before they end.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// A certificate and its key, as they are in their files.
#[derive(Debug)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
    provider: Arc<CryptoProvider>,
    /// The certificate that is shown, and when the files were looked at. Held for a copy at each handshake: the files are
    /// looked at, once a minute and by one handshake, without it.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    looked: Instant,
    written: [Option<SystemTime>; 2],
    key: Arc<CertifiedKey>,
}

/// The configuration of an HTTPS listener.
///
/// # Errors
/// Where the files do not read, or do not belong together.
pub(super) fn server_config(certificate: &Path, key: &Path) -> Result<ServerConfig, AppError> {
    let provider = tls_provider();
    let wrong = |mistake| AppError::Certificate {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        mistake,
    };
    let state = State {
        looked: Instant::now(),
        written: written(certificate, key),
        key: Arc::new(read(certificate, key, &provider).map_err(wrong)?),
    };
    let files = Files {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        provider: Arc::clone(&provider),
        state: Mutex::new(state),
    };
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(error.to_string()))?;
    let mut config = config.with_no_client_auth().with_cert_resolver(Arc::new(files));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

impl Files {
    fn current(&self, look_every: Duration) -> Arc<CertifiedKey> {
        let (key, before) = {
            let mut state = lock(&self.state);
            let is_due = state.looked.elapsed() >= look_every;
            if is_due {
                state.looked = Instant::now();
            }
            (Arc::clone(&state.key), is_due.then_some(state.written))
        };
        match before {
            Some(before) => self.read_again(before).unwrap_or(key),
            None => key,
        }
    }

    /// The certificate that the files have now, if they are others than `before` and read.
    fn read_again(&self, before: [Option<SystemTime>; 2]) -> Option<Arc<CertifiedKey>> {
        let now = written(&self.certificate, &self.key);
        if now == before {
            return None;
        }
        let certificate = self.certificate.display();
        let read = read(&self.certificate, &self.key, &self.provider).map(Arc::new);
        let mut state = lock(&self.state);
        state.written = now;
        match read {
            Ok(key) => {
                tracing::info!(%certificate, "read the certificate again");
                state.key = Arc::clone(&key);
                Some(key)
            }
            Err(mistake) => {
                tracing::error!(%certificate, mistake, "the certificate does not read; the one of before is shown");
                None
            }
        }
    }
}

impl ResolvesServerCert for Files {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current(LOOK_EVERY))
    }
}

fn written(certificate: &Path, key: &Path) -> [Option<SystemTime>; 2] {
    [certificate, key].map(|path| std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok())
}

fn read(certificate: &Path, key: &Path, provider: &CryptoProvider) -> Result<CertifiedKey, String> {
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| format!("tls_certificate: {error}"))?;
    if chain.is_empty() {
        return Err("tls_certificate: there is no certificate in it".to_owned());
    }
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| format!("tls_key: {error}"))?;
    CertifiedKey::from_der(chain, key, provider).map_err(|error| format!("they do not belong together: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(dir: &Path) -> (PathBuf, PathBuf) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("made");
        let (certificate, key) = (dir.join("certificate.pem"), dir.join("key.pem"));
        std::fs::write(&certificate, made.cert.pem()).expect("written");
        std::fs::write(&key, made.signing_key.serialize_pem()).expect("written");
        (certificate, key)
    }

    #[test]
    fn a_renewed_certificate_is_shown_and_a_broken_one_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let (certificate, key) = make(dir.path());
        let provider = tls_provider();
        let state = State {
            looked: Instant::now(),
            written: [None, None],
            key: Arc::new(read(&certificate, &key, &provider).expect("read")),
        };
        let files = Files {
            certificate: certificate.clone(),
            key: key.clone(),
            provider,
            state: Mutex::new(state),
        };
        let first = files.current(Duration::ZERO);
        make(dir.path());
        let age = |path: &Path, seconds| {
            let file = std::fs::File::options().write(true).open(path).expect("open");
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
                .expect("set");
        };
        age(&certificate, 1);
        let second = files.current(Duration::ZERO);
        assert_ne!(first.cert, second.cert);
        std::fs::write(&certificate, "no certificate").expect("written");
        age(&certificate, 2);
        assert_eq!(files.current(Duration::ZERO).cert, second.cert);
    }

    #[test]
    fn an_unusable_certificate_or_key_is_refused_with_its_reason() {
        let dir = tempfile::tempdir().expect("a directory");
        let other = tempfile::tempdir().expect("a directory");
        let ((certificate, key), (_, foreign)) = (make(dir.path()), make(other.path()));
        assert!(server_config(&certificate, &key).is_ok());
        for (certificate, key, part) in [
            (&certificate, &foreign, "belong together"),
            (&key, &key, "no certificate"),
            (&certificate, &certificate, "tls_key"),
            (&dir.path().join("none"), &key, "tls_certificate"),
        ] {
            let mistake = server_config(certificate, key).expect_err("wrong").to_string();
            assert!(mistake.contains(part), "{mistake}");
        }
    }
}
