//! What a client asks for, out of the fields of a block (RFC 9113 section 8.3).

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, header, uri};
use tonic::body::Body;

use super::hpack::{Field, Name, is_of_connection};

/// The head of a request.
#[derive(Clone, Debug)]
pub struct Head {
    /// What is to be done.
    pub method: Method,
    /// To what.
    pub uri: Uri,
    /// All other fields.
    pub headers: HeaderMap,
    /// The bytes that the body is said to have.
    pub(super) length: Option<u64>,
}

/// Fields that are no request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Malformed;

impl Head {
    /// The request of these fields.
    pub(super) fn of(fields: Vec<Field>) -> Result<Self, Malformed> {
        let (mut method, mut scheme, mut authority, mut path) = (None, None, None, None);
        let mut headers = HeaderMap::with_capacity(fields.len());
        for field in fields {
            let value = field.value.ok_or(Malformed)?;
            let place = match field.name {
                Name::Method => &mut method,
                Name::Scheme => &mut scheme,
                Name::Authority => &mut authority,
                Name::Path => &mut path,
                Name::Header(name) => {
                    fits(&name, &value)?;
                    headers.append(name, value);
                    continue;
                }
                Name::Odd => return Err(Malformed),
            };
            // Once each, and in front of all others.
            if place.replace(value).is_some() || !headers.is_empty() {
                return Err(Malformed);
            }
        }
        let method = Method::from_bytes(method.ok_or(Malformed)?.as_bytes());
        let (scheme, path) = (scheme.ok_or(Malformed)?, path.ok_or(Malformed)?);
        let length = headers.get(header::CONTENT_LENGTH).map(|length| {
            let text = length.to_str().map_err(|_| Malformed)?;
            text.parse().map_err(|_| Malformed)
        });
        Ok(Self {
            method: method.map_err(|_| Malformed)?,
            uri: uri_of(&scheme, authority.as_ref(), path)?,
            headers,
            length: length.transpose()?,
        })
    }

    /// The request with this body.
    pub(super) fn request(&self, body: Body) -> Request<Body> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = self.headers.clone();
        request
    }
}

fn fits(name: &HeaderName, value: &HeaderValue) -> Result<(), Malformed> {
    let odd = is_of_connection(name) || (name == header::TE && value != "trailers");
    if odd { Err(Malformed) } else { Ok(()) }
}

/// Nothing but plain HTTP looks at the authority, so one that is none is left out.
fn uri_of(
    scheme: &HeaderValue,
    authority: Option<&HeaderValue>,
    path: HeaderValue,
) -> Result<Uri, Malformed> {
    let mut parts = uri::Parts::default();
    let authority = authority.map(|authority| host_of(authority.as_bytes()));
    let authority = authority.and_then(|host| uri::Authority::try_from(host).ok());
    if let Some(authority) = authority {
        parts.authority = Some(authority);
        let scheme = uri::Scheme::try_from(scheme.as_bytes());
        parts.scheme = Some(scheme.map_err(|_| Malformed)?);
    }
    let path = uri::PathAndQuery::try_from(path.as_bytes()).map_err(|_| Malformed)?;
    parts.path_and_query = Some(path);
    Uri::from_parts(parts).map_err(|_| Malformed)
}

/// A Go client that is given an endpoint with a scheme, such as etcdctl 3.4 with
/// `http://127.0.0.1:2379` or with `--cluster`, says that whole text; the host and port are meant.
fn host_of(said: &[u8]) -> &[u8] {
    let rest = [&b"http://"[..], b"https://"]
        .iter()
        .find_map(|scheme| said.strip_prefix(*scheme));
    let Some(rest) = rest else { return said };
    let end = rest.iter().position(|byte| b"/?#".contains(byte));
    &rest[..end.unwrap_or(rest.len())]
}

#[cfg(test)]
mod tests {
    use super::{super::hpack::Decoder, *};

    fn literal(name: &str, value: &str) -> Vec<u8> {
        let string = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
        [vec![0], string(name), string(value)].concat()
    }

    fn head(fields: &[(&str, &str)]) -> Result<Head, Malformed> {
        let block: Vec<u8> = fields.iter().flat_map(|(n, v)| literal(n, v)).collect();
        let fields = Decoder::new().read(&block, 1 << 16).unwrap();
        Head::of(fields.list)
    }

    const BASE: [(&str, &str); 3] = [(":method", "POST"), (":scheme", "http"), (":path", "/a/b")];

    fn with(more: &[(&str, &str)]) -> Result<Head, Malformed> {
        head(&[&BASE[..], more].concat())
    }

    #[test]
    fn requests_are_put_together() {
        let head = with(&[
            (":authority", "h:1"),
            ("te", "trailers"),
            ("a", "1"),
            ("a", "2"),
        ]);
        let head = head.unwrap();
        assert_eq!(head.method, Method::POST);
        assert_eq!(head.uri, "http://h:1/a/b");
        assert_eq!(head.headers.get_all("a").iter().count(), 2);
        assert_eq!(with(&[]).unwrap().uri, "/a/b");
        assert_eq!(with(&[("content-length", "7")]).unwrap().length, Some(7));
    }

    #[test]
    fn an_authority_may_be_a_url_or_a_path() {
        for (said, meant) in [
            ("http://h:1", Some("h:1")),
            ("https://h:1/x", Some("h:1")),
            ("/run/etcd.sock", None),
            ("", None),
            ("http://", None),
        ] {
            let head = with(&[(":authority", said)]).unwrap();
            assert_eq!(head.uri.authority().map(uri::Authority::as_str), meant);
            assert_eq!(head.uri.path(), "/a/b");
        }
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for left_out in 0..BASE.len() {
            let mut fields = BASE.to_vec();
            fields.remove(left_out);
            assert!(head(&fields).is_err());
        }
        let odd = [
            (":path", "/c"),
            (":status", "200"),
            (":other", "1"),
            ("Upper", "1"),
            ("a b", "1"),
            ("a", "x\ny"),
            ("connection", "close"),
            ("transfer-encoding", "chunked"),
            ("te", "gzip"),
            ("content-length", "x"),
        ];
        for field in odd {
            assert!(with(&[field]).is_err(), "{field:?}");
        }
        assert!(
            with(&[("a", "1"), (":authority", "h")]).is_err(),
            "too late"
        );
        let path = |path| head(&[BASE[0], BASE[1], (":path", path)]);
        assert!(path("").is_err() && path("no slash").is_err());
        assert!(head(&[(":method", "A B"), BASE[1], BASE[2]]).is_err());
    }
}
