//! How brokers of Kafka are reached: flags, and a password that comes from a variable or a file. Keys are named by their
//! files, never by their text.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::secret::{Given, given};
use super::{BadSetting, WITHOUT_FLAG};
use crate::kafka::{ClientCertificate, KafkaSettings, Mechanism, Password, Sasl};

const KAFKA: &str = "Kafka";
const PASSWORD: &str = WITHOUT_FLAG[2];
const PASSWORD_FILE: &str = WITHOUT_FLAG[3];

/// Flags and variables of all commands that ask brokers.
#[derive(Clone, Debug, Default, Args)]
pub struct KafkaArgs {
    /// Brokers of Kafka to ask first, like b-1.example.com:9092, several with commas between them.
    #[arg(long, global = true, help_heading = KAFKA, env = "KINETIDE_KAFKA_BOOTSTRAP", value_name = "HOST:PORT")]
    pub kafka_bootstrap: Option<String>,

    /// Reach the brokers by TLS.
    #[arg(long, global = true, help_heading = KAFKA, env = "KINETIDE_KAFKA_TLS", requires = "kafka_bootstrap")]
    pub kafka_tls: bool,

    /// Root certificates that count for the brokers instead of the system's, a PEM file.
    #[arg(long, global = true, help_heading = KAFKA, env = "KINETIDE_KAFKA_CA", value_name = "FILE",
          requires = "kafka_tls")]
    pub kafka_ca: Option<PathBuf>,

    /// Certificate that this process shows to brokers that ask for one, with those between it and its root, a PEM file.
    #[arg(long, global = true, help_heading = KAFKA, env = "KINETIDE_KAFKA_CERT", value_name = "FILE",
          requires_all = ["kafka_tls", "kafka_key"])]
    pub kafka_cert: Option<PathBuf>,

    /// Private key of --kafka-cert, a PEM file.
    #[arg(long, global = true, help_heading = KAFKA, env = "KINETIDE_KAFKA_KEY", value_name = "FILE",
          requires = "kafka_cert")]
    pub kafka_key: Option<PathBuf>,

    /// How this process proves who it is to the brokers: as --kafka-user, whose password is KINETIDE_KAFKA_PASSWORD, or in
    /// the file that KINETIDE_KAFKA_PASSWORD_FILE names; or with its AWS credentials (aws-msk-iam).
    #[arg(long, global = true, help_heading = KAFKA, env = "KINETIDE_KAFKA_SASL", value_name = "MECHANISM", value_enum)]
    pub kafka_sasl: Option<SaslSetting>,

    /// Name of the user.
    #[arg(long, global = true, help_heading = KAFKA, env = "KINETIDE_KAFKA_USER", value_name = "NAME",
          requires = "kafka_sasl")]
    pub kafka_user: Option<String>,
}

/// A mechanism of SASL, as people say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum SaslSetting {
    /// The password itself, over TLS.
    Plain,
    /// SCRAM with SHA-256.
    #[value(name = "scram-sha-256")]
    ScramSha256,
    /// SCRAM with SHA-512.
    #[value(name = "scram-sha-512")]
    ScramSha512,
    /// The AWS credentials of this process, at brokers of Amazon MSK, over TLS.
    AwsMskIam,
}

impl SaslSetting {
    /// With a user and its password, or with neither.
    fn mechanism(self) -> Option<Mechanism> {
        match self {
            Self::Plain => Some(Mechanism::Plain),
            Self::ScramSha256 => Some(Mechanism::ScramSha256),
            Self::ScramSha512 => Some(Mechanism::ScramSha512),
            Self::AwsMskIam => None,
        }
    }
}

impl KafkaArgs {
    /// How brokers are reached, where any are named. `region`: that of --region, for brokers of MSK.
    ///
    /// # Errors
    /// When it cannot be.
    pub fn checked(&self, region: Option<&str>) -> Result<Option<KafkaSettings>, BadSetting> {
        let settings = self.with(|name| std::env::var_os(name))?;
        Ok(settings.map(|settings| settings.in_region(region)))
    }

