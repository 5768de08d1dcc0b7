//! One key of the key-value store as a sequential object.

use std::fmt;
use std::rc::Rc;

use super::plain::plain;
use super::{Model, Timed, Verdict, check, zones};

/// A value, shared.
pub type Bytes = Rc<[u8]>;

/// What a client asked of a key. Values should be unique per write: it keeps the search short and leaves lies no room.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Reads.
    Get,
    /// Writes.
    Set(Bytes),
    /// Writes if absent.
    SetIfAbsent(Bytes),
    /// Writes, answers the old value.
    GetSet(Bytes),
    /// Deletes, answers the old value.
    GetDelete,
    /// Deletes, answers 1 if there was a value, else 0.
    Delete,
    /// Adds to the number at the key; answers the sum.
    Increment(i64),
    /// Appends; answers the new length.
    Append(Bytes),
    /// Writes the second value if the key holds the first; answers 1 or 0.
    CompareAndSet(Bytes, Bytes),
}

/// What was answered.
#[derive(Clone, PartialEq, Eq)]
pub enum Answer {
    /// Done.
    Done,
    /// A value, or that there is none.
    Value(Option<Bytes>),
    /// Values of several keys.
    Values(Vec<Option<Bytes>>),
    /// Answers to several commands.
    Replies(Vec<Answer>),
    /// A number.
    Number(i64),
    /// The value is not a number, or the sum would overflow; nothing was changed.
    NotANumber,
}

/// A call to a key.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyOperation {
    /// What was asked.
    pub action: Action,
    /// What was answered; `None` if that is unknown.
    pub answer: Option<Answer>,
}

pub(super) struct Text<'a>(pub(super) &'a [u8]);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Padding of simulated values says nothing.
        let end = self.0.iter().position(|byte| *byte == b'_').unwrap_or(self.0.len());
        write!(f, "{}", self.0[..end].escape_ascii())
    }
}

/// An action, in words.
pub(super) fn write_action(action: &Action, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match action {
        Action::Get => write!(f, "get"),
        Action::Set(value) => write!(f, "set {}", Text(value)),
        Action::SetIfAbsent(value) => write!(f, "setnx {}", Text(value)),
        Action::GetSet(value) => write!(f, "getset {}", Text(value)),
        Action::GetDelete => write!(f, "getdel"),
        Action::Delete => write!(f, "del"),
        Action::Increment(by) => write!(f, "incr {by}"),
        Action::Append(value) => write!(f, "append {}", Text(value)),
        Action::CompareAndSet(old, new) => write!(f, "cas {} {}", Text(old), Text(new)),
    }
}

impl fmt::Debug for KeyOperation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_action(&self.action, f)?;
        match &self.answer {
            None => write!(f, " -> ?"),
            Some(answer) => write!(f, " -> {answer:?}"),
        }
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Done => write!(f, "ok"),
            Answer::Value(None) => write!(f, "nil"),
            Answer::Value(Some(value)) => write!(f, "{}", Text(value)),
            Answer::Values(values) => {
                let texts = values.iter().map(|value| Answer::Value(value.clone()));
                f.debug_list().entries(texts).finish()
            }
            Answer::Replies(answers) => f.debug_list().entries(answers).finish(),
            Answer::Number(number) => write!(f, "{number}"),
            Answer::NotANumber => write!(f, "not a number"),
        }
    }
}

/// One key.
#[derive(Clone, Copy, Debug, Default)]
pub struct Register;

fn number(value: Option<&Bytes>) -> Option<i64> {
    value.map_or(Some(0), |value| std::str::from_utf8(value).ok()?.parse().ok())
}

