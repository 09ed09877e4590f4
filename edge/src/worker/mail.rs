//! What control says: responses on their way, answers to requests that wait.
#![forbid(unsafe_code)]

use super::Worker;
use super::actions::Node;
use super::connection::{Connection, Phase, Source};
use super::streams::State;
use crate::control::mailbox::{Ticket, ToWorker};
use crate::limits;
use crate::proto::session::Input;
use crate::proto::tls::Policies;
use std::sync::Arc;

/// What has the connections: mail is delivered to it, and it moves them on.
pub(super) trait Desk {
    /// The node, and the connections by their slots.
    fn parts(&mut self) -> (&mut Node, &mut [Connection]);

    /// Moves a connection as far as it goes now.
    fn move_on(&mut self, slot: u32);

    /// Moves a connection as far as it goes now, or at the end of the turn if it speaks HTTP/2: then all that has come
    /// is read before the first of its streams is looked at, and all that goes out goes together.
    #[inline]
    fn advance(&mut self, slot: u32) {
        let (node, table) = self.parts();
        match &mut table[slot as usize].multiplex {
            Some(mux) => node.list(mux, slot),
            None => self.move_on(slot),
        }
    }

    /// The turn ends: moves on what was listed, each connection once and the longest listed first, until the turn has
    /// done its share. The others, and those that have more, go on in the next turn.
    #[inline]
    fn move_multiplexed(&mut self) {
        let node = self.parts().0;
        node.frames_left = limits::HTTP2_FRAMES_PER_TURN_MAX;
        for _ in 0..node.multiplexed.len() {
            let (node, table) = self.parts();
            if node.frames_left == 0 {
                break;
            }
            let Some(slot) = node.multiplexed.pop_front() else {
                break;
            };
            if let Some(mux) = &mut table[slot as usize].multiplex {
                mux.listed = false;
            }
            self.move_on(slot);
            let (node, table) = self.parts();
            if let Some(mux) = &mut table[slot as usize].multiplex
                && mux.has_more
            {
                node.list(mux, slot);
            }
        }
    }

    /// How clients of TLS are met from now on.
    fn take_policies(&mut self, policies: Arc<Policies>);

    /// Delivers what is there, at most so many messages; says how many there were.
    fn deliver(&mut self, most: usize) -> usize {
        let mut delivered = 0;
        while delivered < most
            && let Some(message) = self.parts().0.mailbox.to_worker.pop()
        {
            self.mail(message);
            delivered += 1;
        }
        while let Some(stream) = self.parts().0.streams.take_moved() {
            self.wake_members(stream);
        }
        delivered
    }

