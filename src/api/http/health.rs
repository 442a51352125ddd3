//! `/health`, `/livez`, `/readyz` and their named checks, as etcd words them.
//!
//! Whatever is looked up here is of this member alone unless a check says otherwise, so a lost
//! quorum fails `/health` and `/readyz` and never `/livez`: a restart would not bring it back.
//! Beyond etcd, `/livez` has the check `write_path`: it fails when the disk has not answered a
//! write for `WRITE_STALL_MAX`. Invariants: each check has an end; a slow client holds up nobody
//! else.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request as Incoming, StatusCode, header};
use serde_json::json;

use super::{Page, TEXT, endpoints::only_get, page};
use crate::{
    api::Handle,
    kernel::{ApiError, Credentials, Request, Response},
    pb::etcdserverpb::{AlarmType, RangeRequest, StatusRequest, StatusResponse},
};

/// A disk that has not answered a write for so long will not be helped by patience. Far above what
/// a slow disk needs, so that it is not restarted for being slow.
pub const WRITE_STALL_MAX: Duration = Duration::from_secs(60);

/// One of the checks by name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
    WritePath,
}

const LIVEZ: &[Check] = &[Check::SerializableRead, Check::WritePath];
const READYZ: &[Check] = &[
    Check::DataCorruption,
    Check::SerializableRead,
    Check::LinearizableRead,
    Check::NonLearner,
];

impl Check {
    fn name(self) -> &'static str {
        match self {
            Self::DataCorruption => "data_corruption",
            Self::SerializableRead => "serializable_read",
            Self::LinearizableRead => "linearizable_read",
            Self::NonLearner => "non_learner",
            Self::WritePath => "write_path",
        }
    }

    async fn run(self, handle: &Handle) -> Result<(), String> {
        match self {
            Self::DataCorruption => match alarms(&status(handle).await?) {
                alarms if alarms.contains(&AlarmType::Corrupt) => {
                    Err("alarm activated: CORRUPT".to_owned())
                }
                _ => Ok(()),
            },
            Self::SerializableRead => read(handle, true).await,
            Self::LinearizableRead => read(handle, false).await,
            Self::NonLearner => match status(handle).await?.is_learner {
                true => Err("not supported for learner".to_owned()),
                false => Ok(()),
            },
            Self::WritePath => match handle.instruments().stalled() {
                stalled if stalled < WRITE_STALL_MAX => Ok(()),
                stalled => Err(format!(
                    "the disk has not answered a write for {} seconds",
                    stalled.as_secs()
                )),
            },
        }
    }
}

/// Answers a path of health checks; none if it is no such path.
pub async fn answer<B>(handle: &Handle, incoming: &Incoming<B>) -> Option<Page> {
    let path = incoming.uri().path();
    let query = Query(incoming.uri().query().unwrap_or_default());
    if path == "/health" {
        return Some(match only_get(incoming) {
            Some(refused) => refused,
            None => health(handle, query).await,
        });
    }
    let (kind, checks, rest) = if let Some(rest) = path.strip_prefix("/livez") {
        ("livez", LIVEZ, rest)
    } else if let Some(rest) = path.strip_prefix("/readyz") {
        ("readyz", READYZ, rest)
    } else {
        return None;
    };
    let chosen: Vec<Check> = match rest.strip_prefix('/') {
        None if rest.is_empty() => {
            let excluded = query.all("exclude");
            let kept = checks
                .iter()
                .filter(|check| !excluded.contains(check.name()));
            kept.copied().collect()
        }
        None => return None,
        Some(name) => {
            let named = checks.iter().find(|check| check.name() == name);
            vec![*named?]
        }
    };
    Some(match only_get(incoming) {
        Some(refused) => refused,
        None => run(handle, kind, &chosen, query).await,
    })
}

