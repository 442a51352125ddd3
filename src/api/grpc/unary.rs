//! The short way of a call with one message each way: its bytes are decoded where they arrived, and
//! the answer is encoded once, at its size. The general codec copies both through buffers of its
//! own.
//!
//! Invariant: only what is plain goes this way: one whole message, not compressed, not too large,
//! and nothing behind it. Everything else is handed on untouched, so that there is one place that
//! judges it.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Version, header::CONTENT_TYPE};
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use prost::Message;
use tonic::{Response as Outgoing, Status, body::Body};

use crate::api::http2::Reply;

/// Bytes in front of a message: whether it is compressed, and its length.
pub(super) const HEAD_BYTES: usize = 5;

/// The only message of a body, or, if the body is not plain, one that gives the same again.
pub(super) async fn message(mut body: Body, bytes_max: usize) -> Result<Bytes, Body> {
    let mut came = Bytes::new();
    loop {
        if !may_be_plain(&came, bytes_max) {
            return Err(again(came, None, body));
        }
        match body.frame().await {
            None => break,
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) if came.is_empty() => came = data,
                Ok(data) => {
                    let mut both = BytesMut::from(came);
                    both.extend_from_slice(&data);
                    came = both.freeze();
                }
                Err(trailers) => return Err(again(came, Some(Ok(trailers)), body)),
            },
            Some(Err(status)) => return Err(again(came, Some(Err(status)), body)),
        }
    }
    match length(&came) {
        Some(length) if came.len() == HEAD_BYTES + length => Ok(came.split_off(HEAD_BYTES)),
        Some(_) | None => Err(again(came, None, body)),
    }
}

/// A body of one message, for the general codec.
pub(super) fn again_of(message: &[u8]) -> Body {
    Body::new(OneMessage {
        bytes: Some(framed(message.len(), |out| out.put_slice(message))),
        trailers: None,
    })
}

/// The answer as the general codec would give it.
pub(super) fn answer<T: Message>(answer: Result<Outgoing<T>, Status>) -> http::Response<Body> {
    let (_, message, extensions) = match answer {
        Ok(outgoing) => outgoing.into_parts(),
        Err(status) => return status.into_http(),
    };
    let bytes = match encoded(&message) {
        Ok(bytes) => bytes,
        Err(status) => return status.into_http(),
    };
    let mut response = response(Body::new(OneMessage {
        bytes: Some(bytes),
        trailers: Some(well()),
    }));
    *response.extensions_mut() = extensions;
    response
}

/// A message as the short way sends it.
pub(super) fn reply(message: &impl Message) -> Result<Reply, Status> {
    encoded(message).map(Reply::Message)
}

/// The answer with this body.
pub(super) fn response(body: Body) -> http::Response<Body> {
    let mut response = http::Response::new(body);
    *response.version_mut() = Version::HTTP_2;
    let kind = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

fn encoded(message: &impl Message) -> Result<Bytes, Status> {
    let length = message.encoded_len();
    if u32::try_from(length).is_err() {
        let story = format!("an answer of {length} bytes is more than a message can hold");
        return Err(Status::resource_exhausted(story));
    }
    Ok(framed(length, |out| {
        message.encode(out).expect("a growing buffer has room");
    }))
}

/// Whether what came so far may become one plain message.
fn may_be_plain(came: &[u8], bytes_max: usize) -> bool {
    match length(came) {
        Some(length) => came[0] == 0 && length <= bytes_max && came.len() <= HEAD_BYTES + length,
        None => true,
    }
}

/// The length that a head tells.
fn length(came: &[u8]) -> Option<usize> {
    let (head, _) = came.split_first_chunk::<HEAD_BYTES>()?;
    let [_, a, b, c, d] = *head;
    usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()
}

fn framed(length: usize, fill: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut out = BytesMut::with_capacity(HEAD_BYTES + length);
    put_head(&mut out, length);
    fill(&mut out);
    out.freeze()
}

/// What stands before a message: that it is not compressed, and its length.
pub(in crate::api) fn put_head(out: &mut impl BufMut, length: usize) {
    out.put_u8(0);
    out.put_u32(u32::try_from(length).expect("the caller looked"));
}

/// The trailers of an answer that is no error.
pub(in crate::api) fn well() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers
}

