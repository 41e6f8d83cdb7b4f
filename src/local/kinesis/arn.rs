//! ARNs of streams and their consumers as the server makes and takes them.

use super::errors::{ACCOUNT, ApiError};

/// What the service's model asks of the ARN of a stream
/// ([DescribeStreamSummary](https://docs.aws.amazon.com/kinesis/latest/APIReference/API_DescribeStreamSummary.html)).
const PATTERN: &str = r"arn:aws.*:kinesis:.*:\d{12}:stream/\S+";

/// The ARN of a stream of this server.
pub(crate) fn stream_arn(region: &str, name: &str) -> String {
    let partition = match region {
        china if china.starts_with("cn-") => "aws-cn",
        government if government.starts_with("us-gov-") => "aws-us-gov",
        _ => "aws",
    };
    format!("arn:{partition}:kinesis:{region}:{ACCOUNT}:stream/{name}")
}

/// The name of the stream in the ARN of a stream, or of one of its consumers.
///
/// # Errors
/// `ValidationException` for another text, and `ResourceNotFoundException` for a stream of another region or account:
/// there is none here.
pub(crate) fn stream_of<'a>(arn: &'a str, region: &str) -> Result<&'a str, ApiError> {
    let constraint = format!("Member must satisfy regular expression pattern: {PATTERN}");
    let invalid = || ApiError::validation(&format!("'{arn}'"), "streamARN", &constraint);
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    let ["arn", partition, "kinesis", _, account, resource] = parts[..] else { return Err(invalid()) };
    let digits = account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit());
    let name = resource.strip_prefix("stream/").unwrap_or_default();
    if !partition.starts_with("aws") || !digits || name.is_empty() || arn.contains(char::is_whitespace) {
        return Err(invalid());
    }
    let name = name.split_once("/consumer/").map_or(name, |(name, _)| name);
    let ours = stream_arn(region, name);
    if arn == ours || arn.strip_prefix(&ours).is_some_and(|rest| rest.starts_with("/consumer/")) {
        Ok(name)
    } else {
        Err(ApiError::stream_not_found(name, account))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_this_server_are_found_and_no_others() {
        for region in ["us-east-1", "cn-north-1", "us-gov-west-1"] {
            let arn = stream_arn(region, "s");
            assert_eq!(stream_of(&arn, region), Ok("s"));
            assert_eq!(stream_of(&format!("{arn}/consumer/c:1"), region), Ok("s"));
        }
        assert!(stream_arn("cn-north-1", "s").starts_with("arn:aws-cn:"));
        for (arn, account) in [
            ("arn:aws:kinesis:eu-north-1:000000000000:stream/s", "000000000000"),
            ("arn:aws:kinesis:us-east-1:111122223333:stream/s", "111122223333"),
            ("arn:aws-cn:kinesis:us-east-1:000000000000:stream/s", "000000000000"),
        ] {
            let error = stream_of(arn, "us-east-1").unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("ResourceNotFoundException: Stream s under account {account} not found.")
            );
        }
        for text in [
            "",
            "s",
            "arn:aws:kinesis:us-east-1:000000000000",
            "arn:aws:kinesis:us-east-1:000000000000:stream/",
            "arn:aws:kinesis:us-east-1:000000000000:stream/a b",
            "arn:aws:kinesis:us-east-1:1:stream/s",
            "arn:aws:s3:us-east-1:000000000000:stream/s",
            "arn:gcp:kinesis:us-east-1:000000000000:stream/s",
        ] {
            assert_eq!(stream_of(text, "us-east-1").unwrap_err().kind, "ValidationException", "{text}");
        }
    }
}
