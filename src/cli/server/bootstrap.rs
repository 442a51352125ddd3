//! Who founds a cluster: the flags say it, or DNS, or another cluster. Asked only by a member that
//! has no data yet.

use std::time::Duration;

use super::{
    args::Args,
    config::{ClusterState, ServerConfig, own_cluster},
    discovery::{self, Discovery},
    srv,
    urls::Url,
};
use crate::{
    host::tokio::log::Log,
    kernel::Fault,
    membership::{BootstrapError, initial_members, parse_initial_cluster},
};

const CONFLICT: &str = "multiple discovery or bootstrap flags are set. Choose one of \
                        \"initial-cluster\", \"discovery-endpoints\" or \"discovery-srv\"";

/// Where the founders are named.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Bootstrap {
    /// In `--initial-cluster`.
    Static,
    /// In the SRV records of a domain.
    Srv {
        /// `--discovery-srv`.
        domain: String,
        /// `--discovery-srv-name`.
        suffix: String,
        /// `--discovery-srv-resolver`.
        resolver: String,
    },
    /// In another cluster.
    Discovery(Discovery),
}

impl Bootstrap {
    /// Checks what was given, in etcd's words.
    pub(super) fn from_args(args: &Args) -> Result<Self, String> {
        let endpoints = args.text("discovery-endpoints");
        let domain = args.text("discovery-srv");
        let ways = [args.text("initial-cluster"), endpoints, domain];
        if ways.iter().filter(|way| !way.is_empty()).count() > 1 {
            return Err(CONFLICT.to_owned());
        }
        let token = args.text("discovery-token");
        if token.is_empty() != endpoints.is_empty() {
            return Err("both --discovery-token and --discovery-endpoints must be set".to_owned());
        }
        if !domain.is_empty() {
            return Ok(Self::Srv {
                domain: domain.to_owned(),
                suffix: args.text("discovery-srv-name").to_owned(),
                resolver: args.text("discovery-srv-resolver").to_owned(),
            });
        }
        if endpoints.is_empty() {
            return Ok(Self::Static);
        }
        if endpoints
            .split(',')
            .any(|endpoint| endpoint.trim().is_empty())
        {
            return Err("--discovery-endpoints must not contain empty endpoints".to_owned());
        }
        let time = |name: &str| match args.duration(name) {
            Duration::ZERO => Duration::from_secs(3600),
            given => given,
        };
        Ok(Self::Discovery(Discovery {
            endpoints: args
                .list("discovery-endpoints")
                .into_iter()
                .map(str::to_owned)
                .collect(),
            token: token.to_owned(),
            dial_timeout: time("discovery-dial-timeout"),
            request_timeout: time("discovery-request-timeout"),
            keepalive_time: time("discovery-keepalive-time"),
            keepalive_timeout: time("discovery-keepalive-timeout"),
            user: user(args.text("discovery-user"), args.text("discovery-password")),
        }))
    }
}

/// `name:password`, or the two apart.
fn user(name: &str, password: &str) -> Option<(String, String)> {
    let (name, password) = match (name.split_once(':'), password) {
        (Some((name, password)), "") => (name, password),
        (_, password) => (name, password),
    };
    (!name.is_empty()).then(|| (name.to_owned(), password.to_owned()))
}

/// The configuration with the founders in `initial_cluster`, wherever they were named.
pub(super) fn settled(config: &ServerConfig, log: &Log) -> Result<ServerConfig, Fault> {
    let mut settled = config.clone();
    let name = &config.node.name;
    match &config.bootstrap {
        Bootstrap::Static => {}
        Bootstrap::Srv {
            domain,
            suffix,
            resolver,
        } => {
            let wanted = srv::Wanted {
                domain,
                suffix,
                resolver,
                name,
                advertised: &config.advertise_peer,
            };
            let found = srv::initial_cluster(&wanted, log).map_err(Fault::State)?;
            refuse_tls(&found)?;
            // The others know this member by the name in its record.
            let own = parse(&found)?.remove(name).unwrap_or_default();
            let own: Vec<&str> = own.iter().map(String::as_str).collect();
            settled.advertise_peer = Url::parse_all(&own).map_err(Fault::State)?;
            settled.initial_cluster = found;
        }
        Bootstrap::Discovery(_) if config.cluster_state == ClusterState::Existing => {}
        Bootstrap::Discovery(wanted) => {
            let own = own_cluster(name, &config.advertise_peer);
            let state = |error: BootstrapError| Fault::State(error.to_string());
            let alone = initial_members(&parse(&own)?, &wanted.token).map_err(state)?;
            let id = alone.first().expect("one member was named").id;
            settled.initial_cluster = discovery::join(wanted, id, &own, log)?;
            refuse_tls(&settled.initial_cluster)?;
            settled.token.clone_from(&wanted.token);
        }
    }
    Ok(settled)
}

fn parse(cluster: &str) -> Result<std::collections::BTreeMap<String, Vec<String>>, Fault> {
    parse_initial_cluster(cluster).map_err(|error| Fault::State(error.to_string()))
}

fn refuse_tls(cluster: &str) -> Result<(), Fault> {
    match cluster
        .split(',')
        .find(|member| member.contains("=https://"))
    {
        None => Ok(()),
        Some(member) => Err(Fault::State(format!(
            "{member}: TLS is not supported by this version; the members need http:// URLs"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bootstrap(arguments: &[&str]) -> Result<Bootstrap, String> {
        let arguments = arguments.iter().map(|text| (*text).to_owned());
        Bootstrap::from_args(&Args::parse(arguments, []).unwrap())
    }

    #[test]
    fn there_is_one_way_to_name_the_founders() {
        let endpoints = "--discovery-endpoints=a:1,b:2";
        let cases: [(&[&str], &str); 5] = [
            (
                &["--initial-cluster=a=http://h:1", "--discovery-srv=x"],
                CONFLICT,
            ),
            (&["--discovery-srv=x", endpoints], CONFLICT),
            (
                &[endpoints],
                "both --discovery-token and --discovery-endpoints must be set",
            ),
            (
                &["--discovery-token=t"],
                "both --discovery-token and --discovery-endpoints must be set",
            ),
            (
                &["--discovery-token=t", "--discovery-endpoints=a:1,"],
                "--discovery-endpoints must not contain empty endpoints",
            ),
        ];
        for (arguments, reason) in cases {
            assert_eq!(bootstrap(arguments).unwrap_err(), reason, "{arguments:?}");
        }
        assert_eq!(bootstrap(&[]), Ok(Bootstrap::Static));
        let given = bootstrap(&["--discovery-token=t", endpoints, "--discovery-user=u:p:q"]);
        let Ok(Bootstrap::Discovery(given)) = given else {
            panic!("{given:?}");
        };
        assert_eq!(given.endpoints, ["a:1", "b:2"]);
        assert_eq!(given.user, Some(("u".to_owned(), "p:q".to_owned())));
        assert_eq!(given.dial_timeout, Duration::from_secs(2));
    }
}
