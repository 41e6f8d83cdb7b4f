//! Made-up transactions over a bounded set of live keys: inserts, changes and deletes, with the values and
//! shapes that real change streams hold and tidy samples do not.
//!
//! Pure: the same seed and mix give the same changes. All numbers are decimal text in DynamoDB's own spelling
//! (no trailing zeros), so that a table gives back what was put.

use std::collections::VecDeque;
use std::sync::Arc;

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::item::{Change, ChangeKind, EXPIRES_AT, Item, KEY, Value};

/// Trade time of the first item: 2026-01-15T00:00:00Z. Fixed, so that a seed means the same items on any day.
const FIRST_TRADE_MS: i64 = 1_768_435_200_000;

/// Kept from the time a change with `expires_at` is made until its delete, in changes.
const EXPIRY_BACKLOG: usize = 64;

/// How changes are mixed.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// Live keys at most; older ones are modified and removed.
    pub live_keys_max: usize,
    /// Share of inserts, 0 to 1, that carry an `expires_at` in the past.
    pub ttl_rate: f64,
    /// Whether the TTL deletes are part of the changes; off when a table makes them itself.
    pub ttl_deletes: bool,
    /// Share of changes, 0 to 1, that no consumer can decode.
    pub bad_rate: f64,
    /// Whether some attributes change their type from item to item, which readers without a schema refuse.
    pub odd_values: bool,
    /// The next trade is made less than so many milliseconds later.
    pub trade_gap_ms: i64,
}

impl Default for Mix {
    fn default() -> Self {
        Self {
            live_keys_max: 10_000,
            ttl_rate: 0.0,
            ttl_deletes: false,
            bad_rate: 0.0,
            odd_values: false,
            trade_gap_ms: 40,
        }
    }
}

/// An endless iterator of changes.
#[derive(Debug)]
pub struct Synthetic {
    rng: ChaCha8Rng,
    mix: Mix,
    live: Vec<Item>,
    expiring: VecDeque<Item>,
    trade_ms: i64,
}

impl Synthetic {
    /// Starts with no live keys.
    pub fn new(seed: u64, mix: Mix) -> Self {
        let rng = ChaCha8Rng::seed_from_u64(seed);
        Self { rng, mix, live: Vec::new(), expiring: VecDeque::new(), trade_ms: FIRST_TRADE_MS }
    }

    fn change(&mut self) -> ChangeKind {
        if self.rng.random_bool(self.mix.bad_rate) {
            return ChangeKind::Broken(self.item());
        }
        if self.mix.ttl_deletes
            && self.expiring.len() > EXPIRY_BACKLOG
            && let Some(item) = self.expiring.pop_front()
        {
            return ChangeKind::Expire(item);
        }
        let full = self.live.len() >= self.mix.live_keys_max.max(1);
        match self.rng.random_range(0..100) {
            _ if self.live.is_empty() => self.insert(),
            0..55 if !full => self.insert(),
            0..85 => self.modify(),
            _ => {
                let place = self.rng.random_range(0..self.live.len());
                ChangeKind::Remove(self.live.swap_remove(place))
            }
        }
    }

    fn insert(&mut self) -> ChangeKind {
        let mut item = self.item();
        if self.rng.random_bool(self.mix.ttl_rate) {
            item.set(EXPIRES_AT, Value::N((self.trade_ms / 1000 - 3600).to_string()));
            // A table may delete it at any moment, so nothing else happens to this key.
            if self.mix.ttl_deletes {
                self.expiring.push_back(item.clone());
            }
        } else {
            self.live.push(item.clone());
        }
        ChangeKind::Insert(item)
    }

    fn modify(&mut self) -> ChangeKind {
        let place = self.rng.random_range(0..self.live.len());
        let old = self.live[place].clone();
        let mut new = old.clone();
        let rng = &mut self.rng;
        if old.text("trade_status") == Some("PENDING") && rng.random_bool(0.7) {
            new.set("trade_status", text(if rng.random_bool(0.9) { "SUCCESS" } else { "FAILED" }));
        } else {
            match rng.random_range(0..4) {
                0 => new.set("quantity", quantity(rng)),
                1 => new.set("trade_fee", Value::N(decimal(rng.random_range(100..=10_000), 4))),
                2 => new.set("order_source", text(pick(rng, &["Web", "Mobile", "API"]))),
                _ => set_extra(rng, &mut new, self.mix.odd_values),
            }
        }
        self.live[place] = new.clone();
        ChangeKind::Modify { old, new }
    }

