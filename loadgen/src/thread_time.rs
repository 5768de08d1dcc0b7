//! What the time of a thread goes into: being on a CPU, waiting for one, or waiting for something to do.

use std::fs;
use std::ops::Add;
use std::time::Duration;

use crate::host;

/// What the time of one thread went into, or of several together.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ThreadTime {
    /// On a CPU.
    pub cpu: Duration,
    /// Ready to run, and waiting for a CPU that somebody else had. `None` if the kernel does not count that.
    pub waiting: Option<Duration>,
}

impl ThreadTime {
    /// Of the calling thread since it began.
    pub fn now() -> Self {
        let statistics = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        Self { cpu: host::thread_cpu_time(), waiting: waiting(&statistics) }
    }

    /// What was added since `earlier`, of the same thread.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(earlier.cpu),
            waiting: self.waiting.zip(earlier.waiting).map(|(now, before)| now.saturating_sub(before)),
        }
    }
}

impl Add for ThreadTime {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let waiting = self.waiting.zip(other.waiting).map(|(one, other)| one + other);
        Self { cpu: self.cpu + other.cpu, waiting }
    }
}

/// How long a thread has waited for a CPU, by the text of its `schedstat`: nanoseconds on a CPU, nanoseconds of waiting for one, and how
/// often it got one. A kernel that does not count says that a thread was never on a CPU, although it is while it reads this.
fn waiting(statistics: &str) -> Option<Duration> {
    let mut numbers = statistics.split_whitespace().map(|number| number.parse::<u64>().ok());
    let (on_cpu, waiting) = (numbers.next()??, numbers.next()??);
    (on_cpu > 0).then(|| Duration::from_nanos(waiting))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_does_not_count_is_not_known() {
        assert_eq!(waiting("1242056 2519348 6\n"), Some(Duration::from_nanos(2_519_348)));
        for text in ["", "0 0 0\n", "7", "7 x 1"] {
            assert_eq!(waiting(text), None, "{text}");
        }
    }

    #[test]
    fn times_are_subtracted_and_added_and_what_is_not_known_of_one_is_not_known_of_both() {
        let time = |cpu, waiting: Option<u64>| ThreadTime {
            cpu: Duration::from_millis(cpu),
            waiting: waiting.map(Duration::from_millis),
        };
        assert_eq!(time(5, Some(9)).since(time(2, Some(4))), time(3, Some(5)));
        assert_eq!(time(5, Some(9)).since(time(2, None)), time(3, None));
        assert_eq!(time(5, Some(9)) + time(2, Some(4)), time(7, Some(13)));
        assert_eq!(time(5, None) + time(2, Some(4)), time(7, None));
    }

    #[test]
    fn a_thread_that_works_was_on_a_cpu() {
        let start = ThreadTime::now();
        let mut now = start;
        while now.cpu == start.cpu {
            now = ThreadTime::now();
        }
        assert!(now.since(start).cpu > Duration::ZERO);
    }
}
