//! Where the files of a shard lie. The shard file is mapped; what else there is (the checkpoint, the purge log of whoever
//! owns the store) is written, and lies beside it. Files of hugetlbfs can be mapped and not written: for a shard there the
//! others lie in a directory of their own, and so does the shard file when there are not enough huge pages.
#![forbid(unsafe_code)]

use super::medium::Medium;
use super::recover::{failed, refuse};
use super::{OpenError, Options};
use crate::sys::mapping::LockedDirectory;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The shard file's name.
pub(super) const FILE_NAME: &str = "shard-0";
/// Below it are the written files of shards on hugetlbfs that are not told where to have them.
const STATE_DIRECTORY: &str = "/var/lib/edge";

pub(super) const ACCESS: &str = "give the user that runs edge read and write access to this directory";

/// The directories of a shard, which are ours while this and its clones live.
#[derive(Clone, Debug)]
pub(super) struct Home {
    /// Where the shard file is.
    pub(super) path: PathBuf,
    /// Where written files are; most often the same.
    pub(super) state: PathBuf,
    /// What `path` lies on.
    pub(super) medium: Medium,
    /// Why `path` is not what was asked for.
    pub(super) instead: Option<String>,
    pub(super) lock: Arc<LockedDirectory>,
}

impl Home {
    /// Makes the directories where they are missing, and takes them for this process.
    pub(super) fn take(options: &Options) -> Result<Self, OpenError> {
        let path = options.path.clone();
        let mut lock = lock(&path)?;
        let medium = Medium::of(&path);
        let state = match (&options.state, medium) {
            (Some(state), _) => state.clone(),
            (None, Medium::HugePages(_)) => default_state(&path),
            (None, _) => path.clone(),
        };
        if state != path {
            lock = lock.with(self::lock(&state)?);
        }
        if let Medium::HugePages(_) = Medium::of(&state) {
            let remedy = "set [store] state to a directory on a disk or on tmpfs";
            return Err(refuse(&state, "files on hugetlbfs cannot be written", remedy));
        }
        Ok(Home { path, state, medium, instead: None, lock: Arc::new(lock) })
    }

    /// The same with the shard file among the written ones.
    pub(super) fn without_huge_pages(self, why: String) -> Self {
        Home { medium: Medium::of(&self.state), path: self.state.clone(), instead: Some(why), ..self }
    }

    /// The shard file.
    pub(super) fn file(&self) -> PathBuf {
        self.path.join(FILE_NAME)
    }

    /// Where a shard file would be that is not used now, if there may be one. What it holds has missed what was purged
    /// since.
    pub(super) fn unused_file(&self, options: &Options) -> Option<PathBuf> {
        let other = if self.path == self.state { &options.path } else { &self.state };
        (*other != self.path).then(|| other.join(FILE_NAME))
    }
}

fn lock(directory: &Path) -> Result<LockedDirectory, OpenError> {
    fs::create_dir_all(directory).map_err(|error| failed(directory, error, ACCESS))?;
    let lock = LockedDirectory::lock(directory).map_err(|error| failed(directory, error, ACCESS))?;
    let taken =
        || refuse(directory, "another process uses it", "stop that edge, or set another [store] path");
    lock.ok_or_else(taken)
}

/// `/dev/hugepages/edge`: `/var/lib/edge/dev-hugepages-edge`.
fn default_state(path: &Path) -> PathBuf {
    let name = path.to_string_lossy().trim_matches('/').replace('/', "-");
    Path::new(STATE_DIRECTORY).join(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::scratch::Scratch;

    #[test]
    fn written_files_lie_beside_the_shard_file_or_where_they_are_told_to_and_both_places_are_ours() {
        assert_eq!(default_state(Path::new("/dev/huge/a")), Path::new("/var/lib/edge/dev-huge-a"));
        let scratch = Scratch::new("home");
        let options = Options { path: scratch.path().join("shard"), ..Options::default() };
        let home = Home::take(&options).unwrap();
        assert_eq!((&home.state, home.unused_file(&options)), (&options.path, None));
        drop(home);
        let apart = Options { state: Some(scratch.path().join("state")), ..options.clone() };
        let home = Home::take(&apart).unwrap();
        assert_eq!(home.unused_file(&apart), Some(scratch.path().join("state/shard-0")));
        let other = Options { path: scratch.path().join("state"), ..Options::default() };
        assert!(Home::take(&other).unwrap_err().to_string().contains("another process uses it"));
        assert!(Home::take(&options).is_err());
        let home = home.without_huge_pages("none free".into());
        assert_eq!(home.unused_file(&apart), Some(options.path.join("shard-0")));
        drop(home);
        assert!(Home::take(&other).is_ok() && Home::take(&options).is_ok());
    }
}
