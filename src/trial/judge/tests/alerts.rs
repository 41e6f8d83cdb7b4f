//! Copies of rows of high risk.

use super::{World, hour_path, sound};

const HIGH: &str = r#""risk_flag":"HIGH_RISK""#;

fn copies(hour: &str, name: &str) -> String {
    hour_path(hour, name).replace("landing/transactions", "alerts/high_risk")
}

/// A sound lake with two rows that have copies, and others that nearly need one.
fn with_copies() -> World {
    let mut world = sound();
    let valid = r#""is_valid":true,"invalid_reason":null"#;
    for (object, line, flag, valid) in [
        (0, 5, HIGH, Some(valid)),
        (2, 5, HIGH, Some(valid)),
        (0, 7, HIGH, None),
        (0, 8, r#""risk_flag":"LOW_RISK""#, Some(valid)),
    ] {
        let row = &mut world.objects[object].1[line];
        *row = row.replace(r#""risk_flag":null"#, flag);
        if let Some(valid) = valid {
            *row = row.replace(r#""is_valid":false,"invalid_reason":"missing_field""#, valid);
        }
    }
    let [first, second] = [0, 2].map(|object| world.objects[object].1[5].clone());
    assert!(first.contains(HIGH) && second.contains("\"is_valid\":true"));
    world.objects.push((copies("09", "a"), vec![first]));
    world.objects.push((copies("10", "c"), vec![second]));
    world
}

#[tokio::test]
async fn rows_of_high_risk_have_one_copy_each() {
    let check = with_copies().check().await;
    assert!(check.ok(), "{check:?}");
    assert_eq!((check.alerts, check.rows_delivered, check.objects), (2, 40, 5));
}

#[tokio::test]
async fn copies_that_are_missing_repeated_or_of_other_rows_are_found() {
    for (change, missing, unexpected) in [
        ((|world| drop(world.objects.pop())) as fn(&mut World), 1, 0),
        (|world| world.objects[5].1 = world.objects[6].1.clone(), 1, 1),
        (|world| world.objects.push((copies("10", "c-r1"), world.objects[6].1.clone())), 0, 1),
        (
            |world| world.objects[5].1 = vec![world.objects[5].1[0].clone(), world.objects[0].1[7].clone()],
            0,
            1,
        ),
        (
            |world| world.objects[5].1[0] = world.objects[5].1[0].replace(r#""price":5.5"#, r#""price":5.6"#),
            1,
            1,
        ),
        // They are of nobody who was to make some.
        (|world| world.alerts = false, 0, 2),
    ] {
        let mut world = with_copies();
        change(&mut world);
        let check = world.check().await;
        assert!(!check.ok() && !check.problems.is_empty(), "{check:?}");
        assert_eq!((check.alerts_missing, check.alerts_unexpected), (missing, unexpected), "{check:?}");
        assert_eq!((check.missing, check.duplicated), (0, 0));
    }
}

#[tokio::test]
async fn copies_that_are_misplaced_or_broken_are_found() {
    let mut world = with_copies();
    world.objects[5].0 = copies("10", "a");
    assert_eq!(world.check().await.misplaced, 1);
    let mut world = with_copies();
    world.objects[5].1.push("{}".to_owned());
    assert_eq!(world.check().await.broken_lines, 1);
    let mut world = with_copies();
    world.objects.push((copies("10", "empty"), Vec::new()));
    assert_eq!(world.check().await.broken_objects, 1, "nobody seals copies");
}
