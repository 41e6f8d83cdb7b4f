//! The embedded AWS: Kinesis, DynamoDB, and the forwarder between them, on loopback in this process.
//!
//! Owns: the endpoints, their tasks and their end.
//! Does not own: the lake (a folder), credentials (any will do), anything that outlives the process.
//!
//! ```text
//! clients ─► DynamoDB (dynoxide) ─► changes ─► forwarder ─► Kinesis (ours) ─► clients
//!                                      └─► DynamoDB Streams (ours) ─► clients
//! ```

pub(crate) mod accept;
mod dynamodb;
mod forward;
pub mod kinesis;
pub mod streams;
mod tls;

pub use dynoxide::Database;
pub use forward::Forwarder;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::kinesis::{Kinesis, KinesisSettings};
use self::streams::Streams;
use self::tls::Identity;

/// How long running calls may take to finish at shutdown.
const GRACE: Duration = Duration::from_secs(2);

/// How the embedded AWS is set up.
#[derive(Clone, Debug)]
pub struct LocalSettings {
    /// Behaviour of Kinesis.
    pub kinesis: KinesisSettings,
    /// Port of Kinesis; 0 takes a free one.
    pub kinesis_port: u16,
    /// Where to write the certificate of a test CA. With it, Kinesis speaks TLS too, on the same port.
    pub ca_file: Option<PathBuf>,
    /// Port of DynamoDB; 0 takes a free one.
    pub dynamodb_port: u16,
    /// Port of DynamoDB Streams; 0 takes a free one.
    pub dynamodb_streams_port: u16,
    /// Open shards of a table's stream at its start.
    pub dynamodb_stream_shards: u32,
    /// How often items past their time to live are removed.
    pub ttl_sweep: Duration,
}

impl Default for LocalSettings {
    fn default() -> Self {
        Self {
            kinesis: KinesisSettings::default(),
            kinesis_port: 0,
            ca_file: None,
            dynamodb_port: 0,
            dynamodb_streams_port: 0,
            dynamodb_stream_shards: 1,
            ttl_sweep: Duration::from_secs(10),
        }
    }
}

