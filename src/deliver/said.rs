//! What a store said against a call, on one line: its error code, its message, and what to do.
//!
//! The store's errors print their cause, and the cause prints the answer of the server as it came: the same kilobyte of
//! XML several times over.

use object_store::Error;

use crate::aws::{NoCredentials, TRUST_ITS_CA};
use crate::cause::{chain, one_line};

/// The error for people.
pub fn said(error: &Error) -> String {
    if let Error::Unauthenticated { source, .. } = error
        && let Some(nobody) = source.downcast_ref::<NoCredentials>()
    {
        return nobody.to_string();
    }
    let whole = chain(error);
    let Some(code) = between(&whole, "<Code>", "</Code>") else {
        let advice = match error {
            Error::PermissionDenied { .. } => {
                Some("allow it in the role that makes the call and in the policy of the bucket")
            }
            Error::Unauthenticated { .. } => Some("check the credentials of this process"),
            // Nobody's certificate is trusted where the system has none.
            _ if whole.contains("UnknownIssuer") || whole.contains("No CA certificates") => {
                Some(TRUST_ITS_CA)
            }
            _ => None,
        };
        return format!(
            "{}{}",
            brief(&whole),
            advice.map_or_else(String::new, |advice| format!("; {advice}"))
        );
    };
    let message =
        between(&whole, "<Message>", "</Message>").map_or_else(String::new, |text| format!(": {text}"));
    format!("{code}{message}{}", advice(code).map_or_else(String::new, |advice| format!("; {advice}")))
}

/// What to do about an error code of S3.
fn advice(code: &str) -> Option<&'static str> {
    Some(match code {
        "NoSuchBucket" | "InvalidBucketName" => "check --lake, --region",
        "PermanentRedirect"
        | "TemporaryRedirect"
        | "AuthorizationHeaderMalformed"
        | "IllegalLocationConstraintException" => {
            "the bucket is in another region: check --region, --s3-endpoint"
        }
        "AccessDenied" | "AllAccessDisabled" | "AccountProblem" => {
            "allow it in the role that makes the call and in the policy of the bucket"
        }
        "ExpiredToken" | "TokenRefreshRequired" => "the credentials of this process have expired: renew them",
        "InvalidAccessKeyId" | "InvalidToken" | "SignatureDoesNotMatch" => {
            "check the credentials of this process"
        }
        "RequestTimeTooSkewed" => "check the clock of this host",
        "KMS.DisabledException" | "KMS.NotFoundException" | "KMS.KMSInvalidStateException" => {
            "check --s3-kms-key and the state of that key"
        }
        "NotImplemented" => "this S3 server does not support If-None-Match, which exactly once needs",
        "InsufficientStorage" | "QuotaExceeded" => "free space in the store, or raise its quota",
        _ => return None,
    })
}

/// Without the store's own retry settings, which are the same each time; and of a response without a body no more than
/// its status, as whoever made the call names the object.
fn brief(text: &str) -> String {
    if let (Some(method), Some((_, status))) =
        (between(text, "Error performing ", " "), text.split_once("Server returned non-2xx status code: "))
    {
        return format!("{method}: {}", one_line(status).trim_end_matches([':', ' ']));
    }
    let Some((before, rest)) = text.split_once(", max_retries: ") else { return text.to_owned() };
    let after = rest.split_once(" - ").map_or("", |(_, after)| after);
    one_line(&format!("{before} - {after}"))
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(start)?;
    rest.split_once(end).map(|(found, _)| found.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(text: &str) -> Error {
        Error::Generic { store: "S3", source: text.to_owned().into() }
    }

    #[test]
    fn a_missing_bucket_is_one_short_line() {
        let xml = "<?xml version=\"1.0\"?>\n<Error><Code>NoSuchBucket</Code><Message>The specified bucket does not \
                   exist</Message><BucketName>lake</BucketName></Error>";
        let text = format!(
            "Error performing PUT http://127.0.0.1/lake/x in 12.3ms, after 3 retries, max_retries: 3, retry_timeout: 20s  \
             - Server returned non-2xx status code: 404 Not Found: {xml}"
        );
        let error = Error::NotFound { path: "x".into(), source: generic(&text).into() };
        assert_eq!(said(&error), "NoSuchBucket: The specified bucket does not exist; check --lake, --region");
    }

    #[test]
    fn an_answer_without_a_body_is_its_status_and_what_to_do() {
        let text = "Error performing HEAD http://s3/lake/x in 1ms, after 0 retries, max_retries: 3, retry_timeout: 20s  - \
                    Server returned non-2xx status code: 403 Forbidden: ";
        let error = Error::PermissionDenied { path: "x".into(), source: generic(text).into() };
        let line = said(&error);
        let advice = "allow it in the role that makes the call and in the policy of the bucket";
        assert_eq!(line, format!("HEAD: 403 Forbidden; {advice}"));
        let refused = "Error performing PUT http://s3/lake/x in 1ms, after 2 retries, max_retries: 2, retry_timeout: 5s  - \
                       HTTP error: error sending request";
        assert!(said(&generic(refused)).contains("PUT http://s3/lake/x"), "the address says where");
        for untrusted in
            ["invalid peer certificate: UnknownIssuer", "No CA certificates were loaded from the system"]
        {
            assert!(said(&generic(untrusted)).ends_with(TRUST_ITS_CA));
        }
    }
}
