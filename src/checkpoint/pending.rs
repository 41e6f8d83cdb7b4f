//! A batch between prepare and commit: what the lease row says of it, and the bytes of `pendingCheckpointState`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::keys::{Short, lengthen, shorten};
use crate::batch::Content;
use crate::lease::Pending;
use crate::shard::{Checkpoint, Position, RecordId, SequenceNumber};

/// The newest version of the bytes that this build understands.
const VERSION: u32 = 3;
/// Version of [`PendingFormat::Two`].
const VERSION_OF_PROOF: u32 = 3;
/// Versions of [`PendingFormat::One`]: of a batch that is whole in the lake, so that builds before `streamed` understand
/// it, and of one with rows for a delivery stream, which they must not take for such a batch.
const VERSION_OF_LAKE: u32 = 1;
const VERSION_OF_STREAM: u32 = 2;

/// How every description starts, so that a damaged one is still known to be ours.
const MARK: &[u8] = b"{\"kinetide\":";

/// How the records of the stream become those that a batch counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Unpacking {
    /// Each is one of them: none of them packs others, or the build that made the batch did not look. The batch covers its
    /// first and last record whole.
    #[default]
    Whole,
    /// Those of the Kinesis Producer Library are unpacked, and there is one among them. Positions have an index then.
    Kpl,
}

impl Unpacking {
    const ALL: [Self; 2] = [Self::Whole, Self::Kpl];

    /// Its name in descriptions and transform ids: what is unpacked, and in which way.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Kpl => "kpl1",
        }
    }

    /// Of a batch, some of whose records are unpacked or none.
    pub fn of(unpacked: bool) -> Self {
        if unpacked { Self::Kpl } else { Self::Whole }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|unpacking| unpacking.as_str() == text)
    }
}

/// What is written; both are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PendingFormat {
    /// Positions, transform and object keys: what builds before [`PendingFormat::Two`] understand.
    One,
    /// With a proof of each object, the lake, and how records are unpacked.
    Two,
}

/// How far a pending batch had come when its description was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// `objects` are being created.
    Deliver,
    /// Another transform made `sealed`; they are being sealed, after which the missing rows get new objects.
    Seal,
}

/// A batch between prepare and commit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PendingBatch {
    /// Its first record.
    pub first: Position,
    /// Its last record; also the row's `pendingCheckpoint`.
    pub last: Position,
    /// Id of the transform (name, version, options) that built `objects`.
    pub transform: String,
    /// 0, and one more for each repair. Part of the object keys, so that no key is ever used for two contents.
    pub generation: u32,
    /// How far it had come.
    pub stage: Stage,
    /// Keys of the objects that hold its rows. Empty while sealing.
    pub objects: Vec<String>,
    /// Keys of earlier generations, which nobody may write any more; rows found there are not written again.
    pub sealed: Vec<String>,
    /// True when the batch ends a closed shard.
    pub shard_end: bool,
    /// True when some of its rows are in no object: they go to a delivery stream, where nobody can look for them.
    pub streamed: bool,
    /// How records become its records. Anything but [`Unpacking::Whole`] needs a `proof`: builds that do not know
    /// [`PendingFormat::Two`] do not unpack either.
    pub unpacking: Unpacking,
    /// What tells its objects from others, in [`PendingFormat::Two`].
    pub proof: Option<Proof>,
}

/// What tells the objects of a batch from others under the same keys.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Proof {
    /// The lake that it was prepared for.
    pub lake: String,
    /// What each of its `objects` holds, in their order.
    pub contents: Vec<Content>,
}

/// Why pending bytes that are ours cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum PendingError {
    /// Written by a newer kinetide.
    #[error(
        "the pending batch was written in format {0}, this build understands {VERSION}: run the newer version"
    )]
    Newer(u32),
    /// Its records were unpacked in a way that this build does not know.
    #[error(
        "the records of the pending batch were unpacked as {0:?}, which this build cannot do: run the build that does"
    )]
    Unpacking(String),
    /// Ours and damaged.
    #[error("the pending batch cannot be read: {0}")]
    Damaged(String),
}

/// [`PendingFormat::One`]. A newer build that adds a member raises [`VERSION`]; here, an unknown one is damage.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    kinetide: u32,
    first: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    first_sub: u64,
    last: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    last_sub: u64,
    transform: String,
    #[serde(default)]
    generation: u32,
    stage: Stage,
    #[serde(default)]
    objects: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    sealed: Vec<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    shard_end: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    streamed: bool,
}

