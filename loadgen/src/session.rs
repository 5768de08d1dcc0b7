//! The client's half of exactly-once: numbers that stay with their requests until they are answered.
//!
//! Invariants:
//! * A number is given to one request and never again. It is repeated, on whichever socket, until an answer says what became
//!   of it.
//! * `acked_below` never passes a number without an answer: the nodes remember the replies from there on.
//! * At most [`WINDOW`] numbers lie between the oldest without an answer and the next: more would be refused.
//! * The session is opened anew on every socket, in every group, before anything else is asked; opening it twice changes
//!   nothing. On the wire its numbers in a group begin where that group says; a group that says something else than before has
//!   forgotten the session, and what was asked has an unknown outcome for good: it is given back and never repeated, since under the
//!   new beginning it would be another command. What is asked later gets numbers of its own.

use std::collections::VecDeque;

use panch_wire::client::{self, Answer, Operation, ReadLevel, ReplyView, RequestView};
use panch_wire::command::{Command, CommandError, CommandKind, SessionHeader};
use panch_wire::ids::GroupId;
use panch_wire::slots::group_of_key;
use panch_wire::time::Instant;

use crate::connection::{ConnectionFault, Pending};

/// How many numbers of a session the nodes remember.
pub(crate) const WINDOW: usize = 128;

/// What opens the session in group `g` has the number `OPEN_NUMBER - g`: far above all that requests get.
const OPEN_NUMBER: u64 = u64::MAX;

/// The bits of a number on the wire that count; what is above differs from group to group.
const COUNTING_BITS: u64 = (1 << 40) - 1;

/// A request that was given a number.
#[derive(Clone, Copy)]
enum Place {
    /// Answered.
    Done,
    /// Asked on the present socket, at this time.
    Asked(Pending, Instant),
    /// To be asked on the present socket.
    Repeat(Pending),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// No answer to the hello yet.
    New,
    /// The node has so many groups; the session is to be opened in each.
    Greeted(u16),
    /// So many groups have not answered.
    Opening(u16),
    Open,
}

const EXPIRED: &str = "the session expired before all of its commands were answered";

/// One session.
pub(crate) struct Session {
    id: u64,
    stage: Stage,
    /// The oldest number without an answer: that of the first place.
    first: u64,
    places: VecDeque<Place>,
    outstanding: usize,
    repeated: u64,
    /// What each group adds to numbers; `None` where the session was never opened.
    added: Vec<Option<u64>>,
    /// A group has forgotten the session, and what was asked before was not given back yet.
    expired: bool,
}

