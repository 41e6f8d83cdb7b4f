//! A lake on S3: how its requests are made, and objects that go up in parts.
//!
//! Owns: time-outs, checksums and encryption of requests, the life of a multipart upload.
//! Does not own: what "exists already" means (`objects`), trying again for as long as it takes (`retry`).
//!
//! `docs/adr/0009-s3.md` says why it is done so, and what each answer of S3 means.

mod credentials;

use std::sync::Arc;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use object_store::aws::{AmazonS3Builder, Checksum, S3ConditionalPut};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    Attributes, Certificate, ClientOptions, Error, HeaderMap, HeaderValue, MultipartId, ObjectStore,
    PutMultipartOptions, RetryConfig,
};
use reqwest::header::IF_NONE_MATCH;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use self::credentials::SdkCredentials;
use super::said::said;
use super::sink::{BadLake, MayCreate};
use super::url::LakeUrl;
use crate::aws::{self, AssumeRole, bucket_config};

/// An object above this goes up in parts. One put of it, or one part, must be through within the time-out of a
/// request: on a slower line than 0.3 MB/s no object of this size would ever arrive.
pub(super) const SINGLE_PUT_MAX: usize = 16 << 20;
/// S3 takes parts of 5 MiB to 5 GiB, all but the last of one size.
const PART_BYTES: usize = 8 << 20;
/// S3 takes no more parts than this.
const PARTS_MAX: usize = 10_000;
/// Parts of one object under way at the same time.
const PARTS_AT_ONCE: usize = 2;
/// A part is tried so often before the upload is given up, and with it all parts that are there.
const PART_TRIES: usize = 5;

/// Bytes of a prefix. The longest key below one is that of a replay's record, with folders of some 250 bytes and a name of
/// 255.
const PREFIX_MAX: usize = 400;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How objects are written to S3.
#[derive(Clone, Debug)]
pub struct S3Settings {
    /// In whose role all is done, also what only reads; none: this process's own.
    pub role: Option<AssumeRole>,
    /// Encryption that each new object asks for; none: what the bucket says, at least that of S3 itself.
    pub sse: Option<Sse>,
    /// ARN of the KMS key; none: the one of the account for S3 (`aws/s3`).
    pub kms_key: Option<String>,
    /// Whether S3 may take a key of the bucket for many objects (fewer requests to KMS).
    pub bucket_key: bool,
    /// From connecting to the end of the answer, body included; more than connecting alone may take (3 s).
    pub request_timeout: Duration,
}

impl S3Settings {
    /// The first setting that does not fit the lake or the others: its name, its value, and what is allowed. S3 would
    /// refuse it at the first object, or we would leave it out without a word.
    pub fn problem(&self, lake: &LakeUrl) -> Option<(&'static str, String, &'static str)> {
        if let (LakeUrl::Folder(_), Some(sse)) = (lake, self.sse) {
            return Some(("s3-sse", sse.name().to_owned(), "needs a lake at s3://"));
        }
        let kms = matches!(self.sse, Some(Sse::Kms | Sse::KmsDsse));
        match &self.kms_key {
            Some(key) if !kms => {
                return Some(("s3-kms-key", key.clone(), "needs --s3-sse kms or --s3-sse kms-dsse"));
            }
            Some(key) if !is_key_arn(key) => {
                let allowed = "must be an ARN like arn:aws:kms:eu-north-1:111122223333:key/1234abcd-…";
                return Some(("s3-kms-key", key.clone(), allowed));
            }
            _ => {}
        }
        let alone = self.bucket_key && self.sse != Some(Sse::Kms);
        alone.then(|| ("s3-bucket-key", "true".to_owned(), "needs --s3-sse kms"))
    }
}

fn is_key_arn(text: &str) -> bool {
    let parts: Vec<&str> = text.splitn(6, ':').collect();
    let key = |part: &str| part.starts_with("key/") || part.starts_with("alias/");
    matches!(parts[..], ["arn", _, "kms", _, _, last] if key(last))
        && text.bytes().all(|b| b.is_ascii_graphic())
}

impl Default for S3Settings {
    fn default() -> Self {
        Self {
            role: None,
            sse: None,
            kms_key: None,
            bucket_key: false,
            request_timeout: Duration::from_secs(60),
        }
    }
}

