//! HTTP/2 for clients (RFC 9113), made for many small calls.
//!
//! A general library spends about half of a read's processor time on what such calls do not need:
//! maps of headers, a body as a stream, several tasks and buffers for each call. Here the frames
//! of a connection are taken from one read as they lie; a header block that is the same as the one
//! before is not decoded again; a call of one message each way (`Serve::plan`) is gathered, asked
//! and answered without a request being made of it; a stream of small messages that are answered in
//! turn (`Serve::talk`) needs no task; and all answers that are ready leave with one
//! write. Everything else becomes a `Request` with a body and is answered in the general way.
//!
//! `driver` reads frames and writes what is ready, `frames` says what each frame means, `state` is
//! what driver and answering tasks share, `answering` sends, `inbound` is the body of a request,
//! `talk` a stream that goes the short way.
//!
//! Invariants:
//! - A frame that must not be there ends its stream or the connection with the reason that the
//!   rule names; no bytes make it panic.
//! - What one connection can make us hold is bounded by its windows, by the length of a header
//!   block and by `state::OUT_BYTES_MAX`; who does not read is not read from.
//! - Between two reads of one connection all other tasks get their turn.

mod answering;
mod driver;
mod frame;
mod frames;
mod head;
mod hpack;
mod huffman;
mod inbound;
mod outbox;
mod police;
mod state;
mod talk;

use std::{future::Future, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};
use tonic::body::Body;

pub use self::{head::Head, talk::Talk};

/// What a client says first.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes a client may send ahead on one stream.
pub(super) const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
/// Bytes a client may send ahead on one connection.
pub(super) const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// What answers requests.
pub trait Serve: Clone + Send + 'static {
    /// How a call goes the short way.
    type Plan: Send + Sync + 'static;

    /// How a call with this head may go the short way, if it may. The same head gives the same
    /// plan for as long as the connection lasts.
    fn plan(&self, head: &Head) -> Option<Self::Plan>;

    /// Begins a planned call with its only message; one that must go the general way comes back.
    fn begin(
        &self,
        plan: &Self::Plan,
        message: Bytes,
    ) -> Result<impl Future<Output = Reply> + Send + 'static, Bytes>;

    /// Begins a planned call that is a stream, each message of which is answered in turn.
    fn talk(&self, plan: &Self::Plan) -> Option<Box<dyn Talk>>;

    /// Answers any request.
    fn answer(
        &self,
        request: Request<Body>,
    ) -> impl Future<Output = Response<Body>> + Send + 'static;
}

/// What a planned call comes to.
#[derive(Debug)]
pub enum Reply {
    /// One message, with its five bytes in front, and a good end.
    Message(Bytes),
    /// Anything else.
    Response(Box<Response<Body>>),
}

/// How clients are treated.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Calls that one client may have open.
    pub streams_max: u32,
    /// Pings of a client must be this far apart.
    pub ping_apart_min: Duration,
    /// A client that is silent for so long is pinged.
    pub ping_after: Option<Duration>,
    /// And has so long to answer.
    pub ping_patience: Duration,
}

/// A head that was read, and how a call with it goes.
#[derive(Debug)]
struct Prepared<P> {
    head: Head,
    plan: Option<P>,
}

/// Serves a connection to its end. `began` was read from it already, the preface and perhaps more.
/// Once `stop` turns true, calls that have begun are finished and no others begin.
pub async fn serve<S, V>(
    socket: S,
    began: Vec<u8>,
    service: V,
    rules: Rules,
    stop: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    V: Serve,
{
    driver::Driver::new(socket, began, service, rules)
        .run(stop)
        .await;
}

#[cfg(test)]
mod tests;
