//! Many keys: loading them, what they take, and what it takes to read, save and find them again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use fated::pb::etcdserverpb::{RangeRequest, SnapshotRequest};
use tokio::{task::JoinSet, time::sleep};

use crate::{
    cells::Subject,
    client::{Conn, frame},
    fill, key,
    methods::{PUT, RANGE, RANGE_STREAM, SNAPSHOT, get, put, range},
    record::{Figures, Record, rounded},
    rows::Side,
    server::{Cluster, Member, memory_mib},
    workload::{connections, value},
};

const VALUE_BYTES: usize = 256;
/// Keys of a large range.
const RANGE_KEYS: u64 = 100_000;
/// How often it is read; the median counts.
const RANGES: usize = 3;
/// What a server is given to come to rest before its memory is read.
const REST: Duration = Duration::from_secs(3);
/// How often memory is looked at while a range is read.
const LOOK: Duration = Duration::from_millis(1);
/// Clients of the load by single puts, and their connections.
const CLIENTS: usize = 100;
const CONNECTIONS: usize = 10;
/// Puts right before a kill, so that there is something to recover.
const LAST_PUTS: u64 = 1000;

/// Loads the keys by transactions, and asks everything.
pub async fn measure(subject: &Subject<'_>, keys: u64) -> Result<Figures, String> {
    let mut cluster = subject.start(1).await?;
    let mut conn = Conn::open(&cluster.members[0].endpoint).await?;
    let mut figures = Figures::new();
    let mut note = |name: &str, figure| figures.insert(name.to_owned(), rounded(figure));
    let cpu = cluster.cpu_seconds()?;
    let begun = Instant::now();
    fill::run(&conn, keys, &value(VALUE_BYTES)).await?;
    let seconds = begun.elapsed().as_secs_f64();
    note("seconds", seconds);
    note("rate", keys as f64 / seconds);
    note(
        "cpu_us_per_op",
        (cluster.cpu_seconds()? - cpu) * 1e6 / keys as f64,
    );
    note("peak_mib", cluster.peak_mib()?);
    sleep(REST).await;
    let member = &cluster.members[0];
    note("loaded_rss_mib", member.memory_mib("VmRSS:")?);
    note("loaded_anon_mib", member.memory_mib("RssAnon:")?);
    note("disk_mib", cluster.disk_mib());
    if subject.side == Side::Fated {
        let (adds, seconds) = streamed(&mut conn, member, keys).await?;
        note("range_stream_adds_mib", adds);
        note("range_stream_s", seconds);
    }
    let (adds, mapped, seconds) = unary(&mut conn, member, keys).await?;
    note("range_adds_mib", adds);
    note("range_adds_rss_mib", mapped);
    note("range_s", seconds);
    let begun = Instant::now();
    let bytes = conn.count(&SNAPSHOT, frame(&SnapshotRequest {})).await?;
    let seconds = begun.elapsed().as_secs_f64();
    note("snapshot_mib", bytes as f64 / f64::from(1 << 20));
    note("snapshot_s", seconds);
    note(
        "snapshot_mib_per_s",
        bytes as f64 / f64::from(1 << 20) / seconds,
    );
    drop(conn);
    note("restart_s", restart(&mut cluster, "TERM", keys).await?);
    sleep(REST).await;
    note(
        "restarted_rss_mib",
        cluster.members[0].memory_mib("VmRSS:")?,
    );
    note(
        "restarted_anon_mib",
        cluster.members[0].memory_mib("RssAnon:")?,
    );
    let mut conn = Conn::open(&cluster.members[0].endpoint).await?;
    for number in 0..LAST_PUTS {
        let request = put(key(number % keys), &value(VALUE_BYTES));
        conn.count(&PUT, frame(&request)).await?;
    }
    note(
        "restart_killed_s",
        restart(&mut cluster, "KILL", keys).await?,
    );
    figures.insert("errors".into(), 0.into());
    Ok(figures)
}

/// Ends the member and starts it again; gives the seconds to its first linearizable read. All keys
/// must be there.
async fn restart(cluster: &mut Cluster, signal: &str, keys: u64) -> Result<f64, String> {
    let member = &mut cluster.members[0];
    member.stop(signal).await?;
    let begun = Instant::now();
    member.spawn()?;
    member.ready().await?;
    let seconds = begun.elapsed().as_secs_f64();
    let mut conn = Conn::open(&member.endpoint).await?;
    let request = RangeRequest {
        count_only: true,
        ..range("k", "l")
    };
    let found = conn.ask(&RANGE, &request).await?.count;
    match u64::try_from(found) == Ok(keys) {
        true => Ok(seconds),
        false => Err(format!("{found} of {keys} keys after {signal}")),
    }
}

