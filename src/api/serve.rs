//! Accepts client connections and answers gRPC and plain HTTP on the same port.
//!
//! Invariants: one slow client never holds up another or the accept loop; what one connection may
//! make us hold is bounded by its HTTP/2 windows and header limits.

use std::{
    convert::Infallible, future::Future, io, path::PathBuf, pin::pin, sync::Arc, time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::watch,
};
use tonic::{Status, body::Body};

use super::{
    EdgeLimits, Handle,
    grpc::{self, unary::Instead},
    http::router,
    http2,
    large::Large,
    resumed::Resumed,
    status,
};
use crate::kernel::ApiError;

/// Bytes of the first read of a connection.
const BEGINNING_BYTES: usize = 1024;
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
    async fn connection<S>(self, mut socket: S, mut stop: watch::Receiver<bool>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let began = tokio::select! {
            began = tokio::time::timeout(HEADERS_TIMEOUT, beginning(&mut socket)) => began,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        let Ok(Ok(began)) = began else {
            return; // a client that went, or never said anything
        };
        if began.starts_with(http2::PREFACE) {
            let limits = self.handle.limits();
            let rules = http2::Rules {
                streams_max: limits.streams_max,
                ping_apart_min: limits.keepalive_min_time,
                ping_after: limits.keepalive_interval,
                ping_patience: limits.keepalive_timeout,
            };
            http2::serve(
                socket,
                began,
                Connection::new(self, stop.clone()),
                rules,
                stop,
            )
            .await;
            return;
        }
        self.plain(Resumed::new(socket, began), stop).await;
    }

    /// Serves a connection of HTTP/1 to its end.
    async fn plain<S>(self, socket: S, mut stop: watch::Receiver<bool>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(HEADERS_TIMEOUT)
            .title_case_headers(true);
        let stopping = stop.clone();
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let (service, stop) = (self.clone(), stopping.clone());
            let request = request.map(Body::new);
            async move { Ok::<_, Infallible>(service.answer(request, stop).await) }
        });
        let connection = builder.serve_connection(TokioIo::new(socket), service);
        let mut connection = pin!(connection.with_upgrades());
        // A connection that breaks is the client's affair; its calls are cancelled as they drop.
        tokio::select! {
            _ = connection.as_mut() => return,
            _ = stop.wait_for(|stop| *stop) => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    }

    async fn answer(self, request: Request<Body>, stop: watch::Receiver<bool>) -> Response<Body> {
        match (self.traffic, is_grpc(request.headers())) {
            (Traffic::Both | Traffic::Grpc, true) => self.grpc(request).await,
            (Traffic::Figures, _) => router::figures(&self.handle, request).await,
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
        let instead = response.extensions_mut().remove::<Instead>();
        if let Some(body) = instead.and_then(Instead::into_body) {
            *response.body_mut() = body;
        }
        response
    }
}

/// The services as one connection uses them.
#[derive(Clone)]
struct Connection(Arc<(Service, watch::Receiver<bool>)>);

impl Connection {
    fn new(service: Service, stop: watch::Receiver<bool>) -> Self {
        Self(Arc::new((service, stop)))
    }
}

impl http2::Serve for Connection {
    type Plan = grpc::Plan;

    fn plan(&self, head: &http2::Head) -> Option<grpc::Plan> {
        let (service, _) = &*self.0;
        let takes_grpc = matches!(service.traffic, Traffic::Both | Traffic::Grpc);
        match takes_grpc && is_grpc(&head.headers) {
            true => service.services.plan(head),
            false => None,
        }
    }

    fn begin(
        &self,
        plan: &grpc::Plan,
        message: Bytes,
    ) -> Result<impl Future<Output = http2::Reply> + Send + 'static, Bytes> {
        self.0.0.services.begin(plan, message)
    }

    fn talk(&self, plan: &grpc::Plan) -> Option<Box<dyn http2::Talk>> {
        self.0.0.services.talk(plan)
    }

    fn answer(
        &self,
        request: Request<Body>,
    ) -> impl Future<Output = Response<Body>> + Send + 'static {
        let (service, stop) = &*self.0;
        service.clone().answer(request, stop.clone())
    }
}

/// Reads until it is clear whether a client speaks HTTP/2.
async fn beginning(socket: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut began = Vec::with_capacity(BEGINNING_BYTES);
    loop {
        let seen = began.len().min(http2::PREFACE.len());
        if seen == http2::PREFACE.len() || began[..seen] != http2::PREFACE[..seen] {
            return Ok(began);
        }
        if socket.read_buf(&mut began).await? == 0 {
            return Ok(began); // what it is too short for is for HTTP/1 to say
        }
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
