//! Whole reports: against a naive model, over lakes with bad objects, and as pages.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use proptest::prelude::*;
use rust_decimal::{Decimal, RoundingStrategy};
use serde_json::{Value, json};

use super::*;

const HOUR: &str = "landing/transactions/year=2026/month=01/day=05/hour=03";
const NAMES: [Option<&str>; 4] = [None, Some(""), Some("Kraken"), Some("<b>\"&\u{202e}</script>")];
const HOURS: [&str; 3] = ["2026-01-05 03:00:00", "2026-01-05 04:00:00", "2026-01-15 09:00:00"];

fn everything() -> Scope {
    Scope {
        landing: "landing/transactions".to_owned(),
        since_us: i64::MIN,
        until_us: i64::MAX,
        memory: usize::MAX,
    }
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

async fn lake(objects: &[(&str, &[u8])]) -> Arc<dyn ObjectStore> {
    let store = InMemory::new();
    for (key, body) in objects {
        store.put(&Path::parse(key).unwrap(), body.to_vec().into()).await.unwrap();
    }
    Arc::new(store)
}

async fn look(objects: &[(&str, &[u8])], scope: &Scope) -> Insights {
    let store = lake(objects).await;
    let (coverage, figures) = read(&store, &Path::default(), scope, |_, _| {}).await.unwrap();
    Insights::new("here".to_owned(), coverage, figures, None)
}

/// A row, as a model of it.
#[derive(Clone, Debug)]
struct Model {
    key: Option<u8>,
    order: u32,
    is_deleted: bool,
    is_valid: bool,
    names: [usize; 6],
    hour: usize,
    user: Option<u8>,
    quantity: Option<Decimal>,
    fee: Option<Decimal>,
    price: Option<Decimal>,
}

const COLUMNS: [&str; 6] =
    ["exchange", "trading_pair", "order_type", "trade_status", "risk_flag", "user_category"];

impl Model {
    fn name(&self, column: usize) -> Option<&'static str> {
        NAMES[self.names[column]]
    }

    fn line(&self) -> String {
        let number = |n: &Option<Decimal>| n.map_or_else(|| "null".to_owned(), |n| n.to_string());
        let text = |text: Option<String>| serde_json::to_string(&text).unwrap();
        let mut line = format!(
            "{{\"transaction_id\":{},\"ordering_key\":\"{:09}\",\"cdc_ts_us\":{},\"is_deleted\":{},\"is_valid\":{}",
            text(self.key.map(|key| format!("key {key}"))),
            self.order,
            self.order,
            self.is_deleted,
            self.is_valid
        );
        for (column, name) in COLUMNS.iter().enumerate() {
            line += &format!(",\"{name}\":{}", text(self.name(column).map(str::to_owned)));
        }
        line += &format!(
            ",\"hour_bucket\":\"{}\",\"user_id\":{}",
            HOURS[self.hour],
            text(self.user.map(|u| u.to_string()))
        );
        for (name, value) in
            [("quantity", &self.quantity), ("trade_fee", &self.fee), ("normalized_price", &self.price)]
        {
            line += &format!(",\"{name}\":{}", number(value));
        }
        line + ",\"note\":[1,{}]}\n"
    }
}

fn total(numbers: impl Iterator<Item = Option<Decimal>>) -> Value {
    let numbers: Vec<Decimal> = numbers.flatten().collect();
    if numbers.is_empty() {
        Value::Null
    } else {
        json!(numbers.iter().sum::<Decimal>().normalize().to_string())
    }
}

fn mean(numbers: impl Iterator<Item = Option<Decimal>>) -> Value {
    let numbers: Vec<Decimal> = numbers.flatten().collect();
    if numbers.is_empty() {
        return Value::Null;
    }
    let mean = numbers.iter().sum::<Decimal>() / Decimal::from(numbers.len());
    json!(mean.round_dp_with_strategy(6, RoundingStrategy::MidpointAwayFromZero).normalize().to_string())
}

