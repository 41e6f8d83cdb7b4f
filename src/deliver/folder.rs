//! A lake in a folder: files made create-only by hard link, and durable before anybody believes in them.
//!
//! Owns: how a file comes to be, which syncs that takes, the files being written and what dead processes left of them.
//! Does not own: what "exists already" means (`sink`), reading and listing, which `object_store` does.
//!
//! ```text
//! write and sync <root>/_kinetide/staging/<random> ─► hard link to its name ─► sync its folders, up to the root
//! ```
//!
//! A name has no part that is too long, whatever it is of; readers skip folders that begin with an underscore.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use uuid::Uuid;

use super::sink::{Created, GIVEN_UP, OWN_FOLDER};

/// Below [`OWN_FOLDER`].
const STAGING: &str = "staging";
/// How names of files begin that are written beside their place.
const BESIDE: &str = ".kinetide-";
/// How often a file is written that others take away as a leftover.
const TRIES: u32 = 5;

/// Why a file was not made.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct NotMade(String);

impl From<io::Error> for NotMade {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}

/// The calls whose order makes a file durable. Tests watch them and make them fail.
trait Disk: Send + Sync {
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Brings a file, or the names in a folder, to the disk.
    fn sync(&self, path: &Path) -> io::Result<()>;
}

struct RealDisk;

impl Disk for RealDisk {
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }
}

/// Makes the files of one lake.
pub(super) struct Folder {
    root: PathBuf,
    disk: Box<dyn Disk>,
}

impl Folder {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root, disk: Box::new(RealDisk) }
    }

    /// Makes the file unless there is one. Either way it is on the disk when this returns, with its name: one that is there
    /// already may be that of a process that was killed before it had seen to that.
    ///
    /// `parts`: its place below the root. `may` is asked when only the name is missing. Blocks.
    pub(super) fn create<'a>(
        &self,
        parts: impl Iterator<Item = &'a str>,
        body: &Bytes,
        may: &dyn Fn() -> bool,
    ) -> Result<Created, NotMade> {
        let path = parts.fold(self.root.clone(), |path, part| path.join(part));
        let parent = path.parent().expect("it lies below the root");
        fs::create_dir_all(parent).map_err(not_linked)?;
        let created = match self.link_new(&self.staging(), "", body, &path, may) {
            // A part of the lake may be mounted from elsewhere; links do not lead there.
            Err(error) if error.kind() == ErrorKind::CrossesDevices => {
                clean(parent);
                self.link_new(parent, BESIDE, body, &path, may)
            }
            created => created,
        };
        let created = match created {
            Ok(()) => Created::New,
            Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_file() => {
                self.disk.sync(&path)?;
                Created::Existed
            }
            Err(error) => return Err(not_linked(error)),
        };
        for folder in parent.ancestors().take_while(|folder| folder.starts_with(&self.root)) {
            self.disk.sync(folder)?;
        }
        Ok(created)
    }

    /// Whether files could be made in a folder, by one that is removed at once, in what there is of it. Blocks.
    pub(super) fn rehearse<'a>(&self, parts: impl Iterator<Item = &'a str>) -> io::Result<()> {
        let path = parts.fold(self.root.clone(), |path, part| path.join(part));
        let there = path.ancestors().find(|folder| folder.exists()).unwrap_or(&self.root);
        let file = there.join(format!("{BESIDE}{}", Uuid::new_v4()));
        File::create_new(&file)?;
        fs::remove_file(file)
    }

    fn staging(&self) -> PathBuf {
        self.root.join(OWN_FOLDER).join(STAGING)
    }

    /// Writes a file in `folder` and gives it its name. A process that starts may take it for a leftover, before it is locked
    /// and once it is closed: then it is written again.
    fn link_new(
        &self,
        folder: &Path,
        begin: &str,
        body: &[u8],
        path: &Path,
        may: &dyn Fn() -> bool,
    ) -> io::Result<()> {
        fs::create_dir_all(folder)?;
        let mut tries = TRIES;
        loop {
            let staged = folder.join(format!("{begin}{}", Uuid::new_v4()));
            let written = self.write(&staged, body);
            let linked = written.and_then(|()| {
                if may() { self.disk.link(&staged, path) } else { Err(io::Error::other(GIVEN_UP)) }
            });
            // What stays is nobody's: the next process that starts removes it.
            let removed = fs::remove_file(&staged);
            tries -= 1;
            match (&linked, removed) {
                (Err(error), Err(_)) if error.kind() == ErrorKind::NotFound && tries > 0 => {}
                _ => return linked,
            }
        }
    }

    /// Some file systems keep what was written only when the file is closed, so that it is closed before it is linked.
    fn write(&self, staged: &Path, body: &[u8]) -> io::Result<()> {
        let mut file = File::create_new(staged)?;
        // Shows others that its writer is alive. Where there are no locks it is never taken for a leftover either.
        let _ = file.try_lock();
        file.write_all(body)?;
        self.disk.sync(staged)
    }

    /// Removes what processes that are dead were writing. A file that vanishes under a living one, between its last byte
    /// and its name, is written again.
    pub(super) fn clean(&self) {
        clean(&self.staging());
    }
}

