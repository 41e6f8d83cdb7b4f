//! The token of the HTTP endpoints.

use std::ffi::OsString;

use super::secret::{Given, given};
use super::{BadSetting, WITHOUT_FLAG};
use crate::telemetry::http::Token;

const TOKEN: &str = WITHOUT_FLAG[0];
const TOKEN_FILE: &str = WITHOUT_FLAG[1];

/// The token that the environment gives, where it gives one.
pub(super) fn http_token(variable: impl Fn(&str) -> Option<OsString>) -> Result<Option<Token>, BadSetting> {
    let token = match given(variable, TOKEN, TOKEN_FILE)? {
        None => return Ok(None),
        Some(Given::Variable(text)) => Token::new(text.to_str().unwrap_or_default())
            .map_err(|allowed| BadSetting::new(TOKEN, "", allowed)),
        Some(Given::File(file, text)) => Token::new(&text)
            .map_err(|allowed| BadSetting::new(TOKEN_FILE, file.display(), format!("its text {allowed}"))),
    };
    token.map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "correct-horse-battery";

    fn of(token: &str, file: &str) -> Result<Option<Token>, String> {
        let found = http_token(|name| match name {
            TOKEN => Some(token.into()),
            TOKEN_FILE => Some(file.into()),
            _ => None,
        });
        found.map_err(|problem| problem.to_string())
    }

    #[test]
    fn it_comes_from_a_variable_or_a_file_and_is_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(at("good"), format!("{SECRET}\n")).unwrap();
        std::fs::write(at("long"), "x".repeat(10_000)).unwrap();
        std::fs::write(at("empty"), "\n").unwrap();
        std::fs::write(at("bytes"), [0xff; 20]).unwrap();
        assert!(of("", "").unwrap().is_none(), "an empty variable is none");
        for (token, file) in [(SECRET, ""), ("", &*at("good"))] {
            let token = of(token, file).unwrap().unwrap();
            assert!(!format!("{token:?}").contains(SECRET));
        }
        for (token, file, words) in [
            ("short", "", "KINETIDE_HTTP_TOKEN: must be 16 to 512"),
            ("a secret with spaces", "", "KINETIDE_HTTP_TOKEN: must be"),
            (SECRET, &*at("good"), "KINETIDE_HTTP_TOKEN: set this or KINETIDE_HTTP_TOKEN_FILE, not both"),
            ("", &*at("long"), "its text must be 16 to 512"),
            ("", &*at("empty"), "its text must be"),
            ("", &*at("bytes"), "cannot be read: "),
            ("", &*at("none"), "cannot be read: No such file"),
            ("", &*at(""), "cannot be read: Is a directory"),
        ] {
            let problem = of(token, file).unwrap_err();
            assert!(problem.starts_with("KINETIDE_HTTP_TOKEN") && problem.contains(words), "{problem}");
            assert!(token.is_empty() || !problem.contains(token), "{problem}");
        }
    }
}
