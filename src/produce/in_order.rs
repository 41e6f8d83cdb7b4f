//! Which changes may be sent now, so that two changes of one key are never on their way at once.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use crate::generate::item::Change;

/// Changes that wait, and the keys that are on their way. Changes of different keys may overtake each other;
/// those of one key leave in the order in which they came, each after the one before it was written.
#[derive(Debug, Default)]
pub(super) struct InOrder {
    /// Free to go, at most one per key.
    ready: VecDeque<Change>,
    /// Keys of `ready` and of everything on its way.
    taken: HashSet<Arc<str>>,
    /// Behind a change of the same key.
    behind: HashMap<Arc<str>, VecDeque<Change>>,
    behind_len: usize,
}

impl InOrder {
    /// Adds the next change of the source.
    pub(super) fn push(&mut self, change: Change) {
        if self.taken.insert(Arc::clone(&change.key)) {
            self.ready.push_back(change);
        } else {
            self.behind.entry(Arc::clone(&change.key)).or_default().push_back(change);
            self.behind_len += 1;
        }
    }

    /// Takes up to `max` changes with different keys to send. Their keys stay taken until [`Self::written`].
    pub(super) fn take(&mut self, max: usize) -> Vec<Change> {
        self.ready.drain(..max.min(self.ready.len())).collect()
    }

    /// A change of this key was written: the one behind it may go.
    pub(super) fn written(&mut self, key: &Arc<str>) {
        let Some(queue) = self.behind.get_mut(key) else {
            self.taken.remove(key);
            return;
        };
        if let Some(next) = queue.pop_front() {
            self.ready.push_back(next);
            self.behind_len -= 1;
        }
        if queue.is_empty() {
            self.behind.remove(key);
        }
    }

    /// Changes that could be sent now.
    pub(super) fn ready(&self) -> usize {
        self.ready.len()
    }

    /// All changes that wait.
    pub(super) fn waiting(&self) -> usize {
        self.ready.len() + self.behind_len
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::generate::item::{ChangeKind, Item};

    /// A change whose image carries the number of its turn.
    fn change(key: u8, turn: usize) -> Change {
        let mut item = Item::with_key(key.to_string());
        item.set("turn", crate::generate::Value::N(turn.to_string()));
        Change { key: key.to_string().into(), kind: ChangeKind::Insert(item) }
    }

    fn turn(change: &Change) -> usize {
        let ChangeKind::Insert(item) = &change.kind else { unreachable!("only inserts here") };
        item.text("turn").unwrap().parse().unwrap()
    }

    proptest! {
        #[test]
        fn one_change_of_a_key_at_a_time_and_in_order(
            keys in prop::collection::vec(0u8..6, 1..120),
            sizes in prop::collection::vec(1usize..5, 1..200),
        ) {
            let mut order = InOrder::default();
            let mut source = keys.iter().enumerate();
            let mut on_the_way: VecDeque<Vec<Change>> = VecDeque::new();
            let mut written: HashMap<Arc<str>, Vec<usize>> = HashMap::new();
            for step in 0.. {
                let size = sizes[step % sizes.len()];
                source.by_ref().take(size).for_each(|(turn, key)| order.push(change(*key, turn)));
                let batch = order.take(size);
                if !batch.is_empty() {
                    on_the_way.push_back(batch);
                }
                let mut seen = HashSet::new();
                for change in on_the_way.iter().flatten() {
                    prop_assert!(seen.insert(Arc::clone(&change.key)), "a key is on its way twice");
                }
                // Answers come in another order than requests.
                let answered = if step % 2 == 0 { on_the_way.pop_back() } else { on_the_way.pop_front() };
                for change in answered.iter().flatten() {
                    written.entry(Arc::clone(&change.key)).or_default().push(turn(change));
                    order.written(&change.key);
                }
                if source.len() == 0 && order.waiting() == 0 && on_the_way.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(written.values().map(Vec::len).sum::<usize>(), keys.len());
            prop_assert!(written.values().all(|turns| turns.is_sorted()));
            prop_assert!(order.taken.is_empty());
        }
    }
}
