//! Column names. SQL folds case and takes few characters, so each name is spelled anew, by itself: no column depends on
//! which other names a record has.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::decode::Members;
use crate::decode::json::push_string_bytes;
use crate::transform::place::SUB_SEQUENCE;
use crate::transform::{BadRecord, ErrorCode, RecordContext};

/// Partition keys of the lake: a body column of such a name makes a table unusable.
const PARTITION_KEYS: [&str; 4] = ["year", "month", "day", "hour"];

/// Stands before a name that a column of ours or a partition key has.
const PREFIX: &[u8] = b"item_";

/// Bytes of a column name in a message.
const SHOWN_MAX: usize = 60;

/// How members become columns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ColumnSettings {
    /// Name of a member, exactly as in the record → its column.
    pub rename: BTreeMap<String, String>,
    /// How maps, lists and sets are written.
    pub nested: Nested,
}

/// How maps, lists and sets are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Nested {
    /// As JSON.
    #[default]
    Json,
    /// As a string that holds their JSON, so that the column has one type.
    JsonText,
}

/// The settings of the columns cannot be used; says what to change.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("columns: {0}")]
pub struct InvalidColumns(String);

impl ColumnSettings {
    /// A text that is equal for equal settings; empty for none.
    pub(super) fn canonical(&self) -> String {
        if *self == Self::default() {
            return String::new();
        }
        serde_json::to_string(self).expect("maps with text keys always serialise")
    }
}

/// [`ColumnSettings`] ready for use, for one transform.
#[derive(Clone, Debug)]
pub(super) struct ColumnRules {
    /// By name.
    renames: Vec<(Vec<u8>, Vec<u8>)>,
    nested: Nested,
    /// Columns that the transform writes itself.
    reserved: &'static [&'static str],
}

impl ColumnRules {
    pub(super) fn new(
        settings: &ColumnSettings,
        reserved: &'static [&'static str],
    ) -> Result<Self, InvalidColumns> {
        let mut rules = Self { renames: Vec::new(), nested: settings.nested, reserved };
        let mut columns = BTreeSet::new();
        for (name, column) in &settings.rename {
            let mut spelled = Vec::new();
            rules.push_column(&mut spelled, column.as_bytes(), false);
            let starts = column.starts_with(|first: char| first.is_ascii_lowercase() || first == '_');
            if spelled != column.as_bytes() || !starts || column.len() > 255 {
                let problem = "is not a usable column: use lower-case letters, digits and '_', start with a letter, and \
                               use no column of kinetide and no partition name";
                return Err(InvalidColumns(format!("rename {name:?} = {column:?} {problem}")));
            }
            if !columns.insert(column) {
                return Err(InvalidColumns(format!("two names are renamed to {column:?}")));
            }
            rules.renames.push((name.as_bytes().to_vec(), column.as_bytes().to_vec()));
        }
        Ok(rules)
    }

    pub(super) fn has_renames(&self) -> bool {
        !self.renames.is_empty()
    }

    fn renamed(&self, name: &[u8]) -> Option<&[u8]> {
        let found = self.renames.binary_search_by(|(from, _)| from[..].cmp(name)).ok()?;
        Some(&self.renames[found].1)
    }

    /// Appends the column of a name that is not renamed. `part`: of a record that is part of an aggregate.
    fn push_column(&self, out: &mut Vec<u8>, name: &[u8], part: bool) {
        let start = out.len();
        push_spelled(out, name);
        let mut rest = &out[start..];
        while let Some(more) = rest.strip_prefix(PREFIX) {
            rest = more;
        }
        // With the prefix taken off first, `year` and `item_year` stay two columns.
        let taken = self.reserved.iter().chain(&PARTITION_KEYS).chain(part.then_some(&SUB_SEQUENCE));
        if taken.into_iter().any(|taken| taken.as_bytes() == rest) {
            out.splice(start..start, PREFIX.iter().copied());
        }
    }
}

/// Small ASCII letters, digits and `_` stay, capitals become small, other ASCII becomes `_`; any other character
/// becomes `_u` and its code point in hexadecimal, at least four digits.
fn push_spelled(out: &mut Vec<u8>, name: &[u8]) {
    let start = out.len();
    for &byte in name {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'_' => out.push(byte),
            b'A'..=b'Z' => out.push(byte.to_ascii_lowercase()),
            0x80.. => {
                out.truncate(start);
                return push_unicode(out, name);
            }
            _ => out.push(b'_'),
        }
    }
    if name.is_empty() {
        out.push(b'_');
    }
}

