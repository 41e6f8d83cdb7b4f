//! From the settings of a stream to what reads it; and what follows when the settings file changes.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::reading::{Brokers, StreamClient};
use crate::aws::{Network, StreamAddress, for_subscriptions, stream_config};
use crate::config::{Endpoints, RetrievalSetting, Source, StreamConfig, StreamsConfig, TipWaits, Work};
use crate::consumer::{Lake, Land, Retention, RunShard, Shared, StreamSetup};
use crate::fetch::fanout::FanOut;
use crate::fetch::fanout::kinesis::{Consumer, KinesisFanOut};
use crate::fetch::{ByteBudget, OutOfRange, Polling, RecordSource, Unpacking};
use crate::lease::{StreamLeases, StreamSet};
use crate::preflight::{
    START_TIMEOUT, StartError, check_stream, check_table_stream, oddity, out_of_reach, retention_hours,
    table_oddities,
};
#[cfg(feature = "kafka")]
use crate::preflight::{check_topic, topic_oddities};
use crate::processor::Process;
#[cfg(feature = "kafka")]
use crate::shard::Checkpoint;
use crate::shard::dynamodbstreams::Which;
use crate::shutdown::joined;
use crate::telemetry::status::Status;
use crate::transform::SourceKind;

/// How often the settings file is looked at, and a stream that could not be looked at is tried again.
const FOLLOW_EVERY: Duration = Duration::from_secs(5);
/// Each so many times it is asked whether the stream of a table is still on: who leads is told by listing shards, the others
/// by nobody.
const ASK_EVERY: u32 = 12;

/// What all streams of a process have in common.
#[derive(Clone)]
pub(super) struct Surroundings {
    pub(super) region: Option<String>,
    pub(super) endpoints: Endpoints,
    pub(super) brokers: Brokers,
    /// Leases name their streams.
    pub(super) several: bool,
    pub(super) application: String,
    pub(super) tip_waits: TipWaits,
    pub(super) kpl_out_of_range: OutOfRange,
    pub(super) budget: ByteBudget,
}

/// The streams that the process reads.
pub(super) struct Streams {
    config: StreamsConfig,
    surroundings: Surroundings,
    /// Where rows land, if any do.
    lake: Option<Arc<Lake>>,
    open: Vec<Opened>,
}

/// One of them.
#[derive(Clone)]
struct Opened {
    config: StreamConfig,
    setup: Arc<StreamSetup>,
    leases: StreamLeases,
    client: StreamClient,
    /// It was there, and said how long it keeps records.
    checked: bool,
}

/// The streams, where one of them can be read at least. Among several one that cannot keeps only itself from being read.
///
/// # Errors
/// When none of them can be read.
pub(super) fn readable(found: Vec<(Found, Option<StartError>)>) -> Result<Vec<Found>, StartError> {
    let read = found.iter().any(|(_, problem)| problem.is_none());
    let mut streams = Vec::new();
    for (stream, problem) in found {
        match problem {
            Some(problem) if !read => return Err(problem),
            Some(problem) => tracing::error!("{problem}; the other streams are read"),
            None => {}
        }
        streams.push(stream);
    }
    Ok(streams)
}

impl Streams {
    pub(super) fn new(
        config: StreamsConfig,
        surroundings: Surroundings,
        streams: Vec<Found>,
        lake: Option<Arc<Lake>>,
    ) -> Self {
        let mut this = Self { config, surroundings, lake, open: Vec::new() };
        this.open = streams.into_iter().map(|stream| this.opened(stream)).collect();
        this
    }

