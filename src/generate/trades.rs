//! Real trades from CSV files, plain or gzip, as transactions.
//!
//! Header: `exchange,symbol,trade_id,timestamp_ms,side,price,amount`. A line that cannot be read is reported and
//! passed over; a file that cannot be read ends the run.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use flate2::bufread::MultiGzDecoder;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::decimal::{Decimal, fee};
use super::envelope::fnv1a;
use super::item::{Change, ChangeKind, Item, Value};

const HEADER: [&str; 7] = ["exchange", "symbol", "trade_id", "timestamp_ms", "side", "price", "amount"];

/// Nobody traded what is traded here before 2009, and seconds taken for milliseconds are in 1970.
const PLAUSIBLE_MS: Range<i64> = 1_230_768_000_000..4_102_444_800_000;

/// Bytes that a record may have; real ones have about a hundred.
const RECORD_BYTES_MAX: usize = 1 << 20;

/// Why a trade could not be read.
#[derive(Debug, Error)]
pub enum TradeError {
    /// One line is bad; the next ones may be good.
    #[error("{file}, line {line}: {reason}")]
    Line {
        /// The file as the user named it.
        file: String,
        /// Line in the decompressed text, from 1.
        line: u64,
        /// What is wrong, without the value.
        reason: &'static str,
    },
    /// The file is not usable from here on.
    #[error("could not read trades from {file}{}: {reason}", after(*line))]
    File {
        /// The file as the user named it.
        file: String,
        /// The last line that could be read, 0 when there was none.
        line: u64,
        /// What is wrong and what was expected.
        reason: String,
    },
}

fn after(line: u64) -> String {
    if line == 0 { String::new() } else { format!(" after line {line}") }
}

/// A trade in its file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The file as the user named it.
    pub file: String,
    /// Line in the decompressed text, from 1.
    pub line: u64,
}

/// The trades of some files, one file after the other, as inserts.
pub struct TradeFiles {
    waiting: VecDeque<PathBuf>,
    open: Option<OpenFile>,
    last: Option<Place>,
}

struct OpenFile {
    reader: csv::Reader<Bounded>,
    /// Bytes read since the last record.
    since: Arc<AtomicUsize>,
    name: String,
    stem: String,
    line: u64,
}

impl TradeFiles {
    /// Reads nothing yet.
    pub fn new(files: impl IntoIterator<Item = PathBuf>) -> Self {
        Self { waiting: files.into_iter().collect(), open: None, last: None }
    }

    /// The last trade read.
    pub fn place(&self) -> Option<Place> {
        let here = self.open.as_ref().filter(|file| file.line > 1);
        here.map(|file| Place { file: file.name.clone(), line: file.line }).or_else(|| self.last.clone())
    }

    fn read(&mut self) -> Option<Result<Change, TradeError>> {
        let mut record = csv::StringRecord::new();
        loop {
            let file = match &mut self.open {
                Some(file) => file,
                closed => match OpenFile::open(&self.waiting.pop_front()?) {
                    Ok(file) => closed.insert(file),
                    Err(error) => return Some(Err(error)),
                },
            };
            let outcome = file.reader.read_record(&mut record);
            file.since.store(0, Ordering::Relaxed);
            match outcome {
                Ok(true) => {
                    let line = record.position().map_or(0, csv::Position::line);
                    file.line = line;
                    return Some(
                        transaction(&record, &file.stem, line).map_err(|reason| file.bad(line, reason)),
                    );
                }
                Ok(false) => {
                    self.last = self.place();
                    self.open = None;
                }
                Err(error) => {
                    if let csv::ErrorKind::Utf8 { pos, .. } = error.kind() {
                        file.line = pos.as_ref().map_or(0, csv::Position::line);
                        return Some(Err(file.bad(file.line, "not UTF-8")));
                    }
                    let (file, line) = (file.name.clone(), file.line);
                    let error = TradeError::File { file, line, reason: error.to_string() };
                    self.last = self.place();
                    self.open = None;
                    return Some(Err(error));
                }
            }
        }
    }
}

impl Iterator for TradeFiles {
    type Item = Result<Change, TradeError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read()
    }
}

impl OpenFile {
    fn open(path: &Path) -> Result<Self, TradeError> {
        let name = path.display().to_string();
        let failed = |reason: String| TradeError::File { file: name.clone(), line: 0, reason };
        let text = plain_text(path).map_err(|error| failed(error.to_string()))?;
        let since = Arc::new(AtomicUsize::new(0));
        let text = Bounded { text, since: Arc::clone(&since) };
        let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(text);
        let header = reader.headers().map_err(|error| failed(error.to_string()))?;
        if header != HEADER.as_slice() {
            return Err(failed(format!("the first line must be {}", HEADER.join(","))));
        }
        let stem = path.file_name().unwrap_or_default().to_string_lossy();
        let stem = stem.split_once('.').map_or(&*stem, |(stem, _)| stem).to_owned();
        Ok(Self { reader, since, name, stem, line: 1 })
    }

    fn bad(&self, line: u64, reason: &'static str) -> TradeError {
        TradeError::Line { file: self.name.clone(), line, reason }
    }
}

