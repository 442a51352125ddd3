//! Accepts client connections and answers gRPC and plain HTTP on the same port.
//!
//! Invariants: one slow client never holds up another or the accept loop; what one connection may
//! make us hold is bounded by its HTTP/2 windows and header limits.

use std::{convert::Infallible, future::Future, io, path::PathBuf, pin::pin, time::Duration};

use http::{HeaderMap, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::watch,
};
use tonic::{Status, body::Body};

use super::{
    EdgeLimits, Handle,
    authority::{self, Forgiving},
    grpc,
    http::router,
    large::Large,
    pings::Policed,
    status,
};
use crate::kernel::ApiError;

/// Bytes a client may send ahead on one stream.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
/// Bytes a client may send ahead on one connection.
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// Bytes of answers buffered per stream before its producer has to wait.
const SEND_BUFFER_BYTES: usize = 64 * 1024;
/// Bytes of all headers of one request.
const HEADERS_BYTES_MAX: u32 = 64 * 1024;
/// Calls a client may have given up before we looked at them; one more ends its connection. A burst
/// of time-outs at a busy moment is no attack, and each costs only a little memory.
const RESETS_WAITING_MAX: usize = 4096;
/// How long a client may take to send the headers of a plain request.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(300);
/// The pause after a failed accept, for example when there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A socket clients connect to.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A unix socket, and its file, which is removed at the end.
    Unix(UnixListener, PathBuf),
}

/// What a socket serves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Traffic {
    /// gRPC and plain HTTP on one port.
    Both,
    /// gRPC only; anything else is told so.
    Grpc,
    /// Plain HTTP only.
    Http,
    /// Figures and health only.
    Figures,
}

/// The service of the client port. Must be made inside the runtime.
#[derive(Clone)]
pub struct Service {
    handle: Handle,
    services: grpc::Services,
    traffic: Traffic,
}

impl Service {
    /// Everything the core behind the handle offers.
    pub fn new(handle: Handle) -> Self {
        let services = grpc::Services::new(&handle);
        Self {
            handle,
            services,
            traffic: Traffic::Both,
        }
    }

    /// The same services behind a socket for other traffic.
    pub fn only(&self, traffic: Traffic) -> Self {
        Self {
            traffic,
            ..self.clone()
        }
    }

    /// The way to the core.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// What the edge checks by itself.
    pub fn limits(&self) -> &EdgeLimits {
        self.handle.limits()
    }

    /// Serves connections until `stop` turns true; then lets each finish what it is doing.
    pub async fn serve(self, listener: Listener, mut stop: watch::Receiver<bool>) {
        loop {
            let stopped = stop.wait_for(|stop| *stop);
            let accepted = tokio::select! {
                accepted = accept(&listener) => accepted,
                _ = stopped => break,
            };
            let stop = stop.clone();
            match accepted {
                Ok(Socket::Tcp(socket)) => self.spawn(socket, stop),
                Ok(Socket::Unix(socket)) => self.spawn(socket, stop),
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
        if let Listener::Unix(_, path) = &listener {
            // Someone may have removed it already, which is what we want.
            let _ = std::fs::remove_file(path);
        }
    }

    fn spawn<S>(&self, socket: S, stop: watch::Receiver<bool>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        tokio::spawn(self.clone().connection(socket, stop));
    }

    /// Serves one connection to its end.
    async fn connection<S>(self, socket: S, mut stop: watch::Receiver<bool>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let limits = self.handle.limits().clone();
        let apart_min = limits.keepalive_min_time;
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADERS_TIMEOUT)
            .title_case_headers(true);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.streams_max)
            .keep_alive_interval(limits.keepalive_interval)
            .keep_alive_timeout(limits.keepalive_timeout)
            .max_frame_size(authority::FRAME_BYTES_MAX)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_header_list_size(HEADERS_BYTES_MAX)
            .max_pending_accept_reset_streams(RESETS_WAITING_MAX)
            .max_send_buf_size(SEND_BUFFER_BYTES);
        let stopping = stop.clone();
        let service = hyper::service::service_fn(move |request| {
            let (service, stop) = (self.clone(), stopping.clone());
            async move { Ok::<_, Infallible>(service.answer(request, stop).await) }
        });
        let socket = TokioIo::new(Forgiving::new(Policed::new(socket, apart_min)));
        let mut connection = pin!(builder.serve_connection_with_upgrades(socket, service));
        // A connection that breaks is the client's affair; its calls are cancelled as they drop.
        tokio::select! {
            _ = connection.as_mut() => return,
            _ = stop.wait_for(|stop| *stop) => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    }

    async fn answer(
        self,
        request: Request<Incoming>,
        stop: watch::Receiver<bool>,
    ) -> Response<Body> {
        match (self.traffic, is_grpc(request.headers())) {
            (Traffic::Both | Traffic::Grpc, true) => self.grpc(request.map(Body::new)).await,
            (Traffic::Figures, _) => router::figures(&self.handle, &request).await,
            (Traffic::Both | Traffic::Http, _) => router::answer(self, request, stop).await,
            (Traffic::Grpc, false) => unsupported(),
        }
    }

    /// Answers a gRPC call, whoever makes it: a client by the network, or the JSON gateway.
    pub async fn grpc(self, request: Request<Body>) -> Response<Body> {
        let rpcs = self.handle.instruments().rpcs().clone();
        rpcs.count(request, |request| self.call(request)).await
    }

    async fn call(self, request: Request<Body>) -> Response<Body> {
        let timeout = grpc_timeout(request.headers());
        let uri = request.uri().clone();
        let answering = self.services.answer(request);
        let Some(response) = within(timeout, answering).await else {
            return status::of(ApiError::DeadlineExceeded).into_http();
        };
        let Ok(mut response) = response;
        status::reword_headers(response.headers_mut());
        status::name_missing(response.headers_mut(), uri.path(), grpc::SERVED);
        let large = response.extensions_mut().remove::<Large>();
        if let Some(body) = large.and_then(Large::into_body) {
            *response.body_mut() = body;
        }
        response
    }
}

/// What gRPC says to those who speak something else.
fn unsupported() -> Response<Body> {
    let mut response = Status::unknown("invalid gRPC request content-type").into_http();
    *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    response
}

async fn within<F: Future>(timeout: Option<Duration>, future: F) -> Option<F::Output> {
    match timeout {
        None => Some(future.await),
        Some(timeout) => tokio::time::timeout(timeout, future).await.ok(),
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(http::header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// The client's deadline: up to eight digits and a unit. Anything else is no deadline.
pub(super) fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

enum Socket {
    Tcp(tokio::net::TcpStream),
    Unix(tokio::net::UnixStream),
}

async fn accept(listener: &Listener) -> io::Result<Socket> {
    match listener {
        Listener::Tcp(listener) => {
            let (socket, _) = listener.accept().await?;
            socket.set_nodelay(true)?;
            Ok(Socket::Tcp(socket))
        }
        Listener::Unix(listener, _) => Ok(Socket::Unix(listener.accept().await?.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_read_as_grpc_writes_them() {
        let read = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", http::HeaderValue::from_static(text));
            grpc_timeout(&headers)
        };
        assert_eq!(read("5S"), Some(Duration::from_secs(5)));
        assert_eq!(read("200m"), Some(Duration::from_millis(200)));
        assert_eq!(read("99999999n"), Some(Duration::from_nanos(99_999_999)));
        assert_eq!(read("1H"), Some(Duration::from_secs(3600)));
        for wrong in ["", "S", "5", "5s", "123456789S", "-1S", "1.5S"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        assert_eq!(grpc_timeout(&HeaderMap::new()), None);
    }
}
