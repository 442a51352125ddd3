//! Bugs in what the members agree on: revisions, watches, leases, reads and applying.

use super::Planted;

/// Their list.
pub const TABLE: &[Planted] = &[];
