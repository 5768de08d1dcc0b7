//! A command of a session takes effect once and is always answered alike; nothing appended appears twice [protocols §7].

use std::collections::BTreeMap;

use crate::linear::register::Answer;

/// The answers of sessions.
#[derive(Default)]
pub struct ExactlyOnce(BTreeMap<(u64, u64), Answer>);

impl ExactlyOnce {
    /// Number `number` of `session` was answered, perhaps again.
    ///
    /// # Errors
    /// If it was answered differently before.
    pub fn on_answer(&mut self, session: u64, number: u64, answer: &Answer) -> Result<(), String> {
        let first = self.0.entry((session, number)).or_insert_with(|| answer.clone());
        if first == answer {
            return Ok(());
        }
        Err(format!("session {session:x} number {number}: answered {first:?}, then {answer:?}"))
    }

    /// A list was read: tokens that end with `;`, each unique.
    ///
    /// # Errors
    /// If one is there twice.
    pub fn check_list(key: &[u8], list: &[u8]) -> Result<(), String> {
        let mut tokens: Vec<&[u8]> =
            list.split(|byte| *byte == b';').filter(|token| !token.is_empty()).collect();
        tokens.sort_unstable();
        match tokens.windows(2).find(|pair| pair[0] == pair[1]) {
            None => Ok(()),
            Some(pair) => {
                Err(format!("{}: {} was appended twice", key.escape_ascii(), pair[0].escape_ascii()))
            }
        }
    }
}
