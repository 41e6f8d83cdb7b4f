//! The lake's address → a sink.

use std::path::{Component, PathBuf};
use std::sync::Arc;

use object_store::local::LocalFileSystem;
use object_store::path::Path;

use uuid::Uuid;

use super::s3::{self, S3Settings};
use super::sink::ObjectSink;
use super::url::LakeUrl;

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
