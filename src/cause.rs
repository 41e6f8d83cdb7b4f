//! An error with everything below it, on one line: the one way in which errors are shown to people.
//!
//! Owns: how causes are joined, and that none is shown twice.
//! Does not own: what to do about an error (`aws::explain`, the adapters).

use std::error::Error;

/// Longer texts are cut: a service may answer with a page of HTML.
const CHARS_MAX: usize = 1200;

/// The whole chain of causes on one line. A cause whose text is in the line already, as many errors show their cause
/// themselves, is left out; one that begins with what was shown last takes its place.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(cause) = next {
        next = cause.source();
        let part = one_line(&cause.to_string());
        if part.is_empty() || parts.iter().any(|shown| shown.contains(&part)) {
            continue;
        }
        parts.retain(|shown| !part.contains(shown.as_str()));
        parts.push(part);
    }
    shortened(parts.join(": "))
}

/// `text` on one line: line breaks, tabs and other control characters become spaces, and no two follow each other.
pub fn one_line(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(plain).collect::<String>().split_whitespace().collect::<Vec<_>>().join(" ")
}

fn shortened(text: String) -> String {
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Link(&'static str, #[source] Option<Box<Link>>);

    fn link(texts: &[&'static str]) -> Link {
        let (first, below) = texts.split_first().unwrap();
        Link(first, (!below.is_empty()).then(|| Box::new(link(below))))
    }

    #[test]
    fn every_cause_is_shown_once_and_on_one_line() {
        for (causes, line) in [
            (&["could not read the shard", "timed out"][..], "could not read the shard: timed out"),
            (&["a", "a: b", "b"], "a: b"),
            (
                &["PUT failed: <Error>\n\t<Code>X</Code>", "<Error> <Code>X</Code>"],
                "PUT failed: <Error> <Code>X</Code>",
            ),
            (
                &["service error", "", "unhandled error", "Throttled"],
                "service error: unhandled error: Throttled",
            ),
            (&["lease table: denied", "denied", "because"], "lease table: denied: because"),
            (&["same", "same"], "same"),
        ] {
            assert_eq!(chain(&link(causes)), line);
        }
    }

    #[test]
    fn a_page_of_text_is_cut_between_characters() {
        let page: &'static str = Box::leak("ä ö ".repeat(2000).into_boxed_str());
        let line = chain(&link(&[page]));
        assert!(line.chars().count() == CHARS_MAX + 1 && line.ends_with('…'));
    }
}
