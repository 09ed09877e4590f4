//! What one request is answered: status, fields and which bytes are the body, without the framing of any
//! connection. Whether a stored response may answer at all was decided before. Made on every hit: nothing
//! here allocates once the buffers have grown.
#![forbid(unsafe_code)]

use super::Now;
use super::cache_status;
use super::conditional;
use super::io::{Chunks, FetchKind, Found};
use super::multipart::Multipart;
use super::range::Selected;
use super::request::{Method, RequestHead};
use super::response::{self, Forwarded, OriginHead};
use super::reuse::Allowance;
use super::stored::Meta;
use std::ops::Range;

/// How a stored response came to be usable, for Cache-Status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// It was there and fresh.
    Hit,
    /// It was there, and may be used although it is not fresh.
    Stale(Allowance),
    /// It was there, and is used because the origin has failed, with this answer if there was one.
    Failed { status: Option<u16> },
    /// It was stored on behalf of this request.
    Fetched { forwarded: Forwarded },
    /// It was validated on behalf of this request, or of one that it joined.
    Revalidated { forwarded: Forwarded, collapsed: bool },
}

/// How a response that comes from the origin was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fetched {
    pub(super) forwarded: Forwarded,
    pub(super) kind: FetchKind,
    /// For another request, which this one has joined.
    pub(super) collapsed: bool,
}

/// The length of the content, as the head has to tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    /// No field about it.
    None,
    /// The stored fields say it.
    Stored,
    /// Content-Length.
    Bytes(u64),
    /// Not known before the end: the connection has its own means to mark it.
    Open,
    /// What follows is of another protocol.
    Tunnel,
}

/// The content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// There is none.
    None,
    /// This part of the stored object; never empty.
    Stored(Range<u64>),
    /// Several parts of it, with text around them.
    Parts(Box<Multipart>),
    /// A line of text of our own, see [`Answer::push_text`].
    Text,
    /// It comes piece by piece.
    Streamed,
}

/// One answer.
#[derive(Debug)]
pub(super) struct Answer<'a> {
    pub(super) status: u16,
    pub(super) length: Length,
    /// These lines of the stored head come after the fields of [`Answer::push_fields`]. Empty, or up to and with
    /// the empty line that ends the head.
    pub(super) stored: Range<usize>,
    pub(super) body: Body,
    /// The response was stale, and the origin has to be asked for a fresh one meanwhile.
    pub(super) refresh: bool,
    /// It is ours, to the request at hand, and control knows nothing of it.
    pub(super) of_route: bool,
    fields: Fields<'a>,
}

