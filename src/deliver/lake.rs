//! The lake's address as people type it → a sink.

use std::path::{Component, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use object_store::local::LocalFileSystem;
use object_store::path::Path;

use uuid::Uuid;

use super::s3::{self, S3Settings};
use super::sink::ObjectSink;

/// Where the lake is: `s3://bucket/prefix`, `file:///folder` or a folder's path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LakeUrl {
    /// A bucket and a prefix in it, which may be empty.
    S3 {
        /// Name of the bucket.
        bucket: String,
        /// Keys start with it.
        prefix: String,
    },
    /// A folder of this machine.
    Folder(PathBuf),
}

impl FromStr for LakeUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(rest) = text.strip_prefix("s3://") {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            if bucket.is_empty() {
                return Err("the bucket is missing: write s3://bucket or s3://bucket/prefix".into());
            }
            return Ok(Self::S3 { bucket: bucket.into(), prefix: prefix.trim_matches('/').into() });
        }
        let folder = match text.strip_prefix("file://") {
            Some(path) if path.starts_with('/') => path,
            Some(_) => return Err("a file URL has no host: write file:///folder".into()),
            None if text.contains("://") => {
                return Err("unknown scheme: write s3://bucket/prefix, file:///folder or a folder".into());
            }
            None => text,
        };
        if folder.is_empty() {
            return Err("it is empty: write s3://bucket/prefix, file:///folder or a folder".into());
        }
        Ok(Self::Folder(folder.into()))
    }
}

impl std::fmt::Display for LakeUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
            Self::Folder(folder) => write!(f, "{}", folder.display()),
        }
    }
}

impl LakeUrl {
    /// Where the lake is, in one spelling that `--lake` takes too: a folder by its full path without links.
    pub fn place(&self) -> String {
        match self {
            Self::S3 { .. } => self.to_string(),
            Self::Folder(folder) => {
                let full = std::fs::canonicalize(folder).or_else(|_| std::path::absolute(folder));
                full.as_ref().unwrap_or(folder).display().to_string()
            }
        }
    }
}

/// The lake cannot be opened with these settings.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct BadLake {
    reason: String,
}

/// Opens the lake to look at it: see [`open_to_write`].
///
/// # Errors
/// As [`open_to_write`].
pub fn open(lake: &LakeUrl, region: Option<&str>, endpoint: Option<&str>) -> Result<ObjectSink, BadLake> {
    open_to_write(lake, region, endpoint, &S3Settings::default())
}

/// Opens the lake; creates the folder of a folder lake. `endpoint`: another server than AWS for `s3://`, with
/// path-style addresses. Credentials and region of `s3://` come from the environment or the task role. `settings`
/// count for `s3://` only.
///
/// # Errors
/// When the folder cannot be made or the S3 settings do not add up. A bucket is not contacted here.
pub fn open_to_write(
    lake: &LakeUrl,
    region: Option<&str>,
    endpoint: Option<&str>,
    settings: &S3Settings,
) -> Result<ObjectSink, BadLake> {
    let bad = |reason: String| BadLake { reason };
    match lake {
        LakeUrl::Folder(folder) => {
            let folder = writable(folder).map_err(|error| {
                bad(format!("cannot be written: {error}; give a folder in which this process may make files"))
            })?;
            debug_assert!(folder.components().all(|part| part != Component::ParentDir));
            in_folder(&folder)
        }
        LakeUrl::S3 { bucket, prefix } => {
            s3::open(bucket, prefix, region, endpoint, settings).map_err(|error| bad(error.to_string()))
        }
    }
}

/// Opens a lake that is there, to look at it first: makes no folder, and needs no right to write. `settings` count for
/// what is written to `s3://` all the same.
///
/// # Errors
/// As [`open`], and when there is no such folder.
pub fn open_existing(
    lake: &LakeUrl,
    region: Option<&str>,
    endpoint: Option<&str>,
    settings: &S3Settings,
) -> Result<ObjectSink, BadLake> {
    match lake {
        LakeUrl::Folder(folder) => {
            let there = std::fs::canonicalize(folder).map_err(|error| BadLake {
                reason: format!("cannot be opened: {error}; give a lake that exists"),
            })?;
            in_folder(&there)
        }
        LakeUrl::S3 { .. } => open_to_write(lake, region, endpoint, settings),
    }
}

fn in_folder(folder: &std::path::Path) -> Result<ObjectSink, BadLake> {
    let store = LocalFileSystem::new_with_prefix(folder).map_err(|e| BadLake { reason: e.to_string() })?;
    Ok(ObjectSink::new(Arc::new(store.with_fsync(true)), Path::default(), false))
}

/// Makes the folder, and a file in it for a moment. The answer is its full path.
fn writable(folder: &std::path::Path) -> std::io::Result<PathBuf> {
    std::fs::create_dir_all(folder)?;
    let folder = std::fs::canonicalize(folder)?;
    let probe = folder.join(format!(".kinetide-{}", Uuid::new_v4()));
    std::fs::File::create_new(&probe)?;
    std::fs::remove_file(&probe)?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lakes_as_people_type_them() {
        let s3 = |bucket: &str, prefix: &str| LakeUrl::S3 { bucket: bucket.into(), prefix: prefix.into() };
        assert_eq!("s3://lake".parse(), Ok(s3("lake", "")));
        assert_eq!("s3://lake/a/b/".parse(), Ok(s3("lake", "a/b")));
        assert_eq!("file:///tmp/lake".parse(), Ok(LakeUrl::Folder("/tmp/lake".into())));
        assert_eq!("./lake".parse(), Ok(LakeUrl::Folder("./lake".into())));
        for wrong in ["", "s3://", "s3:///x", "file://host/x", "gs://lake", "file://"] {
            assert!(wrong.parse::<LakeUrl>().is_err(), "{wrong:?}");
        }
    }
}
