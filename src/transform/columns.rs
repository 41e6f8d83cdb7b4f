//! Column names for members that no transform knows: the catalog folds case and takes few characters.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::{BadRecord, ErrorCode};
use crate::decode::Image;

/// Partition keys of the lake: a body column of such a name makes a table unusable.
const PARTITION_KEYS: [&str; 4] = ["year", "month", "day", "hour"];

/// Some members of an image under their column names. Reused from record to record.
#[derive(Debug, Default)]
pub(super) struct Columns {
    names: Vec<u8>,
    members: Vec<Column>,
}

#[derive(Debug)]
struct Column {
    name: Range<usize>,
    member: usize,
}

impl Columns {
    /// Names the `members` of `image`: lower case, `_` for anything but letters, digits and `_`. Where two names
    /// fall together, or one with `reserved`, the first in byte order of the original names keeps the name and the
    /// next gets `__2`. Columns come out in byte order of their names.
    pub(super) fn assign(
        &mut self,
        image: &Image,
        members: impl Iterator<Item = usize>,
        reserved: &[&str],
    ) -> Result<(), BadRecord> {
        self.names.clear();
        self.members.clear();
        for member in members {
            let start = self.names.len();
            push_column_name(&mut self.names, image.name(member));
            self.members.push(Column { name: start..self.names.len(), member });
        }
        self.sort();
        let is_taken =
            |name: &[u8]| reserved.iter().chain(&PARTITION_KEYS).any(|taken| taken.as_bytes() == name);
        let twice = |pair: &[Column]| self.names[pair[0].name.clone()] == self.names[pair[1].name.clone()];
        if self.members.windows(2).any(twice)
            || self.members.iter().any(|column| is_taken(&self.names[column.name.clone()]))
        {
            self.settle(image, reserved)?;
        }
        Ok(())
    }

    fn sort(&mut self) {
        let names = &self.names;
        self.members.sort_unstable_by(|a, b| names[a.name.clone()].cmp(&names[b.name.clone()]));
    }

    /// The rare case: gives numbers to names that are taken.
    fn settle(&mut self, image: &Image, reserved: &[&str]) -> Result<(), BadRecord> {
        self.members.sort_unstable_by(|a, b| image.name(a.member).cmp(image.name(b.member)));
        if self.members.windows(2).any(|pair| image.name(pair[0].member) == image.name(pair[1].member)) {
            return Err(ErrorCode::DuplicateName.into());
        }
        let mut taken: HashSet<Vec<u8>> =
            reserved.iter().chain(&PARTITION_KEYS).map(|name| name.as_bytes().to_vec()).collect();
        let mut last_number: HashMap<Vec<u8>, usize> = HashMap::new();
        for column in &mut self.members {
            let name = self.names[column.name.clone()].to_vec();
            let number = last_number.entry(name.clone()).or_insert(1);
            let mut candidate = name.clone();
            while !taken.insert(candidate.clone()) {
                *number += 1;
                candidate = [&name[..], b"__", number.to_string().as_bytes()].concat();
            }
            let start = self.names.len();
            self.names.extend_from_slice(&candidate);
            column.name = start..self.names.len();
        }
        self.sort();
        Ok(())
    }

    /// Appends `,"name":value` for each column.
    pub(super) fn push(&self, image: &Image, row: &mut Vec<u8>) {
        for column in &self.members {
            row.extend_from_slice(b",\"");
            row.extend_from_slice(&self.names[column.name.clone()]);
            row.extend_from_slice(b"\":");
            row.extend_from_slice(image.value(column.member));
        }
    }
}

fn push_column_name(out: &mut Vec<u8>, name: &[u8]) {
    let start = out.len();
    for &byte in name {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'_' => out.push(byte),
            b'A'..=b'Z' => out.push(byte.to_ascii_lowercase()),
            // One `_` a character, not one a byte.
            0x80..0xC0 => {}
            _ => out.push(b'_'),
        }
    }
    if out.len() == start {
        out.push(b'_');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::decode_object;
    use crate::decode::json::push_string;
    use proptest::prelude::*;

    fn columns(names: &[&str], reserved: &[&str]) -> Result<Vec<String>, BadRecord> {
        let mut document = Vec::from(b"{");
        for (index, name) in names.iter().enumerate() {
            document.extend_from_slice(if index == 0 { b"" } else { b"," });
            push_string(&mut document, name);
            document.extend_from_slice(format!(":{index}").as_bytes());
        }
        document.push(b'}');
        let mut image = Image::default();
        decode_object(&document, &mut image)?;
        let (mut columns, mut row) = (Columns::default(), Vec::new());
        columns.assign(&image, 0..image.len(), reserved)?;
        columns.push(&image, &mut row);
        let row = String::from_utf8(row).unwrap();
        Ok(row.split_terminator(',').skip(1).map(|column| column.replace('"', "")).collect())
    }

    fn check(names: &[&str], reserved: &[&str], expected: &[&str]) {
        assert_eq!(columns(names, reserved).unwrap(), expected);
    }

    #[test]
    fn names_are_made_fit_for_the_catalog() {
        check(&["b", "a_1"], &[], &["a_1:1", "b:0"]);
        check(&["Mixed Case.Name", "Größe", ""], &[], &["_:2", "gr__e:1", "mixed_case_name:0"]);
    }

    #[test]
    fn the_first_in_byte_order_keeps_the_name() {
        check(&["url", "URL"], &[], &["url:1", "url__2:0"]);
        check(&["a.b", "a-b", "a_b"], &[], &["a_b:1", "a_b__2:0", "a_b__3:2"]);
        // An attribute that is called like a number is pushed on itself.
        check(&["url", "URL", "url__2"], &[], &["url:1", "url__2:0", "url__2__2:2"]);
    }

    #[test]
    fn columns_of_ours_and_partition_keys_are_never_shadowed() {
        check(&["Source", "source", "year"], &["source"], &["source__2:0", "source__3:1", "year__2:2"]);
    }

    #[test]
    fn one_name_twice_is_refused() {
        assert_eq!(columns(&["a", "b", "a"], &[]).unwrap_err().code, ErrorCode::DuplicateName);
    }

    proptest! {
        #[test]
        fn column_names_are_unique_and_plain(names in proptest::collection::hash_set("[aA_.]{0,3}|a__2|year|.{0,2}", 0..40)) {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let columns = columns(&names, &["a", "aa"]).unwrap();
            let columns: Vec<_> = columns.iter().map(|column| column.split(':').next().unwrap()).collect();
            prop_assert_eq!(columns.len(), names.len());
            prop_assert!(columns.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert!(columns.iter().all(|name| !["a", "aa", "year"].contains(name)));
        }
    }
}
