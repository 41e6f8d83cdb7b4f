//! Rows as the strictest readers see them. `.ci/readers.py` reads what is written here with DuckDB, pyarrow and Spark.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use kinetide::internals::batch::BatchContext;
use kinetide::internals::fetch::PageBuilder;
use kinetide::internals::transform::Builtin;
use proptest::prelude::*;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::records::{batch, contexts, lines};

/// Panics where a strict reader refuses the line.
pub(super) fn strict(line: &str) {
    check(serde_json::from_str(line).unwrap(), 0);
}

fn check(raw: &RawValue, depth: usize) {
    assert!(depth <= 65, "DuckDB stops at 128 levels");
    let text = raw.get();
    match text.as_bytes()[0] {
        b'{' => {
            let Members(members) = serde_json::from_str(text).unwrap();
            let names: HashSet<String> = members.iter().map(|(name, _)| name.to_lowercase()).collect();
            assert_eq!(names.len(), members.len(), "names that differ only by case: {text}");
            members.into_iter().for_each(|(_, value)| check(value, depth + 1));
        }
        b'[' => serde_json::from_str::<Vec<&RawValue>>(text)
            .unwrap()
            .into_iter()
            .for_each(|value| check(value, depth + 1)),
        // Half surrogates are an error here.
        b'"' => drop(serde_json::from_str::<String>(text).unwrap()),
        b'-' | b'0'..=b'9' => {
            let (double, mantissa) = (text.parse::<f64>().unwrap(), text.split(['e', 'E']).next().unwrap());
            let zero = !mantissa.contains(|c: char| ('1'..='9').contains(&c));
            assert!(double.is_finite() && (double == 0.0) == zero, "{text}");
            assert!(text.len() <= 320, "Jackson stops at 1,000 characters");
        }
        _ => {}
    }
}

struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// A value as a producer may write it, sound or not.
#[derive(Clone, Debug)]
enum Tree {
    /// JSON text of a string.
    Text(String),
    Number(String),
    Other(&'static str),
    List(Vec<Tree>),
    /// JSON text of the names.
    Map(Vec<(String, Tree)>),
}

impl Tree {
    fn plain(&self) -> String {
        match self {
            Self::Text(text) | Self::Number(text) => text.clone(),
            Self::Other(text) => (*text).to_owned(),
            Self::List(members) => {
                format!("[{}]", members.iter().map(Self::plain).collect::<Vec<_>>().join(", "))
            }
            Self::Map(members) => map(members, Self::plain),
        }
    }

    /// As an attribute value of DynamoDB.
    fn typed(&self) -> String {
        match self {
            Self::Text(text) => format!(r#"{{"S":{text}}}"#),
            Self::Number(text) => format!(r#"{{"N":"{text}"}}"#),
            Self::Other("null") => r#"{"NULL":true}"#.to_owned(),
            Self::Other(flag) => format!(r#"{{"BOOL":{flag}}}"#),
            Self::List(members) => {
                format!(r#"{{"L":[{}]}}"#, members.iter().map(Self::typed).collect::<Vec<_>>().join(","))
            }
            Self::Map(members) => format!(r#"{{"M":{}}}"#, map(members, Self::typed)),
        }
    }
}

fn map(members: &[(String, Tree)], one: impl Fn(&Tree) -> String) -> String {
    let members = members.iter().map(|(name, value)| format!("{name} :{}", one(value)));
    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
}

fn strings() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            r#""""#,
            r#""a""#,
            r#""A""#,
            r#""\u0061""#,
            r#""ä""#,
            r#""Ä""#,
            r#""ς""#,
            r#""Σ""#,
            r#""x.y""#,
            r#""\u0000""#,
            r#""\ud83d""#,
            r#""\ude00\ud83d""#,
            r#""\ud83d\ude00""#,
            r#""\"\\\/\b""#,
            r#""year""#,
            r#""price""#,
            "\"\u{2028}\u{7f}\"",
            r#""007""#,
            r#""NaN""#,
            r#""2026-01-15""#,
        ])
        .prop_map(str::to_owned),
        any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
    ]
}

fn trees() -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![
        4 => strings().prop_map(Tree::Text),
        4 => "-?(0|[1-9][0-9]{0,40})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?".prop_map(Tree::Number),
        1 => prop::sample::select(vec!["null", "true", "false"]).prop_map(Tree::Other),
    ];
    leaf.prop_recursive(4, 20, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Tree::List),
            prop::collection::vec((strings(), inner), 0..4).prop_map(Tree::Map),
        ]
    })
}

fn with_text(context: &Arc<BatchContext>) -> Arc<BatchContext> {
    let settings = toml::from_str("[columns]\nnested = \"json-text\"").unwrap();
    let transform = Builtin::named(context.transform.id().name(), &settings).unwrap();
    Arc::new(BatchContext { transform: Arc::new(transform), ..(**context).clone() })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_producer_writes_strict_readers_take(members in prop::collection::vec((strings(), trees()), 1..5)) {
        let image = map(&members, Tree::typed);
        let change = format!(
            r#"{{"eventName":"INSERT","dynamodb":{{"ApproximateCreationDateTime":1768469400000000,"NewImage":{image}}}}}"#
        );
        let mut page = PageBuilder::default();
        for (number, data) in [("1", map(&members, Tree::plain)), ("2", change)] {
            page.push(number, "key", 1_768_469_401_000_000, data.as_bytes());
        }
        let page = page.finish();
        for context in contexts() {
            for context in [with_text(&context), context] {
                // Each line is looked at by `strict`.
                prop_assert_eq!(lines(&batch(&context, &page).unwrap()).len(), 2);
            }
        }
    }
}
