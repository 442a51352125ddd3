//! Streams of keep-alives the short way: from the bytes of a message to the bytes of the answer.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use http::HeaderMap;
use http_body_util::Full;
use prost::Message;
use tonic::{Code, Status, Streaming};
use tonic_prost::ProstCodec;

use super::unary;
use crate::{
    api::{
        Handle,
        handle::{Answer, Listen},
        http2::Talk,
        metrics::Counted,
        status,
    },
    kernel::{ApiError, CallId, Credentials, Request, Response},
    pb::etcdserverpb::{LeaseKeepAliveRequest, LeaseKeepAliveResponse},
};

/// One stream. Going away gives up the call on its way.
#[derive(Debug)]
pub(super) struct Keeping {
    handle: Handle,
    credentials: Credentials,
    counted: Counted,
    bytes_max: usize,
    /// What was asked last, and for which lease.
    call: Option<CallId>,
    lease: i64,
}

/// What the core made of a keep-alive. A lease that is gone is an answer, not an error.
pub(super) fn answer_of(answer: Answer, id: i64) -> Result<LeaseKeepAliveResponse, Status> {
    match answer {
        Ok(Response::LeaseKeepAlive(answer)) => Ok(answer),
        Ok(_) => Err(status::mismatch()),
        Err(ApiError::LeaseNotFound) => Ok(LeaseKeepAliveResponse {
            id,
            ..Default::default()
        }),
        Err(error) => Err(status::of(error)),
    }
}

/// What a client did that broke its stream.
pub(super) fn broken(handle: &Handle, error: &Status) -> Status {
    if error.code() != Code::Cancelled {
        let rpcs = handle.instruments().rpcs();
        rpcs.on_broken_stream("lease-keepalive");
    }
    status::of_inbound(error)
}

impl Keeping {
    /// Asks in the name of these credentials.
    pub fn new(
        handle: Handle,
        credentials: Credentials,
        counted: Counted,
        bytes_max: usize,
    ) -> Self {
        Self {
            handle,
            credentials,
            counted,
            bytes_max,
            call: None,
            lease: 0,
        }
    }

    fn fail(&mut self, status: &Status) -> HeaderMap {
        let trailers = unary::ended(status);
        self.counted.end(&trailers);
        trailers
    }

    /// What the library says of bytes that are no message, so that both ways say the same.
    fn fault(&self, bytes: &[u8]) -> Option<Status> {
        let body = Full::new(Bytes::copy_from_slice(bytes));
        let decoder = ProstCodec::<LeaseKeepAliveResponse, LeaseKeepAliveRequest>::raw_decoder(
            Default::default(),
        );
        let mut messages = Streaming::new_request(decoder, body, None, Some(self.bytes_max));
        messages.message().now_or_never()?.err()
    }

    fn odd(&mut self, bytes: &[u8]) -> HeaderMap {
        let fault = self.fault(bytes);
        let fault = fault.unwrap_or_else(|| Status::internal("a message that cannot be read"));
        self.fail(&broken(&self.handle, &fault))
    }
}

impl Talk for Keeping {
    fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    fn ask(&mut self, message: &[u8], listener: &Arc<dyn Listen>) -> Result<(), HeaderMap> {
        self.counted.received(message.len());
        let Ok(request) = LeaseKeepAliveRequest::decode(message) else {
            let mut framed = BytesMut::new();
            unary::put_head(&mut framed, message.len());
            framed.extend_from_slice(message);
            return Err(self.odd(&framed));
        };
        self.lease = request.id;
        let request = Request::LeaseKeepAlive(request);
        let listener = Arc::clone(listener);
        let asked = self.handle.ask(self.credentials.clone(), request, listener);
        self.call = Some(asked.map_err(|error| self.fail(&status::of(error)))?);
        Ok(())
    }

    fn tell(&mut self, answer: Answer, out: &mut BytesMut) -> Result<(), HeaderMap> {
        self.call = None;
        let answer = answer_of(answer, self.lease).map_err(|status| self.fail(&status))?;
        let length = answer.encoded_len();
        unary::put_head(out, length);
        // Byte by byte into a buffer that may grow is slower.
        let start = out.len();
        out.resize(start + length, 0);
        let mut room = &mut out[start..];
        answer.encode(&mut room).expect("there is as much room");
        self.counted.sent(length);
        Ok(())
    }

    fn end(&mut self, rest: &[u8]) -> HeaderMap {
        if !rest.is_empty() {
            return self.odd(rest);
        }
        let trailers = unary::well();
        self.counted.end(&trailers);
        trailers
    }
}

impl Drop for Keeping {
    fn drop(&mut self) {
        if let Some(call) = self.call {
            self.handle.cancel(call);
        }
    }
}
