//! Our errors as gRPC statuses, with the code and the text that etcd's clients compare.

use http::HeaderMap;
use tonic::{Code, Status};

use crate::kernel::{ApiError, error};

/// How tonic words a message beyond the limit.
const TOO_LARGE: &str = "Error, decoded message length too large: found ";

/// The status of an error.
pub fn of(error: ApiError) -> Status {
    Status::new(code(error.code()), error.text())
}

/// The answer of the core was of another kind than the question: our bug, and not worth the
/// process.
pub fn mismatch() -> Status {
    Status::internal("etcdserver: the answer does not belong to the request")
}

/// An action that no version knows.
pub fn unknown_method() -> Status {
    Status::unknown("etcdserver: unknown method")
}

/// What a client did to end its stream of requests.
pub fn of_inbound(status: &Status) -> Status {
    reworded(status.code(), status.message()).unwrap_or_else(|| status.clone())
}

/// Rewords what the gRPC library refuses by itself the way a Go server says it.
pub fn reword_headers(headers: &mut HeaderMap) {
    let Some(status) = Status::from_header_map(headers) else {
        return;
    };
    if let Some(status) = reworded(status.code(), status.message()) {
        // Only the two headers of a status are written, and both are plain text.
        let _ = status.add_header(headers);
    }
}

/// Says what is not there, where the gRPC library only says that something is not.
pub fn name_missing(headers: &mut HeaderMap, path: &str, served: &[&str]) {
    let status = headers.get("grpc-status");
    if status.is_none_or(|code| code != "12") || headers.contains_key("grpc-message") {
        return;
    }
    let bare = path.strip_prefix('/').unwrap_or(path);
    let text = match bare.rsplit_once('/') {
        None => format!("malformed method name: {path:?}"),
        Some((service, method)) if served.contains(&service) => {
            format!("unknown method {method} for service {service}")
        }
        Some((service, _)) => format!("unknown service {service}"),
    };
    // A path has no characters that a status could not carry.
    let _ = Status::unimplemented(text).add_header(headers);
}

fn reworded(code: Code, message: &str) -> Option<Status> {
    if code != Code::OutOfRange {
        return None;
    }
    let rest = message.strip_prefix(TOO_LARGE)?;
    let mut numbers = rest
        .split(|c: char| !c.is_ascii_digit())
        .filter(|part| !part.is_empty());
    let (found, limit) = (numbers.next()?, numbers.next()?);
    let text = format!("grpc: received message larger than max ({found} vs. {limit})");
    Some(Status::resource_exhausted(text))
}

fn code(code: error::Code) -> Code {
    match code {
        error::Code::Canceled => Code::Cancelled,
        error::Code::Unknown => Code::Unknown,
        error::Code::InvalidArgument => Code::InvalidArgument,
        error::Code::DeadlineExceeded => Code::DeadlineExceeded,
        error::Code::NotFound => Code::NotFound,
        error::Code::PermissionDenied => Code::PermissionDenied,
        error::Code::ResourceExhausted => Code::ResourceExhausted,
        error::Code::FailedPrecondition => Code::FailedPrecondition,
        error::Code::OutOfRange => Code::OutOfRange,
        error::Code::Unimplemented => Code::Unimplemented,
        error::Code::Internal => Code::Internal,
        error::Code::Unavailable => Code::Unavailable,
        error::Code::DataLoss => Code::DataLoss,
        error::Code::Unauthenticated => Code::Unauthenticated,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_keep_their_numbers_and_texts_are_exact() {
        for error in ApiError::ALL {
            let status = of(*error);
            assert_eq!(status.code() as i32, error.code() as i32);
            assert_eq!(status.message(), error.text());
        }
        let busy = of(ApiError::TooManyRequests);
        assert_eq!(busy.code(), Code::Unknown);
        assert_eq!(busy.message(), "etcdserver: too many requests");
    }

    #[test]
    fn a_message_beyond_the_limit_is_refused_in_gos_words() {
        let text = "Error, decoded message length too large: found 12 bytes, the limit is: 4 bytes";
        let mut headers = HeaderMap::new();
        Status::out_of_range(text).add_header(&mut headers).unwrap();
        reword_headers(&mut headers);
        let status = Status::from_header_map(&headers).unwrap();
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(
            status.message(),
            "grpc: received message larger than max (12 vs. 4)"
        );
        let mut other = HeaderMap::new();
        of(ApiError::Compacted).add_header(&mut other).unwrap();
        let before = other.clone();
        reword_headers(&mut other);
        assert_eq!(other, before);
    }
}
