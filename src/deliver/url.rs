//! The lake's address as people type it. A mistyped address must never become a folder of this machine: in a container
//! that folder is lost with it, while the checkpoints have moved on.

use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Schemes of other stores.
const OTHER_STORES: [&str; 10] =
    ["abfs", "abfss", "adl", "az", "azure", "gcs", "gs", "hdfs", "wasb", "wasbs"];

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
        read(text, Path::is_dir)
    }
}

impl std::fmt::Display for LakeUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
            // So that whoever reads it again takes it for a folder.
            Self::Folder(folder)
                if !(folder.is_absolute() || folder.starts_with(".") || folder.starts_with("..")) =>
            {
                write!(f, "./{}", folder.display())
            }
            Self::Folder(folder) => write!(f, "{}", folder.display()),
        }
    }
}

/// Reads an address. A text that is neither a URL nor a path that says that it is one (`/…`, `./…`, `../…`) is a folder
/// only where `exists` says so.
fn read(text: &str, exists: impl Fn(&Path) -> bool) -> Result<LakeUrl, String> {
    if text.is_empty() {
        return Err("it is empty: write s3://bucket/prefix, file:///folder or a folder".into());
    }
    if text.chars().any(char::is_control) {
        return Err("it has control characters: type it again".into());
    }
    let bare = text.trim().trim_matches(['"', '\'']).trim();
    if bare != text {
        return Err(format!("it has spaces or quotes around it; did you mean {bare}?"));
    }
    if let Some(rest) = text.strip_prefix("s3://") {
        return in_bucket(rest);
    }
    if let Some(path) = text.strip_prefix("file:///") {
        return Ok(LakeUrl::Folder(percent_decoded(&format!("/{path}"))?.into()));
    }
    if let Some(problem) = mistaken_url(text) {
        return Err(problem);
    }
    let says_so = text.starts_with('/') || [".", ".."].contains(&text) || is_relative(text);
    if says_so || exists(Path::new(text)) {
        return Ok(LakeUrl::Folder(text.into()));
    }
    Err(format!("there is no such folder here: write s3://{text} for a bucket, or ./{text} for a new folder"))
}

/// What is wrong with a text that looks like a URL; nothing where it looks like the path of a folder. For every setting
/// that takes a folder of this machine.
pub fn mistaken_url(text: &str) -> Option<String> {
    let meant = |url: &str| Some(format!("did you mean {url}?"));
    let lower = text.to_ascii_lowercase();
    let rest_of =
        |scheme: &str| lower.starts_with(scheme).then(|| text[scheme.len()..].trim_start_matches('/'));
    if is_relative(text) && !text.contains("://") {
        return None;
    }
    // The last ones: the colon was forgotten, or what stands before the slashes.
    for scheme in ["s3:", "s3a:", "s3n:", "s3//", "s3a//", "s3n//", "//s3/", "//"] {
        if let Some(rest) = rest_of(scheme) {
            return meant(&format!("s3://{rest}"));
        }
    }
    if let Some(rest) = rest_of("file:").or_else(|| rest_of("file//")) {
        let rest = rest.strip_prefix("localhost/").unwrap_or(rest);
        return meant(&format!("file:///{rest}"));
    }
    if lower.starts_with("arn:") {
        return Some(match text.split_once(":::").filter(|(service, _)| service.ends_with(":s3")) {
            Some((_, path)) => {
                format!("did you mean s3://{}?", path.trim_end_matches('*').trim_end_matches('/'))
            }
            None => {
                "this ARN is not a bucket: write s3://bucket/prefix, or use the alias of an access point \
                     as the bucket"
                    .to_owned()
            }
        });
    }
    for scheme in ["https:", "http:"] {
        if let Some(rest) = rest_of(scheme) {
            return Some(web_address(scheme, rest));
        }
    }
    if let Some((host, path)) = text.split_once('/').filter(|(host, _)| host.ends_with(".amazonaws.com")) {
        return Some(web_address("https:", &format!("{host}/{path}")));
    }
    if let Some((scheme, _)) = text.split_once(':') {
        if OTHER_STORES.contains(&scheme.to_ascii_lowercase().as_str()) {
            return Some(format!(
                "{scheme} is not supported: write s3://bucket/prefix, file:///folder or a folder"
            ));
        }
        if text.contains("://") {
            return Some("unknown scheme: write s3://bucket/prefix, file:///folder or a folder".to_owned());
        }
        if !scheme.contains('/') {
            return Some(format!(
                "write s3://bucket/prefix or file:///folder, or ./{text} for a folder of that name"
            ));
        }
    }
    if text.starts_with('~') {
        return Some("~ is not expanded here: write the whole path of the folder".to_owned());
    }
    if text.starts_with('$') {
        return Some("variables are not expanded here: write the URL itself".to_owned());
    }
    None
}

