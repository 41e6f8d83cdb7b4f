//! The streams of a worker: from flags, or from the tables `[[streams]]` of the settings file, which may change while it
//! runs.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::{
    BadSetting, RetrievalConfig, RetrievalSetting, application, default_landing, folder, initial_position,
    layout, stream, table, topic,
};
use crate::aws::{AssumeRole, StreamAddress};
use crate::batch::Layout;
use crate::fetch::{Polled, Polling, RecordSource, Starts};
use crate::processor::ProcessorFactory;
use crate::shard::{Checkpoint, FindStart, ShardLister};
use crate::transform::{
    Builtin, ColumnSettings, Enrichment, SourceKind, Transform, TransformError, TransformSettings,
};

/// Bytes of a settings file.
const SETTINGS_MAX: u64 = 1 << 20;
/// The longest time between two polls of a quiet shard of a program's own source.
const POLL_IDLE_MAX: Duration = Duration::from_secs(1);

/// One stream to read, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamConfig {
    /// Which one.
    pub address: StreamAddress,
    /// In whose role it is read; none: this process's own.
    pub role: Option<AssumeRole>,
    /// What reads it; none: Kinesis.
    pub source: Option<Source>,
    /// How its shards are read.
    pub retrieval: RetrievalConfig,
    /// What is done with its records.
    pub work: Work,
    /// Where new leases start.
    pub initial: Checkpoint,
    /// The time that AT_TIMESTAMP means, µs since the epoch.
    pub initial_timestamp_us: Option<i64>,
}

/// What a program reads a stream with that is not one of Kinesis. See [`crate::source`].
#[derive(Clone)]
pub struct Source {
    kind: SourceKind,
    records: Arc<dyn RecordSource>,
    shards: Arc<dyn ShardLister>,
    starts: Arc<dyn FindStart>,
}

impl Source {
    /// A stream that is read by these. `kind`: what the ordering keys of the built-in transforms are made of.
    pub fn new(
        kind: SourceKind,
        records: Arc<dyn RecordSource>,
        shards: Arc<dyn ShardLister>,
        starts: Arc<dyn FindStart>,
    ) -> Self {
        Self { kind, records, shards, starts }
    }

    /// A stream that is read by iterators, as Kinesis is: polled at the pace of Kinesis, and searched for where a shard
    /// starts.
    pub fn polled(kind: SourceKind, polled: Arc<dyn Polled>, shards: Arc<dyn ShardLister>) -> Self {
        let starts = Arc::new(Starts::new(Arc::clone(&polled)));
        Self::new(kind, Arc::new(Polling::new(polled, POLL_IDLE_MAX)), shards, starts)
    }

    /// Its parts.
    pub(crate) fn parts(&self) -> SourceParts {
        (self.kind, Arc::clone(&self.records), Arc::clone(&self.shards), Arc::clone(&self.starts))
    }
}

/// What a [`Source`] is made of.
pub(crate) type SourceParts = (SourceKind, Arc<dyn RecordSource>, Arc<dyn ShardLister>, Arc<dyn FindStart>);

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Source({})", self.kind.as_str())
    }
}

impl PartialEq for Source {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.records, &other.records)
    }
}

/// What is done with the records of a stream.
#[derive(Clone, Debug)]
pub enum Work {
    /// They become rows, which land exactly once.
    Land(Landing),
    /// A program's own code gets them.
    Process(Arc<dyn ProcessorFactory>),
}

/// What records become, and where that lands.
#[derive(Clone, Debug)]
pub struct Landing {
    /// What makes the rows.
    pub transform: Arc<dyn Transform>,
    /// Folders of the lake.
    pub layout: Layout,
}

impl StreamConfig {
    /// What kind of stream it is.
    pub fn kind(&self) -> Kind {
        match self.address.table() {
            Some(_) => Kind::DynamodbStreams,
            None if self.address.is_topic() => Kind::Kafka,
            None => Kind::Kinesis,
        }
    }

    /// What its records become, where they land.
    pub fn landing(&self) -> Option<&Landing> {
        match &self.work {
            Work::Land(landing) => Some(landing),
            Work::Process(_) => None,
        }
    }
}

