//! Calls to CloudWatch's `PutMetricData` and `GetMetricData`, by the JSON protocol and the signature of AWS.
//!
//! Not the SDK's client: with it another gzip implementation comes into the program, and the bytes of objects depend on
//! which one there is. `docs/adr/0024-cloudwatch.md` has the whole reason.

use aws_config::SdkConfig;
use aws_sdk_kinesis::config::endpoint::{DefaultResolver, Params, ResolveEndpoint};
use bytes::Bytes;
use object_store::aws::AwsAuthorizer;
use object_store::client::{HttpClient, HttpRequest};
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Method, StatusCode};

use super::credentials::Kept;
use super::network::Network;
use super::s3::endpoint;
use super::{CHECK_NETWORK, allow};
use crate::cause::{chain, one_line};

/// As signatures and host names know the service.
const SERVICE: &str = "monitoring";
const TARGET: &str = "GraniteServiceVersion20100801.";
const PUT: &str = "PutMetricData";
const GET: &str = "GetMetricData";
const JSON: &str = "application/x-amz-json-1.0";
/// An answer's text for people is not longer than this.
const SAID_MAX: usize = 64 << 10;

/// CloudWatch in one region.
#[derive(Debug)]
pub struct CloudWatch {
    url: String,
    region: String,
    credentials: Kept,
    client: HttpClient,
}

/// A call that failed, in one line for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct NotPut {
    text: String,
    /// The same call would be refused again.
    pub for_ever: bool,
}

impl NotPut {
    fn now(text: impl Into<String>) -> Self {
        Self { text: text.into(), for_ever: false }
    }
}

impl CloudWatch {
    /// CloudWatch in the environment of `sdk`.
    ///
    /// # Errors
    /// When settings are missing or do not go together, in words for people.
    pub async fn new(sdk: &SdkConfig) -> Result<Self, String> {
        let region = sdk.region().map(|region| region.as_ref().to_owned());
        let region = region.ok_or("no AWS region: set --region or AWS_REGION")?;
        let url = match endpoint(sdk, "CloudWatch") {
            Some(url) => url,
            None => of_region(sdk, &region).await?,
        };
        let client = Network::of_environment().web_client()?;
        let provider = sdk.credentials_provider().ok_or("no AWS credentials provider is configured")?;
        Ok(Self { url, region, credentials: Kept::new(provider), client: HttpClient::new(client) })
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Sends these metrics: the call's input as JSON. Has no time limit of its own beyond connecting.
    ///
    /// # Errors
    /// When CloudWatch did not take them, or nobody knows whether it did.
    pub async fn put(&self, metrics: Bytes) -> Result<(), NotPut> {
        self.call(PUT, metrics).await.map(drop)
    }

    /// Asks for metrics: input and output of the call as JSON. Has no time limit of its own beyond connecting.
    ///
    /// # Errors
    /// When CloudWatch did not answer, in one line for people.
    pub async fn get(&self, query: Bytes) -> Result<Bytes, String> {
        self.call(GET, query).await.map_err(|refused| refused.to_string())
    }

    async fn call(&self, operation: &'static str, input: Bytes) -> Result<Bytes, NotPut> {
        let credentials = self.credentials.for_signing().await;
        let credentials = credentials.map_err(|nobody| NotPut::now(nobody.to_string()))?;
        let target = HeaderValue::from_str(&format!("{TARGET}{operation}"));
        let target = target.expect("names of operations are letters");
        let mut request = HttpRequest::new(input.into());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.url.parse().map_err(|_| bad_endpoint(&self.url))?;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
        request.headers_mut().insert("x-amz-target", target);
        let signer = AwsAuthorizer::new(&credentials, SERVICE, &self.region);
        signer.try_authorize(&mut request, None).map_err(|error| NotPut::now(chain(&error)))?;
        let unreached = |error: &(dyn std::error::Error + 'static)| {
            NotPut::now(format!("{}; {CHECK_NETWORK}", chain(error)))
        };
        let response = self.client.execute(request).await.map_err(|error| unreached(&error))?;
        let status = response.status();
        if status.is_success() {
            return response.into_body().bytes().await.map_err(|error| unreached(&error));
        }
        let body = response.into_body().bytes().await.unwrap_or_default();
        Err(refused(operation, status, &body[..body.len().min(SAID_MAX)]))
    }
}

fn bad_endpoint(url: &str) -> NotPut {
    NotPut::now(format!("the CloudWatch endpoint {url:?} is not a URL; check --cloudwatch-endpoint"))
}

/// Where CloudWatch is in a region. Its hosts are named as those of Kinesis, which a client of the SDK knows for each
/// partition.
async fn of_region(sdk: &SdkConfig, region: &str) -> Result<String, String> {
    let unknown =
        |why: String| format!("no CloudWatch is known in the region {region:?}: {why}; check --region");
    let params = Params::builder()
        .region(region.to_owned())
        .use_fips(sdk.use_fips() == Some(true))
        .use_dual_stack(sdk.use_dual_stack() == Some(true))
        .build();
    let params = params.map_err(|error| unknown(error.to_string()))?;
    let resolver = DefaultResolver::new();
    let kinesis = resolver.resolve_endpoint(&params).await.map_err(|error| unknown(error.to_string()))?;
    match kinesis.url().strip_prefix("https://kinesis") {
        Some(rest) => Ok(format!("https://{SERVICE}{rest}/")),
        None => Err(unknown(format!("Kinesis is at {}", kinesis.url()))),
    }
}

/// What CloudWatch said, and what to do about it.
fn refused(operation: &str, status: StatusCode, body: &[u8]) -> NotPut {
    let json: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let word = |names: [&str; 2]| names.iter().find_map(|name| json[*name].as_str());
    // `com.amazonaws.cloudwatch#InvalidParameterValueException`
    let code = word(["__type", "code"]).map(|code| code.rsplit('#').next().unwrap_or(code));
    let text = match word(["message", "Message"]) {
        Some(text) => format!(": {}", one_line(text)),
        None if code.is_none() => {
            let said = one_line(&String::from_utf8_lossy(body)).chars().take(200).collect::<String>();
            if said.is_empty() { said } else { format!(": {said}") }
        }
        None => String::new(),
    };
    let code = code.map_or_else(|| format!("HTTP status {}", status.as_u16()), str::to_owned);
    let is = |words: &[&str]| words.iter().any(|word| code.starts_with(word));
    let wrong =
        is(&["InvalidParameter", "MissingParameter", "MissingRequired", "Validation", "InvalidFormat"])
            || status == StatusCode::PAYLOAD_TOO_LARGE;
    let quota = format!("if it lasts, raise the quota for {operation}");
    let advice = if is(&["AccessDenied"]) {
        allow(&text)
    } else if is(&["Throttl", "LimitExceeded", "RequestLimitExceeded"])
        || status == StatusCode::TOO_MANY_REQUESTS
    {
        quota.as_str()
    } else if is(&["ExpiredToken", "RequestExpired"]) {
        "the credentials of this process have expired: renew them"
    } else if is(&["UnrecognizedClient", "InvalidClientTokenId", "InvalidSignature", "SignatureDoesNotMatch"])
    {
        "check the credentials and the clock of this process"
    } else if wrong && operation == PUT {
        "these metrics are dropped"
    } else {
        "check the CloudWatch endpoint"
    };
    NotPut { text: format!("{code}{text}; {advice}"), for_ever: wrong }
}

#[cfg(test)]
mod tests {
    use aws_config::Region;