    /// Delivers one message.
    fn mail(&mut self, message: ToWorker) {
        let (node, table) = self.parts();
        match message {
            ToWorker::Open { stream, head, sealed_bytes, object, pass, pieces } => {
                node.streams.open(stream, head, sealed_bytes, object, pass, pieces);
            }
            ToWorker::Interim { ticket, interim } => {
                let Some(connection) = waiting(table, ticket) else {
                    return;
                };
                if connection.multiplex.is_some() {
                    let input = Input::Interim(&interim);
                    node.interim(connection, ticket.slot, ticket.serial, input);
                } else {
                    node.tell(connection, ticket.slot, Input::Interim(&interim));
                }
                self.advance(ticket.slot);
            }
            ToWorker::Join { ticket, stream, part, collapsed } => {
                let Some(connection) = waiting(table, ticket) else {
                    return;
                };
                let Some(joined) = node.streams.join(stream, ticket.slot) else {
                    return;
                };
                let whole = (0..u64::MAX, joined.head.clone());
                let (range, head) = part.unwrap_or(whole);
                let source = Source::Stream { id: stream, offset: range.start, end: range.end };
                if connection.multiplex.is_some() {
                    let input = Input::OriginHead { head: &head, collapsed };
                    node.answered(connection, ticket.slot, ticket.serial, Some(source), input);
                    return self.advance(ticket.slot);
                }
                connection.source = source;
                node.tell(connection, ticket.slot, Input::OriginHead { head: &head, collapsed });
                self.advance(ticket.slot);
            }
            ToWorker::Piece { stream, bytes } => {
                if let Some(stream) = node.streams.get_mut(stream) {
                    stream.push(bytes);
                }
                node.streams.moved(stream);
            }
            ToWorker::Sealed { stream, sealed_bytes } => {
                if node.streams.get_mut(stream).is_some_and(|stream| stream.seal(sealed_bytes)) {
                    node.streams.moved(stream);
                }
            }
            ToWorker::Unstored { stream } => {
                if let Some(stream) = node.streams.get_mut(stream) {
                    stream.unstored = true;
                }
                self.let_go(stream);
            }
            ToWorker::End { stream, trailers } => {
                if let Some(stream) = node.streams.get_mut(stream) {
                    stream.trail(trailers);
                }
                self.end_stream(stream, State::Whole);
            }
            ToWorker::Broken { stream } => {
                // What came before is still theirs.
                self.wake_members(stream);
                self.end_stream(stream, State::Broken);
            }
            ToWorker::Again { ticket, request, why } => {
                let Some(connection) = waiting(table, ticket) else {
                    return;
                };
                node.let_go_of_fetch(connection);
                if connection.multiplex.is_some() {
                    node.answered_again(connection, ticket.slot, ticket.serial, *request, why);
                } else {
                    node.again(connection, ticket.slot, *request, why);
                }
                self.advance(ticket.slot);
            }
            ToWorker::Shard(shard) => node.take_shard(*shard),
            ToWorker::Refused { ticket, status, lines } => {
                let Some(connection) = waiting(table, ticket) else {
                    return;
                };
                node.let_go_of_fetch(connection);
                if connection.multiplex.is_some() {
                    let input = Input::Refused(status, &lines);
                    node.answered(connection, ticket.slot, ticket.serial, None, input);
                } else {
                    node.tell(connection, ticket.slot, Input::Refused(status, &lines));
                }
                self.advance(ticket.slot);
            }
            ToWorker::Queries(queries) => node.out.queries = queries,
            ToWorker::Transport(policies) => node.out.transport = policies,
            ToWorker::Trusted(proxies) => {
                let connections = table.iter_mut().filter(|connection| connection.phase != Phase::Free);
                connections.for_each(|connection| connection.judge(&proxies));
                node.trusted = proxies;
            }
            ToWorker::Policies(policies) => self.take_policies(policies),
            ToWorker::BodyCredit { ticket, bytes } => {
                let Some(connection) = waiting(table, ticket) else {
                    return;
                };
                if let Some(mux) = &mut connection.multiplex {
                    mux.credit(ticket.serial, bytes);
                } else if let Some(fetch) = &mut connection.fetch {
                    fetch.body_unacked = fetch.body_unacked.saturating_sub(bytes);
                    if fetch.body_unacked < limits::REQUEST_BODY_WINDOW_BYTES {
                        connection.session.resume(node.now, &node.out);
                    }
                }
                self.advance(ticket.slot);
            }
        }
    }

    /// A stream has come to its end.
    fn end_stream(&mut self, stream: u64, state: State) {
        self.parts().0.streams.end(stream, state);
        self.wake_members(stream);
    }

    /// Moves every client of a stream on, each once, however many of its requests follow the stream; and forgets those
    /// that left.
    fn wake_members(&mut self, id: u64) {
        let Some(stream) = self.parts().0.streams.get_mut(id) else {
            return;
        };
        let mut members = stream.take_members();
        members.retain(|&slot| {
            let connection = &mut self.parts().1[slot as usize];
            let follows = connection.follows(id);
            if follows {
                if let Some(mux) = &mut connection.multiplex {
                    mux.resume(id);
                }
                self.advance(slot);
            }
            follows
        });
        if let Some(stream) = self.parts().0.streams.get_mut(id) {
            stream.members.append(&mut members);
        }
        self.let_go(id);
    }

    /// Drops what all clients of a stream have taken, if nobody can ask for it any more. Control waits for
    /// this before it reads on.
    fn let_go(&mut self, id: u64) {
        let (node, table) = self.parts();
        let Some(stream) = node.streams.get_mut(id).filter(|stream| stream.unstored) else {
            return;
        };
        let offsets = stream.members.iter().filter_map(|&slot| table[slot as usize].offset(id));
        // While its members are walked the list is empty; the walk ends with a call of this.
        match offsets.min() {
            Some(slowest) => stream.drop_below(slowest),
            None if stream.is_deserted() => stream.drop_below(u64::MAX),
            None => {}
        }
    }
}

impl Desk for Worker {
    fn parts(&mut self) -> (&mut Node, &mut [Connection]) {
        (&mut self.node, &mut self.table)
    }

    fn move_on(&mut self, slot: u32) {
        Worker::move_on(self, slot);
    }

    fn take_policies(&mut self, policies: Arc<Policies>) {
        self.secure.policies = policies;
    }
}

impl Worker {
    pub(super) fn read_mail(&mut self) {
        if self.mail_left && self.deliver(limits::MAIL_PER_TURN_MAX) < limits::MAIL_PER_TURN_MAX {
            self.mail_left = !self.node.mailbox.to_worker.sleep();
        }
    }
}

/// The connection that waits under this ticket, if it still does.
fn waiting(table: &mut [Connection], ticket: Ticket) -> Option<&mut Connection> {
    let connection = table.get_mut(ticket.slot as usize)?;
    (connection.phase == Phase::Open && connection.waits(ticket.serial)).then_some(connection)
}