impl PartialEq for Work {
    /// The same records give the same rows in the same places, or go to the same code.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Land(a), Self::Land(b)) => (a.transform.id(), &a.layout) == (b.transform.id(), &b.layout),
            (Self::Process(a), Self::Process(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

/// The streams of a worker, and where they come from.
#[derive(Clone, Debug)]
pub struct StreamsConfig {
    /// The streams of the start.
    pub streams: Vec<StreamConfig>,
    /// Leases name stream and shard; else the shard alone.
    pub several: bool,
    /// The streams stand in this file, and may change there.
    pub file: Option<PathBuf>,
    /// For each stream that stands in the file, which of its settings stand there too.
    pub in_file: Vec<Vec<&'static str>>,
    /// Where they were read from; `None` where a program named them.
    given: Option<Given>,
}

/// What flags say of streams: of all of them, where a table of the settings file does not say otherwise.
#[derive(Clone, Debug)]
pub(super) struct Given {
    pub(super) kind: Kind,
    pub(super) streams: Vec<String>,
    pub(super) tables: Vec<String>,
    pub(super) topics: Vec<String>,
    /// Brokers are named.
    pub(super) brokers: bool,
    pub(super) settings: Option<PathBuf>,
    pub(super) role: Option<AssumeRole>,
    pub(super) transform: String,
    pub(super) landing: Option<String>,
    pub(super) errors: String,
    pub(super) initial_position: String,
    pub(super) retrieval: RetrievalSetting,
    pub(super) consumer_name: Option<String>,
    /// Rows go to a delivery stream.
    pub(super) firehose: bool,
}

/// The settings file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct SettingsFile {
    enrichment: Enrichment,
    columns: ColumnSettings,
    alerts: Alerts,
    streams: Vec<StreamTable>,
}

/// Which rows are copied for alerts, of the streams that have them.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Alerts {
    /// Valid rows with the flag `HIGH_RISK`, which `crypto-transactions` makes.
    high_risk: bool,
}

impl Alerts {
    fn of(self, transform: &Builtin) -> bool {
        self.high_risk && transform.has_risk()
    }
}

/// One table `[[streams]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StreamTable {
    stream: Option<String>,
    table: Option<String>,
    topic: Option<String>,
    kind: Option<Kind>,
    role: Option<AssumeRole>,
    transform: Option<String>,
    landing: Option<String>,
    errors: Option<String>,
    initial_position: Option<String>,
    retrieval: Option<RetrievalSetting>,
    consumer_name: Option<String>,
    enrichment: Option<Enrichment>,
    columns: Option<ColumnSettings>,
}

/// What kind of stream it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Streams of Kinesis.
    #[default]
    Kinesis,
    /// The changes of DynamoDB tables, by DynamoDB Streams.
    DynamodbStreams,
    /// Topics of Kafka.
    Kafka,
}

impl Kind {
    /// As people write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kinesis => SourceKind::Kinesis.as_str(),
            Self::DynamodbStreams => SourceKind::DynamoDbStreams.as_str(),
            Self::Kafka => SourceKind::Kafka.as_str(),
        }
    }

    /// The setting that names a stream of this kind.
    fn setting(self) -> &'static str {
        match self {
            Self::Kinesis => "stream",
            Self::DynamodbStreams => "table",
            Self::Kafka => "topic",
        }
    }
}