fn is_relative(text: &str) -> bool {
    text.starts_with("./") || text.starts_with("../")
}

/// What follows `s3://`.
fn in_bucket(rest: &str) -> Result<LakeUrl, String> {
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() {
        return Err("the bucket is missing: write s3://bucket or s3://bucket/prefix".into());
    }
    if let Some(path) = rest.strip_prefix("arn:").and_then(|arn| arn.split_once(":::")) {
        return Err(format!("did you mean s3://{}?", path.1));
    }
    let letter = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if !bucket.chars().all(letter) || bucket.starts_with(['.', '-']) {
        return Err(format!(
            "{bucket:?} is not a bucket name: use only letters, digits, '.' and '-', as in s3://bucket/prefix"
        ));
    }
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    if !prefix.is_empty() && prefix.split('/').any(|part| ["", ".", ".."].contains(&part)) {
        let whole =
            prefix.split('/').filter(|part| !["", ".", ".."].contains(part)).collect::<Vec<_>>().join("/");
        return Err(format!(
            "a part of the prefix is empty, '.' or '..'; did you mean s3://{bucket}/{whole}?"
        ));
    }
    Ok(LakeUrl::S3 { bucket: bucket.into(), prefix: prefix.into() })
}

/// What is meant by the address of a web page or a server. `rest` follows the slashes.
fn web_address(scheme: &str, rest: &str) -> String {
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let path = path.trim_end_matches('/');
    let host_lower = host.to_ascii_lowercase();
    let labels: Vec<&str> = host_lower.split('.').collect();
    let of_aws = host_lower.contains(".amazonaws.com") || host_lower.contains(".amazonaws.eu");
    if host_lower.contains("console.aws") || host_lower.contains("console.amazonaws") {
        let place = path.strip_prefix("s3/buckets/").unwrap_or_default();
        let (bucket, query) = place.split_once('?').unwrap_or((place, ""));
        let prefix = query.split('&').find_map(|part| part.strip_prefix("prefix=")).unwrap_or_default();
        if bucket.is_empty() {
            return "this is a page of the AWS console: write s3://bucket/prefix".to_owned();
        }
        return format!("did you mean s3://{}?", format!("{bucket}/{prefix}").trim_end_matches('/'));
    }
    let is_s3 = |label: &&str| *label == "s3" || label.starts_with("s3-");
    match labels.iter().position(is_s3) {
        Some(at) if of_aws => {
            let bucket = labels[..at].join(".");
            let place = if bucket.is_empty() { path.to_owned() } else { format!("{bucket}/{path}") };
            match place.trim_matches('/') {
                "" => "the bucket is missing: write s3://bucket/prefix".to_owned(),
                place => format!("did you mean s3://{place}?"),
            }
        }
        _ => {
            let place = if path.is_empty() { "bucket/prefix" } else { path };
            format!("did you mean s3://{place} with --s3-endpoint {scheme}//{host}?")
        }
    }
}

