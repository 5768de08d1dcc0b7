//! What a batch reads and writes.

use std::collections::BTreeSet;

use panch_wire::batch::BatchView;
use panch_wire::frame::Frame;

/// A key, or a session under a name that is no key of a client here.
pub type Key = Vec<u8>;

/// The keys that a batch touches.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Access {
    /// Written, and perhaps read.
    pub writes: BTreeSet<Key>,
    /// Read.
    pub reads: BTreeSet<Key>,
}

impl Access {
    /// What a batch touches; nothing if it is none.
    pub fn of(frame: &Frame) -> Self {
        let mut access = Self::default();
        let Ok(view) = BatchView::access(frame) else { return access };
        for command in view.commands() {
            for (key, is_written) in command.keys() {
                let set = if is_written { &mut access.writes } else { &mut access.reads };
                set.insert(key.to_vec());
            }
            if let Some(header) = command.session.filter(|_| !command.kind.is_read()) {
                access.writes.insert([b"\0session".as_slice(), &header.session.to_le_bytes()].concat());
            }
        }
        access
    }
}
