//! The parts of an answer of one message: its head and bytes, encoded once at their size, and its
//! good end.

use bytes::{BufMut, BytesMut};
use http::{HeaderMap, HeaderValue, Version, header::CONTENT_TYPE};
use prost::Message;
use tonic::{Status, body::Body};

use crate::api::http2::Reply;

/// Bytes in front of a message: whether it is compressed, and its length.
pub(super) const HEAD_BYTES: usize = 5;

/// A message as the short way sends it.
pub(super) fn reply(message: &impl Message) -> Result<Reply, Status> {
    let length = message.encoded_len();
    if u32::try_from(length).is_err() {
        let story = format!("an answer of {length} bytes is more than a message can hold");
        return Err(Status::resource_exhausted(story));
    }
    let mut out = BytesMut::with_capacity(HEAD_BYTES + length);
    put_head(&mut out, length);
    message.encode(&mut out).expect("a growing buffer has room");
    Ok(Reply::Message(out.freeze()))
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

/// The trailers of an answer that is no error.
pub(in crate::api) fn well() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers
}
