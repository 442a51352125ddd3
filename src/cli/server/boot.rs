//! From a checked configuration to a node: directories, lock, log, ids.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    bootstrap::{self, Bootstrap},
    config::{ClusterState, ServerConfig},
    join, joining,
    joint::{self, Store},
};
use crate::{
    backend::{Backend, View},
    host::tokio::{
        lanes::LaneSet,
        lock::DirLock,
        log::Log,
        meter::Meter,
        wal::{WalDir, create_private, sync_directory},
    },
    kernel::{ClusterId, Entropy, EntryId, Fault},
    membership::{
        BootstrapError, Cluster, InitialCluster, Member, assign_ids, cluster_id, initial_members,
        parse_initial_cluster, parse_urls, verify_advertised, verify_local,
    },
    node::{InitialMember, Node, NodeConfig},
};

const CALLER: &str = "server/boot.rs:0";
/// How long a member that joins waits for those that know the cluster.
const JOIN_PATIENCE: Duration = Duration::from_secs(3);
/// How long a founder waits for those that may have founded the cluster before. Founders that start
/// together do not answer each other, and this is what that costs.
const FOUNDER_PATIENCE: Duration = Duration::from_millis(200);

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
pub fn boot(config: &ServerConfig, log: &Log, meter: &Meter) -> Result<Booted, Fault> {
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
    shrink(config, &store, log)?;
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
            // Ids are made of URLs and the token, so what belongs to others names nobody here.
            if let Ok((_, told)) = founders(config) {
                node_config.initial_members = told;
            }
            // It was stopped before its first image came, and knows nobody yet.
            let blank = found.first == EntryId::ZERO && found.entries.is_empty();
            if blank && (config.cluster_state == ClusterState::Existing || joins(config)) {
                told_again(config, &mut node_config, log)?;
            }
        }
        None if joins(config) => join_by_itself(config, &mut node_config, log)?,
        None => found_member(&bootstrap::settled(config, log)?, &mut node_config)?,
    }
    if config.node.force_new_cluster && recovered.is_some() {
        refuse_beside_others(&store, &node_config)?;
        log.warn(CALLER, "forcing restart member", &ids(&node_config));
    }
    let lanes = joint::lanes(&wal, &store, meter);
    #[cfg(feature = "failpoints")]
    let lanes = super::failing::lanes(lanes);
    let entropy = Entropy::from_seed(seed());
    let node = Node::boot(&node_config, recovered, store.clone(), entropy)?;
    // It has read every record once, and most of them nobody will ask for soon.
    store.give_back_map();
    Ok(Booted {
        node,
        config: node_config,
        lanes,
        lock,
    })
}

/// Rewrites the store before it serves, if that frees as much as is asked for.
fn shrink(config: &ServerConfig, store: &Store, log: &Log) -> Result<(), Fault> {
    let megabytes = config.settings.bootstrap_defrag_megabytes;
    if megabytes == 0 {
        return Ok(());
    }
    let size = store.size()?;
    let free = size.file_bytes.saturating_sub(size.used_bytes);
    let fields = [
        ("current-db-size-bytes", json!(size.file_bytes)),
        ("current-db-size-in-use-bytes", json!(size.used_bytes)),
        ("threshold-megabytes", json!(megabytes)),
    ];
    if free < megabytes.saturating_mul(1024 * 1024) {
        log.info(CALLER, "skipping defragmentation", &fields);
        return Ok(());
    }
    log.info(CALLER, "defragmenting before the start", &fields);
    store.defragment()?;
    Ok(())
}

/// Ids and members of a new cluster.
fn found_member(config: &ServerConfig, node: &mut NodeConfig) -> Result<(), Fault> {
    if config.cluster_state == ClusterState::Existing {
        return join_cluster(config, node);
    }
    let founders = founders(config).map_err(|error| Fault::State(error.to_string()))?;
    let (cluster, mut members) = founders;
    let own = members
        .iter()
        .find(|member| member.name == config.node.name);
    node.member = own.expect("the local name was verified").id;
    node.cluster = cluster;
    let others = members.iter().filter(|member| member.id != node.member);
    let urls: Vec<String> = others.flat_map(|other| other.peer_urls.clone()).collect();
    if let Ok(running) = join::ask(&urls, FOUNDER_PATIENCE)
        && let Some(reason) = join::used_before(&running, cluster, node.member)
    {
        return Err(Fault::State(reason));
    }
    if matches!(config.bootstrap, Bootstrap::Srv { .. }) {
        // The records have no names, and the numbers that stand for them are our own.
        members.iter_mut().for_each(|member| member.name.clear());
    }
    node.initial_members = members;
    Ok(())
}