    fn with(&self, variable: impl Fn(&str) -> Option<OsString>) -> Result<Option<KafkaSettings>, BadSetting> {
        let Some(brokers) = &self.kafka_bootstrap else { return Ok(None) };
        let bootstrap = brokers
            .parse()
            .map_err(|allowed: String| BadSetting::new("kafka-bootstrap", brokers, allowed))?;
        let mechanism = self.kafka_sasl.map(|sasl| (sasl, sasl.mechanism()));
        let sasl = match (mechanism, &self.kafka_user) {
            (Some((_, None)), Some(user)) => {
                let allowed =
                    "has no place with --kafka-sasl aws-msk-iam, which takes AWS credentials: leave it out";
                return Err(BadSetting::new("kafka-user", user, allowed));
            }
            (Some((_, None)), None) if !self.kafka_tls => {
                let allowed = "needs TLS, as MSK does: set --kafka-tls";
                return Err(BadSetting::new("kafka-sasl", "aws-msk-iam", allowed));
            }
            (Some((_, None)), None) => Some(Sasl::AwsMskIam { region: None }),
            (Some((sasl, Some(_))), None) => {
                let allowed = "needs --kafka-user, and its password";
                let name = sasl.to_possible_value().map(|value| value.get_name().to_owned());
                return Err(BadSetting::new("kafka-sasl", name.unwrap_or_default(), allowed));
            }
            (Some((_, Some(mechanism))), Some(user)) => {
                let password = password(variable)?.ok_or_else(|| {
                    let allowed = format!("needs a password: set {PASSWORD}, or {PASSWORD_FILE}");
                    BadSetting::new("kafka-user", user, allowed)
                })?;
                Some(Sasl::User { mechanism, user: user.clone(), password })
            }
            (None, _) => None,
        };
        let client = self.kafka_cert.clone().zip(self.kafka_key.clone());
        let client = client.map(|(certificate, key)| ClientCertificate { certificate, key });
        let settings =
            KafkaSettings { bootstrap, tls: self.kafka_tls, ca: self.kafka_ca.clone(), client, sasl };
        let plain = matches!(settings.sasl, Some(Sasl::User { mechanism: Mechanism::Plain, .. }));
        if plain && !settings.tls && !settings.bootstrap.is_loopback() {
            let allowed = "sends the password as it is: set --kafka-tls, or use scram-sha-512";
            return Err(BadSetting::new("kafka-sasl", "plain", allowed));
        }
        Ok(Some(settings))
    }
}

fn password(variable: impl Fn(&str) -> Option<OsString>) -> Result<Option<Password>, BadSetting> {
    match given(variable, PASSWORD, PASSWORD_FILE)? {
        None => Ok(None),
        Some(Given::Variable(text)) => match text.into_string() {
            Ok(text) => Ok(Some(Password::new(text))),
            Err(_) => Err(BadSetting::new(PASSWORD, "", "is not UTF-8")),
        },
        Some(Given::File(file, text)) if text.is_empty() => {
            Err(BadSetting::new(PASSWORD_FILE, file.display(), "is empty"))
        }
        Some(Given::File(_, text)) => Ok(Some(Password::new(text))),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    fn args(bootstrap: &str, tls: bool, sasl: Option<SaslSetting>) -> KafkaArgs {
        KafkaArgs {
            kafka_bootstrap: Some(bootstrap.into()),
            kafka_tls: tls,
            kafka_ca: None,
            kafka_cert: None,
            kafka_key: None,
            kafka_sasl: sasl,
            kafka_user: sasl.and_then(SaslSetting::mechanism).map(|_| "reader".into()),
        }
    }

    #[test]
    fn a_password_comes_from_a_variable_or_a_file_and_is_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        std::fs::write(&file, "from a file\n").unwrap();
        let given = args("b:9092", true, Some(SaslSetting::ScramSha512));
        let with = |password: &'static str, file: &OsStr| {
            let file = file.to_owned();
            given.with(move |name| match name {
                PASSWORD => Some(password.into()),
                PASSWORD_FILE => Some(file.clone()),
                _ => None,
            })
        };
        let of = |settings: Option<KafkaSettings>| match settings.unwrap().sasl {
            Some(Sasl::User { password, .. }) => password,
            other => panic!("{other:?}"),
        };
        assert_eq!(of(with("secret", OsStr::new("")).unwrap()), Password::new("secret"));
        assert_eq!(of(with("", file.as_os_str()).unwrap()), Password::new("from a file"));
        for problem in
            [with("", OsStr::new("")), with("secret", file.as_os_str()), with("", folder.path().as_os_str())]
        {
            let problem = problem.unwrap_err().to_string();
            assert!(!problem.contains("secret"), "{problem}");
        }
    }

    #[test]
    fn aws_credentials_take_tls_and_no_user() {
        let with = |args: KafkaArgs| args.with(|_| None).map_err(|problem| problem.to_string());
        let iam = Some(SaslSetting::AwsMskIam);
        let settings = with(args("b:9098", true, iam)).unwrap().unwrap().in_region(Some("eu-north-1"));
        assert_eq!(settings.sasl, Some(Sasl::AwsMskIam { region: Some("eu-north-1".to_owned()) }));
        assert!(with(args("127.0.0.1:9098", false, iam)).unwrap_err().contains("--kafka-tls"));
        let user = KafkaArgs { kafka_user: Some("reader".into()), ..args("b:9098", true, iam) };
        assert!(with(user).unwrap_err().contains("leave it out"));
        let nobody = KafkaArgs { kafka_user: None, ..args("b:9098", true, Some(SaslSetting::ScramSha256)) };
        assert!(with(nobody).unwrap_err().contains("needs --kafka-user"));
    }

    #[test]
    fn a_password_is_not_sent_as_it_is_over_a_network() {
        let with = |args: KafkaArgs| args.with(|name| (name == PASSWORD).then(|| "secret".into()));
        let plain = Some(SaslSetting::Plain);
        assert!(
            with(args("b.example.com:9092", false, plain)).unwrap_err().to_string().contains("--kafka-tls")
        );
        for fine in [args("b.example.com:9092", true, plain), args("127.0.0.1:9092,[::1]:1", false, plain)] {
            assert!(with(fine).unwrap().is_some());
        }
        assert!(with(args("b.example.com", false, None)).unwrap_err().to_string().contains("HOST:PORT"));
        assert_eq!(with(KafkaArgs::default()), Ok(None));
    }
}
