//! `/config/local/log`: the level of the log, changed while the member runs, as etcd 3.4 had it.
//!
//! Whoever may use the client's HTTP may use it, behind the same list of hosts. It can do no more
//! than change how much is told: lines that come too fast are dropped, and values are never told.

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use serde_json::{Value, json};

use super::{Page, endpoints::only, page};
use crate::{api::Handle, kernel::effect::LogLevel};

/// Bytes of a request; it holds one word.
const BODY_BYTES_MAX: usize = 4096;

/// Sets the level that a `PUT` of `{"Level":"DEBUG"}` names.
pub async fn answer<B>(handle: &Handle, incoming: Request<B>) -> Page
where
    B: hyper::body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if let Some(refused) = only(Method::PUT, &incoming) {
        return refused;
    }
    let body = Limited::new(incoming.into_body(), BODY_BYTES_MAX);
    let Ok(body) = body.collect().await else {
        return refusal("Invalid json body");
    };
    let Some(word) = word(&body.to_bytes()) else {
        return refusal("Invalid json body");
    };
    let Some(level) = level(&word) else {
        return refusal(&format!("Invalid log level {word}"));
    };
    handle.set_log_level(level);
    let mut done = Response::new(Full::new(Bytes::new()));
    *done.status_mut() = StatusCode::NO_CONTENT;
    done
}

/// The word in the first JSON value, which may be followed by anything; its field is found in any
/// case, and one that is not there is empty, as Go reads it.
fn word(body: &[u8]) -> Option<String> {
    let mut values = serde_json::Deserializer::from_slice(body).into_iter::<Value>();
    let fields = match values.next()?.ok()? {
        Value::Object(fields) => fields,
        Value::Null => return Some(String::new()),
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => return None,
    };
    let mut word = String::new();
    for (name, value) in fields {
        if name.eq_ignore_ascii_case("level") && !value.is_null() {
            value.as_str()?.clone_into(&mut word);
        }
    }
    Some(word)
}

/// The words of etcd 3.4, and those of `--log-level`.
fn level(word: &str) -> Option<LogLevel> {
    Some(match word.to_uppercase().as_str() {
        "CRITICAL" | "C" | "ERROR" | "0" | "E" | "DPANIC" | "PANIC" | "FATAL" => LogLevel::Error,
        "WARNING" | "1" | "W" | "WARN" => LogLevel::Warn,
        "NOTICE" | "2" | "N" | "INFO" | "3" | "I" => LogLevel::Info,
        "DEBUG" | "4" | "D" | "TRACE" | "5" | "T" => LogLevel::Debug,
        _ => return None,
    })
}

fn refusal(reason: &str) -> Page {
    let body = json!({ "message": reason }).to_string();
    page(StatusCode::BAD_REQUEST, "application/json", body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_is_found_as_go_finds_it() {
        let cases: [(&str, Option<&str>); 10] = [
            (r#"{"Level":"DEBUG"}"#, Some("DEBUG")),
            (r#"{"level":"info","other":1} and more"#, Some("info")),
            (r#"{"Level":null}"#, Some("")),
            ("{}", Some("")),
            ("null", Some("")),
            (r#"{"Level":4}"#, None),
            (r#""DEBUG""#, None),
            (r#"{"Level":"DEBUG""#, None),
            ("", None),
            ("DEBUG", None),
        ];
        for (body, expected) in cases {
            assert_eq!(word(body.as_bytes()).as_deref(), expected, "{body}");
        }
        assert_eq!(level("debug"), Some(LogLevel::Debug));
        assert_eq!(level("Warning"), Some(LogLevel::Warn));
        assert_eq!(level(""), None);
        assert_eq!(level("VERBOSE"), None);
    }
}
