//! An upstream that speaks HTTP/2 over TLS, with an authority that only the operator knows.

use crate::support::{Film, Pond, get, get_range};
use bytes::Bytes;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

const LEN: u64 = 2_000_000;

/// Serves the film until the test ends; the first reply is reset in the middle of its body.
struct Secure {
    address: SocketAddr,
    authority: tempfile::NamedTempFile,
    requests: Arc<AtomicUsize>,
    _runtime: tokio::runtime::Runtime,
}

impl Secure {
    fn start(film: Film) -> Self {
        Self::named(film, "localhost", rcgen::IsCa::NoCa)
    }

    /// With a certificate of that name, which may be an authority's own.
    fn named(film: Film, name: &str, is_ca: rcgen::IsCa) -> Self {
        let mut parameters = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("a name");
        parameters.is_ca = is_ca;
        let signing_key = rcgen::KeyPair::generate().expect("a key");
        let cert = parameters.self_signed(&signing_key).expect("a certificate");
        let authority = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(authority.path(), cert.pem()).expect("written");
        let private = PrivateKeyDer::try_from(signing_key.serialize_der()).expect("a key");
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], private)
            .expect("a pair");
        config.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("threads");
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .expect("a free port");
        let address = listener.local_addr().expect("bound");
        let requests = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&requests);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, film, counter) = (acceptor.clone(), film.clone(), Arc::clone(&counter));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let Ok(mut connection) = h2::server::handshake(stream).await else {
                        return;
                    };
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        let number = counter.fetch_add(1, Ordering::AcqRel);
                        answer(&film, number, &request, respond);
                    }
                });
            }
        });
        Self {
            address,
            authority,
            requests,
            _runtime: runtime,
        }
    }
}

fn answer<B>(film: &Film, number: usize, request: &http::Request<B>, mut respond: h2::server::SendResponse<Bytes>) {
    assert_eq!(request.version(), http::Version::HTTP_2);
    let range = request.headers().get("range").and_then(|range| range.to_str().ok());
    let (start, end) = range
        .and_then(|range| range.strip_prefix("bytes=")?.split_once('-'))
        .map_or((0, LEN), |(first, last)| {
            let end = last.parse::<u64>().map_or(LEN, |last| (last + 1).min(LEN));
            (first.parse().expect("a number"), end)
        });
    // No content-length: in HTTP/2 the end of the stream is the end of the body.
    let head = http::Response::builder()
        .status(206)
        .header("etag", film.etag.as_deref().expect("a tag"))
        .header("content-range", format!("bytes {start}-{}/{LEN}", end - 1))
        .body(())
        .expect("a head");
    let Ok(mut body) = respond.send_response(head, false) else {
        return;
    };
    if number == 0 {
        let _ = body.send_data(film.bytes(start, start + 60_000).into(), false);
        // Queued behind the bytes, as a proxy does that has lost its own upstream.
        tokio::spawn(async move {
            body.reserve_capacity(1);
            let _ = std::future::poll_fn(|cx| body.poll_capacity(cx)).await;
            body.send_reset(h2::Reason::INTERNAL_ERROR);
        });
    } else {
        let _ = body.send_data(film.bytes(start, end).into(), true);
    }
}

#[test]
fn a_stream_that_is_reset_is_resumed_and_ranges_work() {
    let film = Film::new(LEN);
    let upstream = Secure::start(film.clone());
    let url = format!("https://localhost:{}/", upstream.address.port());
    let authority = upstream.authority.path().display().to_string();
    let pond = Pond::start(&[("upstream", &url), ("upstream_ca", &authority)]);
    film.check(0, &get(pond.address(), "/film").expect(200).body);
    film.check(
        1_500_000,
        &get_range(pond.address(), "/other", "bytes=1500000-").expect(206).body,
    );
    pond.until_state("complete");
    assert!(upstream.requests.load(Ordering::Acquire) >= 3);
}

#[test]
fn an_upstream_certificate_of_an_unknown_authority_is_refused() {
    let upstream = Secure::start(Film::new(LEN));
    let url = format!("https://localhost:{}/", upstream.address.port());
    let pond = Pond::start(&[("upstream", &url)]);
    let answer = get(pond.address(), "/film");
    let told = answer.expect(502).text();
    assert!(
        told.contains("certificate") && !told.contains("error sending request"),
        "{told}"
    );
    assert_eq!(pond.metric("millpond_upstream_failures_total{cause=\"tls\"}"), 1);
    assert_eq!(upstream.requests.load(Ordering::Acquire), 0);
}

#[test]
fn a_self_signed_upstream_certificate_is_accepted_where_it_is_configured() {
    let film = Film::new(LEN);
    let is_ca = || rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let upstream = Secure::named(film.clone(), "localhost", is_ca());
    let url = format!("https://localhost:{}/", upstream.address.port());
    let authority = upstream.authority.path().display().to_string();
    let pond = Pond::start(&[("upstream", &url), ("upstream_ca", &authority)]);
    film.check(0, &get(pond.address(), "/film").expect(200).body);
    // Under another name it is another's.
    let other = Secure::named(film, "nas.example", is_ca());
    let url = format!("https://localhost:{}/", other.address.port());
    let authority = other.authority.path().display().to_string();
    let pond = Pond::start(&[("upstream", &url), ("upstream_ca", &authority)]);
    get(pond.address(), "/film").expect(502);
}

#[test]
fn an_upstream_ca_without_a_certificate_is_refused_at_the_start() {
    use millpond::config::{Config, Layers};
    use millpond::server::Server;
    let (dir, empty) = (
        tempfile::TempDir::new().expect("a directory"),
        tempfile::NamedTempFile::new().expect("a file"),
    );
    let flag = |name: &str, value: String| (name.to_owned(), vec![value]);
    let mut layers = Layers::new();
    layers.add_flags(vec![
        flag("listen", "127.0.0.1:0".to_owned()),
        flag("data", dir.path().display().to_string()),
        flag("upstream_ca", empty.path().display().to_string()),
    ]);
    std::fs::write(empty.path(), "no PEM\n").expect("written");
    let refused = Server::start(&Config::read(&layers).expect("valid")).expect_err("refused");
    assert!(refused.to_string().contains("upstream_ca"), "{refused}");
}
