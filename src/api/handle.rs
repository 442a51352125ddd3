//! The edge's side of calls and streams. Clones are cheap and usable from any thread.

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::Stream;
use tonic::Status;

use super::{large::Turns, metrics::Instruments, slow::SlowLog, status, trace};
use crate::{
    kernel::{
        ApiError, CallId, Credentials, Event, Request, Response, StreamId, StreamItem,
        StreamRequest, effect::LogLevel, limits,
    },
    pb::etcdserverpb as rpc,
};

type Answer = Result<Response, ApiError>;

/// What the edge refuses by itself, and how it treats connections.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EdgeLimits {
    /// `--max-request-bytes`.
    pub request_bytes_max: usize,
    /// `--max-txn-ops`.
    pub txn_ops_max: usize,
    /// `--max-concurrent-streams`.
    pub streams_max: u32,
    /// `--grpc-keepalive-min-time`: a client that pings more often is sent away.
    pub keepalive_min_time: Duration,
    /// `--grpc-keepalive-interval`; none when the server never pings.
    pub keepalive_interval: Option<Duration>,
    /// `--grpc-keepalive-timeout`.
    pub keepalive_timeout: Duration,
    /// How long a health probe may take.
    pub health_timeout: Duration,
    /// The version `/version` reports.
    pub version: String,
    /// `--enable-grpc-gateway`.
    pub gateway: bool,
    /// `--cors`: origins whose pages may read answers; `*` stands for all.
    pub cors: Vec<String>,
    /// `--host-whitelist`: names under which plain HTTP is served; `*` stands for all.
    pub host_whitelist: Vec<String>,
}

impl Default for EdgeLimits {
    fn default() -> Self {
        Self {
            request_bytes_max: limits::REQUEST_BYTES_MAX,
            txn_ops_max: limits::TXN_OPS_MAX,
            streams_max: u32::MAX,
            keepalive_min_time: Duration::from_secs(5),
            keepalive_interval: Some(Duration::from_secs(2 * 60 * 60)),
            keepalive_timeout: Duration::from_secs(20),
            health_timeout: Duration::from_secs(7),
            version: "3.7.1".to_owned(),
            gateway: true,
            cors: vec!["*".to_owned()],
            host_whitelist: vec!["*".to_owned()],
        }
    }
}

impl EdgeLimits {
    /// The version of what is stored: it changes with minor versions only.
    pub fn storage_version(&self) -> String {
        let end = self.version.rfind('.').unwrap_or(self.version.len());
        format!("{}.0", &self.version[..end])
    }
}

/// The way from the edge to the core and back.
#[derive(Clone, Debug)]
pub struct Handle {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    limits: EdgeLimits,
    events: mpsc::UnboundedSender<Event>,
    next: AtomicU64,
    table: Mutex<Table>,
    ready: watch::Sender<bool>,
    instruments: Instruments,
    turns: Turns,
    slow: OnceLock<SlowLog>,
    log_level: OnceLock<LogDial>,
}

/// Turns the level of the log.
struct LogDial(Box<dyn Fn(LogLevel) + Send + Sync>);

impl fmt::Debug for LogDial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogDial")
    }
}

/// Who waits. `open` becomes false when the core has stopped; then nothing waits any more.
#[derive(Debug)]
struct Table {
    open: bool,
    calls: BTreeMap<CallId, oneshot::Sender<Answer>>,
    streams: BTreeMap<StreamId, mpsc::UnboundedSender<Sent>>,
}

impl Handle {
    /// A handle whose requests go into this event queue.
    pub fn new(events: mpsc::UnboundedSender<Event>, limits: EdgeLimits) -> Self {
        Self::measured(events, limits, Instruments::default())
    }