/// Why the embedded AWS could not start.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The port is taken or not allowed.
    #[error("could not listen on port {port} for {service}: choose another port, or 0 for a free one")]
    Listen {
        /// Who wanted it.
        service: &'static str,
        /// The port asked for.
        port: u16,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// No CA or certificate could be made.
    #[error("could not make certificates for TLS")]
    Certificates(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The CA's certificate could not be written.
    #[error("could not write the CA's certificate to {path}: name another file")]
    CaFile {
        /// The file asked for.
        path: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The database or a table could not be set up.
    #[error("the embedded DynamoDB refused")]
    Database(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// The running endpoints. Dropping it stops them at once; [`LocalAws::shutdown`] lets running calls finish.
#[derive(Debug)]
pub struct LocalAws {
    kinesis: Kinesis,
    kinesis_url: String,
    kinesis_tls_url: Option<String>,
    database: DatabaseHandle,
    dynamodb_url: String,
    streams: Streams,
    dynamodb_streams_url: String,
    region: String,
    stop: CancellationToken,
    tasks: Mutex<JoinSet<()>>,
}

impl LocalAws {
    /// Binds the ports and starts serving.
    ///
    /// # Errors
    /// See [`LocalError`].
    pub async fn start(settings: LocalSettings) -> Result<Self, LocalError> {
        let (kinesis_listener, kinesis_url) = listen("Kinesis", settings.kinesis_port).await?;
        let (dynamodb_listener, dynamodb_url) = listen("DynamoDB", settings.dynamodb_port).await?;
        let identity = settings.ca_file.map(identity).transpose()?;
        let kinesis_tls_url = identity.as_ref().map(|_| kinesis_url.replacen("http", "https", 1));
        let (streams_listener, dynamodb_streams_url) =
            listen("DynamoDB Streams", settings.dynamodb_streams_port).await?;
        let region = settings.kinesis.region.clone();
        let kinesis = Kinesis::new(settings.kinesis);
        let database = dynamodb::database()?;
        let streams = Streams::new(database.clone(), &region, settings.dynamodb_stream_shards);
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let tls = identity.map(|identity| identity.acceptor);
        tasks.spawn(kinesis::serve(kinesis_listener, kinesis.clone(), tls, stop.clone()));
        tasks.spawn(dynamodb::serve(dynamodb_listener, database.clone(), stop.clone()));
        tasks.spawn(streams::serve(streams_listener, streams.clone(), stop.clone()));
        tasks.spawn(dynamodb::sweep_ttl(database.clone(), settings.ttl_sweep, stop.clone()));
        Ok(Self {
            kinesis,
            kinesis_url,
            kinesis_tls_url,
            database: DatabaseHandle(database),
            dynamodb_url,
            streams,
            dynamodb_streams_url,
            region,
            stop,
            tasks: Mutex::new(tasks),
        })
    }

    /// Endpoint of Kinesis, as in `http://127.0.0.1:4567`.
    pub fn kinesis_url(&self) -> &str {
        &self.kinesis_url
    }

    /// The same over TLS, where clients trust the test CA: `https://127.0.0.1:4567`.
    pub fn kinesis_tls_url(&self) -> Option<&str> {
        self.kinesis_tls_url.as_deref()
    }

    /// Endpoint of DynamoDB.
    pub fn dynamodb_url(&self) -> &str {
        &self.dynamodb_url
    }

    /// Endpoint of DynamoDB Streams.
    pub fn dynamodb_streams_url(&self) -> &str {
        &self.dynamodb_streams_url
    }

    /// DynamoDB Streams without HTTP. Its calls block for as long as they work.
    pub fn streams(&self) -> &Streams {
        &self.streams
    }

    /// Region that the endpoints pretend to be in.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// Kinesis without HTTP.
    pub fn kinesis(&self) -> &Kinesis {
        &self.kinesis
    }

    /// DynamoDB without HTTP. Its calls block for as long as they work: keep long ones off the async threads.
    pub fn database(&self) -> &Database {
        &self.database.0
    }

    /// Creates a table with one string key and a stream of changes with both images.
    ///
    /// # Errors
    /// [`LocalError::Database`], as when the name is taken.
    pub fn create_table(&self, name: &str, key: &str) -> Result<(), LocalError> {
        dynamodb::create_table(&self.database.0, name, key)
    }

    /// Sends every change of a table to a stream from now on, oldest first, as a Kinesis streaming destination of
    /// DynamoDB does. Table and stream may come later; the table's own stream is turned on where it is off.
    pub fn forward(&self, table: &str, stream: &str) -> Forwarder {
        let target = forward::Target {
            kinesis: self.kinesis.clone(),
            stream: stream.to_owned(),
            region: self.region.clone(),
        };
        let (forwarder, task) = forward::forwarder(self.database.0.clone(), table, target, self.stop.clone());
        self.tasks().spawn(task);
        forwarder
    }

    /// Stops the endpoints: no new calls, running ones get two seconds.
    pub async fn shutdown(self) {
        self.stop.cancel();
        let mut tasks = std::mem::take(&mut *self.tasks());
        let all_done = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE, all_done).await.is_err() {
            tracing::debug!("calls to the embedded AWS were still running at its end");
        }
    }

    fn tasks(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock().expect("no code panics while it holds the lock")
    }
}

/// `Database` has no `Debug`.
struct DatabaseHandle(Database);

impl std::fmt::Debug for DatabaseHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Database")
    }
}

/// Who we are in TLS, for clients that trust the CA in this file.
fn identity(ca_file: PathBuf) -> Result<Identity, LocalError> {
    let identity = Identity::new().map_err(LocalError::Certificates)?;
    let written = identity.write_ca(&ca_file);
    written.map_err(|source| LocalError::CaFile { path: ca_file.display().to_string(), source })?;
    Ok(identity)
}

async fn listen(service: &'static str, port: u16) -> Result<(TcpListener, String), LocalError> {
    let failed = |source| LocalError::Listen { service, port, source };
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await.map_err(failed)?;
    let url = format!("http://{}", listener.local_addr().map_err(failed)?);
    Ok((listener, url))
}
