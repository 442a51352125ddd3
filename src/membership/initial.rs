//! How a cluster begins: the text of `--initial-cluster`, the rules it must keep, and the members
//! it makes. URLs are compared as text; whoever wants names resolved does so before.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use super::{Member, UrlError, member_id, parse_url};
use crate::kernel::MemberId;

/// Member names and their peer URLs, sorted.
pub type InitialCluster = BTreeMap<String, Vec<String>>;

/// Why a cluster cannot begin like this; the text says what to change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BootstrapError {
    /// The text names no member.
    Empty,
    /// A part of the text is not `name=url`.
    NotAPair(String),
    /// A URL of a member is refused.
    BadUrl(String, UrlError),
    /// A URL is given twice.
    DuplicateUrl(String),
    /// The local member is not among the members.
    LocalMissing(String),
    /// URLs of the local member that it does not advertise.
    NotAdvertised {
        name: String,
        missing: Vec<String>,
        advertised: Vec<String>,
    },
    /// URLs the local member advertises and the cluster does not know.
    NotInitial {
        missing: Vec<String>,
        name: String,
        advertised: Vec<String>,
    },
    /// The URLs of a member make an id that means "none", or another member's.
    BadId(String),
    /// The running cluster has another number of members.
    CountDiffers { local: usize, existing: usize },
    /// A member of the running cluster is not in the local configuration.
    NoMatch {
        id: MemberId,
        peer_urls: Vec<String>,
    },
}

impl fmt::Display for BootstrapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str(
                "initial cluster unset; name every first member in --initial-cluster, \
                 as in a=http://10.0.0.1:2380,b=http://10.0.0.2:2380",
            ),
            Self::NotAPair(part) => write!(
                f,
                "--initial-cluster holds {part:?}, which is not of the form name=url"
            ),
            Self::BadUrl(name, error) => {
                write!(
                    f,
                    "--initial-cluster has a bad URL for member {name:?}: {error}"
                )
            }
            Self::DuplicateUrl(url) => write!(
                f,
                "initial cluster has duplicate url {url}; give every member peer URLs of its own"
            ),
            Self::LocalMissing(name) => write!(
                f,
                "couldn't find local name {name:?} in the initial cluster configuration; \
                 set --name to one of its names or add {name}=<peer URL> to --initial-cluster"
            ),
            Self::NotAdvertised {
                name,
                missing,
                advertised,
            } => write!(
                f,
                "--initial-cluster has {} but missing from --initial-advertise-peer-urls={}",
                pairs(name, missing),
                advertised.join(",")
            ),
            Self::NotInitial {
                missing,
                name,
                advertised,
            } => write!(
                f,
                "--initial-advertise-peer-urls has {} but missing from --initial-cluster={}",
                missing.join(","),
                pairs(name, advertised)
            ),
            Self::BadId(name) => write!(
                f,
                "the peer URLs of member {name:?} do not make an id of its own; change them or \
                 the --initial-cluster-token"
            ),
            Self::CountDiffers { local, existing } => write!(
                f,
                "member count is unequal: --initial-cluster has {local} members, the running \
                 cluster has {existing}; add this member first, then copy the list it prints"
            ),
            Self::NoMatch { id, peer_urls } => write!(
                f,
                "PeerURLs: no match found for existing member ({:x}, [{}]); correct its URLs in \
                 --initial-cluster",
                id.get(),
                peer_urls.join(" ")
            ),
        }
    }
}

impl std::error::Error for BootstrapError {}

/// Parses `a=http://1:2380,b=http://2:2380,a=http://3:2380`; a name given again adds a URL.
pub fn parse_initial_cluster(text: &str) -> Result<InitialCluster, BootstrapError> {
    let mut cluster = InitialCluster::new();
    let mut seen = BTreeSet::new();
    for part in text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        let pair = part.split_once('=').filter(|(name, _)| !name.is_empty());
        let (name, url) = pair.ok_or_else(|| BootstrapError::NotAPair(part.into()))?;
        let url = parse_url(url).map_err(|error| BootstrapError::BadUrl(name.into(), error))?;
        if !seen.insert(url.clone()) {
            return Err(BootstrapError::DuplicateUrl(url));
        }
        cluster.entry(name.into()).or_default().push(url);
    }
    cluster.values_mut().for_each(|urls| urls.sort_unstable());
    match cluster.is_empty() {
        true => Err(BootstrapError::Empty),
        false => Ok(cluster),
    }
}

/// The local member must be one of the members. Enough for a member that joins a running cluster.
pub fn verify_local(initial: &InitialCluster, name: &str) -> Result<(), BootstrapError> {
    match initial.contains_key(name) {
        true => Ok(()),
        false => Err(BootstrapError::LocalMissing(name.into())),
    }
}

/// The local member must be one of the members, with just the peer URLs it advertises. For a member
/// that begins a new cluster.
pub fn verify_advertised(
    initial: &InitialCluster,
    name: &str,
    advertised: &[String],
) -> Result<(), BootstrapError> {
    verify_local(initial, name)?;
    let urls: BTreeSet<&String> = initial[name].iter().collect();
    let own: BTreeSet<&String> = advertised.iter().collect();
    let sorted = |urls: &BTreeSet<&String>| urls.iter().map(|url| (*url).clone()).collect();
    let (unadvertised, unknown) = (&urls - &own, &own - &urls);
    if !unadvertised.is_empty() {
        return Err(BootstrapError::NotAdvertised {
            name: name.into(),
            missing: sorted(&unadvertised),
            advertised: sorted(&own),
        });
    }
    if !unknown.is_empty() {
        return Err(BootstrapError::NotInitial {
            missing: sorted(&unknown),
            name: name.into(),
            advertised: sorted(&own),
        });
    }
    Ok(())
}

/// The first members of a new cluster: voters, with ids made of their URLs and the cluster's token,
/// so that every one of them comes to the same set.
pub fn initial_members(
    initial: &InitialCluster,
    token: &str,
) -> Result<Vec<Member>, BootstrapError> {
    let mut members = BTreeMap::new();
    for (name, peer_urls) in initial {
        let id = member_id(peer_urls, token, None);
        let member = Member {
            id,
            name: name.clone(),
            peer_urls: peer_urls.clone(),
            ..Member::default()
        };
        if id.is_zero() || members.insert(id, member).is_some() {
            return Err(BootstrapError::BadId(name.clone()));
        }
    }
    Ok(members.into_values().collect())
}

/// For a member that joins: which id each name has in the running cluster, by equal peer URLs.
pub fn assign_ids(
    initial: &InitialCluster,
    existing: &[Member],
) -> Result<BTreeMap<String, MemberId>, BootstrapError> {
    if initial.len() != existing.len() {
        return Err(BootstrapError::CountDiffers {
            local: initial.len(),
            existing: existing.len(),
        });
    }
    let mut ids = BTreeMap::new();
    for member in existing {
        let mut urls = member.peer_urls.clone();
        urls.sort_unstable();
        let name = initial
            .iter()
            .find(|(name, local)| **local == urls && !ids.contains_key(*name));
        let (name, _) = name.ok_or_else(|| BootstrapError::NoMatch {
            id: member.id,
            peer_urls: urls.clone(),
        })?;
        ids.insert(name.clone(), member.id);
    }
    Ok(ids)
}

fn pairs(name: &str, urls: &[String]) -> String {
    let pairs: Vec<String> = urls.iter().map(|url| format!("{name}={url}")).collect();
    pairs.join(",")
}
