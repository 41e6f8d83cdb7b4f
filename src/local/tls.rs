//! A certificate authority for one run of the servers of this machine. Its keys and theirs never leave the process.

use std::error::Error;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;

use crate::clock::wall_clock_us;

/// Names of this machine, and no other's.
const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Longer than any trial. What somebody goes on trusting by mistake is worth nothing soon, and nobody has its key.
const LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);

/// The clock of a client may be behind.
const LEEWAY: Duration = Duration::from_secs(3600);

/// How a file of ours begins: others are not written over.
const MARK: &str = "# Certificate of the test CA of one run of kinetide\n";

type Failed = Box<dyn Error + Send + Sync>;

/// How a server proves who it is, and whom its clients have to trust.
pub(super) struct Identity {
    pub(super) acceptor: TlsAcceptor,
    /// The certificate of the CA, PEM.
    pub(super) ca: String,
}

impl Identity {
    /// A new CA, and a server whom it vouches for.
    pub(super) fn new() -> Result<Self, Failed> {
        let mut params = params(Vec::new(), "Kinetide test CA")?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;

        let mut params = self::params(NAMES.map(str::to_owned).to_vec(), "Kinetide on this machine")?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &ca)?.der().clone();

        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let mut config = config.with_single_cert(vec![certificate], key.into())?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), ca: ca.pem() })
    }

    /// Writes the certificate of the CA, over that of an earlier run and nothing else.
    pub(super) fn write_ca(&self, path: &Path) -> io::Result<()> {
        match std::fs::read(path) {
            Ok(text) if !text.starts_with(MARK.as_bytes()) => {
                return Err(io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    "there is a file that no run of kinetide has written",
                ));
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::fs::write(path, format!("{MARK}{}", self.ca))
    }
}

fn params(names: Vec<String>, common_name: &str) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, common_name);
    let now = Duration::from_micros(wall_clock_us().unsigned_abs());
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + (now - LEEWAY);
    params.not_after = epoch + (now + LIFETIME);
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_run_has_a_ca_of_its_own_and_only_such_a_file_is_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let write = || {
            let identity = Identity::new().unwrap();
            identity.write_ca(&path).unwrap();
            let written = std::fs::read_to_string(&path).unwrap();
            assert!(written.ends_with(&identity.ca) && !written.contains("PRIVATE"), "{written}");
            written
        };
        assert_ne!(write(), write());
        std::fs::write(&path, "-----BEGIN CERTIFICATE-----\n").unwrap();
        let refused = Identity::new().unwrap().write_ca(&path).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "-----BEGIN CERTIFICATE-----\n");
        assert!(Identity::new().unwrap().write_ca(folder.path()).is_err(), "a folder is no file");
    }
}