/// As [`push_spelled`], for a name that is not ASCII.
fn push_unicode(out: &mut Vec<u8>, name: &[u8]) {
    for letter in String::from_utf8_lossy(name).chars() {
        match letter {
            'a'..='z' | '0'..='9' | '_' | 'A'..='Z' => out.extend(u8::try_from(letter.to_ascii_lowercase())),
            '\0'..='\x7F' => out.push(b'_'),
            _ => out.extend_from_slice(format!("_u{:04x}", u32::from(letter)).as_bytes()),
        }
    }
}

/// Some members of an image under their column names. Reused from record to record.
#[derive(Debug, Default)]
pub(super) struct Columns {
    names: Vec<u8>,
    members: Vec<Column>,
    /// Names of all members of the record before, one behind the other, and where each ends; none after an error. The next
    /// record nearly always has the same.
    before: Vec<u8>,
    ends: Vec<usize>,
    /// The record is part of an aggregate, so that its row has one more column of ours.
    part: bool,
}

#[derive(Debug)]
struct Column {
    name: Range<usize>,
    member: usize,
}

impl Columns {
    /// Forgets the record before.
    pub(super) fn begin(&mut self, context: &RecordContext<'_>) {
        self.names.clear();
        self.members.clear();
        self.part = context.sub_sequence.is_some();
    }

    /// Names one member of the record; answers its column.
    pub(super) fn add(&mut self, rules: &ColumnRules, members: Members<'_>, member: usize) -> &[u8] {
        let start = self.names.len();
        let name = members.name(member);
        match rules.renamed(name) {
            Some(column) => {
                if self.part && column == SUB_SEQUENCE.as_bytes() {
                    self.names.extend_from_slice(PREFIX);
                }
                self.names.extend_from_slice(column);
            }
            None => rules.push_column(&mut self.names, name, self.part),
        }
        let name = start..self.names.len();
        self.members.push(Column { name: name.clone(), member });
        &self.names[name]
    }

    /// Takes the member back that was added last.
    pub(super) fn take_back(&mut self) {
        if let Some(last) = self.members.pop() {
            self.names.truncate(last.name.start);
        }
    }

    /// Names all members, and puts them in order.
    pub(super) fn assign(
        &mut self,
        rules: &ColumnRules,
        context: &RecordContext<'_>,
        members: Members<'_>,
    ) -> Result<(), BadRecord> {
        if self.part == context.sub_sequence.is_some() && self.are_as_before(members) {
            return Ok(());
        }
        self.before.clear();
        self.ends.clear();
        self.begin(context);
        for member in 0..members.len() {
            self.add(rules, members, member);
        }
        let settled = self.settle(members);
        if settled.is_err() {
            self.begin(context);
            return settled;
        }
        for member in 0..members.len() {
            self.before.extend_from_slice(members.name(member));
            self.ends.push(self.before.len());
        }
        Ok(())
    }

    fn are_as_before(&self, members: Members<'_>) -> bool {
        let mut start = 0;
        self.ends.len() == members.len()
            && self.ends.iter().enumerate().all(|(member, end)| {
                let before = &self.before[start..*end];
                start = *end;
                members.name(member) == before
            })
    }

    /// Puts the columns in the byte order of their names, of which each must be there once.
    pub(super) fn settle(&mut self, members: Members<'_>) -> Result<(), BadRecord> {
        let name = |column: &Column| &self.names[column.name.clone()];
        self.members.sort_unstable_by(|a, b| {
            name(a).cmp(name(b)).then_with(|| members.name(a.member).cmp(members.name(b.member)))
        });
        let twice = self.members.windows(2).find(|pair| name(&pair[0]) == name(&pair[1]));
        match twice {
            Some([a, b]) => Err(same_column(name(a), members.name(a.member), members.name(b.member))),
            _ => Ok(()),
        }
    }

    /// Appends `,"name":value` for each column.
    pub(super) fn push(&self, rules: &ColumnRules, members: Members<'_>, row: &mut Vec<u8>) {
        for column in &self.members {
            row.extend_from_slice(b",\"");
            row.extend_from_slice(&self.names[column.name.clone()]);
            row.extend_from_slice(b"\":");
            match (rules.nested, members.value(column.member)) {
                (Nested::JsonText, value @ [b'{' | b'[', ..]) => push_string_bytes(row, value),
                _ => members.push_value(column.member, row),
            }
        }
    }
}

