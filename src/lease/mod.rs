//! Leases: keys that live as long as somebody keeps them alive.
//!
//! The replicated part (which leases exist, their granted and checkpointed time, their keys)
//! changes only by applied commands and is the same on every member. The volatile part (deadlines)
//! exists on the leader only, follows the leader's clock alone, and is rebuilt by
//! `Lessor::promote`.
//!
//! What a client is promised: after a grant or a keep-alive was answered with a TTL, its lease
//! lives at least that long on the leader's clock, whoever leads. Four rules keep it:
//! 1. Only an applied revoke ends a lease. A deposed leader's proposals do not commit.
//! 2. A new leader starts every lease with its full time, or with the checkpointed rest, plus one
//!    election timeout for what the leader before it may have answered last.
//! 3. A checkpoint shortens what a later leader grants, so a renewal may be answered only when no
//!    checkpoint is stored and none is on its way; otherwise a reset goes through the log first.
//! 4. A lease that ran out is never renewed, because its revoke may already be in the log.
//! 5. What the leader decides about a lease names its grant too: the id may be granted again while
//!    the decision is on its way, and the new lease must not pay for the old one.
//!
//! Stored format, bucket `Lease`: the id as 8 bytes big-endian, then
//! ```text
//! 0        8               16                       24
//! | ttl, s | remaining, ms | log index of the grant |    big-endian
//! ```
//! where a remaining time of 0 means "all of the TTL".

mod expiry;
mod lessor;
#[cfg(test)]
mod tests;

pub use expiry::{
    CHECKPOINTS_PER_SECOND_MAX, EXPIRIES_PER_SECOND_AFTER_PROMOTION, REVOKE_RETRY,
    checkpoint_patience, checkpoint_period,
};
pub use lessor::{Grant, Incarnation, Lessor, Renewal, Reset, TimeToLive, minimum_ttl_seconds};