fn large(keys: u64) -> RangeRequest {
    range(key(0), key(RANGE_KEYS.min(keys)))
}

/// Checks that an answer can hold what was asked for.
fn whole(bytes: u64, keys: u64) -> Result<(), String> {
    let least = RANGE_KEYS.min(keys) * VALUE_BYTES as u64;
    match bytes > least {
        true => Ok(()),
        false => Err(format!(
            "a range of {bytes} bytes, which is less than its values"
        )),
    }
}

/// A large range: the private memory and all memory that it adds, and its time.
async fn unary(conn: &mut Conn, member: &Member, keys: u64) -> Result<(f64, f64, f64), String> {
    let mut seconds = Vec::new();
    member.forget_peak()?;
    let before = member.memory_mib("VmRSS:")?;
    let looking = Looking::start(member.pid())?;
    let mut adds = 0.0;
    let mut mapped = 0.0;
    for number in 0..RANGES {
        let begun = Instant::now();
        whole(conn.count(&RANGE, frame(&large(keys))).await?, keys)?;
        seconds.push(begun.elapsed().as_secs_f64());
        // Memory that is kept for the next one would hide what the first has added.
        if number == 0 {
            adds = looking.adds_mib();
            mapped = member.memory_mib("VmHWM:")? - before;
        }
    }
    seconds.sort_by(f64::total_cmp);
    Ok((adds, mapped, seconds[RANGES / 2]))
}

/// The same by `RangeStream`.
async fn streamed(conn: &mut Conn, member: &Member, keys: u64) -> Result<(f64, f64), String> {
    let looking = Looking::start(member.pid())?;
    let begun = Instant::now();
    whole(conn.count(&RANGE_STREAM, frame(&large(keys))).await?, keys)?;
    Ok((looking.adds_mib(), begun.elapsed().as_secs_f64()))
}

/// Looks at the private memory of a process until it is dropped.
struct Looking {
    before: u64,
    /// The most so far, in KiB.
    most: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Looking {
    fn start(pid: u32) -> Result<Self, String> {
        let look = move || memory_mib(pid, "RssAnon:").map(|mib| (mib * 1024.0) as u64);
        let before = look()?;
        let most = Arc::new(AtomicU64::new(before));
        let stop = Arc::new(AtomicBool::new(false));
        let (seen, ended) = (Arc::clone(&most), Arc::clone(&stop));
        thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                seen.fetch_max(look().unwrap_or(0), Ordering::Relaxed);
                thread::sleep(LOOK);
            }
        });
        Ok(Self { before, most, stop })
    }

    fn adds_mib(&self) -> f64 {
        (self.most.load(Ordering::Relaxed) - self.before) as f64 / 1024.0
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Loads the keys by single puts.
pub async fn puts(subject: &Subject<'_>, keys: u64) -> Result<Figures, String> {
    let cluster = subject.start(1).await?;
    let conns = connections(&cluster.endpoints(), CONNECTIONS).await?;
    let record = Arc::new(Record::new());
    let next = Arc::new(AtomicU64::new(0));
    let cpu = cluster.cpu_seconds()?;
    let mut clients = JoinSet::new();
    record.open();
    for (_, conn) in (0..CLIENTS).zip(conns.iter().cycle()) {
        let (mut conn, next, record) = (conn.clone(), Arc::clone(&next), Arc::clone(&record));
        clients.spawn(async move {
            let value = value(VALUE_BYTES);
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= keys {
                    return;
                }
                let begun = Instant::now();
                match conn.count(&PUT, frame(&put(key(number), &value))).await {
                    Ok(_) => record.note(begun),
                    Err(why) => record.fail(why),
                }
            }
        });
    }
    while clients.join_next().await.is_some() {}
    record.close();
    let cpu = cluster.cpu_seconds()? - cpu;
    let mut figures = record.figures();
    figures.insert("cpu_us_per_op".into(), rounded(cpu * 1e6 / keys as f64));
    figures.insert("peak_mib".into(), rounded(cluster.peak_mib()?));
    figures.insert("disk_mib".into(), rounded(cluster.disk_mib()));
    let mut conn = conns[0].clone();
    let last = conn.ask(&RANGE, &get(key(keys - 1))).await?;
    match last.count {
        1 => Ok(figures),
        _ => Err("the last key is not there".to_owned()),
    }
}
