//! What the peer's frames cost, counted before the `h2` crate works on them: heads of frames are read, and the little
//! that says more. A peer that sends more of what moves no request than its bound allows is cut off (RFC 9113 section
//! 10.5); and so is one whose frames are wrong in a way that has an error code of its own, for the crate has one for all.
#![forbid(unsafe_code)]

use super::priority::Priority;
use crate::limits;
use ::h2::Reason;

/// Bytes of the connection preface (RFC 9113 section 3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const HEAD_BYTES: usize = 9;
/// Bytes of a PRIORITY_UPDATE frame that are read: a stream's number and a short list.
const UPDATE_BYTES_MAX: usize = 256;

/// Milliseconds after which one request that was given up is forgiven, and those that may stand at once.
const GIVEN_UP_MS: u64 = 1000 / limits::HTTP2_GIVEN_UP_PER_SECOND as u64;
const GIVEN_UP_MAX_MS: u64 = limits::HTTP2_GIVEN_UP_MAX as u64 * GIVEN_UP_MS;

/// Streams remembered as ended: a peer that errs by more is told so by a less exact code.
const ENDED_KEPT: usize = limits::HTTP2_STREAMS_MAX as usize;
/// Bytes of a frame's payload, as long as we do not allow more (section 4.2).
const PAYLOAD_BYTES_MAX: u32 = 16_384;
/// The number of a stream, without the reserved bit (section 4.1).
const STREAM_MASK: u32 = (1 << 31) - 1;
/// What a window may grow to (section 6.9.1).
const WINDOW_BYTES_MAX: u32 = (1 << 31) - 1;
/// Bytes of one setting, and the one that is a window (section 6.5.2).
const SETTING_BYTES: usize = 6;
const INITIAL_WINDOW_SIZE: u16 = 0x4;
/// RFC 9218 section 2.1.
const NO_RFC7540_PRIORITIES: u16 = 0x9;

const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const PRIORITY: u8 = 0x2;
const RST_STREAM: u8 = 0x3;
const SETTINGS: u8 = 0x4;
const PING: u8 = 0x6;
const GOAWAY: u8 = 0x7;
const WINDOW_UPDATE: u8 = 0x8;
const CONTINUATION: u8 = 0x9;
/// RFC 9218 section 7.1.
const PRIORITY_UPDATE: u8 = 0x10;

const END_STREAM: u8 = 0x1;
const ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITISED: u8 = 0x20;

/// A bound was passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flood {
    /// RST_STREAM frames, and streams we had to reset.
    #[error("resets")]
    Resets,
    /// Requests given up before their answers were whole.
    #[error("requests given up")]
    GivenUp,
    /// SETTINGS frames.
    #[error("SETTINGS frames")]
    Settings,
    /// PING frames.
    #[error("PING frames")]
    Pings,
    /// WINDOW_UPDATE frames, for little that was sent.
    #[error("WINDOW_UPDATE frames")]
    Windows,
    /// Frames that could carry something and did not.
    #[error("empty frames")]
    Empty,
    /// Priorities and frames of unknown types.
    #[error("frames that say nothing about requests")]
    Other,
    /// CONTINUATION frames of one field section.
    #[error("CONTINUATION frames")]
    Continuations,
}

/// Why a connection is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// A bound was passed.
    Flood(Flood),
    /// The peer breaks the rules of frames.
    Error(Reason),
}

impl From<Flood> for Cut {
    fn from(flood: Flood) -> Cut {
        Cut::Flood(flood)
    }
}

impl Cut {
    /// What the peer is told.
    pub(super) fn reason(self) -> Reason {
        match self {
            Cut::Flood(_) => Reason::ENHANCE_YOUR_CALM,
            Cut::Error(reason) => reason,
        }
    }
}

/// Frames since the second began.
#[derive(Default)]
struct Counts {
    resets: u32,
    settings: u32,
    pings: u32,
    windows: u32,
    empty: u32,
    other: u32,
}

/// The streams that the peer ended last: it may send no more on them (section 5.1).
struct Ended {
    streams: [u32; ENDED_KEPT],
    next: u8,
    highest: u32,
}

