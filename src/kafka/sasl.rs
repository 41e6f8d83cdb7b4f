//! SCRAM (RFC 5802, RFC 7677) as brokers speak it: what to say, from what was said. Pure.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256, Sha512};
use subtle::ConstantTimeEq;

use super::settings::Mechanism;

/// A broker asks for no fewer rounds, and for more than these only by mistake.
const ROUNDS: std::ops::RangeInclusive<u32> = 4096..=1_000_000;
/// No channel binding.
const BINDING: &str = "n,,";

/// Which hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ScramHash {
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl ScramHash {
    fn hmac(self, key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
        fn one<M: Mac + KeyInit>(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
            let mut mac = <M as KeyInit>::new_from_slice(key).expect("a key of any length is taken");
            parts.iter().for_each(|part| mac.update(part));
            mac.finalize().into_bytes().to_vec()
        }
        match self {
            Self::Sha256 => one::<Hmac<Sha256>>(key, parts),
            Self::Sha512 => one::<Hmac<Sha512>>(key, parts),
        }
    }

    fn hash(self, data: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha256 => Sha256::digest(data).to_vec(),
            Self::Sha512 => Sha512::digest(data).to_vec(),
        }
    }

    /// `Hi` of the RFC: PBKDF2 with one block.
    fn stretched(self, password: &[u8], salt: &[u8], rounds: u32) -> Vec<u8> {
        let mut last = self.hmac(password, &[salt, &1u32.to_be_bytes()]);
        let mut all = last.clone();
        for _ in 1..rounds {
            last = self.hmac(password, &[&last]);
            all.iter_mut().zip(&last).for_each(|(all, last)| *all ^= last);
        }
        all
    }
}

/// Why a proof went wrong.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ScramError(&'static str);

impl fmt::Display for ScramError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// A proof under way.
pub(super) struct Scram<'a> {
    hash: ScramHash,
    /// Name and nonce, as they are first said.
    bare: String,
    nonce: &'a str,
    password: &'a str,
}

/// What the broker has to say in the end: it knows the user too.
pub(super) struct Expected(Vec<u8>);

impl<'a> Scram<'a> {
    /// A proof of this user. `nonce`: letters that were never used before.
    pub(super) fn new(mechanism: Mechanism, user: &str, password: &'a str, nonce: &'a str) -> Self {
        let hash = match mechanism {
            Mechanism::ScramSha512 => ScramHash::Sha512,
            _ => ScramHash::Sha256,
        };
        let user = user.replace('=', "=3D").replace(',', "=2C");
        Self { hash, bare: format!("n={user},r={nonce}"), nonce, password }
    }

    /// What is said first.
    pub(super) fn first(&self) -> String {
        format!("{BINDING}{}", self.bare)
    }

    /// What is said to the broker's challenge.
    ///
    /// # Errors
    /// When the challenge is none, or is not for us.
    pub(super) fn answer(&self, challenge: &[u8]) -> Result<(String, Expected), ScramError> {
        let bad = ScramError("its challenge is not one of SCRAM");
        let Ok(challenge) = std::str::from_utf8(challenge) else { return Err(bad) };
        let (mut nonce, mut salt, mut rounds) = (None, None, None);
        for part in challenge.split(',') {
            match part.split_once('=') {
                Some(("r", text)) => nonce = Some(text),
                Some(("s", text)) => salt = base64_simd::STANDARD.decode_to_vec(text).ok(),
                Some(("i", text)) => rounds = text.parse::<u32>().ok(),
                _ => {}
            }
        }
        let (Some(nonce), Some(salt), Some(rounds)) = (nonce, salt, rounds) else { return Err(bad) };
        if !nonce.starts_with(self.nonce) || nonce.len() == self.nonce.len() {
            return Err(ScramError("its challenge is not an answer to what was said"));
        }
        if !ROUNDS.contains(&rounds) {
            return Err(ScramError("its challenge asks for too few or too many rounds"));
        }
        let salted = self.hash.stretched(self.password.as_bytes(), &salt, rounds);
        let bound = format!("c={},r={nonce}", base64_simd::STANDARD.encode_to_string(BINDING));
        let all = format!("{},{challenge},{bound}", self.bare);
        let client_key = self.hash.hmac(&salted, &[b"Client Key"]);
        let signature = self.hash.hmac(&self.hash.hash(&client_key), &[all.as_bytes()]);
        let proof: Vec<u8> = client_key.iter().zip(&signature).map(|(key, sign)| key ^ sign).collect();
        let server_key = self.hash.hmac(&salted, &[b"Server Key"]);
        let expected = Expected(self.hash.hmac(&server_key, &[all.as_bytes()]));
        Ok((format!("{bound},p={}", base64_simd::STANDARD.encode_to_string(proof)), expected))
    }
}

impl Expected {
    /// Whether the broker knows the user.
    ///
    /// # Errors
    /// When it does not show that.
    pub(super) fn check(&self, last: &[u8]) -> Result<(), ScramError> {
        let said = std::str::from_utf8(last).ok().and_then(|last| last.strip_prefix("v="));
        let said = said.and_then(|said| said.split(',').next());
        let said = said.and_then(|said| base64_simd::STANDARD.decode_to_vec(said).ok());
        let proven = said.is_some_and(|said| bool::from(said.ct_eq(&self.0)));
        if proven { Ok(()) } else { Err(ScramError("does not prove that it knows this user")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7677.
    #[test]
    fn the_example_of_the_rfc() {
        let scram = Scram::new(Mechanism::ScramSha256, "user", "pencil", "rOprNGfwEbeRWgbNEkqO");
        assert_eq!(scram.first(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let challenge =
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let (said, expected) = scram.answer(challenge.as_bytes()).unwrap();
        assert_eq!(
            said,
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        assert_eq!(expected.check(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="), Ok(()));
        for wrong in ["v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5=", "v=", "", "e=other-error"] {
            assert!(expected.check(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn challenges_that_are_none_are_refused() {
        let scram = Scram::new(Mechanism::ScramSha512, "a=b,c", "p", "nonce");
        assert_eq!(scram.first(), "n,,n=a=3Db=2Cc,r=nonce");
        for wrong in [
            "",
            "r=other,s=aaaa,i=4096",
            "r=nonce,s=aaaa,i=4096",
            "r=nonceX,s=?,i=4096",
            "r=nonceX,s=aaaa",
            "r=nonceX,s=aaaa,i=1",
            "r=nonceX,s=aaaa,i=99999999",
        ] {
            assert!(scram.answer(wrong.as_bytes()).is_err(), "{wrong}");
        }
        assert!(scram.answer(b"r=nonceX,s=aaaa,i=4096").is_ok());
    }
}