/// The figures by looking at everything again for each of them.
fn expected(rows: &[Model]) -> Value {
    let keys: BTreeSet<u8> = rows.iter().filter_map(|row| row.key).collect();
    let newest: Vec<&Model> = keys
        .iter()
        .map(|key| rows.iter().filter(|row| row.key == Some(*key)).max_by_key(|row| row.order).unwrap())
        .collect();
    let live: Vec<&Model> = newest.iter().copied().filter(|row| row.is_valid && !row.is_deleted).collect();
    let by = |column: usize| -> BTreeMap<Option<&str>, Vec<&Model>> {
        let mut groups = BTreeMap::<_, Vec<_>>::new();
        live.iter().for_each(|row| groups.entry(row.name(column)).or_default().push(*row));
        groups
    };
    let by_hour = |column: usize| -> BTreeMap<(&str, Option<&str>), Vec<&Model>> {
        let mut groups = BTreeMap::<_, Vec<_>>::new();
        live.iter().for_each(|row| groups.entry((HOURS[row.hour], row.name(column))).or_default().push(*row));
        groups
    };
    let shares = |column| -> Vec<Value> {
        by(column).iter().map(|(name, of)| json!({"name": name, "trades": of.len()})).collect()
    };
    let exchanges: Vec<Value> = by(0)
        .iter()
        .map(|(name, of)| {
            json!({
                "exchange": name,
                "quantity": total(of.iter().map(|row| row.quantity)),
                "trade_fee": total(of.iter().map(|row| row.fee)),
                "trades": of.len(),
            })
        })
        .collect();
    let mut volumes: Vec<(Option<Decimal>, Value)> = by(1)
        .iter()
        .map(|(name, of)| {
            let quantity = total(of.iter().map(|row| row.quantity));
            let sum = quantity.as_str().map(|text| text.parse().unwrap());
            (sum, json!({"trading_pair": name, "quantity": quantity}))
        })
        .collect();
    volumes.sort_by_key(|(sum, _)| std::cmp::Reverse(*sum));
    let risks: Vec<Value> = by_hour(4)
        .iter()
        .map(|((hour, risk), of)| json!({"hour": hour, "risk_flag": risk, "trades": of.len()}))
        .collect();
    let prices: Vec<Value> = by_hour(0)
        .iter()
        .map(|((hour, exchange), of)| {
            let price = mean(of.iter().map(|row| row.price));
            json!({"hour": hour, "exchange": exchange, "normalized_price": price, "trades": of.len()})
        })
        .collect();
    let hours: BTreeSet<&str> = live.iter().map(|row| HOURS[row.hour]).collect();
    let activity: Vec<Value> = hours
        .iter()
        .map(|hour| {
            let of = || live.iter().filter(|row| HOURS[row.hour] == *hour);
            let users: BTreeSet<u8> = of().filter_map(|row| row.user).collect();
            json!({"hour": hour, "trades": of().count(), "users": users.len()})
        })
        .collect();
    json!({
        "transactions": newest.len(),
        "deleted": newest.iter().filter(|row| row.is_deleted).count(),
        "invalid": newest.iter().filter(|row| !row.is_deleted && !row.is_valid).count(),
        "trades": live.len(),
        "trade_fee": total(live.iter().map(|row| row.fee)),
        "exchange_comparison": exchanges,
        "volume_per_trading_pair": volumes.into_iter().map(|(_, volume)| volume).collect::<Vec<_>>(),
        "risk_distribution": shares(4),
        "trades_by_status": shares(3),
        "order_types": shares(2),
        "user_categories": shares(5),
        "risk_by_hour": risks,
        "normalized_price_by_hour": prices,
        "user_activity": activity,
    })
}

prop_compose! {
    fn number()(units in -10i64.pow(12)..10i64.pow(12), scale in 0u32..=12) -> Decimal {
        Decimal::new(units, scale)
    }
}

