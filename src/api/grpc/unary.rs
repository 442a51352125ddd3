//! The parts of an answer of one message: its head and bytes, encoded once at their size, and its
//! good end.

use std::sync::{Arc, Mutex};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Version, header::CONTENT_TYPE};
use prost::Message;
use tonic::{Status, body::Body};

use crate::api::http2::Reply;

/// Bytes in front of a message: whether it is compressed, and its length.
pub(in crate::api) const HEAD_BYTES: usize = 5;

/// A message as the short way sends it.
pub(super) fn reply(message: &impl Message) -> Result<Reply, Status> {
    let length = message.encoded_len();
    if u32::try_from(length).is_err() {
        let story = format!("an answer of {length} bytes is more than a message can hold");
        return Err(Status::resource_exhausted(story));
    }
    Ok(Reply::Message(framed_at(message, length)))
}

/// A small message with what stands before it.
pub(super) fn framed(message: &impl Message) -> Bytes {
    framed_at(message, message.encoded_len())
}

fn framed_at(message: &impl Message, length: usize) -> Bytes {
    let mut out = BytesMut::with_capacity(HEAD_BYTES + length);
    put_head(&mut out, length);
    message.encode(&mut out).expect("a growing buffer has room");
    out.freeze()
}

/// The answer with this body.
pub(super) fn response(body: Body) -> http::Response<Body> {
    let mut response = http::Response::new(body);
    *response.version_mut() = Version::HTTP_2;
    let kind = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// What stands before a message: that it is not compressed, and its length.
pub(in crate::api) fn put_head(out: &mut impl BufMut, length: usize) {
    out.put_u8(0);
    out.put_u32(u32::try_from(length).expect("the caller looked"));
}

/// The trailers of an answer that ends with this.
pub(in crate::api) fn ended(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    match status.add_header(&mut trailers) {
        Ok(()) => trailers,
        // A message that no header can carry; the code is what counts.
        Err(plain) => {
            let mut trailers = HeaderMap::new();
            let code = HeaderValue::from(plain.code() as i32);
            trailers.insert("grpc-status", code);
            trailers
        }
    }
}

/// A body in the place of the one that the library would make of a stream, as an extension of the
/// response.
#[derive(Clone)]
pub(in crate::api) struct Instead(Arc<Mutex<Option<Body>>>);

impl Instead {
    /// An answer that has this body.
    pub fn answer<T>(
        body: impl hyper::body::Body<Data = Bytes, Error = Status> + Send + 'static,
    ) -> tonic::Response<tokio_stream::Empty<T>> {
        let mut answer = tonic::Response::new(tokio_stream::empty());
        let instead = Self(Arc::new(Mutex::new(Some(Body::new(body)))));
        answer.extensions_mut().insert(instead);
        answer
    }

    /// The body to send; none if it was taken before.
    pub fn into_body(self) -> Option<Body> {
        self.0.lock().expect("no holder of the lock panics").take()
    }
}

/// The trailers of an answer that is no error.
pub(in crate::api) fn well() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers
}
