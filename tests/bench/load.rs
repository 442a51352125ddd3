//! One load against servers that run already, started by anybody.

use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use crate::{
    server::{blocks_mib, cpu_ticks, memory_mib},
    workload::{self, Meter, Spec, Workload},
};

#[derive(Args)]
pub struct Options {
    /// What the clients do
    #[arg(value_enum)]
    workload: Workload,
    /// Where a server is; connections go to several in turn
    #[arg(long, default_value = "http://127.0.0.1:2379")]
    endpoint: Vec<String>,
    /// The process of a server, for its processor time and memory; may be given several times
    #[arg(long)]
    pid: Vec<u32>,
    /// The data directory of a server, for its size
    #[arg(long)]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    spec: Spec,
}

/// The servers' processes.
struct Processes<'a>(&'a [u32]);

impl Meter for Processes<'_> {
    fn cpu_seconds(&self) -> Result<f64, String> {
        let ticks: Result<u64, String> = self.0.iter().map(|pid| cpu_ticks(*pid)).sum();
        Ok(ticks? as f64 / 100.0)
    }
}

/// Lets it run, and prints its figures.
pub async fn run(options: &Options) -> Result<(), String> {
    let (workload, spec) = (options.workload, &options.spec);
    let meter = Processes(&options.pid);
    let mut figures = workload::run(workload, spec, &options.endpoint, &meter).await?;
    figures.insert("workload".into(), format!("{workload:?}").into());
    figures.insert("clients".into(), spec.clients.into());
    figures.insert("connections".into(), spec.connections.into());
    let mut most = 0.0_f64;
    for pid in &options.pid {
        most = most.max(memory_mib(*pid, "VmHWM:")?);
    }
    if most > 0.0 {
        figures.insert("peak_mib".into(), most.into());
    }
    if let Some(data) = &options.data_dir {
        figures.insert("disk_mib".into(), blocks_mib(data).into());
    }
    println!("{}", Value::from(figures));
    Ok(())
}
