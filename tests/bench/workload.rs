//! The loads by name, and how each is measured.
//!
//! A *client* asks, waits for the answer and asks again; or, at a fixed rate, asks when it is due.
//! At a fixed rate a delay counts from the due moment if the client was still busy then, so a stall
//! is seen by every operation that would have met it; what the load's own clock rounds up to whole
//! milliseconds is not counted.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use clap::{Args, ValueEnum};
use tokio::{
    task::JoinSet,
    time::{sleep, sleep_until, timeout},
};

use crate::{
    client::Conn,
    fill, kubernetes,
    operation::{Client, Shared},
    record::{Figures, Record, rounded},
    server::cpu_ticks,
    stolen, watching,
};

/// How long clients may take to come to rest.
const REST_LIMIT: Duration = Duration::from_secs(10);

/// What clients do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Workload {
    /// Puts of random keys
    Put,
    /// Linearizable ranges of one random key
    Range,
    /// Serializable ranges of one random key
    RangeSerializable,
    /// Ranges of 1,000 keys from a random one on
    RangeMany,
    /// Transactions of ten puts
    TxnPut,
    /// Transactions: half a range of 100 keys, half a put
    TxnMixed,
    /// Compare-and-swap of a key of the client's own, one request each
    Cas,
    /// Read and compare-and-swap of one of 1,000 shared keys, until it succeeds
    Stm,
    /// Nine linearizable ranges of one key to one put
    Mixed,
    /// Lists with a limit, updates by mod revision, reads, watches on prefixes, node leases
    Kubernetes,
    /// A grant, then ten keep-alives of it, and so on
    Lease,
    /// Watchers on one key, ten streams; an operation is an event
    Watch,
    /// A stream with one watch for each of as many keys; an operation is an event
    WatchMany,
    /// As `watch`, at 20 puts a second
    WatchLatency,
    /// Serializable ranges beside watches that begin in the past
    WatchGet,
}

/// How much of it.
#[derive(Args, Clone, Debug)]
pub struct Spec {
    /// Clients
    #[arg(long, default_value_t = 100)]
    pub clients: usize,
    /// Connections that they share
    #[arg(long, default_value_t = 10)]
    pub connections: usize,
    /// Operations a second of all of them; 0 means as many as possible
    #[arg(long, default_value_t = 0)]
    pub rate: u64,
    /// Keys
    #[arg(long, default_value_t = 100_000)]
    pub keys: u64,
    /// Bytes of each value
    #[arg(long, default_value_t = 256)]
    pub value_bytes: usize,
    /// Watchers
    #[arg(long, default_value_t = 1000)]
    pub watchers: usize,
    /// Seconds that count
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
    /// Seconds before them
    #[arg(long, default_value_t = 1.0)]
    pub warm_up: f64,
}

impl Spec {
    /// The defaults.
    pub fn new(clients: usize, connections: usize) -> Self {
        Self {
            clients,
            connections,
            rate: 0,
            keys: 100_000,
            value_bytes: 256,
            watchers: 1000,
            seconds: 5.0,
            warm_up: 1.0,
        }
    }
}

/// What is asked about the server at the borders of the time that counts.
pub trait Meter {
    /// Seconds of processor time so far.
    fn cpu_seconds(&self) -> Result<f64, String>;
}

/// No server to ask.
impl Meter for () {
    fn cpu_seconds(&self) -> Result<f64, String> {
        Ok(0.0)
    }
}

/// A value that does not pack well.
pub fn value(bytes: usize) -> Bytes {
    let letter = |number| b'a' + u8::try_from(scattered(number) % 26).expect("a letter");
    (0..bytes as u64).map(letter).collect()
}

