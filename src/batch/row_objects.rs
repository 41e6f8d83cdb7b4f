//! Rows that are made from dead letters → objects, one for each hour.

use super::encode::Encoder;
use super::key::Partition;
use super::{BatchLimits, LakeObject, Layout};
use crate::transform::RowInfo;

/// Open objects of rows. Their bytes depend on the rows alone, as those of a batch.
pub struct RowObjects {
    limits: BatchLimits,
    rows_bytes: usize,
    /// In the order of their first rows.
    objects: Vec<(Partition, Encoder)>,
}

impl RowObjects {
    /// No objects yet.
    pub fn new(limits: BatchLimits) -> Self {
        Self { limits, rows_bytes: 0, objects: Vec::new() }
    }

    /// Adds the rows of one record, at least one, to the object of their hour; answers which one that is, counted from 0
    /// in the order of first rows. `None` when the limits leave no room.
    pub fn push(&mut self, info: RowInfo, rows: &[u8]) -> Option<usize> {
        let partition = Partition::of_row(info.time_us);
        if self.rows_bytes >= self.limits.rows_bytes_max {
            return None;
        }
        let place = match self.objects.iter().position(|(of, _)| *of == partition) {
            Some(place) => place,
            None if self.objects.len() >= self.limits.objects_max => return None,
            None => {
                self.objects.push((partition, Encoder::new(self.limits.gzip)));
                self.objects.len() - 1
            }
        };
        self.rows_bytes += rows.len();
        // What it takes is bounded by the limits.
        self.objects[place].1.push(rows, info.rows, |_| true);
        Some(place)
    }

    /// The objects, all called `name` in the folders of their hours, in the order of first rows.
    pub fn finish(self, layout: &Layout, name: &str) -> Vec<LakeObject> {
        let object = |(partition, encoder): (Partition, Encoder)| {
            let (body, content) = encoder.finish_object();
            LakeObject { key: format!("{}/{name}", partition.folder(layout)), body, content }
        };
        self.objects.into_iter().map(object).collect()
    }
}