impl Ended {
    fn has(&self, stream: u32) -> bool {
        stream <= self.highest && stream != 0 && self.streams.contains(&stream)
    }

    fn add(&mut self, stream: u32) {
        self.highest = self.highest.max(stream);
        self.streams[self.next as usize] = stream;
        self.next = (self.next + 1) % ENDED_KEPT as u8;
    }
}

/// What was seen since it was last asked.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    /// A stream was reset.
    pub(super) reset: bool,
    /// So many frames came.
    pub(super) frames: u32,
    /// So many bytes of field sections came, or are to come of the frame at hand.
    pub(super) ahead_bytes: usize,
}

/// Reads frame heads as they come, however they are cut.
pub(super) struct Meter {
    preface_left: u8,
    /// Whether the first frame was seen.
    begun: bool,
    head: [u8; HEAD_BYTES],
    head_bytes: u8,
    payload_left: u32,
    update: Vec<u8>,
    ended: Ended,
    setting: [u8; SETTING_BYTES],
    setting_bytes: u8,
    counts: Counts,
    second_began_ms: u64,
    /// When all that the peer gave up is forgiven.
    forgiven_ms: u64,
    /// Bytes of bodies sent that no WINDOW_UPDATE was reckoned against yet.
    unanswered_bytes: usize,
    /// When the field section that has not ended yet began; 0: there is none.
    section_began_ms: u64,
    continuations: u32,
    pub(super) seen: Seen,
    /// New priorities of streams.
    pub(super) updates: Vec<(u32, Priority)>,
}

impl Meter {
    pub(super) fn new() -> Self {
        Meter {
            preface_left: PREFACE.len() as u8,
            begun: false,
            head: [0; HEAD_BYTES],
            head_bytes: 0,
            payload_left: 0,
            update: Vec::new(),
            ended: Ended { streams: [0; ENDED_KEPT], next: 0, highest: 0 },
            setting: [0; SETTING_BYTES],
            setting_bytes: 0,
            counts: Counts::default(),
            second_began_ms: 0,
            forgiven_ms: 0,
            unanswered_bytes: 0,
            section_began_ms: 0,
            continuations: 0,
            seen: Seen::default(),
            updates: Vec::new(),
        }
    }

    /// When the field section under way began, monotonic milliseconds.
    pub(super) fn section_began_ms(&self) -> Option<u64> {
        (self.section_began_ms != 0).then_some(self.section_began_ms)
    }