/// Server-side encryption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Sse {
    /// S3 managed keys (SSE-S3).
    Aes256,
    /// A KMS key (SSE-KMS).
    Kms,
    /// Two layers, with a KMS key (DSSE-KMS).
    KmsDsse,
}

impl Sse {
    /// As people type it.
    fn name(self) -> &'static str {
        match self {
            Self::Aes256 => "aes256",
            Self::Kms => "kms",
            Self::KmsDsse => "kms-dsse",
        }
    }

    /// Value of the header `x-amz-server-side-encryption`.
    fn header(self) -> &'static str {
        match self {
            Self::Aes256 => "AES256",
            Self::Kms => "aws:kms",
            Self::KmsDsse => "aws:kms:dsse",
        }
    }
}

/// A lake in a bucket.
pub(super) struct Bucket {
    pub(super) store: Arc<dyn ObjectStore>,
    /// Where in it the lake starts.
    pub(super) prefix: Path,
    pub(super) uploads: Uploads,
}

/// Opens a bucket. `endpoint`: another server than AWS, with path-style addresses.
pub(super) async fn open(
    name: &str,
    prefix: &str,
    region: Option<&str>,
    endpoint: Option<&str>,
    settings: &S3Settings,
) -> Result<Bucket, BadLake> {
    let sdk = bucket_config(settings.role.as_ref(), endpoint, region).await;
    let bucket = aws::bucket(&sdk, name).await.map_err(BadLake::new)?;
    let prefix = as_given(prefix).map_err(BadLake::new)?;
    let store = |error: Error| BadLake::new(said(&error));
    let plain = bucket.url.starts_with("http://");
    let mut options = ClientOptions::new()
        .with_allow_http(plain)
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_timeout(settings.request_timeout);
    if let Some(pem) = &bucket.ca_bundle {
        options = options.with_no_system_certificates(true);
        for certificate in Certificate::from_pem_bundle(pem).map_err(store)? {
            options = options.with_root_certificate(certificate);
        }
    }
    // Nothing from the environment: what counts of it is in `bucket`. Its URL is whole, which `object_store` calls
    // virtual-hosted.
    let mut builder = AmazonS3Builder::new()
        .with_client_options(options.clone())
        .with_bucket_name(name)
        .with_endpoint(&bucket.url)
        .with_virtual_hosted_style_request(true)
        .with_region(&bucket.region)
        // Two clients must not ask for the credentials of the role twice.
        .with_credentials(Arc::new(SdkCredentials::new(bucket.credentials)))
        .with_retry(retries())
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_checksum_algorithm(Checksum::CRC64NVME)
        // TLS and the checksum, which is signed, guard the bytes. A signature over them would take a SHA-256 of each
        // part on the async threads.
        .with_unsigned_payload(!plain);
    for (name, value) in encryption(settings) {
        builder = builder.with_config(name.parse().map_err(store)?, value);
    }
    let store_of_parts = Arc::new(builder.clone().build().map_err(store)?);
    let completing =
        builder.with_client_options(options.with_default_headers(create_only())).build().map_err(store)?;
    let uploads = Uploads {
        parts: Arc::clone(&store_of_parts) as _,
        completing: Arc::new(completing),
        open: TaskTracker::new(),
    };
    Ok(Bucket { store: store_of_parts, prefix, uploads })
}

/// A prefix that keys can start with as it is written. What S3 takes and readers of lakes do not is refused.
fn as_given(prefix: &str) -> Result<Path, String> {
    let bad = |problem: &str| format!("the prefix {prefix:?} {problem}");
    if prefix.is_empty() {
        return Ok(Path::default());
    }
    if prefix.split('/').any(str::is_empty) {
        return Err(bad("has an empty part: write each '/' once"));
    }
    if prefix.len() > PREFIX_MAX {
        return Err(bad("is too long: at most 400 bytes, as S3 keys have at most 1,024"));
    }
    Path::parse(prefix).map_err(|_| bad("must not contain the parts '.' or '..', nor control characters"))
}