impl Given {
    /// The streams as the flags and the settings file have them now.
    pub(super) fn checked(self) -> Result<StreamsConfig, BadSetting> {
        let file = self.settings.as_deref().map(read_file).transpose()?.unwrap_or_default();
        let in_file = !file.streams.is_empty();
        let said = file.streams.iter().map(StreamTable::says).collect();
        let alerts = file.alerts;
        let setting = self.kind.setting();
        let named = [
            (Kind::Kinesis, &self.streams),
            (Kind::DynamodbStreams, &self.tables),
            (Kind::Kafka, &self.topics),
        ];
        for (other, names) in named.iter().filter(|(kind, _)| *kind != self.kind) {
            let Some(first) = names.first() else { continue };
            let source = self.kind.as_str();
            let allowed = format!("must be left out: with --source {source} it is --{setting}");
            return Err(BadSetting::new(other.setting(), first, allowed));
        }
        let given = match self.kind {
            Kind::Kinesis => &self.streams,
            Kind::DynamodbStreams => &self.tables,
            Kind::Kafka => &self.topics,
        };
        let (streams, several) = match (given.as_slice(), in_file) {
            ([], true) => (self.of_file(file)?, true),
            ([], false) => {
                let allowed = format!(
                    "is missing: give --{setting} once for each {setting}, or tables [[streams]] in the file of --settings"
                );
                return Err(BadSetting::new(setting, "", allowed));
            }
            ([first, ..], true) => {
                let allowed = "must be left out: the settings file has tables [[streams]]";
                return Err(BadSetting::new(setting, first, allowed));
            }
            (given, false) => {
                let settings = TransformSettings { enrichment: file.enrichment, columns: file.columns };
                let one =
                    |text: &String| self.stream(&StreamTable::named(self.kind, text), &settings, alerts);
                // Leases of Kafka name their topic in any case, by its id.
                let several = given.len() > 1 || self.kind == Kind::Kafka;
                (given.iter().map(one).collect::<Result<Vec<_>, _>>()?, several)
            }
        };
        if let Some(topic) = streams.iter().find(|stream| stream.kind() == Kind::Kafka) {
            self.can_read_topics(topic)?;
        }
        apart(&streams)?;
        if alerts.high_risk {
            self.can_alert(&streams)?;
        }
        let file = self.settings.clone().filter(|_| in_file);
        Ok(StreamsConfig { streams, several, file, in_file: said, given: Some(self) })
    }

    /// Whether topics of Kafka can be read by this process.
    fn can_read_topics(&self, topic: &StreamConfig) -> Result<(), BadSetting> {
        let name = topic.address.name();
        if !cfg!(feature = "kafka") {
            let allowed = "cannot be read: this build is without Kafka (the feature `kafka` of the crate)";
            return Err(BadSetting::new("topic", name, allowed));
        }
        if !self.brokers {
            return Err(BadSetting::new(
                "kafka-bootstrap",
                "",
                format!("is missing: where is topic {name}?"),
            ));
        }
        if topic.role.is_some() {
            let allowed = "must be left out: topics are read as --kafka-user, or with the AWS credentials of this process";
            return Err(BadSetting::new("stream-role", "", allowed));
        }
        Ok(())
    }

    fn of_file(&self, file: SettingsFile) -> Result<Vec<StreamConfig>, BadSetting> {
        let one = |table: &StreamTable| {
            let settings = TransformSettings {
                enrichment: table.enrichment.clone().unwrap_or_else(|| file.enrichment.clone()),
                columns: table.columns.clone().unwrap_or_else(|| file.columns.clone()),
            };
            self.stream(table, &settings, file.alerts)
        };
        file.streams.iter().map(one).collect()
    }

    /// Whether there are rows to copy. Who asks for alerts and would never get any is told so.
    fn can_alert(&self, streams: &[StreamConfig]) -> Result<(), BadSetting> {
        let refuse = |allowed: &str| {
            let file = self.settings.as_deref().unwrap_or(Path::new("")).display();
            Err(BadSetting::new("settings", file, format!("has [alerts] high_risk = true, which {allowed}")))
        };
        if self.firehose {
            return refuse(
                "copies rows that are in the lake: leave it out with --firehose, which takes them elsewhere",
            );
        }
        let copied = |stream: &StreamConfig| stream.landing().is_some_and(|landing| landing.layout.alerts);
        if !streams.iter().any(copied) {
            return refuse(
                "needs a stream with --transform crypto-transactions: only its rows have risk_flag and is_valid",
            );
        }
        Ok(())
    }

