//! TLS to brokers, by the same library as everything else in this process.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::settings::ClientCertificate;

/// Certificates of a bundle at most, bytes.
const BUNDLE_MAX: u64 = 8 << 20;

/// Opens TLS over a connection.
#[derive(Clone)]
pub(super) struct Tls {
    connector: TlsConnector,
    /// We have a certificate to show.
    pub(super) shows: bool,
}

impl Tls {
    /// Trusting the certificates of this file, or those of the system; as `client`, where brokers ask who we are.
    pub(super) fn new(ca: Option<&Path>, client: Option<&ClientCertificate>) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        match ca {
            Some(path) => {
                for certificate in certificates(path)? {
                    let bad = |error: rustls::Error| format!("--kafka-ca {}: {error}", path.display());
                    roots.add(certificate).map_err(bad)?;
                }
            }
            None => {
                let found = rustls_native_certs::load_native_certs();
                roots.add_parsable_certificates(found.certs);
                if roots.is_empty() {
                    return Err("this system has no root certificates: name a file of them with --kafka-ca"
                        .to_owned());
                }
            }
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots);
        let config = match client {
            None => config.with_no_client_auth(),
            Some(ClientCertificate { certificate, key }) => {
                let pair = (certificates(certificate)?, private_key(key)?);
                let bad = |error: rustls::Error| {
                    let (certificate, key) = (certificate.display(), key.display());
                    format!(
                        "--kafka-cert {certificate} and --kafka-key {key} cannot be used together: {error}"
                    )
                };
                config.with_client_auth_cert(pair.0, pair.1).map_err(bad)?
            }
        };
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), shows: client.is_some() })
    }

    /// Speaks TLS with whoever proves to be `host`.
    pub(super) async fn over(&self, stream: TcpStream, host: &str) -> Result<TlsStream<TcpStream>, String> {
        let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
        self.connector.connect(name, stream).await.map_err(|error| format!("TLS: {error}"))
    }
}

/// What a file of PEM holds, read.
fn pem(path: &Path) -> Result<Vec<u8>, String> {
    let bad = |problem: String| format!("{}: {problem}", path.display());
    let length = std::fs::metadata(path).map_err(|error| bad(error.to_string()))?.len();
    if length > BUNDLE_MAX {
        return Err(bad("larger than 8 MiB".to_owned()));
    }
    std::fs::read(path).map_err(|error| bad(error.to_string()))
}

/// The certificates of a file, one at least.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bad = |problem: String| format!("certificates {}: {problem}", path.display());
    let pem = pem(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let found = found.map_err(|error| bad(error.to_string()))?;
    if found.is_empty() { Err(bad("holds no certificate in PEM form".to_owned())) } else { Ok(found) }
}

/// The key of a file. Nothing of its text is ever shown.
fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let found = PrivateKeyDer::from_pem_slice(&pem(path)?);
    found.map_err(|_| {
        format!("--kafka-key {}: holds no private key in PEM form, or an encrypted one", path.display())
    })
}
