//! URLs of members: `scheme://host:port` with scheme http or https, or unix and unixs with any
//! address. The text is kept as given, but for the case of the scheme, since member ids hash it.
//!
//! Stricter than etcd where etcd accepts what cannot work: an empty host or port, user names,
//! queries, fragments.

// Only the grammar of addresses; nothing here touches a network.
use core::net::Ipv6Addr;
use std::fmt;

/// Why a URL is refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum UrlError {
    /// The list is empty.
    None,
    /// The scheme is missing or another one.
    Scheme(String),
    /// Host or port is missing or malformed.
    HostPort(String),
    /// Something follows the port, be it only a slash.
    Path(String),
}

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("no valid URLs given"),
            Self::Scheme(url) => {
                write!(f, "URL scheme must be http, https, unix, or unixs: {url}")
            }
            Self::HostPort(url) => {
                write!(f, "URL address does not have the form \"host:port\": {url}")
            }
            Self::Path(url) => write!(f, "URL must not contain a path: {url}"),
        }
    }
}

impl std::error::Error for UrlError {}

/// Checks one URL; returns it without surrounding space and with its scheme in lower case.
pub fn parse_url(text: &str) -> Result<String, UrlError> {
    let text = text.trim();
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(UrlError::Scheme(text.into()));
    };
    let scheme = scheme.to_ascii_lowercase();
    match scheme.as_str() {
        "http" | "https" => check_address(text, rest)?,
        "unix" | "unixs" => {
            if rest.is_empty() || !rest.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(UrlError::HostPort(text.into()));
            }
        }
        _ => return Err(UrlError::Scheme(text.into())),
    }
    Ok(format!("{scheme}://{rest}"))
}

/// Checks a list of URLs; returns them sorted, as they are stored and hashed.
pub fn parse_urls<S: AsRef<str>>(texts: &[S]) -> Result<Vec<String>, UrlError> {
    if texts.is_empty() {
        return Err(UrlError::None);
    }
    let mut urls = texts
        .iter()
        .map(|text| parse_url(text.as_ref()))
        .collect::<Result<Vec<_>, _>>()?;
    urls.sort_unstable();
    Ok(urls)
}

fn check_address(text: &str, rest: &str) -> Result<(), UrlError> {
    let (address, tail) = match rest.find(['/', '?', '#']) {
        Some(end) => rest.split_at(end),
        None => (rest, ""),
    };
    let well_formed = match address.rsplit_once(':') {
        Some((host, port)) => is_host(host) && is_port(port),
        None => false,
    };
    if !well_formed {
        return Err(UrlError::HostPort(text.into()));
    }
    if !tail.is_empty() {
        return Err(UrlError::Path(text.into()));
    }
    Ok(())
}

fn is_host(host: &str) -> bool {
    let bracketed = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    match bracketed {
        Some(address) => {
            let (address, zone) = address.split_once("%25").unwrap_or((address, "zone"));
            address.parse::<Ipv6Addr>().is_ok() && is_name(zone)
        }
        None => is_name(host),
    }
}

fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_~".contains(&byte);
    !name.is_empty() && name.bytes().all(allowed)
}

fn is_port(port: &str) -> bool {
    port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::{UrlError, parse_url, parse_urls};

    #[test]
    fn good_urls_are_kept_as_they_are() {
        let urls = [
            "http://localhost:2380",
            "https://10.0.0.1:2380",
            "http://Node-1.example.com:80",
            "https://[::1]:2380",
            "http://[fe80::1%25eth0]:2380",
            "unix:///run/etcd.sock",
            "unixs://localhost:m0",
        ];
        for url in urls {
            assert_eq!(parse_url(url).as_deref(), Ok(url));
        }
        assert_eq!(parse_url(" HTTP://A:1 ").as_deref(), Ok("http://A:1"));
    }

    #[test]
    fn bad_urls_are_refused_with_the_reason() {
        let scheme = UrlError::Scheme as fn(String) -> UrlError;
        let cases = [
            ("", scheme),
            ("localhost:2380", scheme),
            ("ftp://a:1", scheme),
            ("http://", UrlError::HostPort),
            ("http://a", UrlError::HostPort),
            ("http://a:", UrlError::HostPort),
            ("http://:2380", UrlError::HostPort),
            ("http://a:b", UrlError::HostPort),
            ("http://a:+1", UrlError::HostPort),
            ("http://a:65536", UrlError::HostPort),
            ("http://::1:2380", UrlError::HostPort),
            ("http://[::1:2380", UrlError::HostPort),
            ("http://[::g]:2380", UrlError::HostPort),
            ("http://user@a:1", UrlError::HostPort),
            ("http://a b:1", UrlError::HostPort),
            ("http://a:1/", UrlError::Path),
            ("http://a:1/path", UrlError::Path),
            ("http://a:1?x", UrlError::Path),
            ("unix://", UrlError::HostPort),
        ];
        for (url, error) in cases {
            assert_eq!(parse_url(url), Err(error(url.into())), "{url}");
        }
    }

    #[test]
    fn lists_are_sorted_and_not_empty() {
        assert_eq!(parse_urls::<&str>(&[]), Err(UrlError::None));
        let urls = parse_urls(&["http://b:1", "http://a:2", "http://a:10"]).unwrap();
        assert_eq!(urls, ["http://a:10", "http://a:2", "http://b:1"]);
        assert!(parse_urls(&["http://a:1", "a"]).is_err());
    }

    #[test]
    fn texts_are_etcds() {
        let text = |url| parse_url(url).unwrap_err().to_string();
        assert_eq!(
            text("localhost:2380"),
            "URL scheme must be http, https, unix, or unixs: localhost:2380"
        );
        assert_eq!(
            text("http://localhost"),
            "URL address does not have the form \"host:port\": http://localhost"
        );
        assert_eq!(
            text("http://localhost:1/x"),
            "URL must not contain a path: http://localhost:1/x"
        );
    }
}
