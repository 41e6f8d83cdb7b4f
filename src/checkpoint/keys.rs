//! Lists of object keys, written short: keys of one batch share folders and the name, those of its repairs most of both.

/// One key: so many bytes of the start of the key before it, this text, so many bytes of the end of the key before it.
pub(super) type Short = (usize, String, usize);

/// The longest key that is read back. Stores take less; a damaged row must not cost memory.
pub(super) const KEY_BYTES_MAX: usize = 4096;

/// The keys, each as its difference from the one before.
pub(super) fn shorten(keys: &[String]) -> Vec<Short> {
    let before = std::iter::once("").chain(keys.iter().map(String::as_str));
    before.zip(keys).map(|(before, key)| difference(before, key)).collect()
}

/// The keys again. `None` when that is not what [`shorten`] writes.
pub(super) fn lengthen<'a>(short: impl IntoIterator<Item = (usize, &'a str, usize)>) -> Option<Vec<String>> {
    let mut keys: Vec<String> = Vec::new();
    for (start, text, end) in short {
        let before = keys.last().map_or("", String::as_str);
        let (start, end) = (before.get(..start)?, before.get(before.len().checked_sub(end)?..)?);
        let key = [start, text, end].concat();
        if key.len() > KEY_BYTES_MAX {
            return None;
        }
        keys.push(key);
    }
    Some(keys)
}

fn difference(before: &str, key: &str) -> Short {
    let same = |(a, b): &(char, char)| a == b;
    let bytes =
        |common: &mut dyn Iterator<Item = (char, char)>| common.map(|(c, _)| c.len_utf8()).sum::<usize>();
    let start = bytes(&mut before.chars().zip(key.chars()).take_while(same));
    let (before, key) = (&before[start..], &key[start..]);
    let end = bytes(&mut before.chars().rev().zip(key.chars().rev()).take_while(same));
    (start, key[..key.len() - end].to_owned(), end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn back(short: &[Short]) -> Option<Vec<String>> {
        lengthen(short.iter().map(|(start, text, end)| (*start, text.as_str(), *end)))
    }

    #[test]
    fn keys_of_a_batch_and_of_its_repair_are_short() {
        let key = |hour: u32, repair: &str| {
            format!(
                "landing/ü/year=2026/month=01/day=15/hour={hour:02}/trades-shardId-000000000003-17-42{repair}.ndjson.gz"
            )
        };
        let keys = [key(9, ""), key(10, ""), key(9, "-r1"), key(10, "-r1")];
        let short = shorten(&keys);
        assert_eq!(short[0], (0, key(9, ""), 0));
        assert_eq!(short[1].1, "10");
        assert_eq!(short[3].1, "10");
        assert!(short[2].1.len() < 50, "{short:?}");
        assert_eq!(back(&short).unwrap(), keys);
    }

    #[test]
    fn what_is_no_list_of_ours_is_refused() {
        for bad in [(1, "a".to_owned(), 0), (0, "a".to_owned(), 1)] {
            assert_eq!(back(&[bad]), None);
        }
        let first = (0, "ü".to_owned(), 0);
        for bad in [
            (1, String::new(), 0),
            (0, String::new(), 1),
            (3, String::new(), 0),
            (0, String::new(), usize::MAX),
        ] {
            assert_eq!(back(&[first.clone(), bad]), None, "in the middle of a character, or too long");
        }
        let long = (0, "k".repeat(KEY_BYTES_MAX), 0);
        assert!(back(std::slice::from_ref(&long)).is_some());
        assert_eq!(back(&[long, (KEY_BYTES_MAX, "k".to_owned(), 0)]), None);
    }

    proptest! {
        #[test]
        fn any_keys_come_back(keys in prop::collection::vec("[aü/]{0,3}[0-9]{0,2}[ü.x]{0,3}", 0..20)) {
            prop_assert_eq!(back(&shorten(&keys)).unwrap(), keys);
        }
    }
}
