//! A gRPC client that takes little of the machine it shares with the server.
//!
//! Bodies are its own bytes, answers are counted and thrown away unless somebody asks for them, and
//! one task per connection writes whatever its callers have ready in one go.
//! Invariant: a call is fine only if its status said so; an answer that was cut off is a failure.

use std::{future::poll_fn, marker::PhantomData};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::{
    RecvStream, SendStream,
    client::{Builder, ResponseFuture, SendRequest},
};
use http::{HeaderMap, Request};
use prost::Message;
use tokio::net::TcpStream;

/// What a stream lets the server send ahead, as long-lived clients of etcd come to grant.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
/// The same of all streams of a connection together.
const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
/// Calls of one connection before the server has said how many it takes.
const STREAMS_AT_FIRST: usize = 1 << 20;
/// What stands before each message of gRPC: a flag and the length.
const PREFIX_BYTES: usize = 5;

/// A method of the API: its path, and the types of question and answer.
pub struct Method<Q, A> {
    path: &'static str,
    types: PhantomData<fn(Q) -> A>,
}

impl<Q, A> Method<Q, A> {
    /// Names a method by its path.
    pub const fn new(path: &'static str) -> Self {
        Self {
            path,
            types: PhantomData,
        }
    }
}

/// A message as it travels: prefix and bytes.
pub fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(PREFIX_BYTES + length);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).expect("requests are short"));
    message.encode(&mut bytes).expect("there is room");
    bytes.freeze()
}

/// A handle on a connection; clones share it.
#[derive(Clone)]
pub struct Conn {
    send: SendRequest<Bytes>,
    /// What every request begins with; its path is replaced.
    template: Request<()>,
    origin: String,
    path: &'static str,
}

impl Conn {
    /// Connects to `http://HOST:PORT`.
    pub async fn open(endpoint: &str) -> Result<Self, String> {
        let authority = endpoint.strip_prefix("http://").unwrap_or(endpoint);
        let io = TcpStream::connect(authority).await.map_err(text)?;
        io.set_nodelay(true).map_err(text)?;
        let mut builder = Builder::new();
        builder
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .initial_max_send_streams(STREAMS_AT_FIRST)
            .max_send_buffer_size(CONNECTION_WINDOW_BYTES as usize);
        let (send, connection) = builder.handshake::<_, Bytes>(io).await.map_err(text)?;
        // Whoever waits for an answer on it learns of its end.
        tokio::spawn(async move { connection.await.ok() });
        let template = Request::post("/")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .map_err(text)?;
        Ok(Self {
            send,
            template,
            origin: format!("http://{authority}"),
            path: "",
        })
    }

    /// Asks, and decodes the answer.
    pub async fn ask<Q: Message, A: Message + Default>(
        &mut self,
        method: &Method<Q, A>,
        question: &Q,
    ) -> Result<A, String> {
        let mut body = self.begin(method.path, frame(question), true).await?;
        let mut held = BytesMut::new();
        while let Some(chunk) = body.chunk().await? {
            held.extend_from_slice(&chunk);
        }
        body.finish().await?;
        if held.len() < PREFIX_BYTES {
            return Err("an answer without a message".to_owned());
        }
        A::decode(&held[PREFIX_BYTES..]).map_err(text)
    }

    /// Asks with a body that is encoded already, and counts the bytes of the answer.
    pub async fn count<Q, A>(&mut self, method: &Method<Q, A>, body: Bytes) -> Result<u64, String> {
        let mut body = self.begin(method.path, body, true).await?;
        let mut bytes = 0;
        while let Some(chunk) = body.chunk().await? {
            bytes += chunk.len() as u64;
        }
        body.finish().await?;
        Ok(bytes)
    }

    /// Opens a stream in both directions, with its first message.
    pub async fn stream<Q, A>(
        &mut self,
        method: &Method<Q, A>,
        first: Bytes,
    ) -> Result<Stream<Q, A>, String> {
        let body = self.begin(method.path, first, false).await?;
        Ok(Stream {
            body,
            held: BytesMut::new(),
            types: PhantomData,
        })
    }

