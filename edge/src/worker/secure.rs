//! TLS between a connection's socket and its session: what is received is opened where it lies, what the outbox
//! holds is sealed into a buffer of records, and handshakes get a share of each turn. What TLS means is in
//! `proto::tls`.
#![forbid(unsafe_code)]

use super::Worker;
use super::actions::Node;
use super::connection::{Connection, Phase, Source};
use super::kernel_tls::{self, Sealing};
use super::mail::Desk;
use super::token::{Op, Token};
use super::versions::Admission;
use crate::limits;
use crate::proto::kernel_tls::Ciphers;
use crate::proto::policy::Policy;
use crate::proto::records::OVERHEAD_BYTES_MAX;
use crate::proto::tls::{Agreed, Alpn, Cipher, Failed, Policies, Tls, WornOut};
use crate::stats::{Cells, Counter};
use crate::sys::fault;
use crate::sys::outbox::Outbox;
use crate::sys::wire::Wire;
use std::collections::VecDeque;
use std::sync::Arc;

/// With less room than this a record is not begun: it would be mostly overhead.
const RECORD_ROOM_MIN: usize = OVERHEAD_BYTES_MAX + 512;

/// What a connection has beside its slot when it speaks TLS.
pub struct Secure {
    pub(super) tls: Tls,
    /// Who seals.
    pub(super) sealing: Sealing,
    /// Records to send; from the worker's pool while there are any.
    wire: Option<Wire>,
    /// When the handshake must be done, and later when an alert must have been taken; `u64::MAX` else.
    pub deadline_ms: u64,
    /// Waits for a turn that has time for its handshake.
    waiting: bool,
    /// Until its ClientHello is read: how clients of its address are met.
    policy: Option<Arc<Policy>>,
    /// The place that is kept for it among those that speak HTTP/2, while its handshake goes on.
    admission: Option<Admission>,
}

impl Secure {
    /// A connection that was just accepted; `kernel`: whose records the kernel may seal.
    pub fn new(policy: Arc<Policy>, deadline_ms: u64, kernel: bool) -> Self {
        Secure {
            tls: Tls::new(kernel),
            sealing: if kernel { Sealing::Undecided } else { Sealing::Here },
            wire: None,
            deadline_ms,
            waiting: false,
            policy: Some(policy),
            admission: None,
        }
    }

    /// Whether application data cannot flow yet.
    pub fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }

    /// Whether no more should be read for now.
    pub fn is_full(&self) -> bool {
        self.tls.is_full()
    }

    /// Whether no record waits to be sent.
    pub fn is_flushed(&self) -> bool {
        self.tls.outgoing_bytes() == 0
            && self.wire.as_ref().is_none_or(Wire::is_empty)
            && !matches!(self.sealing, Sealing::Kernel(Some(_)))
    }

    /// Whether the layer has failed after its handshake, and only an alert is to be sent.
    pub fn has_failed(&self) -> bool {
        !self.is_handshaking() && self.deadline_ms != u64::MAX
    }

    /// Whether it should end when it can: see [`Tls::is_worn`].
    pub fn is_worn(&self) -> bool {
        self.tls.is_worn()
    }
}

/// What a worker keeps for its TLS connections.
#[derive(Default)]
pub struct Shared {
    /// How clients are met, by the number listeners carry.
    pub policies: Arc<Policies>,
    /// What the kernel may seal.
    pub kernel: Ciphers,
    wires: Vec<Wire>,
    /// Slots, and their generation, whose handshake waits; each at most once.
    waiting: VecDeque<(u32, u32)>,
    steps_left: u32,
    begun: Begun,
}

/// Handshakes begun in the second that runs.
#[derive(Debug, Default)]
struct Begun {
    second: u64,
    count: u32,
}

impl Begun {
    /// Whether another one may begin now, which it then does.
    fn another(&mut self, most: u32, now_ms: u64) -> bool {
        let second = now_ms / 1000;
        if self.second != second {
            *self = Begun { second, count: 0 };
        }
        let may = self.count < most;
        self.count += u32::from(may);
        may
    }
}

impl Shared {
    /// Of a worker that starts with these policies, where the kernel seals these ciphers.
    pub fn new(policies: Arc<Policies>, kernel: Ciphers) -> Self {
        Shared { policies, kernel, ..Default::default() }
    }

    /// Whether a handshake waits for the next turn.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Takes back the buffer of a connection that has nothing to send, or is gone.
    pub fn recycle(&mut self, connection: &mut Connection) {
        if let Some(mut wire) = connection.secure.as_mut().and_then(|secure| secure.wire.take())
            && self.wires.len() < limits::WIRES_KEPT_MAX
        {
            wire.clear();
            self.wires.push(wire);
        }
    }
}