    fn address(&self, of: &StreamTable) -> Result<StreamAddress, BadSetting> {
        let kind = of.kind.unwrap_or(self.kind);
        let setting = kind.setting();
        match (kind, &of.stream, &of.table, &of.topic) {
            (Kind::Kinesis, Some(name), None, None) => stream(name),
            (Kind::DynamodbStreams, None, Some(name), None) => table(name),
            (Kind::Kafka, None, None, Some(name)) => topic(name),
            (_, stream, table, topic) => {
                let file = self.settings.as_deref().unwrap_or(Path::new("")).display();
                let named = stream.as_ref().or(table.as_ref()).or(topic.as_ref()).map_or("", String::as_str);
                let allowed = format!(
                    "has a table [[streams]] ({named:?}) that must name its stream with `{setting}`, and with nothing \
                     else: its kind is {}",
                    kind.as_str()
                );
                Err(BadSetting::new("settings", file, allowed))
            }
        }
    }

    fn stream(
        &self,
        table: &StreamTable,
        settings: &TransformSettings,
        alerts: Alerts,
    ) -> Result<StreamConfig, BadSetting> {
        let address = self.address(table)?;
        let name = table.transform.as_deref().unwrap_or(&self.transform);
        let transform = named(name, settings, self.settings.as_deref())?;
        let landing = match table.landing.as_ref().or(self.landing.as_ref()) {
            Some(landing) => folder("landing", landing)?.to_owned(),
            None => {
                default_landing(&transform, Some(address.name())).expect("with a stream there is a default")
            }
        };
        let errors = table.errors.as_ref().unwrap_or(&self.errors);
        let layout = layout(&landing, errors, alerts.of(&transform))?;
        let position = table.initial_position.as_ref().unwrap_or(&self.initial_position);
        let (initial, initial_timestamp_us) = initial_position(position)
            .map_err(|allowed| BadSetting::new("initial-position", position, allowed))?;
        let role = table.role.clone().or_else(|| self.role.clone());
        let work = Work::Land(Landing { transform: Arc::new(transform), layout });
        let consumer = table.consumer_name.clone().or_else(|| self.consumer_name.clone());
        let by = table.retrieval.unwrap_or(self.retrieval);
        if address.table().is_some() && by != RetrievalSetting::Polling {
            let allowed = "is of a table, whose stream is polled: leave --retrieval out";
            return Err(BadSetting::new("table", &address, allowed));
        }
        if address.is_topic() && by != RetrievalSetting::Polling {
            let allowed = "is a topic of Kafka, which is polled: leave --retrieval out";
            return Err(BadSetting::new("topic", address.name(), allowed));
        }
        let retrieval = RetrievalConfig::new(by, consumer)?;
        Ok(StreamConfig { address, role, source: None, retrieval, work, initial, initial_timestamp_us })
    }
}

impl StreamTable {
    /// The settings that stand in it, by their flags.
    fn says(&self) -> Vec<&'static str> {
        let all = [
            ("stream", self.stream.is_some()),
            ("table", self.table.is_some()),
            ("topic", self.topic.is_some()),
            ("source", self.kind.is_some()),
            ("stream-role", self.role.is_some()),
            ("transform", self.transform.is_some()),
            ("landing", self.landing.is_some()),
            ("errors", self.errors.is_some()),
            ("initial-position", self.initial_position.is_some()),
            ("retrieval", self.retrieval.is_some()),
            ("consumer-name", self.consumer_name.is_some()),
        ];
        all.into_iter().filter_map(|(flag, there)| there.then_some(flag)).collect()
    }

    fn named(kind: Kind, name: &str) -> Self {
        let of = |wanted| (kind == wanted).then(|| name.to_owned());
        Self {
            stream: of(Kind::Kinesis),
            table: of(Kind::DynamodbStreams),
            topic: of(Kind::Kafka),
            kind: Some(kind),
            role: None,
            transform: None,
            landing: None,
            errors: None,
            initial_position: None,
            retrieval: None,
            consumer_name: None,
            enrichment: None,
            columns: None,
        }
    }
}

impl StreamsConfig {
    /// One stream, which a program has named.
    pub fn one(stream: StreamConfig) -> Self {
        Self { streams: vec![stream], several: false, file: None, in_file: Vec::new(), given: None }
    }