/// The text of a file, unpacked when it starts like gzip, whatever its name.
fn plain_text(path: &Path) -> io::Result<Box<dyn Read + Send>> {
    let mut file = BufReader::with_capacity(64 * 1024, File::open(path)?);
    Ok(match file.fill_buf()?.starts_with(&[0x1f, 0x8b]) {
        true => Box::new(MultiGzDecoder::new(file)),
        false => Box::new(file),
    })
}

/// A text that breaks when a record does not end: the reader would hold all of it.
struct Bounded {
    text: Box<dyn Read + Send>,
    since: Arc<AtomicUsize>,
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.text.read(buffer)?;
        if self.since.fetch_add(read, Ordering::Relaxed) > RECORD_BYTES_MAX {
            return Err(io::Error::new(ErrorKind::InvalidData, "the next line has more than 1 MiB"));
        }
        Ok(read)
    }
}

fn transaction(record: &csv::StringRecord, file: &str, line: u64) -> Result<Change, &'static str> {
    let fields: Vec<&str> = record.iter().collect();
    let [venue, symbol, trade_id, timestamp_ms, side, price, amount] = fields[..] else {
        return Err("expected 7 fields");
    };
    if venue.is_empty() || symbol.is_empty() {
        return Err("exchange or symbol is empty");
    }
    let time = timestamp_ms
        .parse()
        .ok()
        .filter(|ms| PLAUSIBLE_MS.contains(ms))
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .ok_or("timestamp_ms must be a time in milliseconds, between 2009 and 2100")?;
    let order_type = match side {
        "buy" => "BUY",
        "sell" => "SELL",
        _ => return Err("side must be buy or sell"),
    };
    let (Some(price), Some(amount)) = (Decimal::parse(price), Decimal::parse(amount)) else {
        return Err(
            "price and amount must be numbers that DynamoDB accepts: up to 38 digits, 1E-130 to 1E+126",
        );
    };
    // Trades without an id may be equal in every field and still be two trades: only the place tells them apart.
    let id = match trade_id {
        "" => format!("{venue}:{symbol}:{file}#{line}"),
        id => format!("{venue}:{symbol}:{id}"),
    };
    let hash = fnv1a(id.as_bytes());
    let text = |value: &str| Value::S(value.to_owned());
    let mut item = Item::with_key(id.as_str());
    item.set("timestamp", Value::S(time.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()));
    item.set("exchange", text(exchange(venue)));
    item.set("trading_pair", text(symbol));
    item.set("order_type", text(order_type));
    item.set("price", Value::N(price.to_string()));
    item.set("quantity", Value::N(amount.to_string()));
    if let Some(fee) = fee(&price, &amount) {
        item.set("trade_fee", Value::N(fee));
    }
    item.set("trade_status", text("SUCCESS"));
    item.set(
        "user_id",
        Value::S(uuid::Builder::from_custom_bytes(hash.to_be_bytes()).into_uuid().to_string()),
    );
    item.set("wallet_address", Value::S(format!("GB00TEST{:014}", hash % 10u128.pow(14))));
    item.set("order_source", text(if hash & 1 == 0 { "API" } else { "Web" }));
    Ok(Change { key: id.into(), kind: ChangeKind::Insert(item) })
}