fn clean(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let ours = Uuid::try_parse(name.strip_prefix(BESIDE).unwrap_or(&name)).is_ok();
        if !ours || !File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok()) {
            continue;
        }
        match fs::remove_file(entry.path()) {
            Ok(()) => {
                tracing::info!(file = %entry.path().display(), "removed an unfinished file of an earlier process")
            }
            Err(error) => {
                tracing::debug!(%error, file = %entry.path().display(), "could not remove an unfinished file")
            }
        }
    }
}

/// What a file system says that has no hard links: exFAT EPERM, SMB and FUSE ENOTSUP or ENOSYS.
fn not_linked(error: io::Error) -> NotMade {
    match error.kind() {
        ErrorKind::Unsupported | ErrorKind::PermissionDenied => NotMade(format!(
            "{error}; the file system must have hard links (exFAT, SMB and many FUSE mounts do not), and this process \
             needs write permission"
        )),
        _ => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tempfile::TempDir;

    use super::*;

    /// Notes syncs and links, by the names of the files; refuses links as it is told.
    #[derive(Clone, Default)]
    struct Watched {
        log: Arc<Mutex<Vec<String>>>,
        refuses: Option<ErrorKind>,
    }

    impl Watched {
        fn note(&self, what: &str, path: &Path) {
            let name = path.file_name().unwrap().to_string_lossy();
            let name = if Uuid::try_parse(&name).is_ok() { "staged".into() } else { name };
            self.log.lock().unwrap().push(format!("{what} {name}"));
        }

        fn log(&self) -> Vec<String> {
            std::mem::take(&mut *self.log.lock().unwrap())
        }
    }

    impl Disk for Watched {
        fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
            let beside = from.parent() == to.parent();
            match self.refuses {
                Some(ErrorKind::CrossesDevices) if beside => {}
                Some(kind) => return Err(kind.into()),
                None => {}
            }
            self.note("link", to);
            RealDisk.link(from, to)
        }

        fn sync(&self, path: &Path) -> io::Result<()> {
            self.note("sync", path);
            RealDisk.sync(path)
        }
    }

    fn watched(refuses: Option<ErrorKind>) -> (TempDir, Folder, Watched) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("lake");
        fs::create_dir(&root).unwrap();
        let disk = Watched { refuses, ..Watched::default() };
        (dir, Folder { root, disk: Box::new(disk.clone()) }, disk)
    }

    fn create(folder: &Folder, key: &str) -> Result<Created, NotMade> {
        folder.create(key.split('/'), &Bytes::from_static(b"rows"), &|| true)
    }

    fn names(folder: &Path) -> Vec<String> {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_file_and_all_its_folders_are_on_the_disk_before_anybody_believes_in_it() {
        let (_dir, folder, disk) = watched(None);
        assert_eq!(create(&folder, "landing/hour=09/a").unwrap(), Created::New);
        let folders = ["sync hour=09", "sync landing", "sync lake"];
        assert_eq!(disk.log(), [&["sync staged", "link a"][..], &folders].concat());
        // Another process finds it: it may have been killed right after the link.
        assert_eq!(create(&folder, "landing/hour=09/a").unwrap(), Created::Existed);
        assert_eq!(disk.log(), [&["sync staged", "link a", "sync a"][..], &folders].concat());
        assert_eq!(fs::read(folder.root.join("landing/hour=09/a")).unwrap(), b"rows");
        assert_eq!(names(&folder.staging()), Vec::<String>::new());
    }

    #[test]
    fn a_file_system_without_hard_links_is_named() {
        for kind in [ErrorKind::Unsupported, ErrorKind::PermissionDenied] {
            let (_dir, folder, _) = watched(Some(kind));
            let problem = create(&folder, "landing/a").unwrap_err().to_string();
            assert!(problem.contains("must have hard links"), "{problem}");
            assert_eq!(names(&folder.staging()), Vec::<String>::new());
            assert_eq!(names(&folder.root.join("landing")), Vec::<String>::new());
        }
    }

    #[test]
    fn a_part_of_the_lake_may_be_mounted_from_elsewhere() {
        let (_dir, folder, disk) = watched(Some(ErrorKind::CrossesDevices));
        let left = folder.root.join("landing").join(format!("{BESIDE}{}", Uuid::new_v4()));
        fs::create_dir(left.parent().unwrap()).unwrap();
        fs::write(&left, "").unwrap();
        assert_eq!(create(&folder, "landing/a").unwrap(), Created::New);
        assert_eq!(create(&folder, "landing/a").unwrap(), Created::Existed);
        assert!(disk.log().contains(&"link a".to_owned()));
        assert_eq!(names(&folder.root.join("landing")), ["a"]);
    }

    /// Processes that start look for leftovers while others write.
    #[test]
    fn a_file_that_is_taken_for_a_leftover_is_written_again() {
        struct Taken(Mutex<u32>);
        impl Disk for Taken {
            fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
                let mut left = self.0.lock().unwrap();
                if *left > 0 {
                    *left -= 1;
                    fs::remove_file(from)?;
                }
                RealDisk.link(from, to)
            }

            fn sync(&self, path: &Path) -> io::Result<()> {
                RealDisk.sync(path)
            }
        }
        for (taken, made) in [(TRIES - 1, true), (TRIES, false)] {
            let (_dir, mut folder, _) = watched(None);
            folder.disk = Box::new(Taken(Mutex::new(taken)));
            assert_eq!(create(&folder, "landing/a").is_ok(), made);
            assert_eq!(names(&folder.root.join("landing")).len(), usize::from(made));
        }
    }

    #[test]
    fn what_the_dead_left_is_removed_and_what_the_living_write_stays() {
        let (_dir, folder, _) = watched(None);
        let staged = || folder.staging().join(Uuid::new_v4().to_string());
        fs::create_dir_all(folder.staging()).unwrap();
        let (dead, alive, of_others) = (staged(), staged(), folder.staging().join("notes.txt"));
        for path in [&dead, &alive, &of_others] {
            fs::write(path, "").unwrap();
        }
        let writing = File::open(&alive).unwrap();
        writing.try_lock().unwrap();
        folder.clean();
        assert_eq!([&dead, &alive, &of_others].map(|path| path.exists()), [false, true, true]);
        drop(writing);
        folder.clean();
        assert!(!alive.exists());
    }

    #[test]
    fn names_may_be_as_long_as_they_can_be() {
        let (_dir, folder, _) = watched(None);
        let key = format!("landing/{}", "n".repeat(255));
        assert_eq!(create(&folder, &key).unwrap(), Created::New);
    }

    #[test]
    fn a_folder_in_the_place_of_a_file_is_no_file() {
        let (_dir, folder, _) = watched(None);
        create(&folder, "landing/a/b").unwrap();
        assert!(create(&folder, "landing/a").is_err());
        assert!(create(&folder, "landing/a/b/c").is_err());
    }

    #[test]
    fn a_file_gets_no_name_when_it_may_not_any_more() {
        let (_dir, folder, disk) = watched(None);
        let body = Bytes::from_static(b"rows");
        let problem = folder.create("landing/a".split('/'), &body, &|| disk.log().is_empty()).unwrap_err();
        assert!(problem.to_string().contains("not valid"), "{problem}");
        assert!(!folder.root.join("landing/a").exists());
        assert_eq!(fs::read_dir(folder.staging()).unwrap().count(), 0);
        assert_eq!(create(&folder, "landing/a").unwrap(), Created::New);
    }
}
