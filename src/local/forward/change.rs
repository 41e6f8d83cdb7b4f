//! From a change of a table to the record that a Kinesis streaming destination of DynamoDB would put.

use std::collections::BTreeMap;

use dynoxide::actions::get_records::Record;
use dynoxide::{AttributeValue, Item};
use uuid::Uuid;

use crate::generate::envelope::{Envelope, Images, UserIdentity, partition_key};

/// dynoxide's public sequence numbers are this plus the stored one, which is the time of the change in µs since the
/// epoch, raised where needed so that it grows with every change of a table.
const SEQUENCE_OFFSET: u128 = 100_000_000_000_000_000_000;

/// A record ready to put.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outgoing {
    /// 32 upper-case hex digits, the same for all changes of an item.
    pub(super) partition_key: String,
    /// Compact JSON.
    pub(super) data: Vec<u8>,
}

/// Position of a change in its table's stream, which is also its time in µs; `None` when dynoxide did not write
/// the number.
pub(in crate::local) fn position(sequence_number: &str) -> Option<u64> {
    let number: u128 = sequence_number.parse().ok()?;
    u64::try_from(number.checked_sub(SEQUENCE_OFFSET)?).ok()
}

/// What dynoxide writes for a position.
pub(in crate::local) fn sequence_number(position: u64) -> String {
    (SEQUENCE_OFFSET + u128::from(position)).to_string()
}

/// The record for a change; `None` for a write that changed nothing, which DynamoDB does not report.
///
/// # Errors
/// When the change cannot be written as JSON, or its sequence number is not one of dynoxide.
pub(super) fn outgoing(record: &Record, region: &str, table: &str) -> Result<Option<Outgoing>, String> {
    let change = &record.dynamodb;
    if change.new_image.is_some() && change.new_image == change.old_image {
        return Ok(None);
    }
    let created_us =
        position(&change.sequence_number).ok_or("a change has a sequence number that is not dynoxide's")?;
    let keys = sorted(&change.keys);
    let created_us = i64::try_from(created_us).map_err(|_| "a change lies too far in the future")?;
    let images = Images::new(
        created_us,
        &keys,
        change.new_image.as_ref().map(sorted),
        change.old_image.as_ref().map(sorted),
        usize::try_from(change.size_bytes).unwrap_or(0),
    );
    let who = record.user_identity.as_ref();
    let who = who.map(|who| UserIdentity { r#type: &who.identity_type, principal_id: &who.principal_id });
    let event_id = Uuid::parse_str(&record.event_id).unwrap_or_default();
    let envelope = Envelope::new((region, table), &event_id, &record.event_name, who, images);
    let failed = |error: serde_json::Error| format!("a change could not be written as JSON: {error}");
    let partition_key = partition_key(&serde_json::to_vec(&keys).map_err(failed)?);
    Ok(Some(Outgoing { partition_key, data: serde_json::to_vec(&envelope).map_err(failed)? }))
}

/// An item in the order of its attribute names: the same item gives the same bytes.
type Sorted<'a> = BTreeMap<&'a str, &'a AttributeValue>;

fn sorted(item: &Item) -> Sorted<'_> {
    item.iter().map(|(name, value)| (name.as_str(), value)).collect()
}

#[cfg(test)]
mod tests {
    use dynoxide::actions::get_records::{StreamRecord, UserIdentity};

    use super::*;

    fn item(attributes: &[(&str, &str)]) -> Item {
        attributes
            .iter()
            .map(|(name, value)| ((*name).to_owned(), AttributeValue::S((*value).to_owned())))
            .collect()
    }

    fn record(name: &str, new_image: Option<Item>, old_image: Option<Item>) -> Record {
        Record {
            event_id: "0f7a3d1e6f0b4f4e9a3e1d2c3b4a5f02".to_owned(),
            event_name: name.to_owned(),
            dynamodb: StreamRecord {
                keys: item(&[("pk", "a")]),
                new_image,
                old_image,
                sequence_number: "100001768469402123456".to_owned(),
                size_bytes: 42,
                ..StreamRecord::default()
            },
            ..Record::default()
        }
    }

    #[test]
    fn a_record_has_the_members_of_the_real_one_in_their_order() {
        let change = record("MODIFY", Some(item(&[("pk", "a"), ("b", "2")])), Some(item(&[("pk", "a")])));
        let out = outgoing(&change, "eu-north-1", "Trades").unwrap().unwrap();
        let expected = concat!(
            r#"{"awsRegion":"eu-north-1","eventID":"0f7a3d1e-6f0b-4f4e-9a3e-1d2c3b4a5f02","eventName":"MODIFY","#,
            r#""userIdentity":null,"recordFormat":"application/json","tableName":"Trades","dynamodb":{"#,
            r#""ApproximateCreationDateTime":1768469402123456,"Keys":{"pk":{"S":"a"}},"#,
            r#""NewImage":{"b":{"S":"2"},"pk":{"S":"a"}},"OldImage":{"pk":{"S":"a"}},"SizeBytes":42,"#,
            r#""ApproximateCreationDateTimePrecision":"MICROSECOND"},"eventSource":"aws:dynamodb"}"#,
        );
        assert_eq!(String::from_utf8(out.data).unwrap(), expected);
        assert_eq!(out.partition_key.len(), 32);
        assert!(out.partition_key.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b)));
    }

    #[test]
    fn a_removal_by_time_to_live_says_who_did_it() {
        let mut change = record("REMOVE", None, Some(item(&[("pk", "a")])));
        change.user_identity = Some(UserIdentity {
            identity_type: "Service".to_owned(),
            principal_id: "dynamodb.amazonaws.com".to_owned(),
        });
        let out = outgoing(&change, "eu-north-1", "Trades").unwrap().unwrap();
        let value: serde_json::Value = serde_json::from_slice(&out.data).unwrap();
        assert_eq!(
            value["userIdentity"],
            serde_json::json!({"type": "Service", "principalId": "dynamodb.amazonaws.com"})
        );
        assert!(value["dynamodb"].get("NewImage").is_none());
    }

    #[test]
    fn a_write_that_changed_nothing_is_not_sent() {
        let same = || Some(item(&[("pk", "a"), ("b", "2")]));
        assert_eq!(outgoing(&record("MODIFY", same(), same()), "r", "t"), Ok(None));
    }

    #[test]
    fn one_item_has_one_partition_key() {
        let key = |record: &Record| outgoing(record, "r", "t").unwrap().unwrap().partition_key;
        let first = record("INSERT", Some(item(&[("pk", "a"), ("b", "1")])), None);
        let second = record("REMOVE", None, Some(item(&[("pk", "a")])));
        assert_eq!(key(&first), key(&second));
        let mut other = record("INSERT", Some(item(&[("pk", "z")])), None);
        other.dynamodb.keys = item(&[("pk", "z")]);
        assert_ne!(key(&first), key(&other));
    }

    #[test]
    fn positions_are_dynoxides_only() {
        assert_eq!(position("100001768469402123456"), Some(1_768_469_402_123_456));
        assert_eq!(sequence_number(1_768_469_402_123_456), "100001768469402123456");
        assert_eq!(position("5"), None);
        assert_eq!(position("x"), None);
    }
}
