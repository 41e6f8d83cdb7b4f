//! Who asks brokers of Amazon MSK: the mechanism `AWS_MSK_IAM`, a request to connect that is signed as a presigned URL is,
//! and sent as a JSON object ([aws-msk-iam-auth](https://github.com/aws/aws-msk-iam-auth#details)).

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign,
};
use aws_sigv4::sign::v4;
use serde_json::{Map, Value};
use tokio::sync::OnceCell;

use super::{Kept, NoCredentials, sdk_config};
use crate::clock::wall_clock_us;

/// The mechanism as brokers call it.
pub const AWS_MSK_IAM: &str = "AWS_MSK_IAM";

const SERVICE: &str = "kafka-cluster";
const ACTION: &str = "kafka-cluster:Connect";
/// Of the JSON object.
const VERSION: &str = "2020_10_22";
/// For so long a broker takes the request.
const EXPIRES: Duration = Duration::from_secs(900);
const USER_AGENT: &str = concat!("kinetide/", env!("CARGO_PKG_VERSION"));

/// Why no request could be signed.
#[derive(Debug, thiserror::Error)]
pub enum NotSigned {
    /// Nobody is there to sign it.
    #[error(transparent)]
    NoCredentials(#[from] NoCredentials),
    /// Signatures are for a region.
    #[error(
        "no AWS region: the broker's name does not end like kafka.eu-north-1.amazonaws.com; set --region or AWS_REGION"
    )]
    NoRegion,
    /// What was to be signed is odd.
    #[error("cannot sign for this broker: {0}")]
    Odd(String),
}

/// The credentials of this process, found when they are first needed.
pub struct MskIdentity {
    region: Option<String>,
    found: OnceCell<Found>,
}

struct Found {
    credentials: Option<Kept>,
    region: Option<String>,
}

impl fmt::Debug for MskIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MskIdentity")
    }
}

impl MskIdentity {
    /// From the usual chain (environment, profile, task role). `region`: for brokers whose names do not say theirs.
    pub fn new(region: Option<String>) -> Self {
        Self { region, found: OnceCell::new() }
    }

    /// What is said to a broker: good for one host and a quarter of an hour, so each connection gets its own.
    ///
    /// # Errors
    /// When there are no credentials, or no region.
    pub async fn request(&self, host: &str) -> Result<String, NotSigned> {
        let found = self.found.get_or_init(|| Box::pin(self.find())).await;
        let region = region_of(host).or(found.region.as_deref()).ok_or(NotSigned::NoRegion)?;
        let credentials = match &found.credentials {
            Some(credentials) => credentials.get().await?,
            None => return Err(NoCredentials::without_provider().into()),
        };
        let now = UNIX_EPOCH + Duration::from_micros(wall_clock_us().unsigned_abs());
        signed(&credentials, region, host, USER_AGENT, now)
    }

    async fn find(&self) -> Found {
        let sdk = sdk_config(None, self.region.as_deref()).await;
        Found {
            credentials: sdk.credentials_provider().map(Kept::new),
            region: sdk.region().map(|region| region.as_ref().to_owned()),
        }
    }
}

/// The region in the name of a broker, as MSK names them.
fn region_of(host: &str) -> Option<&str> {
    let name = host.strip_suffix(".cn").unwrap_or(host).strip_suffix(".amazonaws.com")?;
    let (before, region) = name.rsplit_once('.')?;
    let service = before.rsplit('.').next()?;
    matches!(service, "kafka" | "kafka-serverless").then_some(region)
}