/// Names are those of `object_store`.
fn encryption(settings: &S3Settings) -> impl Iterator<Item = (&'static str, &str)> {
    let sse = settings.sse.map(|sse| ("aws_server_side_encryption", sse.header()));
    let key = settings.kms_key.as_deref().map(|key| ("aws_sse_kms_key_id", key));
    let bucket_key = settings.bucket_key.then_some(("aws_sse_bucket_key_enabled", "true"));
    [sse, key, bucket_key].into_iter().flatten()
}

/// Bytes of each part of an object but the last.
fn part_bytes(object_bytes: usize) -> usize {
    PART_BYTES.max(object_bytes.div_ceil(PARTS_MAX))
}

fn create_only() -> HeaderMap {
    HeaderMap::from_iter([(IF_NONE_MATCH, HeaderValue::from_static("*"))])
}

/// Few and quick: a delivery is tried for as long as it takes, where operators can see it (`retry`).
fn retries() -> RetryConfig {
    RetryConfig { max_retries: 2, retry_timeout: Duration::from_secs(5), ..RetryConfig::default() }
}

/// Why an upload ended without its object.
pub(super) enum NotUploaded {
    /// The store said so, or nothing.
    Store(Error),
    /// Whoever asked for it may not create it any more.
    GivenUp,
}

impl From<Error> for NotUploaded {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

fn allowed(may: &MayCreate) -> Result<(), NotUploaded> {
    if may() { Ok(()) } else { Err(NotUploaded::GivenUp) }
}

/// Creates large objects of one bucket, part by part.
pub(super) struct Uploads {
    /// Begins uploads, takes their parts, aborts them.
    parts: Arc<dyn MultipartStore>,
    /// The same bucket, with `If-None-Match: *` in every request: `object_store` has no option for it at completion.
    completing: Arc<dyn MultipartStore>,
    /// Uploads that are neither complete nor aborted.
    open: TaskTracker,
}

impl Uploads {
    /// Creates the object unless there is one. However this ends short of success, dropped included, the upload is
    /// aborted. `may` is asked before each part and before the completion.
    ///
    /// # Errors
    /// `Precondition`, `AlreadyExists` or `NotFound` when the completion found an object, another one that is being
    /// made, or no upload any more: look whether the object is there.
    pub(super) async fn create(
        &self,
        path: &Path,
        body: &Bytes,
        attributes: Attributes,
        may: &MayCreate,
    ) -> Result<(), NotUploaded> {
        allowed(may)?;
        let options = PutMultipartOptions { attributes, ..PutMultipartOptions::default() };
        let id = self.parts.create_multipart_opts(path, options).await?;
        let mut upload = Upload { of: self, path, id: Some(id.clone()), open: self.open.token() };
        let part_bytes = part_bytes(body.len());
        let parts = stream::iter((0..body.len()).step_by(part_bytes).enumerate())
            .map(|(number, start)| {
                self.part(path, &id, number, body.slice(start..body.len().min(start + part_bytes)), may)
            })
            .buffered(PARTS_AT_ONCE)
            .try_collect()
            .await?;
        allowed(may)?;
        self.completing.complete_multipart(path, &id, parts).await?;
        upload.id = None;
        Ok(())
    }

    /// Begins an upload and aborts it, so that nothing is left: whether objects may be made there.
    pub(super) async fn begin_and_abort(&self, path: &Path, attributes: Attributes) -> Result<(), Error> {
        let options = PutMultipartOptions { attributes, ..PutMultipartOptions::default() };
        let id = self.parts.create_multipart_opts(path, options).await?;
        self.parts.abort_multipart(path, &id).await
    }

    /// One part. It is tried again by itself: giving up costs all parts.
    async fn part(
        &self,
        path: &Path,
        id: &MultipartId,
        number: usize,
        bytes: Bytes,
        may: &MayCreate,
    ) -> Result<PartId, NotUploaded> {
        let put = || async {
            allowed(may)?;
            Ok(self.parts.put_part(path, id, number, bytes.clone().into()).await?)
        };
        put.retry(
            ExponentialBuilder::new()
                .with_min_delay(Duration::from_millis(200))
                .with_max_delay(Duration::from_secs(5))
                .with_max_times(PART_TRIES - 1)
                .with_jitter(),
        )
        .when(|why| matches!(why, NotUploaded::Store(Error::Generic { .. })))
        .notify(|why, wait| {
            if let NotUploaded::Store(error) = why {
                tracing::debug!(%path, part = number + 1, ?wait, %error, "part refused");
            }
        })
        .await
    }

