//! Random puts into much data, against the same into little.

use crate::{
    cells::{Sizes, Subject, large_quota},
    fill,
    record::{Figures, rounded},
    workload::{self, Spec, Workload, connections, value},
};

/// Bytes of a value; with its key and revision a record takes little more.
const VALUE_BYTES: usize = 1024;

/// Measures both, the little first.
pub async fn measure(subject: &Subject<'_>, sizes: &Sizes) -> Result<Figures, String> {
    let small = at(subject, sizes, sizes.small_mb).await?;
    let mut figures = at(subject, sizes, sizes.big_mb).await?;
    let of = |figures: &Figures| figures.get("p99_ms").and_then(serde_json::Value::as_f64);
    let (Some(little), Some(much)) = (of(&small), of(&figures)) else {
        return Err("no delays".to_owned());
    };
    for (name, figure) in small {
        figures.insert(format!("small_{name}"), figure);
    }
    figures.insert("p99_ratio".into(), rounded(much / little));
    Ok(figures)
}

async fn at(subject: &Subject<'_>, sizes: &Sizes, megabytes: u64) -> Result<Figures, String> {
    // The default quota is less than what this row is about.
    let cluster = subject.start_with(1, &[large_quota()]).await?;
    let conns = connections(&cluster.endpoints(), 10).await?;
    let keys = megabytes * 1_000_000 / VALUE_BYTES as u64;
    fill::run(&conns[0], keys, &value(VALUE_BYTES)).await?;
    let spec = Spec {
        rate: sizes.big_rate,
        keys,
        value_bytes: VALUE_BYTES,
        seconds: sizes.seconds_of_big(),
        warm_up: 3.0,
        ..Spec::new(100, 10)
    };
    let mut figures = workload::run(Workload::Put, &spec, &cluster.endpoints(), &cluster).await?;
    figures.insert("peak_mib".into(), rounded(cluster.peak_mib()?));
    figures.insert("disk_mib".into(), rounded(cluster.disk_mib()));
    Ok(figures)
}
