//! Flags about access to AWS that several commands take: roles, and how objects are encrypted.

use std::fmt::Display;
use std::str::FromStr;

use clap::Args;

use super::BadSetting;
use crate::aws::{AssumeRole, SessionName};
use crate::deliver::{LakeUrl, S3Settings, Sse};
use crate::lease::WorkerId;

const AWS: &str = "AWS";

/// Flags and variables of all commands that read or write a stream.
#[derive(Clone, Debug, Args)]
pub struct StreamRoleArgs {
    /// IAM role to assume for the calls to Kinesis [default: the credentials of this process].
    #[arg(long, global = true, help_heading = AWS, env = "KINETIDE_STREAM_ROLE", value_name = "ARN")]
    pub stream_role: Option<String>,

    /// External ID that the trust policy of --stream-role requires.
    #[arg(long, global = true, help_heading = AWS, env = "KINETIDE_STREAM_ROLE_EXTERNAL_ID", value_name = "ID")]
    pub stream_role_external_id: Option<String>,

    /// Session name for --stream-role, which its owner sees in CloudTrail [default: the worker ID, else kinetide].
    #[arg(long, global = true, help_heading = AWS, env = "KINETIDE_STREAM_ROLE_SESSION", value_name = "NAME")]
    pub stream_role_session: Option<String>,
}

/// Flags and variables of all commands that read or write a lake at s3://.
#[derive(Clone, Debug, Args)]
pub struct LakeRoleArgs {
    /// IAM role to assume for the calls to a lake at s3:// [default: the credentials of this process].
    #[arg(long, global = true, help_heading = AWS, env = "KINETIDE_LAKE_ROLE", value_name = "ARN")]
    pub lake_role: Option<String>,

    /// External ID that the trust policy of --lake-role requires.
    #[arg(long, global = true, help_heading = AWS, env = "KINETIDE_LAKE_ROLE_EXTERNAL_ID", value_name = "ID")]
    pub lake_role_external_id: Option<String>,

    /// Session name for --lake-role, which its owner sees in CloudTrail [default: the worker ID, else kinetide].
    #[arg(long, global = true, help_heading = AWS, env = "KINETIDE_LAKE_ROLE_SESSION", value_name = "NAME")]
    pub lake_role_session: Option<String>,
}

impl StreamRoleArgs {
    /// The role for the stream, if there is one. `worker`: who works in it.
    ///
    /// # Errors
    /// When it is no role, or there is none that the rest could be about.
    pub fn checked(self, worker: Option<&WorkerId>) -> Result<Option<AssumeRole>, BadSetting> {
        let arn = ("stream-role", self.stream_role);
        let external_id = ("stream-role-external-id", self.stream_role_external_id);
        role(arn, external_id, ("stream-role-session", self.stream_role_session), worker)
    }
}

impl LakeRoleArgs {
    /// The role for this lake, if there is one. `worker`: who works in it.
    ///
    /// # Errors
    /// When it is no role, when there is none that the rest could be about, or no S3 that it could be for.
    pub fn checked(
        self,
        lake: &LakeUrl,
        worker: Option<&WorkerId>,
    ) -> Result<Option<AssumeRole>, BadSetting> {
        let arn = ("lake-role", self.lake_role);
        let external_id = ("lake-role-external-id", self.lake_role_external_id);
        let role = role(arn, external_id, ("lake-role-session", self.lake_role_session), worker)?;
        match (&role, lake) {
            (Some(role), LakeUrl::Folder(_)) => {
                Err(BadSetting::new("lake-role", &role.arn, "requires a lake at s3://"))
            }
            _ => Ok(role),
        }
    }
}

