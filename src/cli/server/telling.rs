//! What a running server tells of itself beside its answers: slow requests, traces, and the level
//! of its log.

use std::time::Duration;

use serde_json::json;

use super::settings::Settings;
use crate::{
    api::{
        Handle,
        slow::{Listener, SlowLog, SlowRequest},
        trace::{self, Tracer},
    },
    host::tokio::{
        clock::Clock,
        log::{Log, timestamp},
    },
    kernel::{Fault, WallTime, effect::LogLevel},
};

const CALLER: &str = "server/telling.rs:0";

/// Begins to tell what the edge sees.
pub(super) fn begin(handle: &Handle, settings: &Settings, log: &Log) -> Result<(), Fault> {
    handle.tell_slow(SlowLog::new(Requests {
        limit: settings.slow_request,
        log: log.clone(),
    }));
    let dial = log.clone();
    handle.tell_log_level(move |level| set_level(&dial, level));
    match &settings.tracing {
        Some(tracing) => trace(handle, tracing, log),
        None => Ok(()),
    }
}

/// Sends the last traces.
pub(super) async fn end(handle: Handle) {
    let stopping = tokio::task::spawn_blocking(move || {
        if let Some(tracer) = handle.instruments().rpcs().tracer() {
            tracer.stop();
        }
    });
    // It panics only by a mistake of ours, and then the process ends as well.
    let _ = stopping.await;
}

/// A line for each request that takes longer than the limit; with a log of level debug, for each.
struct Requests {
    limit: Duration,
    log: Log,
}

impl Listener for Requests {
    fn limit(&self) -> Duration {
        match self.log.writes(LogLevel::Debug) {
            true => Duration::ZERO,
            false => self.limit,
        }
    }

    fn tell(&self, request: SlowRequest) {
        let took = u64::try_from(request.took.as_nanos()).unwrap_or(u64::MAX);
        let began = WallTime::from_nanos(Clock::wall().as_nanos().saturating_sub(took));
        let fields = [
            ("start time", json!(timestamp(began))),
            ("time spent", json!(format!("{:?}", request.took))),
            ("response type", json!(request.method)),
            ("request count", json!(request.request_count)),
            ("request size", json!(request.request_size)),
            ("response count", json!(request.response_count)),
            ("response size", json!(request.response_size)),
            ("request content", json!(request.content)),
        ];
        match self.log.writes(LogLevel::Debug) {
            true => self.log.debug(CALLER, "request stats", &fields),
            false => self.log.warn(CALLER, "request stats", &fields),
        }
    }
}

/// Changes the level, and says so in a line that shows with the old level or with the new one.
fn set_level(log: &Log, level: LogLevel) {
    let fields = [("level", json!(format!("{level:?}").to_lowercase()))];
    let story = "the level of the log was set";
    let before = log.writes(LogLevel::Info);
    if before {
        log.info(CALLER, story, &fields);
    }
    log.set_level(level);
    if !before {
        log.info(CALLER, story, &fields);
    }
}

fn trace(handle: &Handle, settings: &trace::Settings, log: &Log) -> Result<(), Fault> {
    let tracer = Tracer::start(settings).map_err(|reason| {
        let address = &settings.address;
        Fault::State(format!("--distributed-tracing-address {address}: {reason}"))
    })?;
    handle.instruments().rpcs().trace(tracer);
    let fields = [
        ("address", json!(settings.address)),
        ("service-name", json!(settings.service)),
        ("service-instance-id", json!(settings.instance)),
        ("sampling-rate", json!(settings.samples_per_million)),
    ];
    log.info(CALLER, "distributed tracing setup enabled", &fields);
    Ok(())
}
