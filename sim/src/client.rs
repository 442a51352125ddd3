//! Clients: each does one thing after the other, waits a while for the answer, and otherwise does
//! not know what became of it. What they saw is the history of the run.
//!
//! Invariant: a write is sent at most once. A client whose write went to a member and was not
//! answered goes on with its next step at another member.

use std::collections::BTreeMap;

use fated::kernel::{ApiError, CallId, Credentials, Event, Request, Response};

pub use crate::work::requests::name;
use crate::{
    counters::Counters,
    plan::Plan,
    script::Step,
    work::{
        self, Desk, Job, Shared, Turn,
        requests::{Author, over_the_wire, read, write},
    },
    world::{Item, World},
};

/// How long clients think at most once they are in a hurry.
const HURRIED_WAIT: u64 = 10_000_000;

mod space;
mod steps;

pub use steps::changes_nothing;
use steps::{branch_counter, check_at_the_edge};

/// Something on its way between a client and a member.
#[derive(Debug)]
pub enum ClientItem {
    /// A client does its next step.
    Think { client: usize },
    /// A request reaches its member.
    Arrive { call: CallId },
    /// An answer, or the news that there will be none, reaches the client.
    Answer { call: CallId, answer: Box<Answer> },
    /// The client has waited long enough.
    Patience { call: CallId },
}

/// What a client learns about its call.
#[derive(Debug)]
pub enum Answer {
    /// What the member says.
    Said(Result<Response, ApiError>),
    /// Nobody was there to take it.
    Refused,
    /// The connection broke.
    Lost,
}

/// One request and what became of it.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Who asked.
    pub client: usize,
    /// Who was asked.
    pub member: usize,
    /// When.
    pub call_at: u64,
    /// When the answer came.
    pub return_at: Option<u64>,
    /// What was asked.
    pub request: Request,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a request.
#[derive(Clone, PartialEq, Debug)]
pub enum Outcome {
    /// Nothing yet.
    Open,
    /// Answered.
    Ok(Response),
    /// An error that says that nothing was done.
    Failed(ApiError),
    /// It never reached anybody.
    Refused,
    /// Nobody knows.
    Unknown,
}

/// All clients and their history.
#[derive(Debug)]
pub struct Clients {
    clients: Vec<Client>,
    open: BTreeMap<CallId, usize>,
    calls: u64,
    /// Every operation, in the order of calls.
    pub history: Vec<Operation>,
    /// Scripts begin no further step.
    pub stopped: bool,
    /// Nobody thinks any more: what is left of the scripts is done at once.
    pub hurry: bool,
    /// What clients know together.
    pub shared: Shared,
    /// Refusals for want of space that were given in the present turn.
    refused: Vec<space::Refused>,
    /// Whether there was ever a refusal of that kind.
    pub was_full: bool,
    /// Every member must have space by now.
    pub has_space: bool,
}

#[derive(Debug)]
struct Client {
    script: Script,
    /// Where it sends its next request.
    member: usize,
    /// It left the member that it asked last, which did not answer.
    moved: bool,
    open: Option<CallId>,
    /// What it is at, if that takes more than one request.
    job: Option<Box<dyn Job>>,
    /// When its last request was sent, and to whom it was sent in vain.
    called: u64,
    failed_at: Option<usize>,
    serial: u64,
    revision: i64,
    /// Where each key stood when this client saw it last.
    seen: BTreeMap<u64, i64>,
}

#[derive(Debug)]
enum Script {
    Steps {
        steps: Vec<Step>,
        next: usize,
    },
    /// Asks one member until so many requests were answered well.
    Probe {
        left: u32,
    },
}

impl Clients {
    /// The clients of a plan; none has begun.
    pub fn new(plan: &Plan) -> Self {
        let client = |(number, steps): (usize, &Vec<Step>)| {
            let script = Script::Steps {
                steps: steps.clone(),
                next: 0,
            };
            Client::new(script, number % plan.cluster.members)
        };
        let shared = Shared::new(plan.drift_ppm());
        Self {
            shared,
            clients: plan.clients.iter().enumerate().map(client).collect(),
            open: BTreeMap::new(),
            calls: 0,
            history: Vec::new(),
            stopped: false,
            hurry: false,
            refused: Vec::new(),
            was_full: false,
            has_space: false,
        }
    }