/// [`PendingFormat::Two`].
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireOfProof {
    kinetide: u32,
    first: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    first_sub: u64,
    last: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    last_sub: u64,
    transform: String,
    unpacking: String,
    lake: String,
    generation: u32,
    stage: Stage,
    /// Key, rows, hash in hexadecimal digits.
    objects: Vec<(usize, String, usize, u64, String)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    sealed: Vec<Short>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    shard_end: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    streamed: bool,
}

#[derive(Deserialize)]
struct Marker {
    kinetide: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn damaged(reason: &str) -> PendingError {
    PendingError::Damaged(reason.to_owned())
}

fn position(digits: &str, sub: u64) -> Result<Position, PendingError> {
    let sequence = SequenceNumber::parse(digits).ok_or_else(|| damaged("not a sequence number"))?;
    Ok(Position { sequence, sub })
}

impl PendingBatch {
    /// Its last record; whole, with all that is in it, where none was unpacked.
    pub fn end(&self) -> RecordId {
        let sub = (self.unpacking != Unpacking::Whole).then_some(self.last.sub);
        RecordId { sequence: self.last.sequence.clone(), sub }
    }

    /// As the pending trio of a lease row.
    pub fn to_pending(&self) -> Pending {
        debug_assert!(self.proof.is_some() || self.unpacking == Unpacking::Whole);
        let bytes = match &self.proof {
            None => serde_json::to_vec(&self.to_wire()),
            Some(proof) => serde_json::to_vec(&self.to_wire_of(proof)),
        };
        let bytes = bytes.expect("text, numbers and lists always serialize");
        Pending { checkpoint: Checkpoint::At(self.last.clone()), state: Some(Arc::from(bytes)) }
    }

    fn to_wire(&self) -> Wire {
        Wire {
            kinetide: if self.streamed { VERSION_OF_STREAM } else { VERSION_OF_LAKE },
            first: self.first.sequence.as_str().to_owned(),
            first_sub: self.first.sub,
            last: self.last.sequence.as_str().to_owned(),
            last_sub: self.last.sub,
            transform: self.transform.clone(),
            generation: self.generation,
            stage: self.stage,
            objects: self.objects.clone(),
            sealed: self.sealed.clone(),
            shard_end: self.shard_end,
            streamed: self.streamed,
        }
    }

    fn to_wire_of(&self, proof: &Proof) -> WireOfProof {
        debug_assert_eq!(self.objects.len(), proof.contents.len());
        let objects = shorten(&self.objects).into_iter().zip(&proof.contents);
        let object = |((start, text, end), content): (Short, &Content)| {
            (start, text, end, content.rows, format!("{:016x}", content.hash))
        };
        WireOfProof {
            kinetide: VERSION_OF_PROOF,
            first: self.first.sequence.as_str().to_owned(),
            first_sub: self.first.sub,
            last: self.last.sequence.as_str().to_owned(),
            last_sub: self.last.sub,
            transform: self.transform.clone(),
            unpacking: self.unpacking.as_str().to_owned(),
            lake: proof.lake.clone(),
            generation: self.generation,
            stage: self.stage,
            objects: objects.map(object).collect(),
            sealed: shorten(&self.sealed),
            shard_end: self.shard_end,
            streamed: self.streamed,
        }
    }

    /// Reads a row's pending trio. `None`: not prepared by kinetide, to be treated as KCL does, by going on from
    /// `checkpoint`.
    ///
    /// # Errors
    /// When the bytes are ours and cannot be used; the shard must wait for a person then.
    pub fn from_pending(pending: &Pending) -> Result<Option<Self>, PendingError> {
        let Some(state) = &pending.state else { return Ok(None) };
        let kinetide = match serde_json::from_slice(state) {
            Ok(Marker { kinetide }) => kinetide,
            // Going on from `checkpoint` would write the rows of this batch once more.
            Err(_) if state.starts_with(MARK) => return Err(damaged("its version is not readable")),
            Err(_) => return Ok(None),
        };
        let batch = match kinetide {
            VERSION_OF_PROOF => Self::from_wire_of_proof(state)?,
            ..VERSION_OF_PROOF => Self::from_wire(state)?,
            _ => return Err(PendingError::Newer(kinetide)),
        };
        if batch.first > batch.last {
            return Err(damaged("it ends before it starts"));
        }
        if pending.checkpoint != Checkpoint::At(batch.last.clone()) {
            return Err(damaged("it does not end at pendingCheckpoint"));
        }
        Ok(Some(batch))
    }