    /// A new transaction.
    fn item(&mut self) -> Item {
        self.trade_ms += self.rng.random_range(0..self.mix.trade_gap_ms.max(1));
        let rng = &mut self.rng;
        let mut item = Item::with_key(uuid(rng));
        item.set("timestamp", Value::S(timestamp(rng, self.trade_ms)));
        item.set("exchange", text(exchange(rng)));
        item.set(
            "trading_pair",
            text(pick(rng, &["BTC/USD", "ETH/USDT", "SOL/USD", "ADA/USDT", "XRP/USD", "PEPE/USDT"])),
        );
        item.set("order_type", text(pick(rng, &["BUY", "SELL"])));
        let (price, quantity) = price_and_quantity(rng);
        item.set("price", price);
        item.set("quantity", quantity);
        item.set("trade_fee", Value::N(decimal(rng.random_range(100..=10_000), 4)));
        let status = match rng.random_range(0..100) {
            0..70 => "SUCCESS",
            70..92 => "PENDING",
            _ => "FAILED",
        };
        item.set("trade_status", text(status));
        item.set("user_id", Value::S(uuid(rng)));
        item.set("wallet_address", Value::S(format!("GB00TEST{:014}", rng.random_range(0..10u64.pow(14)))));
        item.set("order_source", text(pick(rng, &["Web", "Mobile", "API"])));
        if rng.random_bool(0.02) {
            let names: Vec<String> =
                item.attributes().map(|(name, _)| name.to_owned()).filter(|name| name != KEY).collect();
            item.unset(names.choose(rng).expect("an item has more than its key"));
        }
        if rng.random_bool(0.05) {
            set_extra(rng, &mut item, self.mix.odd_values);
        }
        item
    }
}

impl Iterator for Synthetic {
    type Item = Change;

    fn next(&mut self) -> Option<Change> {
        let kind = self.change();
        let (ChangeKind::Insert(item)
        | ChangeKind::Modify { new: item, .. }
        | ChangeKind::Remove(item)
        | ChangeKind::Expire(item)
        | ChangeKind::Broken(item)) = &kind;
        let key: Arc<str> = item.text(KEY).expect("every item has its key").into();
        Some(Change { key, kind })
    }
}

/// `units` × 10^-`scale` as DynamoDB spells it: no trailing zeros after the point.
fn decimal(units: i64, scale: usize) -> String {
    let digits = format!("{:0>width$}", units.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let fraction = fraction.trim_end_matches('0');
    let sign = if units < 0 { "-" } else { "" };
    let point = if fraction.is_empty() { "" } else { "." };
    format!("{sign}{whole}{point}{fraction}")
}

fn price_and_quantity(rng: &mut ChaCha8Rng) -> (Value, Value) {
    let number = |units, scale| Value::N(decimal(units, scale));
    match rng.random_range(0..100) {
        // Worth more than 500,000: HIGH_RISK.
        0..6 => (number(rng.random_range(5_000_000..=7_000_000), 2), number(rng.random_range(101..=900), 1)),
        // On the limits of the risk classes, where `>` and `>=` differ.
        6..9 => (number(rng.random_range(4_999_999..=5_000_001), 2), number(pick(rng, &[1, 2, 10]), 0)),
        // Tiny prices, large amounts.
        9..15 => (number(rng.random_range(397..=999_999), 11), number(rng.random_range(1..=60_600_000), 0)),
        // More digits than the enrichment keeps.
        15..19 => {
            let price = rng.random_range(100_000_000_000..=70_000_000_000_000);
            (number(price, 9), number(rng.random_range(10_000_000..=5_000_000_000), 9))
        }
        // Not positive, which the lake marks as not valid.
        19 => (number(rng.random_range(-100..=0), 2), quantity(rng)),
        _ => (number(rng.random_range(10_000..=7_000_000), 2), quantity(rng)),
    }
}

fn quantity(rng: &mut ChaCha8Rng) -> Value {
    Value::N(decimal(rng.random_range(10_000..=5_000_000), 6))
}

fn exchange(rng: &mut ChaCha8Rng) -> &'static str {
    match rng.random_range(0..100) {
        0..93 => pick(rng, &["Binance", "Coinbase", "Kraken", "FTX", "OKX", "Bitfinex"]),
        // Unknown to the enrichment; the last differs from a known one only by case.
        _ => pick(rng, &["Gemini", "Bitstamp", "binance"]),
    }
}