    /// So many bytes of bodies were sent: the peer will answer them with new windows.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.unanswered_bytes = self.unanswered_bytes.saturating_add(bytes);
    }

    /// Counts a stream that we had to reset for what the peer sent on it.
    pub(super) fn refused(&mut self) -> Result<(), Flood> {
        count(&mut self.counts.resets, limits::HTTP2_RESETS_PER_SECOND_MAX, Flood::Resets)
    }

    /// Counts a request whose answer has to be fetched, and that the peer did not wait for.
    pub(super) fn gave_up(&mut self, now_ms: u64) -> Result<(), Flood> {
        self.forgiven_ms = self.forgiven_ms.max(now_ms) + GIVEN_UP_MS;
        if self.forgiven_ms > now_ms + GIVEN_UP_MAX_MS { Err(Flood::GivenUp) } else { Ok(()) }
    }

    /// How much of these bytes, which come next, is without more than so many bytes of field sections. `first`: one frame
    /// of them is taken, however long it is.
    pub(super) fn within(&self, bytes: &[u8], mut section_bytes: usize, mut first: bool) -> usize {
        let mut end = self.preface_left as usize + self.payload_left as usize;
        let known = &self.head[..self.head_bytes as usize];
        let mut head = [0; HEAD_BYTES];
        head[..known.len()].copy_from_slice(known);
        let mut from = known.len();
        while let Some(rest) = bytes.get(end..end + HEAD_BYTES - from) {
            head[from..].copy_from_slice(rest);
            let [high, middle, low, kind, ..] = head;
            let payload = u32::from_be_bytes([0, high, middle, low]) as usize;
            if matches!(kind, HEADERS | CONTINUATION) {
                match section_bytes.checked_sub(payload) {
                    Some(left) => section_bytes = left,
                    None if first => section_bytes = 0,
                    None => return end,
                }
                first = false;
            }
            end += rest.len() + payload;
            from = 0;
        }
        bytes.len()
    }

    /// Reads on. The error stands for all that follows.
    pub(super) fn read(&mut self, mut bytes: &[u8], now_ms: u64) -> Result<(), Cut> {
        if now_ms >= self.second_began_ms + 1000 {
            self.second_began_ms = now_ms;
            self.counts = Counts::default();
        }
        while !bytes.is_empty() {
            if self.preface_left > 0 {
                let taken = bytes.len().min(self.preface_left as usize);
                self.preface_left -= taken as u8;
                bytes = &bytes[taken..];
            } else if self.payload_left > 0 {
                let taken = bytes.len().min(self.payload_left as usize);
                self.payload(&bytes[..taken])?;
                bytes = &bytes[taken..];
            } else {
                let from = self.head_bytes as usize;
                let taken = bytes.len().min(HEAD_BYTES - from);
                self.head[from..from + taken].copy_from_slice(&bytes[..taken]);
                self.head_bytes += taken as u8;
                bytes = &bytes[taken..];
                if self.head_bytes as usize == HEAD_BYTES {
                    self.head_bytes = 0;
                    self.frame(now_ms)?;
                }
            }
        }
        Ok(())
    }

    fn frame(&mut self, now_ms: u64) -> Result<(), Cut> {
        let [high, middle, low, kind, flags, ..] = self.head;
        let bytes = u32::from_be_bytes([0, high, middle, low]);
        self.payload_left = bytes;
        self.seen.frames = self.seen.frames.saturating_add(1);
        self.update.clear();
        self.setting_bytes = 0;
        if !std::mem::replace(&mut self.begun, true) && kind != SETTINGS {
            // This is no HTTP/2 (section 3.4).
            return Err(Cut::Error(Reason::PROTOCOL_ERROR));
        }
        if !is_sized(kind, flags, bytes) {
            return Err(Cut::Error(Reason::FRAME_SIZE_ERROR));
        }
        let stream = self.stream();
        if kind == PRIORITY_UPDATE && stream != 0 {
            return Err(Cut::Error(Reason::PROTOCOL_ERROR));
        }
        if matches!(kind, DATA | HEADERS) && self.ended.has(stream) {
            return Err(Cut::Error(Reason::STREAM_CLOSED));
        }
        if kind == RST_STREAM || matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
            self.ended.add(stream);
        }
        let counts = &mut self.counts;
        match kind {
            DATA => {
                if bytes == 0 && flags & END_STREAM == 0 {
                    count(&mut counts.empty, limits::HTTP2_EMPTY_FRAMES_PER_SECOND_MAX, Flood::Empty)?;
                }
            }
            HEADERS | CONTINUATION => {
                self.seen.ahead_bytes += bytes as usize;
                if kind == HEADERS {
                    self.continuations = 0;
                    self.section_began_ms = now_ms;
                    // A client may open the window of each stream that it begins.
                    self.unanswered_bytes =
                        self.unanswered_bytes.saturating_add(limits::HTTP2_BYTES_PER_WINDOW_UPDATE_MIN);
                } else {
                    let most = limits::HTTP2_CONTINUATIONS_MAX;
                    count(&mut self.continuations, most, Flood::Continuations)?;
                }
                if bytes == 0 {
                    count(&mut counts.empty, limits::HTTP2_EMPTY_FRAMES_PER_SECOND_MAX, Flood::Empty)?;
                }
                self.section_ended();
            }
            RST_STREAM => count(&mut counts.resets, limits::HTTP2_RESETS_PER_SECOND_MAX, Flood::Resets)?,
            SETTINGS => {
                count(&mut counts.settings, limits::HTTP2_SETTINGS_PER_SECOND_MAX, Flood::Settings)?;
            }
            PING => count(&mut counts.pings, limits::HTTP2_PINGS_PER_SECOND_MAX, Flood::Pings)?,
            WINDOW_UPDATE => {
                match self.unanswered_bytes.checked_sub(limits::HTTP2_BYTES_PER_WINDOW_UPDATE_MIN) {
                    Some(bytes) => self.unanswered_bytes = bytes,
                    None => {
                        let most = limits::HTTP2_WINDOW_UPDATES_PER_SECOND_MAX;
                        count(&mut counts.windows, most, Flood::Windows)?;
                    }
                }
            }
            // PRIORITY, GOAWAY, PUSH_PROMISE, PRIORITY_UPDATE and whatever is not known.
            _ => count(&mut counts.other, limits::HTTP2_OTHER_FRAMES_PER_SECOND_MAX, Flood::Other)?,
        }
        Ok(())
    }

    /// The stream of the frame at hand.
    fn stream(&self) -> u32 {
        let [.., a, b, c, d] = self.head;
        u32::from_be_bytes([a, b, c, d]) & STREAM_MASK
    }

    fn payload(&mut self, bytes: &[u8]) -> Result<(), Cut> {
        self.payload_left -= bytes.len() as u32;
        match self.head[3] {
            HEADERS | CONTINUATION => {
                self.section_ended();
                Ok(())
            }
            // It counts once it is whole.
            RST_STREAM => {
                self.seen.reset |= self.payload_left == 0;
                Ok(())
            }
            SETTINGS => bytes.iter().try_for_each(|&byte| self.setting(byte)),
            PRIORITY_UPDATE => self.priority_update(bytes),
            _ => Ok(()),
        }
    }

    /// The field section of the frame at hand has ended if this was all of its last frame.
    fn section_ended(&mut self) {
        if self.payload_left == 0 && self.head[4] & END_HEADERS != 0 {
            self.section_began_ms = 0;
        }
    }

    /// The next byte of SETTINGS.
    fn setting(&mut self, byte: u8) -> Result<(), Cut> {
        self.setting[self.setting_bytes as usize] = byte;
        self.setting_bytes += 1;
        if self.setting_bytes as usize == SETTING_BYTES {
            self.setting_bytes = 0;
            let [name @ .., a, b, c, d] = self.setting;
            let value = u32::from_be_bytes([a, b, c, d]);
            match u16::from_be_bytes(name) {
                INITIAL_WINDOW_SIZE if value > WINDOW_BYTES_MAX => {
                    return Err(Cut::Error(Reason::FLOW_CONTROL_ERROR));
                }
                NO_RFC7540_PRIORITIES if value > 1 => return Err(Cut::Error(Reason::PROTOCOL_ERROR)),
                _ => {}
            }
        }
        Ok(())
    }

    fn priority_update(&mut self, bytes: &[u8]) -> Result<(), Cut> {
        let room = UPDATE_BYTES_MAX.saturating_sub(self.update.len());
        self.update.extend_from_slice(&bytes[..bytes.len().min(room)]);
        if self.payload_left == 0
            && let Some((stream, field)) = self.update.split_first_chunk::<4>()
        {
            let stream = u32::from_be_bytes(*stream) & STREAM_MASK;
            if stream.is_multiple_of(2) {
                // RFC 9218 section 7.1: no stream, or one that we would have had to promise.
                return Err(Cut::Error(Reason::PROTOCOL_ERROR));
            }
            if let Some(priority) = Priority::parse(field) {
                self.updates.push((stream, priority));
            }
        }
        Ok(())
    }
}

