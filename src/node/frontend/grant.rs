//! Grants of leases that this member names, because the client left the id open.
//!
//! Invariants:
//! - Who left the id open is never told that the lease exists: wall clocks go back, and members may
//!   share the upper bits, so a name can be taken. The grant is proposed again under another one.
//! - Names rise within a life, and the step doubles with each one that was taken, so that any run
//!   of names in use is soon behind; the call's deadline bounds it in any case.

use super::Frontend;
use crate::{
    kernel::{ApiError, CallId, Context, Response, WallTime},
    mutant,
    node::{
        mail::{ConsensusInput, Mail, encode_command},
        pending::{Asker, Chosen},
    },
    pb::{etcdserverpb::LeaseGrantRequest, fated::command::command::Body},
};

/// The longest step over names that are taken: all those of some hours.
const STEP_SHIFT_MAX: u32 = 32;

impl Frontend {
    /// Proposes a grant under a name of ours.
    pub(super) fn grant_chosen(&mut self, call: CallId, ttl: i64, cx: &mut Context<'_, Mail>) {
        let id = self.fresh_lease_id(cx.wall);
        let body = Body::LeaseGrant(LeaseGrantRequest { ttl, id });
        self.propose(call, Asker::Client, body, cx);
        if let Some(waiting) = self.pending.get_mut(call) {
            waiting.chosen = Some(Chosen { ttl, taken: 0 });
        }
    }

    /// Proposes a grant again whose name was taken; says whether it did so, or need not answer.
    pub(super) fn chooses_again(
        &mut self,
        call: CallId,
        result: &Result<Response, ApiError>,
        cx: &mut Context<'_, Mail>,
    ) -> bool {
        if *result != Err(ApiError::LeaseExist) || mutant!("taken-lease-id-told") {
            return false;
        }
        let Some(waiting) = self.pending.get_mut(call) else {
            return false;
        };
        let Some(chosen) = &mut waiting.chosen else {
            return false;
        };
        if self.leaving.is_some() {
            // A removed member proposes nothing; the call is told so when the member stops.
            return true;
        }
        let ttl = chosen.ttl;
        self.last_lease_id += 1 << chosen.taken;
        chosen.taken = (chosen.taken + 1).min(STEP_SHIFT_MAX);
        let id = self.fresh_lease_id(cx.wall);
        let request = self.next_request;
        self.next_request = request.next();
        let body = Body::LeaseGrant(LeaseGrantRequest { ttl, id });
        let data = encode_command(request, self.member, body);
        self.pending.reassign(call, request, data.len());
        cx.tell(Mail::Consensus(ConsensusInput::Propose {
            request,
            data,
            conf_change: false,
        }));
        true
    }

    /// A lease id that rises with time, as etcd's do: clients sort keys that end in one. The upper
    /// bits keep members apart, the lower ones the grants of one millisecond.
    fn fresh_lease_id(&mut self, wall: WallTime) -> i64 {
        let millis = (wall.as_nanos() / 1_000_000) & 0xff_ffff_ffff;
        self.last_lease_id = (millis << 8).max(self.last_lease_id + 1);
        let member = (self.member.get() & 0x7fff) << 48;
        (member | (self.last_lease_id & 0xffff_ffff_ffff))
            .cast_signed()
            .max(1)
    }
}
