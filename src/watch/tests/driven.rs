//! Random driving: streams, watches, writes, compactions, images, credit and slices in any order.
//! Method: `model` holds every response against the full log; at the end everything heals, and each
//! watch must have got exactly what it asked for.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use proptest::prelude::*;

use super::*;
use crate::watch::model::{Client, judge};

const KEYS: [&str; 5] = ["a", "b", "c", "d", "e"];

#[derive(Clone, Debug)]
enum Step {
    Open(u64),
    Close(u64),
    Create {
        stream: u64,
        request: rpc::WatchCreateRequest,
        /// Added to the store's revision, unless that is to be zero.
        start: Option<i64>,
    },
    Cancel(u64, usize),
    Progress(u64),
    /// Each key is put, deleted or left alone; the hub is told now or later.
    Write([u8; 5], bool),
    Tell,
    Compact(i64),
    /// Writes that come as an image.
    Install([u8; 5]),
    Slice,
    Credit(u64, u64),
    Tick,
}

fn requests() -> impl Strategy<Value = rpc::WatchCreateRequest> {
    let key = prop::sample::select(vec!["", "a", "b", "c"]);
    let end = prop::sample::select(vec!["", "", "\0", "b", "c", "e"]);
    let filters = prop::sample::select(vec![vec![], vec![], vec![0], vec![1], vec![9]]);
    let flags = any::<[bool; 3]>();
    let id = prop_oneof![5 => Just(0_i64), 1 => 1..4_i64];
    (key, end, filters, flags, id).prop_map(|(key, end, filters, flags, watch_id)| {
        let [prev_kv, fragment, progress_notify] = flags;
        rpc::WatchCreateRequest {
            filters,
            prev_kv,
            fragment,
            progress_notify,
            watch_id,
            ..on(key, end)
        }
    })
}

fn steps() -> impl Strategy<Value = Step> {
    let stream = || 1..4_u64;
    let writes = || prop::array::uniform5(0..5_u8);
    let start = prop::option::weighted(0.7, -8..4_i64);
    prop_oneof![
        2 => stream().prop_map(Step::Open),
        1 => prop::bool::weighted(0.3).prop_flat_map(move |_| stream()).prop_map(Step::Close),
        8 => (stream(), requests(), start)
            .prop_map(|(stream, request, start)| Step::Create { stream, request, start }),
        2 => (stream(), 0..5_usize).prop_map(|(stream, nth)| Step::Cancel(stream, nth)),
        4 => stream().prop_map(Step::Progress),
        16 => (writes(), prop::bool::weighted(0.8)).prop_map(|(keys, now)| Step::Write(keys, now)),
        3 => Just(Step::Tell),
        2 => (0..6_i64).prop_map(Step::Compact),
        1 => writes().prop_map(Step::Install),
        10 => Just(Step::Slice),
        10 => (stream(), 1..6000_u64).prop_map(|(stream, bytes)| Step::Credit(stream, bytes)),
        3 => Just(Step::Tick),
    ]
}

fn settings() -> impl Strategy<Value = Settings> {
    (
        700..6000_u64,
        1000..20_000_u64,
        1..6_usize,
        1..5_usize,
        60..400_usize,
        1..12_usize,
        100..260_usize,
    )
        .prop_map(
            |(
                window_bytes,
                windows_bytes_max,
                revisions,
                watches,
                bytes,
                events,
                fragment_bytes,
            )| Settings {
                window_bytes,
                windows_bytes_max,
                window_bytes_min: window_bytes / 3,
                fragment_bytes,
                control_max: 12,
                catchup_revisions: revisions,
                catchup_bytes: bytes,
                catchup_watches: watches,
                catchup_events: events,
                ..Settings::default()
            },
        )
}

/// A bench whose clients look at everything that goes out.
struct Driven {
    bench: Bench,
    clients: BTreeMap<StreamId, Client>,
}

