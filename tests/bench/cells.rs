//! One row on one server: a cell of the comparison.

use std::{
    fs::File,
    io::{Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tokio::time::sleep;

use crate::{
    beside, big, compaction, leases, many,
    record::{Figures, rounded},
    rows::{Kind, Row, Side},
    server::Cluster,
    stolen::Ticks,
    workload::{self, Meter, Spec, Workload},
};

/// Syncs whose median says how quick the disk is at the moment.
const SYNCS: usize = 100;
/// Bytes of each: what the log of a single put takes.
const SYNC_BYTES: usize = 512;
/// What a new member is given to come to rest.
const IDLE: Duration = Duration::from_secs(3);
/// A phase beside a load is shorter than this for nobody.
const BESIDE_SECONDS: u64 = 15;

/// Sizes and times of the rows.
#[derive(clap::Args, Clone, Debug)]
pub struct Sizes {
    /// Seconds that count in each cell
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
    /// Keys of `many` and `many-puts`
    #[arg(long, default_value_t = 1_000_000)]
    pub keys: u64,
    /// Leases of `lease-held`
    #[arg(long, default_value_t = 1_000_000)]
    pub leases: u64,
    /// Leases of `lease-ending`
    #[arg(long, default_value_t = 50_000)]
    pub leases_ending: u64,
    /// Seconds that they live; granting them must take less
    #[arg(long, default_value_t = 20)]
    pub ending_seconds: i64,
    /// Revisions that `compaction` compacts
    #[arg(long, default_value_t = 1_000_000)]
    pub history: u64,
    /// Seconds of `steady`
    #[arg(long, default_value_t = 600.0)]
    pub steady_seconds: f64,
    /// Seconds of a cell at 20 puts a second, at least
    #[arg(long, default_value_t = 15.0)]
    pub latency_seconds: f64,
    /// Megabytes of `big`
    #[arg(long, default_value_t = 10_000)]
    pub big_mb: u64,
    /// Megabytes that `big` is compared with
    #[arg(long, default_value_t = 100)]
    pub small_mb: u64,
    /// Puts a second of `big`
    #[arg(long, default_value_t = 1000)]
    pub big_rate: u64,
    /// Seconds of each half of `big`, at least: filling it takes longer
    #[arg(long, default_value_t = 20.0)]
    pub big_seconds: f64,
}

impl Sizes {
    /// Seconds that count in each half of `big`: in two, one stall decides about the slowest of a
    /// hundred.
    pub fn seconds_of_big(&self) -> f64 {
        self.seconds.max(self.big_seconds)
    }
}

/// What is measured and where.
pub struct Subject<'a> {
    pub side: Side,
    pub binary: &'a Path,
    pub directory: &'a Path,
}

impl Subject<'_> {
    /// Starts it, with fresh data.
    pub async fn start(&self, members: usize) -> Result<Cluster, String> {
        self.start_with(members, &[]).await
    }

    /// The same with flags.
    pub async fn start_with(&self, members: usize, flags: &[String]) -> Result<Cluster, String> {
        match self.side {
            Side::Null => Cluster::start_null(self.directory).await,
            Side::Etcd | Side::Fated => {
                Cluster::start(self.binary, self.directory, members, flags).await
            }
        }
    }
}

impl Meter for Cluster {
    fn cpu_seconds(&self) -> Result<f64, String> {
        Cluster::cpu_seconds(self)
    }
}

/// Measures a cell.
pub async fn measure(row: &Row, subject: &Subject<'_>, sizes: &Sizes) -> Result<Figures, String> {
    let (begun, ticks) = (Instant::now(), Ticks::now());
    let sync = sync_millis(subject.directory).map_err(|error| error.to_string())?;
    let mut figures = match &row.kind {
        Kind::Load(workload, spec) => {
            let spec = Spec {
                seconds: seconds(*workload, sizes),
                ..spec.clone()
            };
            load(row, subject, *workload, &spec).await?
        }
        Kind::Steady => {
            let spec = Spec {
                seconds: sizes.steady_seconds,
                ..Spec::new(100, 10)
            };
            load(row, subject, Workload::Put, &spec).await?
        }
        Kind::Many => many::measure(subject, sizes.keys).await?,
        Kind::ManyPuts => many::puts(subject, sizes.keys).await?,
        Kind::LeasesHeld => leases::held(subject, sizes.leases).await?,
        Kind::LeasesEnding => leases::ending(subject, sizes).await?,
        Kind::Compaction => compaction::measure(subject, sizes).await?,
        Kind::Beside => {
            let seconds = (sizes.seconds as u64).max(BESIDE_SECONDS);
            beside::figures(subject.binary, subject.directory, seconds).await?
        }
        Kind::Big => big::measure(subject, sizes).await?,
        Kind::Idle => idle(subject).await?,
    };
    figures.insert("sync_ms".into(), rounded(sync));
    if let Some(p50) = figures.get("p50_ms").and_then(serde_json::Value::as_f64) {
        figures.insert("p50_less_sync_ms".into(), rounded(p50 - sync));
    }
    figures.insert("wall_s".into(), rounded(begun.elapsed().as_secs_f64()));
    let stolen = Ticks::now().percent_since(ticks);
    figures.insert("stolen_percent".into(), rounded(stolen));
    Ok(figures)
}

