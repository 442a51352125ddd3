//! `/version`, `/metrics` and `/debug/vars`.

use std::time::Duration;

use http::{HeaderValue, Method, Request as Incoming, StatusCode, header};
use serde_json::json;

use super::{Page, TEXT, health, page};
use crate::{
    api::{Handle, metrics},
    kernel::{Credentials, Request, Response},
};

/// How long a page waits for what the core knows; then it is shown without.
const PATIENCE: Duration = Duration::from_secs(2);

/// Refuses everything but GET.
pub fn only_get<B>(incoming: &Incoming<B>) -> Option<Page> {
    only(Method::GET, incoming)
}

/// Refuses every other method.
pub fn only<B>(method: Method, incoming: &Incoming<B>) -> Option<Page> {
    if incoming.method() == method {
        return None;
    }
    let body = "Method Not Allowed\n".to_owned();
    let mut refused = page(StatusCode::METHOD_NOT_ALLOWED, TEXT, body);
    let headers = refused.headers_mut();
    let allowed = HeaderValue::from_str(method.as_str());
    headers.insert(header::ALLOW, allowed.expect("methods are plain"));
    let value = HeaderValue::from_static("nosniff");
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, value);
    Some(refused)
}

/// `/version`: the server's, the cluster's and that of what is stored.
pub async fn version<B>(handle: &Handle, incoming: &Incoming<B>) -> Page {
    if let Some(refused) = only_get(incoming) {
        return refused;
    }
    let status = tokio::time::timeout(PATIENCE, health::status(handle)).await;
    let decided = match status {
        Ok(Ok(status)) => status.storage_version,
        Ok(Err(_)) | Err(_) => String::new(),
    };
    let (cluster, storage) = match decided.as_str() {
        "" => ("not_decided", "unknown"),
        version => (version, version),
    };
    let body = format!(
        r#"{{"etcdserver":{},"etcdcluster":{},"storage":{}}}"#,
        json!(handle.limits().version),
        json!(cluster),
        json!(storage),
    );
    page(StatusCode::OK, "application/json", body)
}

/// `/metrics`, to any method. A core that does not answer leaves only its own figures out.
pub async fn figures(handle: &Handle) -> Page {
    let call = handle.call(Credentials::default(), Request::Metrics);
    let core = match tokio::time::timeout(PATIENCE, call).await {
        Ok(Ok(Response::Metrics(core))) => core,
        Ok(Ok(_)) | Ok(Err(_)) | Err(_) => Vec::new(),
    };
    let text = handle.instruments().text(&core);
    page(StatusCode::OK, metrics::CONTENT_TYPE, text)
}

/// `/debug/vars`: the command line, and raft in a few words.
pub async fn variables<B>(handle: &Handle, incoming: &Incoming<B>) -> Page {
    if let Some(refused) = only_get(incoming) {
        return refused;
    }
    let cmdline: Vec<String> = std::env::args_os()
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    let mut body = format!("{{\n\"cmdline\": {}", json!(cmdline));
    let status = tokio::time::timeout(PATIENCE, health::status(handle)).await;
    if let Ok(Ok(status)) = status {
        let id = status.header.as_ref().map_or(0, |header| header.member_id);
        let state = match status.leader {
            leader if leader == id => "StateLeader",
            _ => "StateFollower",
        };
        let raft = json!({
            "id": format!("{id:x}"),
            "term": status.raft_term,
            "commit": status.raft_index,
            "applied": status.raft_applied_index,
            "lead": format!("{:x}", status.leader),
            "raftState": state,
        });
        body.push_str(&format!(",\n\"raft.status\": {raft}"));
    }
    body.push_str("\n}\n");
    page(StatusCode::OK, "application/json; charset=utf-8", body)
}
