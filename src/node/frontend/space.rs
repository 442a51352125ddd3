//! Requests that would grow the store beyond the quota are refused before they are proposed. This
//! is a courtesy of the member that was asked, by its own disk; what all must agree on is the
//! alarm, which goes through the log.

use super::Frontend;
use crate::{
    apply::cost,
    kernel::{ApiError, Context, Request},
    node::mail::{Mail, UpkeepInput},
};

impl Frontend {
    /// Refuses a request that does not fit, and lets the alarm be raised.
    pub(super) fn refuse_growth(
        &self,
        request: &Request,
        cx: &mut Context<'_, Mail>,
    ) -> Result<(), ApiError> {
        let Ok(quota) = u64::try_from(self.quota_bytes) else {
            return Ok(());
        };
        let cost = cost_of(request);
        let fits = cost == 0 || quota == 0 || self.live_bytes.saturating_add(cost) < quota;
        if fits {
            return Ok(());
        }
        cx.tell(Mail::Upkeep(UpkeepInput::Refused { cost }));
        Err(ApiError::NoSpace)
    }
}

/// What a request may add to the store.
fn cost_of(request: &Request) -> u64 {
    if let Request::Put(request) = request {
        cost::put(request)
    } else if let Request::Txn(request) = request {
        cost::txn(request)
    } else if matches!(request, Request::LeaseGrant(_)) {
        cost::LEASE_BYTES
    } else {
        0
    }
}