    /// Whether every script has come to its end.
    pub fn are_done(&self) -> bool {
        self.clients.iter().all(|client| match &client.script {
            Script::Steps { steps, next } => {
                *next == steps.len() && client.open.is_none() && client.job.is_none()
            }
            Script::Probe { .. } => true,
        })
    }

    /// How many calls were neither answered nor given up.
    pub fn calls_open(&self) -> usize {
        self.open.len()
    }

    /// Members whose probe was not answered yet.
    pub fn probes_open(&self) -> Vec<usize> {
        let open = |client: &&Client| matches!(client.script, Script::Probe { left } if left > 0);
        let clients = self.clients.iter().filter(open);
        clients.map(|client| client.member).collect()
    }
}

impl World {
    /// Whether every probe was answered well, but for those of members that were removed meanwhile.
    pub fn probes_done(&self) -> bool {
        let open = self.clients.probes_open();
        open.into_iter().all(|at| !self.belongs(at))
    }

    /// Every client begins its script.
    pub fn start_clients(&mut self) {
        for client in 0..self.clients.clients.len() {
            let wait = match self.plan.waits_first {
                true => self.clients.clients[client].next_wait(),
                false => 0,
            };
            self.after(wait, Item::Client(ClientItem::Think { client }));
        }
    }

    /// A client that asks this member until it has been served: a write and a read.
    pub fn probe(&mut self, member: usize) {
        let client = self.clients.clients.len();
        let probe = Client::new(Script::Probe { left: 2 }, member);
        self.clients.clients.push(probe);
        self.after(0, Item::Client(ClientItem::Think { client }));
    }

    /// Something happens between a client and a member.
    pub fn on_client(&mut self, item: ClientItem) {
        match item {
            ClientItem::Think { client } => self.on_think(client),
            ClientItem::Arrive { call } => self.on_arrive(call),
            ClientItem::Answer { call, answer } => self.on_answer(call, *answer),
            ClientItem::Patience { call } => {
                if self.clients.open.contains_key(&call) {
                    self.counters.hit("client: gave up waiting");
                    let at = self.clients.history[self.clients.open[&call]].member;
                    if self.members[at].serving {
                        self.event_now(at, Event::Cancel { call });
                    }
                    self.on_answer(call, Answer::Lost);
                }
            }
        }
    }

    fn on_think(&mut self, number: usize) {
        let stopped = self.clients.stopped;
        let client = &mut self.clients.clients[number];
        client.serial += 1;
        if client.job.is_some() {
            return self.go_on(number);
        }
        let request = match &mut client.script {
            Script::Steps { steps, next } => {
                if *next == steps.len() || stopped {
                    *next = steps.len();
                    return;
                }
                let step = steps[*next].clone();
                *next += 1;
                if let Some(job) = work::job(&step.what) {
                    client.job = Some(job);
                    return self.go_on(number);
                }
                client.request(number, &step.what)
            }
            Script::Probe { left: 0 } => return,
            Script::Probe { left: 1 } => read("probe".into(), Vec::new()),
            Script::Probe { .. } => {
                let serial = client.serial;
                let author = Author {
                    client: number,
                    serial,
                };
                write("probe".into(), author, 1)
            }
        };
        self.call(number, None, request);
    }

    /// The job of a client takes its next turn. Work that has begun ends with the scripts.
    fn go_on(&mut self, number: usize) {
        let stopped = self.clients.stopped;
        let turn = match stopped {
            true => Turn::Done,
            false => self.with_job(number, |job, desk| job.next(desk)),
        };
        match turn {
            Turn::Ask(request) => self.call(number, None, request),
            // A plan that was changed may have fewer members than the one its steps were drawn for.
            Turn::AskAt(member, request) if member < self.members.len() && self.belongs(member) => {
                self.call(number, Some(member), request);
            }
            // Nobody is there to be asked any more.
            Turn::AskAt(..) => {
                self.with_job(number, |job, desk| job.hear(desk, &Outcome::Refused));
                let pause = self.thinking(HURRIED_WAIT);
                self.after(pause, Item::Client(ClientItem::Think { client: number }));
            }
            Turn::Pause(nanos) => {
                let nanos = self.thinking(nanos);
                self.after(nanos, Item::Client(ClientItem::Think { client: number }));
            }
            Turn::Done => {
                let client = &mut self.clients.clients[number];
                client.job = None;
                let pause = client.next_wait();
                let pause = self.thinking(pause);
                self.after(pause, Item::Client(ClientItem::Think { client: number }));
            }
        }
    }