impl Driven {
    fn step(&mut self, step: Step) {
        let bench = &mut self.bench;
        match step {
            Step::Open(stream) => {
                let stream = StreamId::new(stream);
                if let Entry::Vacant(vacant) = self.clients.entry(stream) {
                    bench.open(stream);
                    vacant.insert(Client::default());
                }
            }
            Step::Close(stream) => {
                bench.hub.close(StreamId::new(stream));
                self.clients.remove(&StreamId::new(stream));
            }
            Step::Create {
                stream,
                mut request,
                start,
            } => {
                let stream = StreamId::new(stream);
                request.start_revision = start.map_or(0, |start| start + bench.log.revision());
                if let Some(client) = self.clients.get_mut(&stream) {
                    client.asks(request.clone());
                    bench.create(stream, request);
                }
            }
            Step::Cancel(stream, nth) => {
                let stream = StreamId::new(stream);
                if let Some(client) = self.clients.get_mut(&stream)
                    && let Some(id) = client.watches().get(nth).copied()
                    && client.cancels(id)
                {
                    bench.cancel(stream, id);
                }
            }
            Step::Progress(stream) => bench.progress(StreamId::new(stream)),
            Step::Write(keys, now) => {
                write(&mut bench.log, keys);
                if now {
                    bench.tell();
                }
            }
            Step::Tell => bench.tell(),
            Step::Compact(back) => {
                let revision = bench.log.revision() - back;
                if revision > bench.log.compacted {
                    bench.compact(revision);
                }
            }
            Step::Install(keys) => {
                write(&mut bench.log, keys);
                write(&mut bench.log, keys);
                bench.install();
            }
            Step::Slice => {
                bench.slice();
            }
            Step::Credit(stream, bytes) => self.credit(StreamId::new(stream), bytes),
            Step::Tick => {
                if bench.hub.deadline().is_some() {
                    bench.tick();
                }
            }
        }
        self.judge();
    }

    fn judge(&mut self) {
        let output = self.bench.hub.take_output();
        judge(
            &mut self.clients,
            output,
            &self.bench.log,
            &self.bench.settings,
        );
        self.bench.hub.check();
    }

    fn credit(&mut self, stream: StreamId, bytes: u64) {
        let all = self.clients.values().map(|client| client.in_flight);
        let all = all.sum::<u64>();
        if let Some(client) = self.clients.get_mut(&stream) {
            let others = all - client.in_flight;
            let bytes = client.takes(bytes, others, &self.bench.settings);
            self.bench.hub.credit(stream, bytes);
        }
    }

    /// Everything heals: each watch that was not ended gets all there is, and progress is told.
    fn heal(&mut self) {
        self.bench.tell();
        self.judge();
        self.drain();
        let log = &self.bench.log;
        assert!(
            self.clients.values().all(|client| client.is_complete(log)),
            "nothing is lost"
        );
        assert_eq!(self.bench.hub.counters().watchers_behind, 0);
        for stream in self.clients.keys().copied().collect::<Vec<_>>() {
            let before = self.clients[&stream].progress_answers;
            self.bench.progress(stream);
            self.judge();
            let client = &self.clients[&stream];
            let expected = usize::from(client.can_progress(&self.bench.log));
            assert_eq!(
                client.progress_answers - before,
                expected,
                "progress at rest"
            );
        }
    }

    fn drain(&mut self) {
        for _ in 0..10_000 {
            let mut idle = true;
            for stream in self.clients.keys().copied().collect::<Vec<_>>() {
                idle &= self.clients[&stream].in_flight == 0;
                self.credit(stream, u64::MAX);
                self.judge();
            }
            let more = self.bench.slice();
            self.judge();
            idle &= self.clients.values().all(|client| client.in_flight == 0);
            if !more && idle && self.bench.hub.counters().answers_waiting == 0 {
                return;
            }
        }
        panic!("catch-up never ends");
    }
}

fn write(log: &mut Log, keys: [u8; 5]) {
    let named = |wanted: u8| -> Vec<&str> {
        let chosen = KEYS.iter().zip(keys).filter(|(_, kind)| *kind == wanted);
        chosen.map(|(key, _)| *key).collect()
    };
    log.write(&named(0), &named(1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn every_watch_gets_exactly_what_it_asked_for(
        settings in settings(),
        steps in prop::collection::vec(steps(), 0..160),
    ) {
        let bench = Bench::new(settings);
        let mut driven = Driven { bench, clients: BTreeMap::new() };
        driven.step(Step::Open(1));
        for step in steps {
            driven.step(step);
        }
        driven.heal();
    }
}