/// A trade time in one of the spellings that producers use: no zone, `+00:00`, `Z`, an offset; 0 to 6 digits.
fn timestamp(rng: &mut ChaCha8Rng, ms: i64) -> String {
    if rng.random_range(0..500) == 0 {
        return "yesterday".to_owned();
    }
    let micros = ms * 1000 + rng.random_range(0..1000);
    let (zone, shift_hours) =
        pick(rng, &[("", 0), ("", 0), ("+00:00", 0), ("+00:00", 0), ("Z", 0), ("+02:00", 2), ("-05:00", -5)]);
    let local = jiff::Timestamp::from_microsecond(micros + shift_hours * 3_600_000_000)
        .expect("a trade time in this century")
        .strftime("%Y-%m-%dT%H:%M:%S%.6f")
        .to_string();
    // 19 characters up to the seconds; the point counts as one.
    let digits = rng.random_range(0..=6);
    let keep = if digits == 0 { 19 } else { 20 + digits };
    format!("{}{zone}", &local[..keep])
}

/// One attribute that the domain model does not know, of any type. It has the same type in every item, unless values
/// may be `odd`.
fn set_extra(rng: &mut ChaCha8Rng, item: &mut Item, odd: bool) {
    let count = Value::N(rng.random_range(0..1000).to_string());
    match rng.random_range(0..10) {
        0 => item.set("note", text(pick(rng, &["", "Zürich ☃ 🧊", "line1\nline2\t\"q\" \\ \u{1}\u{2028}"]))),
        1 => item.set("Mixed Case.Name", count),
        2 => item.set("URL", text("https://example.com")),
        3 if odd && rng.random_bool(0.5) => item.set("margin", text("none")),
        3 => item.set("margin", Value::Bool(rng.random_bool(0.5))),
        4 => item.set("referrer", Value::Null),
        5 => item.set("signature", Value::B(rng.random::<[u8; 7]>().to_vec())),
        6 if odd && rng.random_bool(0.5) => item.set("tags", Value::M(vec![("n".into(), count)])),
        6 => item.set("tags", Value::Ss(vec!["S".into(), "new".into()])),
        7 => item.set("levels", Value::Ns(vec!["-1".into(), "0.5".into(), "9007199254740993".into()])),
        8 => {
            let fill = Value::M(vec![("S".into(), text("a name like a tag")), ("n".into(), count)]);
            let fills =
                if odd { vec![fill, Value::Null, Value::L(vec![]), Value::Bool(true)] } else { vec![fill] };
            item.set("fills", Value::L(fills));
        }
        _ => item.set("blobs", Value::Bs(vec![vec![1], vec![255, 0]])),
    }
}

fn uuid(rng: &mut ChaCha8Rng) -> String {
    uuid::Builder::from_random_bytes(rng.random()).into_uuid().to_string()
}

fn text(value: &str) -> Value {
    Value::S(value.to_owned())
}