    /// A stream with what is done with its records.
    fn opened(&self, stream: Found) -> Opened {
        let config = &stream.config;
        let work: Arc<dyn RunShard> = match &config.work {
            Work::Land(landing) => Arc::new(Land {
                lake: self.lake.clone().expect("settings with rows that land name a lake"),
                transform: Arc::clone(&landing.transform),
                layout: landing.layout.clone(),
            }),
            Work::Process(factory) => Arc::new(Process::new(Arc::clone(factory))),
        };
        let (source, again) = match &config.source {
            Some(source) => (source.clone(), None),
            None => {
                let (source, polling) = self.source(&stream);
                (source, Some(polling))
            }
        };
        let (kind, source, lister, starts) = source.parts();
        let unpacked = |source: Arc<dyn RecordSource>| match kind {
            SourceKind::Kinesis => {
                Arc::new(Unpacking::new(source, self.surroundings.kpl_out_of_range)) as Arc<dyn RecordSource>
            }
            SourceKind::DynamoDbStreams | SourceKind::Kafka => source,
        };
        let (source, again) = (unpacked(source), again.map(unpacked));
        let Found { config, client, hours, checked, .. } = stream;
        let name: Arc<str> = config.address.to_string().into();
        let setup = StreamSetup {
            address: Arc::clone(&name),
            name: config.address.name().to_owned(),
            kind,
            again: again.unwrap_or_else(|| Arc::clone(&source)),
            source,
            lister: Arc::clone(&lister),
            starts: Arc::clone(&starts),
            work,
            initial_timestamp_us: config.initial_timestamp_us,
            retention: hours.map_or_else(Retention::default, Retention::hours),
            budget: self.surroundings.budget.of_stream(),
            removed: CancellationToken::new(),
        };
        let leases = StreamLeases {
            name,
            lister,
            starts,
            initial: config.initial.clone(),
            initial_timestamp_us: config.initial_timestamp_us,
        };
        Opened { config, setup: Arc::new(setup), leases, client, checked }
    }

    /// What reads a stream of Kinesis, and what polls it: the same, unless it is read by enhanced fan-out.
    fn source(&self, stream: &Found) -> (Source, Arc<dyn RecordSource>) {
        let Found { config, client, fan_out, .. } = stream;
        let reading = client.reading(&config.address);
        let TipWaits { idle, gathering } = self.surroundings.tip_waits;
        let polling: Arc<dyn RecordSource> =
            Arc::new(Polling::new(reading.polled, idle).gathering(gathering));
        let records: Arc<dyn RecordSource> = match (config.retrieval.by, fan_out) {
            (RetrievalSetting::Polling, _) | (_, None) => Arc::clone(&polling),
            (RetrievalSetting::FanOut, Some(fan_out)) => {
                Arc::new(FanOut::new(Arc::clone(fan_out) as _, Arc::clone(&polling)))
            }
            (RetrievalSetting::Auto, Some(fan_out)) => {
                let name = config.address.to_string();
                Arc::new(FanOut::or_polling(Arc::clone(fan_out) as _, Arc::clone(&polling), &name))
            }
        };
        (Source::new(reading.kind, records, reading.lister, reading.starts), polling)
    }

    pub(super) fn leases(&self) -> StreamSet {
        match self.open.as_slice() {
            [only] if !self.config.several => StreamSet::One(only.leases.clone()),
            all => StreamSet::Several(all.iter().map(|stream| stream.leases.clone()).collect()),
        }
    }

    pub(super) fn setups(&self) -> Vec<Arc<StreamSetup>> {
        self.open.iter().map(|stream| Arc::clone(&stream.setup)).collect()
    }

    /// Says in status and log what is read.
    pub(super) fn tell(&self, status: &Status) {
        status.set_streams(self.open.iter().map(|stream| stream.setup.address.to_string()).collect());
        for stream in &self.open {
            let landing = stream.config.landing();
            tracing::info!(
                stream = &*stream.setup.address,
                transform = landing.map(|landing| tracing::field::display(landing.transform.id())),
                landing = landing.map(|landing| landing.layout.landing.as_str()),
                initial_position = stream.config.initial.as_str(),
                retrieval = ?stream.config.retrieval.by,
                "stream is read"
            );
        }
    }