/// Two members of one record are the same column.
pub(super) fn same_column(column: &[u8], a: &[u8], b: &[u8]) -> BadRecord {
    if a == b {
        return ErrorCode::DuplicateName.into();
    }
    let shown = String::from_utf8_lossy(&column[..column.len().min(SHOWN_MAX)]);
    let message = format!("two names are the column {shown}: give one another column in [columns.rename]");
    BadRecord { code: ErrorCode::AmbiguousNames, message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::json::push_string;
    use crate::decode::{Image, decode_object};
    use crate::transform::SourceKind;
    use proptest::prelude::*;

    const CONTEXT: RecordContext<'_> = RecordContext {
        source: SourceKind::Kinesis,
        stream: None,
        shard_id: "s",
        sequence_number: "1",
        sub_sequence: None,
        key: None,
        arrival_us: 0,
        null: false,
    };
    const RESERVED: [&str; 2] = ["source", "is_valid"];

    fn rules(renames: &[(&str, &str)]) -> Result<ColumnRules, InvalidColumns> {
        let rename =
            renames.iter().map(|(name, column)| ((*name).to_owned(), (*column).to_owned())).collect();
        ColumnRules::new(&ColumnSettings { rename, ..ColumnSettings::default() }, &RESERVED)
    }

    fn document(names: &[&str]) -> Vec<u8> {
        let mut document = Vec::from(b"{");
        for (index, name) in names.iter().enumerate() {
            document.extend_from_slice(if index == 0 { b"" } else { b"," });
            push_string(&mut document, name);
            document.extend_from_slice(format!(":{index}").as_bytes());
        }
        document.push(b'}');
        document
    }

    fn columns(names: &[&str], renames: &[(&str, &str)]) -> Result<Vec<String>, BadRecord> {
        columns_of(None, names, renames)
    }

    fn columns_of(
        sub_sequence: Option<u64>,
        names: &[&str],
        renames: &[(&str, &str)],
    ) -> Result<Vec<String>, BadRecord> {
        let (document, mut image, rules) = (document(names), Image::default(), rules(renames).unwrap());
        let members = decode_object(&document, &mut image).unwrap();
        let (mut columns, mut row) = (Columns::default(), Vec::new());
        let context = RecordContext { sub_sequence, ..CONTEXT };
        columns.assign(&rules, &context, members)?;
        columns.push(&rules, members, &mut row);
        let row = String::from_utf8(row).unwrap();
        Ok(row.split_terminator(',').skip(1).map(|column| column.replace('"', "")).collect())
    }

    /// Only where kinetide writes a column of that name itself.
    #[test]
    fn the_index_inside_an_aggregate_is_never_shadowed() {
        let names = ["Sub_Sequence_Number", "item_sub_sequence_number", "a"];
        let renames = [("a", "sub_sequence_number")];
        let plain = ["a:2", "item_sub_sequence_number:1", "sub_sequence_number:0"];
        assert_eq!(columns(&names, &[]).unwrap(), plain);
        let part = ["a:2", "item_item_sub_sequence_number:1", "item_sub_sequence_number:0"];
        assert_eq!(columns_of(Some(0), &names, &[]).unwrap(), part);
        assert_eq!(columns(&["a"], &renames).unwrap(), ["sub_sequence_number:0"]);
        assert_eq!(columns_of(Some(0), &["a"], &renames).unwrap(), ["item_sub_sequence_number:0"]);
        assert!(columns_of(Some(0), &names, &renames).is_err());
    }

    /// Names that are as before are not looked at again.
    #[test]
    fn columns_do_not_depend_on_the_record_before() {
        let (rules, mut reused) = (rules(&[]).unwrap(), Columns::default());
        let records: [&[&str]; 10] = [
            &["b", "a"],
            &["b", "a"],
            &["ba"],
            &["", "ba"],
            &["ba", ""],
            &["a", "A"],
            &[],
            &["a", "b"],
            &["b", "a", "c"],
            &["b", "a"],
        ];
        for names in records {
            let (document, mut image) = (document(names), Image::default());
            let members = decode_object(&document, &mut image).unwrap();
            for sub_sequence in [None, Some(1), None, None] {
                let context = RecordContext { sub_sequence, ..CONTEXT };
                let [again, anew]: [Result<String, BadRecord>; 2] = [&mut reused, &mut Columns::default()]
                    .map(|columns| {
                        let mut row = Vec::new();
                        columns.assign(&rules, &context, members)?;
                        columns.push(&rules, members, &mut row);
                        Ok(String::from_utf8(row).unwrap())
                    });
                assert_eq!(again, anew, "{names:?}");
                assert_eq!(again.is_err(), names == ["a", "A"]);
            }
        }
    }

    fn check(names: &[&str], expected: &[&str]) {
        assert_eq!(columns(names, &[]).unwrap(), expected);
        // Alone each has the same column.
        for name in names {
            let alone = columns(&[name], &[]).unwrap();
            let column = alone[0].split(':').next().unwrap();
            assert!(expected.iter().any(|both| both.split(':').next() == Some(column)), "{name}: {column}");
        }
    }

    fn refuse(names: &[&str], code: ErrorCode) {
        assert_eq!(columns(names, &[]).unwrap_err().code, code, "{names:?}");
    }

    #[test]
    fn names_are_spelled_for_sql() {
        check(&["b", "a_1"], &["a_1:1", "b:0"]);
        check(&["Mixed Case.Name", "URL", ""], &["_:2", "mixed_case_name:0", "url:1"]);
        check(&["Größe", "Grüße"], &["gr_u00f6_u00dfe:0", "gr_u00fc_u00dfe:1"]);
        check(&["Ä", "ä", "🧊", "\u{1f9c}"], &["_u00c4:0", "_u00e4:1", "_u1f9c:3", "_u1f9ca:2"]);
    }

    #[test]
    fn one_column_of_two_names_is_refused() {
        for names in [["url", "URL"], ["a.b", "a_b"], ["a b", "A-B"], ["ö", "_u00f6"], ["", "_"]] {
            refuse(&names, ErrorCode::AmbiguousNames);
        }
        refuse(&["a", "b", "a"], ErrorCode::DuplicateName);
        let long = "x".repeat(5000);
        let bad = columns(&[&long, &long.to_uppercase()], &[]).unwrap_err();
        assert!(bad.message.contains("xxx") && bad.message.len() < 200, "{}", bad.message);
    }

    #[test]
    fn columns_of_ours_and_partition_keys_have_a_prefix() {
        check(&["Source", "year", "HOUR"], &["item_hour:2", "item_source:0", "item_year:1"]);
        check(&["item_year", "year"], &["item_item_year:0", "item_year:1"]);
        check(&["item_item_years", "years"], &["item_item_years:0", "years:1"]);
        refuse(&["year", "Year"], ErrorCode::AmbiguousNames);
    }

    #[test]
    fn a_rename_gives_a_column() {
        let renames = [("URL", "address"), ("Größe", "size"), ("year", "built")];
        let found = columns(&["url", "URL", "Größe", "year", "größe"], &renames).unwrap();
        assert_eq!(found, ["address:1", "built:3", "gr_u00f6_u00dfe:4", "size:2", "url:0"]);
        let bad = columns(&["URL", "address"], &renames).unwrap_err();
        assert_eq!(bad.code, ErrorCode::AmbiguousNames);
        for wrong in ["", "Size", "größe", "a b", "1a", "source", "hour", "item_hour", &"a".repeat(256)] {
            assert!(rules(&[("a", wrong)]).is_err(), "{wrong}");
        }
        assert!(rules(&[("a", "x"), ("b", "x")]).is_err());
    }

    proptest! {
        /// A name has the same column whatever stands beside it, and no two columns of a row are the same.
        #[test]
        fn no_name_depends_on_its_neighbours(names in proptest::collection::hash_set("[aA_.]{0,3}|item_(year|a)|year|.{0,3}", 0..20)) {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let alone: Vec<String> = names
                .iter()
                .map(|name| columns(&[name], &[]).unwrap()[0].rsplit_once(':').unwrap().0.to_owned())
                .collect();
            let distinct: BTreeSet<&String> = alone.iter().collect();
            for column in &alone {
                prop_assert!(column.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'));
                prop_assert!(![&RESERVED[..], &PARTITION_KEYS].concat().contains(&&column[..]));
            }
            match columns(&names, &[]) {
                Err(bad) => {
                    prop_assert_eq!(bad.code, ErrorCode::AmbiguousNames);
                    prop_assert!(distinct.len() < names.len());
                }
                Ok(together) => {
                    let mut expected: Vec<_> =
                        alone.iter().enumerate().map(|(at, column)| format!("{column}:{at}")).collect();
                    expected.sort_by(|a, b| a.rsplit_once(':').cmp(&b.rsplit_once(':')));
                    prop_assert_eq!(together, expected);
                }
            }
        }
    }
}
