//! The JSON gateway: each path below `/v3/` is a call of a gRPC service of this process, so that
//! checks, limits and figures are the same.
//!
//! Invariants: nothing is known here about any single message; a stream's messages leave one by one
//! as the client takes them, and its call ends when the client goes.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header,
    header::Entry, uri::PathAndQuery,
};
use http_body_util::{Full, StreamBody};
use hyper::body::Frame;
use prost_reflect::{DynamicMessage, MethodDescriptor};
use serde_json::json;
use tokio::{
    sync::mpsc,
    time::{Sleep, sleep},
};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Code, Status, Streaming, body::Body, client::Grpc, metadata::MetadataMap};

use super::{
    json::{self, AnyCodec, Messages},
    paths,
};
use crate::{
    api::{
        serve::{self, Service},
        status,
    },
    kernel::{ApiError, limits},
};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// Headers with this in front are metadata of the call, and metadata of the answer get it.
const METADATA: &str = "grpc-metadata-";
/// How many bytes of JSON a byte of a message may need. Base64 and names take less.
const JSON_FACTOR: usize = 2;

/// Answers a request whose path begins with `/v3/`.
pub async fn answer(service: Service, request: Request<Body>) -> Response<Body> {
    let Some((name, method)) = paths::find(request.uri().path()) else {
        return refused(&Status::not_found("Not Found"));
    };
    if request.method() != Method::POST {
        return refused(&Status::unimplemented("Method Not Allowed"));
    }
    let method = json::method(name, method).expect("a test looks all paths up");
    let patience = match patience(request.headers()) {
        Ok(patience) => patience,
        Err(status) => return refused(&status),
    };
    let call = Call::new(service, method, patience, request.headers());
    let limits = call.service.limits();
    let bytes_max = JSON_FACTOR * (limits.request_bytes_max + limits::REQUEST_OVERHEAD_BYTES);
    let messages = Messages::new(request.into_body(), call.method.input(), bytes_max);
    match (
        call.method.is_client_streaming(),
        call.method.is_server_streaming(),
    ) {
        (true, _) => call.duplex(messages).await,
        (false, true) => call.download(messages).await,
        (false, false) => call.unary(messages).await,
    }
    .unwrap_or_else(|status| refused(&status))
}

/// One call of a service.
struct Call {
    service: Service,
    method: MethodDescriptor,
    patience: Option<Duration>,
    metadata: MetadataMap,
}

impl Call {
    fn new(
        service: Service,
        method: MethodDescriptor,
        patience: Option<Duration>,
        headers: &HeaderMap,
    ) -> Self {
        Self {
            service,
            method,
            patience,
            metadata: metadata(headers),
        }
    }

    async fn unary(self, mut messages: Messages) -> Result<Response<Body>, Status> {
        let message = self.only(&mut messages).await?;
        // What follows the message is not looked at, as in etcd.
        drop(messages);
        let (mut grpc, path, codec) = self.parts();
        let answer = grpc.unary(self.request(message), path, codec).await?;
        let (metadata, message, _) = answer.into_parts();
        let mut body = Vec::new();
        json::encode(&message, &mut body);
        let mut response = Response::new(Body::new(Full::new(Bytes::from(body))));
        response.headers_mut().insert(header::CONTENT_TYPE, JSON);
        tell_metadata(metadata, response.headers_mut());
        Ok(response)
    }

    /// One message in, a stream out.
    async fn download(self, mut messages: Messages) -> Result<Response<Body>, Status> {
        let message = self.only(&mut messages).await?;
        Ok(self.streamed(tokio_stream::once(message)).await)
    }

    /// Streams both ways at the same time. A client that has ended its side still gets answers, and
    /// so does one that sent nonsense.
    async fn duplex(self, mut messages: Messages) -> Result<Response<Body>, Status> {
        let (sender, requests) = mpsc::channel(1);
        tokio::spawn(async move {
            loop {
                let message = tokio::select! {
                    message = messages.next() => message,
                    () = sender.closed() => return,
                };
                let Ok(Some(message)) = message else { return };
                if sender.send(message).await.is_err() {
                    return;
                }
            }
        });
        Ok(self.streamed(ReceiverStream::new(requests)).await)
    }

    async fn streamed(
        self,
        requests: impl Stream<Item = DynamicMessage> + Send + 'static,
    ) -> Response<Body> {
        let (mut grpc, path, codec) = self.parts();
        let mut deadline = self.patience.map(|patience| Box::pin(sleep(patience)));
        let answer = grpc.streaming(self.request(requests), path, codec).await;
        let (metadata, mut messages) = match answer {
            Ok(answer) => {
                let (metadata, messages, _) = answer.into_parts();
                (metadata, messages)
            }
            Err(status) => return failed(&status),
        };
        // The code of the answer depends on how the stream begins.
        let first = tokio::select! {
            first = messages.message() => first,
            () = passed(&mut deadline) => Err(late()),
        };
        let first = match first {
            Ok(first) => first.map(|message| line(&message)),
            Err(status) => return failed(&status),
        };
        let lines = StreamBody::new(Lines {
            first,
            messages: Some(messages),
            deadline,
        });
        let mut response = Response::new(Body::new(lines));
        response.headers_mut().insert(header::CONTENT_TYPE, JSON);
        tell_metadata(metadata, response.headers_mut());
        response
    }

