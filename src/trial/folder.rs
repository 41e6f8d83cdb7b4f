//! The folder of a run: empty before, so that nothing of another run is taken for its own.

use std::path::Path;

use super::TrialError;

/// Makes the folder, unless there is an empty one, and these folders in it.
///
/// # Errors
/// When something is in it, or folders cannot be made.
pub fn prepare(dir: &Path, folders: &[&str]) -> Result<(), TrialError> {
    let bad = |problem: String| Err(TrialError::server(dir.display().to_string(), problem));
    if std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
        return bad("is not empty: choose another folder with --dir, or remove it".to_owned());
    }
    for folder in folders {
        if let Err(error) = std::fs::create_dir_all(dir.join(folder)) {
            return bad(format!("could not be made: {error}"));
        }
    }
    Ok(())
}
