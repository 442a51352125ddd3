//! Clients: each does one thing after the other, waits a while for the answer, and otherwise does
//! not know what became of it. What they saw is the history of the run.
//!
//! Invariant: a write is sent at most once. A client whose write went to a member and was not
//! answered goes on with its next step at another member.

use std::collections::BTreeMap;

use fated::{
    kernel::{ApiError, CallId, Credentials, Event, Request, Response, error::Code},
    pb::etcdserverpb as rpc,
};
use prost::Message;

use crate::{
    counters::Counters,
    draw,
    plan::Plan,
    script::{Step, What},
    world::{Item, World},
};

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
}

#[derive(Debug)]
struct Client {
    script: Script,
    /// Where it sends its next request.
    member: usize,
    /// It left the member that it asked last, which did not answer.
    moved: bool,
    open: Option<CallId>,
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
        let client = |(number, steps): (usize, &Vec<Step>)| Client {
            script: Script::Steps {
                steps: steps.clone(),
                next: 0,
            },
            member: number % plan.cluster.members,
            moved: false,
            open: None,
            serial: 0,
            revision: 0,
            seen: BTreeMap::new(),
        };
        Self {
            clients: plan.clients.iter().enumerate().map(client).collect(),
            open: BTreeMap::new(),
            calls: 0,
            history: Vec::new(),
            stopped: false,
        }
    }

    /// Whether every script has come to its end.
    pub fn are_done(&self) -> bool {
        self.clients.iter().all(|client| match &client.script {
            Script::Steps { steps, next } => *next == steps.len() && client.open.is_none(),
            Script::Probe { .. } => true,
        })
    }

    /// Whether every probe was answered well.
    pub fn probes_done(&self) -> bool {
        self.clients.iter().all(|client| match &client.script {
            Script::Steps { .. } => true,
            Script::Probe { left } => *left == 0,
        })
    }

    /// Members whose probe was not answered yet.
    pub fn probes_open(&self) -> Vec<usize> {
        let open = |client: &&Client| matches!(client.script, Script::Probe { left } if left > 0);
        let clients = self.clients.iter().filter(open);
        clients.map(|client| client.member).collect()
    }
}

impl World {
    /// Every client begins its script.
    pub fn start_clients(&mut self) {
        for client in 0..self.clients.clients.len() {
            self.after(0, Item::Client(ClientItem::Think { client }));
        }
    }

    /// A client that asks this member until it has been served: a write and a read.
    pub fn probe(&mut self, member: usize) {
        let client = self.clients.clients.len();
        self.clients.clients.push(Client {
            script: Script::Probe { left: 2 },
            member,
            moved: false,
            open: None,
            serial: 0,
            revision: 0,
            seen: BTreeMap::new(),
        });
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
        let request = match &mut client.script {
            Script::Steps { steps, next } => {
                if *next == steps.len() || stopped {
                    *next = steps.len();
                    return;
                }
                let step = steps[*next].clone();
                *next += 1;
                client.request(number, &step.what)
            }
            Script::Probe { left: 0 } => return,
            Script::Probe { left: 1 } => read("probe".into(), Vec::new()),
            Script::Probe { .. } => write("probe".into(), number, client.serial, 1),
        };
        self.call(number, request);
    }