    /// Until `stop`: looks again at streams that were not there, and follows the settings file. Streams that it names for
    /// the first time are read, those that it does not name any more are finished; one whose settings have changed is
    /// finished and begun again. What cannot be used is said, and the old settings stay.
    pub(super) async fn follow(mut self, shared: Arc<Shared>, stop: CancellationToken) {
        let mut round = 0_u32;
        loop {
            self.tell_of_tables(&shared.status);
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = sleep(FOLLOW_EVERY) => {}
            }
            for stream in self.open.iter_mut().filter(|stream| !stream.checked) {
                if let Ok(hours) = checked(&stream.client, &stream.config).await {
                    hours.into_iter().for_each(|hours| stream.setup.retention.set(hours));
                    stream.checked = true;
                    tracing::info!(stream = &*stream.setup.address, "the stream is there");
                }
            }
            #[cfg(feature = "kafka")]
            self.follow_topics(&shared).await;
            round = round.wrapping_add(1);
            if round.is_multiple_of(ASK_EVERY) {
                self.ask_tables().await;
            }
            if self.config.file.is_none() {
                continue;
            }
            let problem = match self.config.read_again() {
                Ok(config) if config.streams == self.config.streams => None,
                Ok(config) => {
                    self.change(config, &shared).await;
                    None
                }
                Err(problem) => Some(format!("{problem}; the settings of before stay")),
            };
            if shared.status.set_settings_problem(problem.clone()) {
                match problem {
                    Some(problem) => tracing::error!("{problem}"),
                    None => tracing::info!("the settings file can be used again"),
                }
            }
        }
    }

    /// Says in status which streams of tables are off.
    fn tell_of_tables(&self, status: &Status) {
        for stream in self.open.iter().filter(|stream| stream.checked) {
            if let StreamClient::Table(streams) = &stream.client {
                status.set_stream_off(&stream.setup.address, streams.is_off());
            }
        }
    }

    /// Asks the tables for their newest streams. Whoever fails is asked again; that calls fail shows where they are needed.
    async fn ask_tables(&self) {
        for stream in &self.open {
            if let StreamClient::Table(streams) = &stream.client
                && let Ok(Err(error)) = timeout(START_TIMEOUT, streams.newest()).await
            {
                tracing::debug!(stream = &*stream.setup.address, %error, "the stream of a table could not be looked at");
            }
        }
    }

    /// Topics that were deleted and created again are other topics: what is left of the former ones is finished, and the new
    /// ones are read from their beginning, as they came while somebody was there to read them.
    #[cfg(feature = "kafka")]
    async fn follow_topics(&mut self, shared: &Shared) {
        let mut another = Vec::new();
        for (at, stream) in self.open.iter().enumerate() {
            let StreamClient::Topic(topic) = &stream.client else { continue };
            match timeout(START_TIMEOUT, topic.is_another()).await {
                Ok(Ok(true)) => another.push(at),
                Ok(_) => {}
                // All are in one cluster, which does not answer.
                Err(_) => break,
            }
        }
        if another.is_empty() {
            return;
        }
        let configs: Vec<StreamConfig> = another.iter().map(|at| self.open[*at].config.clone()).collect();
        let found = open_all(&configs, &self.surroundings).await;
        for (at, (stream, _)) in another.into_iter().zip(found) {
            let mut opened = self.opened(stream);
            opened.leases.initial = Checkpoint::TrimHorizon;
            tracing::warn!(
                stream = &*opened.setup.address,
                "the topic was deleted and created again: the new one is read from its beginning; compare with the \
                 producers whether records of the former one were lost, and remove its leases with `kinetide leases delete`"
            );
            self.open[at] = opened;
        }
        self.set_open(shared);
    }

    async fn change(&mut self, config: StreamsConfig, shared: &Shared) {
        let before = std::mem::take(&mut self.open);
        let known = |wanted: &StreamConfig| before.iter().find(|opened| opened.config == *wanted).cloned();
        let new: Vec<StreamConfig> =
            config.streams.iter().filter(|wanted| known(wanted).is_none()).cloned().collect();
        let mut opened = open_all(&new, &self.surroundings).await.into_iter();
        for wanted in &config.streams {
            let stream = known(wanted).unwrap_or_else(|| {
                let (stream, problem) = opened.next().expect("one for each that is not known");
                if let Some(problem) = problem {
                    tracing::error!("{problem}; it is read as soon as it is there");
                }
                self.opened(stream)
            });
            self.open.push(stream);
        }
        for gone in before.iter().filter(|gone| !config.streams.contains(&gone.config)) {
            tracing::info!(
                stream = &*gone.setup.address,
                "the settings do not name this stream as before: finishing"
            );
        }
        self.config = config;
        self.set_open(shared);
    }

    /// From now on these are read.
    fn set_open(&self, shared: &Shared) {
        // Leases are found for streams that can be read, and not for others.
        shared.streams.set(self.setups());
        shared.coordinator.set_streams(self.open.iter().map(|stream| stream.leases.clone()).collect());
        self.tell(&shared.status);
    }
}

