//! The lake's address → a sink.

use std::path::PathBuf;
use std::sync::Arc;

use object_store::local::LocalFileSystem;

use super::folder::Folder;
use super::objects::ObjectSink;
use super::s3::{self, S3Settings};
use super::sink::BadLake;
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

/// Opens the lake to look at it: see [`open_to_write`].
///
/// # Errors
/// As [`open_to_write`].
pub async fn open(
    lake: &LakeUrl,
    region: Option<&str>,
    endpoint: Option<&str>,
) -> Result<ObjectSink, BadLake> {
    open_to_write(lake, region, endpoint, &S3Settings::default()).await
}

/// Opens the lake; creates the folder of a folder lake. `endpoint`: another server than AWS for `s3://`, with
/// path-style addresses. Credentials, region and all else come from the same environment as for the other clients of AWS.
/// `settings` count for `s3://` only.
///
/// # Errors
/// When the folder cannot be made or the S3 settings do not add up. A bucket is not contacted here.
pub async fn open_to_write(
    lake: &LakeUrl,
    region: Option<&str>,
    endpoint: Option<&str>,
    settings: &S3Settings,
) -> Result<ObjectSink, BadLake> {
    match lake {
        LakeUrl::Folder(folder) => {
            let made = std::fs::create_dir_all(folder).and_then(|()| std::fs::canonicalize(folder));
            let folder = made.map_err(|error| {
                BadLake::new(format!(
                    "cannot be written: {error}; use a folder that this process may write to"
                ))
            })?;
            in_folder(folder)
        }
        // The SDK's futures are large, and this one is part of those of whole commands.
        LakeUrl::S3 { bucket, prefix } => {
            let bucket = Box::pin(s3::open(bucket, prefix, region, endpoint, settings)).await;
            bucket.map(ObjectSink::of_s3)
        }
    }
}

/// Opens a lake that is there, to look at it first: makes no folder, and needs no right to write. `settings` count for
/// what is written to `s3://` all the same.
///
/// # Errors
/// As [`open`], and when there is no such folder.
pub async fn open_existing(
    lake: &LakeUrl,
    region: Option<&str>,
    endpoint: Option<&str>,
    settings: &S3Settings,
) -> Result<ObjectSink, BadLake> {
    match lake {
        LakeUrl::Folder(folder) => {
            let there = std::fs::canonicalize(folder);
            in_folder(there.map_err(|error| {
                BadLake::new(format!("cannot be opened: {error}; use a folder that exists"))
            })?)
        }
        LakeUrl::S3 { .. } => open_to_write(lake, region, endpoint, settings).await,
    }
}

fn in_folder(root: PathBuf) -> Result<ObjectSink, BadLake> {
    let store = LocalFileSystem::new_with_prefix(&root).map_err(BadLake::new)?;
    Ok(ObjectSink::of_folder(Arc::new(store), Folder::new(root)))
}
