//! Loads of watches.
//!
//! A put carries its number, so an event says which put it belongs to and its delay counts from the
//! moment the put was sent. Invariant: without a fixed rate a writer puts again when every watcher
//! has what it put before, so a server that lets watchers fall behind gains nothing.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::{BufMut, Bytes, BytesMut};
use fated::pb::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use tokio::{
    sync::oneshot,
    task::JoinSet,
    time::{sleep_until, timeout},
};

use crate::{
    client::{Conn, Stream, frame},
    events, key,
    methods::{PUT, WATCH, put, watch},
    record::Record,
    workload::{self, Spec, Workload, value},
};

/// Streams that share the watchers of one key, as in etcd's tool.
const STREAMS: usize = 10;
/// Puts whose events may be on their way.
const RING: usize = 1 << 14;
/// Puts a second where the delay is asked for.
const LATENCY_RATE: u64 = 20;
/// How long the watches may take to be there.
const CREATE_LIMIT: Duration = Duration::from_secs(60);
/// Events of the key whose past is watched, as in etcd's tool.
const PAST_EVENTS: usize = 8;

type Watching = Stream<WatchRequest, WatchResponse>;

/// What is on its way.
struct Board {
    slots: Mutex<Vec<Slot>>,
    next: AtomicU64,
}

struct Slot {
    begun: Instant,
    /// Events that have not come yet.
    left: usize,
    done: Option<oneshot::Sender<()>>,
}

impl Board {
    fn new() -> Self {
        let empty = || Slot {
            begun: Instant::now(),
            left: 0,
            done: None,
        };
        Self {
            slots: Mutex::new(std::iter::repeat_with(empty).take(RING).collect()),
            next: AtomicU64::new(1),
        }
    }

    /// A put that begins now; gives its number, and what tells that everybody has it.
    fn begin(&self, watchers: usize) -> (u64, oneshot::Receiver<()>) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (done, all) = oneshot::channel();
        self.slots.lock().expect("nobody panics while holding it")[place(number)] = Slot {
            begun: Instant::now(),
            left: watchers,
            done: Some(done),
        };
        (number, all)
    }

    /// Events came; notes them.
    fn came(&self, numbers: &[u64], record: &Record) {
        let mut slots = self.slots.lock().expect("nobody panics while holding it");
        for number in numbers.iter().filter(|number| **number > 0) {
            let slot = &mut slots[place(*number)];
            record.note(slot.begun);
            slot.left = slot.left.saturating_sub(1);
            if slot.left == 0
                && let Some(done) = slot.done.take()
            {
                // A writer that keeps a rate does not wait.
                let _ = done.send(());
            }
        }
    }
}

fn place(number: u64) -> usize {
    usize::try_from(number).expect("few") % RING
}

/// Whether a load has writers of its own.
pub fn writes_by_itself(workload: Workload) -> bool {
    match workload {
        Workload::Watch | Workload::WatchMany | Workload::WatchLatency | Workload::WatchGet => true,
        Workload::Put
        | Workload::Range
        | Workload::RangeSerializable
        | Workload::RangeMany
        | Workload::TxnPut
        | Workload::TxnMixed
        | Workload::Cas
        | Workload::Stm
        | Workload::Mixed
        | Workload::Kubernetes
        | Workload::Lease => false,
    }
}

/// Starts watchers, and then writers.
pub async fn start(
    workload: Workload,
    spec: &Spec,
    conns: &[Conn],
    record: &Arc<Record>,
) -> Result<JoinSet<()>, String> {
    let mut tasks = JoinSet::new();
    if workload == Workload::WatchGet {
        start_gets(&mut tasks, spec, conns, record).await?;
        return Ok(tasks);
    }
    let board = Arc::new(Board::new());
    // Watchers by key, and the keys by stream.
    let (keys, watchers) = match workload {
        Workload::WatchMany => (spec.watchers, 1),
        _ => (1, spec.watchers),
    };
    let (streams, per_stream) = match workload {
        Workload::WatchMany => (spec.watchers, 1),
        _ => (STREAMS, spec.watchers / STREAMS),
    };
    let watchers = watchers.min(per_stream * streams);
    for (number, conn) in (0..streams).zip(conns.iter().cycle()) {
        let stream = open(conn, number % keys, per_stream).await?;
        tasks.spawn(read(stream, Arc::clone(&board), Arc::clone(record)));
    }
    if workload == Workload::WatchLatency {
        let conn = Conn::clone(&conns[0]);
        tasks.spawn(write_at_rate(
            conn,
            spec.clone(),
            watchers,
            board,
            Arc::clone(record),
        ));
        return Ok(tasks);
    }
    for (number, conn) in (0..spec.clients).zip(conns.iter().cycle()) {
        let writer = Writer {
            conn: conn.clone(),
            filler: value(spec.value_bytes.saturating_sub(8)),
            watchers,
            board: Arc::clone(&board),
        };
        // Each writer has keys of its own, if there are as many.
        let own: Vec<_> = (number % keys..keys).step_by(spec.clients).collect();
        tasks.spawn(write(writer, own, Arc::clone(record)));
    }
    Ok(tasks)
}