/// Id and peers of a member that was added to a running cluster, as that cluster tells them.
fn join_cluster(config: &ServerConfig, node: &mut NodeConfig) -> Result<(), Fault> {
    let state = |error: BootstrapError| Fault::State(error.to_string());
    let initial = parse_initial_cluster(&config.initial_cluster).map_err(state)?;
    verify_local(&initial, &node.name).map_err(state)?;
    let running = ask_others(&initial, &node.name)?;
    // Also where the flags are those of another day: it is the more important thing to say.
    let same_urls = |member: &&Member| member.peer_urls == initial[&node.name];
    let known = running.members.iter().find(same_urls);
    if let Some(known) = known.filter(|known| known.started()) {
        return Err(Fault::State(format!(
            "member {:x} has run before, and its data is not in this data directory; restore the \
             directory, or remove the member and add it anew",
            known.id.get()
        )));
    }
    let ids = assign_ids(&initial, &running.members).map_err(state)?;
    node.member = ids[&node.name];
    node.cluster = running.cluster;
    node.joining = true;
    node.initial_members = told_members(&running);
    Ok(())
}

fn joins(config: &ServerConfig) -> bool {
    !config.join.is_empty()
}

/// Id and peers of a member that has itself added to a running cluster.
fn join_by_itself(config: &ServerConfig, node: &mut NodeConfig, log: &Log) -> Result<(), Fault> {
    let advertised = config.advertise_peer.iter().map(ToString::to_string);
    let advertised: Vec<String> = advertised.collect();
    let peer_urls = parse_urls(&advertised).map_err(|error| Fault::State(error.to_string()))?;
    let applicant = joining::Applicant {
        name: &node.name,
        peer_urls: &peer_urls,
    };
    let seat = joining::take_seat(&config.join, &applicant, log)?;
    node.member = seat.member;
    node.cluster = seat.running.cluster;
    node.joining = true;
    node.initial_members = told_members(&seat.running);
    log.info(CALLER, "the cluster has added this member", &ids(node));
    Ok(())
}

fn ids(node: &NodeConfig) -> [(&'static str, Value); 2] {
    [
        ("cluster-id", json!(format!("{:x}", node.cluster.get()))),
        ("local-member-id", json!(format!("{:x}", node.member.get()))),
    ]
}

/// Two members that both believe to be the cluster would go different ways for ever, so nobody may
/// be forced beside one that runs.
fn refuse_beside_others(store: &Store, node: &NodeConfig) -> Result<(), Fault> {
    let view = View::new(store.clone())?;
    let cluster = Cluster::load(&view)?;
    for other in cluster.members().filter(|other| other.id != node.member) {
        if let Ok(running) = join::ask(&other.peer_urls, FOUNDER_PATIENCE)
            && running.cluster == node.cluster
        {
            return Err(Fault::State(format!(
                "--force-new-cluster: member {:x} at {} still runs; if the cluster can be saved, \
                 remove the flag, else stop that member for good first",
                other.id.get(),
                other.peer_urls.join(",")
            )));
        }
    }
    Ok(())
}

/// The addresses for a member that knows its id already.
fn told_again(config: &ServerConfig, node: &mut NodeConfig, log: &Log) -> Result<(), Fault> {
    let running = if joins(config) {
        joining::look(&config.join, log)?
    } else {
        let initial = parse_initial_cluster(&config.initial_cluster);
        let initial = initial.map_err(|error| Fault::State(error.to_string()))?;
        ask_others(&initial, &node.name)?
    };
    if running.cluster != node.cluster {
        return Err(Fault::State(
            "the members that were asked run another cluster than the one this data directory was \
             begun for; correct --initial-cluster or --join, or remove the directory"
                .to_owned(),
        ));
    }
    node.joining = true;
    node.initial_members = told_members(&running);
    Ok(())
}

fn ask_others(initial: &InitialCluster, own: &str) -> Result<join::Running, Fault> {
    let others = initial.iter().filter(|(name, _)| *name != own);
    let urls: Vec<String> = others.flat_map(|(_, urls)| urls.clone()).collect();
    join::ask(&urls, JOIN_PATIENCE).map_err(|reasons| {
        Fault::State(format!(
            "cannot fetch cluster info from peer urls: could not retrieve cluster information from \
             the given URLs ({reasons}); start a member of the running cluster, or correct \
             --initial-cluster"
        ))
    })
}

fn told_members(running: &join::Running) -> Vec<InitialMember> {
    let members = running.members.iter();
    let told = members.map(|member| InitialMember {
        id: member.id,
        name: member.name.clone(),
        peer_urls: member.peer_urls.clone(),
    });
    told.collect()
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
pub(super) fn seed() -> u64 {
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
            (
                &["--initial-cluster-state=existing"],
                "cannot fetch cluster info from peer urls",
            ),
        ] {
            let refused = founded(arguments).unwrap_err();
            assert!(refused.contains(reason), "{arguments:?}: {refused}");
        }
    }
}
