//! Takes answers and asks on: the edge of a core that has no clients.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use bytes::Bytes;
use fated::{
    host::tokio::Answers,
    kernel::{
        ApiError, CallId, Credentials, Event, Request, Response, Signal, StreamId, StreamItem,
    },
    pb::etcdserverpb::{
        PutRequest, RangeRequest, RequestOp, TxnRequest, request_op::Request as Operated,
    },
};
use hdrhistogram::Histogram;
use prometheus::Registry;
use tokio::sync::mpsc::UnboundedSender;

use super::{
    Operation, Plan,
    usage::{Usage, syncs},
};
use crate::{key, workload::scattered};

/// Keys of a range of many, and of one within a transaction; as in the load.
const RANGE_KEYS: u64 = 1000;
const TXN_KEYS: u64 = 100;

/// Delays above this count as this much.
const DELAY_MAX: Duration = Duration::from_secs(60);

/// The edge's place at the core.
pub struct Desk {
    state: Arc<Mutex<State>>,
}

/// What the run came to, once it has ended.
pub struct Outcome(Arc<Mutex<State>>);

/// What was measured.
pub struct Figures {
    micros: Histogram<u64>,
    lasted: Duration,
    used: Usage,
}

/// Where the run stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Every key is put once.
    Filling,
    Measuring,
    /// Nothing new is asked for; what is in flight comes back.
    Ending,
}

struct State {
    plan: Plan,
    events: UnboundedSender<Event>,
    value: Bytes,
    phase: Phase,
    /// Requests sent in this phase.
    sent: u64,
    in_flight: u64,
    /// When each request in flight was sent, by its place.
    sent_at: Vec<Instant>,
    begun: Option<(Instant, Usage)>,
    micros: Histogram<u64>,
    figures: Option<(Duration, Usage)>,
    failed: Option<ApiError>,
}

impl Desk {
    /// The desk, and where its figures can be had afterwards.
    pub(super) fn new(plan: Plan, events: UnboundedSender<Event>) -> (Self, Outcome) {
        let longest = u64::try_from(DELAY_MAX.as_micros()).expect("a minute");
        let places = usize::try_from(plan.in_flight).expect("they fit in memory");
        let state = Arc::new(Mutex::new(State {
            plan,
            events,
            value: Bytes::from(vec![b'v'; plan.value_bytes]),
            phase: Phase::Filling,
            sent: 0,
            in_flight: 0,
            sent_at: vec![Instant::now(); places],
            begun: None,
            micros: Histogram::new_with_bounds(1, longest, 3).expect("sound bounds"),
            figures: None,
            failed: None,
        }));
        let outcome = Outcome(Arc::clone(&state));
        (Self { state }, outcome)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the lock panics")
    }
}

impl Answers for Desk {
    fn reply(&self, call: CallId, result: Result<Response, ApiError>) {
        self.state().on_answer(call, result);
    }

    fn stream(&self, _stream: StreamId, _item: StreamItem) {
        unreachable!("no stream was opened");
    }

    fn ready(&self) {
        let mut state = self.state();
        for place in 0..state.plan.in_flight {
            state.ask(place);
        }
    }
}

impl State {
    fn on_answer(&mut self, call: CallId, result: Result<Response, ApiError>) {
        let place = call.get() % self.plan.in_flight;
        let slot = usize::try_from(place).expect("a place in memory");
        self.in_flight -= 1;
        match result {
            Ok(answer) if !self.is_whole(&answer) => self.fail(ApiError::KeyNotFound),
            Ok(_) => {}
            Err(error) => self.fail(error),
        }
        let now = Instant::now();
        if self.phase == Phase::Measuring {
            let micros = (now - self.sent_at[slot]).as_micros();
            let micros = u64::try_from(micros).unwrap_or(u64::MAX);
            self.micros.saturating_record(micros);
            self.maybe_end(now);
        }
        if self.phase == Phase::Filling && self.sent == self.plan.keys {
            if self.in_flight > 0 {
                return;
            }
            // All keys are there; now everything begins together.
            self.phase = Phase::Measuring;
            self.sent = 0;
            self.begun = Some((Instant::now(), Usage::now()));
            (0..self.plan.in_flight).for_each(|place| self.ask(place));
            return;
        }
        if self.phase == Phase::Ending {
            if self.in_flight == 0 {
                self.tell(Event::Signal(Signal::Terminate));
            }
            return;
        }
        self.ask(place);
    }

    fn maybe_end(&mut self, now: Instant) {
        if let Some((begun, usage)) = &self.begun
            && now - *begun >= self.plan.lasts
        {
            self.figures = Some((now - *begun, Usage::now().since(usage)));
            self.phase = Phase::Ending;
        }
    }

