//! The body of a request, as its pieces come.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame};
use tonic::Status;

use super::state::{Inbound, Shared};

/// Going away lets what still comes be thrown away.
pub(super) struct Body<P> {
    shared: Shared<P>,
    stream: u32,
    ended: bool,
}

impl<P> Body<P> {
    pub fn new(shared: Shared<P>, stream: u32) -> Self {
        Self {
            shared,
            stream,
            ended: false,
        }
    }
}

impl<P> HttpBody for Body<P> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let shared = self.shared.clone();
        let mut state = shared.lock();
        let Some(stream) = state.streams.get_mut(&self.stream) else {
            self.ended = true;
            let gone = Status::cancelled("the client has given up the call");
            return Poll::Ready(Some(Err(gone)));
        };
        let ended = stream.ended;
        if let Inbound::Pieces(pieces, reader) = &mut stream.inbound {
            if let Some(piece) = pieces.pop_front() {
                state.take_of(self.stream, piece.len());
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            if !ended {
                *reader = Some(cx.waker().clone());
                return Poll::Pending;
            }
        }
        self.ended = true;
        Poll::Ready(None)
    }
}

impl<P> Drop for Body<P> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        let Some(stream) = state.streams.get_mut(&self.stream) else {
            return;
        };
        let before = std::mem::replace(&mut stream.inbound, Inbound::Ignored);
        if let Inbound::Pieces(pieces, _) = before {
            let left: VecDeque<Bytes> = pieces;
            state.take(left.iter().map(Bytes::len).sum());
        }
    }
}
