//! Which role to work in.

use std::str::FromStr;

use serde::Deserialize;

use super::arn::RoleArn;

/// Letters of a session's name (STS).
const SESSION_NAME: std::ops::RangeInclusive<usize> = 2..=64;
/// Letters of an external id (STS).
const EXTERNAL_ID: std::ops::RangeInclusive<usize> = 2..=1224;
/// The session of a command that is no worker, and the beginning of one whose worker's id is too short.
pub(super) const SESSION: &str = "kinetide";

/// A role to work in, as settings give it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AssumeRole {
    /// The role.
    pub arn: RoleArn,
    /// What its owner asks for, so that nobody can have somebody else's role assumed.
    pub external_id: Option<ExternalId>,
    /// What the session is called in the logs of the role's owner.
    pub session_name: Option<SessionName>,
}

/// What the owner of a role may ask for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct ExternalId(pub(super) String);

/// What a session is called.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct SessionName(pub(super) String);

impl SessionName {
    /// The id of a worker as a name of its sessions: other letters become '-', and of a long one its end stays, which is
    /// what tells workers of one host apart.
    pub fn of_worker(id: &str) -> Self {
        let legal: String = id.chars().map(|c| if is_session_letter(c) { c } else { '-' }).collect();
        // All of it is ASCII by now.
        let legal = &legal[legal.len().saturating_sub(*SESSION_NAME.end())..];
        if legal.len() < *SESSION_NAME.start() {
            return Self(format!("{SESSION}-{legal}"));
        }
        Self(legal.to_owned())
    }
}

fn is_session_letter(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_+=,.@-".contains(c)
}

impl FromStr for SessionName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if SESSION_NAME.contains(&text.len()) && text.chars().all(is_session_letter) {
            return Ok(Self(text.to_owned()));
        }
        Err("must be 2 to 64 letters, digits, '_', '+', '=', ',', '.', '@' or '-'".to_owned())
    }
}

impl FromStr for ExternalId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let letter = |c: char| is_session_letter(c) || ":/".contains(c);
        if EXTERNAL_ID.contains(&text.len()) && text.chars().all(letter) {
            return Ok(Self(text.to_owned()));
        }
        Err("must be 2 to 1224 letters, digits, '_', '+', '=', ',', '.', '@', ':', '/' or '-'".to_owned())
    }
}

impl TryFrom<String> for SessionName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl TryFrom<String> for ExternalId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_worker_has_a_session_of_its_own(id in any::<String>()) {
            let session = SessionName::of_worker(&id);
            prop_assert_eq!(session.0.parse(), Ok(session));
        }
    }

    #[test]
    fn a_session_is_called_like_its_worker() {
        for (id, name) in [
            ("host-1:0a1b2c", "host-1-0a1b2c"),
            ("w", "kinetide-w"),
            ("", "kinetide-"),
            ("работник 7", "---------7"),
        ] {
            assert_eq!(SessionName::of_worker(id).0, name);
        }
        let long = format!("{}:0a1b2c", "h".repeat(200));
        assert!(SessionName::of_worker(&long).0.ends_with("h-0a1b2c"));
    }

    #[test]
    fn a_role_can_be_a_table_of_a_file() {
        let read =
            |text: &str| toml::from_str::<AssumeRole>(text).map_err(|error| error.message().to_owned());
        let arn = "arn = \"arn:aws:iam::111122223333:role/reader\"\n";
        let role = read(&format!("{arn}external_id = \"team/7\"\nsession_name = \"lake-1\"")).unwrap();
        assert_eq!(
            (role.external_id, role.session_name),
            (Some("team/7".parse().unwrap()), Some("lake-1".parse().unwrap()))
        );
        assert_eq!(read(arn).unwrap().external_id, None);
        for (text, words) in [
            ("", "missing field `arn`"),
            ("arn = \"reader\"", "is not an ARN"),
            (&format!("{arn}session_name = \"a b\""), "must be 2 to 64 letters"),
            (&format!("{arn}external_id = \"x\""), "must be 2 to 1224 letters"),
            (&format!("{arn}session = \"x\""), "unknown field `session`"),
        ] {
            let problem = read(text).unwrap_err();
            assert!(problem.contains(words), "{problem}");
        }
    }
}
