//! What is counted about RPCs: calls begun and ended by method and code, messages and bytes each
//! way, under the names that Go's gRPC servers use.
//!
//! Every method that etcd has is known from the start with zeros, as rates need a first value.
//! Paths we do not know are not counted, or anybody could make us keep names.
//! Invariant: a call that began ends once: by its trailers, by a refusal in its headers, or because
//! nobody waits for it any more, which counts as cancelled.

mod body;
mod methods;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, OnceLock},
    time::Instant,
};

use http::{HeaderMap, Request, Response};
use opentelemetry::trace::FutureExt;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry,
};
use tonic::body::Body;

use self::{
    body::Metered,
    methods::{CODES, METHODS, Shape},
};
use super::{Detail, register};
use crate::api::trace::{Span, Tracer};

/// Versions that clients say they are, which are counted by name; further ones are `other`.
const CLIENT_VERSIONS_MAX: usize = 64;
/// What a client is that does not say its version.
const CLIENT_UNKNOWN: &str = "unknown";
const OK: usize = 0;
const CANCELLED: usize = 1;
const UNKNOWN: usize = 2;

/// The figures of the client port's RPCs.
#[derive(Clone, Debug)]
pub struct Rpcs {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    methods: BTreeMap<String, Arc<Method>>,
    received_bytes: IntCounter,
    sent_bytes: IntCounter,
    clients: IntCounterVec,
    versions: Mutex<BTreeMap<String, [IntCounter; 2]>>,
    failures: IntCounterVec,
    tracer: OnceLock<Tracer>,
}

/// The figures of one method.
#[derive(Debug)]
struct Method {
    unary: bool,
    started: IntCounter,
    received: IntCounter,
    sent: IntCounter,
    /// By the number of the code.
    handled: Vec<IntCounter>,
    handling: Option<Histogram>,
}

/// One call on its way.
#[derive(Debug)]
struct Running {
    method: Arc<Method>,
    began: Instant,
    ended: bool,
    span: Option<Span>,
}

