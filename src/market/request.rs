//! What is asked of a provider: address, header of the key, how often.

use std::time::Duration;

use url::Url;

use crate::transform::Provider;

/// The kind of account at CoinGecko: it decides host and header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Account {
    /// A demo key, or none.
    #[default]
    Demo,
    /// A paid one.
    Pro,
}

/// A request for one snapshot.
#[derive(Clone, Debug)]
pub struct Request {
    /// Who is asked.
    pub provider: Provider,
    /// The address, without the key.
    pub url: Url,
    /// Name of the header that carries the key, and what stands before it.
    pub(super) header: (&'static str, &'static str),
}

impl Request {
    /// The most entries that a provider gives at once.
    pub fn entries_max(provider: Provider) -> u16 {
        match provider {
            Provider::CoinGecko => 250,
            Provider::CoinCap => 2000,
        }
    }

    /// As many as are asked for where nobody says a number.
    pub fn entries_default(provider: Provider) -> u16 {
        match provider {
            Provider::CoinGecko => 250,
            Provider::CoinCap => 100,
        }
    }

    /// The usual time between two snapshots.
    pub fn every_default(provider: Provider) -> Duration {
        Duration::from_secs(match provider {
            Provider::CoinGecko => 300,
            Provider::CoinCap => 10,
        })
    }

    /// Whether the provider answers nobody without a key.
    pub fn needs_key(provider: Provider, account: Account) -> bool {
        provider == Provider::CoinCap || account == Account::Pro
    }

    /// `endpoint`: another server than the provider's.
    ///
    /// # Errors
    /// When the endpoint cannot have a path.
    pub fn new(
        provider: Provider,
        account: Account,
        endpoint: Option<&Url>,
        entries: u16,
    ) -> Result<Self, String> {
        let (host, path, header) = match (provider, account) {
            (Provider::CoinGecko, Account::Demo) => {
                ("https://api.coingecko.com", "api/v3/coins/markets", ("x-cg-demo-api-key", ""))
            }
            (Provider::CoinGecko, Account::Pro) => {
                ("https://pro-api.coingecko.com", "api/v3/coins/markets", ("x-cg-pro-api-key", ""))
            }
            (Provider::CoinCap, _) => ("https://rest.coincap.io", "v3/assets", ("authorization", "Bearer ")),
        };
        let mut url = match endpoint {
            Some(endpoint) => endpoint.clone(),
            None => Url::parse(host).map_err(|error| error.to_string())?,
        };
        url.path_segments_mut()
            .map_err(|()| "it cannot have a path".to_owned())?
            .pop_if_empty()
            .extend(path.split('/'));
        let entries = entries.to_string();
        match provider {
            Provider::CoinGecko => url.query_pairs_mut().extend_pairs([
                ("vs_currency", "usd"),
                ("order", "market_cap_desc"),
                ("per_page", &*entries),
                ("page", "1"),
                ("sparkline", "false"),
                ("price_change_percentage", "1h,24h,7d"),
            ]),
            Provider::CoinCap => url.query_pairs_mut().append_pair("limit", &entries),
        };
        Ok(Self { provider, url, header })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_that_of_the_providers_documentation() {
        let url = |provider, account, endpoint: Option<&str>| {
            let endpoint = endpoint.map(|url| Url::parse(url).unwrap());
            Request::new(provider, account, endpoint.as_ref(), 250).unwrap().url.to_string()
        };
        let coins = "/api/v3/coins/markets?vs_currency=usd&order=market_cap_desc&per_page=250&page=1&sparkline=false&\
                     price_change_percentage=1h%2C24h%2C7d";
        assert_eq!(
            url(Provider::CoinGecko, Account::Demo, None),
            format!("https://api.coingecko.com{coins}")
        );
        assert_eq!(
            url(Provider::CoinGecko, Account::Pro, None),
            format!("https://pro-api.coingecko.com{coins}")
        );
        assert_eq!(
            url(Provider::CoinCap, Account::Demo, None),
            "https://rest.coincap.io/v3/assets?limit=250"
        );
        let behind = url(Provider::CoinCap, Account::Demo, Some("http://127.0.0.1:8080/proxy/"));
        assert_eq!(behind, "http://127.0.0.1:8080/proxy/v3/assets?limit=250");
        assert!(
            Request::new(Provider::CoinCap, Account::Demo, Some(&Url::parse("data:x").unwrap()), 1).is_err()
        );
    }
}
