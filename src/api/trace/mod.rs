//! Traces of RPCs, for OpenTelemetry: a span for each call of a client, and within it one for what
//! the core was asked, with the attributes that etcd gives them.
//!
//! A client that traces says so in its metadata (`traceparent`), and its decision to sample holds;
//! of the other calls some are drawn at the given rate. Invariants: a call that is not sampled
//! costs a look into its headers; a collector that is slow or away holds up nobody, as spans wait
//! in a bounded queue, are dropped beyond it, and leave by a thread of their own.

mod attributes;

use std::{sync::mpsc, thread, time::Duration};

use http::HeaderMap;
use opentelemetry::{
    Context, KeyValue,
    propagation::{Extractor, TextMapPropagator},
    trace::{SpanKind, Status, TraceContextExt, Tracer as _, TracerProvider},
};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    resource::EnvResourceDetector,
    trace::{Sampler, SdkTracer, SdkTracerProvider},
};
use tokio::sync::oneshot;

use crate::{kernel::Request, pb::etcdserverpb::WatchCreateRequest};

const PER_MILLION: f64 = 1_000_000.0;
/// How long the end of the process waits for the last spans to leave.
const GOODBYE: Duration = Duration::from_millis(500);
/// What codes are called in spans, by number.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];
/// Codes that are this server's failure and not its client's, by number.
const OUR_FAILURES: [usize; 6] = [2, 4, 12, 13, 14, 15];

/// Where traces go and how many.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// `--distributed-tracing-address`: `host:port` of the collector.
    pub address: String,
    /// `--distributed-tracing-service-name`.
    pub service: String,
    /// `--distributed-tracing-instance-id`; none when empty.
    pub instance: String,
    /// `--distributed-tracing-sampling-rate`: calls out of a million that are traced when their
    /// client says nothing.
    pub samples_per_million: u32,
}

/// Makes spans and sends them away.
#[derive(Debug)]
pub struct Tracer {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    propagator: TraceContextPropagator,
    /// The runtime of the exporter ends with this.
    _running: oneshot::Sender<()>,
}

/// Travels with a call, so that spans within it find their tracer.
#[derive(Debug)]
struct Within(SdkTracer);

/// A span that ends with what it stands for, at the latest when it is dropped.
#[derive(Debug)]
pub struct Span(Context);

impl Tracer {
    /// Begins to send to the collector. Nobody has to be there yet.
    pub fn start(settings: &Settings) -> Result<Self, String> {
        let (exporter, running) = exporter(settings)?;
        let environment =
            Resource::builder_empty().with_detector(Box::new(EnvResourceDetector::new()));
        let mut resource = environment.with_service_name(settings.service.clone());
        if !settings.instance.is_empty() {
            let instance = KeyValue::new("service.instance.id", settings.instance.clone());
            resource = resource.with_attribute(instance);
        }
        let root = match settings.samples_per_million {
            0 => Sampler::AlwaysOff,
            rate => Sampler::TraceIdRatioBased(f64::from(rate) / PER_MILLION),
        };
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource.build())
            .with_sampler(Sampler::ParentBased(Box::new(root)))
            .build();
        Ok(Self {
            tracer: provider.tracer("fated"),
            provider,
            propagator: TraceContextPropagator::new(),
            _running: running,
        })
    }

    /// The span of a call that came in; none if it is not sampled.
    pub fn on_call(&self, path: &str, headers: &HeaderMap) -> Option<Span> {
        let parent = self
            .propagator
            .extract_with_context(&Context::new(), &Headers(headers));
        let method = path.trim_start_matches('/').to_owned();
        let attributes = [
            KeyValue::new("rpc.system.name", "grpc"),
            KeyValue::new("rpc.method", method.clone()),
        ];
        let span = self
            .tracer
            .span_builder(method)
            .with_kind(SpanKind::Server)
            .with_attributes(attributes)
            .start_with_context(&self.tracer, &parent);
        let within = parent
            .with_value(Within(self.tracer.clone()))
            .with_span(span);
        let sampled = within.span().is_recording();
        sampled.then_some(Span(within))
    }

    /// Sends what is left, but does not wait for ever. Blocks.
    pub fn stop(&self) {
        // A collector that is away gets nothing more.
        let _ = self.provider.shutdown_with_timeout(GOODBYE);
    }
}

/// The exporter, and what keeps its runtime going. It has one of its own, so that the loop that
/// serves clients does nothing for it.
fn exporter(settings: &Settings) -> Result<(SpanExporter, oneshot::Sender<()>), String> {
    let endpoint = format!("http://{}", settings.address);
    let (running, ended) = oneshot::channel::<()>();
    let (sender, built) = mpsc::channel();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let work = move || {
        runtime.block_on(async {
            let exporter = SpanExporter::builder()
                .with_tonic()
                .with_endpoint(endpoint)
                .build();
            // Whoever started this waits for it.
            let _ = sender.send(exporter.map_err(|error| error.to_string()));
            // An error is the end as well: the tracer is gone.
            let _ = ended.await;
        });
    };
    let thread = thread::Builder::new().name("traces".to_owned());
    thread.spawn(work).map_err(|error| error.to_string())?;
    let built = built.recv().map_err(|error| error.to_string())?;
    Ok((built?, running))
}

impl Span {
    /// What makes this the current span.
    pub fn context(&self) -> Context {
        self.0.clone()
    }

    /// The call ended with this code.
    pub fn finish(&self, code: usize) {
        let span = self.0.span();
        let name = CODES.get(code).copied().unwrap_or("UNKNOWN");
        span.set_attribute(KeyValue::new("rpc.response.status_code", name));
        if OUR_FAILURES.contains(&code) {
            span.set_status(Status::error(name));
        }
        span.end();
    }
}

/// A span within the current one, for what the core is asked; none if that is not sampled.
pub fn ask(request: &Request) -> Option<Span> {
    let parent = Context::current();
    let Within(tracer) = parent.get::<Within>()?;
    let (name, attributes) = attributes::of(request)?;
    Some(begin(tracer, &parent, name, attributes))
}

/// A span within a stream's, for a watch that is asked for. It ends at once.
pub fn watch(stream: &Context, create: &WatchCreateRequest) {
    if let Some(Within(tracer)) = stream.get::<Within>() {
        begin(tracer, stream, "watch", attributes::watch(create));
    }
}

fn begin(
    tracer: &SdkTracer,
    parent: &Context,
    name: &'static str,
    attributes: Vec<KeyValue>,
) -> Span {
    let builder = tracer.span_builder(name).with_attributes(attributes);
    let span = builder.start_with_context(tracer, parent);
    Span(parent.with_span(span))
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}
