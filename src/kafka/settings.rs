//! How brokers are reached, as people say it. Pure.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Letters of a topic's name at most.
const TOPIC_MAX: usize = 249;

/// Brokers to ask first, `host:port` with commas between them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Bootstrap(Vec<(String, u16)>);

impl Bootstrap {
    /// The brokers.
    pub fn brokers(&self) -> &[(String, u16)] {
        &self.0
    }

    /// True when all of them are on this machine.
    pub fn is_loopback(&self) -> bool {
        let local = |host: &str| host == "localhost" || host.starts_with("127.") || host == "::1";
        self.0.iter().all(|(host, _)| local(host))
    }
}

impl FromStr for Bootstrap {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let one = |text: &str| {
            let like = "must be HOST:PORT, several with commas between them, like b-1.example.com:9092,b-2.example.com:9092";
            let (host, port) = text.rsplit_once(':').ok_or(like)?;
            let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
            let port: u16 = port.parse().ok().filter(|port| *port > 0).ok_or(like)?;
            let odd = |host: &str| {
                host.is_empty()
                    || host.contains(['/', '@', ' ', '[', ']'])
                    || inner.is_none() && host.contains(':')
            };
            let host = inner.unwrap_or(host);
            if odd(host) { Err(like.to_owned()) } else { Ok((host.to_owned(), port)) }
        };
        text.split(',').map(|broker| one(broker.trim())).collect::<Result<_, String>>().map(Self)
    }
}

impl fmt::Display for Bootstrap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (host, port)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            match host.contains(':') {
                true => write!(f, "{comma}[{host}]:{port}")?,
                false => write!(f, "{comma}{host}:{port}")?,
            }
        }
        Ok(())
    }
}

/// What Kafka takes for a topic's name: letters, digits, `.`, `_` and `-`, and neither `.` nor `..`.
pub fn is_topic_name(text: &str) -> bool {
    let letter = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    (1..=TOPIC_MAX).contains(&text.len()) && text.bytes().all(letter) && text != "." && text != ".."
}

/// A password; it is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// This one.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// What is sent, or proved.
    #[cfg(feature = "kafka")]
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// How a user proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// The password itself. Over TLS only, unless the broker is on this machine.
    Plain,
    /// SCRAM with SHA-256: a proof, and the broker proves that it knows the user too.
    ScramSha256,
    /// SCRAM with SHA-512.
    ScramSha512,
}

#[cfg(feature = "kafka")]
impl Mechanism {
    /// As brokers call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// As whom brokers are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sasl {
    /// As a user with a password.
    User {
        /// How it proves who it is.
        mechanism: Mechanism,
        /// Its name.
        user: String,
        /// Its password.
        password: Password,
    },
    /// As who this process is at AWS, at brokers of MSK.
    AwsMskIam {
        /// The region of brokers whose names do not say it.
        region: Option<String>,
    },
}

/// What this process proves who it is with, as TLS has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate, and those between it and its root, a PEM file.
    pub certificate: PathBuf,
    /// Its key, a PEM file.
    pub key: PathBuf,
}

/// How brokers are reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaSettings {
    /// Whom to ask first.
    pub bootstrap: Bootstrap,
    /// By TLS.
    pub tls: bool,
    /// Certificates that count instead of the system's, a PEM file.
    pub ca: Option<PathBuf>,
    /// Who this process is, for listeners that ask for certificates.
    pub client: Option<ClientCertificate>,
    /// As whom; none: as nobody.
    pub sasl: Option<Sasl>,
}

impl KafkaSettings {
    /// Brokers without TLS and users.
    pub fn plain(bootstrap: Bootstrap) -> Self {
        Self { bootstrap, tls: false, ca: None, client: None, sasl: None }
    }

    /// With the region of this process, where brokers of MSK are asked.
    #[must_use]
    pub fn in_region(mut self, own: Option<&str>) -> Self {
        if let Some(Sasl::AwsMskIam { region }) = &mut self.sasl {
            *region = own.map(str::to_owned);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_are_hosts_and_ports() {
        for (text, shown) in [
            ("b:9092", "b:9092"),
            ("b-1.x.com:9092, b-2.x.com:9094", "b-1.x.com:9092,b-2.x.com:9094"),
            ("[::1]:9092", "[::1]:9092"),
            ("127.0.0.1:1", "127.0.0.1:1"),
        ] {
            assert_eq!(text.parse::<Bootstrap>().unwrap().to_string(), shown);
        }
        for text in
            ["", "b", "b:", ":9092", "b:0", "b:70000", "b:9092,", "::1:9092", "PLAINTEXT://b:9092", "a b:1"]
        {
            assert!(text.parse::<Bootstrap>().is_err(), "{text}");
        }
    }

    #[test]
    fn topics_have_kafkas_letters() {
        for text in ["orders", "a.b_c-D9", &"x".repeat(249)] {
            assert!(is_topic_name(text), "{text}");
        }
        for text in ["", ".", "..", "a b", "a/b", "ä", &"x".repeat(250)] {
            assert!(!is_topic_name(text), "{text}");
        }
    }

    #[test]
    fn a_password_is_not_shown() {
        let sasl =
            Sasl::User { mechanism: Mechanism::Plain, user: "u".into(), password: Password::new("secret") };
        assert!(!format!("{sasl:?}").contains("secret"));
    }
}