    /// How long a client thinks that would like to take so long.
    fn thinking(&self, nanos: u64) -> u64 {
        match self.clients.hurry {
            true => nanos.min(HURRIED_WAIT),
            false => nanos,
        }
    }

    fn with_job<R>(
        &mut self,
        number: usize,
        act: impl FnOnce(&mut dyn Job, &mut Desk<'_>) -> R,
    ) -> R {
        let client = &mut self.clients.clients[number];
        let mut job = client.job.take().expect("a client at work has a job");
        let mut desk = Desk {
            now: self.now,
            called: client.called,
            author: Author {
                client: number,
                serial: client.serial,
            },
            members: self.members.len(),
            revision: client.revision,
            seen: &client.seen,
            shared: &mut self.clients.shared,
            counters: &mut self.counters,
        };
        let result = act(job.as_mut(), &mut desk);
        client.job = Some(job);
        let shared = &mut self.clients.shared;
        let (broken, abandoned) = (shared.broken.take(), std::mem::take(&mut shared.abandoned));
        if let Some(violation) = broken {
            self.fail(violation);
        }
        for (at, id) in abandoned {
            self.own_call(at, Request::SnapshotClose { id });
        }
        result
    }

    /// Sends a request, to the client's member if no other is named.
    fn call(&mut self, number: usize, member: Option<usize>, request: Request) {
        let now = self.now;
        let clients = &mut self.clients;
        clients.calls += 1;
        let call = CallId::new(clients.calls);
        let client = &mut clients.clients[number];
        client.open = Some(call);
        client.called = now;
        let member = member.unwrap_or(client.member);
        if client
            .failed_at
            .take()
            .is_some_and(|failed| failed != member)
        {
            self.counters.hit("work: went on at another member");
        }
        clients.open.insert(call, clients.history.len());
        clients.history.push(Operation {
            client: number,
            member,
            call_at: now,
            return_at: None,
            request,
            outcome: Outcome::Open,
        });
        let patience = self.plan.patience_ms * 1_000_000;
        self.after(patience, Item::Client(ClientItem::Patience { call }));
        if self.network.loses_client() {
            self.counters.hit("client: request lost");
            return;
        }
        let delay = self.network.client_delay();
        self.after(delay, Item::Client(ClientItem::Arrive { call }));
    }

    fn on_arrive(&mut self, call: CallId) {
        let Some(operation) = self.clients.open.get(&call) else {
            return;
        };
        let operation = &self.clients.history[*operation];
        let at = operation.member;
        let member = &self.members[at];
        if !member.serving {
            if member.powered {
                self.answer(call, Answer::Refused);
            }
            return;
        }
        let request = over_the_wire(&operation.request);
        if let Err(error) = check_at_the_edge(&request) {
            self.counters.hit("client: refused at the edge");
            return self.answer(call, Answer::Said(Err(error)));
        }
        self.event_now(
            at,
            Event::Call {
                call,
                credentials: Credentials::default(),
                request,
            },
        );
    }

    /// A member answers a call.
    pub fn on_reply(&mut self, at: usize, call: CallId, result: Result<Response, ApiError>) {
        let result = result.map(Response::joined);
        if result == Err(ApiError::NoSpace) {
            self.on_no_space(at, call);
        }
        let opened = match &result {
            Ok(Response::SnapshotOpened { id, .. }) => Some(*id),
            Ok(_) | Err(_) => None,
        };
        let is_open = self.clients.open.contains_key(&call);
        if is_open && !self.network.loses_client() {
            self.answer(call, Answer::Said(result));
            return;
        }
        // The edge lets go what it cannot hand on.
        if let Some(id) = opened {
            self.own_call(at, Request::SnapshotClose { id });
        }
        if is_open {
            self.counters.hit("client: answer lost");
        } else {
            self.on_nemesis_reply(at, call, result);
        }
    }

    fn answer(&mut self, call: CallId, answer: Answer) {
        let delay = self.network.client_delay();
        let answer = Box::new(answer);
        self.after(delay, Item::Client(ClientItem::Answer { call, answer }));
    }

    /// The connections of a member's clients break with it, if its machine can still say so.
    pub fn drop_calls(&mut self, at: usize) {
        let history = &self.clients.history;
        let open = self.clients.open.iter();
        let gone = open.filter(|(_, operation)| history[**operation].member == at);
        let gone: Vec<CallId> = gone.map(|(call, _)| *call).collect();
        for call in gone {
            if self.members[at].powered {
                self.answer(call, Answer::Lost);
            }
        }
    }

    fn on_answer(&mut self, call: CallId, answer: Answer) {
        let Some(index) = self.clients.open.remove(&call) else {
            return;
        };
        let next_slot = self.next_slot(self.clients.history[index].member);
        let operation = &mut self.clients.history[index];
        let number = operation.client;
        let client = &mut self.clients.clients[number];
        operation.outcome = match answer {
            Answer::Said(Ok(response)) => Outcome::Ok(response),
            Answer::Said(Err(error)) if changes_nothing(error) => Outcome::Failed(error),
            Answer::Said(Err(_)) | Answer::Lost => Outcome::Unknown,
            Answer::Refused => Outcome::Refused,
        };
        client.open = None;
        let mut pause = 0;
        let mut is_ok = false;
        let is_full = operation.outcome == Outcome::Failed(ApiError::NoSpace);
        match &operation.outcome {
            Outcome::Ok(response) => {
                operation.return_at = Some(self.now);
                client.learn(&operation.request, response);
                is_ok = true;
                self.counters.hit("client: answered");
                count_answer(operation, self.observer.elected_at, &mut self.counters);
                let moved = std::mem::take(&mut client.moved);
                let name = "client: answered by the next member";
                self.counters.add(name, u64::from(moved));
                if let Some(counter) = branch_counter(&operation.request, response) {
                    self.counters.hit(counter);
                }
            }
            Outcome::Failed(error) => {
                operation.return_at = Some(self.now);
                if *error == ApiError::NotSupportedForLearner
                    && let Script::Steps { .. } = client.script
                {
                    client.member = next_slot;
                }
                self.counters.hit("client: refused with an error");
            }
            Outcome::Refused | Outcome::Unknown | Outcome::Open => {
                let unknown = operation.outcome == Outcome::Unknown;
                self.counters.hit(match unknown {
                    true => "client: unknown outcome",
                    false => "client: nobody there",
                });
                pause = 20_000_000;
                if let Script::Steps { .. } = client.script {
                    client.failed_at = Some(operation.member);
                    client.moved = next_slot != client.member;
                    client.member = next_slot;
                }
            }
        }
        if let Script::Probe { left } = &mut client.script {
            // A member that says that it is full serves; what it says is judged elsewhere.
            if is_ok || (is_full && !self.clients.has_space) {
                *left -= 1;
            } else {
                pause += 50_000_000;
            }
        }
        if client.job.is_some() {
            let outcome = operation.outcome.clone();
            self.with_job(number, |job, desk| job.hear(desk, &outcome));
        } else {
            let wait = client.next_wait();
            pause += self.thinking(wait);
        }
        self.after(pause, Item::Client(ClientItem::Think { client: number }));
    }
}

/// Counts what an answer shows of the paths that were taken.
fn count_answer(operation: &Operation, elected_at: u64, counters: &mut Counters) {
    match (&operation.request, &operation.outcome) {
        (_, Outcome::Ok(Response::Txn(txn))) => counters.hit(match txn.succeeded {
            true => "client: txn took its first branch",
            false => "client: txn took its second branch",
        }),
        (Request::Range(range), Outcome::Ok(_))
            if !range.serializable && elected_at > operation.call_at =>
        {
            counters.hit("read: served after a change of leader");
        }
        (_, _) => {}
    }
}
