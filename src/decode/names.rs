//! Names inside one map. Readers fold case: Spark, Hive and Trino by Unicode, DuckDB in ASCII.

use std::cmp::Ordering;

use super::ErrorCode;

/// The lists and maps around a place in a text, and where the names of the maps stand in it. Reused from record to
/// record.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// For each that is open: where its names begin in `places`, nothing for a list.
    open: Vec<Option<usize>>,
    places: Vec<(usize, usize)>,
}

impl Names {
    pub(super) fn clear(&mut self) {
        self.open.clear();
        self.places.clear();
    }

    /// Lists and maps that are open.
    pub(super) fn depth(&self) -> usize {
        self.open.len()
    }

    pub(super) fn in_map(&self) -> bool {
        self.open.last().is_some_and(Option::is_some)
    }

    pub(super) fn open_list(&mut self) {
        self.open.push(None);
    }

    pub(super) fn open_map(&mut self) {
        self.open.push(Some(self.places.len()));
    }

    /// A name of the open map, at `start..end` of the text.
    pub(super) fn add(&mut self, start: usize, end: usize) {
        self.places.push((start, end));
    }

    /// Ends the innermost list or map; its names must differ by more than case.
    pub(super) fn close(&mut self, text: &[u8]) -> Result<(), ErrorCode> {
        let Some(Some(begin)) = self.open.pop() else { return Ok(()) };
        let names = &mut self.places[begin..];
        let name = |place: (usize, usize)| &text[place.0..place.1];
        names.sort_unstable_by(|a, b| {
            let (a, b) = (name(*a), name(*b));
            compare_folded(a, b).then_with(|| a.cmp(b))
        });
        let mut pairs = names.windows(2).map(|pair| (name(pair[0]), name(pair[1])));
        let same = pairs.find(|(a, b)| compare_folded(a, b).is_eq());
        self.places.truncate(begin);
        match same {
            None => Ok(()),
            Some((a, b)) if a == b => Err(ErrorCode::DuplicateName),
            Some(_) => Err(ErrorCode::AmbiguousNames),
        }
    }
}

/// Compares names without their case.
fn compare_folded(a: &[u8], b: &[u8]) -> Ordering {
    if a.is_ascii() && b.is_ascii() {
        return a.iter().map(u8::to_ascii_lowercase).cmp(b.iter().map(u8::to_ascii_lowercase));
    }
    let folded =
        |name| String::from_utf8_lossy(name).chars().flat_map(char::to_lowercase).map(one_sigma).collect();
    let [a, b]: [String; 2] = [folded(a), folded(b)];
    a.cmp(&b)
}

/// Java writes the last sigma of a word in another way.
fn one_sigma(letter: char) -> char {
    if letter == 'ς' { 'σ' } else { letter }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(names: &[&str], expected: Result<(), ErrorCode>) {
        let mut places = Names::default();
        let mut text = Vec::new();
        places.open_map();
        for name in names {
            let start = text.len();
            text.extend_from_slice(name.as_bytes());
            places.add(start, text.len());
        }
        assert_eq!(places.close(&text), expected, "{names:?}");
        assert_eq!((places.depth(), places.places.len()), (0, 0));
    }

    #[test]
    fn names_of_a_map_differ_by_more_than_case() {
        check(&[], Ok(()));
        check(&["a", "b", "ab", "", "ä", "ü"], Ok(()));
        check(&["b", "a", "b"], Err(ErrorCode::DuplicateName));
        for ambiguous in [["id", "ID"], ["Ä", "ä"], ["\u{212a}", "k"], ["ΑΣ", "ας"], ["İ", "i\u{307}"]]
        {
            check(&[ambiguous[0], "x", ambiguous[1]], Err(ErrorCode::AmbiguousNames));
        }
    }
}