    /// Waits until no upload is left: also of tasks that were aborted and have not noticed it yet.
    pub(super) async fn settled(&self) {
        self.open.close();
        self.open.wait().await;
    }
}

/// An upload that is aborted when it is dropped unfinished. That happens in the background: who loses a lease drops
/// everything at once and waits for nothing.
struct Upload<'a> {
    of: &'a Uploads,
    path: &'a Path,
    id: Option<MultipartId>,
    open: TaskTrackerToken,
}

impl Drop for Upload<'_> {
    fn drop(&mut self) {
        let (Some(id), Ok(runtime)) = (self.id.take(), Handle::try_current()) else { return };
        let (store, path, open) = (Arc::clone(&self.of.parts), self.path.clone(), self.open.clone());
        runtime.spawn(async move {
            let _open = open;
            match store.abort_multipart(&path, &id).await {
                Ok(()) => tracing::debug!(%path, "unfinished upload aborted"),
                // Completed or aborted, with an answer that was lost.
                Err(Error::NotFound { .. }) => {}
                Err(error) => tracing::warn!(
                    %path, %error,
                    "could not abort an unfinished upload; a lifecycle rule of the bucket must remove its parts"
                ),
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "arn:aws:kms:eu-north-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";

    #[test]
    fn encryption_is_checked_as_a_whole() {
        let lake = |url: &str| url.parse::<LakeUrl>().unwrap();
        let settings = |sse, key: Option<&str>, bucket_key| S3Settings {
            sse,
            kms_key: key.map(str::to_owned),
            bucket_key,
            ..S3Settings::default()
        };
        let (s3, folder) = (lake("s3://lake"), lake("/tmp/lake"));
        let cases = [
            (&folder, settings(None, None, false), None),
            (&folder, settings(Some(Sse::Kms), None, false), Some("s3-sse")),
            (&s3, settings(Some(Sse::Aes256), None, false), None),
            (&s3, settings(Some(Sse::Kms), Some(KEY), true), None),
            (&s3, settings(Some(Sse::Kms), None, true), None),
            (&s3, settings(Some(Sse::KmsDsse), Some("arn:aws-cn:kms:cn-north-1:1:alias/a"), false), None),
            (&s3, settings(None, Some(KEY), false), Some("s3-kms-key")),
            (&s3, settings(Some(Sse::Aes256), Some(KEY), false), Some("s3-kms-key")),
            (&s3, settings(Some(Sse::Kms), Some("1234abcd"), false), Some("s3-kms-key")),
            (
                &s3,
                settings(Some(Sse::Kms), Some("arn:aws:kms:eu-north-1:1:key/ü"), false),
                Some("s3-kms-key"),
            ),
            (&s3, settings(Some(Sse::KmsDsse), None, true), Some("s3-bucket-key")),
            (&s3, settings(None, None, true), Some("s3-bucket-key")),
        ];
        for (lake, settings, wrong) in cases {
            assert_eq!(settings.problem(lake).map(|(setting, ..)| setting), wrong, "{settings:?}");
        }
    }

    #[test]
    fn a_prefix_is_as_given_or_refused() {
        for prefix in ["", "raw", "raw data/ü~x", "a/b%20c/{d}", "50%/#1", "_raw/.x"] {
            assert_eq!(as_given(prefix).map(|path| path.to_string()).as_deref(), Ok(prefix));
        }
        for prefix in ["a//b", "/a", "a/", "a/../b", "./a", "a\nb", &"a".repeat(401)] {
            let problem = as_given(prefix).unwrap_err();
            assert!(problem.contains("the prefix"), "{problem}");
        }
    }

    #[test]
    fn every_part_is_one_that_s3_takes() {
        const MIN: usize = 5 << 20;
        const { assert!(PART_BYTES >= MIN && PART_BYTES < SINGLE_PUT_MAX) };
        for bytes in [SINGLE_PUT_MAX + 1, PART_BYTES * PARTS_MAX, PART_BYTES * PARTS_MAX + 1, 1 << 40] {
            let part = part_bytes(bytes);
            assert!(part >= MIN && bytes.div_ceil(part) <= PARTS_MAX, "{bytes} bytes");
        }
    }
}