    /// The one message of a request. An empty body is an empty message.
    async fn only(&self, messages: &mut Messages) -> Result<DynamicMessage, Status> {
        let message = messages.next().await?;
        Ok(message.unwrap_or_else(|| DynamicMessage::new(self.method.input())))
    }

    fn request<T>(&self, message: T) -> tonic::Request<T> {
        tonic::Request::from_parts(self.metadata.clone(), Default::default(), message)
    }

    fn parts(&self) -> (Grpc<Near>, PathAndQuery, AnyCodec) {
        let path = format!(
            "/{}/{}",
            self.method.parent_service().full_name(),
            self.method.name()
        );
        let path = PathAndQuery::try_from(path).expect("names of services are plain");
        let grpc = Grpc::new(Near(self.service.clone()))
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX);
        (grpc, path, AnyCodec(self.method.output()))
    }
}

/// The services of this process, as a client reaches those of another.
#[derive(Clone)]
struct Near(Service);

impl tower::Service<Request<Body>> for Near {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let service = self.0.clone();
        Box::pin(async move { Ok(service.grpc(request).await) })
    }
}

/// The messages of an answer, a line each, and the failure that ended them.
struct Lines {
    first: Option<Bytes>,
    /// None when they have ended.
    messages: Option<Streaming<DynamicMessage>>,
    deadline: Deadline,
}

impl Stream for Lines {
    type Item = Result<Frame<Bytes>, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        let Some(messages) = &mut self.messages else {
            return Poll::Ready(None);
        };
        let line = match Pin::new(messages).poll_next(cx) {
            Poll::Ready(Some(Ok(message))) => line(&message),
            Poll::Ready(Some(Err(status))) => {
                self.messages = None;
                error_line(&status)
            }
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => {
                let deadline = self.deadline.as_mut().map(|at| at.as_mut().poll(cx));
                if !matches!(deadline, Some(Poll::Ready(()))) {
                    return Poll::Pending;
                }
                // With the messages goes their call.
                self.messages = None;
                error_line(&late())
            }
        };
        Poll::Ready(Some(Ok(Frame::data(line))))
    }
}

/// When a stream must end, if ever.
type Deadline = Option<Pin<Box<Sleep>>>;

async fn passed(deadline: &mut Deadline) {
    match deadline {
        Some(at) => at.as_mut().await,
        None => std::future::pending().await,
    }
}

fn late() -> Status {
    status::of(ApiError::DeadlineExceeded)
}

/// How long the client waits, if it says so.
fn patience(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(given) = headers.get("grpc-timeout") else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(given.as_bytes());
    let refused = || Status::invalid_argument(format!("invalid grpc-timeout: {text}"));
    serve::grpc_timeout(headers).map(Some).ok_or_else(refused)
}

fn line(message: &DynamicMessage) -> Bytes {
    let mut line = br#"{"result":"#.to_vec();
    json::encode(message, &mut line);
    line.extend_from_slice(b"}\n");
    line.into()
}

fn error_line(status: &Status) -> Bytes {
    let error = json!({ "error": told(status) });
    format!("{error}\n").into()
}

/// A status as JSON. What is empty is left out, as in every message.
fn told(status: &Status) -> serde_json::Value {
    let mut told = json!({ "code": status.code() as i32 });
    if !status.message().is_empty() {
        told["message"] = json!(status.message());
    }
    told
}

/// The answer to a call that failed.
fn refused(status: &Status) -> Response<Body> {
    let mut response = whole(status, told(status).to_string().into());
    if status.code() == Code::Unauthenticated
        && let Ok(text) = HeaderValue::from_str(status.message())
    {
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, text);
    }
    response
}

/// The answer to a stream that failed before its first message.
fn failed(status: &Status) -> Response<Body> {
    whole(status, error_line(status))
}

fn whole(status: &Status, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(body)));
    *response.status_mut() = http_code(status.code());
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response
}

fn http_code(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::Cancelled => StatusCode::from_u16(499).expect("three digits"),
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => {
            StatusCode::BAD_REQUEST
        }
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
    }
}

/// What of a request's headers belongs to the call: who asks, how long it may take, and whatever
/// the client names as metadata.
fn metadata(headers: &HeaderMap) -> MetadataMap {
    let mut metadata = HeaderMap::new();
    for (name, value) in headers {
        let name = match name.as_str().strip_prefix(METADATA) {
            Some(name) => HeaderName::try_from(name).ok().filter(is_free),
            None if *name == header::AUTHORIZATION || *name == "grpc-timeout" => Some(name.clone()),
            None => None,
        };
        if let Some(name) = name
            && let Entry::Vacant(entry) = metadata.entry(name)
        {
            entry.insert(value.clone());
        }
    }
    MetadataMap::from_headers(metadata)
}

/// Whether gRPC and HTTP leave a name to its users.
fn is_free(name: &HeaderName) -> bool {
    let taken = ["content-type", "te", "user-agent", "host", "connection"];
    let name = name.as_str();
    !taken.contains(&name) && !name.starts_with("grpc-") && !name.ends_with("-bin")
}

fn tell_metadata(metadata: MetadataMap, headers: &mut HeaderMap) {
    for (name, value) in &metadata.into_headers() {
        let name = name.as_str();
        if name.starts_with("grpc-") {
            continue;
        }
        if let Ok(name) = HeaderName::try_from(format!("{METADATA}{name}")) {
            headers.append(name, value.clone());
        }
    }
}
