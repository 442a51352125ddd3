//! Clients that write and read while something happens to the members.

use std::{
    panic,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use bytes::Bytes;
use fated::pb::etcdserverpb::{
    Compare, PutRequest, RangeRequest, RequestOp, TxnRequest, compare, request_op,
};
use tonic::Status;

use super::ledger::{COUNTER_COUNT, Ledger, WRITES, counter_key, parse};
use crate::support::{Client, Random};

const CALL_LIMIT: Duration = Duration::from_secs(3);
/// Keeps debug builds of three members and their clients on two cores from starving each other.
const PAUSE: Duration = Duration::from_millis(4);

/// Running clients. [`Load::finish`] ends them and hands on their panics.
#[derive(Debug)]
pub struct Load {
    /// What they were told.
    pub ledger: Arc<Ledger>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts `writers` clients that use all endpoints in turn by chance.
    pub fn start(endpoints: &[String], writers: usize, seed: u64) -> Self {
        let mut load = Self {
            ledger: Arc::default(),
            stop: Arc::default(),
            threads: Vec::new(),
        };
        load.write_through(endpoints, writers, seed);
        load
    }

    /// Adds writers that use these endpoints.
    pub fn write_through(&mut self, endpoints: &[String], writers: usize, seed: u64) {
        for _ in 0..writers {
            let writer = self.threads.len();
            let seed = seed ^ ((u64::try_from(writer).expect("few") + 1) << 32);
            let mut worker = Worker::new(self, endpoints, Random::new(seed));
            self.spawn(move || worker.write_on(writer));
        }
    }

    /// Adds a reader that reads counters through one endpoint only, with a long patience: its calls
    /// outlive a pause of the member.
    pub fn read_through(&mut self, endpoint: &str, patience: Duration) {
        let client = Client::new(endpoint).with_timeout(patience);
        let (ledger, stop) = (Arc::clone(&self.ledger), Arc::clone(&self.stop));
        let endpoint = endpoint.to_owned();
        self.spawn(move || {
            for round in 0_usize.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let counter = round % COUNTER_COUNT;
                let floor = ledger.floor(counter);
                if let Ok((value, _)) = read_counter(&client, counter) {
                    ledger.read(counter, floor, value, &endpoint);
                }
                thread::sleep(PAUSE);
            }
        });
    }

    /// Ends all clients.
    pub fn finish(mut self) -> Arc<Ledger> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if let Err(cause) = thread.join() {
                panic::resume_unwind(cause);
            }
        }
        Arc::clone(&self.ledger)
    }

    fn spawn(&mut self, work: impl FnOnce() + Send + 'static) {
        self.threads.push(thread::spawn(work));
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

struct Worker {
    clients: Vec<Client>,
    names: Vec<String>,
    random: Random,
    ledger: Arc<Ledger>,
    stop: Arc<AtomicBool>,
}

impl Worker {
    fn new(load: &Load, endpoints: &[String], random: Random) -> Self {
        let client = |endpoint: &String| Client::new(endpoint).with_timeout(CALL_LIMIT);
        Self {
            clients: endpoints.iter().map(client).collect(),
            names: endpoints.to_vec(),
            random,
            ledger: Arc::clone(&load.ledger),
            stop: Arc::clone(&load.stop),
        }
    }

    fn write_on(&mut self, writer: usize) {
        for number in 0_u64.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let place = self.random.index(self.clients.len());
            let counter = self.random.index(COUNTER_COUNT);
            match self.random.below(4) {
                0 | 1 => self.write(place, &format!("{writer}/{number}")),
                2 => self.increment(place, counter),
                _ => self.read(place, counter),
            }
            thread::sleep(PAUSE);
        }
    }

    fn write(&mut self, place: usize, name: &str) {
        let key = Bytes::from(format!("{WRITES}{name}"));
        let value = Bytes::from(format!("value of {name} {}", self.random.next()));
        match self.clients[place].put(key.clone(), value.clone()) {
            Ok(response) => {
                let revision = response.header.expect("a header").revision;
                self.ledger.wrote(key, value, revision);
            }
            Err(_) => self.ledger.wrote_maybe(key, value),
        }
    }

    fn read(&mut self, place: usize, counter: usize) {
        let floor = self.ledger.floor(counter);
        if let Ok((value, _)) = read_counter(&self.clients[place], counter) {
            self.ledger.read(counter, floor, value, &self.names[place]);
        }
    }

    fn increment(&mut self, place: usize, counter: usize) {
        let floor = self.ledger.floor(counter);
        let Ok((value, revision)) = read_counter(&self.clients[place], counter) else {
            return;
        };
        self.ledger.read(counter, floor, value, &self.names[place]);
        match self.clients[place].txn(swap(counter, revision, value + 1)) {
            Ok(response) if response.succeeded => {
                let revision = response.header.expect("a header").revision;
                self.ledger.incremented(counter, value + 1, revision);
            }
            Ok(_) => {} // somebody else was quicker
            Err(_) => self.ledger.incremented_maybe(counter),
        }
    }
}

/// Value and revision of a counter; zeros when it was never set.
fn read_counter(client: &Client, counter: usize) -> Result<(u64, i64), Status> {
    let request = RangeRequest {
        key: counter_key(counter),
        ..Default::default()
    };
    let kvs = client.range(request)?.kvs;
    Ok(kvs
        .first()
        .map_or((0, 0), |kv| (parse(&kv.value), kv.mod_revision)))
}

fn swap(counter: usize, revision: i64, value: u64) -> TxnRequest {
    let unchanged = Compare {
        result: compare::CompareResult::Equal.into(),
        target: compare::CompareTarget::Mod.into(),
        key: counter_key(counter),
        target_union: Some(compare::TargetUnion::ModRevision(revision)),
        ..Default::default()
    };
    let put = PutRequest {
        key: counter_key(counter),
        value: value.to_string().into(),
        ..Default::default()
    };
    TxnRequest {
        compare: vec![unchanged],
        success: vec![RequestOp {
            request: Some(request_op::Request::RequestPut(put)),
        }],
        failure: Vec::new(),
    }
}
