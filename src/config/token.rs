//! The token of the HTTP endpoints. It comes from a variable or a file and never from a flag: everybody on a host can read
//! those.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;

use super::{BadSetting, WITHOUT_FLAG};
use crate::cause::chain;
use crate::telemetry::http::Token;

const TOKEN: &str = WITHOUT_FLAG[0];
const TOKEN_FILE: &str = WITHOUT_FLAG[1];

/// More than any token has.
const FILE_BYTES: u64 = 4096;

/// The token that the environment gives, where it gives one.
pub(super) fn http_token(variable: impl Fn(&str) -> Option<OsString>) -> Result<Option<Token>, BadSetting> {
    let given = |name| variable(name).filter(|value| !value.is_empty());
    match (given(TOKEN), given(TOKEN_FILE)) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(BadSetting::new(TOKEN, "", format!("set this or {TOKEN_FILE}, not both"))),
        (Some(text), None) => {
            let token = Token::new(text.to_str().unwrap_or_default());
            token.map(Some).map_err(|allowed| BadSetting::new(TOKEN, "", allowed))
        }
        (None, Some(file)) => {
            let wrong = |allowed| BadSetting::new(TOKEN_FILE, file.display(), allowed);
            let text = read(&file).map_err(|error| wrong(format!("cannot be read: {}", chain(&error))))?;
            let token = Token::new(text.trim_end_matches(['\n', '\r']));
            token.map(Some).map_err(|allowed| wrong(format!("its text {allowed}")))
        }
    }
}

fn read(file: &OsStr) -> std::io::Result<String> {
    let mut text = String::new();
    File::open(file)?.take(FILE_BYTES).read_to_string(&mut text)?;
    Ok(text)
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