/// A stream that was looked at.
pub(super) struct Found {
    config: StreamConfig,
    client: StreamClient,
    /// What subscribes to it, where it is read by enhanced fan-out.
    fan_out: Option<Arc<KinesisFanOut>>,
    /// For how many hours it keeps records, if it was there to say so.
    hours: Option<u32>,
    /// There is no need to look again.
    checked: bool,
}

/// Looks at streams side by side, each with what speaks against it. In the order of the settings.
pub(super) async fn open_all(
    configs: &[StreamConfig],
    surroundings: &Surroundings,
) -> Vec<(Found, Option<StartError>)> {
    let mut opening = JoinSet::new();
    for (at, config) in configs.iter().enumerate() {
        let (config, surroundings) = (config.clone(), surroundings.clone());
        opening.spawn(async move { (at, open(config, &surroundings).await) });
    }
    let mut all = Vec::new();
    while let Some(opened) = opening.join_next().await {
        all.push(joined(opened).await);
    }
    all.sort_by_key(|(at, _)| *at);
    all.into_iter().map(|(_, opened)| opened).collect()
}

async fn open(config: StreamConfig, surroundings: &Surroundings) -> (Found, Option<StartError>) {
    let (address, role) = (&config.address, config.role.as_ref());
    let (region, endpoint) = (surroundings.region.as_deref(), surroundings.endpoints.of(address));
    let which = if surroundings.several { Which::Newest } else { Which::All };
    let sdk = stream_config(address, role, endpoint, region).await;
    let client = StreamClient::with(&sdk, address, which, &surroundings.brokers, None);
    let (hours, problem) = match config.source {
        // Only the program knows how to look at it.
        Some(_) => (None, None),
        None => match checked(&client, &config).await {
            Ok(hours) => (hours, None),
            Err(problem) => (None, Some(problem)),
        },
    };
    let consumer = match &client {
        StreamClient::Kinesis(client) if config.retrieval.by != RetrievalSetting::Polling => {
            let name = config.retrieval.consumer_of(&surroundings.application);
            Some(Arc::new(Consumer::new(client.clone(), address.clone(), name)))
        }
        _ => None,
    };
    let problem = match (problem, &consumer) {
        (None, Some(consumer)) if config.retrieval.by == RetrievalSetting::FanOut => {
            check_consumer(address, consumer).await.err()
        }
        (problem, _) => problem,
    };
    let fan_out = consumer.map(|consumer| {
        let subscriptions = for_subscriptions(&sdk, &Network::of_environment());
        Arc::new(KinesisFanOut::new(aws_sdk_kinesis::Client::new(&subscriptions), consumer))
    });
    (Found { client, fan_out, hours, checked: problem.is_none(), config }, problem)
}

/// Whether the stream can be subscribed to: its consumer is there, or is being made. Its readers wait until it is ACTIVE.
async fn check_consumer(stream: &StreamAddress, consumer: &Consumer) -> Result<(), StartError> {
    let wrong = |problem: String| StartError::new(format!("stream {stream}"), problem);
    let made = timeout(START_TIMEOUT, Box::pin(consumer.is_made())).await;
    made.map_err(|_| wrong(out_of_reach("Kinesis")))?.map_err(wrong)
}

/// Whether a stream can be read; for how many hours it keeps records, where that differs. Tells what is odd about it.
async fn checked(client: &StreamClient, config: &StreamConfig) -> Result<Option<u32>, StartError> {
    let address = &config.address;
    let (hours, oddities) = match client {
        StreamClient::Kinesis(client) => {
            let found = check_stream(client, address).await?;
            let oddities = oddity(&found).into_iter().map(str::to_owned).collect();
            (Some(retention_hours(&found)), oddities)
        }
        StreamClient::Table(streams) => {
            let found = check_table_stream(streams, address).await?;
            (None, table_oddities(&found, config))
        }
        #[cfg(feature = "kafka")]
        StreamClient::Topic(topic) => {
            let found = check_topic(topic, address).await?;
            (None, topic_oddities(&found, config))
        }
    };
    for oddity in oddities {
        tracing::warn!(stream = %address, "{oddity}");
    }
    Ok(hours)
}
