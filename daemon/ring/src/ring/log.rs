//! Operations on log files.

use std::io;
use std::os::fd::AsRawFd;

use io_uring::types::{Fd, FsyncFlags};
use io_uring::{opcode, squeue};
use panch_wire::frame::PAGE_SIZE;

use super::Ring;
use super::descriptor::FileId;
use crate::event::{Event, Token};
use crate::op::{Gather, LogRead, LogWrite, Op};
use crate::parts::{LogPart, ReadBuffer};

impl Ring {
    /// Writes the parts one after the other at `offset`, in one operation; [`Event::Written`] returns them. If `durable`,
    /// success means that they are on disk (RWF_DSYNC). Writes are not ordered among each other.
    ///
    /// # Panics
    /// If the file is closed or being closed, `offset` is not a multiple of the page size, or there is nothing to write.
    pub fn write_log(&mut self, file: FileId, offset: u64, parts: Vec<LogPart>, durable: bool, token: Token) {
        assert!(offset.is_multiple_of(PAGE_SIZE as u64), "the log is written page by page");
        let size = parts.iter().map(|part| part.bytes().len()).sum();
        assert!(size > 0, "a log write has at least one page");
        self.assert_open(file);
        let gather = self.gathers.pop().unwrap_or_else(Gather::new);
        let write = LogWrite { file: file.0, token, parts, gather, offset, size, done: 0, durable };
        self.start_write(Box::new(write));
    }

    fn start_write(&mut self, mut write: Box<LogWrite>) {
        write.gather.point_to(write.parts.iter().map(LogPart::bytes), write.done);
        let flags = if write.durable { libc::RWF_DSYNC } else { 0 };
        let pieces = &write.gather.pieces;
        let entry = opcode::Writev::new(self.fd(write.file), pieces.as_ptr(), pieces.len() as u32)
            .offset(write.offset + write.done as u64)
            .rw_flags(flags)
            .build();
        self.start(Op::Write(write), entry);
    }

    pub(super) fn on_written(&mut self, mut write: Box<LogWrite>, result: i32) {
        let result = match result {
            // Interrupted before anything was written: not a failed write.
            code if code == -libc::EINTR || code == -libc::EAGAIN => return self.start_write(write),
            // The kernel takes a vector of pages only to fail on the rest; ask for the rest to learn why.
            count if count > 0 => {
                self.counters.written_bytes += count as u64;
                write.done += count as usize;
                if write.done < write.size {
                    self.counters.short_writes += 1;
                    return self.start_write(write);
                }
                Ok(())
            }
            0 => Err(io::ErrorKind::WriteZero.into()),
            code => Err(io::Error::from_raw_os_error(-code)),
        };
        let LogWrite { token, parts, gather, file, .. } = *write;
        self.gathers.push(gather);
        self.ready.push_back((None, Event::Written { token, result, parts }));
        self.settle(file);
    }

    /// Reads `size` bytes at `offset` into the start of `buffer`; [`Event::Read`] returns it. For a file opened past the page
    /// cache, `offset` and `size` are multiples of the page size.
    ///
    /// # Panics
    /// If the file is closed or being closed, or `buffer` is shorter than `size`.
    pub fn read_log(&mut self, file: FileId, offset: u64, size: usize, buffer: ReadBuffer, token: Token) {
        assert!(size <= buffer.bytes().len() && u32::try_from(size).is_ok(), "the buffer holds what is read");
        self.assert_open(file);
        self.start_read(Box::new(LogRead { file: file.0, token, buffer, offset, size, done: 0 }));
    }

    fn start_read(&mut self, mut read: Box<LogRead>) {
        let (done, size) = (read.done, read.size);
        let rest = &mut read.buffer.bytes_mut()[done..size];
        let (start, length) = (rest.as_mut_ptr(), rest.len() as u32);
        let entry =
            opcode::Read::new(self.fd(read.file), start, length).offset(read.offset + done as u64).build();
        self.start(Op::Read(read), entry);
    }

    pub(super) fn on_read(&mut self, mut read: Box<LogRead>, result: i32) {
        let result = match result {
            code if code == -libc::EINTR || code == -libc::EAGAIN => return self.start_read(read),
            count if count >= 0 => {
                self.counters.read_bytes += count as u64;
                read.done += count as usize;
                // A read past the page cache that stops within a page has met the end of the file.
                if count > 0 && read.done < read.size && read.done.is_multiple_of(PAGE_SIZE) {
                    return self.start_read(read);
                }
                Ok(read.done)
            }
            code => Err(io::Error::from_raw_os_error(-code)),
        };
        let LogRead { token, buffer, file, .. } = *read;
        self.ready.push_back((None, Event::Read { token, result, buffer }));
        self.settle(file);
    }

    /// Waits until the data of writes that have ended are on disk (fdatasync); [`Event::Synced`] says so.
    ///
    /// # Panics
    /// If the file is closed or being closed.
    pub fn sync(&mut self, file: FileId, token: Token) {
        self.assert_open(file);
        let entry: squeue::Entry = opcode::Fsync::new(self.fd(file.0)).flags(FsyncFlags::DATASYNC).build();
        self.start(Op::Sync { file: file.0, token }, entry);
    }

    pub(super) fn fd(&self, key: crate::slab::Key) -> Fd {
        Fd(self.descriptors.get(key).expect("an operation's descriptor is open").fd.as_raw_fd())
    }

    fn assert_open(&self, file: FileId) {
        let open = self.descriptors.get(file.0).is_some_and(|descriptor| descriptor.closing.is_none());
        assert!(open, "log operations are on open files");
    }
}
