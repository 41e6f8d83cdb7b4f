//! The bytes of `pendingCheckpointState`: a small versioned description of the batch that is under way.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::lease::Pending;
use crate::shard::{Checkpoint, Position, SequenceNumber};

/// The newest version of the description that this build understands.
const VERSION: u32 = 2;
/// What is written of a batch that is whole in the lake, so that builds before `streamed` understand it. One with rows
/// for a delivery stream they must not take for such a batch.
const VERSION_OF_LAKE: u32 = 1;

/// How every description starts, so that a damaged one is still known to be ours.
const MARK: &[u8] = b"{\"kinetide\":";

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
}

/// Why pending bytes that are ours cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum PendingError {
    /// Written by a newer kinetide.
    #[error(
        "the pending batch was written in format {0}, this build understands {VERSION}: run the newer version"
    )]
    Newer(u32),
    /// Ours and damaged.
    #[error("the pending batch cannot be read: {0}")]
    Damaged(String),
}

/// A newer build that adds a member raises [`VERSION`]; here, an unknown one is damage.
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

#[derive(Deserialize)]
struct Marker {
    kinetide: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl PendingBatch {
    /// As the pending trio of a lease row.
    pub fn to_pending(&self) -> Pending {
        let wire = Wire {
            kinetide: if self.streamed { VERSION } else { VERSION_OF_LAKE },
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
        };
        let bytes = serde_json::to_vec(&wire).expect("text, numbers and lists always serialize");
        Pending { checkpoint: Checkpoint::At(self.last.clone()), state: Some(Arc::from(bytes)) }
    }

    /// Reads a row's pending trio. `None`: not prepared by kinetide, to be treated as KCL does, by going on from
    /// `checkpoint`.
    ///
    /// # Errors
    /// When the bytes are ours and cannot be used; the shard must wait for a person then.
    pub fn from_pending(pending: &Pending) -> Result<Option<Self>, PendingError> {
        let Some(state) = &pending.state else { return Ok(None) };
        let damaged = |reason: &str| PendingError::Damaged(reason.to_owned());
        let kinetide = match serde_json::from_slice(state) {
            Ok(Marker { kinetide }) => kinetide,
            // Going on from `checkpoint` would write the rows of this batch once more.
            Err(_) if state.starts_with(MARK) => return Err(damaged("its version is not readable")),
            Err(_) => return Ok(None),
        };
        if kinetide > VERSION {
            return Err(PendingError::Newer(kinetide));
        }
        let wire: Wire = serde_json::from_slice(state).map_err(|e| PendingError::Damaged(e.to_string()))?;
        let position = |digits: &str, sub| {
            let sequence = SequenceNumber::parse(digits).ok_or_else(|| damaged("not a sequence number"))?;
            Ok(Position { sequence, sub })
        };
        let batch = Self {
            first: position(&wire.first, wire.first_sub)?,
            last: position(&wire.last, wire.last_sub)?,
            transform: wire.transform,
            generation: wire.generation,
            stage: wire.stage,
            objects: wire.objects,
            sealed: wire.sealed,
            shard_end: wire.shard_end,
            streamed: wire.streamed,
        };
        if batch.first > batch.last {
            return Err(damaged("it ends before it starts"));
        }
        if pending.checkpoint != Checkpoint::At(batch.last.clone()) {
            return Err(damaged("it does not end at pendingCheckpoint"));
        }
        Ok(Some(batch))
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
        let newer = PendingBatch::from_pending(&pending(Some(b"{\"kinetide\":3,\"x\":[]}"), 1));
        assert_eq!(newer, Err(PendingError::Newer(3)));
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

    proptest! {
        #[test]
        fn any_batch_survives_the_table(
            first in 0u128..1 << 100, length in 0u128..1 << 100, sub: u64, generation: u32, shard_end: bool,
            seal: bool, streamed: bool, objects in prop::collection::vec(".{0,40}", 0..4), sealed in prop::collection::vec(".{0,40}", 0..4),
        ) {
            let batch = PendingBatch {
                first: Position::new(first.into()),
                last: Position { sequence: (first + length).into(), sub },
                transform: "crypto-transactions/1/abc".into(),
                generation,
                stage: if seal { Stage::Seal } else { Stage::Deliver },
                objects,
                sealed,
                shard_end,
                streamed,
            };
            let pending = batch.to_pending();
            // Builds before `streamed` know version 1: they wait where they would take the objects for the whole batch.
            let written = pending.state.as_deref().unwrap();
            prop_assert_eq!(written.starts_with(b"{\"kinetide\":2,"), streamed);
            prop_assert_eq!(PendingBatch::from_pending(&pending), Ok(Some(batch)));
        }

        #[test]
        fn any_bytes_are_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = PendingBatch::from_pending(&pending(Some(&bytes), 1));
        }
    }
}
