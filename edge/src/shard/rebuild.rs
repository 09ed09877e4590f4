//! What a store holds after it was opened: from the records that a scan found, or from a checkpoint.
#![forbid(unsafe_code)]

use super::Opened;
use super::checkpoint::Checkpoint;
use super::scan::Life;
use super::store::Writer;

/// Records for which a place in the index is looked for in vain, and one more for so many entries. With more the index has
/// become smaller than what is stored, and looking on would take long.
const PLACES_TRIED: usize = 100;
const ENTRIES_PER_TRY: usize = 2048;

/// Builds the index from what a scan found, the oldest record first, so that the newest of a key wins.
pub(super) fn rebuild(writer: &mut Writer, scanned: Vec<Option<Life>>, opened: &mut Opened) {
    let mut lives = Vec::new();
    for (segment, life) in scanned.into_iter().enumerate() {
        match life {
            Some(life) => lives.push((segment, life)),
            None => writer.segments.free.push(segment),
        }
    }
    lives.sort_unstable_by_key(|(_, life)| life.sequence);
    let mut tries = PLACES_TRIED + writer.find.index.entries_max() / ENTRIES_PER_TRY;
    for (segment, life) in lives {
        opened.scanned_bytes += (life.end - writer.geometry.words_bytes()) as u64;
        opened.dropped += life.torn.len() as u64;
        for offset in life.torn {
            writer.mark_dead(writer.geometry.location(segment, offset as usize));
        }
        for offset in life.whole {
            writer.adopt(segment, offset as usize, &mut tries);
        }
        // Not written on, also if it has room: what is stored from now on has the numbers of this run.
        writer.segments.take_over(segment, life.sequence, writer.geometry.segments);
    }
    writer.settle();
}

/// Takes over what a checkpoint says.
pub(super) fn restore(writer: &mut Writer, checkpoint: Checkpoint) {
    writer.counts.entries = writer.find.index.restore(checkpoint.index());
    writer.counts.objects = checkpoint.objects;
    writer.counts.object_bytes = checkpoint.object_bytes;
    writer.heads = checkpoint.heads.into_iter().collect();
    let mut used: Vec<(u64, usize)> = Vec::new();
    for (segment, &(sequence, filled)) in checkpoint.segments.iter().enumerate() {
        writer.segments.sequence = writer.segments.sequence.max(sequence);
        match sequence {
            0 => writer.segments.free.push(segment),
            _ => match checkpoint.active.iter().position(|active| *active == Some(segment)) {
                Some(log) => writer.segments.active[log] = Some((segment, filled)),
                None => used.push((sequence, segment)),
            },
        }
    }
    used.sort_unstable();
    for (sequence, segment) in used {
        writer.segments.take_over(segment, sequence, writer.geometry.segments);
    }
}
