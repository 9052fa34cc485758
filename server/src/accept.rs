//! Takes connections and speaks HTTP/1.1 (plain or TLS) with them: limits on how many, how long a request's head may
//! take and how long an answer may wait for its reader, and a shutdown that lets answers on their way end.
//!
//! `axum::serve` has no limit on slow heads or slow readers and no TLS, which is why this is here. HTTP/2 is left to a proxy in
//! front.

mod outgoing;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use outgoing::Outgoing;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tower::ServiceExt;

/// What a server grants to connections.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at a time; more wait in the system's queue.
    pub n_connections: u32,
    /// From the first byte of a request's head (or of a TLS handshake) to its last; also how long an idle connection stays.
    pub head: Duration,
    /// How long what is sent may wait until the other side takes the next of it.
    pub write: Duration,
    /// How long answers on their way may take after the shutdown.
    pub shutdown: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let [head, write, shutdown] = [20, 60, 10].map(Duration::from_secs);
        Self { n_connections: 8_192, head, write, shutdown }
    }
}

/// A connection's place among [`Limits::n_connections`]. What goes on without its connection (a WebSocket, a command whose
/// client went away) holds it too, so that it counts, and a shutdown waits for it.
#[derive(Debug, Clone)]
pub struct Slot {
    _permit: Arc<Option<OwnedSemaphorePermit>>,
}

/// A certificate that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read or holds nothing of the kind.
    #[error("cannot read {what} from {}: {source}", path.display())]
    File {
        /// `certificates` or `a private key`.
        what: &'static str,
        /// What is wrong.
        source: tokio_rustls::rustls::pki_types::pem::Error,
        /// Which file.
        path: PathBuf,
    },
    /// The two do not fit, or are of a kind that is not known.
    #[error("certificate and key cannot be used: {0}")]
    Unusable(#[from] tokio_rustls::rustls::Error),
}

/// TLS by files in PEM form: the certificate with those above it, and its key.
///
/// # Errors
/// [`TlsError`].
pub fn tls_from_files(certificate: &Path, key: &Path) -> Result<TlsAcceptor, TlsError> {
    let file = |what, path: &Path| {
        let path = path.to_owned();
        move |source| TlsError::File { what, source, path }
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(file("certificates", certificate))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(file("a private key", key))?;
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Serves until `shutdown` is done, and then as long as [`Limits::shutdown`] for what is on its way. Each request carries its
/// [`Slot`].
pub async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    router: Router,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) {
    let (stop, stopped) = watch::channel(false);
    let room = Arc::new(Semaphore::new(limits.n_connections as usize));
    tokio::pin!(shutdown);
    loop {
        let accepted = async {
            // the semaphore is never closed
            let permit = Arc::clone(&room).acquire_owned().await.ok();
            (Slot { _permit: Arc::new(permit) }, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            () = &mut shutdown => break,
            accepted = accepted => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // a client that is gone already, or no file handle left; the latter passes when others end
                tracing::warn!(%error, "a connection could not be taken");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        // small events must not wait for more; an error leaves them slow
        let _ = stream.set_nodelay(true);
        let stream = Outgoing::new(stream, limits.write);
        let (router, tls, stopped) = (router.clone(), tls.clone(), stopped.clone());
        tokio::spawn(async move {
            match tls {
                None => speak(stream, (peer, slot), router, limits, stopped).await,
                Some(tls) => match tokio::time::timeout(limits.head, tls.accept(stream)).await {
                    Ok(Ok(stream)) => speak(stream, (peer, slot), router, limits, stopped).await,
                    Ok(Err(error)) => tracing::debug!(%peer, %error, "no TLS"),
                    Err(_) => tracing::debug!(%peer, "the TLS handshake took too long"),
                },
            }
        });
    }
    drop(listener);
    stop.send_replace(true);
    // every connection holds one permit until it and what came of it end
    if tokio::time::timeout(limits.shutdown, room.acquire_many(limits.n_connections)).await.is_err() {
        tracing::warn!("some answers were cut off by the shutdown");
    }
}

async fn speak<S>(
    stream: S,
    (peer, slot): (SocketAddr, Slot),
    router: Router,
    limits: Limits,
    mut stopped: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        request.extensions_mut().insert(slot.clone());
        router.clone().oneshot(request.map(Body::new))
    });
    let mut builder = Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(limits.head);
    let connection = builder.serve_connection(TokioIo::new(stream), service).with_upgrades();
    // the value seen is a lock, which must not be held over what follows
    let stopping = async { drop(stopped.wait_for(|stopped| *stopped).await) };
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stopping => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        // a client that went away or was too slow
        tracing::debug!(%peer, %error, "connection ended");
    }
}

#[cfg(test)]
mod tests;