/// Runs checks one after the other and tells about each.
async fn run(handle: &Handle, kind: &'static str, checks: &[Check], query: Query<'_>) -> Page {
    let mut story = String::new();
    let mut well = true;
    for check in checks {
        let result = within(handle, check.run(handle)).await;
        handle
            .instruments()
            .health()
            .checked(kind, check.name(), result.is_ok());
        match result {
            Ok(()) => story.push_str(&format!("[+]{} ok\n", check.name())),
            Err(reason) => {
                well = false;
                story.push_str(&format!("[-]{} failed: {reason}\n", check.name()));
            }
        }
    }
    let body = match (well, query.has("verbose")) {
        (false, _) => format!("{story}\n"),
        (true, true) => format!("{story}ok\n"),
        (true, false) => "ok\n".to_owned(),
    };
    let code = match well {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    unsniffed(page(code, TEXT, body))
}

async fn health(handle: &Handle, query: Query<'_>) -> Page {
    let probe = within(handle, probe(handle, query)).await;
    let meter = handle.instruments().health();
    match probe {
        Ok(()) => {
            meter.success.inc();
            let body = r#"{"health":"true","reason":""}"#;
            page(StatusCode::OK, TEXT, body.to_owned())
        }
        Err(reason) => {
            meter.failures.inc();
            let body = format!("{{\"health\":\"false\",\"reason\":{}}}\n", json!(reason));
            unsniffed(page(StatusCode::SERVICE_UNAVAILABLE, TEXT, body))
        }
    }
}

/// Alarms first, then the leader, then whether a read is answered.
async fn probe(handle: &Handle, query: Query<'_>) -> Result<(), String> {
    let serializable = query.first("serializable") == Some("true");
    let excluded = query.all("exclude");
    let failed = |reason: String| format!("RANGE ERROR:{reason}");
    let status = status(handle).await.map_err(failed)?;
    let raised = alarms(&status);
    let counts = |alarm: &&AlarmType| !excluded.contains(alarm.as_str_name());
    match raised.iter().find(counts) {
        Some(AlarmType::Nospace) => return Err("ALARM NOSPACE".to_owned()),
        Some(AlarmType::Corrupt) => return Err("ALARM CORRUPT".to_owned()),
        Some(AlarmType::None) => return Err("ALARM UNKNOWN".to_owned()),
        None => {}
    }
    if !serializable && status.leader == 0 {
        return Err("RAFT NO LEADER".to_owned());
    }
    read(handle, serializable).await.map_err(failed)
}

/// A core that does not answer in time has failed the check.
async fn within<F>(handle: &Handle, check: F) -> Result<(), String>
where
    F: Future<Output = Result<(), String>>,
{
    let timeout = tokio::time::timeout(handle.limits().health_timeout, check);
    timeout
        .await
        .unwrap_or_else(|_| Err("context deadline exceeded".to_owned()))
}

/// What this member says of itself; needs no other member.
pub(super) async fn status(handle: &Handle) -> Result<StatusResponse, String> {
    let request = Request::Status(StatusRequest::default());
    match handle.call(Credentials::default(), request).await {
        Ok(Response::Status(status)) => Ok(status),
        Ok(_) => Err(ApiError::Stopped.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// The alarms, as a member's status tells them: `memberID:1 alarm:NOSPACE `.
fn alarms(status: &StatusResponse) -> Vec<AlarmType> {
    let named = status.errors.iter().filter_map(|error| {
        let (_, name) = error.split_once("alarm:")?;
        Some(AlarmType::from_str_name(name.trim()).unwrap_or(AlarmType::None))
    });
    named.collect()
}

/// Reads a key that nobody needs. Whoever is too busy to let a client in is alive.
async fn read(handle: &Handle, serializable: bool) -> Result<(), String> {
    let request = Request::Range(RangeRequest {
        key: Bytes::from_static(b"\0"),
        keys_only: true,
        limit: 1,
        serializable,
        ..RangeRequest::default()
    });
    match handle.call(Credentials::default(), request).await {
        Ok(_) => Ok(()),
        Err(ApiError::TooManyRequests) if serializable => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// What stands behind the question mark.
#[derive(Clone, Copy)]
struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    fn pairs(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let parts = self.0.split('&').filter(|part| !part.is_empty());
        parts.map(|part| part.split_once('=').unwrap_or((part, "")))
    }

    fn has(self, name: &str) -> bool {
        self.pairs().any(|(key, _)| key == name)
    }

    fn first(self, name: &str) -> Option<&'a str> {
        self.pairs()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value)
    }

    fn all(self, name: &str) -> BTreeSet<&'a str> {
        let own = self
            .pairs()
            .filter(|(key, value)| *key == name && !value.is_empty());
        own.map(|(_, value)| value).collect()
    }
}

fn unsniffed(mut page: Page) -> Page {
    let headers = page.headers_mut();
    let value = HeaderValue::from_static("nosniff");
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, value);
    page
}

#[cfg(test)]
mod tests;