    fn from_wire(state: &[u8]) -> Result<Self, PendingError> {
        let wire: Wire = serde_json::from_slice(state).map_err(|e| damaged(&e.to_string()))?;
        Ok(Self {
            first: position(&wire.first, wire.first_sub)?,
            last: position(&wire.last, wire.last_sub)?,
            transform: wire.transform,
            generation: wire.generation,
            stage: wire.stage,
            objects: wire.objects,
            sealed: wire.sealed,
            shard_end: wire.shard_end,
            streamed: wire.streamed,
            unpacking: Unpacking::Whole,
            proof: None,
        })
    }

    fn from_wire_of_proof(state: &[u8]) -> Result<Self, PendingError> {
        let wire: WireOfProof = serde_json::from_slice(state).map_err(|e| damaged(&e.to_string()))?;
        let Some(unpacking) = Unpacking::parse(&wire.unpacking) else {
            return Err(PendingError::Unpacking(wire.unpacking));
        };
        let keys =
            |short: Option<Vec<String>>| short.ok_or_else(|| damaged("its object keys cannot be read"));
        let objects = wire.objects.iter().map(|(start, text, end, ..)| (*start, text.as_str(), *end));
        let sealed = wire.sealed.iter().map(|(start, text, end)| (*start, text.as_str(), *end));
        let content = |(.., rows, hash): &(usize, String, usize, u64, String)| {
            let hash = u64::from_str_radix(hash, 16)
                .map_err(|_| damaged("the hash of an object is not readable"))?;
            Ok(Content { rows: *rows, hash })
        };
        Ok(Self {
            first: position(&wire.first, wire.first_sub)?,
            last: position(&wire.last, wire.last_sub)?,
            transform: wire.transform,
            generation: wire.generation,
            stage: wire.stage,
            objects: keys(lengthen(objects))?,
            sealed: keys(lengthen(sealed))?,
            shard_end: wire.shard_end,
            streamed: wire.streamed,
            unpacking,
            proof: Some(Proof {
                lake: wire.lake,
                contents: wire.objects.iter().map(content).collect::<Result<_, PendingError>>()?,
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pending(state: Option<&[u8]>, last: u128) -> Pending {
        Pending { checkpoint: Checkpoint::At(Position::new(last.into())), state: state.map(Arc::from) }
    }

    #[test]
    fn foreign_state_is_left_to_kcl_rules() {
        for state in [None, Some(&b""[..]), Some(b"{\"app\":1}"), Some(b"\xff\xfe"), Some(b"[]")] {
            assert_eq!(PendingBatch::from_pending(&pending(state, 1)), Ok(None));
        }
    }

    #[test]
    fn what_is_ours_and_unusable_says_why() {
        let newer = PendingBatch::from_pending(&pending(Some(b"{\"kinetide\":4,\"x\":[]}"), 1));
        assert_eq!(newer, Err(PendingError::Newer(4)));
        let damaged = PendingBatch::from_pending(&pending(Some(b"{\"kinetide\":1}"), 1));
        assert!(matches!(damaged, Err(PendingError::Damaged(_))));
        for cut in [&b"{\"kinetide\":"[..], b"{\"kinetide\":1,\"first\":\"1", b"{\"kinetide\":-1}"] {
            let damaged = PendingBatch::from_pending(&pending(Some(cut), 1));
            assert!(matches!(damaged, Err(PendingError::Damaged(_))), "{damaged:?}");
        }
    }

    #[test]
    fn the_end_must_be_the_pending_checkpoint() {
        let batch = PendingBatch {
            first: Position::new(1.into()),
            last: Position::new(5.into()),
            transform: "json/1/0".into(),
            generation: 0,
            stage: Stage::Deliver,
            objects: vec!["a".into()],
            sealed: vec![],
            shard_end: false,
            streamed: false,
            unpacking: Unpacking::Whole,
            proof: None,
        };
        let mut row = batch.to_pending();
        let mut written = row.state.clone().unwrap().to_vec();
        assert!(written.starts_with(MARK));
        written.splice(1..1, *b"\"x\":1,");
        let unknown = Pending { state: Some(written.into()), ..row.clone() };
        assert!(matches!(PendingBatch::from_pending(&unknown), Err(PendingError::Damaged(_))));
        row.checkpoint = Checkpoint::At(Position::new(6.into()));
        assert!(matches!(PendingBatch::from_pending(&row), Err(PendingError::Damaged(_))));
    }

    const HASH: &str = "0123456789abcdef";

    fn with_proof(state: &str) -> Result<Option<PendingBatch>, PendingError> {
        PendingBatch::from_pending(&pending(Some(state.as_bytes()), 5))
    }

    /// Builds to come must read it.
    #[test]
    fn the_description_with_proof_is_pinned() {
        let state = format!(
            r#"{{"kinetide":3,"first":"1","last":"5","transform":"json/1/0","unpacking":"whole","lake":"s3://lake/raw","generation":1,"stage":"deliver","objects":[[0,"landing/hour=09/t-1-5-r1.ndjson.gz",0,4,"{HASH}"],[13,"10",19,1,"00000000000000ff"]],"sealed":[[0,"landing/hour=09/t-1-5.ndjson.gz",0]],"shard_end":true,"streamed":true}}"#
        );
        let batch = with_proof(&state).unwrap().unwrap();
        assert_eq!(
            batch.objects,
            ["landing/hour=09/t-1-5-r1.ndjson.gz", "landing/hour=10/t-1-5-r1.ndjson.gz"]
        );
        assert_eq!(batch.sealed, ["landing/hour=09/t-1-5.ndjson.gz"]);
        assert!(batch.shard_end && batch.streamed);
        let proof = batch.proof.as_ref().unwrap();
        assert_eq!(proof.lake, "s3://lake/raw");
        let contents = [Content { rows: 4, hash: 0x0123_4567_89ab_cdef }, Content { rows: 1, hash: 0xff }];
        assert_eq!(proof.contents, contents);
        assert_eq!(batch.to_pending().state.as_deref().unwrap(), state.as_bytes());
    }

    #[test]
    fn a_proof_that_cannot_be_used_says_why() {
        let state = |unpacking: &str, object: &str| {
            format!(
                r#"{{"kinetide":3,"first":"1","last":"5","transform":"t","unpacking":"{unpacking}","lake":"l","generation":0,"stage":"deliver","objects":[{object}]}}"#
            )
        };
        assert!(with_proof(&state("whole", &format!(r#"[0,"a",0,1,"{HASH}"]"#))).unwrap().is_some());
        assert_eq!(with_proof(&state("kpl1", "")).unwrap().unwrap().unpacking, Unpacking::Kpl);
        assert_eq!(with_proof(&state("kpl2", "")), Err(PendingError::Unpacking("kpl2".into())));
        for object in
            [r#"[0,"a",0,1,"g"]"#, r#"[0,"a",0,1]"#, r#""a""#, r#"[1,"a",0,1,"0"]"#, r#"[0,"a",0,-1,"0"]"#]
        {
            assert!(matches!(with_proof(&state("whole", object)), Err(PendingError::Damaged(_))), "{object}");
        }
    }

    proptest! {
        #[test]
        fn any_batch_survives_the_table(
            first in 0u128..1 << 100, length in 0u128..1 << 100, sub: u64, generation: u32, shard_end: bool,
            seal: bool, streamed: bool, objects in prop::collection::vec((".{0,40}", any::<(u64, u64)>()), 0..4),
            sealed in prop::collection::vec(".{0,40}", 0..4), lake in prop::option::of(".{0,20}"), unpacked: bool,
        ) {
            let contents = objects.iter().map(|(_, (rows, hash))| Content { rows: *rows, hash: *hash }).collect();
            let batch = PendingBatch {
                first: Position::new(first.into()),
                last: Position { sequence: (first + length).into(), sub },
                transform: "crypto-transactions/1/abc".into(),
                generation,
                stage: if seal { Stage::Seal } else { Stage::Deliver },
                objects: objects.into_iter().map(|(key, _)| key).collect(),
                sealed,
                shard_end,
                streamed,
                unpacking: Unpacking::of(unpacked && lake.is_some()),
                proof: lake.map(|lake| Proof { lake, contents }),
            };
            let pending = batch.to_pending();
            // Builds before `streamed` know version 1: they wait where they would take the objects for the whole batch.
            let written = pending.state.as_deref().unwrap();
            let version = if batch.proof.is_some() { 3 } else if streamed { 2 } else { 1 };
            let start = format!("{{\"kinetide\":{version},");
            prop_assert!(written.starts_with(start.as_bytes()));
            prop_assert_eq!(PendingBatch::from_pending(&pending), Ok(Some(batch)));
        }

        #[test]
        fn any_bytes_are_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = PendingBatch::from_pending(&pending(Some(&bytes), 1));
        }
    }
}
