//! Puts at a steady rate, each at its moment, and how long they took.

use std::time::{Duration, Instant};

use bytes::Bytes;
use fated::pb::etcdserverpb::{PutRequest, kv_client::KvClient};
use hdrhistogram::Histogram;
use tokio::{sync::mpsc, time};
use tonic::transport::Channel;

use crate::key;

/// Delays above this count as this much.
const DELAY_MAX: Duration = Duration::from_secs(60);

/// What is put, and how often.
#[derive(Clone, Copy)]
pub struct Plan {
    pub per_second: u64,
    pub lasts: Duration,
    /// The keys are those of the numbers below this.
    pub keys: u64,
    pub value_bytes: usize,
}

/// Delays of one phase.
pub struct Delays {
    micros: Histogram<u64>,
    pub failed: u64,
}

impl Delays {
    /// The delay that this share of the puts did not exceed, in milliseconds.
    pub fn millis(&self, quantile: f64) -> f64 {
        to_millis(self.micros.value_at_quantile(quantile))
    }

    /// The longest delay, in milliseconds.
    pub fn longest(&self) -> f64 {
        to_millis(self.micros.max())
    }

    pub fn count(&self) -> u64 {
        self.micros.len()
    }
}

fn to_millis(micros: u64) -> f64 {
    Duration::from_micros(micros).as_secs_f64() * 1000.0
}

/// Sends the puts over these connections in turn.
pub async fn run(channels: &[Channel], plan: Plan) -> Delays {
    let (report, mut reports) = mpsc::unbounded_channel();
    let value = Bytes::from(vec![b'w'; plan.value_bytes]);
    let begun = Instant::now();
    let gap = Duration::from_secs(1) / u32::try_from(plan.per_second.max(1)).unwrap_or(u32::MAX);
    for (number, channel) in (0_u64..).zip(channels.iter().cycle()) {
        let due = begun + gap * u32::try_from(number).unwrap_or(u32::MAX);
        if due.duration_since(begun) >= plan.lasts {
            break;
        }
        time::sleep_until(due.into()).await;
        let request = PutRequest {
            key: key(scattered(number) % plan.keys).into(),
            value: value.clone(),
            ..PutRequest::default()
        };
        let mut kv = KvClient::new(channel.clone());
        let report = report.clone();
        tokio::spawn(async move {
            let put = kv.put(request).await;
            // The reader stays until the last sender is gone.
            let _ = report.send((due.elapsed(), put.is_ok()));
        });
    }
    drop(report);
    let longest = u64::try_from(DELAY_MAX.as_micros()).expect("a minute");
    let micros = Histogram::new_with_bounds(1, longest, 3).expect("sound bounds");
    let mut delays = Delays { micros, failed: 0 };
    while let Some((delay, taken)) = reports.recv().await {
        let micros = u64::try_from(delay.as_micros()).unwrap_or(longest);
        delays.micros.saturating_record(micros);
        delays.failed += u64::from(!taken);
    }
    delays
}

/// The same numbers in every run, without a pattern the server could profit from.
fn scattered(number: u64) -> u64 {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 32)
}
