//! Where a bucket is and who asks for it, by the same settings as the SDK's clients.

use aws_config::SdkConfig;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_kinesis::config::endpoint::{DefaultResolver, Params, ResolveEndpoint};
use aws_types::os_shim_internal::Env;
use aws_types::service_config::ServiceConfigKey;

use super::network::Network;
use super::role::AssumeRole;
use super::sdk_config;
use super::sts::in_role;

/// The region in signatures for another S3 than that of AWS, where none is given.
const OTHER_S3_REGION: &str = "us-east-1";
/// Of the `object_store` crate; `true` for a server that wants the bucket in the host name, `false` for the path at AWS.
const VIRTUAL_HOSTED: &str = "AWS_VIRTUAL_HOSTED_STYLE_REQUEST";

/// A bucket, as a client needs to know it.
#[derive(Clone, Debug)]
pub struct Bucket {
    /// What keys are appended to, after a slash.
    pub url: String,
    /// Region in signatures.
    pub region: String,
    /// Who asks.
    pub credentials: SharedCredentialsProvider,
    /// Certificates, PEM, that count instead of the system's.
    pub ca_bundle: Option<Vec<u8>>,
}

/// Why a bucket cannot be asked for.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadBucket(String);

/// What is needed to ask S3 for a bucket, in this role, if there is one.
pub async fn bucket_config(
    role: Option<&AssumeRole>,
    endpoint: Option<&str>,
    region: Option<&str>,
) -> SdkConfig {
    let sdk = sdk_config(endpoint, region).await;
    Box::pin(in_role(sdk, role, region)).await
}

/// The bucket of this name in the environment of `sdk`.
///
/// # Errors
/// When settings are missing or do not go together.
pub async fn bucket(sdk: &SdkConfig, name: &str) -> Result<Bucket, BadBucket> {
    check_name(name)?;
    let bad = |problem: &str| BadBucket(problem.to_owned());
    let ca_bundle = Network::of_environment().ca_bundle().map_err(BadBucket)?;
    let region = sdk.region().map(|region| region.as_ref().to_owned());
    let ways = Ways { fips: sdk.use_fips() == Some(true), dual_stack: sdk.use_dual_stack() == Some(true) };
    let virtual_hosted = Env::real().get(VIRTUAL_HOSTED).ok().and_then(|text| match &text[..] {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    });
    let (endpoint, in_host, region) = match endpoint(sdk) {
        Some(endpoint) => {
            // As the SDK's clients: the endpoint is where it is, and cannot be moved.
            if let Some(variable) = ways.variable() {
                return Err(BadBucket(format!(
                    "{variable} cannot be combined with the S3 endpoint {endpoint}"
                )));
            }
            (endpoint, virtual_hosted.unwrap_or(false), region.unwrap_or_else(|| OTHER_S3_REGION.to_owned()))
        }
        None => {
            let region = region.ok_or_else(|| bad("no AWS region: set --region or AWS_REGION"))?;
            // A wildcard certificate covers one label.
            let in_host = is_label(name) && virtual_hosted.unwrap_or(true);
            (format!("https://{}", host(&region, ways).await?), in_host, region)
        }
    };
    let url = join(&endpoint, name, in_host)?;
    let credentials =
        sdk.credentials_provider().ok_or_else(|| bad("no AWS credentials provider is configured"))?;
    Ok(Bucket { url, region, credentials, ca_bundle })
}

/// The endpoint that is set by flag, `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`, or in the profile.
fn endpoint(sdk: &SdkConfig) -> Option<String> {
    let own = || {
        let key =
            ServiceConfigKey::builder().service_id("S3").env("AWS_ENDPOINT_URL").profile("endpoint_url");
        sdk.service_config()?.load_config(key.build().expect("all of it is given"))
    };
    // A flag's is there without being configured; and it wins.
    let given = sdk.get_origin("endpoint_url").is_client_config();
    let general = || sdk.endpoint_url().map(str::to_owned);
    let found = if given { general() } else { own().or_else(general) };
    found.filter(|url| !url.is_empty())
}

