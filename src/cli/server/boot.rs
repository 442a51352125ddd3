//! From a checked configuration to a node: directories, lock, log, ids.

use serde_json::json;

use super::{
    config::{ClusterState, ServerConfig},
    joint::{self, Store},
};
use crate::{
    host::tokio::{
        lanes::LaneSet,
        lock::DirLock,
        log::Log,
        wal::{WalDir, create_private, sync_directory},
    },
    kernel::{Entropy, Fault},
    node::{InitialMember, Node, NodeConfig},
};

const CALLER: &str = "server/boot.rs:0";

/// A node and what it stands on.
pub struct Booted {
    /// The node.
    pub node: Node<Store>,
    /// Its settings, ids filled in.
    pub config: NodeConfig,
    /// The work of its disks.
    pub lanes: LaneSet,
    /// Keeps other processes away from the data.
    pub lock: DirLock,
}

/// Makes a node of what lies in the data directory, or founds a new member there.
pub fn boot(config: &ServerConfig, log: &Log) -> Result<Booted, Fault> {
    let member_dir = config.data_dir.join("member");
    create_private(&member_dir)?;
    let lock = DirLock::take(&config.data_dir)?;
    let wal = WalDir::open(&config.wal_dir, config.fsync)?;
    if config.fsync {
        for directory in [config.data_dir.as_path(), &member_dir] {
            sync_directory(directory)?;
        }
    }
    let recovered = joint::recover(&wal)?;
    let mut node_config = config.node.clone();
    match &recovered {
        Some(found) => {
            let story = "restarting local member; bootstrap flags are ignored";
            let cluster = json!(format!("{:x}", found.cluster.get()));
            let member = json!(format!("{:x}", found.member.get()));
            let fields = [("cluster-id", cluster), ("local-member-id", member)];
            log.info(CALLER, story, &fields);
            if let Some(torn) = &found.torn {
                let fields = [("where", json!(torn))];
                log.warn(
                    CALLER,
                    "cut off an unfinished write at the end of the log",
                    &fields,
                );
            }
            node_config.cluster = found.cluster;
            node_config.member = found.member;
        }
        None => found_member(config, &mut node_config)?,
    }
    let store = joint::open_store(&member_dir, config.fsync)?;
    let lanes = joint::lanes(&wal, &store);
    let entropy = Entropy::from_seed(seed());
    let node = joint::boot(node_config.clone(), recovered, store, entropy)?;
    Ok(Booted {
        node,
        config: node_config,
        lanes,
        lock,
    })
}

/// Ids and members of a new cluster.
fn found_member(config: &ServerConfig, node: &mut NodeConfig) -> Result<(), Fault> {
    if config.cluster_state == ClusterState::Existing {
        return Err(Fault::State(
            "joining an existing cluster is not supported by this version; \
             found a new one with --initial-cluster-state=new"
                .to_owned(),
        ));
    }
    let (cluster, members) =
        joint::founders(&config.initial_cluster, &config.token).map_err(Fault::State)?;
    let own = check_founders(config, &members).map_err(Fault::State)?;
    node.member = own.id;
    node.cluster = cluster;
    node.initial_members = members;
    Ok(())
}

/// This member must be among the founders, at the URLs it advertises, and no URL may stand twice.
fn check_founders<'a>(
    config: &ServerConfig,
    members: &'a [InitialMember],
) -> Result<&'a InitialMember, String> {
    let name = &config.node.name;
    let mut seen: Vec<&String> = Vec::new();
    for url in members.iter().flat_map(|member| &member.peer_urls) {
        if seen.contains(&url) {
            return Err(format!(
                "initial cluster {:?} has a URL twice: {url}",
                config.initial_cluster
            ));
        }
        seen.push(url);
        if crate::host::tokio::links::address(url).is_none() {
            return Err(format!(
                "--initial-cluster: {url}: only http://host:port is supported"
            ));
        }
    }
    let own = members
        .iter()
        .find(|member| member.name == *name)
        .ok_or_else(|| {
            format!("couldn't find local name {name:?} in the initial cluster configuration")
        })?;
    let mut advertised: Vec<String> = config
        .advertise_peer
        .iter()
        .map(ToString::to_string)
        .collect();
    advertised.sort();
    if own.peer_urls != advertised {
        let own = own.peer_urls.join(",");
        let advertised = advertised.join(",");
        return Err(format!(
            "--initial-cluster has {name}={own} but missing from \
             --initial-advertise-peer-urls={advertised}"
        ));
    }
    Ok(own)
}

/// A seed that no two boots share: the standard library keys its hashers from the system's
/// generator.
fn seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    let wall = crate::host::tokio::clock::Clock::wall().as_nanos();
    RandomState::new().hash_one((wall, std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::server::args::Args;

    fn founded(arguments: &[&str]) -> Result<NodeConfig, String> {
        let arguments = arguments.iter().map(|text| (*text).to_owned());
        let config = ServerConfig::from_args(&Args::parse(arguments, []).unwrap()).unwrap();
        let mut node = config.node.clone();
        found_member(&config, &mut node).map_err(|fault| fault.to_string())?;
        Ok(node)
    }

    #[test]
    fn founders_agree_on_ids_whoever_computes_them() {
        let cluster = "--initial-cluster=a=http://h:1,b=http://h:2,c=http://h:3";
        let member = |name: &str, port: u16| {
            let name = format!("--name={name}");
            let url = format!("--initial-advertise-peer-urls=http://h:{port}");
            founded(&[&name, &url, cluster]).unwrap()
        };
        let (a, b) = (member("a", 1), member("b", 2));
        assert_eq!(a.cluster, b.cluster);
        assert_eq!(a.initial_members, b.initial_members);
        assert_ne!(a.member, b.member);
        let other = founded(&["--initial-cluster-token=t"]).unwrap();
        assert_ne!(other.cluster, founded(&[]).unwrap().cluster);
    }

    #[test]
    fn a_member_must_be_named_at_its_own_urls() {
        for (arguments, reason) in [
            (
                &["--name=x", "--initial-cluster=a=http://h:1"][..],
                "couldn't find local name",
            ),
            (&["--initial-cluster=default=http://h:1"], "missing from"),
            (
                &["--initial-cluster=default=http://h:1,b=http://h:1"],
                "twice",
            ),
            (&["--initial-cluster=default=https://h:1"], "only http"),
            (&["--initial-cluster=default"], "name=url"),
            (&["--initial-cluster-state=existing"], "joining"),
        ] {
            let refused = founded(arguments).unwrap_err();
            assert!(refused.contains(reason), "{arguments:?}: {refused}");
        }
    }
}