prop_compose! {
    fn row()(
        key in prop::option::weighted(0.9, 0u8..12),
        is_deleted in prop::bool::weighted(0.2),
        is_valid in prop::bool::weighted(0.8),
        names in prop::array::uniform6(0..NAMES.len()),
        hour in 0..HOURS.len(),
        user in prop::option::of(0u8..4),
        quantity in prop::option::weighted(0.9, number()),
        fee in prop::option::weighted(0.7, number()),
        price in prop::option::weighted(0.9, number()),
    ) -> Model {
        Model { key, order: 0, is_deleted, is_valid, names, hour, user, quantity, fee, price }
    }
}

prop_compose! {
    /// No two rows are of the same moment; they come in any order.
    fn rows()(rows in prop::collection::vec(row(), 0..60))(
        orders in Just((0..u32::try_from(rows.len()).unwrap()).collect::<Vec<_>>()).prop_shuffle(),
        rows in Just(rows),
    ) -> Vec<Model> {
        rows.into_iter().zip(orders).map(|(row, order)| Model { order, ..row }).collect()
    }
}

proptest! {
    /// However the rows are cut into objects, with broken objects and lines between them.
    #[test]
    fn figures_are_those_of_a_naive_model(rows in rows(), cut in 1usize..20, since in 0u32..80) {
        let mut objects: Vec<(String, Vec<u8>)> = rows
            .chunks(cut)
            .enumerate()
            .map(|(at, rows)| {
                let lines: String = rows.iter().map(Model::line).collect();
                (format!("{HOUR}/{at}.ndjson.gz"), gzip(&format!("{{}}\n{lines}")))
            })
            .collect();
        let cuts = objects.len() as u64;
        let whole = gzip(&rows.iter().map(Model::line).collect::<String>());
        objects.push((format!("{HOUR}/broken.ndjson.gz"), whole[..whole.len() - 3].to_vec()));
        let objects: Vec<(&str, &[u8])> = objects.iter().map(|(key, body)| (&**key, &**body)).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let found = runtime.block_on(look(&objects, &everything()));
        let coverage = &found.coverage;
        prop_assert_eq!((coverage.objects, coverage.rows), (cuts, rows.len() as u64));
        prop_assert_eq!((coverage.unreadable.objects, coverage.unreadable.rows), (1, cuts));
        let without = rows.iter().filter(|row| row.key.is_none()).count() as u64;
        prop_assert_eq!(coverage.rows_without_key, without);
        prop_assert_eq!(serde_json::to_value(&found.figures).unwrap(), expected(&rows));
        let page = html(&found);
        let unsafe_text = page.contains("</script>") || page.contains('\u{202e}') || page.contains("NaN");
        prop_assert!(!unsafe_text);
        // The folders say 2026, so that only the rows decide.
        let newer = Scope { since_us: since.into(), ..everything() };
        let found = runtime.block_on(look(&objects, &newer));
        let rows: Vec<Model> = rows.into_iter().filter(|row| row.order >= since).collect();
        prop_assert_eq!(serde_json::to_value(&found.figures).unwrap(), expected(&rows));
    }
}

fn trade(key: u32) -> String {
    let names = [2; 6];
    let one = Some(Decimal::ONE);
    let of = Model {
        key: None,
        order: key,
        is_deleted: false,
        is_valid: true,
        names,
        hour: 0,
        user: Some(1),
        quantity: one,
        fee: one,
        price: one,
    };
    of.line().replacen("null", &format!("\"{key}\""), 1)
}