    fn call(&mut self, number: usize, request: Request) {
        let clients = &mut self.clients;
        clients.calls += 1;
        let call = CallId::new(clients.calls);
        let client = &mut clients.clients[number];
        client.open = Some(call);
        clients.open.insert(call, clients.history.len());
        clients.history.push(Operation {
            client: number,
            member: client.member,
            call_at: self.now,
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
        if self.clients.open.contains_key(&call) {
            if self.network.loses_client() {
                self.counters.hit("client: answer lost");
                return;
            }
            self.answer(call, Answer::Said(result));
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
        let members = self.plan.cluster.members;
        let operation = &mut self.clients.history[index];
        let client = &mut self.clients.clients[operation.client];
        operation.outcome = match answer {
            Answer::Said(Ok(response)) => Outcome::Ok(response),
            Answer::Said(Err(error)) if changes_nothing(error) => Outcome::Failed(error),
            Answer::Said(Err(_)) | Answer::Lost => Outcome::Unknown,
            Answer::Refused => Outcome::Refused,
        };
        client.open = None;
        let mut pause = 0;
        let mut moves = false;
        match &operation.outcome {
            Outcome::Ok(response) => {
                operation.return_at = Some(self.now);
                client.learn(&operation.request, response);
                self.counters.hit("client: answered");
                count_answer(operation, self.observer.elected_at, &mut self.counters);
                let moved = std::mem::take(&mut client.moved);
                let name = "client: answered by the next member";
                self.counters.add(name, u64::from(moved));
            }
            Outcome::Failed(_) => {
                operation.return_at = Some(self.now);
                self.counters.hit("client: refused with an error");
            }
            Outcome::Refused | Outcome::Unknown | Outcome::Open => {
                let unknown = operation.outcome == Outcome::Unknown;
                self.counters.hit(match unknown {
                    true => "client: unknown outcome",
                    false => "client: nobody there",
                });
                moves = true;
                pause = 20_000_000;
            }
        }
        match &mut client.script {
            Script::Steps { steps, next } => {
                if moves {
                    client.member = (client.member + 1) % members;
                    client.moved = members > 1;
                }
                pause += steps.get(*next).map_or(0, |step| step.wait_us * 1000);
            }
            Script::Probe { left } => {
                if matches!(operation.outcome, Outcome::Ok(_)) {
                    *left -= 1;
                } else {
                    pause += 50_000_000;
                }
            }
        }
        let client = operation.client;
        self.after(pause, Item::Client(ClientItem::Think { client }));
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

/// Errors after which it is certain that nothing was done and nothing will be.
fn changes_nothing(error: ApiError) -> bool {
    match error.code() {
        Code::InvalidArgument
        | Code::NotFound
        | Code::OutOfRange
        | Code::FailedPrecondition
        | Code::ResourceExhausted
        | Code::PermissionDenied
        | Code::Unauthenticated => true,
        Code::Unknown => error == ApiError::TooManyRequests,
        Code::Canceled
        | Code::DeadlineExceeded
        | Code::Unimplemented
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => false,
    }
}

impl Client {
    fn request(&self, number: usize, what: &What) -> Request {
        match what {
            What::Put { key, bytes } => write(name(*key), number, self.serial, *bytes),
            What::Get { key, serializable } => Request::Range(rpc::RangeRequest {
                key: name(*key).into(),
                serializable: *serializable,
                ..Default::default()
            }),
            What::Range { from, to, back } => Request::Range(rpc::RangeRequest {
                key: name(*from).into(),
                range_end: name(*to).into(),
                revision: match back {
                    0 => 0,
                    back => (self.revision - back).max(1),
                },
                ..Default::default()
            }),
            What::Delete { key } => delete(name(*key), self.behind(number, *key)),
            What::DeleteRange { from, to } => delete(
                name(*from),
                self.behind(number, to.saturating_sub(1).max(*from)),
            ),
            What::Swap { key } => {
                let known = self.seen.get(key).copied().unwrap_or_default();
                let compare = compare(name(*key), rpc::compare::TargetUnion::ModRevision(known));
                let success = vec![write(name(*key), number, self.serial, 1)];
                let failure = vec![read(name(*key), Vec::new())];
                txn(compare, success, failure)
            }
            What::Txn { keys } => {
                let compare = compare(name(keys[0]), rpc::compare::TargetUnion::Version(0));
                let put = |key: &u64| write(name(*key), number, self.serial, 1 + *key);
                let success = keys.iter().map(put).collect();
                let mut failure = vec![delete(name(keys[0]), Vec::new())];
                let rest = keys[1..].iter();
                failure.extend(rest.map(|key| read(name(*key), Vec::new())));
                txn(compare, success, failure)
            }
            What::Compact { back } => Request::Compact(rpc::CompactionRequest {
                revision: (self.revision - back).max(1),
                physical: false,
            }),
        }
    }

    /// An end of a range, right behind a key, that nobody else ever uses: so each deletion in the
    /// log tells whose it is.
    fn behind(&self, number: usize, key: u64) -> Vec<u8> {
        format!("{}\0{number}.{}", name(key), self.serial).into_bytes()
    }

    /// Remembers what an answer shows.
    fn learn(&mut self, request: &Request, response: &Response) {
        match (request, response) {
            (Request::Range(_), Response::Range(response)) => {
                self.at_revision(response.header.as_ref());
                self.learn_pairs(&response.kvs);
            }
            (Request::Put(put), Response::Put(response)) => {
                self.at_revision(response.header.as_ref());
                if let Some(key) = number_of(&put.key) {
                    let revision = response.header.as_ref().map_or(0, |header| header.revision);
                    self.seen.insert(key, revision);
                }
            }
            (_, Response::Txn(response)) => {
                self.at_revision(response.header.as_ref());
                for op in &response.responses {
                    if let Some(rpc::response_op::Response::ResponseRange(range)) = &op.response {
                        self.learn_pairs(&range.kvs);
                    }
                }
            }
            (_, Response::DeleteRange(response)) => self.at_revision(response.header.as_ref()),
            (_, _) => {}
        }
    }

    fn at_revision(&mut self, header: Option<&rpc::ResponseHeader>) {
        let revision = header.map_or(0, |header| header.revision);
        self.revision = self.revision.max(revision);
    }

    fn learn_pairs(&mut self, pairs: &[fated::pb::mvccpb::KeyValue]) {
        for pair in pairs {
            if let Some(key) = number_of(&pair.key) {
                self.seen.insert(key, pair.mod_revision);
            }
        }
    }
}

/// The key of a number.
pub fn name(key: u64) -> String {
    format!("k{key:03}")
}

fn number_of(key: &[u8]) -> Option<u64> {
    std::str::from_utf8(key.strip_prefix(b"k")?)
        .ok()?
        .parse()
        .ok()
}

fn read(key: String, range_end: Vec<u8>) -> Request {
    Request::Range(rpc::RangeRequest {
        key: key.into(),
        range_end: range_end.into(),
        ..Default::default()
    })
}

/// A value that nobody else ever writes, about this long.
fn write(key: String, client: usize, serial: u64, bytes: u64) -> Request {
    let mut value = format!("{client}.{serial}.{key}");
    value.extend(std::iter::repeat_n('x', draw::usize(bytes)));
    Request::Put(rpc::PutRequest {
        key: key.into(),
        value: value.into(),
        ..Default::default()
    })
}

fn delete(key: String, range_end: Vec<u8>) -> Request {
    Request::DeleteRange(rpc::DeleteRangeRequest {
        key: key.into(),
        range_end: range_end.into(),
        prev_kv: true,
    })
}

fn compare(key: String, union: rpc::compare::TargetUnion) -> rpc::Compare {
    let target = match union {
        rpc::compare::TargetUnion::Version(_) => rpc::compare::CompareTarget::Version,
        _ => rpc::compare::CompareTarget::Mod,
    };
    rpc::Compare {
        result: rpc::compare::CompareResult::Equal as i32,
        target: target as i32,
        key: key.into(),
        target_union: Some(union),
        ..Default::default()
    }
}

fn txn(compare: rpc::Compare, success: Vec<Request>, failure: Vec<Request>) -> Request {
    let ops = |requests: Vec<Request>| requests.into_iter().map(request_op).collect();
    Request::Txn(rpc::TxnRequest {
        compare: vec![compare],
        success: ops(success),
        failure: ops(failure),
    })
}

fn request_op(request: Request) -> rpc::RequestOp {
    use rpc::request_op::Request as Op;
    let op = match request {
        Request::Range(range) => Op::RequestRange(range),
        Request::Put(put) => Op::RequestPut(put),
        Request::DeleteRange(delete) => Op::RequestDeleteRange(delete),
        other => unreachable!("no txn of this client holds {other:?}"),
    };
    rpc::RequestOp { request: Some(op) }
}

/// What the member decodes of what the client encoded.
fn over_the_wire(request: &Request) -> Request {
    fn twin<M: Message + Default>(message: &M) -> M {
        M::decode(message.encode_to_vec().as_slice()).expect("what was encoded can be decoded")
    }
    match request {
        Request::Range(range) => Request::Range(twin(range)),
        Request::Put(put) => Request::Put(twin(put)),
        Request::DeleteRange(delete) => Request::DeleteRange(twin(delete)),
        Request::Txn(txn) => Request::Txn(twin(txn)),
        Request::Compact(compact) => Request::Compact(twin(compact)),
        other => other.clone(),
    }
}
