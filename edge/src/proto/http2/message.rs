//! Between HTTP/2's messages and what an exchange takes and gives: a request becomes a [`RequestHead`] only if it
//! could stand in HTTP/1.1 without meaning something else there, for that is how origins may be asked
//! (RFC 9113 sections 8.2, 8.3 and 10.3).
//!
//! What the `h2` crate has refused before: names that are not lower case tokens, control bytes in values, fields about
//! the connection, TE other than `trailers`, pseudo-header fields that are unknown, twice, missing or late, and a
//! body that is not as long as Content-Length says.
#![forbid(unsafe_code)]

use super::heads;
use crate::limits;
use crate::proto::answer::{Answer, Length};
use crate::proto::framing::{self, Refused, Rules};
use crate::proto::io::{Interim, Out};
use crate::proto::request::{BodyLength, Marks, Method, RequestHead};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

/// Why a request goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bad {
    /// RFC 9113 section 8.1.1: the stream is reset.
    Malformed,
    /// It is answered with this status.
    Refused(u16),
}

impl From<crate::proto::request::Refusal> for Bad {
    fn from(refusal: crate::proto::request::Refusal) -> Bad {
        match refusal.status {
            400 => Bad::Malformed,
            status => Bad::Refused(status),
        }
    }
}

/// Fields that are looked at beside the head they become part of: found on the way, for looking each up takes longer.
#[derive(Default)]
struct Beside<'a> {
    hosts: u32,
    host: Option<&'a [u8]>,
    has_cookie: bool,
    priority: Option<&'a HeaderValue>,
}

/// Fills `head` from a request. `ended`: no body follows. Gives the value of its Priority field (RFC 9218 section 5).
pub(super) fn read_request<'a>(
    head: &mut RequestHead,
    request: &'a Parts,
    ended: bool,
) -> Result<Option<&'a HeaderValue>, Bad> {
    let method = request.method.as_str();
    if method == "CONNECT" || method.len() > framing::METHOD_BYTES_MAX {
        return Err(Refused::METHOD_UNKNOWN.into());
    }
    if request.uri.scheme_str().is_some_and(|scheme| head.scheme.prefix().strip_suffix("://") != Some(scheme))
    {
        // RFC 9110 section 7.4: what it asks for is not served on this connection.
        return Err(Bad::Refused(421));
    }
    let path = request.uri.path_and_query().ok_or(Bad::Malformed)?.as_str();
    let is_path = path.starts_with('/') || (path == "*" && method == "OPTIONS");
    if !is_path || !framing::is_target(path.as_bytes()) {
        return Err(Bad::Malformed);
    }
    if path.len() > limits::REQUEST_TARGET_BYTES_MAX {
        return Err(Refused::TARGET_TOO_LONG.into());
    }
    if request.headers.len() >= limits::REQUEST_FIELDS_MAX {
        return Err(Refused::TOO_MANY_FIELDS.into());
    }
    let authority = authority(request)?;

    head.begin();
    head.http2 = true;
    head.method = match method {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        _ => Method::Other,
    };
    head.method_name = head.push(method.as_bytes());
    head.target = head.push(path.as_bytes());
    let name = head.push(b"host");
    let host = head.push(authority);
    head.fields.push((name, host.clone()));
    let mut rules = Rules::default();
    let mut beside = Beside::default();
    for (name, value) in &request.headers {
        field(head, &mut rules, &mut beside, name, value)?;
    }
    // `Host` may repeat the authority but not contradict it.
    if beside.hosts > 1 || beside.host.is_some_and(|host| !host.eq_ignore_ascii_case(authority)) {
        return Err(Bad::Malformed);
    }
    if beside.has_cookie {
        push_cookie(head, request);
    }

    let stated = rules.body(1)?;
    head.body = match (ended, stated) {
        (true, _) => BodyLength::None,
        (false, BodyLength::Bytes(bytes)) => BodyLength::Bytes(bytes),
        (false, _) => BodyLength::Chunked,
    };
    head.expect_continue = rules.expect_continue && !ended;
    head.resolve(Some(host))?;
    Ok(beside.priority)
}

/// The authority, which `Host` may stand for (section 8.3.1).
fn authority(request: &Parts) -> Result<&[u8], Bad> {
    match request.uri.authority() {
        Some(authority) => Ok(authority.as_str().as_bytes()),
        None => request.headers.get(header::HOST).map(HeaderValue::as_bytes).ok_or(Bad::Malformed),
    }
}

fn field<'a>(
    head: &mut RequestHead,
    rules: &mut Rules,
    beside: &mut Beside<'a>,
    name: &HeaderName,
    value: &'a HeaderValue,
) -> Result<(), Bad> {
    let bytes = value.as_bytes();
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    if blank(bytes.first()) || blank(bytes.last()) {
        return Err(Bad::Malformed);
    }
    if *name == header::HOST {
        beside.hosts += 1;
        beside.host = Some(bytes);
        return Ok(());
    }
    if *name == header::COOKIE {
        beside.has_cookie = true;
        return Ok(());
    }
    let name = name.as_str().as_bytes();
    if name == b"priority" && beside.priority.is_none() {
        beside.priority = Some(value);
    }
    rules.field(name, bytes)?;
    head.marks = head.marks.and(Marks::of(name));
    let name = head.push(name);
    let value = head.push(bytes);
    head.fields.push((name, value));
    Ok(())
}

/// Cookies may come one by one, and are one field for everybody else (section 8.2.3).
fn push_cookie(head: &mut RequestHead, request: &Parts) {
    let mut cookies = request.headers.get_all(header::COOKIE).iter();
    let Some(first) = cookies.next() else {
        return;
    };
    let name = head.push(b"cookie");
    let mut value = head.push(first.as_bytes());
    for cookie in cookies {
        head.push(b"; ");
        value.end = head.push(cookie.as_bytes()).end;
    }
    head.fields.push((name, value));
}

/// The head of a response. `stored`: the stored head the answer refers to. `None`: it can not be told in HTTP/2.
pub(super) fn response(answer: &Answer<'_>, stored: &[u8], out: &mut Out) -> Option<Response<()>> {
    let Out { bytes: scratch, heads, request, transport, .. } = out;
    scratch.clear();
    answer.push_fields(scratch);
    if answer.of_route {
        transport.push(request, scratch);
    }
    if let Length::Bytes(bytes) = answer.length {
        scratch.extend_from_slice(b"content-length: ");
        crate::proto::response::push_number(scratch, bytes);
        scratch.extend_from_slice(b"\r\n");
    }
    let stored = stored.get(answer.stored.clone()).unwrap_or_default();
    let kept = match answer.is_stored() {
        true => heads.fields(request.key_hash, stored, scratch, answer.is_whole()),
        false => None,
    };
    let fields = match kept {
        Some(fields) => fields,
        None => {
            scratch.extend_from_slice(stored);
            heads::read(scratch)?
        }
    };
    head(answer.status, fields)
}

/// An interim response. `None`: it cannot be one.
pub(super) fn interim(interim: &Interim) -> Option<Response<()>> {
    head(interim.status, heads::read(&interim.lines)?)
}

/// The trailer fields that these lines are.
pub(super) fn trailers(lines: &[u8]) -> HeaderMap {
    // Lines that came from a header map can be one again.
    heads::read(lines).unwrap_or_default()
}

fn head(status: u16, fields: HeaderMap) -> Option<Response<()>> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(status).ok()?;
    *response.headers_mut() = fields;
    Some(response)
}
