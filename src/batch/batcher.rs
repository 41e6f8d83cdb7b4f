//! The open batch of one shard.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;

use super::encode::{Encoder, Gzip};
use super::key::{Partition, file_name, key_bytes_max};
use super::pack::Packer;
use super::{Batch, BatchContext, LakeObject};
use crate::fetch::{Payload, Record};
use crate::shard::{Position, SequenceNumber};
use crate::transform::{
    BadRecord, ErrorCode, Panicked, RecordContext, RowInfo, RowMaker, SourceKind, catch, dead_letter_row,
};

/// Bytes of keys in one batch. The item of a lease holds at most 400 KB, and next to the keys what is known of their
/// objects, and the keys of up to two repairs.
const KEYS_BYTES_MAX: usize = 96 << 10;

const DIGITS: &str = "a page has decimal sequence numbers only";

/// Turns the records of one shard into objects, or records of a delivery stream, one open batch at a time. Holds
/// compressed bytes, and rows only where they are packed as they are. Once its buffers have grown it allocates nothing per record.
pub struct Batcher {
    context: Arc<BatchContext>,
    objects_max: usize,
    open: Open,
    maker: RowMaker,
    decoded: Vec<u8>,
    rows: Vec<u8>,
}

/// What belongs to the open batch.
#[derive(Default)]
struct Open {
    first: Option<Position>,
    /// Digits of the last sequence number, in a buffer that is kept, and the index in its aggregate.
    last: String,
    last_sub: u64,
    /// A record was part of an aggregate.
    unpacked: bool,
    records: u64,
    dead_letters: u64,
    rows_bytes: usize,
    /// Earliest and latest.
    arrival_us: Option<(i64, i64)>,
    /// In the order of their first rows.
    objects: Vec<(Partition, Encoder)>,
    /// Where they are in `objects`. The last used is the likely one.
    places: HashMap<Partition, usize>,
    likely: usize,
    packer: Option<Packer>,
    /// There was no room for a compressor.
    cramped: bool,
}

impl Batcher {
    /// An empty batch.
    pub fn new(context: Arc<BatchContext>) -> Self {
        Self {
            objects_max: context.limits.objects_max.min((KEYS_BYTES_MAX / key_bytes_max(&context)).max(1)),
            maker: RowMaker::new(Arc::clone(&context.transform)),
            context,
            open: Open::default(),
            decoded: Vec::new(),
            rows: Vec::new(),
        }
    }

    /// Adds one record: its rows, which may be none and are all in one object, or one dead letter. Records come in the order of the shard; their sequence
    /// numbers must be decimal digits.
    pub fn push(&mut self, record: &Record<'_>) {
        self.push_within(record, false, |_| true);
    }