#[derive(Clone, Copy, Debug, Default)]
struct Ways {
    fips: bool,
    dual_stack: bool,
}

impl Ways {
    fn variable(self) -> Option<&'static str> {
        match self {
            Self { fips: true, .. } => Some("AWS_USE_FIPS_ENDPOINT"),
            Self { dual_stack: true, .. } => Some("AWS_USE_DUALSTACK_ENDPOINT"),
            _ => None,
        }
    }
}

/// The host of S3 in a region. Which domain a region's partition has is known to every client of the SDK; Kinesis' says
/// it, so that no table of ours grows old.
async fn host(region: &str, ways: Ways) -> Result<String, BadBucket> {
    let unknown =
        |why: String| BadBucket(format!("no S3 is known in the region {region:?}: {why}; check --region"));
    if region.is_empty() || !region.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Err(unknown("regions are named like eu-north-1".to_owned()));
    }
    let ask = async |ways: Ways| {
        let params = Params::builder()
            .region(region.to_owned())
            .use_fips(ways.fips)
            .use_dual_stack(ways.dual_stack)
            .build();
        let params = params.map_err(|error| unknown(error.to_string()))?;
        let resolver = DefaultResolver::new();
        resolver.resolve_endpoint(&params).await.map_err(|error| unknown(error.to_string()))
    };
    // Whether the partition has these ways at all; S3 has no FIPS hosts in China, though others have.
    ask(ways).await?;
    let plain = ask(Ways::default()).await?;
    let domain = plain.url().split_once(&format!("kinesis.{region}.")).map(|(_, domain)| domain);
    let domain = domain.ok_or_else(|| unknown(format!("Kinesis is at {}", plain.url())))?;
    if ways.fips && domain == "amazonaws.com.cn" {
        return Err(unknown("it has no FIPS hosts (AWS_USE_FIPS_ENDPOINT)".to_owned()));
    }
    let fips = if ways.fips { "-fips" } else { "" };
    let dual_stack = if ways.dual_stack { ".dualstack" } else { "" };
    Ok(format!("s3{fips}{dual_stack}.{region}.{domain}"))
}

/// The bucket in the host name, or in the path.
fn join(endpoint: &str, bucket: &str, in_host: bool) -> Result<String, BadBucket> {
    let bad = || BadBucket(format!("the S3 endpoint {endpoint:?} must be a URL like https://s3.example.com"));
    let url = url::Url::parse(endpoint).map_err(|_| bad())?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() || url.query().is_some() {
        return Err(bad());
    }
    let endpoint = endpoint.trim_end_matches('/');
    if !in_host {
        return Ok(format!("{endpoint}/{bucket}"));
    }
    let (scheme, rest) = endpoint.split_once("://").ok_or_else(bad)?;
    Ok(format!("{scheme}://{bucket}.{rest}"))
}

fn check_name(bucket: &str) -> Result<(), BadBucket> {
    let letter = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    let problem = if bucket.starts_with("arn:") {
        "an ARN is not a bucket; for an access point, use its alias (…-s3alias)"
    } else if bucket.ends_with("--x-s3") {
        "is a directory bucket (S3 Express One Zone), which is not supported"
    } else if !(3..=255).contains(&bucket.len()) || !bucket.bytes().all(letter) {
        "bucket names have 3 to 63 lower-case letters, digits, '.' and '-'"
    } else {
        return Ok(());
    };
    Err(BadBucket(format!("{bucket:?}: {problem}")))
}

