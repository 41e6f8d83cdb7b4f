//! Who is answered: one decision for each request, before anything else looks at it. Pure.
//!
//! Probes and scrapers are always answered. Everything else is closed unless this says that it is open, so a path that is
//! added later is closed too.

// Addresses without sockets.
use core::net::{IpAddr, SocketAddr};

use axum::http::header::{
    ALLOW, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, WWW_AUTHENTICATE,
};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};

use super::token::Token;

/// For machines that have no token; they show no more than names of streams and shards.
pub(super) const OPEN: [&str; 3] = ["/healthz", "/metrics", "/readyz"];

/// What decides.
#[derive(Clone, Debug)]
pub(super) struct Access {
    token: Option<Token>,
    /// Only programs of this host reach it.
    loopback: bool,
}

/// Why a request is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Everything here is read-only.
    Method,
    /// Nothing here reads one.
    Body,
    /// Anybody in the network could ask, and there is no secret that tells who may.
    NoToken,
    /// The secret is missing or wrong.
    NotAuthorized,
    /// A web page that its owner's name server calls by this host's address would be the one that reads.
    ForeignHost,
}

impl Access {
    /// For endpoints at this address, which is the one that was bound.
    pub(super) fn new(bound: SocketAddr, token: Option<Token>) -> Self {
        Self { token, loopback: bound.ip().to_canonical().is_loopback() }
    }

    pub(super) fn check(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            return Err(Refusal::Method);
        }
        let length = headers.get(CONTENT_LENGTH);
        if headers.contains_key(TRANSFER_ENCODING) || length.is_some_and(|length| length != "0") {
            return Err(Refusal::Body);
        }
        if OPEN.contains(&uri.path()) {
            return Ok(());
        }
        match &self.token {
            Some(token) if presents(headers, token) => Ok(()),
            Some(_) => Err(Refusal::NotAuthorized),
            None if !self.loopback => Err(Refusal::NoToken),
            None if names_this_host(uri, headers) => Ok(()),
            None => Err(Refusal::ForeignHost),
        }
    }
}

/// `Bearer TOKEN`, or `Basic` with the token as password of any user, which is what a browser asks for.
fn presents(headers: &HeaderMap, token: &Token) -> bool {
    let Some((scheme, credentials)) =
        headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.split_once(' '))
    else {
        return false;
    };
    let credentials = credentials.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return token.is(credentials.as_bytes());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return false;
    }
    let Ok(pair) = base64_simd::STANDARD.decode_to_vec(credentials) else { return false };
    let Some(colon) = pair.iter().position(|byte| *byte == b':') else { return false };
    token.is(&pair[colon + 1..])
}