impl Rpcs {
    pub(super) fn new(registry: &Registry, detail: Detail) -> Self {
        let labels = ["grpc_type", "grpc_service", "grpc_method"];
        let vector = |name: &str, help: &str, labels: &[&str]| {
            let made = IntCounterVec::new(Opts::new(name, help), labels);
            register(registry, made.expect("the names are plain"))
        };
        let counter = |name, help| {
            let made = IntCounter::new(name, help);
            register(registry, made.expect("the name is plain"))
        };
        let started = vector("grpc_server_started_total", "RPCs that began.", &labels);
        let help = "Messages of RPCs that clients sent.";
        let received = vector("grpc_server_msg_received_total", help, &labels);
        let help = "Messages of RPCs that were sent to clients.";
        let sent = vector("grpc_server_msg_sent_total", help, &labels);
        let with_code = ["grpc_type", "grpc_service", "grpc_method", "grpc_code"];
        let help = "RPCs that ended, well or not.";
        let handled = vector("grpc_server_handled_total", help, &with_code);
        let handling = (detail == Detail::Extensive).then(|| {
            let help = "How long RPCs took.";
            let options = HistogramOpts::new("grpc_server_handling_seconds", help);
            let made = HistogramVec::new(options, &labels).expect("the names are plain");
            register(registry, made)
        });
        let methods = METHODS.iter().map(|(service, method, shape)| {
            let labels = [shape.name(), *service, *method];
            let ends = CODES
                .iter()
                .map(|code| handled.with_label_values(&[shape.name(), *service, *method, *code]));
            let figures = Method {
                unary: *shape == Shape::Unary,
                started: started.with_label_values(&labels),
                received: received.with_label_values(&labels),
                sent: sent.with_label_values(&labels),
                handled: ends.collect(),
                handling: handling.as_ref().map(|all| all.with_label_values(&labels)),
            };
            (format!("/{service}/{method}"), Arc::new(figures))
        });
        let help = "Streams of clients that broke.";
        let name = "etcd_network_server_stream_failures_total";
        let failures = vector(name, help, &["Type", "API"]);
        for (side, api) in [
            ("receive", "watch"),
            ("send", "watch"),
            ("receive", "lease-keepalive"),
            ("send", "lease-keepalive"),
        ] {
            failures.with_label_values(&[side, api]);
        }
        let shared = Shared {
            methods: methods.collect(),
            received_bytes: counter(
                "etcd_network_client_grpc_received_bytes_total",
                "Bytes of messages that clients sent.",
            ),
            sent_bytes: counter(
                "etcd_network_client_grpc_sent_bytes_total",
                "Bytes of messages that were sent to clients.",
            ),
            clients: vector(
                "etcd_server_client_requests_total",
                "RPCs by the version of the client's library.",
                &["type", "client_api_version"],
            ),
            versions: Mutex::default(),
            failures,
            tracer: OnceLock::new(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Has calls traced from now on; the first tracer is taken.
    pub fn trace(&self, tracer: Tracer) {
        let _ = self.shared.tracer.set(tracer);
    }

    /// Who traces calls, if anybody does.
    pub fn tracer(&self) -> Option<&Tracer> {
        self.shared.tracer.get()
    }

    /// Counts a call while `answer` answers it, and until its last message has left.
    pub async fn count<B, F>(
        &self,
        request: Request<B>,
        answer: impl FnOnce(Request<Body>) -> F,
    ) -> Response<Body>
    where
        B: hyper::body::Body<Data = bytes::Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
        F: Future<Output = Response<Body>>,
    {
        let path = request.uri().path();
        let Some(method) = self.shared.methods.get(path) else {
            return answer(request.map(Body::new)).await;
        };
        method.started.inc();
        self.shared.on_client(request.headers(), method.unary);
        let tracer = self.tracer();
        let span = tracer.and_then(|tracer| tracer.on_call(path, request.headers()));
        let within = span.as_ref().map(Span::context);
        let running = Running {
            method: Arc::clone(method),
            began: Instant::now(),
            ended: false,
            span,
        };
        let shared = &self.shared;
        let (messages, bytes) = (method.received.clone(), shared.received_bytes.clone());
        let request = request.map(|body| Body::new(Metered::inbound(body, messages, bytes)));
        let response = match within {
            Some(within) => answer(request).with_context(within).await,
            None => answer(request).await,
        };
        shared.answered(running, response)
    }

    /// How calls of one kind are counted that go the short way; none of those that are traced.
    pub fn short(&self, path: &str, headers: &HeaderMap) -> Option<Short> {
        if self.tracer().is_some() {
            return None;
        }
        let method = Arc::clone(self.shared.methods.get(path)?);
        Some(Short {
            client: self
                .shared
                .client(headers)
                .map(|[stream, unary]| if method.unary { unary } else { stream }),
            shared: Arc::clone(&self.shared),
            method,
        })
    }

    /// A client's stream of requests broke, for another reason than that the client left.
    pub fn on_broken_stream(&self, api: &'static str) {
        let failures = &self.shared.failures;
        failures.with_label_values(&["receive", api]).inc();
    }
}

impl Shared {
    fn on_client(&self, headers: &HeaderMap, unary: bool) {
        if let Some(counters) = self.client(headers) {
            counters[usize::from(unary)].inc();
        }
    }

    /// The counters of streams and of other calls of clients like this one.
    fn client(&self, headers: &HeaderMap) -> Option<[IntCounter; 2]> {
        let said = headers.get("client-api-version");
        // A version that is no text is refused; it is nobody's name.
        let said = said.map_or(Ok(CLIENT_UNKNOWN), |value| {
            std::str::from_utf8(value.as_bytes())
        });
        let said = said.ok()?;
        let mut versions = self.versions.lock().expect("no holder of the lock panics");
        let known = versions.contains_key(said) || versions.len() < CLIENT_VERSIONS_MAX;
        let version = if known { said } else { "other" };
        if let Some(counters) = versions.get(version) {
            return Some(counters.clone());
        }
        let counters =
            ["stream", "unary"].map(|kind| self.clients.with_label_values(&[kind, version]));
        versions.insert(version.to_owned(), counters.clone());
        Some(counters)
    }
}

/// Counts calls of one kind that go the short way.
#[derive(Debug)]
pub struct Short {
    shared: Arc<Shared>,
    method: Arc<Method>,
    client: Option<IntCounter>,
}

impl Short {
    /// A call begins with a message of so many bytes.
    pub fn begin(&self, bytes: usize) -> Counted {
        let counted = self.open();
        counted.received(bytes);
        counted
    }

    /// A stream begins.
    pub fn open(&self) -> Counted {
        self.method.started.inc();
        if let Some(client) = &self.client {
            client.inc();
        }
        Counted {
            shared: Arc::clone(&self.shared),
            running: Running {
                method: Arc::clone(&self.method),
                began: Instant::now(),
                ended: false,
                span: None,
            },
        }
    }
}

/// One call that is counted; going away before its end cancels it.
#[derive(Debug)]
pub struct Counted {
    shared: Arc<Shared>,
    running: Running,
}

impl Counted {
    /// The client said a message of so many bytes.
    pub fn received(&self, bytes: usize) {
        self.running.method.received.inc();
        self.shared.received_bytes.inc_by(bytes as u64);
    }

    /// It was told one.
    pub fn sent(&self, bytes: usize) {
        self.running.method.sent.inc();
        self.shared.sent_bytes.inc_by(bytes as u64);
    }

    /// It ends as these trailers say.
    pub fn end(&mut self, trailers: &HeaderMap) {
        self.running.end(code_of(trailers).unwrap_or(UNKNOWN));
    }

    /// It ends well with a message of so many bytes.
    pub fn end_well(mut self, bytes: usize) {
        self.sent(bytes);
        self.running.end(OK);
    }

    /// It ends as this answer does.
    pub fn end_with(self, response: Response<Body>) -> Response<Body> {
        self.shared.answered(self.running, response)
    }
}

impl Shared {
    /// The call ends with what this answer says, now or when its body has been sent.
    fn answered(&self, mut running: Running, response: Response<Body>) -> Response<Body> {
        if let Some(code) = code_of(response.headers()) {
            running.end(code);
            return response;
        }
        let (messages, bytes) = (running.method.sent.clone(), self.sent_bytes.clone());
        response.map(|body| Body::new(Metered::outbound(body, messages, bytes, running)))
    }
}

impl Running {
    fn end(&mut self, code: usize) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        if let Some(span) = &self.span {
            span.finish(code);
        }
        let method = &self.method;
        method.handled[code.min(CODES.len() - 1)].inc();
        if let Some(handling) = &method.handling {
            handling.observe(self.began.elapsed().as_secs_f64());
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end(CANCELLED);
    }
}

/// The code that headers or trailers end a call with.
fn code_of(headers: &HeaderMap) -> Option<usize> {
    let code = headers.get("grpc-status")?.to_str().ok();
    let code = code.and_then(|text| text.parse::<usize>().ok());
    Some(code.filter(|code| *code < CODES.len()).unwrap_or(UNKNOWN))
}

#[cfg(test)]
mod tests;
