//! What goes wrong on purpose while the demo runs, and when.

/// Something to do to the running pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mishap {
    /// Split an open shard.
    Split,
    /// Merge the two shards of the first split.
    Merge,
    /// Kill a worker that reads something, and start another.
    Kill,
}

/// The mishaps asked for, each at its share of the records, in order.
#[derive(Debug)]
pub(super) struct Mishaps {
    waiting: Vec<(u64, Mishap)>,
}

impl Mishaps {
    pub(super) fn new(records: u64, kill: bool, reshard: bool) -> Self {
        let mut waiting = Vec::new();
        if reshard {
            waiting.extend([(records / 4, Mishap::Split), (records / 5 * 2, Mishap::Split)]);
            waiting.push((records / 4 * 3, Mishap::Merge));
        }
        if kill {
            waiting.push((records / 2, Mishap::Kill));
        }
        waiting.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        Self { waiting }
    }

    /// The next one that is due when `put` records are in the stream.
    pub(super) fn due(&mut self, put: u64) -> Option<Mishap> {
        self.waiting.pop_if(|(at, _)| *at <= put).map(|(_, mishap)| mishap)
    }

    /// True when all have happened.
    pub(super) fn over(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_comes_once_and_in_order() {
        let mut mishaps = Mishaps::new(100, true, true);
        assert_eq!(mishaps.due(24), None);
        let all: Vec<_> = std::iter::from_fn(|| mishaps.due(100)).collect();
        assert_eq!(all, [Mishap::Split, Mishap::Split, Mishap::Kill, Mishap::Merge]);
        assert!(mishaps.over() && Mishaps::new(100, false, false).over());
    }
}
