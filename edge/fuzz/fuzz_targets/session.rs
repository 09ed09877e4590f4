//! A session fed anything in any order: no panic, nothing after the end, and no more taken than was given.
#![no_main]

use edge::proto::Now;
use edge::proto::freshness::Storing;
use edge::proto::response::OriginHead;
use edge::proto::session::{Action, Again, Found, Input, Interim, Out, Session, Timeouts};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|script: Vec<(u8, u16, &[u8])>| {
    let timeouts = Timeouts { head_ms: 10, idle_ms: 20, body_ms: 30, send_ms: 40, tunnel_ms: 50, body_rate_min: 500, send_rate_min: 500 };
    let mut now = Now { mono_ms: 1, unix_s: 1_700_000_000 };
    let mut out = Out::new(timeouts, Default::default(), Default::default());
    let mut session = Session::new(now, &timeouts);
    let mut ended = false;
    for (kind, number, bytes) in script {
        let origin = OriginHead {
            status: 200 + number % 400,
            lines: Vec::new(),
            body_bytes: (kind & 0x80 == 0).then_some(u64::from(number)),
            age_s: None,
            storing: Storing::Store,
        };
        now.mono_ms += u64::from(number);
        let (meta, head) = bytes.split_at(usize::from(number).min(bytes.len()));
        let interim = Interim { status: 103, lines: Vec::new() };
        let input = match kind % 12 {
            0 | 1 => Input::Received(bytes),
            2 => Input::PeerClosed,
            3 => Input::Found(Some(Found { meta, head, chunks: None, purged: kind & 0x80 == 0 })),
            4 => Input::OriginHead { head: &origin, collapsed: kind & 0x80 == 0 },
            5 => Input::Piece(usize::from(number)),
            6 => Input::End,
            7 if kind & 0x80 == 0 => Input::Again(Again::Revalidated { collapsed: false }),
            7 if number % 2 == 0 => Input::Again(Again::OriginFailed),
            7 => Input::Again(Again::Stored),
            8 => Input::Refused(number, b""),
            9 => Input::Sent { drained: kind & 0x80 == 0, bytes: usize::from(number) },
            10 => Input::Interim(&interim),
            _ => Input::Deadline,
        };
        out.clear();
        session.on(input, now, &mut out);
        assert!(out.consumed <= bytes.len());
        for action in &out.actions {
            match action {
                Action::Abort => {}
                _ => assert!(!ended, "{action:?} after the end"),
            }
            match action {
                Action::Write(range) => assert!(range.end <= out.bytes.len()),
                Action::StoredHead(range) => assert!(range.end <= head.len()),
                Action::Forward(range) => assert!(!range.is_empty() && range.end <= bytes.len()),
                Action::Close | Action::Abort => ended = true,
                _ => {}
            }
        }
    }
});