fn again(came: Bytes, then: Option<Result<Frame<Bytes>, Status>>, rest: Body) -> Body {
    let came = (!came.is_empty()).then(|| Ok(Frame::data(came)));
    Body::new(Again { came, then, rest })
}

/// What was taken from a body, and the rest of it.
struct Again {
    came: Option<Result<Frame<Bytes>, Status>>,
    then: Option<Result<Frame<Bytes>, Status>>,
    rest: Body,
}

impl HttpBody for Again {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let first = self.came.take();
        match first.or_else(|| self.then.take()) {
            Some(frame) => Poll::Ready(Some(frame)),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }
}

/// A message, and trailers where it is an answer.
struct OneMessage {
    bytes: Option<Bytes>,
    trailers: Option<HeaderMap>,
}

impl HttpBody for OneMessage {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = match self.bytes.take() {
            Some(bytes) => Some(Frame::data(bytes)),
            None => self.trailers.take().map(Frame::trailers),
        };
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let left = self.bytes.as_ref().map_or(0, Bytes::len);
        SizeHint::with_exact(left as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// A body of these frames.
    struct Frames(VecDeque<Result<Frame<Bytes>, Status>>);

    impl HttpBody for Frames {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Ready(self.0.pop_front())
        }
    }

    fn body(pieces: &[&[u8]], end: Option<Result<Frame<Bytes>, Status>>) -> Body {
        let data = pieces.iter().map(|piece| Bytes::copy_from_slice(piece));
        let frames = data.map(|data| Ok(Frame::data(data)));
        Body::new(Frames(frames.chain(end).collect()))
    }

    /// The bytes of a body, and whether it ended well and without trailers.
    async fn drained(mut body: Body) -> (Vec<u8>, bool) {
        let (mut bytes, mut plain) = (Vec::new(), true);
        while let Some(frame) = body.frame().await {
            match frame.map(Frame::into_data) {
                Ok(Ok(data)) => bytes.extend_from_slice(&data),
                Ok(Err(_)) | Err(_) => plain = false,
            }
        }
        (bytes, plain)
    }

    /// Goal: a message is found however it was cut, and what is no plain message comes out as it
    /// went in. Method: bodies cut at every two places, and each kind of oddity.
    #[tokio::test]
    async fn plain_messages_are_taken_and_all_else_is_handed_on() {
        let whole = [0, 0, 0, 0, 3, b'a', b'b', b'c'];
        for one in 0..=whole.len() {
            for two in one..=whole.len() {
                let pieces = [&whole[..one], &whole[one..two], &whole[two..]];
                let taken = message(body(&pieces, None), 3).await;
                assert_eq!(taken.ok().as_deref(), Some(&b"abc"[..]), "{one} {two}");
            }
        }
        let odd: [&[u8]; 6] = [
            b"",
            &whole[..4],
            &whole[..7],
            &[1, 0, 0, 0, 3, b'a', b'b', b'c'],
            &[0, 0, 0, 0, 4, b'a', b'b', b'c', b'd'],
            &[0, 0, 0, 0, 3, b'a', b'b', b'c', 0],
        ];
        for bytes in odd {
            for cut in 0..=bytes.len() {
                let pieces = [&bytes[..cut], &bytes[cut..]];
                let again = message(body(&pieces, None), 3).await;
                let again = again.expect_err("it is not plain");
                assert_eq!(drained(again).await, (bytes.to_vec(), true));
            }
        }
        let trailers = || Ok(Frame::trailers(HeaderMap::new()));
        for end in [trailers(), Err(Status::cancelled("gone"))] {
            let again = message(body(&[&whole], Some(end)), 3).await;
            let again = again.expect_err("something stands behind the message");
            assert_eq!(drained(again).await, (whole.to_vec(), false));
        }
        assert_eq!(drained(again_of(b"abc")).await, (whole.to_vec(), true));
    }
}
