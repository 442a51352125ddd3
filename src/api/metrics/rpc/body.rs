//! A body whose gRPC messages are counted as they pass: five bytes of head, then the message.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use prometheus::IntCounter;

use super::{Running, UNKNOWN, code_of};

/// Bytes in front of each message: a flag and the length.
const HEAD_BYTES: usize = 5;

/// A body on its way through.
pub(super) struct Metered<B> {
    body: B,
    messages: IntCounter,
    bytes: IntCounter,
    place: Place,
    /// The call that ends with this body.
    running: Option<Running>,
}

/// Where in a stream of messages the next byte belongs.
#[derive(Default, Debug)]
struct Place {
    head: [u8; HEAD_BYTES],
    have: usize,
    /// Bytes of the message that are still to come.
    left: u64,
}

impl Place {
    /// Goes on by what has come; how many messages began with it, and how long they are.
    fn pass(&mut self, mut data: &[u8]) -> (u64, u64) {
        let (mut messages, mut bytes) = (0, 0);
        while !data.is_empty() {
            if self.left > 0 {
                let skip = usize::try_from(self.left)
                    .unwrap_or(usize::MAX)
                    .min(data.len());
                data = &data[skip..];
                self.left -= skip as u64;
                continue;
            }
            let take = (HEAD_BYTES - self.have).min(data.len());
            self.head[self.have..self.have + take].copy_from_slice(&data[..take]);
            self.have += take;
            data = &data[take..];
            if self.have == HEAD_BYTES {
                let [_, length @ ..] = self.head;
                self.left = u64::from(u32::from_be_bytes(length));
                self.have = 0;
                messages += 1;
                bytes += self.left;
            }
        }
        (messages, bytes)
    }
}

impl<B> Metered<B> {
    /// What a client sends.
    pub(super) fn inbound(body: B, messages: IntCounter, bytes: IntCounter) -> Self {
        Self {
            body,
            messages,
            bytes,
            place: Place::default(),
            running: None,
        }
    }

    /// What a client is sent; the call ends with it.
    pub(super) fn outbound(
        body: B,
        messages: IntCounter,
        bytes: IntCounter,
        running: Running,
    ) -> Self {
        Self {
            running: Some(running),
            ..Self::inbound(body, messages, bytes)
        }
    }

    fn end(&mut self, code: usize) {
        if let Some(mut running) = self.running.take() {
            running.end(code);
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Metered<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    let (messages, bytes) = self.place.pass(data);
                    self.messages.inc_by(messages);
                    self.bytes.inc_by(bytes);
                } else if let Some(trailers) = frame.trailers_ref() {
                    self.end(code_of(trailers).unwrap_or(UNKNOWN));
                }
            }
            Some(Err(_)) | None => self.end(UNKNOWN),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: messages are counted right however the stream is cut. Method: three messages, cut at
    /// every two places.
    #[test]
    fn messages_are_found_in_any_pieces() {
        let mut stream = Vec::new();
        for length in [0_u8, 1, 7] {
            stream.extend_from_slice(&[0, 0, 0, 0, length]);
            stream.extend((0..length).map(|_| 0xff));
        }
        for one in 0..=stream.len() {
            for two in one..=stream.len() {
                let mut place = Place::default();
                let pieces = [&stream[..one], &stream[one..two], &stream[two..]];
                let counts = pieces.map(|piece| place.pass(piece));
                let messages: u64 = counts.iter().map(|(messages, _)| messages).sum();
                let bytes: u64 = counts.iter().map(|(_, bytes)| bytes).sum();
                assert_eq!((messages, bytes), (3, 8), "cut at {one} and {two}");
                assert_eq!((place.have, place.left), (0, 0));
            }
        }
    }
}
