//! Opening a shard file: making or checking it, and finding out what it holds, from a checkpoint or by a scan
//! of all segments that trusts no record whose checksum does not match. After a clean stop no record is read: what a
//! disk damages while the node is down is found by a scan only.
#![forbid(unsafe_code)]

use super::checkpoint::{self, Checkpoint};
use super::home::{ACCESS, Home};
use super::index::Index;
use super::layout::{self, FILE_WORDS, FileHeader, FileKind, Geometry, HEADER_BYTES, Header, Kind};
use super::medium::{self, Medium};
use super::place::{self, Nodes, Placed, Progress};
use super::read::{Find, Reader};
use super::rebuild::{rebuild, restore};
use super::residency::Residency;
use super::scan::{Found, Life, scan};
use super::store::Writer;
use super::{OpenError, Opened, Options};
use crate::sys::mapping::{Shape, Unserved, memory_page_bytes};
use crate::{clock, limits};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Segments below which nothing can be reclaimed while records are read and written.
const SEGMENTS_MIN: usize = 4;

/// Opens (or creates) the store, with an index of so many entries. A new file is cut into segments of `segment_bytes`.
pub(super) fn open(
    options: &Options,
    segment_bytes: usize,
    index_entries: usize,
) -> Result<(Writer, Vec<Reader>, Opened), OpenError> {
    open_at(options, (Home::take(options)?, 0), segment_bytes, index_entries)
}

/// Opens it where its files are, which are ours already, for a run after this one: numbers that were given in it are still
/// in use, whatever the file has become since.
pub(super) fn open_at(
    options: &Options,
    (home, run_known): (Home, u64),
    segment_bytes: usize,
    index_entries: usize,
) -> Result<(Writer, Vec<Reader>, Opened), OpenError> {
    let started_ms = clock::now().mono_ms;
    let file = ShardFile::prepare(options, home, segment_bytes)?;
    let (writer, readers, mut opened) = file.serve(options, run_known, index_entries)?;
    opened.took_ms = clock::now().mono_ms - started_ms;
    Ok((writer, readers, opened))
}

impl ShardFile {
    /// Finds out what the file holds, and hands out who writes and reads it.
    fn serve(
        mut self,
        options: &Options,
        run_known: u64,
        index_entries: usize,
    ) -> Result<(Writer, Vec<Reader>, Opened), OpenError> {
        let index = Index::new(index_entries, &Nodes::of(&options.cpus).numbers()).map_err(|error| {
            let what = format!("no memory for an index of {index_entries} entries ({error})");
            failed(&options.path, &what, "raise [store] object_size, or lower size")
        })?;
        let index = Arc::new(index);
        let checkpoint = self.take_checkpoint(&index)?;
        let mut opened = Opened { clean: checkpoint.is_some(), ..Opened::default() };
        let scanned = match &checkpoint {
            Some(_) => Vec::new(),
            None => scan(&self.map, self.header.id, self.geometry),
        };
        if self.map.failed() {
            return Err(failed(&options.path, "the disk does not give what was stored", "replace the disk"));
        }
        opened.lost_segments = scanned.iter().filter(|found| matches!(found, Found::Torn(_))).count() as u64;
        let run = self.begin_run(scanned.iter().map(Found::run).fold(run_known, u64::max))?;
        let scanned: Vec<_> = scanned.into_iter().map(Found::life).collect();
        for (segment, life) in scanned.iter().enumerate() {
            life.iter().for_each(|life| self.mend(segment, life));
        }

        let filled: Vec<usize> = match &checkpoint {
            Some(checkpoint) => checkpoint.segments.iter().map(|&(_, filled)| filled).collect(),
            None => scanned.iter().map(|life| life.as_ref().map_or(0, |life| life.end)).collect(),
        };
        let residency = match self.placed.stays_in_memory {
            true => Residency::always(),
            false => Residency::tracked(self.geometry.file_bytes(), memory_page_bytes()),
        };
        let (map, pins) = self.map.serve(&filled, residency, options.readers + 1);
        let mut finds =
            pins.into_iter().map(|pins| Find { index: Arc::clone(&index), pins, geometry: self.geometry });
        let readers = finds.by_ref().take(options.readers).map(Reader::new).collect();
        let find = finds.next().expect("one more than readers");
        let mut writer = Writer::new(map, find, (self.home, self.flusher, self.placed), self.header.id, run);
        match checkpoint {
            Some(checkpoint) => restore(&mut writer, checkpoint),
            None => rebuild(&mut writer, scanned, &mut opened),
        }
        opened.objects = writer.counts.objects;
        Ok((writer, readers, opened))
    }

