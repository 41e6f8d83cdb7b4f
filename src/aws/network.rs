//! How AWS is reached: whose certificates count. Proxies (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`) are found by
//! the HTTP clients themselves, all of them by the same rules.

use std::time::Duration;

use aws_smithy_http_client::{Builder, proxy::ProxyConfig, tls};
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, SharedHttpClient, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_types::os_shim_internal::Env;
use reqwest::tls::Certificate;

use super::CONNECT_TIMEOUT;
use crate::cause::chain;

/// The variable by which all AWS tools find a bundle of certificates.
const CA_BUNDLE: &str = "AWS_CA_BUNDLE";

/// What the environment says about the way to AWS.
#[derive(Clone, Debug)]
pub struct Network {
    /// Certificates, PEM, that count instead of the system's; or why they cannot be used.
    ca_bundle: Result<Option<Vec<u8>>, String>,
}

impl Network {
    /// That of this process.
    pub fn of_environment() -> Self {
        Self::with_ca_bundle(Env::real().get(CA_BUNDLE).ok().filter(|path| !path.is_empty()).as_deref())
    }

    /// One with this file of certificates instead of the system's.
    pub fn with_ca_bundle(path: Option<&str>) -> Self {
        Self { ca_bundle: path.map(read).transpose() }
    }

    /// The certificates that count instead of the system's, PEM.
    ///
    /// # Errors
    /// When the bundle cannot be used, with its name.
    pub(super) fn ca_bundle(self) -> Result<Option<Vec<u8>>, String> {
        self.ca_bundle
    }

    /// A client for services without one of the SDK's. It follows no redirect: what it sends is meant for one host.
    ///
    /// # Errors
    /// When the bundle cannot be used.
    pub(super) fn web_client(self) -> Result<reqwest::Client, String> {
        self.web_client_builder()?.build().map_err(|error| chain(&error))
    }

    /// The same before it is built.
    ///
    /// # Errors
    /// When the bundle cannot be used.
    pub(super) fn web_client_builder(self) -> Result<reqwest::ClientBuilder, String> {
        let mut client = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(Duration::from_secs(30))
            .redirect(reqwest::redirect::Policy::none());
        if let Some(pem) = self.ca_bundle()? {
            let certificates = Certificate::from_pem_bundle(&pem).map_err(|error| chain(&error))?;
            client = client.tls_certs_only(certificates);
        }
        Ok(client)
    }

    /// The client of the SDKs; none: their default one. With a bundle that cannot be used, each call fails and says so: to
    /// go on with the system's certificates would hide it.
    pub fn http_client(&self) -> Option<SharedHttpClient> {
        match &self.ca_bundle {
            Ok(None) => None,
            Ok(Some(pem)) => Some(trusting(pem.clone())),
            Err(problem) => {
                let connector = SharedHttpConnector::new(Unusable(problem.clone()));
                Some(http_client_fn(move |_, _| connector.clone()))
            }
        }
    }
}

fn read(path: &str) -> Result<Vec<u8>, String> {
    let bad = |problem: String| format!("{CA_BUNDLE} {path}: {problem}; use a file of PEM certificates");
    let pem = std::fs::read(path).map_err(|error| bad(error.to_string()))?;
    let certificates = Certificate::from_pem_bundle(&pem).map_err(|error| bad(error.to_string()))?;
    if certificates.is_empty() {
        return Err(bad("it holds no certificate".to_owned()));
    }
    // The SDK's client panics over one that it cannot read.
    let built = reqwest::Client::builder().tls_certs_only(certificates).build();
    built.map_err(|_| bad("a certificate in it cannot be read".to_owned()))?;
    Ok(pem)
}

/// As the SDKs' default client in all else.
fn trusting(pem: Vec<u8>) -> SharedHttpClient {
    let store = tls::TrustStore::empty().with_pem_certificate(pem);
    let context = tls::TlsContext::builder()
        .with_trust_store(store)
        .build()
        .expect("a trust store is all that it takes");
    Builder::new().build_with_connector_fn(move |settings, components| {
        let mut connector = aws_smithy_http_client::Connector::builder()
            .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::AwsLc))
            .tls_context(context.clone())
            .proxy_config(ProxyConfig::from_env());
        connector.set_connector_settings(settings.cloned());
        connector.set_sleep_impl(components.and_then(|components| components.sleep_impl()));
        connector.build()
    })
}

/// Answers every request with the reason why there is no client.
#[derive(Debug)]
pub(super) struct Unusable(pub(super) String);

impl HttpConnector for Unusable {
    fn call(&self, _request: HttpRequest) -> HttpConnectorFuture {
        HttpConnectorFuture::ready(Err(ConnectorError::user(self.0.clone().into())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_is_certificates_or_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let broken = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
        for (path, word) in [
            (folder.path().join("none").display().to_string(), "No such file"),
            (write("empty", "no certificate here"), "holds no certificate"),
            (write("broken", broken), "cannot be read"),
        ] {
            let problem = read(&path).unwrap_err();
            assert!(problem.starts_with("AWS_CA_BUNDLE /") && problem.contains(word), "{problem}");
            assert!(Network { ca_bundle: Err(problem) }.http_client().is_some());
        }
        let ours = write("ours", include_str!("../../tests/fixtures/tls/ca.pem"));
        assert!(read(&ours).unwrap().starts_with(b"-----BEGIN"));
    }
}
