//! Opening the file of a shard that has failed while it was in use: nothing that was in memory is believed, what its disk
//! cannot read is given up segment by segment, and a file that is not a shard any more is made anew.
#![forbid(unsafe_code)]

use super::flush::is_passing;
use super::home::Home;
use super::layout::FileKind;
use super::read::Reader;
use super::recover::{self, failed};
use super::store::Writer;
use super::{OpenError, Opened, Options};
use nix::fcntl::{FallocateFlags, PosixFadviseAdvice, fallocate, posix_fadvise};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes read at once, to see whether the disk gives them.
const STEP_BYTES: usize = 1 << 20;
/// Bytes at the start of the file that say what it is.
const FILE_PAGE_BYTES: u64 = 4096;

/// As [`recover::open`], in a later run than the one that has failed. Nobody has the file mapped.
pub(super) fn open(
    options: &Options,
    (home, failed_run): (Home, u64),
    segment_bytes: usize,
    index_entries: usize,
) -> Result<(Writer, Vec<Reader>, Opened), OpenError> {
    let path = home.file();
    let found =
        look(&path).map_err(|error| failed(&path, error, "see that it can be read, and try again"))?;
    let Some(file_segment_bytes) = found else {
        remove(&path)?;
        return recover::open_at(options, (home, failed_run), segment_bytes, index_entries);
    };
    match recover::open_at(options, (home.clone(), failed_run), segment_bytes, index_entries) {
        Err(error) if error.of_disk => {
            let given_up = give_up_unreadable(&path, file_segment_bytes)
                .map_err(|error| failed(&path, error, "replace the disk"))?;
            if given_up == 0 {
                return Err(error);
            }
            tracing::warn!(path = %path.display(), given_up, "segments that the disk cannot read are given up");
            recover::open_at(options, (home, failed_run), segment_bytes, index_entries)
        }
        opened => opened,
    }
}

/// Removes a file, if there is one; a new shard is made in its place.
fn remove(path: &Path) -> Result<(), OpenError> {
    // Emptied first: its space is not free while anybody has it open.
    let emptied = File::options().write(true).open(path).and_then(|file| file.set_len(0));
    match emptied.and_then(|()| fs::remove_file(path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed(path, error, "check the disk, and mount it for writing"))
        }
        _ => Ok(()),
    }
}

/// Bytes of a segment of the file as its disk has it. `None`: it is not there, or not a shard any more.
///
/// # Errors
/// What is in it is not known.
fn look(path: &Path) -> io::Result<Option<u64>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    // After a flush that failed, pages in memory are not what the disk has. What cannot be written now either is lost like
    // them; what was written is read again. On memory neither does anything.
    let _ = file.sync_all();
    let _ = posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    Ok(match recover::read_header(&file) {
        Err(error) if is_passing(&error) => return Err(error),
        // The disk has lost it.
        Err(_) => None,
        Ok(FileKind::Shard(header)) => Some(header.segment_bytes),
        // What another edge has made is refused when it is opened.
        Ok(FileKind::Blank | FileKind::OtherVersion(_)) => Some(0),
        Ok(FileKind::Foreign) => None,
    })
}

/// Gives the blocks of segments back that cannot be read to the end; they are made anew, empty. Says how many.
fn give_up_unreadable(path: &Path, segment_bytes: u64) -> io::Result<u64> {
    let file = File::options().read(true).write(true).open(path)?;
    let length = file.metadata()?.len();
    let mut bytes = vec![0; STEP_BYTES];
    let mut given_up = 0;
    for segment in 0..length.checked_div(segment_bytes).unwrap_or(0) {
        let (start, end) = (segment * segment_bytes, (segment + 1) * segment_bytes);
        let is_readable = (start..end).step_by(STEP_BYTES).all(|at| {
            let step = STEP_BYTES.min((end - at) as usize);
            file.read_exact_at(&mut bytes[..step], at).is_ok()
        });
        if is_readable {
            continue;
        }
        given_up += 1;
        // Without its other words the first segment holds nothing, and the file still says what it is.
        let start = start.max(FILE_PAGE_BYTES);
        let how = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&file, how, start as i64, (end - start) as i64)?;
    }
    Ok(given_up)
}
