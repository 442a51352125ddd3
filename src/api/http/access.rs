//! Which hosts and which origins may use plain HTTP.
//!
//! A page in somebody's browser can be made to send requests to any address. The list of hosts
//! keeps out names that were bent to point here; the list of origins tells browsers whose pages may
//! read answers.

use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};

use super::{Page, TEXT, page};
use crate::api::EdgeLimits;

const ANYONE: &str = "*";
const METHODS: HeaderValue = HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE");
const HEADERS: HeaderValue = HeaderValue::from_static("accept, content-type, authorization");
const CONTENT_TYPE_OPTIONS: HeaderName = HeaderName::from_static("x-content-type-options");

/// The refusal of a request that came under a name which is not on the list.
pub fn refusal<B>(limits: &EdgeLimits, request: &Request<B>) -> Option<Page> {
    let given = request.headers().get(header::HOST);
    let given = match (request.uri().authority(), given) {
        (Some(authority), _) => authority.as_str(),
        (None, Some(host)) => host.to_str().unwrap_or_default(),
        (None, None) => "",
    };
    let host = host_of(given);
    if allows(&limits.host_whitelist, host) {
        return None;
    }
    let text = format!(
        "\nThe request was received, but its Host header names a host unknown here.\n\n\
         Either serve clients by TLS, where every host is allowed, or allow this one:\n\
         --host-whitelist {host:?}\n\n\
         This keeps out web pages that reach this address by a name of their own \
         (\"DNS rebinding\", CVE-2018-5702).\n\n"
    );
    let mut refusal = page(StatusCode::MISDIRECTED_REQUEST, TEXT, text);
    let nosniff = HeaderValue::from_static("nosniff");
    refusal.headers_mut().insert(CONTENT_TYPE_OPTIONS, nosniff);
    Some(refusal)
}

/// The origin that an answer names as welcome, if this request's is.
pub fn welcome(limits: &EdgeLimits, headers: &HeaderMap) -> Option<HeaderValue> {
    if allows(&limits.cors, ANYONE) {
        return Some(HeaderValue::from_static(ANYONE));
    }
    let origin = headers.get(header::ORIGIN)?;
    allows(&limits.cors, origin.to_str().ok()?).then(|| origin.clone())
}

/// Tells a browser what the pages of an origin may do.
pub fn tell(origin: HeaderValue, headers: &mut HeaderMap) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HEADERS);
}

fn allows(list: &[String], name: &str) -> bool {
    list.is_empty() || list.iter().any(|entry| entry == ANYONE || entry == name)
}

/// A host without its port.
fn host_of(given: &str) -> &str {
    let end = given.rfind(':').unwrap_or(given.len());
    let host = &given[..end];
    if let Some(inner) = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        return inner;
    }
    // More colons without brackets are an address without a port.
    if host.contains(':') { given } else { host }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(hosts: &[&str], cors: &[&str]) -> EdgeLimits {
        let own = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        EdgeLimits {
            host_whitelist: own(hosts),
            cors: own(cors),
            ..Default::default()
        }
    }

    #[test]
    fn hosts_are_compared_without_their_port() {
        let limits = limits(&["a.example", "::1"], &["*"]);
        let refused = |host: &str| {
            let request = Request::builder().header("host", host).body(()).unwrap();
            refusal(&limits, &request).is_some()
        };
        for known in ["a.example", "a.example:2379", "[::1]:2379"] {
            assert!(!refused(known), "{known}");
        }
        for unknown in ["b.example", "a.example.b", "[::2]:2379", "", "*"] {
            assert!(refused(unknown), "{unknown}");
        }
        let by_authority = Request::get("http://b.example/").body(()).unwrap();
        assert!(refusal(&limits, &by_authority).is_some());
    }

    #[test]
    fn origins_are_told_as_they_came_unless_all_are_welcome() {
        let mut headers = HeaderMap::new();
        assert_eq!(
            welcome(&limits(&[], &["*", "http://a"]), &headers).unwrap(),
            "*"
        );
        assert_eq!(welcome(&limits(&[], &["http://a"]), &headers), None);
        headers.insert("origin", HeaderValue::from_static("http://a"));
        let found = welcome(&limits(&[], &["http://b", "http://a"]), &headers);
        assert_eq!(found.unwrap(), "http://a");
        assert_eq!(welcome(&limits(&[], &["http://b"]), &headers), None);
    }
}