/// The enrichment's spelling of the venues that it knows; any other as it is.
fn exchange(venue: &str) -> &str {
    match venue {
        "binance" => "Binance",
        "coinbase" => "Coinbase",
        "kraken" => "Kraken",
        "ftx" => "FTX",
        "okx" => "OKX",
        "bitfinex" => "Bitfinex",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    const TEXT: &str = "exchange,symbol,trade_id,timestamp_ms,side,price,amount\n\
        binance,BTCUSDT,3071245454,1680652799999,sell,28165.47000000,0.00056000\n\
        bitmex,XBTUSD,,1514764802610,buy,13873,10\n\
        bitmex,XBTUSD,,1514764802610,buy,13873,10\n";

    fn read(name: &str, bytes: &[u8]) -> Vec<Result<Change, TradeError>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        TradeFiles::new([path]).take(1000).collect()
    }

    fn items(trades: Vec<Result<Change, TradeError>>) -> Vec<Item> {
        let item = |trade: Result<Change, TradeError>| match trade.unwrap().kind {
            ChangeKind::Insert(item) => item,
            other => panic!("not an insert: {other:?}"),
        };
        trades.into_iter().map(item).collect()
    }

    #[test]
    fn trades_become_transactions_with_their_own_digits() {
        let items = items(read("t.csv", TEXT.as_bytes()));
        let first = &items[0];
        for (name, expected) in [
            ("transaction_id", "binance:BTCUSDT:3071245454"),
            ("timestamp", "2023-04-04T23:59:59.999Z"),
            ("exchange", "Binance"),
            ("trading_pair", "BTCUSDT"),
            ("order_type", "SELL"),
            ("price", "28165.47000000"),
            ("quantity", "0.00056000"),
            ("trade_fee", "0.0158"),
            ("trade_status", "SUCCESS"),
        ] {
            assert_eq!(first.text(name), Some(expected), "{name}");
        }
        assert_eq!(items[1].text("exchange"), Some("bitmex"));
        // Equal in every field, without an id: two trades.
        assert_eq!(items[1].text("transaction_id"), Some("bitmex:XBTUSD:t#3"));
        assert_eq!(items[2].text("transaction_id"), Some("bitmex:XBTUSD:t#4"));
    }

    #[test]
    fn gzip_and_plain_files_read_alike() {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(TEXT.as_bytes()).unwrap();
        let gzip = gzip.finish().unwrap();
        assert_eq!(items(read("t.csv.gz", &gzip)), items(read("t.csv", TEXT.as_bytes())));

        let cut = read("t.csv.gz", &gzip[..gzip.len() - 12]);
        assert!(
            matches!(cut.last(), Some(Err(TradeError::File { line, .. })) if *line + 1 >= cut.len() as u64)
        );
    }

    #[test]
    fn bad_lines_name_their_place_and_the_next_line_is_read() {
        let header = HEADER.join(",");
        for bad in [
            "binance,BTCUSDT,1,1680652799999,sell,1",
            "binance,BTCUSDT,1,1680652799999,sell,1,1,1",
            ",BTCUSDT,1,1680652799999,sell,1,1",
            "binance,BTCUSDT,1,soon,sell,1,1",
            "binance,BTCUSDT,1,999999999999999999,sell,1,1",
            "binance,BTCUSDT,1,1680652799999,hold,1,1",
            "binance,BTCUSDT,1,1680652799,sell,1,1",
            "binance,BTCUSDT,1,1680652799999000,sell,1,1",
            "binance,BTCUSDT,1,1680652799999,sell,1e126,1",
            "binance,BTCUSDT,1,1680652799999,sell,1e,1",
            "binance,BTCUSDT,1,1680652799999,sell,NaN,1",
            "binance,BTCUSDT,1,1680652799999,sell,1,",
            "binance,BTCUSDT,1,1680652799999,sell,1,123456789012345678901234567890123456789",
        ] {
            let text = format!("{header}\n{bad}\nbinance,BTCUSDT,2,1680652799999,sell,1,1\n");
            let trades = read("t.csv", text.as_bytes());
            assert!(matches!(&trades[0], Err(TradeError::Line { line: 2, .. })), "{bad}: {:?}", trades[0]);
            assert!(trades[1].is_ok() && trades.len() == 2, "{bad}");
        }
        let mut bytes = format!("{header}\n").into_bytes();
        bytes.extend_from_slice(b"bin\xffance,BTCUSDT,1,1680652799999,sell,1,1\n");
        assert!(matches!(&read("t.csv", &bytes)[..], [Err(TradeError::Line { line: 2, .. })]));
    }

    #[test]
    fn every_number_that_dynamodb_takes_is_taken() {
        let text = format!("{}\nbinance,BTCUSDT,1,1680652799999,sell,2.1E-7,+1e3\n", HEADER.join(","));
        let items = items(read("t.csv", text.as_bytes()));
        assert_eq!(items[0].text("price"), Some("2.1E-7"));
        assert_eq!(items[0].text("quantity"), Some("1E3"));
        assert_eq!(items[0].text("trade_fee"), Some("0"));
    }

    #[test]
    fn a_record_without_end_is_not_held() {
        let header = HEADER.join(",");
        for endless in ["x", "binance\n"] {
            let text =
                format!("{header}\nbinance,BTCUSDT,2,1680652799999,sell,1,1\n\"{}", endless.repeat(1 << 21));
            let trades = read("t.csv", text.as_bytes());
            let [Ok(_), Err(error)] = &trades[..] else { panic!("{} trades", trades.len()) };
            assert!(
                error.to_string().ends_with("t.csv after line 2: the next line has more than 1 MiB"),
                "{error}"
            );
        }
    }

    #[test]
    fn files_that_are_no_trades_are_refused() {
        assert!(matches!(&read("t.csv", b"a,b,c\n1,2,3\n")[..], [Err(TradeError::File { .. })]));
        assert!(matches!(&read("t.csv", b"")[..], [Err(TradeError::File { .. })]));
        let mut missing = TradeFiles::new(["no/such/file.csv.gz".into()]);
        assert!(matches!(missing.next(), Some(Err(TradeError::File { .. }))));
        assert!(missing.next().is_none());
    }

    /// Runs over the real trades where they are at hand.
    #[test]
    fn real_trades_are_all_readable() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/trades");
        let Ok(entries) = std::fs::read_dir(&folder) else {
            println!("skipped: no trade files in {}", folder.display());
            return;
        };
        // The one file of 770,000 rows has the shape of the others and would take most of the time.
        let small = |path: &PathBuf| path.metadata().is_ok_and(|file| file.len() < 1_000_000);
        let files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).filter(small).collect();
        let mut ids = HashSet::new();
        let mut repeated = 0;
        let mut count = 0;
        for trade in TradeFiles::new(files) {
            count += 1;
            repeated += usize::from(!ids.insert(trade.unwrap().key));
        }
        assert!(count > 100_000, "only {count} trades");
        assert!(repeated < count / 1000, "{repeated} of {count} trades share an id with another");
    }
}
