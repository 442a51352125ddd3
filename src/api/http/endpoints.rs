//! The plain HTTP paths of the client port: versions, health, metrics.

use std::{collections::BTreeSet, fmt::Write};

use http::{Method, Request as Incoming, StatusCode, header};
use serde_json::json;

use super::{Page, TEXT, page, router};
use crate::{
    api::{EdgeLimits, Handle},
    kernel::{ApiError, Credentials, Request, Response, effect::Metric},
    pb::etcdserverpb::{AlarmMember, AlarmRequest, AlarmType, StatusRequest},
};

/// Answers one request; its body is not looked at.
pub async fn answer<B>(handle: &Handle, incoming: &Incoming<B>) -> Page {
    if incoming.method() != Method::GET {
        let mut refused = page(
            StatusCode::METHOD_NOT_ALLOWED,
            TEXT,
            "Method Not Allowed\n".to_owned(),
        );
        let allow = header::HeaderValue::from_static("GET");
        refused.headers_mut().insert(header::ALLOW, allow);
        return refused;
    }
    match incoming.uri().path() {
        "/version" => version(handle.limits(), handle.is_ready()),
        "/health" => health(handle, incoming.uri().query().unwrap_or_default()).await,
        "/metrics" => metrics(handle).await,
        _ => router::not_found(),
    }
}

fn version(limits: &EdgeLimits, ready: bool) -> Page {
    let storage = limits.storage_version();
    let cluster = if ready { &storage } else { "not_decided" };
    let body = format!(
        r#"{{"etcdserver":{},"etcdcluster":{},"storage":{}}}"#,
        json!(limits.version),
        json!(cluster),
        json!(storage),
    );
    page(StatusCode::OK, "application/json", body)
}

async fn health(handle: &Handle, query: &str) -> Page {
    let pairs = || query.split('&').filter_map(|pair| pair.split_once('='));
    let excluded: BTreeSet<&str> = pairs()
        .filter(|(name, _)| *name == "exclude")
        .map(|(_, value)| value)
        .collect();
    let serializable = pairs().find(|(name, _)| *name == "serializable");
    let serializable = serializable == Some(("serializable", "true"));
    let patience = handle.limits().health_timeout;
    let probe = tokio::time::timeout(patience, probe(handle, &excluded, serializable));
    let timeout = || Err(range_error(ApiError::DeadlineExceeded));
    match probe.await.unwrap_or_else(|_| timeout()) {
        Ok(()) => {
            let body = r#"{"health":"true","reason":""}"#;
            page(StatusCode::OK, TEXT, body.to_owned())
        }
        Err(reason) => {
            let body = format!("{{\"health\":\"false\",\"reason\":{}}}\n", json!(reason));
            page(StatusCode::SERVICE_UNAVAILABLE, TEXT, body)
        }
    }
}

/// Alarms first, then the leader, then whether a read would be answered.
async fn probe(
    handle: &Handle,
    excluded: &BTreeSet<&str>,
    serializable: bool,
) -> Result<(), String> {
    let ask = |request| handle.call(Credentials::default(), request);
    match ask(Request::Alarm(AlarmRequest::default())).await {
        Ok(Response::Alarm(answer)) => {
            if let Some(reason) = alarm_reason(&answer.alarms, excluded) {
                return Err(reason.to_owned());
            }
        }
        Ok(_) => return Err(range_error(ApiError::Stopped)),
        Err(error) => return Err(range_error(error)),
    }
    let probe = if serializable {
        ask(Request::Status(StatusRequest::default())).await
    } else {
        ask(Request::Health).await
    };
    match probe {
        Ok(_) => Ok(()),
        Err(ApiError::NoLeader) => Err("RAFT NO LEADER".to_owned()),
        Err(error) => Err(range_error(error)),
    }
}

fn alarm_reason(alarms: &[AlarmMember], excluded: &BTreeSet<&str>) -> Option<&'static str> {
    alarms
        .iter()
        .filter(|member| !excluded.contains(member.alarm().as_str_name()))
        .map(|member| match member.alarm() {
            AlarmType::Nospace => "ALARM NOSPACE",
            AlarmType::Corrupt => "ALARM CORRUPT",
            AlarmType::None => "ALARM UNKNOWN",
        })
        .next()
}

fn range_error(error: ApiError) -> String {
    format!("RANGE ERROR:{error}")
}

async fn metrics(handle: &Handle) -> Page {
    let call = handle.call(Credentials::default(), Request::Metrics);
    let patience = handle.limits().health_timeout;
    match tokio::time::timeout(patience, call).await {
        Ok(Ok(Response::Metrics(metrics))) => {
            let kind = "text/plain; version=0.0.4; charset=utf-8";
            page(StatusCode::OK, kind, exposition(&metrics))
        }
        Ok(Ok(_)) | Ok(Err(_)) | Err(_) => {
            let body = "the member does not answer\n".to_owned();
            page(StatusCode::SERVICE_UNAVAILABLE, TEXT, body)
        }
    }
}

/// The text form Prometheus reads. Figures of one name must stand together, as the core lists them.
fn exposition(metrics: &[Metric]) -> String {
    let mut out = String::new();
    let mut before = "";
    for metric in metrics {
        if metric.name != before {
            let counter = metric.name.ends_with("_total");
            let kind = if counter { "counter" } else { "gauge" };
            let _ = writeln!(out, "# TYPE {} {kind}", metric.name);
            before = metric.name;
        }
        out.push_str(metric.name);
        for (index, (name, value)) in metric.labels.iter().enumerate() {
            out.push(if index == 0 { '{' } else { ',' });
            let value = value.replace('\\', "\\\\").replace('"', "\\\"");
            let _ = write!(out, "{name}=\"{}\"", value.replace('\n', "\\n"));
        }
        out.push_str(if metric.labels.is_empty() { "" } else { "}" });
        let _ = writeln!(out, " {}", metric.value);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_typed_once_per_name_and_labels_are_escaped() {
        let metric = |name, labels, value| Metric {
            name,
            labels,
            value,
        };
        let text = exposition(&[
            metric("a_total", vec![("k", "x\"y\\".to_owned())], 1),
            metric(
                "a_total",
                vec![("k", "z".to_owned()), ("l", String::new())],
                2,
            ),
            metric("b", Vec::new(), 3),
        ]);
        let expected = "# TYPE a_total counter\n\
            a_total{k=\"x\\\"y\\\\\"} 1\n\
            a_total{k=\"z\",l=\"\"} 2\n\
            # TYPE b gauge\n\
            b 3\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn excluded_alarms_do_not_count() {
        let alarm = |alarm: AlarmType| AlarmMember {
            member_id: 1,
            alarm: alarm as i32,
        };
        let alarms = [alarm(AlarmType::Nospace), alarm(AlarmType::Corrupt)];
        let none = BTreeSet::new();
        assert_eq!(alarm_reason(&alarms, &none), Some("ALARM NOSPACE"));
        let space = BTreeSet::from(["NOSPACE"]);
        assert_eq!(alarm_reason(&alarms, &space), Some("ALARM CORRUPT"));
        assert_eq!(alarm_reason(&alarms[..1], &space), None);
    }
}
