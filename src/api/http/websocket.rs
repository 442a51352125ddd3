//! WebSocket in front of the gateway, for browsers that want streams: what the client sends are the
//! messages of the request's body, and each line of the answer is a message to it.
//!
//! Invariants: at most one message waits in each direction; the call ends with the connection.

use std::pin::pin;

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::{body::Frame, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message, Utf8Bytes,
        handshake::derive_accept_key,
        protocol::{Role, WebSocketConfig},
    },
};
use tonic::body::Body;

use super::{TEXT, gateway, page};
use crate::{api::serve::Service, kernel::limits};

const BEARER: &str = "Bearer";
const VERSION: &str = "13";
/// JSON needs more bytes than the message it stands for.
const JSON_FACTOR: usize = 2;

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Whether a request asks for WebSocket.
pub fn is_asked(headers: &HeaderMap) -> bool {
    has_token(headers, &header::CONNECTION, "upgrade")
        && has_token(headers, &header::UPGRADE, "websocket")
}

fn has_token(headers: &HeaderMap, name: &header::HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|found| found.trim().eq_ignore_ascii_case(token))
}

/// Agrees to go on with WebSocket, and does so once the answer has been sent.
pub fn upgrade<B>(
    service: Service,
    mut request: Request<B>,
    stop: watch::Receiver<bool>,
) -> Response<Body>
where
    B: Send + 'static,
{
    let Some(accept) = accept_key(&request) else {
        let refused = page(StatusCode::BAD_REQUEST, TEXT, "Bad Request\n".to_owned());
        let mut refused = refused.map(Body::new);
        let version = HeaderValue::from_static(VERSION);
        let headers = refused.headers_mut();
        headers.insert(header::SEC_WEBSOCKET_VERSION, version);
        return refused;
    };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if protocol(request.headers()).starts_with(BEARER) {
        let bearer = HeaderValue::from_static(BEARER);
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, bearer);
    }
    let upgraded = hyper::upgrade::on(&mut request);
    let (uri, token) = (request.uri().clone(), token(request.headers()));
    tokio::spawn(async move {
        let Ok(upgraded) = upgraded.await else {
            return; // the client went away instead
        };
        let bytes_max = service.limits().request_bytes_max + limits::REQUEST_OVERHEAD_BYTES;
        let config = WebSocketConfig::default().max_message_size(Some(JSON_FACTOR * bytes_max));
        let socket = TokioIo::new(upgraded);
        let socket = WebSocketStream::from_raw_socket(socket, Role::Server, Some(config)).await;
        converse(service, socket, uri, token, stop).await;
    });
    response
}

/// What a sound request is answered with.
fn accept_key<B>(request: &Request<B>) -> Option<HeaderValue> {
    let headers = request.headers();
    let version = headers.get(header::SEC_WEBSOCKET_VERSION)?;
    let key = headers.get(header::SEC_WEBSOCKET_KEY)?;
    if request.method() != Method::GET || version != VERSION || key.is_empty() {
        return None;
    }
    HeaderValue::from_str(&derive_accept_key(key.as_bytes())).ok()
}

fn protocol(headers: &HeaderMap) -> &str {
    let protocol = headers.get(header::SEC_WEBSOCKET_PROTOCOL);
    let protocol = protocol.and_then(|value| value.to_str().ok());
    protocol.unwrap_or_default()
}

/// Who asks. Browsers cannot set headers here, so the token is named as a protocol or in a cookie.
fn token(headers: &HeaderMap) -> Option<HeaderValue> {
    let cookies = headers.get_all(header::COOKIE).iter();
    let cookie = cookies
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .find_map(|pair| pair.trim().strip_prefix("token="));
    let named = protocol(headers).split_once("Bearer,");
    let token = cookie.or(named.map(|(_, token)| token.trim_matches(' ')))?;
    HeaderValue::from_str(&format!("{BEARER} {token}")).ok()
}

/// One call of the gateway over a socket.
async fn converse(
    service: Service,
    mut socket: Socket,
    uri: Uri,
    token: Option<HeaderValue>,
    mut stop: watch::Receiver<bool>,
) {
    let (sender, pieces) = mpsc::channel(1);
    let (lines, mut answers) = mpsc::channel(1);
    let mut calling = pin!(call(service, uri, token, pieces, lines));
    let mut running = true;
    let mut piece: Option<Bytes> = None;
    loop {
        tokio::select! {
            () = &mut calling, if running => running = false,
            room = sender.reserve(), if piece.is_some() => {
                let piece = piece.take().expect("the branch is guarded");
                // Who has heard enough does not take it.
                if let Ok(room) = room {
                    room.send(piece);
                }
            }
            message = socket.next(), if piece.is_none() => match message {
                Some(Ok(Message::Text(text))) => piece = Some(text.into()),
                Some(Ok(Message::Binary(bytes))) => piece = Some(bytes),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
            },
            line = answers.recv() => match line {
                Some(line) => {
                    if socket.send(Message::Text(line)).await.is_err() {
                        return;
                    }
                }
                None => break,
            },
            () = stopped(&mut stop) => break,
        }
    }
    // A client that does not hear the goodbye misses nothing.
    let _ = socket.close(None).await;
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // Without a sender there is nothing left to serve either.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Makes the call and hands out the lines of its answer.
async fn call(
    service: Service,
    uri: Uri,
    token: Option<HeaderValue>,
    pieces: mpsc::Receiver<Bytes>,
    lines: mpsc::Sender<Utf8Bytes>,
) {
    let pieces = ReceiverStream::new(pieces);
    let pieces = pieces.map(|piece| Ok::<_, std::convert::Infallible>(Frame::data(piece)));
    let mut request = Request::new(Body::new(StreamBody::new(pieces)));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri;
    if let Some(token) = token {
        request.headers_mut().insert(header::AUTHORIZATION, token);
    }
    let mut body = gateway::answer(service, request).await.into_body();
    let mut held = BytesMut::new();
    while let Some(Ok(frame)) = body.frame().await {
        if let Ok(data) = frame.into_data() {
            held.extend_from_slice(&data);
        }
        while let Some(end) = held.iter().position(|byte| *byte == b'\n') {
            let line = held.split_to(end + 1).freeze();
            if !send(&lines, line.slice(..end)).await {
                return;
            }
        }
    }
    if !held.is_empty() {
        send(&lines, held.freeze()).await;
    }
}

/// Whether somebody is left to listen.
async fn send(lines: &mpsc::Sender<Utf8Bytes>, line: Bytes) -> bool {
    match Utf8Bytes::try_from(line) {
        Ok(line) => lines.send(line).await.is_ok(),
        Err(_) => false, // JSON is text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_as_a_protocol_or_in_a_cookie() {
        let found = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            token(&headers).map(|token| token.to_str().unwrap().to_owned())
        };
        let bearer = Some("Bearer abc".to_owned());
        assert_eq!(found("sec-websocket-protocol", "Bearer, abc"), bearer);
        assert_eq!(found("cookie", "a=b; token=abc"), bearer);
        assert_eq!(found("sec-websocket-protocol", "chat"), None);
        assert_eq!(found("cookie", "a=b"), None);
    }
}