    /// Closes gaps that broken headers have left in the chain of records, each with a dead record of its length.
    fn mend(&mut self, segment: usize, life: &Life) {
        let seed = layout::seed(self.header.id, life.sequence);
        for gap in &life.gaps {
            let filler = Header {
                kind: Kind::Chunk,
                sequence: life.sequence,
                hash: 0,
                object: 0,
                position: 0,
                key_bytes: 0,
                meta_bytes: 0,
                head_bytes: 0,
                body_bytes: (gap.len() - HEADER_BYTES) as u32,
            };
            layout::mark_dead(self.map.words(segment), gap.start, seed);
            self.map.write(segment, gap.start, &filler.encode(0, seed));
        }
    }
}

/// A shard file that is ours, of the right size, and mapped.
struct ShardFile {
    map: Unserved,
    header: FileHeader,
    geometry: Geometry,
    home: Home,
    /// The file once more. A kernel tells each that has a file open once what it could not write, and who opens it later
    /// only if nobody was told before.
    flusher: File,
    placed: Placed,
}

/// Why a shard file was not made.
enum Unmade {
    /// There are not enough huge pages.
    HugePages(String),
    Else(OpenError),
}

impl From<OpenError> for Unmade {
    fn from(error: OpenError) -> Self {
        Unmade::Else(error)
    }
}

impl ShardFile {
    /// Where it should be; or, on ordinary pages, where it can be.
    fn prepare(options: &Options, home: Home, segment_bytes: usize) -> Result<Self, OpenError> {
        let made = match Self::make(options, home.clone(), segment_bytes) {
            Err(Unmade::HugePages(why)) => {
                discard(&home.file())?;
                let (path, state) = (home.path.display(), home.state.display());
                tracing::warn!("store {path}: {why}; the shard has ordinary pages in {state} instead");
                Self::make(options, home.without_huge_pages(why), segment_bytes)
            }
            made => made,
        };
        let file = made.map_err(|unmade| match unmade {
            Unmade::Else(error) => error,
            Unmade::HugePages(why) => refuse(&options.path, why, "set another [store] path"),
        })?;
        file.home.unused_file(options).map_or(Ok(()), |unused| discard(&unused))?;
        Ok(file)
    }

