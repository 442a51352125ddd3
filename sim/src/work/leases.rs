//! Leases granted, renewed, asked about and ended, also after their time, and keys that end with
//! them. Clients share what they know of leases, so that several of them meet at one.

use std::collections::BTreeMap;

use fated::{
    kernel::{Request, Response},
    pb::etcdserverpb as rpc,
};

use super::{
    Desk, Job, Turn, answer,
    requests::{self, Author},
};
use crate::{
    client::Outcome,
    script::{LeaseStep, Naming},
};

const OVER: &str = "work: lease was over when it was to be changed";
/// How many leases clients remember; more of them are over the older they are.
const KNOWN_MAX: usize = 8;

/// The leases that clients know of.
///
/// Invariant: an id that a grant or revocation of unknown outcome may still reach is forgotten and
/// never granted again, and none is granted while another grant or revocation of it is open. So
/// each entry of the log that grants or revokes tells whose it is.
#[derive(Debug, Default)]
pub(super) struct Register {
    known: Vec<i64>,
    /// Open grants and revocations.
    busy: BTreeMap<i64, u32>,
    used: bool,
}

impl Register {
    /// One of the known ones.
    pub(super) fn pick(&self, number: u64) -> Option<i64> {
        let count = self.known.len() as u64;
        (count > 0).then(|| self.known[crate::draw::usize(number % count)])
    }

    pub(super) fn is_used(&self) -> bool {
        self.used
    }

    fn is_busy(&self, id: i64) -> bool {
        self.busy.contains_key(&id)
    }

    fn begin(&mut self, id: i64) {
        self.used = true;
        *self.busy.entry(id).or_default() += 1;
    }

    /// A grant or revocation is over, for certain or not.
    fn end(&mut self, id: i64, outcome: &Outcome) {
        if matches!(outcome, Outcome::Unknown | Outcome::Open) {
            self.known.retain(|known| *known != id);
            // It stays busy for ever: whatever may still come must not meet another of its kind.
            return;
        }
        if let Some(open) = self.busy.get_mut(&id) {
            *open -= 1;
            if *open == 0 {
                self.busy.remove(&id);
            }
        }
    }

    fn add(&mut self, id: i64) {
        if !self.known.contains(&id) {
            self.known.push(id);
        }
        if self.known.len() > KNOWN_MAX {
            self.known.remove(0);
        }
    }
}

/// The job of a step.
pub(super) fn job(step: &LeaseStep) -> Box<dyn Job> {
    Box::new(LeaseJob {
        step: Some(step.clone()),
        changing: None,
        asked: None,
    })
}

#[derive(Debug)]
struct LeaseJob {
    step: Option<LeaseStep>,
    /// The lease whose grant or revocation is open.
    changing: Option<i64>,
    asked: Option<&'static str>,
}

/// An id that is nobody else's.
pub(super) fn fresh_id(author: Author) -> i64 {
    let client = i64::try_from(author.client).expect("clients are few");
    let serial = i64::try_from(author.serial).expect("requests are few");
    (client + 1) * 1_000_000 + serial
}

/// A grant by a name.
pub(super) fn grant(id: i64, ttl: i64) -> Request {
    Request::LeaseGrant(rpc::LeaseGrantRequest { ttl, id })
}

/// A revocation.
pub(super) fn revoke(id: i64) -> Request {
    Request::LeaseRevoke(rpc::LeaseRevokeRequest { id })
}

/// A renewal.
pub(super) fn keep_alive(id: i64) -> Request {
    Request::LeaseKeepAlive(rpc::LeaseKeepAliveRequest { id })
}

impl LeaseJob {
    fn grant(&mut self, ttl: i64, naming: Naming, desk: &mut Desk<'_>) -> Request {
        let fresh = fresh_id(desk.author);
        let id = match naming {
            Naming::Cluster => 0,
            Naming::Fresh => fresh,
            Naming::Again { pick } => {
                let known = desk.shared.leases.pick(pick);
                known
                    .filter(|id| !desk.shared.leases.is_busy(*id))
                    .unwrap_or(fresh)
            }
        };
        if id != 0 {
            desk.shared.leases.begin(id);
            self.changing = Some(id);
        }
        desk.counters.hit("work: lease asked for");
        grant(id, ttl)
    }

    /// Asks, or grants where no lease is known to ask about.
    fn ask(&mut self, step: LeaseStep, desk: &mut Desk<'_>) -> Request {
        let known = |desk: &Desk<'_>, pick: u64| desk.shared.leases.pick(pick);
        match step {
            LeaseStep::Grant { ttl, naming } => self.grant(ttl, naming, desk),
            LeaseStep::KeepAlive { pick } => match known(desk, pick) {
                Some(id) => {
                    self.asked = Some("work: lease renewed");
                    keep_alive(id)
                }
                None => self.grant(3, Naming::Fresh, desk),
            },
            LeaseStep::Revoke { pick } => {
                let id = known(desk, pick).filter(|id| !desk.shared.leases.is_busy(*id));
                match id {
                    Some(id) => {
                        desk.shared.leases.begin(id);
                        self.changing = Some(id);
                        self.asked = Some("work: lease revoked");
                        revoke(id)
                    }
                    None => self.grant(3, Naming::Fresh, desk),
                }
            }
            LeaseStep::TimeToLive { pick, keys } => {
                let id = known(desk, pick).unwrap_or(7);
                Request::LeaseTimeToLive(rpc::LeaseTimeToLiveRequest { id, keys })
            }
            LeaseStep::List => Request::LeaseLeases(rpc::LeaseLeasesRequest {}),
            LeaseStep::Put { key, pick, bytes } => {
                let mut put = requests::put(requests::name(key), desk.author, bytes);
                put.lease = known(desk, pick).unwrap_or(0);
                put.prev_kv = true;
                Request::Put(put)
            }
        }
    }
}

impl Job for LeaseJob {
    fn next(&mut self, desk: &mut Desk<'_>) -> Turn {
        match self.step.take() {
            Some(step) => Turn::Ask(self.ask(step, desk)),
            None => Turn::Done,
        }
    }

    fn hear(&mut self, desk: &mut Desk<'_>, outcome: &Outcome) {
        if let Some(id) = self.changing {
            desk.shared.leases.end(id, outcome);
        }
        match answer(outcome) {
            Some(Response::LeaseGrant(grant)) => {
                desk.shared.leases.add(grant.id);
                desk.counters.hit("work: lease granted");
            }
            Some(Response::LeaseTimeToLive(lease)) => desk.counters.hit(match lease.ttl {
                -1 => "work: lease seen to be over",
                _ => "work: lease seen alive",
            }),
            Some(Response::LeaseKeepAlive(lease)) if lease.ttl <= 0 => {
                desk.counters.hit(OVER);
            }
            Some(_) => {
                if let Some(counter) = self.asked {
                    desk.counters.hit(counter);
                }
            }
            None => {
                if matches!(outcome, Outcome::Failed(_)) && self.asked.is_some() {
                    desk.counters.hit(OVER);
                }
            }
        }
    }
}

/// Lets others use a lease that was granted for a job.
pub(super) fn share(desk: &mut Desk<'_>, id: i64) {
    desk.shared.leases.used = true;
    desk.shared.leases.add(id);
}

/// A lease is in use that others need not know of.
pub(super) fn note_use(desk: &mut Desk<'_>) {
    desk.shared.leases.used = true;
}