    /// As [`Batcher::push`], and asks for `room` before it takes memory for a compressor, bytes. When there is none the
    /// rows stay as they are, about as large as their records, and the batch is cramped.
    ///
    /// A record at which the transform panicked is not in the batch. Pushed again as `panicked` it becomes a dead letter;
    /// [`each_record`] does so.
    pub fn push_within(&mut self, record: &Record<'_>, panicked: bool, room: impl FnOnce(usize) -> bool) {
        let context = RecordContext {
            source: self.context.source,
            stream: Some(&self.context.stream),
            shard_id: self.context.shard.as_str(),
            sequence_number: record.sequence_number,
            sub_sequence: record.sub_sequence,
            // The empty one is that of a record without, but in Kafka.
            key: record.key().filter(|key| !key.is_empty() || self.context.source == SourceKind::Kafka),
            arrival_us: record.arrival_us,
            null: record.is_null(),
        };
        let (data, intact) = match record.payload {
            Payload::Plain(data) => (data, true),
            Payload::Base64(text) if decode_base64(text, &mut self.decoded) => (&self.decoded[..], true),
            Payload::Base64(text) => (text, false),
        };
        self.rows.clear();
        let outcome = if panicked {
            self.maker.restart();
            Err(BadRecord::from(ErrorCode::TransformPanicked))
        } else if intact {
            self.maker.make(&context, data, &mut self.rows)
        } else {
            Err(BadRecord::from(ErrorCode::NotBase64))
        };
        // All rows of a record go the same way: a repair that finds one in the lake makes none of them again.
        let packing = self.context.packing.filter(|packing| self.rows.len() <= packing.rows_bytes_max());
        let gzip = self.context.limits.gzip;
        self.open.note(record);
        let roomy = match (outcome, packing) {
            (Ok(RowInfo { rows: 0, .. }), _) => true,
            (Ok(RowInfo { rows, .. }), Some(packing)) => {
                let packer = self.open.packer.get_or_insert_with(|| Packer::new(packing, gzip));
                packer.push(&self.rows, rows, room)
            }
            (Ok(RowInfo { time_us, rows }), None) => {
                self.open.encoder(Partition::of_row(time_us), gzip).push(&self.rows, rows, room)
            }
            (Err(bad), _) => {
                self.open.dead_letters += 1;
                dead_letter_row(&context, &bad, data, &mut self.rows);
                let partition = Partition::of_dead_letter(bad.code, record.arrival_us);
                self.open.encoder(partition, gzip).push(&self.rows, 1, room)
            }
        };
        self.open.rows_bytes += self.rows.len();
        self.open.cramped |= !roomy;
    }

    /// Records since the last call that were not for the quick reader of the transform.
    pub fn take_read_generally(&mut self) -> u64 {
        self.maker.take_read_generally()
    }

    /// True when no record is in the batch.
    pub fn is_empty(&self) -> bool {
        self.open.records == 0
    }

    /// True when the batch should be closed before the next record.
    pub fn is_full(&self) -> bool {
        self.open.rows_bytes >= self.context.limits.rows_bytes_max || self.is_crowded()
    }

    /// True when the batch should be closed before this record.
    ///
    /// An aggregate stays in one batch as long as there is room for twice the rows. A batch never ends at the first of
    /// several records in one: a checkpoint there is said like that of the whole aggregate.
    pub fn may_end_before(&self, record: &Record<'_>) -> bool {
        match record.sub_sequence {
            None | Some(0) => self.is_full(),
            Some(1) => false,
            Some(_) => self.is_crowded() || self.open.rows_bytes / 2 >= self.context.limits.rows_bytes_max,
        }
    }

    /// True when there are as many objects as a batch can have: its records are of that many hours.
    pub fn is_crowded(&self) -> bool {
        self.open.objects.len() >= self.objects_max
    }

    /// True when there was no room for a compressor: the batch should be closed after the page in hand.
    pub fn is_cramped(&self) -> bool {
        self.open.cramped
    }

    /// Records in the batch.
    pub fn records(&self) -> u64 {
        self.open.records
    }

    /// Those of them that became dead letters.
    pub fn dead_letters(&self) -> u64 {
        self.open.dead_letters
    }

    /// Bytes of rows in the batch, before compression.
    pub fn rows_bytes(&self) -> usize {
        self.open.rows_bytes
    }

    /// Bytes of rows that closing the batch has to compress.
    pub fn waiting_bytes(&self) -> usize {
        let objects = self.open.objects.iter().map(|(_, encoder)| encoder.waiting_bytes());
        objects.chain(self.open.packer.as_ref().map(Packer::waiting_bytes)).sum()
    }

    /// Memory that the batch holds: compressed or packed so far, and the open encoders. Bytes.
    pub fn held_bytes(&self) -> usize {
        let objects = self.open.objects.iter().map(|(_, encoder)| encoder.held_bytes());
        objects.chain(self.open.packer.as_ref().map(Packer::held_bytes)).sum()
    }

    /// Earliest arrival time in the batch, µs since the epoch.
    pub fn oldest_arrival_us(&self) -> Option<i64> {
        self.open.arrival_us.map(|(oldest, _)| oldest)
    }