impl Worker {
    /// A turn begins: handshakes that had to wait go on first.
    pub(super) fn shake_waiting(&mut self) {
        self.secure.steps_left = limits::HANDSHAKE_STEPS_PER_TURN_MAX;
        while self.secure.steps_left > 0
            && let Some((slot, generation)) = self.secure.waiting.pop_front()
        {
            let connection = &mut self.table[slot as usize];
            if connection.generation == generation
                && let Some(secure) = connection.secure.as_mut().filter(|secure| secure.waiting)
            {
                secure.waiting = false;
                self.shake(slot);
                self.advance(slot);
            }
        }
    }

    /// Bytes came for a TLS connection, in this buffer.
    pub(super) fn received_sealed(&mut self, slot: u32, buffer: u16, len: usize) {
        let connection = &mut self.table[slot as usize];
        let bytes = self.buffers.bytes_mut(buffer, len);
        with_tls(&mut self.node, connection, slot, |tls, sink| tls.receive(bytes, sink));
        if connection.secure.as_ref().is_some_and(|secure| secure.is_handshaking()) {
            self.shake(slot);
        }
    }

    /// One step of a handshake, if this turn has time for it; else it is queued.
    fn shake(&mut self, slot: u32) {
        let connection = &mut self.table[slot as usize];
        let Some(secure) = connection.secure.as_mut().filter(|_| connection.phase == Phase::Open) else {
            return;
        };
        if secure.waiting {
            return;
        }
        if self.secure.steps_left == 0 {
            secure.waiting = true;
            self.secure.waiting.push_back((slot, connection.generation));
            self.node.cells.add(Counter::TlsDeferred, 1);
            return;
        }
        if secure.tls.is_fresh() {
            let Some(offer) = secure.tls.offer() else {
                return;
            };
            if let Some(most) = self.secure.policies.handshakes_per_second
                && !self.secure.begun.another(most, self.node.now.mono_ms)
            {
                self.node.cells.add(Counter::TlsRefused, 1);
                connection.phase = Phase::Aborted;
                return;
            }
            secure.admission = if offer.http2 { self.node.admit(connection.place) } else { None };
            if let Some(policy) = secure.policy.take() {
                secure.tls.meet(policy.config(offer, secure.admission.is_some()).clone());
            }
        }
        self.secure.steps_left -= 1;
        let agreed = with_tls(&mut self.node, connection, slot, |tls, sink| tls.shake(sink)).flatten();
        if let Some(agreed) = agreed
            && let Some(secure) = &mut connection.secure
        {
            let admission = secure.admission.take();
            secure.deadline_ms = u64::MAX;
            if !self.secure.kernel.has(agreed.cipher) {
                secure.sealing = Sealing::Here;
            }
            count(&self.node, agreed);
            // Whatever its first bytes are (RFC 9113 section 3.2).
            connection.undecided = false;
            if let Some(admission) = admission.filter(|_| agreed.alpn == Alpn::Http2) {
                self.node.begin_multiplex(connection, admission);
            }
        }
    }

    /// Seals what the outbox holds and sends it, unless a send is in flight.
    pub(super) fn send_sealed(&mut self, slot: u32) {
        let connection = &mut self.table[slot as usize];
        let Some(secure) = &mut connection.secure else {
            return;
        };
        if secure.wire.as_ref().is_some_and(Wire::in_flight)
            || !matches!(connection.phase, Phase::Open | Phase::Finishing)
        {
            return;
        }
        match secure.sealing {
            Sealing::Here => {}
            Sealing::Undecided => {
                if self.offer_keys(slot) {
                    return;
                }
            }
            Sealing::Offered(_) => return,
            Sealing::Kernel(_) => return self.send_by_kernel(slot),
        }
        let connection = &mut self.table[slot as usize];
        let Some(secure) = &mut connection.secure else {
            return;
        };
        let plaintext = connection.outbox.as_ref().is_some_and(|outbox| !outbox.is_empty());
        if plaintext || !secure.is_flushed() {
            let wire = secure.wire.get_or_insert_with(|| self.secure.wires.pop().unwrap_or_default());
            let faults = fault::count();
            let torn = faults != 0 && connection.outbox.as_ref().is_some_and(Outbox::is_torn);
            let sealed = if torn { Ok(()) } else { seal(&mut secure.tls, connection.outbox.as_mut(), wire) };
            if torn || fault::count() != faults {
                // What was sealed may be zeroes in the place of a page that is gone.
                self.node.cells.add(Counter::Broken, 1);
                connection.phase = Phase::Aborted;
                return;
            }
            if sealed.is_err() {
                connection.phase = Phase::Aborted;
                return;
            }
            if !wire.is_empty() {
                connection.operations += 1;
                self.ring.send_wire(slot, wire, Token::pack(Op::Send, connection.generation, slot));
            }
        } else {
            self.secure.recycle(connection);
        }
        if connection.outbox.as_ref().is_some_and(Outbox::is_empty) {
            self.node.recycle(connection);
        }
    }