impl Register {
    /// What `action` makes of `state`, and answers.
    pub(super) fn apply(state: &Option<Bytes>, action: &Action) -> (Option<Bytes>, Answer) {
        let old = || Answer::Value(state.clone());
        match action {
            Action::Get => (state.clone(), old()),
            Action::Set(value) => (Some(value.clone()), Answer::Done),
            Action::SetIfAbsent(value) => match state {
                None => (Some(value.clone()), Answer::Number(1)),
                Some(_) => (state.clone(), Answer::Number(0)),
            },
            Action::GetSet(value) => (Some(value.clone()), old()),
            Action::GetDelete => (None, old()),
            Action::Delete => (None, Answer::Number(i64::from(state.is_some()))),
            Action::Increment(by) => {
                match number(state.as_ref()).and_then(|number| number.checked_add(*by)) {
                    Some(sum) => (Some(sum.to_string().into_bytes().into()), Answer::Number(sum)),
                    None => (state.clone(), Answer::NotANumber),
                }
            }
            Action::Append(value) => {
                let mut longer = state.as_deref().unwrap_or_default().to_vec();
                longer.extend_from_slice(value);
                let length = longer.len() as i64;
                (Some(longer.into()), Answer::Number(length))
            }
            Action::CompareAndSet(expected, value) => {
                if state.as_ref() == Some(expected) {
                    (Some(value.clone()), Answer::Number(1))
                } else {
                    (state.clone(), Answer::Number(0))
                }
            }
        }
    }
}

impl Model for Register {
    type Operation = KeyOperation;
    type State = Option<Bytes>;

    fn initial(&self) -> Option<Bytes> {
        None
    }

    fn step(&self, state: &Option<Bytes>, operation: &KeyOperation) -> Option<Option<Bytes>> {
        let (after, answer) = Self::apply(state, &operation.action);
        operation.answer.as_ref().is_none_or(|given| *given == answer).then_some(after)
    }

    fn never_changes(&self, operation: &KeyOperation) -> bool {
        let is_refused = matches!(operation.answer, Some(Answer::Number(0)));
        match &operation.action {
            Action::Get => true,
            Action::SetIfAbsent(_) | Action::Delete | Action::CompareAndSet(..) => is_refused,
            Action::GetDelete => matches!(operation.answer, Some(Answer::Value(None))),
            Action::Increment(_) => matches!(operation.answer, Some(Answer::NotANumber)),
            Action::Set(_) | Action::GetSet(_) | Action::Append(_) => false,
        }
    }
}

/// Why a history is refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Anomaly {
    /// The key, or the keys, separated by spaces.
    pub key: Vec<u8>,
    /// The operation that fits nowhere, and those around it, as text.
    pub text: String,
}

/// What the check of a whole history came to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// Operations checked.
    pub operations: usize,
    /// Families of keys that were checked as one.
    pub families: usize,
}

/// Checks the history of one key.
pub fn check_key(operations: &[Timed<KeyOperation>], steps_max: u64) -> Verdict {
    let search = || check(&Register, &plain(operations), steps_max);
    match zones::check(operations) {
        None => search(),
        Some(Verdict::NotLinearizable { stuck, linearized }) => match search() {
            // It knows how long an order may be.
            longest @ Verdict::NotLinearizable { .. } => longest,
            _ => Verdict::NotLinearizable { stuck, linearized },
        },
        Some(verdict) => verdict,
    }
}

pub(super) fn describe<O: fmt::Debug + PartialEq>(
    operations: &[Timed<O>],
    stuck: usize,
    linearized: usize,
) -> String {
    let line = |timed: &Timed<O>| {
        let returned = timed.returned.map_or("never".to_string(), |at| format!("{:.6}", at as f64 / 1e9));
        format!("{:.6}..{returned} {:?}", timed.invoked as f64 / 1e9, timed.operation)
    };
    let culprit = &operations[stuck];
    let mut text = format!("after {linearized} operations this one fits nowhere:\n    {}", line(culprit));
    let end = culprit.returned.unwrap_or(u64::MAX);
    let mut near: Vec<_> = operations
        .iter()
        .filter(|timed| timed.invoked <= end && *timed != culprit)
        .filter(|timed| timed.returned.is_none_or(|at| at + 50_000_000 >= culprit.invoked))
        .collect();
    near.sort_by_key(|timed| timed.invoked);
    text.push_str("\n  operations around it:");
    for timed in near.iter().rev().take(24).rev() {
        text.push_str("\n    ");
        text.push_str(&line(timed));
    }
    text
}