    /// Position of the last record in the batch.
    pub fn last(&self) -> Option<Position> {
        (!self.is_empty()).then(|| Position {
            sequence: SequenceNumber::parse(&self.open.last).expect(DIGITS),
            sub: self.open.last_sub,
        })
    }

    /// Ends the batch and starts the next, empty one. `None` when there was no record.
    pub fn close(&mut self) -> Option<Batch> {
        let (first, last) = (self.open.first.clone()?, self.last()?);
        self.close_as(&first, &last, 0)
    }

    /// As [`Batcher::close`], for a batch that was prepared before: it covers `first` to `last`, whichever of its
    /// rows are written again. `generation` is the number of the repair, 0 for none.
    pub fn close_as(&mut self, first: &Position, last: &Position, generation: u32) -> Option<Batch> {
        let Open { unpacked, records, rows_bytes, arrival_us, objects, packer, .. } =
            std::mem::take(&mut self.open);
        let (oldest_arrival_us, newest_arrival_us) = arrival_us?;
        let name = file_name(&self.context, first, last, generation);
        let mut rows = packer.as_ref().map_or(0, Packer::rows);
        let mut dead_letters = BTreeMap::new();
        let mut objects: Vec<LakeObject> = objects
            .into_iter()
            .map(|(partition, encoder)| {
                match partition.error {
                    None => rows += encoder.rows(),
                    Some(code) => *dead_letters.entry(code).or_insert(0) += encoder.rows(),
                }
                let key = format!("{}/{name}", partition.folder(&self.context.layout));
                let (body, content) = encoder.finish_object();
                LakeObject { key, body, content }
            })
            .collect();
        objects.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Some(Batch {
            first: first.clone(),
            last: last.clone(),
            unpacked,
            records,
            rows,
            dead_letters: dead_letters.into_iter().collect(),
            oldest_arrival_us,
            newest_arrival_us,
            objects,
            packed: packer.map_or_else(Vec::new, Packer::finish),
            rows_bytes: rows_bytes as u64,
        })
    }
}

/// Calls `push` for each record until it breaks. One at which the transform panics is given to it once more, as `panicked`:
/// the others are pushed as ever, and all of them together take no longer than without a panic.
pub fn each_record<'a>(
    mut records: impl Iterator<Item = Record<'a>>,
    mut push: impl FnMut(&Record<'a>, bool) -> ControlFlow<()>,
) {
    let mut last = None;
    loop {
        let caught = catch(|| {
            for record in records.by_ref() {
                last = Some(record);
                if push(&record, false).is_break() {
                    break;
                }
            }
        });
        match (caught, &last) {
            (Err(Panicked), Some(record)) if push(record, true).is_continue() => {}
            _ => return,
        }
    }
}

impl Open {
    fn note(&mut self, record: &Record<'_>) {
        self.records += 1;
        self.first.get_or_insert_with(|| record.position());
        self.last.clear();
        self.last.push_str(record.sequence_number);
        self.last_sub = record.sub_sequence.unwrap_or(0);
        self.unpacked |= record.sub_sequence.is_some();
        let now = record.arrival_us;
        self.arrival_us =
            Some(self.arrival_us.map_or((now, now), |(oldest, newest)| (oldest.min(now), newest.max(now))));
    }

    fn encoder(&mut self, partition: Partition, gzip: Gzip) -> &mut Encoder {
        if self.objects.get(self.likely).is_none_or(|(of, _)| *of != partition) {
            let objects = &mut self.objects;
            self.likely = *self.places.entry(partition).or_insert_with(|| {
                objects.push((partition, Encoder::new(gzip)));
                objects.len() - 1
            });
        }
        &mut self.objects[self.likely].1
    }
}

/// Decodes standard base64 into `out`; false when it is not that.
fn decode_base64(text: &[u8], out: &mut Vec<u8>) -> bool {
    out.clear();
    base64_simd::STANDARD.decode_append(text, out).is_ok()
}
