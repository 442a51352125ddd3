//! What is to be written, in order: small frames copied together, large data as they are.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncWrite;

/// Data from this size on are not copied.
const LARGE_BYTES: usize = 4 * 1024;
/// Pieces of one write.
const SLICES_MAX: usize = 32;
/// Room that is made for small frames at a time.
const SMALL_BYTES: usize = 1024;

/// See the module.
#[derive(Default, Debug)]
pub(super) struct Outbox {
    /// What stands before `last`.
    queue: VecDeque<Bytes>,
    last: BytesMut,
    bytes_queued: usize,
}

impl Outbox {
    /// Bytes that wait.
    pub fn len(&self) -> usize {
        self.bytes_queued + self.last.len()
    }

    /// Where small frames are appended.
    pub fn small(&mut self) -> &mut BytesMut {
        if self.last.is_empty() {
            self.last.reserve(SMALL_BYTES);
        }
        &mut self.last
    }

    /// Appends data.
    pub fn put(&mut self, data: Bytes) {
        if data.len() < LARGE_BYTES {
            self.last.extend_from_slice(&data);
            return;
        }
        let before = self.last.split().freeze();
        self.bytes_queued += before.len() + data.len();
        if !before.is_empty() {
            self.queue.push_back(before);
        }
        self.queue.push_back(data);
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Writes until all is written or the socket takes no more.
    pub fn poll_write(
        &mut self,
        socket: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.len() > 0 {
            let written = if self.queue.is_empty() {
                ready!(Pin::new(&mut *socket).poll_write(cx, &self.last))?
            } else {
                let mut slices = [IoSlice::new(&[]); SLICES_MAX];
                let parts = self.queue.iter().map(|part| &part[..]);
                let parts = parts.chain([&self.last[..]]);
                let mut count = 0;
                for (slice, part) in slices.iter_mut().zip(parts) {
                    *slice = IoSlice::new(part);
                    count += 1;
                }
                ready!(Pin::new(&mut *socket).poll_write_vectored(cx, &slices[..count]))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut written: usize) {
        while let Some(first) = self.queue.front_mut() {
            let some = written.min(first.len());
            first.advance(some);
            written -= some;
            self.bytes_queued -= some;
            if !first.is_empty() {
                return;
            }
            self.queue.pop_front();
        }
        self.last.advance(written);
        if self.last.is_empty() {
            // An idle connection keeps no buffer.
            self.last = BytesMut::new();
        }
    }
}