/// Whether a bucket's name can be one label of a host.
fn is_label(bucket: &str) -> bool {
    let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    bucket.len() <= 63 && bucket.bytes().all(letter) && !bucket.starts_with('-') && !bucket.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the rule sets of AWS's own clients, one region of each partition.
    #[tokio::test]
    async fn every_partition_has_its_host() {
        let [plain, fips, dual, both] = [(false, false), (true, false), (false, true), (true, true)]
            .map(|(fips, dual_stack)| Ways { fips, dual_stack });
        for (region, ways, expected) in [
            ("eu-north-1", plain, "s3.eu-north-1.amazonaws.com"),
            ("us-east-1", plain, "s3.us-east-1.amazonaws.com"),
            ("us-east-1", fips, "s3-fips.us-east-1.amazonaws.com"),
            ("us-east-1", dual, "s3.dualstack.us-east-1.amazonaws.com"),
            ("ca-central-1", both, "s3-fips.dualstack.ca-central-1.amazonaws.com"),
            ("cn-north-1", plain, "s3.cn-north-1.amazonaws.com.cn"),
            ("cn-northwest-1", dual, "s3.dualstack.cn-northwest-1.amazonaws.com.cn"),
            ("us-gov-west-1", plain, "s3.us-gov-west-1.amazonaws.com"),
            ("us-gov-east-1", fips, "s3-fips.us-gov-east-1.amazonaws.com"),
            ("us-gov-west-1", both, "s3-fips.dualstack.us-gov-west-1.amazonaws.com"),
            ("us-iso-east-1", plain, "s3.us-iso-east-1.c2s.ic.gov"),
            ("us-iso-west-1", fips, "s3-fips.us-iso-west-1.c2s.ic.gov"),
            ("us-isob-east-1", plain, "s3.us-isob-east-1.sc2s.sgov.gov"),
            ("eu-isoe-west-1", plain, "s3.eu-isoe-west-1.cloud.adc-e.uk"),
            ("us-isof-south-1", plain, "s3.us-isof-south-1.csp.hci.ic.gov"),
            ("eusc-de-east-1", plain, "s3.eusc-de-east-1.amazonaws.eu"),
            ("eu-south-9", plain, "s3.eu-south-9.amazonaws.com"),
        ] {
            assert_eq!(host(region, ways).await.as_deref(), Ok(expected), "{region} {ways:?}");
        }
        for (region, ways) in
            [("cn-north-1", fips), ("eu north 1", plain), ("eu-north-1.evil.com/", plain), ("", plain)]
        {
            let problem = host(region, ways).await.unwrap_err().to_string();
            assert!(problem.contains("check --region"), "{problem}");
        }
    }

    #[test]
    fn a_bucket_is_in_the_host_or_in_the_path() {
        for (endpoint, in_host, expected) in [
            ("https://s3.eu-north-1.amazonaws.com", true, "https://raw.s3.eu-north-1.amazonaws.com"),
            ("https://s3.eu-north-1.amazonaws.com", false, "https://s3.eu-north-1.amazonaws.com/raw"),
            ("http://127.0.0.1:9000/", false, "http://127.0.0.1:9000/raw"),
            ("https://oss.example.com:8443", true, "https://raw.oss.example.com:8443"),
            ("https://gateway.example.com/s3/", false, "https://gateway.example.com/s3/raw"),
        ] {
            assert_eq!(join(endpoint, "raw", in_host).as_deref(), Ok(expected));
        }
        for wrong in ["127.0.0.1:9000", "ftp://x", "https://", "", "https://x/?a=b"] {
            assert!(join(wrong, "raw", false).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn what_is_no_bucket_is_refused() {
        for name in ["my-lake", "my.lake", "legacy_Bucket", "point-abc123-s3alias", &"a".repeat(63)] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for name in
            ["arn:aws:s3:eu-north-1:1:accesspoint", "lake--eun1-az1--x-s3", "x", "my lake", "lake?", "a@b"]
        {
            assert!(check_name(name).is_err(), "{name}");
        }
        assert!(is_label("my-lake") && !is_label("my.lake") && !is_label("My-lake") && !is_label("lake_"));
    }
}