/// A setting by its name, as it was given.
type Given = (&'static str, Option<String>);

fn role(
    arn: Given,
    external_id: Given,
    session: Given,
    worker: Option<&WorkerId>,
) -> Result<Option<AssumeRole>, BadSetting> {
    let setting = arn.0;
    let (external_id, session_name) = match parsed(arn)? {
        Some(arn) => {
            let named = parsed(session)?.or_else(|| worker.map(|id| SessionName::of_worker(id.as_str())));
            return Ok(Some(AssumeRole { arn, external_id: parsed(external_id)?, session_name: named }));
        }
        None => (external_id, session),
    };
    for (name, value) in [external_id, session_name] {
        if let Some(value) = value {
            return Err(BadSetting::new(name, value, format!("requires --{setting}")));
        }
    }
    Ok(None)
}

fn parsed<T: FromStr<Err: Display>>((setting, value): Given) -> Result<Option<T>, BadSetting> {
    let parse = |text: String| {
        text.parse().map_err(|reason: T::Err| BadSetting::new(setting, &text, reason.to_string()))
    };
    value.map(parse).transpose()
}

/// Flags and variables of all commands that write to a lake at s3://.
#[derive(Clone, Debug, Args)]
pub struct EncryptionArgs {
    /// Encryption of new objects at s3:// [default: the bucket's].
    #[arg(long, help_heading = AWS, env = "KINETIDE_S3_SSE", value_name = "KIND", value_enum)]
    pub s3_sse: Option<Sse>,

    /// KMS key of new objects at s3://, with --s3-sse kms or kms-dsse [default: the account's key for S3].
    #[arg(long, help_heading = AWS, env = "KINETIDE_S3_KMS_KEY", value_name = "ARN")]
    pub s3_kms_key: Option<String>,

    /// Let S3 use one data key for many objects, which saves KMS requests. Needs --s3-sse kms.
    #[arg(long, help_heading = AWS, env = "KINETIDE_S3_BUCKET_KEY")]
    pub s3_bucket_key: bool,
}

impl EncryptionArgs {
    /// As the sink takes it.
    ///
    /// # Errors
    /// When it does not fit the lake or itself.
    pub fn checked(self, lake: &LakeUrl) -> Result<S3Settings, BadSetting> {
        let s3 = S3Settings {
            sse: self.s3_sse,
            kms_key: self.s3_kms_key,
            bucket_key: self.s3_bucket_key,
            ..S3Settings::default()
        };
        match s3.problem(lake) {
            Some((setting, value, allowed)) => Err(BadSetting::new(setting, value, allowed)),
            None => Ok(s3),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLE: &str = "arn:aws:iam::111122223333:role/writer";

    fn lake_role(lake: &str, given: [Option<&str>; 3]) -> Result<Option<AssumeRole>, String> {
        let [lake_role, lake_role_external_id, lake_role_session] = given.map(|text| text.map(str::to_owned));
        let args = LakeRoleArgs { lake_role, lake_role_external_id, lake_role_session };
        args.checked(&lake.parse().unwrap(), Some(&WorkerId::new("host:1")))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_role_has_its_session_and_belongs_to_s3() {
        let role = lake_role("s3://lake/raw", [Some(ROLE), Some("team:7"), None]).unwrap().unwrap();
        assert_eq!(role.session_name, Some("host-1".parse().unwrap()));
        assert_eq!(role.external_id, Some("team:7".parse().unwrap()));
        let named = lake_role("s3://lake/raw", [Some(ROLE), None, Some("etl")]).unwrap().unwrap();
        assert_eq!(named.session_name, Some("etl".parse().unwrap()));
        assert_eq!(lake_role("/lake", [None; 3]), Ok(None));
        for (lake, given, words) in [
            ("s3://l", [Some("writer"), None, None], "--lake-role \"writer\": is not an ARN"),
            ("s3://l", [Some(ROLE), Some("x"), None], "--lake-role-external-id \"x\": must be 2 to"),
            ("s3://l", [Some(ROLE), None, Some("a b")], "--lake-role-session \"a b\": must be 2 to"),
            ("s3://l", [None, Some("team"), None], "--lake-role-external-id \"team\": requires --lake-role"),
            ("s3://l", [None, None, Some("etl")], "--lake-role-session \"etl\": requires --lake-role"),
            ("/lake", [Some(ROLE), None, None], "requires a lake at s3://"),
        ] {
            let problem = lake_role(lake, given).unwrap_err();
            assert!(problem.contains(words), "{problem}");
        }
    }
}
