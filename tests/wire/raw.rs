//! Clients below gRPC: bare HTTP/2 requests, and bare sockets.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::{Code, Status};

/// How long any answer may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// One HTTP/2 connection.
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    address: String,
}

/// What came back: the HTTP status, headers and trailers together, and the body.
#[derive(Debug)]
pub struct Answer {
    pub http: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Connection {
    /// Connects.
    pub async fn open(address: &str) -> Self {
        let socket = TcpStream::connect(address).await.expect("a connection");
        let handshake = http2::Builder::new(TokioExecutor::new()).handshake(TokioIo::new(socket));
        let (sender, connection) = handshake.await.expect("a handshake");
        tokio::spawn(connection);
        Self {
            sender,
            address: address.to_owned(),
        }
    }

    /// Sends one request whole and waits for the whole answer. An error is the transport's.
    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Answer, String> {
        let work = async {
            self.sender
                .ready()
                .await
                .map_err(|error| error.to_string())?;
            let response = self.sender.send_request(request).await;
            let response = response.map_err(|error| format!("{error:?}"))?;
            let (head, body) = response.into_parts();
            let body = body.collect().await.map_err(|error| format!("{error:?}"))?;
            let mut headers = head.headers;
            if let Some(trailers) = body.trailers() {
                headers.extend(trailers.clone());
            }
            Ok(Answer {
                http: head.status,
                headers,
                body: body.to_bytes(),
            })
        };
        let answer = tokio::time::timeout(PATIENCE, work).await;
        answer.unwrap_or_else(|_| Err("no answer in time".to_owned()))
    }

    /// A gRPC call with this body, frames and all, and these headers on top of the usual ones.
    pub fn grpc(&self, path: &str, headers: &[(&str, &[u8])], body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://{}{path}", self.address))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in headers {
            let value = http::HeaderValue::from_bytes(value).expect("bytes of a header");
            request = request.header(*name, value);
        }
        request.body(Full::new(body)).expect("a request")
    }

    /// Calls with one message of these bytes; gives what gRPC says about it.
    pub async fn call(&mut self, path: &str, message: &[u8]) -> (Code, String) {
        let request = self.grpc(path, &[], framed(0, message));
        self.send(request).await.expect("an answer").grpc()
    }
}

impl Answer {
    /// Code and text of gRPC's status.
    pub fn grpc(&self) -> (Code, String) {
        let status = Status::from_header_map(&self.headers);
        let status = status.unwrap_or_else(|| panic!("no gRPC status: {self:?}"));
        (status.code(), status.message().to_owned())
    }

    /// The messages of the body.
    pub fn messages(&self) -> usize {
        let mut rest = &self.body[..];
        let mut count = 0;
        while let Some((head, tail)) = rest.split_first_chunk::<5>() {
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
            rest = &tail[length as usize..];
            count += 1;
        }
        count
    }
}

/// A message in gRPC's frame.
pub fn framed(flags: u8, message: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(message.len() + 5);
    out.put_u8(flags);
    out.put_u32(u32::try_from(message.len()).expect("a small message"));
    out.put_slice(message);
    out.freeze()
}

/// Writes bytes to a new socket and reads until the other side closes or is silent for a while.
/// Whatever happens on the socket is fine: the caller looks at the server.
pub async fn blurt(address: &str, bytes: &[u8]) -> Vec<u8> {
    let mut answer = Vec::new();
    let work = async {
        let mut socket = TcpStream::connect(address).await?;
        socket.write_all(bytes).await?;
        let mut buffer = [0; 4096];
        loop {
            let silence = Duration::from_millis(200);
            let Ok(read) = tokio::time::timeout(silence, socket.read(&mut buffer)).await else {
                return Ok(());
            };
            match read? {
                0 => return std::io::Result::Ok(()),
                length => answer.extend_from_slice(&buffer[..length]),
            }
        }
    };
    // A reset by the server is one of the right answers to junk.
    let _ = work.await;
    answer
}
