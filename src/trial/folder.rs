//! The folder of a run: empty before, so that nothing of another run is taken for its own.

use std::path::{Path, PathBuf};

/// The folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", dir.display())]
pub struct BadFolder {
    dir: PathBuf,
    problem: String,
}

/// Makes the folder, unless there is an empty one, and these folders in it.
///
/// # Errors
/// When something is in it, or folders cannot be made.
pub fn prepare(dir: &Path, folders: &[&str]) -> Result<(), BadFolder> {
    let bad = |problem: String| BadFolder { dir: dir.to_owned(), problem };
    if std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(bad("is not empty: choose another folder with --dir, or remove it".to_owned()));
    }
    for folder in folders {
        let made = std::fs::create_dir_all(dir.join(folder));
        made.map_err(|error| bad(format!("could not be made: {error}")))?;
    }
    Ok(())
}