    fn make(options: &Options, home: Home, segment_bytes: usize) -> Result<Self, Unmade> {
        let page_bytes = match home.medium {
            Medium::HugePages(bytes) => bytes,
            _ => 1,
        };
        let whole_pages = options.size_bytes / page_bytes * page_bytes;
        let path = home.file();
        let mut how = File::options();
        how.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = how.open(&path).map_err(|error| failed(&path, error, ACCESS))?;
        let flusher = File::open(&path).map_err(|error| failed(&path, error, ACCESS))?;
        let found =
            read_header(&file).map_err(|error| failed(&path, error, "check the disk, or remove the file"))?;
        let (new, segment_bytes) = (segment_bytes, kept_segment_bytes(found, segment_bytes));
        if segment_bytes != new {
            tracing::info!(
                path = %path.display(),
                "keeps the segments of {segment_bytes} bytes that it was made with; for those of {new} bytes that \
                 suit its size, remove the file while edge is stopped: the cache then starts empty"
            );
        }
        let segments = (whole_pages / segment_bytes as u64) as usize;
        if segments < SEGMENTS_MIN {
            let what = format!("a size of {} bytes is too small", options.size_bytes);
            if page_bytes > 1 {
                return Err(Unmade::HugePages(format!("{what} for {}", home.medium)));
            }
            let least_mib = (SEGMENTS_MIN * segment_bytes).div_ceil(1 << 20);
            let remedy = format!("set [store] size to \"{least_mib}MiB\" or more");
            return Err(refuse(&home.path, what, remedy).into());
        }
        let header = accept_header(&path, found, segment_bytes, segments)?;
        let geometry = Geometry::new(segment_bytes, segments);
        let nodes = Nodes::of(&options.cpus);
        let bytes = geometry.file_bytes();
        allocate(&path, &file, geometry, home.medium, &nodes, options.progress)?;
        let shape = Shape { segment_bytes, words_bytes: geometry.words_bytes(), segments };
        let map = Unserved::map(Arc::clone(&home.lock), &file, shape).map_err(|error| {
            refuse(&path, error, "lower [store] size or raise the limit on address space (ulimit -v)")
        })?;
        let progress = Progress::new(&path, "prefault", bytes, options.progress);
        let held = place::hold(&map, geometry, (options.hold, home.medium), &nodes, &progress);
        let mut placed = held.map_err(|error| {
            failed(
                &path,
                format!("cannot be read: {error}"),
                "replace the disk, or leave prefault and lock out",
            )
        })?;
        if let Some(why) = &home.instead {
            placed.pages = format!("{}; {why}", placed.pages);
        }
        // A larger file is described first and used then; a smaller one likewise, so that at no time the header
        // promises segments that are not there.
        store_words(&map, &header.encode());
        file.set_len(bytes).map_err(|error| failed(&path, error, "check the disk, or remove the file"))?;
        Ok(ShardFile { map, header, geometry, home, flusher, placed })
    }

    /// The checkpoint of the stop before, if there is one that holds for this file as it is.
    fn take_checkpoint(&self, index: &Index) -> Result<Option<Checkpoint>, OpenError> {
        let path = self.home.state.join(checkpoint::FILE_NAME);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(failed(&path, error, "remove the file; the store is then scanned instead"));
            }
        };
        let as_found = |checkpoint: &Checkpoint| {
            let mut segments = checkpoint.segments.iter().enumerate();
            let same = segments.all(|(segment, &(sequence, filled))| {
                let found = layout::segment_sequence(self.header.id, segment, self.map.words(segment));
                found.unwrap_or(0) == sequence && (sequence == 0) == (filled == 0)
            });
            let written = |active: usize| checkpoint.segments.get(active).is_some_and(|s| s.0 != 0);
            same && checkpoint.active.iter().flatten().all(|&active| written(active))
        };
        Ok(checkpoint::decode(bytes, &self.header, index).filter(as_found))
    }

    /// Counts this opening, on disk, before anything is served; from then on an earlier checkpoint does not hold.
    fn begin_run(&self, run_seen: u64) -> Result<u64, OpenError> {
        // The word has no checksum: a number that cannot be is as good as none.
        let run_found = if self.header.run < layout::RUNS_MAX { self.header.run } else { 0 };
        let run = run_found.max(run_seen) + 1;
        store_words(&self.map, &FileHeader { run, ..self.header }.encode());
        let path = self.home.file();
        self.map.flush_first_words().map_err(|error| failed(&path, error, "check the disk"))?;
        let checkpoint = self.home.state.join(checkpoint::FILE_NAME);
        match fs::remove_file(&checkpoint) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed(&checkpoint, error, "remove the file by hand"))
            }
            _ => Ok(run),
        }
    }
}

