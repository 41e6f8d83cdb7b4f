//! Identity of a transform: two workers may finish each other's batches only when it is equal.

use std::fmt;
use std::str::FromStr;

const NAME_BYTES_MAX: usize = 64;

/// Name, version and options of a transform. Rows of the same records are equal when this is equal.
/// Written as `crypto-transactions/1/9f3ac2d1`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TransformId {
    name: String,
    version: u32,
    fingerprint: u32,
}

impl TransformId {
    /// `version` counts the changes of the code that change rows; `options` is the canonical text of the settings.
    ///
    /// # Errors
    /// When the name is not 1 to 64 letters, digits, `-`, `_` and `.`.
    pub fn new(name: &str, version: u32, options: &str) -> Result<Self, InvalidTransformName> {
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if !plain || !(1..=NAME_BYTES_MAX).contains(&name.len()) {
            return Err(InvalidTransformName(name.to_owned()));
        }
        let hash = fnv1a(options.as_bytes());
        #[expect(clippy::cast_possible_truncation, reason = "both halves of the hash go in")]
        let fingerprint = (hash ^ (hash >> 32)) as u32;
        Ok(Self { name: name.to_owned(), version, fingerprint })
    }

    /// Name of the transform.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for TransformId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{:08x}", self.name, self.version, self.fingerprint)
    }
}

/// A transform cannot have this name: it is part of texts that are taken apart again.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} cannot be the name of a transform: use 1 to 64 letters, digits, '-', '_' and '.'")]
pub struct InvalidTransformName(String);

/// The text is not `name/version/fingerprint`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a transform id: expected name/version/fingerprint")]
pub struct InvalidTransformId;

impl FromStr for TransformId {
    type Err = InvalidTransformId;

    fn from_str(text: &str) -> Result<Self, InvalidTransformId> {
        let mut parts = text.splitn(3, '/');
        let (Some(name), Some(version), Some(fingerprint)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(InvalidTransformId);
        };
        let id = Self {
            name: name.to_owned(),
            version: version.parse().map_err(|_| InvalidTransformId)?,
            fingerprint: u32::from_str_radix(fingerprint, 16).map_err(|_| InvalidTransformId)?,
        };
        // Only the spelling that `Display` writes, so that equal text and equal ids are the same thing.
        if name.is_empty() || id.to_string() != text { Err(InvalidTransformId) } else { Ok(id) }
    }
}

/// FNV-1a, 64 bits: small, and the same everywhere and forever, which `std`'s hasher does not promise.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &b| (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_its_text() {
        let id = TransformId::new("crypto-transactions", 1, "{}").unwrap();
        assert_eq!(id.to_string().parse(), Ok(id.clone()));
        assert_ne!(Ok(id), TransformId::new("crypto-transactions", 1, "{ }"));
        for name in ["", "a/b", "a+b", "a b", "ü", &"a".repeat(65)] {
            assert!(TransformId::new(name, 1, "").is_err(), "{name}");
        }
        for text in
            ["", "a", "a/1", "/1/00000000", "a/1/0", "a/01/00000000", "a/1/0000000G", "a/1/00000000/x"]
        {
            assert_eq!(text.parse::<TransformId>(), Err(InvalidTransformId), "{text}");
        }
    }

    #[test]
    fn fnv1a_matches_its_published_vectors() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
