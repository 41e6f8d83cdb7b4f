//! The key of a provider's account. It comes from a variable or a file, is read again when the provider refuses it, and is
//! never shown.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use crate::cause::chain;

/// More than any key has.
const FILE_BYTES: u64 = 4096;

/// A key, hidden from logs and messages.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<str>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Secret {
    /// A key as people paste it: without the white space around it.
    ///
    /// # Errors
    /// When it cannot stand in a header.
    pub fn new(text: &str) -> Result<Self, &'static str> {
        let text = text.trim();
        if text.is_empty() {
            return Err("it is empty");
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("it holds other characters than letters, digits and signs");
        }
        Ok(Self(text.into()))
    }

    /// The key itself, for the header of a request.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

/// Where the key comes from.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// There is none.
    None,
    /// The environment said it when this process was started.
    Given(Secret),
    /// A file, which may be replaced while this process runs.
    File(PathBuf),
}

impl KeySource {
    /// The key as it is now.
    ///
    /// # Errors
    /// When the file cannot be read, or holds no key.
    pub fn read(&self) -> Result<Option<Secret>, String> {
        match self {
            Self::None => Ok(None),
            Self::Given(secret) => Ok(Some(secret.clone())),
            Self::File(path) => {
                let mut text = String::new();
                File::open(path)
                    .and_then(|file| file.take(FILE_BYTES).read_to_string(&mut text))
                    .map_err(|error| format!("cannot be read: {}", chain(&error)))?;
                Secret::new(&text).map(Some).map_err(|problem| format!("is no key: {problem}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_never_shown_and_a_file_is_read_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        let source = KeySource::File(file.clone());
        assert!(source.read().unwrap_err().contains("cannot be read"));
        for (text, expected) in [("CG-abc\n", "CG-abc"), ("  next-key ", "next-key")] {
            std::fs::write(&file, text).unwrap();
            let key = source.read().unwrap().unwrap();
            assert_eq!(key.reveal(), expected);
            assert!(!format!("{key:?} {:?}", KeySource::Given(key.clone())).contains(expected));
        }
        for text in ["", "\n", "two words", "ключ"] {
            std::fs::write(&file, text).unwrap();
            assert!(source.read().unwrap_err().contains("is no key"), "{text:?}");
        }
        std::fs::write(&file, "x".repeat(10_000)).unwrap();
        assert_eq!(source.read().unwrap().unwrap().reveal().len(), 4096);
        assert!(KeySource::None.read().unwrap().is_none());
    }
}