/// Somebody has to decide something.
pub(super) fn refuse(path: &Path, what: impl ToString, remedy: impl Into<String>) -> OpenError {
    let path = path.display().to_string();
    OpenError { path, what: what.to_string(), remedy: remedy.into(), of_disk: false }
}

/// The disk or its file system is at fault.
pub(super) fn failed(path: &Path, what: impl ToString, remedy: impl Into<String>) -> OpenError {
    OpenError { of_disk: true, ..refuse(path, what, remedy) }
}

fn store_words(map: &Unserved, values: &[u64; FILE_WORDS]) {
    for (word, value) in map.words(0).iter().zip(values) {
        word.store(*value, Ordering::Release);
    }
}

pub(super) fn read_header(file: &File) -> io::Result<FileKind> {
    let mut bytes = [0; FILE_WORDS * 8];
    match file.metadata()?.len() {
        0 => return Ok(FileKind::Blank),
        length if length < bytes.len() as u64 => return Ok(FileKind::Foreign),
        _ => file.read_exact_at(&mut bytes, 0)?,
    }
    Ok(file_kind(&bytes))
}

fn file_kind(bytes: &[u8; FILE_WORDS * 8]) -> FileKind {
    let mut words = [0; FILE_WORDS];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *word = u64::from_ne_bytes(*bytes);
    }
    FileKind::decode(&words)
}

/// Bytes of a segment of a file with this header: those it was made with, if this edge has any use for them; else
/// `new`. A store that has grown keeps its short ones, and one that has shrunk its long ones.
fn kept_segment_bytes(found: FileKind, new: usize) -> usize {
    let usable = limits::SEGMENT_BYTES_MIN as u64..=limits::SEGMENT_BYTES as u64;
    match found {
        FileKind::Shard(old)
            if old.segment_bytes.is_power_of_two() && usable.contains(&old.segment_bytes) =>
        {
            old.segment_bytes as usize
        }
        _ => new,
    }
}

/// Whether to use a file with this header, and the header it gets. Nothing is overwritten that is not ours.
fn accept_header(
    path: &Path,
    found: FileKind,
    segment_bytes: usize,
    segments: usize,
) -> Result<FileHeader, OpenError> {
    let elsewhere = "move the file away, or set another [store] path";
    let (segment_bytes, segments) = (segment_bytes as u64, segments as u64);
    let wanted = FileHeader { id: 0, segment_bytes, segments, run: 0, era: 0, members: 0, log: 0 };
    match found {
        FileKind::Blank => {
            let mut id = [0; 8];
            File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut id)).map_err(
                |error| {
                    refuse(Path::new("/dev/urandom"), error, "make it readable for the user that runs edge")
                },
            )?;
            Ok(FileHeader { id: u64::from_ne_bytes(id), ..wanted })
        }
        FileKind::Shard(old) if old.segment_bytes != wanted.segment_bytes => {
            let what = format!("has segments of {} bytes, this edge uses {segment_bytes}", old.segment_bytes);
            Err(refuse(
                path,
                what,
                "run the edge that made it, or remove the file: the cache then starts empty",
            ))
        }
        FileKind::Shard(old) => {
            if old.segments != wanted.segments {
                tracing::info!(
                    from = old.segments,
                    to = segments,
                    "store resized, in segments; what is in kept ones stays"
                );
            }
            Ok(FileHeader { segments: wanted.segments, ..old })
        }
        FileKind::OtherVersion(version) => {
            let what = format!("has format version {version}, this edge knows {}", layout::VERSION);
            Err(refuse(
                path,
                what,
                "run the edge that made it, or remove the file: the cache then starts empty",
            ))
        }
        FileKind::Foreign => Err(refuse(path, "is not a shard file of edge", elsewhere)),
    }
}

