//! Who belongs to the cluster. The set of members is replicated state like any key: it changes only
//! while applying a configuration change, in the same batch as the consistent index, and nothing
//! else in the system keeps a second list.
//!
//! Invariants:
//! - the `learner` flag of the stored members is the one truth about who votes; raft's
//!   configuration is derived from it, and only what a joint configuration adds is stored beside;
//! - a removed id never comes back; no two members share a peer URL;
//! - at least one voter remains.
//!
//! Stored format: bucket `Members` maps an id (8 bytes big-endian) to a `Member` message, bucket
//! `MembersRemoved` maps an id to nothing, or to the index of its removal (8 bytes big-endian)
//! until that is settled, and bucket `Cluster` holds `clusterId` (8 bytes
//! big-endian), `clusterVersion` (text) and, while joint, `joint` (a `ConfState` message without
//! `voters` and `learners`).

mod cluster;
mod initial;
mod member;
#[cfg(test)]
mod tests;
mod url;
pub mod version;

pub use cluster::{Cluster, VotersLearners};
pub use initial::{
    BootstrapError, InitialCluster, assign_ids, initial_members, parse_initial_cluster,
    verify_advertised, verify_local,
};
pub use member::{Member, cluster_id, member_id};
pub use url::{UrlError, parse_url, parse_urls};