    /// The same, counting with these instruments.
    pub fn measured(
        events: mpsc::UnboundedSender<Event>,
        limits: EdgeLimits,
        instruments: Instruments,
    ) -> Self {
        let table = Table {
            open: true,
            calls: BTreeMap::new(),
            streams: BTreeMap::new(),
        };
        let shared = Shared {
            limits,
            events,
            next: AtomicU64::new(1),
            table: Mutex::new(table),
            ready: watch::Sender::new(false),
            instruments,
            turns: Turns::default(),
            slow: OnceLock::new(),
            log_level: OnceLock::new(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// What the edge checks by itself.
    pub fn limits(&self) -> &EdgeLimits {
        &self.shared.limits
    }

    /// What the edge counts with.
    pub fn instruments(&self) -> &Instruments {
        &self.shared.instruments
    }

    /// Who may read much at a time.
    pub fn turns(&self) -> &Turns {
        &self.shared.turns
    }

    /// Asks the core. Dropping the future before its end cancels the call.
    pub fn call(
        &self,
        credentials: Credentials,
        request: Request,
    ) -> impl Future<Output = Answer> + Send + 'static {
        let begun = self.shared.slow.get().and_then(|log| log.begin(&request));
        let span = trace::ask(&request);
        let waiting = self.begin_call(credentials, request);
        async move {
            let Some(mut call) = waiting else {
                return Err(ApiError::Stopped);
            };
            let answer = call.wait().await;
            drop(span);
            if let (Some(begun), Some(log)) = (begun, call.shared.slow.get()) {
                log.end(begun, &answer);
            }
            answer
        }
    }

    /// Has slow requests told from now on; the first to ask for it is heard.
    pub fn tell_slow(&self, log: SlowLog) {
        let _ = self.shared.slow.set(log);
    }

    /// Has changes of the log's level told from now on; the first to ask for it is heard.
    pub fn tell_log_level(&self, listener: impl Fn(LogLevel) + Send + Sync + 'static) {
        let _ = self.shared.log_level.set(LogDial(Box::new(listener)));
    }

    /// A client wants this level of the log.
    pub fn set_log_level(&self, level: LogLevel) {
        if let Some(LogDial(listener)) = self.shared.log_level.get() {
            listener(level);
        }
    }

    /// Sends a request nobody waits for; its answer is thrown away.
    pub fn tell(&self, credentials: Credentials, request: Request) {
        if let Some(mut call) = self.begin_call(credentials, request) {
            call.answered = true; // not cancelled, just not waited for
        }
    }

    /// Opens a watch stream: one half to send requests, one half to take items.
    pub fn open_stream(
        &self,
        credentials: Credentials,
    ) -> Result<(StreamRequests, StreamItems), ApiError> {
        let stream = StreamId::new(self.shared.next.fetch_add(1, Ordering::Relaxed));
        let (sender, items) = mpsc::unbounded_channel();
        {
            let mut table = self.shared.table();
            if !table.open {
                return Err(ApiError::Stopped);
            }
            table.streams.insert(stream, sender);
        }
        self.shared.tell(Event::StreamOpened {
            stream,
            credentials,
        });
        let requests = StreamRequests {
            shared: Arc::clone(&self.shared),
            stream,
        };
        let items = StreamItems {
            shared: Arc::clone(&self.shared),
            stream,
            items,
            ended: false,
        };
        Ok((requests, items))
    }

    /// The core answers a call. Unknown calls were cancelled.
    pub fn reply(&self, call: CallId, result: Answer) {
        let waiting = self.shared.table().calls.remove(&call);
        if let Some(waiting) = waiting {
            // The future may be gone without its cancel having reached the core yet.
            let _ = waiting.send(result);
        }
    }

    /// The core sends on a stream. Unknown streams are gone.
    pub fn stream_item(&self, stream: StreamId, item: StreamItem) {
        if let Some(items) = self.shared.table().streams.get(&stream) {
            if let StreamItem::Watch { response, .. } = &item {
                self.instruments().watch().arrived(response);
            }
            // The receiver leaves the table before it goes.
            let _ = items.send(Sent::Item(item, Instant::now()));
        }
    }

    /// The member can serve.
    pub fn set_ready(&self) {
        self.shared.ready.send_replace(true);
    }

    /// Whether the member can serve.
    pub fn is_ready(&self) -> bool {
        *self.shared.ready.borrow()
    }

    /// Follows whether the member can serve.
    pub fn readiness(&self) -> watch::Receiver<bool> {
        self.shared.ready.subscribe()
    }

    /// The core has stopped: all that wait are told so, and nothing new begins.
    pub fn close(&self) {
        let (calls, streams) = {
            let mut table = self.shared.table();
            table.open = false;
            (
                std::mem::take(&mut table.calls),
                std::mem::take(&mut table.streams),
            )
        };
        for waiting in calls.into_values() {
            let _ = waiting.send(Err(ApiError::Stopped));
        }
        for items in streams.into_values() {
            let end = StreamItem::End(ApiError::Stopped);
            let _ = items.send(Sent::Item(end, Instant::now()));
        }
        self.shared.ready.send_replace(false);
    }

    fn begin_call(&self, credentials: Credentials, request: Request) -> Option<Waiting> {
        let call = CallId::new(self.shared.next.fetch_add(1, Ordering::Relaxed));
        let (sender, answer) = oneshot::channel();
        {
            let mut table = self.shared.table();
            if !table.open {
                return None;
            }
            table.calls.insert(call, sender);
        }
        self.shared.tell(Event::Call {
            call,
            credentials,
            request,
        });
        Some(Waiting {
            shared: Arc::clone(&self.shared),
            call,
            answer,
            answered: false,
        })
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("no holder of the lock panics")
    }

    fn tell(&self, event: Event) {
        // The queue closes only when the process is about to end.
        let _ = self.events.send(event);
    }
}

/// One call on its way. Going away without an answer cancels it.
struct Waiting {
    shared: Arc<Shared>,
    call: CallId,
    answer: oneshot::Receiver<Answer>,
    answered: bool,
}

impl Waiting {
    async fn wait(&mut self) -> Answer {
        let answer = (&mut self.answer).await;
        self.answered = true;
        answer.unwrap_or(Err(ApiError::Stopped))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        let waited = self.shared.table().calls.remove(&self.call);
        if waited.is_some() {
            self.shared.tell(Event::Cancel { call: self.call });
        }
    }
}

/// The requests of one watch stream.
#[derive(Debug)]
pub struct StreamRequests {
    shared: Arc<Shared>,
    stream: StreamId,
}

impl StreamRequests {
    /// Hands a request to the core.
    pub fn send(&self, request: rpc::WatchRequest) {
        self.shared.tell(Event::StreamItem {
            stream: self.stream,
            item: StreamRequest::Watch(request),
        });
    }

    /// Ends the stream with a status of the edge.
    pub fn fail(&self, status: Status) {
        if let Some(items) = self.shared.table().streams.get(&self.stream) {
            let _ = items.send(Sent::Failure(status));
        }
    }
}

/// What a watch stream is sent: by the core, or by the edge when the client's half broke.
#[derive(Debug)]
enum Sent {
    Item(StreamItem, Instant),
    Failure(Status),
}

/// The items of one watch stream, as HTTP/2 takes them. Going away closes the stream.
#[derive(Debug)]
pub struct StreamItems {
    shared: Arc<Shared>,
    stream: StreamId,
    items: mpsc::UnboundedReceiver<Sent>,
    ended: bool,
}

impl Stream for StreamItems {
    type Item = Result<rpc::WatchResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        match ready!(self.items.poll_recv(cx)) {
            Some(Sent::Item(StreamItem::Watch { response, bytes }, since)) => {
                let stream = self.stream;
                let meter = self.shared.instruments.watch();
                meter.taken(&response, since.elapsed());
                self.shared.tell(Event::StreamCredit { stream, bytes });
                Poll::Ready(Some(Ok(*response)))
            }
            Some(Sent::Item(StreamItem::End(error), _)) => {
                self.ended = true;
                Poll::Ready(Some(Err(status::of(error))))
            }
            Some(Sent::Failure(status)) => {
                self.ended = true;
                Poll::Ready(Some(Err(status)))
            }
            None => Poll::Ready(None),
        }
    }
}

impl Drop for StreamItems {
    fn drop(&mut self) {
        let stream = self.stream;
        if self.shared.table().streams.remove(&stream).is_some() {
            self.shared.tell(Event::StreamClosed { stream });
        }
        while let Ok(Sent::Item(StreamItem::Watch { response, .. }, _)) = self.items.try_recv() {
            self.shared.instruments.watch().lost(&response);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handle() -> (Handle, mpsc::UnboundedReceiver<Event>) {
        let (sender, events) = mpsc::unbounded_channel();
        (Handle::new(sender, EdgeLimits::default()), events)
    }

    fn call_id(event: Option<Event>) -> CallId {
        match event {
            Some(Event::Call { call, .. }) => call,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn each_answer_finds_its_own_call() {
        let (handle, mut events) = handle();
        let first = handle.call(Credentials::default(), Request::Health);
        let second = handle.call(Credentials::default(), Request::Metrics);
        let (one, two) = (call_id(events.recv().await), call_id(events.recv().await));
        assert_ne!(one, two);
        handle.reply(two, Ok(Response::Metrics(Vec::new())));
        handle.reply(one, Err(ApiError::NoLeader));
        handle.reply(one, Ok(Response::Health)); // a second answer finds nobody
        assert_eq!(first.await, Err(ApiError::NoLeader));
        assert_eq!(second.await, Ok(Response::Metrics(Vec::new())));
        assert!(
            events.try_recv().is_err(),
            "answered calls are not cancelled"
        );
    }

    #[tokio::test]
    async fn a_dropped_call_is_cancelled_once() {
        let (handle, mut events) = handle();
        let call = handle.call(Credentials::default(), Request::Health);
        let id = call_id(events.recv().await);
        drop(call);
        assert!(matches!(events.recv().await, Some(Event::Cancel { call }) if call == id));
        handle.reply(id, Ok(Response::Health));
        assert!(events.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_stream_credits_what_it_takes_and_closes_when_dropped() {
        let (handle, mut events) = handle();
        let (requests, items) = handle.open_stream(Credentials::default()).unwrap();
        let Some(Event::StreamOpened { stream, .. }) = events.recv().await else {
            panic!("a stream begins with its opening");
        };
        requests.send(rpc::WatchRequest::default());
        assert!(matches!(
            events.recv().await,
            Some(Event::StreamItem { .. })
        ));
        let response = Box::new(rpc::WatchResponse {
            watch_id: 5,
            ..Default::default()
        });
        handle.stream_item(
            stream,
            StreamItem::Watch {
                response,
                bytes: 77,
            },
        );
        handle.stream_item(stream, StreamItem::End(ApiError::NoLeader));
        let mut items = Box::pin(items);
        let mut next = async || std::future::poll_fn(|cx| items.as_mut().poll_next(cx)).await;
        assert_eq!(next().await.unwrap().unwrap().watch_id, 5);
        let credit = events.recv().await;
        assert!(matches!(
            credit,
            Some(Event::StreamCredit { bytes: 77, .. })
        ));
        let end = next().await.unwrap().unwrap_err();
        assert_eq!(end.message(), "etcdserver: no leader");
        assert!(next().await.is_none());
        drop(items);
        let closed = events.recv().await;
        assert!(matches!(closed, Some(Event::StreamClosed { stream: id }) if id == stream));
    }

    #[tokio::test]
    async fn closing_answers_everything_and_refuses_what_comes_later() {
        let (handle, _events) = handle();
        let waiting = handle.call(Credentials::default(), Request::Health);
        handle.close();
        assert_eq!(waiting.await, Err(ApiError::Stopped));
        let late = handle.call(Credentials::default(), Request::Health);
        assert_eq!(late.await, Err(ApiError::Stopped));
        let stream = handle.open_stream(Credentials::default());
        assert_eq!(stream.err(), Some(ApiError::Stopped));
    }
}