/// Whether a frame may have so many bytes (section 4.2, and of each type in section 6).
fn is_sized(kind: u8, flags: u8, bytes: u32) -> bool {
    let padding = u32::from(flags & PADDED != 0);
    bytes <= PAYLOAD_BYTES_MAX
        && match kind {
            DATA => bytes >= padding,
            HEADERS => bytes >= padding + if flags & PRIORITISED != 0 { 5 } else { 0 },
            PRIORITY => bytes == 5,
            RST_STREAM | WINDOW_UPDATE => bytes == 4,
            SETTINGS if flags & ACK != 0 => bytes == 0,
            SETTINGS => (bytes as usize).is_multiple_of(SETTING_BYTES),
            PING => bytes == 8,
            GOAWAY => bytes >= 8,
            PRIORITY_UPDATE => bytes >= 4,
            _ => true,
        }
}

fn count(counter: &mut u32, most: u32, flood: Flood) -> Result<(), Flood> {
    *counter += 1;
    if *counter > most { Err(flood) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::super::frame;
    use super::*;

    /// The verdict on `most + 1` frames within a second, that it falls on the last of them, and on none of as many in
    /// twice the time.
    fn check(kind: u8, payload: &[u8], most: u32, flood: Flood) {
        let one = frame(kind, 0, 1, payload);
        for step_ms in [0, 2 * 1000 / u64::from(most)] {
            let mut meter = Meter::new();
            meter.read(PREFACE, 5).unwrap();
            meter.read(&frame(SETTINGS, 0, 0, &[]), 5).unwrap();
            for number in 1..=u64::from(most) {
                assert_eq!(meter.read(&one, 1_000_000 + number * step_ms), Ok(()), "{flood} {number}");
            }
            let last = meter.read(&one, 1_000_000 + u64::from(most + 1) * step_ms);
            assert_eq!(last, if step_ms == 0 { Err(flood.into()) } else { Ok(()) }, "{flood}");
        }
    }

    #[test]
    fn every_flood_has_its_bound() {
        check(RST_STREAM, &[0; 4], limits::HTTP2_RESETS_PER_SECOND_MAX, Flood::Resets);
        check(SETTINGS, &[0; 6], limits::HTTP2_SETTINGS_PER_SECOND_MAX, Flood::Settings);
        check(PING, &[0; 8], limits::HTTP2_PINGS_PER_SECOND_MAX, Flood::Pings);
        check(WINDOW_UPDATE, &[0; 4], limits::HTTP2_WINDOW_UPDATES_PER_SECOND_MAX, Flood::Windows);
        check(DATA, b"", limits::HTTP2_EMPTY_FRAMES_PER_SECOND_MAX, Flood::Empty);
        check(HEADERS, b"", limits::HTTP2_EMPTY_FRAMES_PER_SECOND_MAX, Flood::Empty);
        check(2, &[0; 5], limits::HTTP2_OTHER_FRAMES_PER_SECOND_MAX, Flood::Other);
        check(0xee, b"", limits::HTTP2_OTHER_FRAMES_PER_SECOND_MAX, Flood::Other);
    }

    #[test]
    fn requests_given_up_are_forgiven_in_time() {
        let mut meter = Meter::new();
        let now_ms = 1_000_000;
        for _ in 0..limits::HTTP2_GIVEN_UP_MAX {
            assert_eq!(meter.gave_up(now_ms), Ok(()));
        }
        assert_eq!(meter.gave_up(now_ms), Err(Flood::GivenUp));
        let mut meter = Meter::new();
        for number in 0..u64::from(10 * limits::HTTP2_GIVEN_UP_MAX) {
            assert_eq!(meter.gave_up(now_ms + number * GIVEN_UP_MS), Ok(()), "{number}");
        }
    }

    #[test]
    fn window_updates_are_free_for_what_was_sent() {
        const MORE: usize = 5000;
        let mut meter = Meter::new();
        meter.read(PREFACE, 5).unwrap();
        meter.read(&frame(SETTINGS, 0, 0, &[]), 5).unwrap();
        meter.sent(MORE * limits::HTTP2_BYTES_PER_WINDOW_UPDATE_MIN);
        let one = frame(WINDOW_UPDATE, 0, 1, &[0; 4]);
        for number in 0..MORE + limits::HTTP2_WINDOW_UPDATES_PER_SECOND_MAX as usize {
            assert_eq!(meter.read(&one, 7), Ok(()), "{number}");
        }
        assert_eq!(meter.read(&one, 7), Err(Flood::Windows.into()));
    }

    #[test]
    fn continuations_are_counted_by_section_and_a_section_knows_its_age() {
        let mut meter = Meter::new();
        meter.read(PREFACE, 5).unwrap();
        meter.read(&frame(SETTINGS, 0, 0, &[]), 5).unwrap();
        for _ in 0..2 {
            meter.read(&frame(HEADERS, 0, 1, b"x"), 7).unwrap();
            for _ in 0..limits::HTTP2_CONTINUATIONS_MAX - 1 {
                meter.read(&frame(CONTINUATION, 0, 1, b"x"), 9).unwrap();
            }
            assert_eq!(meter.section_began_ms(), Some(7));
            meter.read(&frame(CONTINUATION, END_HEADERS, 1, b"x"), 9).unwrap();
            assert_eq!(meter.section_began_ms(), None);
        }
        let more = meter.read(&frame(CONTINUATION, END_HEADERS, 1, b"x"), 9);
        assert_eq!(more, Err(Flood::Continuations.into()));
    }

    #[test]
    fn a_section_that_trickles_in_knows_its_age_however_it_is_framed() {
        let mut meter = Meter::new();
        meter.read(PREFACE, 5).unwrap();
        meter.read(&frame(SETTINGS, 0, 0, &[]), 5).unwrap();
        for whole in
            [&frame(HEADERS, END_HEADERS, 1, b"xyz")[..], &frame(CONTINUATION, END_HEADERS, 1, b"xyz")]
        {
            if whole[3] == CONTINUATION {
                meter.read(&frame(HEADERS, 0, 1, b"x"), 7).unwrap();
            }
            let (last, first) = whole.split_last().unwrap();
            meter.read(first, 7).unwrap();
            assert_eq!(meter.section_began_ms(), Some(7));
            meter.read(&[*last], 9).unwrap();
            assert_eq!(meter.section_began_ms(), None);
        }
    }

    #[test]
    fn updates_are_read_however_the_bytes_are_cut() {
        let mut bytes = PREFACE.to_vec();
        bytes.extend(frame(SETTINGS, 0, 0, &[]));
        bytes.extend(frame(DATA, 0, 1, &[5; 300]));
        bytes.extend(frame(PRIORITY_UPDATE, 0, 0, b"\0\0\0\x07u=1, i"));
        bytes.extend(frame(PRIORITY_UPDATE, 0, 0, b"\0\0\0\x09u=\xff"));
        bytes.extend(frame(PRIORITY_UPDATE, 0, 0, &[1; 5000]));
        for cut in [1, 2, 7, 100, bytes.len()] {
            let mut meter = Meter::new();
            bytes.chunks(cut).for_each(|part| meter.read(part, 1).unwrap());
            assert_eq!(meter.updates, [(7, Priority { urgency: 1, incremental: true })], "{cut}");
        }
    }

    #[test]
    fn field_sections_are_taken_as_far_as_there_is_room_however_the_bytes_are_cut() {
        let frames = [
            frame(SETTINGS, 0, 0, &[]),
            frame(HEADERS, END_HEADERS, 1, &[1; 300]),
            frame(DATA, 0, 1, &[5; 5000]),
            frame(HEADERS, 0, 3, &[1; 50]),
            frame(CONTINUATION, END_HEADERS, 3, &[1; 70]),
            frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]),
        ];
        let bytes = [&PREFACE[..], &frames.concat()].concat();
        let begins = |at: usize| PREFACE.len() + frames[..at].iter().map(Vec::len).sum::<usize>();
        // Room, whether a first one is taken, and where it ends.
        let cases = [
            (0, false, begins(1)),
            (299, false, begins(1)),
            (300, false, begins(3)),
            (0, true, begins(3)),
            (349, false, begins(3)),
            (350, false, begins(4)),
            (419, true, begins(4)),
            (420, false, bytes.len()),
        ];
        for (room, first, end) in cases {
            for cut in 0..begins(1) {
                let mut meter = Meter::new();
                meter.read(&bytes[..cut], 1).unwrap();
                assert_eq!(meter.within(&bytes[cut..], room, first), end - cut, "{room} {first} {cut}");
                for stop in cut..end {
                    assert_eq!(meter.within(&bytes[cut..stop], room, first), stop - cut);
                }
                meter.read(&bytes[cut..], 1).unwrap();
                assert_eq!(meter.seen.ahead_bytes, 420);
            }
        }
    }
}
