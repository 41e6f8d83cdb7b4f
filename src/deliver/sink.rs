//! The seam to the lake, and its one implementation, over any `object_store`.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use object_store::path::Path;
use object_store::{Attribute, Attributes, ObjectStore, ObjectStoreExt, PutMode, PutOptions};

use super::s3::{SINGLE_PUT_MAX, Uploads};
use super::said::said;

/// What a create-only put found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// There was no object; now there is this one.
    New,
    /// There is one already, finished by this or a former owner.
    Existed,
}

/// Why an object is not (visibly) in the lake. All of them are worth another try: a full disk is emptied, a
/// permission is granted, a service comes back; until then the shard waits and its lag shows.
#[derive(Debug, thiserror::Error)]
#[error("could not {action} {key}")]
pub struct SinkError {
    /// What was tried: `create`, `read` or `find`.
    pub action: &'static str,
    /// Key of the object.
    pub key: String,
    /// What the store said, for people.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// A place for objects. One of the four seams.
#[async_trait]
pub trait Sink: Send + Sync {
    /// Creates the object unless one exists under its key. Visible whole or not at all.
    async fn create(&self, key: &str, body: Bytes) -> Result<Created, SinkError>;

    /// The object's bytes, if it exists.
    async fn read(&self, key: &str) -> Result<Option<Bytes>, SinkError>;

    /// Whether the object exists.
    async fn exists(&self, key: &str) -> Result<bool, SinkError>;
}

/// Objects in an [`ObjectStore`], below a prefix.
pub struct ObjectSink {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    /// S3 keeps a content type; a folder cannot.
    attributes: Attributes,
    /// For large objects, where the store wants them in parts.
    uploads: Option<Uploads>,
}

impl ObjectSink {
    /// Objects below `prefix` of `store`. `content_type`: whether the store keeps one.
    pub fn new(store: Arc<dyn ObjectStore>, prefix: Path, content_type: bool) -> Self {
        let mut attributes = Attributes::new();
        if content_type {
            // No Content-Encoding: clients would decompress on the fly and break on the `.gz` they expect.
            attributes.insert(Attribute::ContentType, "application/x-ndjson".into());
        }
        Self { store, prefix, attributes, uploads: None }
    }

    /// With large objects in parts.
    pub(super) fn with_uploads(self, uploads: Uploads) -> Self {
        Self { uploads: Some(uploads), ..self }
    }

    /// Waits until what was given up half-way is removed. At the end of the process.
    pub async fn settled(&self) {
        if let Some(uploads) = &self.uploads {
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

    fn path(&self, key: &str) -> Path {
        self.prefix.parts().chain(Path::from(key).parts()).collect()
    }
}

fn failed(action: &'static str, key: &str, source: object_store::Error) -> SinkError {
    SinkError { action, key: key.to_owned(), source: said(&source).into() }
}

#[async_trait]
impl Sink for ObjectSink {
    async fn create(&self, key: &str, body: Bytes) -> Result<Created, SinkError> {
        use object_store::Error::{AlreadyExists, NotFound, Precondition};
        let path = self.path(key);
        let attributes = self.attributes.clone();
        let created = match &self.uploads {
            Some(uploads) if body.len() > SINGLE_PUT_MAX => {
                // Another owner's, or ours from a try whose answer was lost: then no byte is sent in vain.
                if self.exists(key).await? {
                    return Ok(Created::Existed);
                }
                uploads.create(&path, &body, attributes).await
            }
            _ => {
                let options = PutOptions { mode: PutMode::Create, attributes, ..PutOptions::default() };
                self.store.put_opts(&path, body.into(), options).await.map(drop)
            }
        };
        match created {
            Ok(()) => Ok(Created::New),
            // A store may also answer so while another put is under way that has not succeeded (S3: 409
            // ConditionalRequestConflict), or because the upload is gone. Only an object that is there counts.
            Err(refused @ (AlreadyExists { .. } | Precondition { .. } | NotFound { .. })) => {
                if self.exists(key).await? {
                    Ok(Created::Existed)
                } else {
                    Err(failed("create", key, refused))
                }
            }
            Err(error) => Err(failed("create", key, error)),
        }
    }

    async fn read(&self, key: &str) -> Result<Option<Bytes>, SinkError> {
        let read = async { self.store.get(&self.path(key)).await?.bytes().await };
        match read.await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(failed("read", key, error)),
        }
    }

    async fn exists(&self, key: &str) -> Result<bool, SinkError> {
        match self.store.head(&self.path(key)).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(failed("find", key, error)),
        }
    }
}
