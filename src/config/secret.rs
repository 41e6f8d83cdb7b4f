//! Secrets that a variable or a file gives, and never a flag: everybody on a host can read those.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;

use super::BadSetting;
use crate::cause::chain;

/// More than any token or password has.
const FILE_BYTES: u64 = 4096;

/// Where a secret stands.
pub(super) enum Given {
    /// In the variable.
    Variable(OsString),
    /// In a file that another variable names: the file, and its text without the line end.
    File(OsString, String),
}

/// The secret of the variable `name`, or of the file that `file_name` names. An empty variable is none.
pub(super) fn given(
    variable: impl Fn(&str) -> Option<OsString>,
    name: &'static str,
    file_name: &'static str,
) -> Result<Option<Given>, BadSetting> {
    let set = |name| variable(name).filter(|value| !value.is_empty());
    match (set(name), set(file_name)) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(BadSetting::new(name, "", format!("set this or {file_name}, not both"))),
        (Some(text), None) => Ok(Some(Given::Variable(text))),
        (None, Some(file)) => match read(&file) {
            Ok(text) => Ok(Some(Given::File(file, text.trim_end_matches(['\n', '\r']).to_owned()))),
            Err(error) => {
                let allowed = format!("cannot be read: {}", chain(&error));
                Err(BadSetting::new(file_name, file.display(), allowed))
            }
        },
    }
}

fn read(file: &OsStr) -> std::io::Result<String> {
    let mut text = String::new();
    File::open(file)?.take(FILE_BYTES).read_to_string(&mut text)?;
    Ok(text)
}