    use super::*;

    /// From the rule set of AWS's own client, one region of each kind.
    #[tokio::test]
    async fn every_partition_has_its_host() {
        for (region, fips, dual_stack, host) in [
            ("eu-north-1", false, false, "monitoring.eu-north-1.amazonaws.com"),
            ("us-east-1", true, false, "monitoring-fips.us-east-1.amazonaws.com"),
            ("us-gov-west-1", true, false, "monitoring.us-gov-west-1.amazonaws.com"),
            ("us-east-1", false, true, "monitoring.us-east-1.api.aws"),
            ("cn-north-1", false, false, "monitoring.cn-north-1.amazonaws.com.cn"),
            ("eusc-de-east-1", false, false, "monitoring.eusc-de-east-1.amazonaws.eu"),
        ] {
            let sdk = SdkConfig::builder().region(Region::new(region)).use_fips(fips);
            let url = of_region(&sdk.use_dual_stack(dual_stack).build(), region).await;
            assert_eq!(url, Ok(format!("https://{host}/")), "{region}");
        }
    }

    #[test]
    fn an_answer_says_what_to_do_and_whether_it_helps_to_ask_again() {
        for (status, body, words, for_ever) in [
            (
                400,
                r#"{"__type":"com.amazonaws.cloudwatch#InvalidParameterValueException","message":"no\nnumber"}"#,
                "InvalidParameterValueException: no number; these metrics are dropped",
                true,
            ),
            (400, r#"{"__type":"AccessDenied","Message":"no"}"#, "allow it in the role", false),
            (400, r#"{"__type":"ThrottlingException"}"#, "raise the quota", false),
            (429, "", "HTTP status 429; if it lasts", false),
            (413, "", "HTTP status 413", true),
            (503, "<html>Busy</html>", "HTTP status 503: <html>Busy</html>; check", false),
        ] {
            let said = refused(PUT, StatusCode::from_u16(status).unwrap(), body.as_bytes());
            assert!(said.text.contains(words) && said.for_ever == for_ever, "{said:?}");
        }
    }
}