/// What the fields are written from.
#[derive(Debug)]
enum Fields<'a> {
    Stored { source: Source, age_s: u32, lifetime_s: u32, part: Part<'a> },
    Origin { head: &'a OriginHead, fetched: Fetched },
    Own { lines: &'a [u8], forwarded: Option<Forwarded>, unix_s: u64 },
}

/// What of a stored response is sent.
#[derive(Debug)]
enum Part<'a> {
    Whole,
    Range {
        range: Range<u64>,
        complete_bytes: u64,
    },
    /// The others of the stored fields are told with those of [`Body::Parts`].
    Several {
        lines: &'a [u8],
    },
    Unsatisfiable {
        complete_bytes: u64,
        unix_s: u64,
    },
    NotModified {
        head: &'a [u8],
    },
}

impl<'a> Answer<'a> {
    /// The answer a stored response gives to a request: whole, a part, 304 or 416.
    #[inline]
    pub(super) fn from_store(
        request: &RequestHead,
        found: Found<'a>,
        meta: &Meta<'_>,
        age_s: u32,
        source: Source,
        now: Now,
    ) -> Answer<'a> {
        // A HEAD cannot fill, so it leaves the asking to the next GET.
        let refresh = source == Source::Stale(Allowance::WhileRevalidate) && request.method == Method::Get;
        let (complete_bytes, lifetime_s) = (meta.body_bytes(), meta.lifetime_s());
        let lines = meta.lines_offset().min(found.head.len())..found.head.len();
        let (status, length, stored, range, part) = if conditional::not_modified(request, meta, &found) {
            (304, Length::None, 0..0, 0..0, Part::NotModified { head: found.head })
        } else {
            match conditional::selected(request, meta, found.head) {
                Selected::Unsatisfiable => {
                    let part = Part::Unsatisfiable { complete_bytes, unix_s: now.unix_s };
                    (416, Length::Bytes(0), 0..0, 0..0, part)
                }
                Selected::Part(range) => {
                    let part = Part::Range { range: range.clone(), complete_bytes };
                    (206, Length::Bytes(range.end - range.start), lines, range, part)
                }
                Selected::Parts(parts) => {
                    let lines = &found.head[lines];
                    let parts = Multipart::new(&request.key, lines, &parts, complete_bytes, now);
                    let fields = Fields::Stored { source, age_s, lifetime_s, part: Part::Several { lines } };
                    let (length, body) = (Length::Bytes(parts.bytes()), Body::Parts(Box::new(parts)));
                    return Answer {
                        status: 206,
                        length,
                        stored: 0..0,
                        body,
                        refresh,
                        of_route: false,
                        fields,
                    };
                }
                Selected::Whole => {
                    let range = whole_body(request.method, meta);
                    (meta.status(), Length::Stored, 0..found.head.len(), range, Part::Whole)
                }
            }
        };
        let body = if range.is_empty() { Body::None } else { Body::Stored(range) };
        let fields = Fields::Stored { source, age_s, lifetime_s, part };
        Answer { status, length, stored, body, refresh, of_route: false, fields }
    }

    /// The head of a fetched response, its body to follow.
    pub(super) fn from_origin(head: &'a OriginHead, fetched: Fetched, head_only: bool) -> Answer<'a> {
        let switches = head.status == 101;
        let has_body = switches || response::may_have_body(head.status);
        let length = match head.body_bytes {
            _ if switches => Length::Tunnel,
            _ if !has_body => Length::None,
            Some(bytes) => Length::Bytes(bytes),
            None if head_only => Length::None,
            None => Length::Open,
        };
        let body = if has_body && !head_only { Body::Streamed } else { Body::None };
        let fields = Fields::Origin { head, fetched };
        Answer { status: head.status, length, stored: 0..0, body, refresh: false, of_route: false, fields }
    }

    /// An answer of our own, which tells these field lines too. `forwarded`: the origin was asked, for this reason.
    pub(super) fn error(
        status: u16,
        lines: &'a [u8],
        forwarded: Option<Forwarded>,
        head_only: bool,
        now: Now,
    ) -> Answer<'a> {
        let body = if head_only { Body::None } else { Body::Text };
        let length = Length::Bytes(response::text_bytes(status));
        let fields = Fields::Own { lines, forwarded, unix_s: now.unix_s };
        Answer { status, length, stored: 0..0, body, refresh: false, of_route: false, fields }
    }

    /// The same to a request that control was not asked for.
    pub(super) fn unasked(status: u16, head_only: bool, now: Now) -> Answer<'static> {
        Answer { of_route: true, ..Answer::error(status, b"", None, head_only, now) }
    }

    /// Whether pieces of a body follow.
    pub(super) fn is_streamed(&self) -> bool {
        self.body == Body::Streamed
    }

    /// Writes the fields that are not in the stored head, `name: value\r\n` each; not the length.
    #[inline]
    pub(super) fn push_fields(&self, out: &mut Vec<u8>) {
        match &self.fields {
            Fields::Stored { source, age_s, lifetime_s, part } => {
                response::push_age(out, u64::from(*age_s));
                cache_status::push_stored(out, *source, *age_s, *lifetime_s);
                part.push_fields(out);
                if let (Part::Several { lines }, Body::Parts(parts)) = (part, &self.body) {
                    parts.push_fields(out, lines);
                }
            }
            Fields::Origin { head, fetched } => {
                out.extend_from_slice(&head.lines);
                if let Some(age_s) = head.age_s {
                    response::push_age(out, age_s);
                }
                cache_status::push_fetched(out, *fetched, head.status, head.storing);
            }
            Fields::Own { lines, forwarded, unix_s } => {
                out.extend_from_slice(lines);
                response::push_date(out, *unix_s);
                cache_status::push_own(out, *forwarded);
                response::push_own(out, self.status);
            }
        }
    }

    /// Whether it comes from the store, and so says its age and how it was found.
    pub(super) fn is_stored(&self) -> bool {
        matches!(self.fields, Fields::Stored { .. })
    }

    /// Whether it is a stored response as it is, of which only that is said anew.
    pub(super) fn is_whole(&self) -> bool {
        matches!(self.fields, Fields::Stored { part: Part::Whole, .. }) && self.length == Length::Stored
    }

    /// Writes the text of [`Body::Text`].
    pub(super) fn push_text(&self, out: &mut Vec<u8>) {
        response::push_text(out, self.status);
    }
}

impl Part<'_> {
    #[inline]
    fn push_fields(&self, out: &mut Vec<u8>) {
        match self {
            Part::Whole | Part::Several { .. } => {}
            Part::Range { range, complete_bytes } => {
                response::push_content_range(out, Some(range), *complete_bytes);
            }
            Part::Unsatisfiable { complete_bytes, unix_s } => {
                response::push_date(out, *unix_s);
                response::push_content_range(out, None, *complete_bytes);
            }
            Part::NotModified { head } => response::push_validation_fields(out, head),
        }
    }
}

/// What is missing of a partial object to answer a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// Nothing.
    None,
    /// Some of one range, or of the whole.
    Range,
    /// Some of several ranges.
    Ranges,
}

impl Missing {
    /// For a request that this record may answer.
    #[inline]
    pub(super) fn of(request: &RequestHead, found: &Found<'_>, meta: &Meta<'_>) -> Missing {
        let Some(Chunks(has)) = found.chunks else { return Missing::None };
        if request.method != Method::Get || conditional::not_modified(request, meta, found) {
            return Missing::None;
        }
        match conditional::selected(request, meta, found.head) {
            Selected::Whole if !has(0..meta.body_bytes()) => Missing::Range,
            Selected::Part(part) if !has(part.clone()) => Missing::Range,
            Selected::Parts(parts) if !parts.iter().cloned().all(has) => Missing::Ranges,
            _ => Missing::None,
        }
    }
}

fn whole_body(method: Method, meta: &Meta<'_>) -> Range<u64> {
    let has_body = method == Method::Get && response::may_have_body(meta.status());
    0..if has_body { meta.body_bytes() } else { 0 }
}