#[tokio::test]
async fn bad_objects_are_named_and_their_neighbours_count() {
    let good = gzip(&trade(1));
    let (truncated, twice) = (gzip(&trade(2)), [gzip(&trade(3)), gzip(&trade(4))].concat());
    let half = gzip(&(trade(5) + "{\"transaction_id\""));
    let lines = gzip(&format!("{}\n\n{{\"colour\":1}}\n{}", trade(6), trade(7)));
    let objects: Vec<(String, &[u8])> = [
        ("good.ndjson.gz", &good[..]),
        ("twice.gz", &twice),
        ("seal.ndjson.gz", &gzip("")),
        ("truncated.ndjson.gz", &truncated[..truncated.len() - 1]),
        ("empty.ndjson.gz", b""),
        ("half.ndjson.gz", &half),
        ("plain.ndjson.gz", trade(8).as_bytes()),
        ("lines.ndjson.gz", &lines),
        ("notes.txt", b"to be done"),
        ("_SUCCESS", b""),
        ("deeper/x.ndjson.gz", &good),
    ]
    .into_iter()
    .map(|(name, body)| (format!("{HOUR}/{name}"), body.to_vec().leak() as &[u8]))
    .collect();
    let mut objects: Vec<(&str, &[u8])> = objects.iter().map(|(key, body)| (&**key, *body)).collect();
    objects.push(("landing/transactions/loose.ndjson.gz", &good));
    objects.push(("landing/transactions/year=2026/month=1/day=05/hour=03/x.ndjson.gz", &good));
    objects.push(("landing/transactions/year=2026_$folder$", b""));
    objects.push(("landing/transactions_2/year=2026/month=01/day=05/hour=03/x.ndjson.gz", &good));
    let found = look(&objects, &everything()).await;
    assert_eq!(found.figures.trades, 5, "{:?}", found.coverage);
    let unreadable = &found.coverage.unreadable;
    assert_eq!((found.coverage.objects, unreadable.objects, unreadable.rows), (4, 8, 3));
    let lines = unreadable.lines();
    for (object, problem) in [
        ("truncated", "not a complete gzip file"),
        ("empty", "not a complete gzip file"),
        ("half", "no line end"),
        ("plain", "not a complete gzip file"),
        ("lines.ndjson.gz, line 2", "not a JSON object"),
        ("lines.ndjson.gz, line 4", "no ordering_key"),
        ("notes.txt", "not where rows land"),
        ("deeper/x", "not where rows land"),
        ("loose", "not where rows land"),
        ("month=1/", "not where rows land"),
    ] {
        assert!(
            lines.iter().any(|line| line.contains(object) && line.contains(problem)),
            "{object}: {lines:?}"
        );
        assert!(html(&found).contains(problem), "{problem}");
    }
}

#[tokio::test]
async fn problems_beyond_the_first_are_counted() {
    let line = "{}\n".repeat(7);
    let bodies: Vec<(String, Vec<u8>)> =
        (0..30).map(|at| (format!("{HOUR}/{at:02}.ndjson.gz"), gzip(&line))).collect();
    let objects: Vec<(&str, &[u8])> = bodies.iter().map(|(key, body)| (&**key, &**body)).collect();
    let lines = look(&objects, &everything()).await.coverage.unreadable.lines();
    assert_eq!(lines.len(), 21);
    assert!(lines[0].contains("00.ndjson.gz, line 1 and 6 more: no ordering_key"), "{lines:?}");
    assert_eq!(lines[20], "70 more objects or lines could not be read");
}

#[tokio::test]
async fn hours_outside_the_time_are_not_opened() {
    let us = |text: &str| crate::transform::parse_utc_us(text.as_bytes()).unwrap();
    let row = |key: u32, time: &str| {
        gzip(&trade(key).replace(&format!("\"cdc_ts_us\":{key}"), &format!("\"cdc_ts_us\":{}", us(time))))
    };
    let early = row(1, "2026-01-05T03:59:59Z");
    let late = row(2, "2026-01-05T04:00:00Z");
    let four = HOUR.replace("hour=03", "hour=04");
    let [early_key, late_key, broken] = [HOUR, &four, HOUR].map(|hour| format!("{hour}/1.ndjson.gz"));
    let objects: [(&str, &[u8]); 2] = [(&early_key, &early), (&late_key, &late)];
    let scope = |since: &str, until: &str| Scope { since_us: us(since), until_us: us(until), ..everything() };
    for (since, until, rows, outside) in [
        ("2026-01-05T03:00:00Z", "2026-01-05T04:00:00Z", 2, 0),
        ("2026-01-05T03:00:00Z", "2026-01-05T03:59:59Z", 1, 0),
        ("2026-01-05T04:00:00Z", "2026-01-06T00:00:00Z", 1, 0),
        ("2026-01-05T03:00:00Z", "2026-01-05T03:59:58Z", 0, 1),
        ("2026-01-06T03:00:00Z", "2027-01-05T03:59:58Z", 0, 0),
    ] {
        let coverage = look(&objects, &scope(since, until)).await.coverage;
        assert_eq!((coverage.rows, coverage.rows_outside), (rows, outside), "{since} {until}");
        assert!(coverage.unreadable.none());
    }
    let objects: [(&str, &[u8]); 2] = [(&broken, b"broken"), (&late_key, &late)];
    let found = look(&objects, &scope("2026-01-05T04:00:00Z", "2026-01-05T05:00:00Z")).await;
    assert!(found.coverage.unreadable.none() && found.figures.trades == 1);
    assert_eq!(found.coverage.first_change.as_deref(), Some("2026-01-05T04:00:00Z"));
}