    async fn begin(&mut self, path: &'static str, body: Bytes, last: bool) -> Result<Body, String> {
        if !std::ptr::eq(self.path, path) {
            let uri = format!("{}{path}", self.origin);
            *self.template.uri_mut() = uri.parse().map_err(text)?;
            self.path = path;
        }
        poll_fn(|cx| self.send.poll_ready(cx)).await.map_err(text)?;
        let request = self.template.clone();
        let (answer, mut send) = self.send.send_request(request, false).map_err(text)?;
        send.send_data(body, last).map_err(text)?;
        Ok(Body {
            send,
            head: Some(answer),
            body: None,
            status: None,
        })
    }
}

/// An answer on its way.
struct Body {
    /// Kept, because a stream whose sending half is gone is given up.
    send: SendStream<Bytes>,
    head: Option<ResponseFuture>,
    body: Option<RecvStream>,
    /// The status of an answer that has no body.
    status: Option<Result<(), String>>,
}

impl Body {
    async fn chunk(&mut self) -> Result<Option<Bytes>, String> {
        if let Some(head) = self.head.take() {
            let (head, body) = head.await.map_err(text)?.into_parts();
            self.status = status(&head.headers);
            self.body = Some(body);
        }
        let body = self.body.as_mut().expect("the head is there");
        match body.data().await {
            None => Ok(None),
            Some(Err(error)) => Err(text(error)),
            Some(Ok(chunk)) => {
                let flow = body.flow_control();
                flow.release_capacity(chunk.len()).map_err(text)?;
                Ok(Some(chunk))
            }
        }
    }

    /// The status behind the last chunk.
    async fn finish(mut self) -> Result<(), String> {
        if let Some(status) = self.status.take() {
            return status;
        }
        let body = self.body.as_mut().expect("the body was read");
        let trailers = body.trailers().await.map_err(text)?;
        trailers
            .as_ref()
            .and_then(status)
            .unwrap_or_else(|| Err("an answer without a status".to_owned()))
    }
}

/// The status in these headers.
fn status(headers: &HeaderMap) -> Option<Result<(), String>> {
    let code = headers.get("grpc-status")?;
    if code == "0" {
        return Some(Ok(()));
    }
    let message = headers.get("grpc-message").map(|value| value.as_bytes());
    let message = String::from_utf8_lossy(message.unwrap_or_default()).into_owned();
    Some(Err(format!("status {code:?}: {message}")))
}

/// A stream in both directions.
pub struct Stream<Q, A> {
    body: Body,
    held: BytesMut,
    types: PhantomData<fn(Q) -> A>,
}

impl<Q: Message, A: Message + Default> Stream<Q, A> {
    /// Sends one more message.
    pub fn send(&mut self, message: &Q) -> Result<(), String> {
        let framed = frame(message);
        self.body.send.send_data(framed, false).map_err(text)
    }

    /// The next message.
    pub async fn next(&mut self) -> Result<A, String> {
        A::decode(self.raw().await?).map_err(text)
    }

    /// The next message as bytes.
    pub async fn raw(&mut self) -> Result<Bytes, String> {
        loop {
            if let Some(message) = cut(&mut self.held) {
                return Ok(message);
            }
            match self.body.chunk().await? {
                Some(chunk) => self.held.extend_from_slice(&chunk),
                None => return Err("the stream ended".to_owned()),
            }
        }
    }
}

/// Takes a whole message off the front.
fn cut(held: &mut BytesMut) -> Option<Bytes> {
    let prefix = held.get(1..PREFIX_BYTES)?;
    let length = u32::from_be_bytes(prefix.try_into().expect("four bytes")) as usize;
    if held.len() < PREFIX_BYTES + length {
        return None;
    }
    held.advance(PREFIX_BYTES);
    Some(held.split_to(length).freeze())
}

/// An error as its text.
pub fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
