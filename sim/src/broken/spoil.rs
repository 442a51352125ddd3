//! Random right histories, each spoilt in one place.

use super::Trial;

/// All of them.
pub(super) fn trials() -> Vec<Trial> {
    Vec::new()
}