fn pick<T: Copy>(rng: &mut ChaCha8Rng, choices: &[T]) -> T {
    *choices.choose(rng).expect("choices are never empty")
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const MIX: Mix = Mix {
        live_keys_max: 200,
        ttl_rate: 0.05,
        ttl_deletes: true,
        bad_rate: 0.01,
        odd_values: true,
        trade_gap_ms: 40,
    };

    #[test]
    fn a_seed_repeats_its_changes() {
        let changes = |seed| Synthetic::new(seed, MIX).take(3000).collect::<Vec<_>>();
        assert_eq!(changes(7), changes(7));
        assert_ne!(changes(7), changes(8));
    }

    #[test]
    fn images_follow_one_another_and_live_keys_are_bounded() {
        let mut table: HashMap<Arc<str>, Item> = HashMap::new();
        let mut kinds = [0; 5];
        for change in Synthetic::new(1, MIX).take(20_000) {
            match change.kind {
                ChangeKind::Insert(new) => {
                    kinds[0] += 1;
                    assert_eq!(table.insert(change.key, new), None);
                }
                ChangeKind::Modify { old, new } => {
                    kinds[1] += 1;
                    assert!(old.get(EXPIRES_AT).is_none());
                    assert_eq!(table.insert(change.key, new), Some(old));
                }
                ChangeKind::Remove(old) => {
                    kinds[2] += 1;
                    assert_eq!(table.remove(&change.key), Some(old));
                }
                ChangeKind::Expire(old) => {
                    kinds[3] += 1;
                    assert!(old.get(EXPIRES_AT).is_some());
                    assert_eq!(table.remove(&change.key), Some(old));
                }
                ChangeKind::Broken(_) => kinds[4] += 1,
            }
            assert!(table.len() <= MIX.live_keys_max + EXPIRY_BACKLOG + 2);
        }
        assert!(kinds.iter().all(|count| *count > 50), "every kind of change occurs: {kinds:?}");
    }

    #[test]
    fn no_ttl_deletes_and_no_broken_records_for_a_table() {
        let mix = Mix { ttl_rate: 0.2, ..Mix::default() };
        let changes: Vec<_> = Synthetic::new(1, mix).take(5000).collect();
        let expiring = changes
            .iter()
            .filter(|c| matches!(&c.kind, ChangeKind::Insert(item) if item.get(EXPIRES_AT).is_some()));
        assert!(expiring.count() > 100);
        assert!(!changes.iter().any(|c| matches!(c.kind, ChangeKind::Expire(_) | ChangeKind::Broken(_))));
    }

    #[test]
    fn what_tidy_samples_lack_occurs() {
        let items: Vec<Item> = Synthetic::new(3, Mix::default())
            .take(20_000)
            .filter_map(|change| match change.kind {
                ChangeKind::Insert(item) => Some(item),
                _ => None,
            })
            .collect();
        let has = |what: &str, test: &dyn Fn(&Item) -> bool| {
            assert!(items.iter().any(test), "no item with {what}");
        };
        let number = |item: &Item, name| item.text(name).map_or(0.0, |n| n.parse::<f64>().unwrap());
        has("high risk", &|i| number(i, "price") * number(i, "quantity") > 500_000.0);
        has("a tiny price", &|i| (0.0..0.00001).contains(&number(i, "price")) && i.get("price").is_some());
        has("exactly 500000", &|i| i.text("price") == Some("50000") && i.text("quantity") == Some("10"));
        has("a price that is not positive", &|i| i.text("price").is_some_and(|p| p.starts_with('-')));
        has("an unknown exchange", &|i| i.text("exchange") == Some("Gemini"));
        has("a missing price", &|i| i.get("price").is_none());
        has("a missing exchange", &|i| i.get("exchange").is_none());
        has("a list", &|i| matches!(i.get("fills"), Some(Value::L(_))));
        has("a binary set", &|i| matches!(i.get("blobs"), Some(Value::Bs(_))));
        for status in ["SUCCESS", "PENDING", "FAILED"] {
            has(status, &|i| i.text("trade_status") == Some(status));
        }
        let times: Vec<&str> = items.iter().filter_map(|item| item.text("timestamp")).collect();
        for length in [19, 21, 22, 23, 24, 25, 26] {
            assert!(times.iter().any(|t| t.len() == length && !t.ends_with('Z')), "no time of {length}");
        }
        for zone in ["Z", "+00:00", "+02:00", "-05:00"] {
            assert!(times.iter().any(|t| t.ends_with(zone)), "no time with {zone}");
        }
        for name in ["price", "quantity", "trade_fee"] {
            let trimmed = |n: &str| !n.contains('.') || !n.ends_with(['0', '.']);
            assert!(items.iter().filter_map(|i| i.text(name)).all(trimmed));
        }
    }

    /// A reader without a schema takes the type of the first value for that of all.
    #[test]
    fn only_odd_values_change_their_type() {
        fn type_of(value: &Value) -> String {
            match value {
                Value::S(_) | Value::B(_) => "text".to_owned(),
                Value::N(_) => "number".to_owned(),
                Value::Bool(_) => "flag".to_owned(),
                Value::Null => "null".to_owned(),
                Value::Ss(_) | Value::Bs(_) => "texts".to_owned(),
                Value::Ns(_) => "numbers".to_owned(),
                Value::L(members) => format!("{:?}", members.iter().map(type_of).collect::<Vec<_>>()),
                Value::M(members) => {
                    format!(
                        "{:?}",
                        members.iter().map(|(name, value)| (name, type_of(value))).collect::<Vec<_>>()
                    )
                }
            }
        }
        for odd_values in [false, true] {
            let mut types: HashMap<String, String> = HashMap::new();
            let mut changed = 0;
            for change in Synthetic::new(5, Mix { odd_values, ..Mix::default() }).take(20_000) {
                let (ChangeKind::Insert(item) | ChangeKind::Modify { new: item, .. }) = change.kind else {
                    continue;
                };
                for (name, value) in item.attributes() {
                    let known = types.entry(name.to_owned()).or_insert_with(|| type_of(value));
                    changed += usize::from(*known != type_of(value));
                }
            }
            assert!(types.contains_key("fills") && types.contains_key("tags"));
            assert_eq!(changed > 0, odd_values);
        }
    }

    #[test]
    fn decimals_are_spelled_like_dynamodb_spells_them() {
        for (units, scale, expected) in [
            (0, 2, "0"),
            (5, 2, "0.05"),
            (-150, 2, "-1.5"),
            (397, 11, "0.00000000397"),
            (1000, 3, "1"),
            (7, 0, "7"),
        ] {
            assert_eq!(decimal(units, scale), expected);
        }
    }
}
