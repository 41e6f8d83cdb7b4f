//! How brokers of Kafka are reached: flags, and a password that comes from a variable or a file.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use super::secret::{Given, given};
use super::{BadSetting, WITHOUT_FLAG};
use crate::kafka::{KafkaSettings, Mechanism, Password, Sasl};

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

    /// How --kafka-user proves who it is to the brokers. Its password is KINETIDE_KAFKA_PASSWORD, or in the file that
    /// KINETIDE_KAFKA_PASSWORD_FILE names.
    #[arg(long, global = true, help_heading = KAFKA, env = "KINETIDE_KAFKA_SASL", value_name = "MECHANISM",
          value_enum, requires = "kafka_user")]
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
}

impl KafkaArgs {
    /// How brokers are reached, where any are named.
    ///
    /// # Errors
    /// When it cannot be.
    pub fn checked(&self) -> Result<Option<KafkaSettings>, BadSetting> {
        self.with(|name| std::env::var_os(name))
    }

    fn with(&self, variable: impl Fn(&str) -> Option<OsString>) -> Result<Option<KafkaSettings>, BadSetting> {
        let Some(brokers) = &self.kafka_bootstrap else { return Ok(None) };
        let bootstrap = brokers
            .parse()
            .map_err(|allowed: String| BadSetting::new("kafka-bootstrap", brokers, allowed))?;
        let sasl = match (self.kafka_sasl, &self.kafka_user) {
            (Some(mechanism), Some(user)) => {
                let mechanism = match mechanism {
                    SaslSetting::Plain => Mechanism::Plain,
                    SaslSetting::ScramSha256 => Mechanism::ScramSha256,
                    SaslSetting::ScramSha512 => Mechanism::ScramSha512,
                };
                let password = password(variable)?.ok_or_else(|| {
                    let allowed = format!("needs a password: set {PASSWORD}, or {PASSWORD_FILE}");
                    BadSetting::new("kafka-user", user, allowed)
                })?;
                Some(Sasl { mechanism, user: user.clone(), password })
            }
            _ => None,
        };
        let settings = KafkaSettings { bootstrap, tls: self.kafka_tls, ca: self.kafka_ca.clone(), sasl };
        let plain = settings.sasl.as_ref().is_some_and(|sasl| sasl.mechanism == Mechanism::Plain);
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
            kafka_sasl: sasl,
            kafka_user: sasl.map(|_| "reader".into()),
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
        let of = |settings: Option<KafkaSettings>| settings.unwrap().sasl.unwrap().password;
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
