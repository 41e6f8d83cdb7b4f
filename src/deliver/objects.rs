//! Objects of a lake, over any `object_store`: each created once, whole or not at all.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use backon::{ExponentialBuilder, Retryable};
use bytes::Bytes;
use object_store::path::Path;
use object_store::{Attribute, Attributes, ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::folder::Folder;
use super::s3::{Bucket, NotUploaded, SINGLE_PUT_MAX, Uploads};
use super::said::said;
use super::sink::{Created, GIVEN_UP, MayCreate, Sink, SinkError, always};

/// The object by which a store shows that it creates and never replaces: see [`ObjectSink::probe`].
const PROBE: &str = "_kinetide/probe";
/// Three calls, of a start that may take seconds; large objects are not many.
const PROBE_IN_PARTS_TIMEOUT: Duration = Duration::from_secs(3);

/// Why nothing can be delivered here.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The store does not do what is asked.
    #[error("{error}: {}", error.source)]
    Refused {
        /// What it said.
        error: SinkError,
    },
    /// The store made an object where there was one already.
    #[error(
        "the store created {PROBE} twice{how}: it does not honour If-None-Match, which exactly once needs; use a store \
         that does"
    )]
    Replaces {
        /// By which way.
        how: &'static str,
    },
}

/// Objects in an [`ObjectStore`], below a prefix.
pub struct ObjectSink {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    way: Way,
}

/// How an object is created.
enum Way {
    /// S3: at once, or in parts.
    S3(Uploads),
    Folder(Arc<Folder>),
}

impl From<SinkError> for ProbeError {
    fn from(error: SinkError) -> Self {
        Self::Refused { error }
    }
}

impl ObjectSink {
    /// Objects of a bucket.
    pub(super) fn of_s3(bucket: Bucket) -> Self {
        let Bucket { store, prefix, uploads } = bucket;
        Self { store, prefix, way: Way::S3(uploads) }
    }

    /// Objects in a folder, which is the root of `store`.
    pub(super) fn of_folder(store: Arc<dyn ObjectStore>, folder: Folder) -> Self {
        Self { store, prefix: Path::default(), way: Way::Folder(Arc::new(folder)) }
    }

    /// Before anything is delivered: creates one small object twice, in each way in which objects are created here. The
    /// second time it must be there already. It stays, and the next start finds it. Removes what dead processes left.
    ///
    /// # Errors
    /// When the store cannot be written, or replaces objects.
    pub async fn probe(&self) -> Result<(), ProbeError> {
        let body = Bytes::from_static(b"kinetide creates this object twice: the second time it must exist\n");
        // Another worker may be at it: S3 refuses both for a moment (409).
        let once_more =
            ExponentialBuilder::new().with_min_delay(Duration::from_millis(300)).with_max_times(1);
        (|| self.create(PROBE, body.clone())).retry(once_more).await?;
        if self.create(PROBE, body.clone()).await? == Created::New {
            return Err(ProbeError::Replaces { how: "" });
        }
        match &self.way {
            Way::S3(uploads) => {
                let path = self.path(PROBE);
                let always = always();
                let in_parts = uploads.create(&path, &body, self.attributes(), &always);
                match timeout(PROBE_IN_PARTS_TIMEOUT, in_parts).await {
                    Ok(Ok(())) => return Err(ProbeError::Replaces { how: " in parts" }),
                    Ok(Err(NotUploaded::Store(error))) if is_taken(&error) => {}
                    Ok(Err(error)) => return Err(not_uploaded(PROBE, &error).into()),
                    Err(_) => tracing::warn!(
                        "slow store: skipped the check that it does not replace an object uploaded in parts"
                    ),
                }
            }
            Way::Folder(folder) => {
                let folder = Arc::clone(folder);
                // Nothing depends on it.
                let _ = spawn_blocking(move || folder.clean()).await;
            }
        }
        Ok(())
    }

    /// Whether objects may be made and looked for below a folder, as [`ObjectSink::probe`] shows for its own. Leaves nothing.
    ///
    /// # Errors
    /// When they may not.
    pub async fn rehearse(&self, folder: &str) -> Result<(), SinkError> {
        match &self.way {
            Way::S3(uploads) => {
                let key = format!("{folder}/{PROBE}");
                self.exists(&key).await?;
                let begun = uploads.begin_and_abort(&self.path(&key), self.attributes()).await;
                begun.map_err(|error| failed("create", &key, &error))
            }
            Way::Folder(of) => {
                let (of, path) = (Arc::clone(of), self.path(folder));
                let made = spawn_blocking(move || of.rehearse(path.as_ref().split('/'))).await;
                made.map_err(Into::into)
                    .and_then(|made| made.map_err(Into::into))
                    .map_err(|source| SinkError { action: "create", key: format!("{folder}/…"), source })
            }
        }
    }