/// Whether the request was sent to a loopback address or `localhost`, by its own words.
fn names_this_host(uri: &Uri, headers: &HeaderMap) -> bool {
    let is_ours = |authority: &Authority| {
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        host.eq_ignore_ascii_case("localhost")
            || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
    };
    let mut named = headers.get_all(HOST).iter();
    let (Some(host), None) = (named.next(), named.next()) else { return false };
    let host = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok());
    host.is_some_and(|host| is_ours(&host)) && uri.authority().is_none_or(is_ours)
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (code, text) = match self {
            Self::Method => {
                (StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD: nothing can be changed here\n")
            }
            Self::Body => (StatusCode::PAYLOAD_TOO_LARGE, "send no body: nothing here reads one\n"),
            Self::NoToken => (
                StatusCode::FORBIDDEN,
                "this worker listens on more than the loopback address and has no token, so it serves only /healthz, \
                 /readyz and /metrics; start it with KINETIDE_HTTP_TOKEN, or KINETIDE_HTTP_TOKEN_FILE, and send the \
                 token as bearer token or as password\n",
            ),
            Self::NotAuthorized => (
                StatusCode::UNAUTHORIZED,
                "wrong or missing token: send the worker's KINETIDE_HTTP_TOKEN as bearer token, or as password of any \
                 user\n",
            ),
            Self::ForeignHost => (
                StatusCode::FORBIDDEN,
                "without a token only requests to localhost or a loopback address are answered; use such a URL, or \
                 start the worker with KINETIDE_HTTP_TOKEN\n",
            ),
        };
        let mut response = (code, text).into_response();
        let headers = response.headers_mut();
        match self {
            Self::Method => drop(headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"))),
            Self::NotAuthorized => {
                for way in [r#"Basic realm="kinetide", charset="UTF-8""#, r#"Bearer realm="kinetide""#] {
                    headers.append(WWW_AUTHENTICATE, HeaderValue::from_static(way));
                }
            }
            // What follows the head is not looked at.
            Self::Body => drop(headers.insert(CONNECTION, HeaderValue::from_static("close"))),
            Self::NoToken | Self::ForeignHost => {}
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "correct:horse-battery";

    fn access(bound: &str, token: bool) -> Access {
        Access::new(bound.parse().unwrap(), token.then(|| Token::new(SECRET).unwrap()))
    }

    fn ask(access: &Access, method: &str, uri: &str, headers: &[(&str, &str)]) -> Result<(), Refusal> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name.parse::<axum::http::HeaderName>().unwrap(), value.parse().unwrap());
        }
        access.check(&method.parse().unwrap(), &uri.parse().unwrap(), &map)
    }

    #[test]
    fn off_loopback_nothing_but_probes_and_metrics_is_open_without_a_token() {
        for bound in ["0.0.0.0:80", "10.0.0.7:80", "[::]:80", "[2001:db8::1]:80", "[::ffff:10.0.0.7]:80"] {
            let access = access(bound, false);
            for open in OPEN {
                assert_eq!(ask(&access, "GET", open, &[]), Ok(()), "{bound} {open}");
            }
            // A Host that names the loopback address makes no difference, nor do other spellings of an open path.
            for closed in [
                "/",
                "/console/app.js",
                "/api/status",
                "/nothing",
                "/healthz/",
                "//metrics",
                "/healthz/../api/status",
            ] {
                let asked = ask(&access, "GET", closed, &[("host", "localhost")]);
                assert_eq!(asked, Err(Refusal::NoToken), "{bound} {closed}");
            }
        }
    }

    #[test]
    fn on_loopback_a_foreign_host_is_refused() {
        for bound in ["127.0.0.1:80", "[::1]:80", "127.8.9.1:80", "[::ffff:127.0.0.1]:80"] {
            let access = access(bound, false);
            for ours in [
                "localhost",
                "localhost:8080",
                "LOCALHOST",
                "127.0.0.1:8080",
                "[::1]:8080",
                "[::1]",
                "127.1.2.3",
            ] {
                assert_eq!(ask(&access, "GET", "/api/status", &[("host", ours)]), Ok(()), "{bound} {ours}");
            }
            for foreign in [
                "evil.example",
                "127.0.0.1.evil.example",
                "localhost.evil.example:80",
                "10.0.0.1",
                "",
                "a b",
                "localhost@evil.example",
            ] {
                let asked = ask(&access, "GET", "/api/status", &[("host", foreign)]);
                assert_eq!(asked, Err(Refusal::ForeignHost), "{bound} {foreign}");
                assert_eq!(ask(&access, "GET", "/healthz", &[("host", foreign)]), Ok(()));
            }
            assert_eq!(ask(&access, "GET", "/", &[]), Err(Refusal::ForeignHost));
            let two = [("host", "localhost"), ("host", "evil.example")];
            assert_eq!(ask(&access, "GET", "/", &two), Err(Refusal::ForeignHost));
            let proxied = ask(&access, "GET", "http://evil.example/", &[("host", "localhost")]);
            assert_eq!(proxied, Err(Refusal::ForeignHost));
        }
    }

    #[test]
    fn a_token_is_asked_for_wherever_the_worker_listens() {
        let basic = |text: &str| format!("Basic {}", base64_simd::STANDARD.encode_to_string(text));
        for bound in ["127.0.0.1:80", "0.0.0.0:80"] {
            let access = access(bound, true);
            let with = |value: &str| {
                ask(&access, "GET", "/api/status", &[("authorization", value), ("host", "worker.example")])
            };
            for right in [
                format!("Bearer {SECRET}"),
                format!("bearer  {SECRET}"),
                basic(&format!("anybody:{SECRET}")),
                basic(&format!(":{SECRET}")).replace("Basic", "BASIC"),
            ] {
                assert_eq!(with(&right), Ok(()), "{right}");
            }
            for wrong in [
                String::new(),
                "Bearer".to_owned(),
                "Bearer ".to_owned(),
                "Bearer correct:horse-batterx".to_owned(),
                format!("Bearer {SECRET}x"),
                format!("Digest {SECRET}"),
                SECRET.to_owned(),
                basic(SECRET),
                basic(&format!("{SECRET}:")),
                basic("anybody:"),
                basic("without-a-colon"),
                "Basic !!!".to_owned(),
            ] {
                assert_eq!(with(&wrong), Err(Refusal::NotAuthorized), "{wrong}");
            }
            assert_eq!(ask(&access, "GET", "/", &[("host", "localhost")]), Err(Refusal::NotAuthorized));
            assert_eq!(ask(&access, "GET", "/metrics", &[]), Ok(()));
        }
    }

    #[test]
    fn nothing_can_be_written() {
        for access in [access("127.0.0.1:80", false), access("0.0.0.0:80", true)] {
            for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "BREW"] {
                for path in ["/", "/api/leases", "/healthz"] {
                    assert_eq!(ask(&access, method, path, &[]), Err(Refusal::Method), "{method} {path}");
                }
            }
            for body in [("content-length", "5"), ("transfer-encoding", "chunked")] {
                assert_eq!(ask(&access, "GET", "/healthz", &[body]), Err(Refusal::Body));
            }
            assert_eq!(ask(&access, "HEAD", "/healthz", &[("content-length", "0")]), Ok(()));
        }
    }

    #[test]
    fn a_refusal_says_what_to_do_and_shows_no_secret() {
        for refusal in
            [Refusal::Method, Refusal::Body, Refusal::NoToken, Refusal::NotAuthorized, Refusal::ForeignHost]
        {
            assert!(refusal.into_response().status().is_client_error());
        }
        let refused = Refusal::NotAuthorized.into_response();
        let ways: Vec<_> = refused.headers().get_all(WWW_AUTHENTICATE).iter().collect();
        assert_eq!(ways, ["Basic realm=\"kinetide\", charset=\"UTF-8\"", "Bearer realm=\"kinetide\""]);
        assert!(!format!("{:?}", access("0.0.0.0:80", true)).contains("horse"));
    }
}
