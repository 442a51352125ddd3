//! URLs of members and clients, checked by etcd's rules.

use std::{fmt, net::IpAddr};

/// How one speaks at an address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Scheme {
    /// Plain TCP.
    Http,
    /// TLS over TCP.
    Https,
    /// A unix socket.
    Unix,
    /// TLS over a unix socket.
    Unixs,
}

/// One URL.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Url {
    text: String,
    /// How one speaks there.
    pub scheme: Scheme,
    /// `host:port`, or the path of a socket.
    pub address: String,
}

impl Url {
    /// Reads one URL.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let wrong_scheme = || format!("URL scheme must be http, https, unix, or unixs: {text}");
        let (scheme, rest) = text.split_once(':').ok_or_else(wrong_scheme)?;
        let scheme = match scheme {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            "unix" => Scheme::Unix,
            "unixs" => Scheme::Unixs,
            _ => return Err(wrong_scheme()),
        };
        let rest = rest.strip_prefix("//").unwrap_or(rest);
        let url = Self {
            text: text.to_owned(),
            scheme,
            address: rest.to_owned(),
        };
        if url.is_tcp() {
            if rest.contains(['/', '?', '#']) {
                return Err(format!("URL must not contain a path: {text}"));
            }
            let form = || format!("URL address does not have the form \"host:port\": {text}");
            let (host, port) = rest.rsplit_once(':').ok_or_else(form)?;
            let bare_ipv6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
            if bare_ipv6 || port.parse::<u16>().is_err() {
                return Err(form());
            }
        } else if rest.is_empty() {
            return Err(format!("URL does not name a socket: {text}"));
        }
        Ok(url)
    }

    /// Reads a list; an empty one is an error.
    pub fn parse_all(texts: &[&str]) -> Result<Vec<Self>, String> {
        if texts.is_empty() {
            return Err("no valid URLs given".to_owned());
        }
        texts.iter().map(|text| Self::parse(text)).collect()
    }

    /// Whether this is `host:port` and not a socket file.
    pub fn is_tcp(&self) -> bool {
        matches!(self.scheme, Scheme::Http | Scheme::Https)
    }

    /// Whether TLS is spoken there.
    pub fn is_secure(&self) -> bool {
        matches!(self.scheme, Scheme::Https | Scheme::Unixs)
    }

    /// The host, without the brackets of an IPv6 address.
    pub fn host(&self) -> &str {
        let host = self.address.rsplit_once(':').map_or("", |(host, _)| host);
        host.trim_start_matches('[').trim_end_matches(']')
    }

    /// One listens at addresses, not at names other than `localhost`.
    pub fn check_bind(&self) -> Result<(), String> {
        let host = self.host();
        if !self.is_tcp() || host == "localhost" || host.parse::<IpAddr>().is_ok() {
            return Ok(());
        }
        Err(format!("expected IP in URL for binding ({self})"))
    }

    /// What is told to others names a host.
    pub fn check_advertised(&self) -> Result<(), String> {
        if self.is_tcp() && self.host().is_empty() {
            return Err(format!("unexpected empty host ({self})"));
        }
        Ok(())
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::Url;

    #[test]
    fn urls_are_taken_apart() {
        for (text, host, address) in [
            ("http://localhost:2379", "localhost", "localhost:2379"),
            (" https://10.0.0.1:1 ", "10.0.0.1", "10.0.0.1:1"),
            ("http://[::1]:2379", "::1", "[::1]:2379"),
        ] {
            let url = Url::parse(text).unwrap();
            assert_eq!((url.host(), &*url.address), (host, address));
            assert_eq!(url.check_bind(), Ok(()));
        }
        assert_eq!(
            Url::parse("unix:///run/x.sock").unwrap().address,
            "/run/x.sock"
        );
        assert_eq!(
            Url::parse("unix://localhost:1").unwrap().address,
            "localhost:1"
        );
    }

    #[test]
    fn wrong_urls_are_refused_with_a_reason() {
        for (text, reason) in [
            ("localhost:2379", "URL scheme"),
            ("ftp://a:1", "URL scheme"),
            ("http://a", "host:port"),
            ("http://a:b", "host:port"),
            ("http://::1:2379", "host:port"),
            ("http://a:1/path", "path"),
            ("unix://", "socket"),
        ] {
            let refused = Url::parse(text).unwrap_err();
            assert!(refused.contains(reason), "{text}: {refused}");
        }
        let named = Url::parse("http://example.com:1").unwrap();
        assert!(named.check_bind().is_err());
        assert_eq!(named.check_advertised(), Ok(()));
        assert!(Url::parse("http://:1").unwrap().check_advertised().is_err());
        assert!(Url::parse_all(&[]).is_err());
    }
}