    /// S3 keeps a content type; a folder cannot. No Content-Encoding: clients would decompress on the fly and break on the
    /// `.gz` they expect.
    fn attributes(&self) -> Attributes {
        Attributes::from_iter([(Attribute::ContentType, "application/x-ndjson")])
    }

    /// Waits until what was given up half-way is removed. At the end of the process.
    pub async fn settled(&self) {
        if let Way::S3(uploads) = &self.way {
            uploads.settled().await;
        }
    }

    /// The store, for commands that read the lake.
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// Where in the store the lake starts.
    pub fn prefix(&self) -> &Path {
        &self.prefix
    }

    /// The key below the prefix, as it is written; encoded only where it could not be a path, so that it stays below.
    fn path(&self, key: &str) -> Path {
        let whole = if self.prefix.is_root() { key.to_owned() } else { format!("{}/{key}", self.prefix) };
        Path::parse(&whole).unwrap_or_else(|_| Path::from(whole))
    }
}

fn failed(action: &'static str, key: &str, source: &object_store::Error) -> SinkError {
    SinkError { action, key: key.to_owned(), source: said(source).into() }
}

fn not_uploaded(key: &str, why: &NotUploaded) -> SinkError {
    match why {
        NotUploaded::Store(error) => failed("create", key, error),
        NotUploaded::GivenUp => SinkError { action: "create", key: key.to_owned(), source: GIVEN_UP.into() },
    }
}

/// Whether somebody else's object may be in the way.
fn is_taken(error: &object_store::Error) -> bool {
    use object_store::Error::{AlreadyExists, NotFound, Precondition};
    matches!(error, AlreadyExists { .. } | Precondition { .. } | NotFound { .. })
}

#[async_trait]
impl Sink for ObjectSink {
    async fn create_while(&self, key: &str, body: Bytes, may: MayCreate) -> Result<Created, SinkError> {
        let path = self.path(key);
        let created = match &self.way {
            Way::Folder(folder) => {
                let folder = Arc::clone(folder);
                let made =
                    spawn_blocking(move || folder.create(path.as_ref().split('/'), &body, &*may)).await;
                return made
                    .map_err(Into::into)
                    .and_then(|made| made.map_err(Into::into))
                    .map_err(|source| SinkError { action: "create", key: key.to_owned(), source });
            }
            Way::S3(uploads) if body.len() > SINGLE_PUT_MAX => {
                // Another owner's, or ours from a try whose answer was lost: then no byte is sent in vain.
                if self.exists(key).await? {
                    return Ok(Created::Existed);
                }
                uploads.create(&path, &body, self.attributes(), &may).await
            }
            Way::S3(_) if !may() => Err(NotUploaded::GivenUp),
            Way::S3(_) => {
                let options = PutOptions {
                    mode: PutMode::Create,
                    attributes: self.attributes(),
                    ..PutOptions::default()
                };
                self.store.put_opts(&path, body.into(), options).await.map(drop).map_err(NotUploaded::Store)
            }
        };
        match created {
            Ok(()) => Ok(Created::New),
            // A store may also answer so while another put is under way that has not succeeded (S3: 409
            // ConditionalRequestConflict), or because the upload is gone. Only an object that is there counts.
            Err(NotUploaded::Store(refused)) if is_taken(&refused) => {
                if self.exists(key).await? {
                    Ok(Created::Existed)
                } else {
                    Err(failed("create", key, &refused))
                }
            }
            Err(error) => Err(not_uploaded(key, &error)),
        }
    }

    async fn read(&self, key: &str) -> Result<Option<Bytes>, SinkError> {
        let read = async { self.store.get(&self.path(key)).await?.bytes().await };
        match read.await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(failed("read", key, &error)),
        }
    }

    async fn exists(&self, key: &str) -> Result<bool, SinkError> {
        match self.store.head(&self.path(key)).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(failed("find", key, &error)),
        }
    }
}
