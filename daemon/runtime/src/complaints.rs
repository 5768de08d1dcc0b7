//! What operators are told in the node's log: each kind of complaint about each address at most once per interval, and then how many were
//! left out. What lasts until somebody does something is said less often than what happens. Whoever runs the node decides where the lines go; nobody here waits for that.

use std::fmt;
use std::net::SocketAddr;

use panch_wire::time::{Duration, Instant};

/// The same complaint is printed at most this often.
const EVERY: Duration = Duration::from_secs(10);
/// And one about something that lasts.
const RARELY: Duration = Duration::from_secs(60);
/// Complaints remembered: strangers choose their addresses, so the list is bounded.
const COUNT_MAX: usize = 256;

/// How much a line matters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Level {
    /// Nothing is to be done.
    Info,
    /// Something is not as it should be.
    Warning,
    /// The node does not do what it is for.
    Error,
}

/// Writes one line of the log.
pub(crate) fn tell(level: Level, text: fmt::Arguments<'_>) {
    match level {
        Level::Info => tracing::info!(target: "panch", "{text}"),
        Level::Warning => tracing::warn!(target: "panch", "{text}"),
        Level::Error => tracing::error!(target: "panch", "{text}"),
    }
}

/// Writes a warning.
pub(crate) fn say(text: fmt::Arguments<'_>) {
    tell(Level::Warning, text);
}

/// Complaints printed lately.
#[derive(Default)]
pub(crate) struct Complaints(Vec<Complaint>);

struct Complaint {
    kind: &'static str,
    about: Option<SocketAddr>,
    printed: Instant,
    left_out: u64,
}

impl Complaints {
    /// Prints a complaint of this kind about this address, or counts it. For the other end of an accepted connection the
    /// address has port 0: its real one is another each time.
    pub(crate) fn print(
        &mut self,
        now: Instant,
        kind: &'static str,
        about: Option<SocketAddr>,
        text: fmt::Arguments<'_>,
    ) {
        let admitted = self.admit(now, EVERY, kind, about);
        Self::say(admitted, text);
    }

    /// The same for something that lasts: once a minute is enough.
    pub(crate) fn print_rarely(
        &mut self,
        now: Instant,
        kind: &'static str,
        about: Option<SocketAddr>,
        text: fmt::Arguments<'_>,
    ) {
        let admitted = self.admit(now, RARELY, kind, about);
        Self::say(admitted, text);
    }

    fn say(admitted: Option<u64>, text: fmt::Arguments<'_>) {
        match admitted {
            Some(0) => say(text),
            Some(left_out) => say(format_args!("{text} ({left_out} more like this since the last time)")),
            None => {}
        }
    }

    /// How many like this were left out before, if this one is to be printed.
    fn admit(
        &mut self,
        now: Instant,
        every: Duration,
        kind: &'static str,
        about: Option<SocketAddr>,
    ) -> Option<u64> {
        let known = self.0.iter_mut().find(|other| (other.kind, other.about) == (kind, about));
        if let Some(known) = known {
            if now.since(known.printed) < every {
                known.left_out += 1;
                return None;
            }
            known.printed = now;
            return Some(std::mem::take(&mut known.left_out));
        }
        if self.0.len() >= COUNT_MAX {
            let oldest = (0..self.0.len()).min_by_key(|index| self.0[*index].printed);
            self.0.swap_remove(oldest.expect("the list is full"));
        }
        self.0.push(Complaint { kind, about, printed: now, left_out: 0 });
        Some(0)
    }
}

/// The address of an accepted connection's other end as [`Complaints::print`] wants it.
pub(crate) fn without_port(address: Option<SocketAddr>) -> Option<SocketAddr> {
    address.map(|address| SocketAddr::new(address.ip(), 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant(0) + Duration::from_secs(seconds)
    }

    #[test]
    fn the_same_complaint_is_printed_once_per_interval_with_the_count_of_the_others() {
        let mut complaints = Complaints::default();
        let (one, two) = ("10.0.0.1:0".parse().ok(), "10.0.0.2:0".parse().ok());
        assert_eq!(complaints.admit(at(0), EVERY, "refused", one), Some(0));
        assert_eq!(complaints.admit(at(1), EVERY, "refused", one), None);
        assert_eq!(complaints.admit(at(9), EVERY, "refused", one), None);
        assert_eq!(complaints.admit(at(9), EVERY, "refused", two), Some(0), "another address");
        assert_eq!(complaints.admit(at(9), EVERY, "closed", one), Some(0), "another kind");
        assert_eq!(complaints.admit(at(10), EVERY, "refused", one), Some(2));
        assert_eq!(complaints.admit(at(20), EVERY, "refused", one), Some(0));
        assert_eq!(complaints.admit(at(20), RARELY, "unreachable", one), Some(0));
        assert_eq!(complaints.admit(at(79), RARELY, "unreachable", one), None);
        assert_eq!(complaints.admit(at(80), RARELY, "unreachable", one), Some(1));
    }

    #[test]
    fn strangers_cannot_fill_the_memory_with_addresses() {
        let mut complaints = Complaints::default();
        for number in 0..2 * COUNT_MAX as u32 {
            let address = SocketAddr::new(std::net::Ipv4Addr::from(number).into(), 0);
            assert_eq!(
                complaints.admit(Instant(u64::from(number)), EVERY, "refused", Some(address)),
                Some(0)
            );
        }
        assert_eq!(complaints.0.len(), COUNT_MAX);
    }
}
