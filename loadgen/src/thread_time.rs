//! What the time of a thread goes into: being on a CPU, waiting for one, or waiting for something to do.
//!
//! Whoever has work for one thread alone is at its limit as soon as that thread is, however idle the others are: so the mean of several
//! threads says too little.

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

    /// Which parts of `span`, the time of one thread or of several together, that was.
    pub fn parts_of(self, span: Duration) -> ThreadLoad {
        let part = |time: Duration| time.as_secs_f64() / span.as_secs_f64().max(1e-9);
        ThreadLoad { cpu: part(self.cpu), waiting: self.waiting.map(part) }
    }
}

/// How busy a thread was, or several on average: parts of the time, from 0 to 1.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct ThreadLoad {
    /// On a CPU.
    pub cpu: f64,
    /// Ready to run, and waiting for a CPU that somebody else had. `None` if the kernel does not count that.
    pub waiting: Option<f64>,
}

impl ThreadLoad {
    /// The part of the time in which there was something to do.
    pub fn busy(&self) -> f64 {
        self.cpu + self.waiting.unwrap_or(0.0)
    }

    /// The busier of the two.
    #[must_use]
    pub fn busier(self, other: Self) -> Self {
        if other.busy() > self.busy() { other } else { self }
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
    use std::time::Instant;

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
    fn the_busier_thread_is_the_one_that_waits_and_works_longer() {
        let time = |cpu, waiting: Option<u64>| ThreadTime {
            cpu: Duration::from_millis(cpu),
            waiting: waiting.map(Duration::from_millis),
        };
        let load = |cpu, waiting| time(cpu, waiting).parts_of(Duration::from_secs(2));
        assert_eq!(load(500, Some(1000)), ThreadLoad { cpu: 0.25, waiting: Some(0.5) });
        assert_eq!(load(500, None), ThreadLoad { cpu: 0.25, waiting: None });
        for (one, other) in [((500, Some(600)), (1000, Some(0))), ((1100, None), (1000, None))] {
            let (one, other) = (load(one.0, one.1), load(other.0, other.1));
            assert_eq!((one.busier(other), other.busier(one)), (one, one));
        }
        // No thread is busy in no time.
        assert_eq!(time(0, None).parts_of(Duration::ZERO).busy(), 0.0);
    }

    #[test]
    fn what_other_threads_do_is_not_the_time_of_one_that_waits_for_them() {
        let work = Duration::from_millis(50);
        let patience = Instant::now() + Duration::from_secs(60);
        let begin = ThreadTime::now();
        let busy = std::thread::spawn(move || {
            let begin = ThreadTime::now();
            while host::thread_cpu_time().saturating_sub(begin.cpu) < work && Instant::now() < patience {
                std::hint::black_box(0);
            }
            ThreadTime::now().since(begin)
        });
        let busy = busy.join().unwrap();
        let idle = ThreadTime::now().since(begin);
        assert!(busy.cpu >= work && idle.cpu < work / 2, "{busy:?} {idle:?}");
    }
}