    /// The same from the settings file as it is now.
    ///
    /// # Errors
    /// When the file cannot be used: then what was read before stays.
    pub fn read_again(&self) -> Result<Self, BadSetting> {
        let Some(given) = self.given.clone() else { return Ok(self.clone()) };
        let again = given.checked()?;
        match (&self.file, &again.file) {
            (Some(file), None) => Err(BadSetting::new(
                "settings",
                file.display(),
                "has no table [[streams]] any more; to read no stream stop the workers",
            )),
            _ => Ok(again),
        }
    }

    /// The application's name: as given, else that of its only stream.
    ///
    /// # Errors
    /// When it cannot be the name of tables, or is missing with several streams.
    pub fn application(&self, given: Option<&str>) -> Result<String, BadSetting> {
        match (given, self.streams.as_slice()) {
            (None, [first, _, ..]) => {
                let allowed = "must be set with several streams: it is the name of the lease table";
                Err(BadSetting::new("application", format!("kinetide-{}", first.address.name()), allowed))
            }
            (given, streams) => application(given, streams[0].address.name()),
        }
    }
}

/// Object names hold the stream's name only: two of one name, of other accounts or regions, would meet in one folder.
fn apart(streams: &[StreamConfig]) -> Result<(), BadSetting> {
    let mut named: BTreeMap<&str, Vec<&StreamConfig>> = BTreeMap::new();
    for stream in streams {
        let others = named.entry(stream.address.name()).or_default();
        for other in others.iter() {
            if other.address == stream.address {
                return Err(BadSetting::new("stream", &stream.address, "is there twice"));
            }
            let (Some(a), Some(b)) = (other.landing(), stream.landing()) else { continue };
            let (a, b) = (&a.layout, &b.layout);
            let allowed = if a.alerts && b.alerts {
                "copies for alerts would meet in one folder: leave out [alerts] of the settings file, or one of them"
            } else if a.landing == b.landing || a.errors == b.errors {
                "give each a landing and an errors folder of its own, in tables [[streams]] of the settings file"
            } else {
                continue;
            };
            let allowed =
                format!("has the name of {}, and object names hold only that: {allowed}", other.address);
            return Err(BadSetting::new("stream", &stream.address, allowed));
        }
        others.push(stream);
    }
    Ok(())
}

/// The transform of this name, with what the settings file says.
pub fn transform(name: &str, settings: Option<&Path>) -> Result<Builtin, BadSetting> {
    transform_and_alerts(name, settings).map(|(transform, _)| transform)
}

/// The same, and whether its rows are copied for alerts.
pub fn transform_and_alerts(name: &str, settings: Option<&Path>) -> Result<(Builtin, bool), BadSetting> {
    let file = settings.map(read_file).transpose()?.unwrap_or_default();
    let read = TransformSettings { enrichment: file.enrichment, columns: file.columns };
    let transform = named(name, &read, settings)?;
    let alerts = file.alerts.of(&transform);
    Ok((transform, alerts))
}

fn named(name: &str, settings: &TransformSettings, file: Option<&Path>) -> Result<Builtin, BadSetting> {
    Builtin::named(name, settings).map_err(|error| match (&error, file) {
        (TransformError::Unknown(_), _) | (_, None) => BadSetting::new("transform", name, error.to_string()),
        (_, Some(path)) => BadSetting::new("settings", path.display(), error.to_string()),
    })
}

fn read_file(path: &Path) -> Result<SettingsFile, BadSetting> {
    let bad = |allowed: String| BadSetting::new("settings", path.display(), allowed);
    let read = || {
        let mut text = String::new();
        std::fs::File::open(path)?.take(SETTINGS_MAX + 1).read_to_string(&mut text)?;
        Ok::<_, std::io::Error>(text)
    };
    let text = read().map_err(|error| bad(format!("cannot be read: {error}")))?;
    if text.len() as u64 > SETTINGS_MAX {
        return Err(bad("must be at most 1 MiB".to_owned()));
    }
    let line = |at: usize| text[..at].matches('\n').count() + 1;
    toml::from_str(&text).map_err(|error: toml::de::Error| {
        let place = error.span().map_or_else(String::new, |span| format!(", line {}", line(span.start)));
        bad(format!("is not valid{place}: {}", error.message()))
    })
}

#[cfg(test)]
#[path = "streams_tests.rs"]
mod tests;