async fn load(
    row: &Row,
    subject: &Subject<'_>,
    workload: Workload,
    spec: &Spec,
) -> Result<Figures, String> {
    let cluster = match row.kind {
        // Ten minutes of puts are more than the default quota holds.
        Kind::Steady => subject.start_with(row.members, &[large_quota()]).await?,
        _ => subject.start(row.members).await?,
    };
    let mut figures = workload::run(workload, spec, &cluster.endpoints(), &cluster).await?;
    figures.insert("workload".into(), format!("{workload:?}").into());
    figures.insert("clients".into(), spec.clients.into());
    figures.insert("connections".into(), spec.connections.into());
    figures.insert("peak_mib".into(), rounded(cluster.peak_mib()?));
    figures.insert("disk_mib".into(), rounded(cluster.disk_mib()));
    Ok(figures)
}

/// Seconds that count in a cell of a load.
fn seconds(workload: Workload, sizes: &Sizes) -> f64 {
    match workload {
        // Of a few puts, the p99 is the slowest one's.
        Workload::WatchLatency => sizes.seconds.max(sizes.latency_seconds),
        _ => sizes.seconds,
    }
}

/// Room for the most that a row asks for, with what pages take beside records.
pub fn large_quota() -> String {
    format!("--quota-backend-bytes={}", 64_u64 << 30)
}

/// About how many seconds a pair of a row takes that was never measured; rather too many.
pub fn guess(row: &Row, sizes: &Sizes) -> f64 {
    let cells = row.sides().len() as f64;
    match row.kind {
        Kind::Load(workload, _) => cells * (seconds(workload, sizes) + 3.0),
        Kind::Many => cells * 15.0 + sizes.keys as f64 / 10_000.0,
        Kind::ManyPuts => sizes.keys as f64 / 10_000.0,
        Kind::LeasesHeld => sizes.leases as f64 / 10_000.0,
        Kind::LeasesEnding => sizes.ending_seconds as f64 + 10.0,
        Kind::Compaction => 2.0 * sizes.seconds + sizes.history as f64 / 20_000.0,
        Kind::Beside => 2.0 * sizes.seconds.max(BESIDE_SECONDS as f64) + 20.0,
        Kind::Steady => sizes.steady_seconds + 5.0,
        Kind::Big => 2.0 * sizes.seconds_of_big() + sizes.big_mb as f64 / 20.0 + 20.0,
        Kind::Idle => cells * 5.0,
    }
}

async fn idle(subject: &Subject<'_>) -> Result<Figures, String> {
    let cluster = subject.start(1).await?;
    sleep(IDLE).await;
    let mut figures = Figures::new();
    figures.insert("disk_mib".into(), rounded(cluster.disk_mib()));
    figures.insert("peak_mib".into(), rounded(cluster.peak_mib()?));
    Ok(figures)
}

/// The median time of a small synced write into blocks that are there already, in milliseconds.
fn sync_millis(directory: &Path) -> std::io::Result<f64> {
    let path: PathBuf = directory.join(format!("fated-bench-sync-{}", std::process::id()));
    let mut file = File::create(&path)?;
    file.write_all(&vec![1; SYNCS * SYNC_BYTES])?;
    file.sync_all()?;
    file.seek(SeekFrom::Start(0))?;
    let mut micros = Vec::new();
    for _ in 0..SYNCS {
        let begun = Instant::now();
        file.write_all(&[2; SYNC_BYTES])?;
        file.sync_data()?;
        micros.push(begun.elapsed().as_micros());
    }
    std::fs::remove_file(path)?;
    micros.sort_unstable();
    Ok(micros[SYNCS / 2] as f64 / 1000.0)
}
