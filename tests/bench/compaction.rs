//! Puts while a large history is compacted, against puts before and after.
//!
//! Invariant: the clients never pause, so all three phases see the same load and the same server.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use fated::pb::etcdserverpb::{CompactionRequest, StatusRequest};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    cells::{Sizes, Subject},
    fill, key,
    methods::{COMPACT, STATUS},
    record::{Figures, Record, rounded},
    workload::{self, Spec, Workload, connections, value},
};

/// Keys whose history it is.
const KEYS: u64 = 10_000;
/// How long a compaction may take.
const LIMIT: Duration = Duration::from_secs(120);
/// How long clients may take to come to rest.
const REST_LIMIT: Duration = Duration::from_secs(10);

/// Puts at a moment.
struct Mark {
    at: Instant,
    done: u64,
}

impl Mark {
    fn now(record: &Record) -> Self {
        Self {
            at: Instant::now(),
            done: record.done(),
        }
    }

    /// Puts a second since then.
    fn rate(&self, record: &Record) -> f64 {
        (record.done() - self.done) as f64 / self.at.elapsed().as_secs_f64()
    }
}

/// Measures the phases.
pub async fn measure(subject: &Subject<'_>, sizes: &Sizes) -> Result<Figures, String> {
    let cluster = subject.start(1).await?;
    let conns = connections(&cluster.endpoints(), 10).await?;
    let mut asking = workload::connections(&cluster.endpoints(), 1)
        .await?
        .remove(0);
    let named = |number| Bytes::from(key(number % KEYS));
    fill::numbered(&conns[0], sizes.history, &value(256), named).await?;
    let spec = Spec {
        keys: KEYS,
        ..Spec::new(100, 10)
    };
    let record = Arc::new(Record::new());
    let mut clients = JoinSet::new();
    workload::start(&mut clients, Workload::Put, &spec, &conns, &record);
    let phase = Duration::from_secs_f64(sizes.seconds);
    sleep(phase.min(Duration::from_secs(2))).await;
    record.open();
    let before = Mark::now(&record);
    sleep(phase).await;
    let before = before.rate(&record);
    let status = asking.ask(&STATUS, &StatusRequest {}).await?;
    let compact = CompactionRequest {
        revision: status.header.unwrap_or_default().revision,
        // Answered when it is over.
        physical: true,
    };
    let during = Mark::now(&record);
    let compacted = timeout(LIMIT, asking.ask(&COMPACT, &compact)).await;
    compacted.map_err(|_| "the compaction does not end".to_owned())??;
    let lasted = during.at.elapsed().as_secs_f64();
    let during = during.rate(&record);
    let after = Mark::now(&record);
    sleep(phase).await;
    let after = after.rate(&record);
    record.close();
    let resting = async { while clients.join_next().await.is_some() {} };
    let rested = timeout(REST_LIMIT, resting).await;
    rested.map_err(|_| "clients wait for answers that do not come".to_owned())?;
    let mut figures = record.figures();
    let mut note = |name: &str, figure| figures.insert(name.to_owned(), rounded(figure));
    note("rate_before", before);
    note("rate_during", during);
    note("rate_after", after);
    note("compaction_s", lasted);
    note("rate_ratio", during / f64::midpoint(before, after));
    note("peak_mib", cluster.peak_mib()?);
    note("disk_mib", cluster.disk_mib());
    Ok(figures)
}