/// A path of a file URL: `%20` is a space.
fn percent_decoded(path: &str) -> Result<String, String> {
    if let Some(mark) = path.chars().find(|c| ['?', '#'].contains(c)) {
        let code = if mark == '?' { "%3F" } else { "%23" };
        return Err(format!(
            "{mark:?} cannot be in the path of a URL: write {code}, or the folder without file://"
        ));
    }
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let hex = |at: usize| after.get(at).and_then(|b| char::from(*b).to_digit(16));
        let Some(high) = (byte == b'%').then(|| hex(0)) else {
            decoded.push(byte);
            rest = after;
            continue;
        };
        let code = high.zip(hex(1)).and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
        decoded.push(code.ok_or("'%' in a URL starts a character code: write %25 for a percent sign")?);
        rest = &after[2..];
    }
    String::from_utf8(decoded)
        .ok()
        .filter(|path| !path.chars().any(char::is_control))
        .ok_or_else(|| "its %-codes are not UTF-8 text".to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn s3(bucket: &str, prefix: &str) -> LakeUrl {
        LakeUrl::S3 { bucket: bucket.into(), prefix: prefix.into() }
    }

    fn folder(path: &str) -> LakeUrl {
        LakeUrl::Folder(path.into())
    }

    /// In a place where there is a folder `lake`, and one that a former mistake has left.
    fn read_here(text: &str) -> Result<LakeUrl, String> {
        read(text, |path| ["lake", "s3:/b/p", "data/lake", "s3a:"].contains(&path.to_str().unwrap()))
    }

    #[test]
    fn lakes_as_people_type_them() {
        for (text, lake) in [
            ("s3://lake", s3("lake", "")),
            ("s3://lake/", s3("lake", "")),
            ("s3://lake/a/b/", s3("lake", "a/b")),
            ("s3://my.lake-1/raw data/ü~x", s3("my.lake-1", "raw data/ü~x")),
            ("s3://lake/50%20off", s3("lake", "50%20off")),
            ("file:///tmp/lake", folder("/tmp/lake")),
            ("file:///tmp/url%20lake", folder("/tmp/url lake")),
            ("file:///tmp/%C3%BC%25", folder("/tmp/ü%")),
            ("./lake", folder("./lake")),
            ("../lake", folder("../lake")),
            (".", folder(".")),
            ("/var/lake", folder("/var/lake")),
            ("/var/a:b", folder("/var/a:b")),
            ("./s3:", folder("./s3:")),
        ] {
            assert_eq!(read_here(text), Ok(lake.clone()), "{text}");
            assert_eq!(read(&lake.to_string(), |_| false), Ok(lake), "{text}, as it is shown");
        }
    }

    #[test]
    fn a_folder_that_exists_needs_no_dot() {
        for text in ["lake", "data/lake"] {
            assert_eq!(read_here(text), Ok(folder(text)));
            assert_eq!(read_here(text).unwrap().to_string(), format!("./{text}"));
        }
    }

    #[test]
    fn what_was_probably_meant_is_named() {
        for (text, meant) in [
            ("s3:/b/p", "s3://b/p"),
            ("s3:b/p", "s3://b/p"),
            ("s3:///b/p", "the bucket is missing"),
            ("S3://b/p", "s3://b/p"),
            ("s3a://b/p", "s3://b/p"),
            ("S3N://b/p", "s3://b/p"),
            ("s3//b/p", "s3://b/p"),
            ("//b/p", "s3://b/p"),
            ("s3://arn:aws:s3:::b/p", "s3://b/p"),
            ("arn:aws:s3:::b", "s3://b?"),
            ("arn:aws-cn:s3:::b/p/*", "s3://b/p?"),
            ("arn:aws:s3:eu-north-1:1:accesspoint/x", "alias of an access point"),
            ("https://b.s3.eu-north-1.amazonaws.com/p/q", "s3://b/p/q?"),
            ("https://b.s3.amazonaws.com", "s3://b?"),
            ("https://my.b.s3-eu-west-1.amazonaws.com/p/", "s3://my.b/p?"),
            ("https://s3.eu-north-1.amazonaws.com/b/p", "s3://b/p?"),
            ("https://s3.cn-north-1.amazonaws.com.cn/b/p", "s3://b/p?"),
            ("b.s3.amazonaws.com/p", "s3://b/p?"),
            ("https://s3.console.aws.amazon.com/s3/buckets/b?region=x&prefix=p/", "s3://b/p?"),
            ("http://127.0.0.1:9000/b/p", "s3://b/p with --s3-endpoint http://127.0.0.1:9000"),
            ("file:/x", "file:///x"),
            ("file://x/y", "file:///x/y"),
            ("file://localhost/x", "file:///x"),
            ("FILE:///x", "file:///x"),
            ("file:x", "file:///x"),
            ("bucket/prefix", "s3://bucket/prefix"),
            ("bucket/prefix", "./bucket/prefix"),
            ("new-lake", "./new-lake"),
            (" s3://b/p", "s3://b/p?"),
            ("s3://b/p ", "s3://b/p?"),
            ("\"s3://b/p\"", "s3://b/p?"),
            ("s3://b//p", "s3://b/p?"),
            ("s3://b/a/../p", "s3://b/a/p?"),
            ("s3://", "the bucket is missing"),
            ("s3://$BUCKET/p", "not a bucket name"),
            ("s3://user@b/p", "not a bucket name"),
            ("~/lake", "whole path"),
            ("$LAKE", "variables"),
            ("gs://lake", "not supported"),
            ("ftp://lake", "unknown scheme"),
            ("./s3://b", "unknown scheme"),
            ("/s3://b", "unknown scheme"),
            ("C:\\lake", "file:///folder"),
            ("file:///a?b", "%3F"),
            ("file:///a%2", "%25"),
            ("file:///a%zz", "%25"),
            ("file:///a%FF", "UTF-8"),
            ("file:///a%00", "UTF-8"),
            ("", "it is empty"),
            ("s3://b/\n", "control characters"),
        ] {
            let refused = read_here(text).expect_err(text);
            assert!(refused.contains(meant), "{text}: {refused}");
            assert!(!refused.contains('\n'), "{text}: {refused}");
        }
    }

    proptest! {
        /// A folder is what says that it is one or exists; everything else is refused. Nothing panics.
        #[test]
        fn nothing_becomes_a_folder_by_accident(text in "[sS]?3?[aA]?(file)?[:./a-z~ %é-]{0,12}") {
            match read(&text, |_| false) {
                Ok(LakeUrl::Folder(path)) => prop_assert!(
                    path.is_absolute() || path.starts_with(".") || path.starts_with(".."), "{text}"
                ),
                Ok(LakeUrl::S3 { .. }) => prop_assert!(text.starts_with("s3://")),
                Err(_) => {}
            }
        }
    }
}
