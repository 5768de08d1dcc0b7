//! Parcels between the cores of a node: one bounded queue per directed pair, and each core's doorbell.
//!
//! Invariants:
//! * Parcels from one core to another arrive in order, once. A full queue is back-pressure: the parcel comes back.
//! * Nothing allocates after [`connect`].
//!
//! A thread that is not a core (signals, storage) is given a port of its own by connecting one core more than there are.

use std::fmt;
use std::io;
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;
use crossbeam::utils::CachePadded;

use crate::doorbell::Doorbell;

/// The core's end of the mesh.
///
/// Each port belongs to one thread; that [`MeshPort::drain`] needs no `&mut` is for convenience.
pub struct MeshPort<T> {
    core: usize,
    mesh: Arc<Mesh<T>>,
}

struct Mesh<T> {
    /// `queues[to * cores + from]`, so that a drain walks consecutive memory.
    queues: Vec<CachePadded<ArrayQueue<T>>>,
    doorbells: Vec<Doorbell>,
}

/// Connects `cores` cores, each with each other, by queues of `capacity` parcels. Returns one port per core, in order.
///
/// # Errors
/// If there is no descriptor left for a doorbell.
pub fn connect<T: Send>(cores: usize, capacity: usize) -> io::Result<Vec<MeshPort<T>>> {
    assert!(cores > 0 && capacity > 0);
    let mesh = Arc::new(Mesh {
        queues: (0..cores * cores)
            .map(|pair| {
                // A core never sends to itself; its queue is as small as possible.
                let capacity = if pair / cores == pair % cores { 1 } else { capacity };
                CachePadded::new(ArrayQueue::new(capacity))
            })
            .collect(),
        doorbells: (0..cores).map(|_| Doorbell::new()).collect::<io::Result<_>>()?,
    });
    Ok((0..cores).map(|core| MeshPort { core, mesh: Arc::clone(&mesh) }).collect())
}

impl<T: Send> MeshPort<T> {
    /// This core's number, from 0.
    pub fn core(&self) -> usize {
        self.core
    }

    /// How many cores are connected.
    pub fn core_count(&self) -> usize {
        self.mesh.doorbells.len()
    }

    /// This core's own doorbell: for its ring, and for threads that hand it work by other ways.
    pub fn doorbell(&self) -> &Doorbell {
        &self.mesh.doorbells[self.core]
    }

    /// Sends a parcel to another core and wakes it if it sleeps.
    ///
    /// # Errors
    /// Returns the parcel if the queue is full: try again after the other core's next turn.
    pub fn send(&self, core: usize, parcel: T) -> Result<(), T> {
        assert!(core != self.core, "a core does not send to itself");
        self.mesh.queues[core * self.core_count() + self.core].push(parcel)?;
        self.mesh.doorbells[core].ring();
        Ok(())
    }

    /// Takes what is there, sender by sender; at most one queue's capacity from each, so that a turn ends.
    pub fn drain(&self, mut receive: impl FnMut(usize, T)) {
        for (from, queue) in self.inbound().iter().enumerate() {
            for _ in 0..queue.capacity() {
                let Some(parcel) = queue.pop() else { break };
                receive(from, parcel);
            }
        }
    }

    /// Whether nothing waits for this core.
    pub fn is_empty(&self) -> bool {
        self.inbound().iter().all(|queue| queue.is_empty())
    }

    fn inbound(&self) -> &[CachePadded<ArrayQueue<T>>] {
        let cores = self.core_count();
        &self.mesh.queues[self.core * cores..][..cores]
    }
}

impl<T> fmt::Debug for MeshPort<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MeshPort({} of {})", self.core, self.mesh.doorbells.len())
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_full_queue_returns_the_parcel() {
        let ports = connect(2, 2).unwrap();
        assert_eq!(ports[0].send(1, 1), Ok(()));
        assert_eq!(ports[0].send(1, 2), Ok(()));
        assert_eq!(ports[0].send(1, 3), Err(3));
        assert!(ports[0].is_empty() && !ports[1].is_empty());
        let mut seen = Vec::new();
        ports[1].drain(|from, parcel| seen.push((from, parcel)));
        assert_eq!(seen, [(0, 1), (0, 2)]);
        assert_eq!(ports[0].send(1, 3), Ok(()));
    }

    #[test]
    fn parcels_arrive_once_and_in_order_though_receivers_sleep() {
        const COUNT: u64 = 20_000;
        let mut ports = connect(3, 64).unwrap();
        let receiver = ports.remove(2);
        let senders: Vec<_> = ports
            .into_iter()
            .map(|port| {
                std::thread::spawn(move || {
                    for number in 0..COUNT {
                        let mut parcel = number;
                        while let Err(back) = port.send(2, parcel) {
                            parcel = back;
                            std::thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        let mut next = [0; 2];
        while next != [COUNT; 2] {
            receiver.drain(|from, parcel| {
                assert_eq!(parcel, next[from]);
                next[from] += 1;
            });
            receiver.doorbell().announce_park();
            if receiver.is_empty() && next != [COUNT; 2] {
                assert!(
                    receiver.doorbell().sleep(Some(Duration::from_secs(20))).unwrap(),
                    "a wake-up was lost"
                );
            }
            receiver.doorbell().withdraw_park();
        }
        for sender in senders {
            sender.join().unwrap();
        }
    }
}