impl Session {
    pub(crate) fn new(id: u64) -> Self {
        assert_ne!(id, 0, "zero means no session");
        Self {
            id,
            stage: Stage::New,
            first: 1,
            places: VecDeque::with_capacity(WINDOW),
            outstanding: 0,
            repeated: 0,
            added: Vec::new(),
            expired: false,
        }
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn is_greeted(&self) -> bool {
        self.stage != Stage::New
    }

    pub(crate) fn is_open(&self) -> bool {
        self.stage == Stage::Open
    }

    pub(crate) fn outstanding(&self) -> usize {
        self.outstanding
    }

    pub(crate) fn repeated(&self) -> u64 {
        self.repeated
    }

    pub(crate) fn room(&self, pipeline: usize) -> usize {
        pipeline.saturating_sub(self.outstanding).min(WINDOW - self.places.len())
    }

    /// The node has accepted the hello.
    pub(crate) fn greeted(&mut self, group_count: u16) {
        self.stage = Stage::Greeted(group_count.max(1));
        self.added.resize(usize::from(group_count.max(1)), None);
    }

    /// Asks every group to open the session, once for each socket.
    pub(crate) fn write_opens(&mut self, out: &mut Vec<u8>) {
        let Stage::Greeted(groups) = self.stage else { return };
        self.stage = Stage::Opening(groups);
        for group in 0..groups {
            let key = key_of(GroupId(group), groups);
            let number = OPEN_NUMBER - u64::from(group);
            let session = SessionHeader { session: self.id, number, acked_below: 0 };
            let kind = CommandKind::OpenSession;
            let command = Command { kind, flags: 0, session: Some(session), key: key.as_bytes(), value: &[] };
            let request = RequestView {
                number,
                acked_below: 0,
                level: ReadLevel::Quorum,
                ask_stages: false,
                ask_commit: false,
                operation: Operation::Command(command),
            };
            client::write_request(&request, out);
        }
    }

    /// An answer came while the session is being opened.
    pub(crate) fn opened(&mut self, reply: &ReplyView<'_>) -> Result<(), ConnectionFault> {
        let Stage::Opening(waiting) = self.stage else { return Err(ConnectionFault::Unasked) };
        match reply.answer {
            Answer::Error(error) => Err(ConnectionFault::AskAgain(error.text())),
            Answer::Int(first) => {
                let group = OPEN_NUMBER.wrapping_sub(reply.number);
                let added = usize::try_from(group).ok().and_then(|group| self.added.get_mut(group));
                let Some(added) = added else { return Err(ConnectionFault::Unasked) };
                let begins_at = (first as u64).wrapping_sub(1);
                if added.replace(begins_at).is_some_and(|before| before != begins_at) {
                    self.expired = true;
                    return Err(ConnectionFault::Refused(EXPIRED.into()));
                }
                self.stage = if waiting == 1 { Stage::Open } else { Stage::Opening(waiting - 1) };
                Ok(())
            }
            _ => Err(ConnectionFault::Unasked),
        }
    }

    /// A number of this session as the group of `key` knows it.
    pub(crate) fn on_wire(&self, key: &[u8], number: u64) -> u64 {
        let group = group_of_key(key, self.added.len().max(1) as u16);
        number + self.added.get(group.index()).copied().flatten().unwrap_or(0)
    }

    /// Gives a request its number. Returns that, and below which number everything is answered.
    pub(crate) fn add(&mut self, pending: Pending) -> (u64, u64) {
        let number = self.first + self.places.len() as u64;
        self.places.push_back(Place::Asked(pending, pending.sent));
        self.outstanding += 1;
        (number, self.first)
    }

    fn place(&mut self, number: u64) -> Option<&mut Place> {
        let index = number.checked_sub(self.first)?;
        self.places.get_mut(usize::try_from(index).ok()?)
    }

    /// An answer to a request.
    pub(crate) fn answer(
        &mut self,
        reply: &ReplyView<'_>,
        on_answer: impl FnOnce(Pending, Answer<'_>),
    ) -> Result<(), ConnectionFault> {
        let place = self.place(reply.number & COUNTING_BITS).ok_or(ConnectionFault::Unasked)?;
        let Place::Asked(pending, _) = *place else { return Err(ConnectionFault::Unasked) };
        if let Answer::Error(error) = reply.answer
            && (error == CommandError::Unknown || error.is_passing())
        {
            return Err(ConnectionFault::AskAgain(error.text()));
        }
        *place = Place::Done;
        self.outstanding -= 1;
        while let Some(Place::Done) = self.places.front() {
            self.places.pop_front();
            self.first += 1;
        }
        on_answer(pending, reply.answer);
        Ok(())
    }

    /// The socket is gone: whatever has no answer is asked again on the next one. If the session has expired, it is given back instead.
    pub(crate) fn socket_lost(&mut self, on_lost: impl FnMut(Pending)) {
        self.stage = Stage::New;
        if std::mem::take(&mut self.expired) {
            self.give_up(on_lost);
        }
        for place in &mut self.places {
            if let Place::Asked(pending, _) = *place {
                *place = Place::Repeat(pending);
            }
        }
    }

    pub(crate) fn next_repeat(&self) -> Option<(u64, Pending)> {
        (self.first..).zip(&self.places).find_map(|(number, place)| match place {
            Place::Repeat(pending) => Some((number, *pending)),
            _ => None,
        })
    }

    /// The request is asked again now. Returns it, and below which number everything is answered.
    pub(crate) fn repeat(&mut self, number: u64, now: Instant) -> Option<(Pending, u64)> {
        let first = self.first;
        let place = self.place(number)?;
        let Place::Repeat(pending) = *place else { return None };
        *place = Place::Asked(pending, now);
        self.repeated += 1;
        Some((pending, first))
    }

    pub(crate) fn waits_since(&self) -> Option<Instant> {
        let asked = |place: &Place| match place {
            Place::Asked(_, at) => Some(*at),
            _ => None,
        };
        self.places.iter().filter_map(asked).min()
    }

    /// Gives everything back that has no answer, for good.
    pub(crate) fn give_up(&mut self, mut on_lost: impl FnMut(Pending)) {
        self.first += self.places.len() as u64;
        self.outstanding = 0;
        for place in self.places.drain(..) {
            if let Place::Asked(pending, _) | Place::Repeat(pending) = place {
                on_lost(pending);
            }
        }
    }
}

/// A key that lives in `group`.
fn key_of(group: GroupId, group_count: u16) -> String {
    (0u32..)
        .map(|number| format!("session:{number}"))
        .find(|key| group_of_key(key.as_bytes(), group_count) == group)
        .expect("every group owns slots, and some short key hashes to each slot")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::{self, OperationKind};

    fn pending(key: u64) -> Pending {
        let operation = workload::Operation { kind: OperationKind::Incr, key, write: 0 };
        Pending { operation, intended: Instant(key), sent: Instant(key) }
    }

    fn reply(number: u64, answer: Answer<'_>) -> ReplyView<'_> {
        ReplyView { number, stages: None, commit: None, answer }
    }

    fn open(session: &mut Session) {
        session.greeted(2);
        session.write_opens(&mut Vec::new());
        for group in 0..2 {
            assert!(!session.is_open());
            session.opened(&reply(OPEN_NUMBER - group, Answer::Int(1))).unwrap();
        }
        assert!(session.is_open());
    }

    fn answer(session: &mut Session, number: u64) -> Option<u64> {
        let mut key = None;
        session
            .answer(&reply(number, Answer::Int(1)), |pending, _| key = Some(pending.operation.key))
            .ok()?;
        key
    }

    #[test]
    fn every_group_is_asked_to_open_the_session_once_for_each_socket() {
        let mut session = Session::new(7);
        session.greeted(4);
        let mut out = Vec::new();
        session.write_opens(&mut out);
        session.write_opens(&mut out);
        let terms = client::Terms { session: 7, request_size_max: 1 << 20 };
        let (mut at, mut groups) = (0, Vec::new());
        while let Some((request, size)) = client::parse_request(&out[at..], &terms).unwrap() {
            let Operation::Command(command) = request.operation else { panic!("{request:?}") };
            assert_eq!(command.kind, CommandKind::OpenSession);
            groups.push(group_of_key(command.key, 4).0);
            at += size;
        }
        assert_eq!(groups, [0, 1, 2, 3]);
        let refused = session.opened(&reply(OPEN_NUMBER, Answer::Error(CommandError::Unavailable)));
        assert!(matches!(refused, Err(ConnectionFault::AskAgain(_))));
    }

    #[test]
    fn numbers_begin_where_the_group_says_and_a_session_that_expired_is_no_more() {
        let mut session = Session::new(7);
        let first = |session: &mut Session, generation: i64| {
            session.greeted(1);
            session.write_opens(&mut Vec::new());
            session.opened(&reply(OPEN_NUMBER, Answer::Int(generation << 40 | 1)))
        };
        first(&mut session, 3).unwrap();
        let (number, _) = session.add(pending(1));
        assert_eq!(session.on_wire(b"key", number), 3 << 40 | 1);
        assert_eq!(answer(&mut session, 3 << 40 | 1), Some(1));
        let mut lost = Vec::new();
        session.add(pending(2));
        session.socket_lost(|_| panic!("it is to be repeated"));
        first(&mut session, 3).unwrap();
        let (number, repeated) = session.next_repeat().unwrap();
        assert_eq!((number, repeated.operation.key), (2, 2));
        session.repeat(number, Instant(9)).unwrap();
        session.add(pending(3));
        session.socket_lost(|_| panic!("it is to be repeated"));
        assert!(matches!(first(&mut session, 4), Err(ConnectionFault::Refused(_))));
        session.socket_lost(|pending| lost.push(pending.operation.key));
        assert_eq!((lost, session.outstanding()), (vec![2, 3], 0));
        // The group goes on to say the same. What was asked before is not asked again.
        first(&mut session, 4).unwrap();
        assert!(session.next_repeat().is_none() && session.is_open());
        let (number, acked_below) = session.add(pending(4));
        assert_eq!(session.on_wire(b"key", number), 4 << 40 | 4);
        assert_eq!(acked_below, 4);
        assert_eq!(answer(&mut session, 4 << 40 | 4), Some(4));
        session.socket_lost(|_| panic!("given back before"));
    }

    #[test]
    fn a_session_that_one_of_several_groups_has_forgotten_is_no_more_in_any() {
        let mut session = Session::new(7);
        open(&mut session);
        session.add(pending(1));
        session.socket_lost(|_| panic!("it is to be repeated"));
        let mut lost = Vec::new();
        for forgotten in 0..2 {
            session.greeted(2);
            session.write_opens(&mut Vec::new());
            let mut results = Vec::new();
            for group in 0..=forgotten {
                let begins_at = 1 << 40 | 1;
                results.push(session.opened(&reply(OPEN_NUMBER - group, Answer::Int(begins_at))));
            }
            assert!(matches!(results.pop(), Some(Err(ConnectionFault::Refused(_)))));
            assert!(results.into_iter().all(|result| result.is_ok()));
            session.socket_lost(|pending| lost.push(pending.operation.key));
        }
        assert_eq!(lost, [1]);
        assert!(session.next_repeat().is_none());
    }

    #[test]
    fn numbers_stay_with_their_requests_over_sockets_until_they_are_answered() {
        let mut session = Session::new(7);
        open(&mut session);
        assert_eq!(
            (1..=3).map(|key| session.add(pending(key))).collect::<Vec<_>>(),
            [(1, 1), (2, 1), (3, 1)]
        );
        assert_eq!(answer(&mut session, 2), Some(2));
        session.socket_lost(|_| panic!("it is to be repeated"));
        assert!(!session.is_greeted() && session.outstanding() == 2 && session.waits_since().is_none());
        open(&mut session);
        let mut repeated = Vec::new();
        while let Some((number, pending)) = session.next_repeat() {
            repeated.push((number, pending.operation.key));
            assert_eq!(session.repeat(number, Instant(50)).unwrap().1, 1);
        }
        assert_eq!((repeated, session.repeated()), (vec![(1, 1), (3, 3)], 2));
        assert_eq!(session.waits_since(), Some(Instant(50)));
        assert_eq!(answer(&mut session, 1), Some(1));
        // Everything below the first without an answer is acknowledged now.
        assert_eq!(session.add(pending(4)), (4, 3));
        assert!(answer(&mut session, 1).is_none() && answer(&mut session, 2).is_none());
    }

    #[test]
    fn an_answer_that_says_nothing_of_the_outcome_leaves_the_request_to_be_repeated() {
        for error in [CommandError::Unknown, CommandError::Unavailable] {
            let mut session = Session::new(7);
            open(&mut session);
            session.add(pending(1));
            let fault = session.answer(&reply(1, Answer::Error(error)), |_, _| panic!("no answer"));
            assert!(matches!(fault, Err(ConnectionFault::AskAgain(_))));
            session.socket_lost(|_| panic!("it is to be repeated"));
            assert_eq!(session.next_repeat().map(|(number, _)| number), Some(1));
        }
    }

    #[test]
    fn the_window_bounds_the_numbers_from_the_oldest_without_an_answer() {
        let mut session = Session::new(7);
        open(&mut session);
        for key in 0..WINDOW as u64 {
            session.add(pending(key));
        }
        for number in 2..=WINDOW as u64 {
            answer(&mut session, number).unwrap();
        }
        assert_eq!((session.outstanding(), session.room(1000)), (1, 0));
        answer(&mut session, 1).unwrap();
        assert_eq!((session.room(1000), session.room(3)), (WINDOW, 3));
    }

    #[test]
    fn what_is_given_up_is_given_back_once_and_its_number_is_not_used_again() {
        let mut session = Session::new(7);
        open(&mut session);
        for key in 0..3 {
            session.add(pending(key));
        }
        answer(&mut session, 2).unwrap();
        let mut lost = Vec::new();
        session.give_up(|pending| lost.push(pending.operation.key));
        session.give_up(|_| panic!("given back before"));
        assert_eq!((lost, session.outstanding()), (vec![0, 2], 0));
        assert_eq!(session.add(pending(9)).0, 4);
    }
}
