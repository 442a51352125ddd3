//! Many leases: as many as can be held, and many that end at the same time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use fated::pb::{
    etcdserverpb::{
        LeaseGrantRequest, LeaseKeepAliveRequest, LeaseLeasesRequest, PutRequest,
        WatchCreateRequest, WatchResponse,
    },
    mvccpb::event::EventType,
};
use tokio::{task::JoinSet, time::timeout};

use crate::{
    cells::{Sizes, Subject},
    client::{Conn, frame, text},
    methods::{GRANT, KEEP_ALIVE, LEASES, PUT, WATCH, put, watch},
    record::{Figures, Record, rounded},
    workload::{connections, value},
};

const CLIENTS: usize = 100;
const CONNECTIONS: usize = 10;
/// Longer than any run.
const LONG_TTL: i64 = 24 * 60 * 60;
/// Renewals of a stream that are on their way at a time.
const RENEWED_TOGETHER: usize = 100;
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
        done.map_err(text)??;
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
                id: id(number),
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

/// Grants leases with a key each, renews all of them at once, and watches the keys go.
///
/// A lease's end counts from when its renewal was sent, so lateness is never told too small.
pub async fn ending(subject: &Subject<'_>, sizes: &Sizes) -> Result<Figures, String> {
    let (count, ttl) = (sizes.leases_ending, sizes.ending_seconds);
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
    spread(&conns, count, move |conn, number| {
        grant_with_key(conn, number, ttl)
    })
    .await?;
    let begun = Instant::now();
    let ends = renewed(&conns, count).await?;
    let renewing = begun.elapsed();
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
    note("renewing_s", renewing.as_secs_f64());
    note("cpu_us_per_op", cpu * 1e6 / count as f64);
    note("peak_mib", cluster.peak_mib()?);
    // One that ends before its time is an error.
    let early = late.iter().filter(|late| **late < 0.0).count();
    figures.insert("errors".into(), early.into());
    Ok(figures)
}

/// The lease of a number.
fn id(number: u64) -> i64 {
    i64::try_from(number).expect("few") + 1
}

/// Grants a lease, and puts a key with it.
async fn grant_with_key(mut conn: Conn, number: u64, ttl: i64) -> Result<(), String> {
    let asked = LeaseGrantRequest {
        ttl,
        id: id(number),
    };
    conn.count(&GRANT, frame(&asked)).await?;
    let request = PutRequest {
        lease: id(number),
        ..put(format!("e{number:07}"), &value(8))
    };
    conn.count(&PUT, frame(&request)).await.map(|_| ())
}

/// Renews all leases as fast as can be; gives when each of them ends.
async fn renewed(conns: &[Conn], count: u64) -> Result<Vec<Instant>, String> {
    let mut streams = JoinSet::new();
    for (first, conn) in (0..).zip(conns.iter().cloned()) {
        let own: Vec<u64> = (first..count).step_by(conns.len()).collect();
        streams.spawn(renew(conn, own));
    }
    let mut ends = vec![Instant::now(); usize::try_from(count).expect("few")];
    while let Some(done) = streams.join_next().await {
        for (number, end) in done.map_err(text)?? {
            ends[usize::try_from(number).expect("few")] = end;
        }
    }
    Ok(ends)
}

/// Renews leases over one stream, so many at a time.
async fn renew(mut conn: Conn, own: Vec<u64>) -> Result<Vec<(u64, Instant)>, String> {
    let asked = |number| LeaseKeepAliveRequest { id: id(number) };
    let mut ends = Vec::new();
    let Some(first) = own.first() else {
        return Ok(ends);
    };
    let mut stream = conn.stream(&KEEP_ALIVE, frame(&asked(*first))).await?;
    stream.next().await?;
    for together in own.chunks(RENEWED_TOGETHER) {
        let sent = Instant::now();
        for number in together {
            stream.send(&asked(*number))?;
        }
        for number in together {
            let ttl = u64::try_from(stream.next().await?.ttl).unwrap_or(0);
            if ttl == 0 {
                return Err("a lease ended before it was renewed".to_owned());
            }
            ends.push((*number, sent + Duration::from_secs(ttl)));
        }
    }
    Ok(ends)
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
