//! TLS of the main port: certificates from PEM files, reloaded when they change; client certificates if configured.

use std::{path::Path, sync::Arc};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::{net::TcpStream, sync::watch};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::config::{ConfigError, TlsFiles};

/// The certificates for new connections.
#[derive(Clone, Debug)]
pub(crate) struct Tls(watch::Receiver<Arc<ServerConfig>>);

impl Tls {
    pub(crate) fn new(config: watch::Receiver<Arc<ServerConfig>>) -> Self {
        Self(config)
    }

    pub(crate) async fn accept(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        let config = self.0.borrow().clone();
        TlsAcceptor::from(config).accept(stream).await
    }
}

/// Reads the certificates and the key.
///
/// # Errors
/// A file cannot be read or parsed, or the key does not belong to the certificate.
pub(crate) fn load(files: &TlsFiles) -> Result<Arc<ServerConfig>, ConfigError> {
    let certificates = read_certificates("--tls-cert", &files.certificates)?;
    let setting = "--tls-key";
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| invalid(setting, format!("{}: {error}", files.key.display())))?;
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| invalid(setting, error.to_string()))?;
    let builder = match &files.client_authorities {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let setting = "--tls-client-ca";
            let mut roots = RootCertStore::empty();
            for certificate in read_certificates(setting, path)? {
                roots.add(certificate).map_err(|error| invalid(setting, format!("{}: {error}", path.display())))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| invalid(setting, error.to_string()))?)
        }
    };
    let mut config =
        builder.with_single_cert(certificates, key).map_err(|error| invalid(setting, error.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn read_certificates(setting: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let unusable = |reason: String| invalid(setting, format!("{}: {reason}", path.display()));
    let found = CertificateDer::pem_file_iter(path).map_err(|error| unusable(error.to_string()))?;
    let certificates = found.collect::<Result<Vec<_>, _>>().map_err(|error| unusable(error.to_string()))?;
    if certificates.is_empty() { Err(unusable("contains no certificate".to_owned())) } else { Ok(certificates) }
}

fn invalid(setting: &'static str, reason: String) -> ConfigError {
    ConfigError::Invalid { setting, reason }
}
