//! Bugs in how the members agree and what they keep: elections, replication, the log on disk,
//! images, restarts.

use super::Planted;

/// Their list.
pub const TABLE: &[Planted] = &[];