    fn fail(&mut self, error: ApiError) {
        self.failed.get_or_insert(error);
        self.phase = Phase::Ending;
    }

    fn ask(&mut self, place: u64) {
        let filling = self.phase == Phase::Filling;
        if filling && self.sent == self.plan.keys {
            return;
        }
        let request = match (filling, self.plan.op) {
            (true, _) | (false, Operation::Put) => Request::Put(self.put(self.sent)),
            (false, Operation::Range | Operation::Serializable) => Request::Range(RangeRequest {
                key: self.key(self.sent),
                serializable: self.plan.op == Operation::Serializable,
                ..RangeRequest::default()
            }),
            (false, Operation::RangeKeys) => {
                Request::Range(self.range(scattered(self.sent), RANGE_KEYS))
            }
            (false, Operation::TxnMixed) => Request::Txn(self.txn(scattered(self.sent))),
        };
        self.sent += 1;
        self.in_flight += 1;
        self.sent_at[usize::try_from(place).expect("a place in memory")] = Instant::now();
        // A place has one call at a time, so its number may come again.
        let call = CallId::new(self.plan.in_flight + place);
        self.tell(Event::Call {
            call,
            credentials: Credentials::default(),
            request,
        });
    }

    fn key(&self, number: u64) -> Bytes {
        key(number % self.plan.keys).into()
    }

    fn put(&self, number: u64) -> PutRequest {
        PutRequest {
            key: self.key(number),
            value: self.value.clone(),
            ..PutRequest::default()
        }
    }

    /// A range of so many keys, wherever that many are left.
    fn range(&self, number: u64, keys: u64) -> RangeRequest {
        let from = number % self.plan.keys.saturating_sub(keys).max(1);
        RangeRequest {
            key: key(from).into(),
            range_end: key(from + keys).into(),
            ..RangeRequest::default()
        }
    }

    /// Half a put, half a range.
    fn txn(&self, number: u64) -> TxnRequest {
        let operation = match number % 2 {
            0 => Operated::RequestRange(self.range(number / 2, TXN_KEYS)),
            _ => Operated::RequestPut(self.put(number / 2)),
        };
        TxnRequest {
            success: vec![RequestOp {
                request: Some(operation),
            }],
            ..TxnRequest::default()
        }
    }

    /// Whether a range has what it must have.
    fn is_whole(&self, answer: &Response) -> bool {
        let keys = RANGE_KEYS.min(self.plan.keys);
        match (self.plan.op, answer) {
            (Operation::RangeKeys, Response::PartedRange(range)) => {
                range.rest.count.unsigned_abs() == keys
            }
            (Operation::RangeKeys, Response::Range(range)) => range.kvs.len() as u64 == keys,
            (_, Response::Range(range)) => range.kvs.len() == 1,
            (_, _) => true,
        }
    }

    fn tell(&self, event: Event) {
        // The loop may have halted; what it says then is the story.
        let _ = self.events.send(event);
    }
}

impl Outcome {
    /// The figures, or why there are none.
    pub fn take(self) -> Result<Figures, String> {
        let state = self.0.lock().expect("no holder of the lock panics");
        if let Some(error) = state.failed {
            return Err(format!("an answer failed: {}", error.text()));
        }
        let (lasted, used) = state.figures.clone().ok_or("it was not measured")?;
        Ok(Figures {
            micros: state.micros.clone(),
            lasted,
            used,
        })
    }
}

impl Figures {
    /// All of them as one JSON object.
    pub(super) fn line(&self, plan: Plan, registry: &Registry) -> String {
        let count = self.micros.len();
        let per = |total: f64| total / count.max(1) as f64;
        let millis = |quantile| self.micros.value_at_quantile(quantile) as f64 / 1000.0;
        let allocations = self.used.allocations.map_or_else(
            || "null".to_owned(),
            |made| format!("{:.2}", per(made as f64)),
        );
        format!(
            concat!(
                r#"{{"bench":"core","op":"{}","in_flight":{},"value_bytes":{},"count":{},"#,
                r#""rate":{:.0},"p50_ms":{:.3},"p99_ms":{:.3},"max_ms":{:.3},"#,
                r#""core_thread_us":{:.3},"process_us":{:.3},"#,
                r#""written_bytes":{:.0},"allocations":{},"syncs_of_the_whole_run":{}}}"#
            ),
            plan.op.name(),
            plan.in_flight,
            plan.value_bytes,
            count,
            count as f64 / self.lasted.as_secs_f64(),
            millis(0.5),
            millis(0.99),
            self.micros.max() as f64 / 1000.0,
            per(self.used.core.as_secs_f64() * 1e6),
            per(self.used.process.as_secs_f64() * 1e6),
            per(self.used.written as f64),
            allocations,
            syncs(registry),
        )
    }
}