/// Opens a stream with that many watches, and waits until they are there.
async fn open(conn: &Conn, number: usize, watches: usize) -> Result<Watching, String> {
    let create = || {
        watch(WatchCreateRequest {
            key: key(number as u64).into(),
            ..WatchCreateRequest::default()
        })
    };
    let mut conn = conn.clone();
    let mut stream = conn.stream(&WATCH, frame(&create())).await?;
    for _ in 1..watches {
        stream.send(&create())?;
    }
    let created = async {
        for _ in 0..watches {
            if !stream.next().await?.created {
                return Err("an event before the watch".to_owned());
            }
        }
        Ok(stream)
    };
    let created = timeout(CREATE_LIMIT, created).await;
    created.map_err(|_| "the watches are not created".to_owned())?
}

async fn read(mut stream: Watching, board: Arc<Board>, record: Arc<Record>) {
    loop {
        let story = match stream.raw().await {
            Ok(message) => match events::read(&message) {
                Some(answer) if !answer.canceled => {
                    board.came(&answer.numbers, &record);
                    continue;
                }
                Some(_) => "a watch was canceled".to_owned(),
                None => "an answer that cannot be read".to_owned(),
            },
            Err(why) => why,
        };
        return record.fail(story);
    }
}

/// What a writer needs.
struct Writer {
    conn: Conn,
    filler: Bytes,
    watchers: usize,
    board: Arc<Board>,
}

impl Writer {
    /// Puts once; the receiver tells when every watcher has it.
    async fn put(&mut self, number: usize) -> Result<oneshot::Receiver<()>, String> {
        let (mark, all) = self.board.begin(self.watchers);
        let mut value = BytesMut::with_capacity(8 + self.filler.len());
        value.put_u64(mark);
        value.extend_from_slice(&self.filler);
        let request = put(key(number as u64), &value.freeze());
        self.conn.count(&PUT, frame(&request)).await?;
        Ok(all)
    }
}

async fn write(mut writer: Writer, own: Vec<usize>, record: Arc<Record>) {
    for number in own.into_iter().cycle() {
        if record.is_closed() {
            return;
        }
        match writer.put(number).await {
            // It fails only when the board is gone.
            Ok(all) => drop(all.await),
            Err(why) => return record.fail(why),
        }
    }
}

async fn write_at_rate(
    conn: Conn,
    spec: Spec,
    watchers: usize,
    board: Arc<Board>,
    record: Arc<Record>,
) {
    let rate = if spec.rate == 0 {
        LATENCY_RATE
    } else {
        spec.rate
    };
    let gap = Duration::from_secs_f64(1.0 / rate as f64);
    let mut due = Instant::now();
    let mut puts = JoinSet::new();
    while !record.is_closed() {
        let mut writer = Writer {
            conn: conn.clone(),
            filler: value(spec.value_bytes.saturating_sub(8)),
            watchers,
            board: Arc::clone(&board),
        };
        let record = Arc::clone(&record);
        puts.spawn(async move {
            if let Err(why) = writer.put(0).await {
                record.fail(why);
            }
        });
        due += gap;
        sleep_until(due.into()).await;
    }
}

/// Watches that begin in the past, again and again, and one client that reads.
async fn start_gets(
    tasks: &mut JoinSet<()>,
    spec: &Spec,
    conns: &[Conn],
    record: &Arc<Record>,
) -> Result<(), String> {
    let mut conn = conns[0].clone();
    for _ in 0..PAST_EVENTS {
        let request = put(key(0), &value(spec.value_bytes));
        conn.count(&PUT, frame(&request)).await?;
    }
    for (_, conn) in (0..spec.clients).zip(conns.iter().cycle()) {
        let (mut conn, record) = (conn.clone(), Arc::clone(record));
        tasks.spawn(async move {
            while !record.is_closed() {
                if let Err(why) = past(&mut conn).await {
                    return record.fail(why);
                }
            }
        });
    }
    let alone = Spec {
        clients: 1,
        ..spec.clone()
    };
    workload::start(tasks, Workload::WatchGet, &alone, conns, record);
    Ok(())
}

async fn past(conn: &mut Conn) -> Result<(), String> {
    let create = watch(WatchCreateRequest {
        key: key(0).into(),
        start_revision: 1,
        ..WatchCreateRequest::default()
    });
    let mut stream = conn.stream(&WATCH, frame(&create)).await?;
    let mut seen = 0;
    while seen < PAST_EVENTS {
        let message = stream.raw().await?;
        seen += events::read(&message)
            .ok_or("an answer that cannot be read")?
            .numbers
            .len();
    }
    Ok(())
}
