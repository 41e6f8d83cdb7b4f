//! The secret that opens `/` and `/api/*`.

use std::fmt;

use subtle::ConstantTimeEq;

/// Shorter ones can be guessed.
const CHARS_MIN: usize = 16;
/// A request's head has room for more than this.
const CHARS_MAX: usize = 512;

/// A secret. It is shown nowhere, also where all settings are.
#[derive(Clone)]
pub struct Token(Box<str>);

impl Token {
    /// Takes visible ASCII characters, as headers can carry them.
    ///
    /// # Errors
    /// What a token must be; it says nothing of this one.
    pub fn new(text: &str) -> Result<Self, String> {
        let fits = (CHARS_MIN..=CHARS_MAX).contains(&text.len());
        if fits && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Ok(Self(text.into()));
        }
        Err(format!(
            "must be {CHARS_MIN} to {CHARS_MAX} visible ASCII characters without spaces, such as the output of `openssl \
             rand -hex 32` (its value is not shown)"
        ))
    }

    /// Whether this is the secret. How long that takes tells its length at most.
    pub(super) fn is(&self, given: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(given).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_long_and_plain_and_never_shown() {
        let text = "correct-horse-battery";
        let token = Token::new(text).unwrap();
        assert!(token.is(text.as_bytes()));
        for other in ["", "correct-horse-batter", "correct-horse-batterz", "correct-horse-battery1"] {
            assert!(!token.is(other.as_bytes()), "{other}");
        }
        assert_eq!(format!("{token:?}"), "(secret)");
        for wrong in [
            "",
            "short-secret",
            "with a space in it",
            "kräftiges-geheimnis",
            "two\nlines-of-secret",
            &"x".repeat(513),
        ] {
            let refused = Token::new(wrong).unwrap_err();
            assert!(wrong.is_empty() || !refused.contains(wrong), "{refused}");
        }
    }
}
