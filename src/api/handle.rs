//! The edge's side of calls and streams. Clones are cheap and usable from any thread.

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::{mpsc, oneshot, watch};

use super::{
    large::Turns,
    metrics::Instruments,
    slow::SlowLog,
    status,
    streams::{Alike, Lane, StreamItems, StreamRequests},
    trace,
};
use crate::kernel::{
    ApiError, CallId, Credentials, Event, Request, Response, StreamId, StreamItem,
    effect::LogLevel, limits,
};

/// What a call comes to.
pub type Answer = Result<Response, ApiError>;

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
pub(super) struct Shared {
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

/// Who is told of answers, without a task that waits for them.
pub trait Listen: fmt::Debug + Send + Sync {
    /// Called for each answer, with no lock of the handle held.
    fn answered(&self, answer: Answer);
}

/// Who waits for one answer.
#[derive(Debug)]
enum Waiter {
    Future(oneshot::Sender<Answer>),
    Listener(Arc<dyn Listen>),
}

impl Waiter {
    fn tell(self, answer: Answer) {
        match self {
            // The future may be gone without its cancel having reached the core yet.
            Self::Future(waiting) => drop(waiting.send(answer)),
            Self::Listener(listener) => listener.answered(answer),
        }
    }
}

/// Who waits. `open` becomes false when the core has stopped; then nothing waits any more.
#[derive(Debug)]
struct Table {
    open: bool,
    calls: BTreeMap<CallId, Waiter>,
    streams: BTreeMap<StreamId, Arc<Lane>>,
    /// The response that many watches got last.
    alike: Option<Arc<Alike>>,
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
            alike: None,
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
        let waiting = self.begin_waiting(credentials, request);
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

    /// Asks the core and has the listener told. What is asked so is neither traced nor told when
    /// it is slow.
    pub fn ask(
        &self,
        credentials: Credentials,
        request: Request,
        listener: Arc<dyn Listen>,
    ) -> Result<CallId, ApiError> {
        let begun = self.begin_call(credentials, request, Waiter::Listener(listener));
        begun.ok_or(ApiError::Stopped)
    }

    /// Nobody wants the answer to a call any more; nothing if it was given.
    pub fn cancel(&self, call: CallId) {
        self.shared.cancel(call);
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
        if let Some(mut call) = self.begin_waiting(credentials, request) {
            call.answered = true; // not cancelled, just not waited for
        }
    }

    /// Opens a watch stream: one half to send requests, one half to take items.
    pub fn open_stream(
        &self,
        credentials: Credentials,
    ) -> Result<(StreamRequests, StreamItems), ApiError> {
        let stream = StreamId::new(self.shared.next.fetch_add(1, Ordering::Relaxed));
        let lane = Arc::new(Lane::new());
        {
            let mut table = self.shared.table();
            if !table.open {
                return Err(ApiError::Stopped);
            }
            table.streams.insert(stream, Arc::clone(&lane));
        }
        self.shared.tell(Event::StreamOpened {
            stream,
            credentials,
        });
        let requests = StreamRequests {
            shared: Arc::clone(&self.shared),
            stream,
            lane: Arc::clone(&lane),
        };
        let items = StreamItems {
            shared: Arc::clone(&self.shared),
            stream,
            lane,
            ended: false,
        };
        Ok((requests, items))
    }

    /// The core answers a call. Unknown calls were cancelled.
    pub fn reply(&self, call: CallId, result: Answer) {
        let waiting = self.shared.table().calls.remove(&call);
        if let Some(waiting) = waiting {
            waiting.tell(result);
        }
    }

    /// The core sends on a stream. Unknown streams are gone.
    pub fn stream_item(&self, stream: StreamId, item: StreamItem) {
        let mut table = self.shared.table();
        let table = &mut *table;
        if let Some(lane) = table.streams.get(&stream) {
            match &item {
                StreamItem::Watch { response, .. } => self.instruments().watch().arrived(response),
                StreamItem::Alike { response, .. } => self.instruments().watch().arrived(response),
                StreamItem::End(_) => {}
            }
            lane.send(item, &mut table.alike);
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
            waiting.tell(Err(ApiError::Stopped));
        }
        for lane in streams.into_values() {
            lane.fail(status::of(ApiError::Stopped));
        }
        self.shared.ready.send_replace(false);
    }

    fn begin_waiting(&self, credentials: Credentials, request: Request) -> Option<Waiting> {
        let (sender, answer) = oneshot::channel();
        let call = self.begin_call(credentials, request, Waiter::Future(sender))?;
        Some(Waiting {
            shared: Arc::clone(&self.shared),
            call,
            answer,
            answered: false,
        })
    }

    fn begin_call(
        &self,
        credentials: Credentials,
        request: Request,
        waiter: Waiter,
    ) -> Option<CallId> {
        let call = CallId::new(self.shared.next.fetch_add(1, Ordering::Relaxed));
        {
            let mut table = self.shared.table();
            if !table.open {
                return None;
            }
            table.calls.insert(call, waiter);
        }
        self.shared.tell(Event::Call {
            call,
            credentials,
            request,
        });
        Some(call)
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("no holder of the lock panics")
    }

    pub fn tell(&self, event: Event) {
        // The queue closes only when the process is about to end.
        let _ = self.events.send(event);
    }

    pub fn instruments(&self) -> &Instruments {
        &self.instruments
    }

    fn cancel(&self, call: CallId) {
        let waited = self.table().calls.remove(&call);
        if waited.is_some() {
            self.tell(Event::Cancel { call });
        }
    }

    /// Nobody takes what is sent on a stream any more.
    pub fn close_stream(&self, stream: StreamId) {
        if self.table().streams.remove(&stream).is_some() {
            self.tell(Event::StreamClosed { stream });
        }
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
        self.shared.cancel(self.call);
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
