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
    kernel::{ClusterId, Entropy, Fault},
    membership::{
        BootstrapError, cluster_id, initial_members, parse_initial_cluster, verify_advertised,
        verify_local,
    },
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
    let store = joint::open_store(&member_dir)?;
    let recovered = joint::recover(&wal, &store)?;
    let mut node_config = config.node.clone();
    match &recovered {
        Some(found) => {
            let (cluster, member) = found.head;
            let fields = [
                ("cluster-id", json!(format!("{:x}", cluster.get()))),
                ("local-member-id", json!(format!("{:x}", member.get()))),
                ("commit-index", json!(found.hard_state.commit.get())),
            ];
            let story = "restarting local member; bootstrap flags are ignored";
            log.info(CALLER, story, &fields);
            if let Some(torn) = &found.torn {
                log.warn(CALLER, &torn.to_string(), &[]);
            }
            node_config.cluster = cluster;
            node_config.member = member;
        }
        None => found_member(config, &mut node_config)?,
    }
    let lanes = joint::lanes(&wal, &store);
    let entropy = Entropy::from_seed(seed());
    let node = Node::boot(&node_config, recovered, store, entropy)?;
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
    let (cluster, members) = founders(config).map_err(|error| Fault::State(error.to_string()))?;
    let own = members
        .iter()
        .find(|member| member.name == config.node.name);
    node.member = own.expect("the local name was verified").id;
    node.cluster = cluster;
    node.initial_members = members;
    Ok(())
}

/// The founders by etcd's rules: this member is among them, at the URLs it advertises, and no URL
/// stands twice.
fn founders(config: &ServerConfig) -> Result<(ClusterId, Vec<InitialMember>), BootstrapError> {
    let initial = parse_initial_cluster(&config.initial_cluster)?;
    let advertised: Vec<String> = config
        .advertise_peer
        .iter()
        .map(ToString::to_string)
        .collect();
    verify_local(&initial, &config.node.name)?;
    verify_advertised(&initial, &config.node.name, &advertised)?;
    let members = initial_members(&initial, &config.token)?;
    let cluster = cluster_id(members.iter().map(|member| member.id));
    let members = members
        .into_iter()
        .map(|member| InitialMember {
            id: member.id,
            name: member.name,
            peer_urls: member.peer_urls,
        })
        .collect();
    Ok((cluster, members))
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
                "duplicate url",
            ),
            (&["--initial-cluster=default"], "name=url"),
            (&["--initial-cluster-state=existing"], "joining"),
        ] {
            let refused = founded(arguments).unwrap_err();
            assert!(refused.contains(reason), "{arguments:?}: {refused}");
        }
    }
}