/// The request as a JSON object.
fn signed(
    credentials: &Credentials,
    region: &str,
    host: &str,
    user_agent: &str,
    now: SystemTime,
) -> Result<String, NotSigned> {
    let odd = |error: &dyn fmt::Display| NotSigned::Odd(error.to_string());
    let mut settings = SigningSettings::default();
    settings.signature_location = SignatureLocation::QueryParams;
    settings.payload_checksum_kind = PayloadChecksumKind::NoHeader;
    settings.expires_in = Some(EXPIRES);
    let identity = credentials.clone().into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name(SERVICE)
        .time(now)
        .settings(settings)
        .build()
        .map_err(|error| odd(&error))?
        .into();
    let url = format!("https://{host}/?Action=kafka-cluster%3AConnect");
    let request = SignableRequest::new("GET", url, std::iter::once(("host", host)), SignableBody::Bytes(&[]));
    let (signed, _) =
        sign(request.map_err(|error| odd(&error))?, &params).map_err(|error| odd(&error))?.into_parts();
    let mut object = Map::new();
    for (name, value) in
        [("version", VERSION), ("host", host), ("user-agent", user_agent), ("action", ACTION)]
    {
        object.insert(name.to_owned(), value.into());
    }
    for (name, value) in signed.params() {
        object.insert(name.to_lowercase(), (&**value).into());
    }
    Ok(Value::Object(object).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

    /// What AWS's own aws-msk-iam-auth 2.3.0 (Java) has made for the same credentials, host and time.
    #[test]
    fn a_request_is_that_of_the_library_for_java() {
        let token = "IQoJb3JpZ2luX2VjEXAMPLE//token+with/odd=signs==";
        for (key, token, seconds, java) in [
            (
                "AKIDEXAMPLE",
                None,
                1_796_017_405,
                r#"{"x-amz-date":"20261130T054325Z","x-amz-signedheaders":"host","x-amz-signature":"ecc8d8750c9ac53fdc09d923e89b7a9dfa02aeec97419d5937c95a992b16bbe3","host":"b-1.orders.abc123.c2.kafka.eu-north-1.amazonaws.com","action":"kafka-cluster:Connect","x-amz-expires":"900","version":"2020_10_22","x-amz-algorithm":"AWS4-HMAC-SHA256","x-amz-credential":"AKIDEXAMPLE/20261130/eu-north-1/kafka-cluster/aws4_request","user-agent":"java"}"#,
            ),
            (
                "ASIAEXAMPLE",
                Some(token.to_owned()),
                1_796_017_407,
                r#"{"x-amz-date":"20261130T054327Z","x-amz-signedheaders":"host","x-amz-signature":"edc7f20f68265a19d0c8fef076fc1bc0270a6b8b2a1017dd954bc38ca2c50fcf","host":"boot-x1.c1.kafka-serverless.us-west-2.amazonaws.com","action":"kafka-cluster:Connect","x-amz-expires":"900","x-amz-security-token":"IQoJb3JpZ2luX2VjEXAMPLE//token+with/odd=signs==","version":"2020_10_22","x-amz-algorithm":"AWS4-HMAC-SHA256","x-amz-credential":"ASIAEXAMPLE/20261130/us-west-2/kafka-cluster/aws4_request","user-agent":"java"}"#,
            ),
        ] {
            let java: Value = serde_json::from_str(java).unwrap();
            let host = java["host"].as_str().unwrap();
            let credentials = Credentials::new(key, SECRET, token, None, "test");
            let now = UNIX_EPOCH + Duration::from_secs(seconds);
            let ours = signed(&credentials, region_of(host).unwrap(), host, "java", now).unwrap();
            assert_eq!(serde_json::from_str::<Value>(&ours).unwrap(), java);
            assert!(!ours.contains(SECRET));
        }
    }

    #[test]
    fn the_region_is_that_of_the_broker() {
        for (host, region) in [
            ("b-1.orders.abc123.c2.kafka.eu-north-1.amazonaws.com", Some("eu-north-1")),
            ("b-2-public.orders.abc123.c2.kafka.us-east-1.amazonaws.com", Some("us-east-1")),
            ("boot-x1.c1.kafka-serverless.us-west-2.amazonaws.com", Some("us-west-2")),
            ("b-1.orders.abc123.c2.kafka.cn-north-1.amazonaws.com.cn", Some("cn-north-1")),
            ("broker.example.com", None),
            ("kinesis.eu-north-1.amazonaws.com", None),
            ("eu-north-1.amazonaws.com", None),
            ("localhost", None),
        ] {
            assert_eq!(region_of(host), region, "{host}");
        }
    }
}
