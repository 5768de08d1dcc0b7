//! Random operations.

use panch_replica::replica::Level;

use super::command::pad;
use super::{Client, Intent, OwnedCommand};
use crate::linear::register::{Action, Bytes};
use crate::settings::ClientSettings;

impl Client {
    /// One of the kinds that the settings allow, on one of their keys.
    pub(super) fn random_operation(
        &mut self,
        index: usize,
        settings: &ClientSettings,
    ) -> (OwnedCommand, Option<Intent>, Level) {
        self.counter += 1;
        let token = format!("{index}.{}", self.counter);
        if settings.many > 0 && self.random.chance(settings.many) {
            return self.many_operation(&token, settings);
        }
        let random = &mut self.random;
        let number = random.below(settings.keys);
        let value = pad(token.as_bytes(), settings.padding);
        if settings.bulk_keys > 0 && random.chance(400_000) {
            let key = format!("b{}", random.below(settings.bulk_keys));
            let value: Bytes = format!("{token}{}", "_".repeat(3000)).into_bytes().into();
            return (
                OwnedCommand::of(key.as_bytes(), &Action::Set(value.clone())),
                Some(Action::Set(value).into()),
                Level::Log,
            );
        }
        let (key, action) = match random.below(20) {
            0..=4 => (format!("r{number}"), Action::Set(value)),
            5..=9 => (format!("r{number}"), Action::Get),
            10 => (format!("r{number}"), Action::GetSet(value)),
            11 => (format!("r{number}"), Action::CompareAndSet(pad(&self.seen, settings.padding), value)),
            12 => (format!("r{number}"), Action::SetIfAbsent(value)),
            13 => (
                format!("r{number}"),
                if random.chance(500_000) { Action::Delete } else { Action::GetDelete },
            ),
            14..=16 => (format!("n{number}"), Action::Increment(1)),
            17 => (format!("n{number}"), Action::Get),
            18 => (format!("l{number}"), Action::Append(format!("{token};").into_bytes().into())),
            _ => (format!("l{number}"), Action::Get),
        };
        let level = if action == Action::Get { self.read_level(settings) } else { Level::Log };
        (OwnedCommand::of(key.as_bytes(), &action), Some(action.into()), level)
    }

    /// How a read wants to be served.
    pub(super) fn read_level(&mut self, settings: &ClientSettings) -> Level {
        if self.random.chance(settings.log_reads) {
            Level::Log
        } else if settings.lease_reads > 0 && self.random.chance(settings.lease_reads) {
            Level::Lease
        } else {
            Level::Quorum
        }
    }
}