/// Removes a shard file that is not used any more, and nothing else.
fn discard(path: &Path) -> Result<(), OpenError> {
    let found = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => Err(error),
        Ok(file) => read_header(&file),
    };
    match found {
        Ok(FileKind::Shard(_) | FileKind::Blank) => {
            tracing::info!(path = %path.display(), "removed: the shard lies elsewhere now, and what this holds may have been purged");
            fs::remove_file(path).map_err(|error| failed(path, error, "remove the file by hand"))
        }
        Ok(FileKind::OtherVersion(_) | FileKind::Foreign) => Ok(()),
        Err(error) => Err(failed(path, error, "remove the file by hand")),
    }
}

/// Makes sure that all blocks of the file exist, so that writing through the mapping never meets a full disk.
fn allocate(
    path: &Path,
    file: &File,
    geometry: Geometry,
    medium: Medium,
    nodes: &Nodes,
    tell: fn(&str),
) -> Result<(), Unmade> {
    let before = file.metadata().map(|data| data.len()).unwrap_or(0);
    let bytes = geometry.file_bytes();
    let progress = Progress::new(path, "allocated", bytes, tell);
    place::allocate(file, geometry, medium, nodes, &progress).map_err(|error| {
        // Gives back what was taken in vain. If that fails too, the next start tries again from what is there.
        let _ = file.set_len(before);
        if let (Medium::HugePages(page_bytes), nix::Error::ENOSPC | nix::Error::ENOMEM) = (medium, error) {
            let wanted = (bytes - before.min(bytes)) / page_bytes;
            let free = medium::free_huge_pages(page_bytes).unwrap_or(0);
            return Unmade::HugePages(format!(
                "{wanted} {medium} are wanted, {free} are free, or size= of the mount is less: reserve more \
                 (sysctl vm.nr_hugepages, or hugepages= at boot) and restart"
            ));
        }
        let remedy = match error {
            nix::Error::ENOSPC => "lower [store] size, or free space on that file system",
            nix::Error::EFBIG => "lower [store] size, or raise the file size limit (ulimit -f)",
            nix::Error::EOPNOTSUPP => "put [store] path on ext4, xfs, btrfs or tmpfs",
            _ => "check the disk",
        };
        failed(path, format!("cannot allocate {bytes} bytes: {}", error.desc()), remedy).into()
    })
}

/// A disk in memory, for tests.
#[cfg(test)]
pub(super) struct Simulated<'a> {
    pub(super) image: &'a [u8],
    pub(super) segment_bytes: usize,
    pub(super) segments: usize,
    pub(super) index_entries: usize,
    pub(super) readers: usize,
}

/// Opens the shard on such a disk. What is written goes to a copy, see `Appender::image`.
#[cfg(test)]
pub(super) fn open_simulated(disk: &Simulated<'_>) -> (Writer, Vec<Reader>, Opened) {
    let geometry = Geometry::new(disk.segment_bytes, disk.segments);
    let (segment_bytes, segments) = (disk.segment_bytes as u64, disk.segments as u64);
    let header = match file_kind(disk.image[..FILE_WORDS * 8].try_into().expect("that long")) {
        FileKind::Blank => {
            FileHeader { id: 0x1d, segment_bytes, segments, run: 0, era: 0, members: 0, log: 0 }
        }
        FileKind::Shard(header) => header,
        other => panic!("{other:?}"),
    };
    let words_bytes = geometry.words_bytes();
    let shape = Shape { segment_bytes: disk.segment_bytes, words_bytes, segments: disk.segments };
    let map = Unserved::simulated(disk.image, shape);
    store_words(&map, &header.encode());
    let path = std::path::PathBuf::from("/nonexistent");
    let options = Options {
        path: path.clone(),
        size_bytes: geometry.file_bytes(),
        readers: disk.readers,
        ..Options::default()
    };
    let home =
        Home { path: path.clone(), state: path, medium: Medium::Disk, instead: None, lock: map.directory() };
    let flusher = File::open("/dev/null").expect("it can always be opened");
    let file = ShardFile { map, header, geometry, home, flusher, placed: Placed::default() };
    file.serve(&options, 0, disk.index_entries).expect("nothing can fail")
}
