//! Which known name was probably meant by one that nobody knows.

/// The known name that is fewest edits away, where that is near enough to be a slip of the hand. Case, `-` and `_` do not
/// count.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let folded = fold(name);
    let far = |known: &str| distance(&folded, &fold(known));
    let (edits, best) = known.into_iter().map(|known| (far(known), known)).min()?;
    (edits <= folded.len().div_ceil(4).max(1)).then_some(best)
}

fn fold(name: &str) -> Vec<u8> {
    let counts = |b: &u8| !b"-_".contains(b);
    name.to_ascii_lowercase().into_bytes().into_iter().filter(counts).collect()
}

/// Letters put in, left out, replaced, or swapped with their neighbour, to make one word of the other.
fn distance(from: &[u8], to: &[u8]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in to.iter().enumerate() {
            let mut edits = (last[j] + usize::from(a != b)).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *a == to[j - 1] && from[i - 1] == *b {
                edits = edits.min(before[j - 1] + 1);
            }
            row.push(edits);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_of_the_hand_find_the_name_and_other_words_find_none() {
        let known = ["KINETIDE_STREAM", "KINETIDE_BATCH_AGE", "debug", "info", "kinetide"];
        for (name, meant) in [
            ("KINETIDE_BATCHAGE", Some("KINETIDE_BATCH_AGE")),
            ("KINETIDE_STRAEM", Some("KINETIDE_STREAM")),
            ("kinetide-stream", Some("KINETIDE_STREAM")),
            ("debgu", Some("debug")),
            ("inf", Some("info")),
            ("kinetid", Some("kinetide")),
            ("verbose", None),
            ("", None),
        ] {
            assert_eq!(nearest(name, known), meant, "{name}");
        }
    }
}
