//! Many leases: as many as can be held, and many that end at the same time.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use fated::pb::{
    etcdserverpb::{
        LeaseGrantRequest, LeaseLeasesRequest, PutRequest, WatchCreateRequest, WatchResponse,
    },
    mvccpb::event::EventType,
};
use tokio::{task::JoinSet, time::timeout};

use crate::{
    cells::{Sizes, Subject},
    client::{Conn, frame},
    methods::{GRANT, LEASES, PUT, WATCH, put, watch},
    record::{Figures, Record, rounded},
    workload::{connections, value},
};

const CLIENTS: usize = 100;
const CONNECTIONS: usize = 10;
/// Longer than any run.
const LONG_TTL: i64 = 24 * 60 * 60;
/// What must be left of that when the last of them is granted.
const END_LEFT: i64 = 3;
/// How long the end of all of them may take.
const END_LIMIT: Duration = Duration::from_secs(180);

/// Calls `each` with the numbers below `count`, by as many clients as usual.
async fn spread<F, Done>(conns: &[Conn], count: u64, each: F) -> Result<(), String>
where
    F: Fn(Conn, u64) -> Done + Clone + Send + 'static,
    Done: Future<Output = Result<(), String>> + Send,
{
    let next = Arc::new(AtomicU64::new(0));
    let mut clients = JoinSet::new();
    for (_, conn) in (0..CLIENTS).zip(conns.iter().cycle()) {
        let (conn, next, each) = (conn.clone(), Arc::clone(&next), each.clone());
        clients.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return Ok::<(), String>(());
                }
                each(conn.clone(), number).await?;
            }
        });
    }
    while let Some(done) = clients.join_next().await {
        done.map_err(|error| error.to_string())??;
    }
    Ok(())
}

/// Grants them all, and asks which are there.
pub async fn held(subject: &Subject<'_>, count: u64) -> Result<Figures, String> {
    let cluster = subject.start(1).await?;
    let conns = connections(&cluster.endpoints(), CONNECTIONS).await?;
    let record = Arc::new(Record::new());
    let granting = Arc::clone(&record);
    let cpu = cluster.cpu_seconds()?;
    record.open();
    let granted = spread(&conns, count, move |mut conn, number| {
        let record = Arc::clone(&granting);
        async move {
            let begun = Instant::now();
            let asked = LeaseGrantRequest {
                ttl: LONG_TTL,
                id: i64::try_from(number).expect("few") + 1,
            };
            conn.count(&GRANT, frame(&asked)).await?;
            record.note(begun);
            Ok(())
        }
    });
    granted.await?;
    record.close();
    let cpu = cluster.cpu_seconds()? - cpu;
    let found = conns[0]
        .clone()
        .ask(&LEASES, &LeaseLeasesRequest {})
        .await?;
    let mut figures = record.figures();
    figures.insert("cpu_us_per_op".into(), rounded(cpu * 1e6 / count as f64));
    figures.insert("held".into(), found.leases.len().into());
    let share = found.leases.len() as f64 / count as f64;
    figures.insert("held_share".into(), rounded(share));
    figures.insert("peak_mib".into(), rounded(cluster.peak_mib()?));
    figures.insert("disk_mib".into(), rounded(cluster.disk_mib()));
    Ok(figures)
}

/// Grants leases that end in the same second, each with a key, and watches the keys go.
///
/// A lease's end counts from when its grant was sent, so lateness is never told too small.
pub async fn ending(subject: &Subject<'_>, sizes: &Sizes) -> Result<Figures, String> {
    let (count, end) = (sizes.leases_ending, sizes.ending_seconds);
    let cluster = subject.start(1).await?;
    let conns = connections(&cluster.endpoints(), CONNECTIONS).await?;
    let mut watcher = Conn::open(&cluster.members[0].endpoint).await?;
    let create = watch(WatchCreateRequest {
        key: "e".into(),
        range_end: "f".into(),
        ..WatchCreateRequest::default()
    });
    let mut stream = watcher.stream(&WATCH, frame(&create)).await?;
    stream.next().await?;
    let begun = Instant::now();
    let ends = Arc::new(Mutex::new(vec![
        begun;
        usize::try_from(count).expect("few")
    ]));
    let granting = Arc::clone(&ends);
    let granted = spread(&conns, count, move |conn, number| {
        grant_with_key(conn, (number, begun, end), Arc::clone(&granting))
    });
    granted.await?;
    let taken = begun.elapsed();
    let ends = ends.lock().expect("all clients are done").clone();
    let mut late = Vec::new();
    let cpu = cluster.cpu_seconds()?;
    let going = async {
        while late.len() < ends.len() {
            let answer = stream.next().await?;
            note_late(&answer, &ends, &mut late);
        }
        Ok::<(), String>(())
    };
    let gone = timeout(END_LIMIT, going).await;
    gone.map_err(|_| format!("keys of {count} leases are still there"))??;
    let cpu = cluster.cpu_seconds()? - cpu;
    late.sort_by(f64::total_cmp);
    let mut figures = Figures::new();
    let mut note = |name: &str, figure| figures.insert(name.to_owned(), rounded(figure));
    note("late_p50_s", late[late.len() / 2]);
    note("late_p99_s", late[late.len() * 99 / 100]);
    note("late_max_s", late[late.len() - 1]);
    note("late_min_s", late[0]);
    note("granting_s", taken.as_secs_f64());
    note("cpu_us_per_op", cpu * 1e6 / count as f64);
    note("peak_mib", cluster.peak_mib()?);
    // One that ends before its time is an error.
    let early = late.iter().filter(|late| **late < 0.0).count();
    figures.insert("errors".into(), early.into());
    Ok(figures)
}

/// Grants a lease of what is left until all of them end, and puts a key with it.
async fn grant_with_key(
    mut conn: Conn,
    (number, begun, end): (u64, Instant, i64),
    ends: Arc<Mutex<Vec<Instant>>>,
) -> Result<(), String> {
    let sent = Instant::now();
    let ttl = end - i64::try_from((sent - begun).as_secs()).expect("seconds");
    if ttl < END_LEFT {
        return Err("granting takes too long".to_owned());
    }
    let granted = conn.ask(&GRANT, &LeaseGrantRequest { ttl, id: 0 }).await?;
    let lives = Duration::from_secs(u64::try_from(granted.ttl).unwrap_or(0));
    let at = usize::try_from(number).expect("few");
    ends.lock().expect("nobody panics while holding it")[at] = sent + lives;
    let request = PutRequest {
        lease: granted.id,
        ..put(format!("e{number:07}"), &value(8))
    };
    conn.count(&PUT, frame(&request)).await.map(|_| ())
}

/// Notes by how many seconds the keys that went were late.
fn note_late(answer: &WatchResponse, ends: &[Instant], late: &mut Vec<f64>) {
    let now = Instant::now();
    let gone = answer
        .events
        .iter()
        .filter(|event| event.r#type() == EventType::Delete);
    for event in gone {
        let key = event.kv.as_ref().map_or(&[][..], |kv| &kv.key);
        let number = std::str::from_utf8(key)
            .ok()
            .and_then(|key| key.get(1..)?.parse().ok());
        if let Some(end) = number.and_then(|number: usize| ends.get(number)) {
            let early = end.saturating_duration_since(now).as_secs_f64();
            late.push(now.saturating_duration_since(*end).as_secs_f64() - early);
        }
    }
}
