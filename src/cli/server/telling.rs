//! What a running server tells of itself beside its answers: slow requests, and its log's level.

use std::time::Duration;

use serde_json::json;

use crate::{
    api::slow::{Listener, SlowRequest},
    host::tokio::{
        clock::Clock,
        log::{Log, timestamp},
    },
    kernel::{WallTime, effect::LogLevel},
};

const CALLER: &str = "server/telling.rs:0";

/// A line for each request that takes longer than the limit; with a log of level debug, for each.
pub(super) struct Requests {
    pub limit: Duration,
    pub log: Log,
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
pub(super) fn set_level(log: &Log, level: LogLevel) {
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
