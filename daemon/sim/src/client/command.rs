//! Commands that own their bytes, and what is said about them, in the words of the history.

use panch_wire::command::{Command, CommandError, CommandKind, Reply, SessionHeader, list};

use crate::linear::register::{Action, Answer, Bytes};

/// A command that owns its bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OwnedCommand {
    /// What to do.
    pub kind: CommandKind,
    /// Who asks.
    pub session: Option<SessionHeader>,
    /// The key.
    pub key: Vec<u8>,
    /// The value, or a list.
    pub value: Vec<u8>,
}

/// What became of an attempt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It took effect, once.
    Answer(Answer),
    /// It had no effect.
    Refused(CommandError),
    /// It may take effect at any time, or have done so, or never.
    Lost,
}

impl OwnedCommand {
    /// The command for an action on a key.
    pub fn of(key: &[u8], action: &Action) -> Self {
        let pair = |first: &[u8], second: &[u8]| {
            let mut value = Vec::new();
            list::push(&mut value, first);
            list::push(&mut value, second);
            value
        };
        let (kind, value) = match action {
            Action::Get => (CommandKind::Get, Vec::new()),
            Action::Set(value) => (CommandKind::Set, value.to_vec()),
            Action::SetIfAbsent(value) => (CommandKind::SetNx, value.to_vec()),
            Action::GetSet(value) => (CommandKind::GetSet, value.to_vec()),
            Action::GetDelete => (CommandKind::GetDel, Vec::new()),
            Action::Delete => {
                let mut value = Vec::new();
                list::push(&mut value, key);
                (CommandKind::Del, value)
            }
            Action::Increment(by) => (CommandKind::IncrBy, by.to_le_bytes().to_vec()),
            Action::Append(value) => (CommandKind::Append, value.to_vec()),
            Action::CompareAndSet(old, new) => (CommandKind::CompareAndSet, pair(old, new)),
        };
        Self { kind, session: None, key: key.to_vec(), value }
    }

    /// A read of several keys.
    pub fn of_keys(kind: CommandKind, keys: &[&str]) -> Self {
        let mut value = Vec::new();
        keys.iter().for_each(|key| list::push(&mut value, key.as_bytes()));
        Self { kind, session: None, key: keys[0].as_bytes().to_vec(), value }
    }

    /// Opens a session.
    pub fn open_session(session: u64) -> Self {
        let header = SessionHeader { session, number: 1, acked_below: 1 };
        Self { kind: CommandKind::OpenSession, session: Some(header), key: Vec::new(), value: Vec::new() }
    }

    /// Closes every session that was not used since `slot`.
    pub fn expire_sessions(slot: u64) -> Self {
        let value = slot.to_le_bytes().to_vec();
        Self { kind: CommandKind::ExpireSessions, session: None, key: Vec::new(), value }
    }

    /// The same within a session.
    pub fn in_session(mut self, session: u64, number: u64) -> Self {
        self.session = Some(SessionHeader { session, number, acked_below: number });
        self
    }

    /// Whether it opens or closes sessions.
    pub fn is_session_control(&self) -> bool {
        use CommandKind::{CloseSession, ExpireSessions, OpenSession};
        matches!(self.kind, OpenSession | CloseSession | ExpireSessions)
    }

    /// As the replica takes it.
    pub fn borrow(&self) -> Command<'_> {
        Command { kind: self.kind, flags: 0, session: self.session, key: &self.key, value: &self.value }
    }
}

/// A reply in the words of the history.
pub fn outcome_of(reply: Reply<'_>) -> Outcome {
    let answer = match reply {
        Reply::Ok => Answer::Done,
        Reply::Nil => Answer::Value(None),
        Reply::Int(number) => Answer::Number(number),
        Reply::Bytes(bytes) | Reply::Array(bytes) => Answer::Value(Some(bytes.into())),
        Reply::Status(text) => Answer::Value(Some(text.as_bytes().into())),
        Reply::Error(CommandError::NotAnInteger | CommandError::Overflow) => Answer::NotANumber,
        Reply::Error(CommandError::Unknown) => return Outcome::Lost,
        Reply::Error(error) => return Outcome::Refused(error),
    };
    Outcome::Answer(answer)
}

fn padding_of(token: &[u8], most: u64) -> usize {
    let hash = token.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    if most == 0 { 0 } else { ((hash >> 16) % (most + 1)) as usize }
}

/// A token made longer, by a length that the token decides.
pub(super) fn pad(token: &[u8], most: u64) -> Bytes {
    let mut value = token.to_vec();
    value.resize(token.len() + padding_of(token, most), b'_');
    value.into()
}

/// The token of a padded value; `None` if its padding is not what the token decides.
pub(super) fn unpad(value: &[u8], most: u64) -> Option<Bytes> {
    let end = value.iter().position(|byte| *byte == b'_').unwrap_or(value.len());
    let padding = &value[end..];
    let right = padding.is_empty() || padding.len() == padding_of(&value[..end], most);
    (right && padding.iter().all(|byte| *byte == b'_')).then(|| value[..end].into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_decided_by_the_token() {
        for token in ["0.1", "3.17", "5.999"] {
            let padded = pad(token.as_bytes(), 100);
            assert_eq!(unpad(&padded, 100).as_deref(), Some(token.as_bytes()));
            if padded.len() > token.len() + 1 {
                assert_eq!(unpad(&padded[..padded.len() - 1], 100), None);
            }
        }
        assert_eq!(unpad(b"17", 100).as_deref(), Some(&b"17"[..]));
    }

    #[test]
    fn every_action_is_a_valid_command() {
        let value: Bytes = (&b"v"[..]).into();
        let actions = [
            Action::Get,
            Action::Set(value.clone()),
            Action::SetIfAbsent(value.clone()),
            Action::GetSet(value.clone()),
            Action::GetDelete,
            Action::Delete,
            Action::Increment(-3),
            Action::Append(value.clone()),
            Action::CompareAndSet(value.clone(), value),
        ];
        for action in actions {
            assert!(OwnedCommand::of(b"k", &action).in_session(1, 1).borrow().is_valid(), "{action:?}");
        }
        assert!(OwnedCommand::open_session(1).borrow().is_valid());
        assert!(OwnedCommand::expire_sessions(1).borrow().is_valid());
    }
}