    /// Tells the peer that no more follows, before the socket says so. Says whether that is to be sent first.
    pub(super) fn send_close(&mut self, slot: u32) -> bool {
        let connection = &mut self.table[slot as usize];
        let queued = connection.secure.as_mut().is_some_and(|secure| secure.tls.close());
        if queued {
            connection.phase = Phase::Finishing;
            self.send_sealed(slot);
        }
        queued
    }
}

/// The completion of a send of records. Says whether that was all: else the outbox is concerned.
pub(super) fn sent(connection: &mut Connection, cells: &Cells, bytes: usize) -> bool {
    match connection.secure.as_mut().and_then(|secure| secure.wire.as_mut()) {
        Some(wire) => {
            wire.sent(bytes);
            true
        }
        None => kernel_tls::sent(connection, cells, bytes),
    }
}

/// Runs the layer, which stands apart from its connection meanwhile, with a sink that feeds the session.
pub(super) fn with_tls<T>(
    node: &mut Node,
    connection: &mut Connection,
    slot: u32,
    run: impl FnOnce(&mut Tls, &mut dyn FnMut(&[u8])) -> Result<T, Failed>,
) -> Option<T> {
    let mut secure = connection.secure.take()?;
    let result = run(&mut secure.tls, &mut |plaintext: &[u8]| {
        if connection.phase == Phase::Open {
            node.receive(connection, slot, plaintext, None);
        }
    });
    connection.peer_closed |= secure.tls.peer_closed();
    if let Err(failed) = &result {
        node.cells.add(
            match failed {
                Failed::Name => Counter::TlsNameRefused,
                Failed::Renewal => Counter::TlsKernelEnded,
                _ if secure.deadline_ms != u64::MAX => Counter::TlsFailed,
                _ => Counter::TlsBroken,
            },
            1,
        );
        tracing::debug!("TLS: {failed}");
        // Nothing that was queued may follow the alert.
        node.detach(connection, slot, false);
        node.end_multiplex(connection, slot);
        connection.source = Source::None;
        connection.stash = Vec::new();
        node.recycle(connection);
        connection.phase = Phase::Finishing;
        secure.deadline_ms = node.now.mono_ms + limits::LINGER_MS;
        secure.admission = None;
    }
    connection.secure = Some(secure);
    result.ok()
}

fn count(node: &Node, agreed: Agreed) {
    let add = |counter| node.cells.add(counter, 1);
    add(if agreed.resumed { Counter::TlsResumed } else { Counter::TlsFull });
    add(if agreed.tls13 { Counter::Tls13 } else { Counter::Tls12 });
    add(match agreed.alpn {
        Alpn::Http2 => Counter::TlsAlpnHttp2,
        Alpn::Http1 => Counter::TlsAlpnHttp1,
        Alpn::None => Counter::TlsAlpnNone,
    });
    add(match agreed.cipher {
        Cipher::Aes128 => Counter::TlsAes128,
        Cipher::Aes256 => Counter::TlsAes256,
        Cipher::Chacha20 => Counter::TlsChacha20,
    });
}

/// Records of the layer itself first, then the outbox, sealed as it is copied.
fn seal(tls: &mut Tls, mut outbox: Option<&mut Outbox>, wire: &mut Wire) -> Result<(), WornOut> {
    if tls.outgoing_bytes() > wire.room().len() {
        // What is there goes first, and makes room.
        return Ok(());
    }
    if let Some(records) = tls.take_outgoing() {
        wire.room()[..records.len()].copy_from_slice(&records);
        wire.written(records.len());
    }
    while let Some(outbox) = outbox.as_mut().filter(|outbox| !outbox.is_empty()) {
        let room = wire.room();
        if room.len() < RECORD_ROOM_MIN {
            break;
        }
        match tls.seal(room, |place| outbox.copy_out(place))? {
            0 => break,
            bytes => wire.written(bytes),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handshakes_of_a_second_are_counted_anew_in_the_next() {
        let mut begun = Begun::default();
        let mut within = |now_ms: u64| (0..10).filter(|_| begun.another(3, now_ms)).count();
        assert_eq!((within(5_000), within(5_999), within(6_000), within(6_001)), (3, 0, 3, 0));
        assert_eq!(within(1_000_000), 3);
    }
}
