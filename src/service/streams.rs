//! From the settings of a stream to what reads it; and what follows when the settings file changes.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::aws::stream_config;
use crate::config::{StreamConfig, StreamsConfig};
use crate::consumer::{Retention, Shared, StreamSetup};
use crate::fetch::kinesis::KinesisSource;
use crate::fetch::{ByteBudget, Polled, Polling, Starts};
use crate::lease::{StreamLeases, StreamSet};
use crate::preflight::{StartError, check_stream};
use crate::shard::kinesis::KinesisShardLister;
use crate::shutdown::joined;
use crate::telemetry::status::Status;
use crate::transform::SourceKind;

/// How often the settings file is looked at, and a stream that could not be looked at is tried again.
const FOLLOW_EVERY: Duration = Duration::from_secs(5);

/// What all streams of a process have in common.
#[derive(Clone)]
pub(super) struct Surroundings {
    pub(super) region: Option<String>,
    pub(super) endpoint: Option<String>,
    pub(super) poll_idle_max: Duration,
    pub(super) budget: ByteBudget,
}

/// The streams that the process reads.
pub(super) struct Streams {
    config: StreamsConfig,
    surroundings: Surroundings,
    open: Vec<Opened>,
}

/// One of them.
#[derive(Clone)]
struct Opened {
    config: StreamConfig,
    setup: Arc<StreamSetup>,
    leases: StreamLeases,
    client: aws_sdk_kinesis::Client,
    /// It was there, and said how long it keeps records.
    checked: bool,
}

impl Streams {
    /// Looks whether the streams can be read. Among several one that cannot keeps only itself from being read.
    ///
    /// # Errors
    /// When none of them can be read.
    pub(super) async fn open(config: StreamsConfig, surroundings: Surroundings) -> Result<Self, StartError> {
        let open = open_all(&config.streams, &surroundings).await;
        let (open, problems): (Vec<Opened>, Vec<Option<StartError>>) = open.into_iter().unzip();
        let read = problems.iter().any(Option::is_none);
        for problem in problems.into_iter().flatten() {
            if !read {
                return Err(problem);
            }
            tracing::error!("{problem}; the other streams are read");
        }
        Ok(Self { config, surroundings, open })
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
            let setup = &stream.setup;
            tracing::info!(
                stream = &*setup.address, transform = %setup.transform.id(), landing = setup.layout.landing,
                initial_position = stream.config.initial.as_str(), "stream is read"
            );
        }
    }

    /// Until `stop`: looks again at streams that were not there, and follows the settings file. Streams that it names for
    /// the first time are read, those that it does not name any more are finished; one whose settings have changed is
    /// finished and begun again. What cannot be used is said, and the old settings stay.
    pub(super) async fn follow(mut self, shared: Arc<Shared>, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = sleep(FOLLOW_EVERY) => {}
            }
            for stream in self.open.iter_mut().filter(|stream| !stream.checked) {
                if let Ok(hours) = check_stream(&stream.client, &stream.config.address).await {
                    stream.setup.retention.set(hours);
                    stream.checked = true;
                    tracing::info!(stream = &*stream.setup.address, "the stream is there");
                }
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
                stream
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
        // Leases are found for streams that can be read, and not for others.
        shared.streams.set(self.setups());
        shared.coordinator.set_streams(self.open.iter().map(|stream| stream.leases.clone()).collect());
        self.tell(&shared.status);
    }
}

/// Opens streams side by side, each with what speaks against it. In the order of the settings.
async fn open_all(
    configs: &[StreamConfig],
    surroundings: &Surroundings,
) -> Vec<(Opened, Option<StartError>)> {
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

async fn open(config: StreamConfig, surroundings: &Surroundings) -> (Opened, Option<StartError>) {
    let (address, role) = (&config.address, config.role.as_ref());
    let (region, endpoint) = (surroundings.region.as_deref(), surroundings.endpoint.as_deref());
    let client = aws_sdk_kinesis::Client::new(&stream_config(address, role, endpoint, region).await);
    let (hours, problem) = match check_stream(&client, address).await {
        Ok(hours) => (Some(hours), None),
        Err(problem) => (None, Some(problem)),
    };
    let lister = Arc::new(KinesisShardLister::new(client.clone(), address.clone()));
    let polled: Arc<dyn Polled> = Arc::new(KinesisSource::new(client.clone(), address.clone()));
    let starts = Arc::new(Starts::new(Arc::clone(&polled)));
    let name: Arc<str> = address.to_string().into();
    let setup = StreamSetup {
        address: Arc::clone(&name),
        name: address.name().to_owned(),
        kind: SourceKind::Kinesis,
        source: Arc::new(Polling::new(polled, surroundings.poll_idle_max)),
        lister: Arc::clone(&lister) as _,
        starts: Arc::clone(&starts) as _,
        layout: config.layout.clone(),
        transform: Arc::clone(&config.transform),
        initial_timestamp_us: config.initial_timestamp_us,
        retention: hours.map_or_else(Retention::default, Retention::hours),
        budget: surroundings.budget.of_stream(),
        removed: CancellationToken::new(),
    };
    let leases = StreamLeases {
        name,
        lister,
        starts,
        initial: config.initial.clone(),
        initial_timestamp_us: config.initial_timestamp_us,
    };
    (Opened { config, setup: Arc::new(setup), leases, client, checked: problem.is_none() }, problem)
}