#[tokio::test]
async fn too_many_trades_are_an_error_and_many_states_of_one_are_not() {
    let many: String = (0..2_000).map(trade).collect();
    let same: String =
        (0..2_000).map(|order| trade(order).replacen(&format!("\"{order}\""), "\"one\"", 1)).collect();
    let scope = Scope { memory: 100_000, ..everything() };
    let key = format!("{HOUR}/1.ndjson.gz");
    let store = lake(&[(&key, &gzip(&many))]).await;
    let refused = read(&store, &Path::default(), &scope, |_, _| {}).await.unwrap_err();
    assert!(matches!(&refused, ReadError::Full(full) if (200..1_000).contains(&full.trades)), "{refused}");
    let found = look(&[(&key, &gzip(&same))], &scope).await;
    assert_eq!((found.figures.trades, found.coverage.rows), (1, 2_000));
}

#[tokio::test]
async fn a_page_stands_alone_and_shows_every_figure() {
    let key = format!("{HOUR}/1.ndjson.gz");
    let two = trade(1) + &trade(2).replace("\"trade_fee\":1", "\"trade_fee\":1234567.000000000000000001");
    let found = look(&[(&key, &gzip(&two))], &everything()).await;
    let page = html(&found);
    assert_eq!((page.matches("<svg").count(), page.matches("<details>").count()), (8, 8));
    for elsewhere in ["src=", "href=", "@import", "url(", "<script", "style=\""] {
        assert!(!page.contains(elsewhere), "{elsewhere}");
    }
    for words in [
        "1,234,568.000000000000000001",
        "<td>Kraken</td><td class=\"n\">2</td>",
        "<td>2026-01-05 03:00:00</td><td>Kraken</td><td class=\"n\">1</td><td class=\"n\">2</td>",
        "Kraken 100.0 %",
        "<title>Trades in here</title>",
    ] {
        assert!(page.contains(words), "{words} is not in {page}");
    }
    let empty = html(&look(&[], &everything()).await);
    assert!(empty.contains("No row could be read.") && !empty.contains("<svg"), "{empty}");
}

#[tokio::test]
async fn many_names_and_hours_are_cut_on_the_page_and_not_in_the_figures() {
    let lines: String = (0..700)
        .map(|key| {
            let hour = format!("{:04}-01-05 03:00:00", 2000 + key);
            trade(key).replace(HOURS[0], &hour).replace("Kraken", &format!("name {key} {}", "x".repeat(100)))
        })
        .collect();
    let found = look(&[(&format!("{HOUR}/1.ndjson.gz"), &gzip(&lines))], &everything()).await;
    assert_eq!(found.figures.user_activity.len(), 700);
    let page = html(&found);
    for words in ["168 of 700 hours, the newest.", "12 of 700 pairs.", "693 others 99.0 %", "200 more lines"]
    {
        assert!(page.contains(words), "{words}");
    }
    assert!(page.len() < 3_000_000 && !page.contains(&"x".repeat(81)), "{}", page.len());
}