/// The same numbers in every run, without a pattern the server could profit from.
pub fn scattered(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Opens connections to the endpoints in turn.
pub async fn connections(endpoints: &[String], count: usize) -> Result<Vec<Conn>, String> {
    let mut conns = Vec::new();
    for endpoint in endpoints.iter().cycle().take(count.max(1)) {
        conns.push(Conn::open(endpoint).await?);
    }
    Ok(conns)
}

/// Fills what the load reads, lets it run, and gives its figures.
pub async fn run(
    workload: Workload,
    spec: &Spec,
    endpoints: &[String],
    meter: &impl Meter,
) -> Result<Figures, String> {
    let conns = connections(endpoints, spec.connections).await?;
    match workload {
        Workload::Range
        | Workload::RangeSerializable
        | Workload::RangeMany
        | Workload::TxnMixed
        | Workload::Mixed => fill::run(&conns[0], spec.keys, &value(spec.value_bytes)).await?,
        Workload::Kubernetes => kubernetes::fill(&conns[0]).await?,
        Workload::Put
        | Workload::TxnPut
        | Workload::Cas
        | Workload::Stm
        | Workload::Lease
        | Workload::Watch
        | Workload::WatchMany
        | Workload::WatchLatency
        | Workload::WatchGet => {}
    }
    let record = Arc::new(Record::new());
    // Both end when they are dropped.
    let mut clients = JoinSet::new();
    let background = match workload {
        Workload::Kubernetes => kubernetes::background(&conns, &record).await?,
        _ if watching::writes_by_itself(workload) => {
            watching::start(workload, spec, &conns, &record).await?
        }
        _ => JoinSet::new(),
    };
    if !watching::writes_by_itself(workload) {
        start(&mut clients, workload, spec, &conns, &record);
    }
    let figures = timed(spec, &record, meter).await?;
    // So that the next phase begins with an idle server.
    let resting = async { while clients.join_next().await.is_some() {} };
    let rested = timeout(REST_LIMIT, resting).await;
    drop(background);
    rested.map_err(|_| "clients wait for answers that do not come".to_owned())?;
    Ok(figures)
}

/// Starts the clients.
pub fn start(
    tasks: &mut JoinSet<()>,
    workload: Workload,
    spec: &Spec,
    conns: &[Conn],
    record: &Arc<Record>,
) {
    let shared = Arc::new(Shared::new(spec));
    let begun = Instant::now();
    for (number, conn) in (0..spec.clients).zip(conns.iter().cycle()) {
        let client = Client::new(workload, number as u64, conn.clone(), Arc::clone(&shared));
        let pace = (spec.rate > 0).then(|| Pace {
            begun,
            gap: Duration::from_secs_f64(spec.clients as f64 / spec.rate as f64),
            next: number as f64 / spec.clients as f64,
        });
        tasks.spawn(live(client, pace, Arc::clone(record)));
    }
}

/// Waits for the time that counts, and takes the figures of it.
pub async fn timed(spec: &Spec, record: &Record, meter: &impl Meter) -> Result<Figures, String> {
    sleep(Duration::from_secs_f64(spec.warm_up)).await;
    let own = own_cpu();
    let before = meter.cpu_seconds()?;
    record.open();
    let stolen = stolen::by_second(spec.seconds).await;
    record.close();
    let cpu = meter.cpu_seconds()? - before;
    let mut figures = record.figures();
    if let Some((worst, seconds)) = record.worst_whole_second(&stolen) {
        figures.insert("worst_whole_second".into(), rounded(worst));
        figures.insert("whole_seconds".into(), seconds.into());
    }
    let stolen: Vec<_> = stolen.into_iter().map(rounded).collect();
    figures.insert("stolen_by_second".into(), stolen.into());
    let done = record.done().max(1) as f64;
    figures.insert("cpu_s".into(), rounded(cpu));
    figures.insert("cpu_us_per_op".into(), rounded(cpu * 1e6 / done));
    figures.insert(
        "load_cpu_us_per_op".into(),
        rounded((own_cpu() - own) * 1e6 / done),
    );
    Ok(figures)
}

/// Processor time of this process, in seconds.
fn own_cpu() -> f64 {
    cpu_ticks(std::process::id()).unwrap_or(0) as f64 / 100.0
}

/// When a client asks, at a fixed rate.
struct Pace {
    begun: Instant,
    gap: Duration,
    /// The next due moment, in gaps.
    next: f64,
}

impl Pace {
    /// Waits for the due moment; gives when the operation is taken to have begun.
    async fn due(&mut self) -> Instant {
        let due = self.begun + self.gap.mul_f64(self.next);
        self.next += 1.0;
        if Instant::now() >= due {
            return due;
        }
        sleep_until(due.into()).await;
        Instant::now()
    }
}

/// The life of a client.
async fn live(mut client: Client, mut pace: Option<Pace>, record: Arc<Record>) {
    while !record.is_closed() {
        let begun = match &mut pace {
            Some(pace) => pace.due().await,
            None => Instant::now(),
        };
        match client.once().await {
            Ok(()) => record.note(begun),
            Err(why) => {
                record.fail(why);
                sleep(Duration::from_millis(10)).await;
            }
        }
    }
}
