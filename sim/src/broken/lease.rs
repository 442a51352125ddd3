//! Leases that end at the wrong time, and wrong answers about them.

use super::Case;
use super::story::*;
use crate::check::{Guarantee, Weakness};
use crate::history::*;

pub(super) fn lease_cases() -> Vec<Case> {
    use Guarantee::*;
    fn keep_alive(id: i64) -> Request {
        Request::LeaseKeepAlive(LeaseRequest { id })
    }
    fn set_ttl(op: &mut Operation, ttl: i64) {
        let Outcome::Ok(response) = &mut op.outcome else {
            panic!()
        };
        match &mut response.reply {
            Reply::LeaseKeepAlive(reply) => reply.ttl = ttl,
            Reply::LeaseTimeToLive(reply) => reply.granted_ttl = ttl,
            other => panic!("no ttl: {other:?}"),
        }
    }
    vec![
        (
            "a lease ends before its time, by the log",
            || {
                let mut story = base();
                story.time += SECOND;
                story.expire(7);
                story.history
            },
            LeaseEarly,
            &[Weakness::NoLeaseEarly],
        ),
        (
            "a lease ends before its time, by what a client saw",
            || {
                let mut story = base();
                story.time += SECOND;
                story.expire(7);
                story.tell(get("l"));
                unseen(story)
            },
            LeaseEarly,
            &[Weakness::NoLeaseEarly],
        ),
        (
            "a renewal is forgotten",
            || {
                let mut story = base();
                story.time += 4 * SECOND;
                story.tell(keep_alive(7));
                story.time += 2 * SECOND;
                story.expire(7);
                story.history
            },
            LeaseEarly,
            &[Weakness::NoLeaseEarly],
        ),
        (
            "a lease lives on after its time",
            || {
                let mut story = base();
                story.time += 7 * SECOND;
                story.tell(get("l"));
                story.history
            },
            LeaseLate,
            &[Weakness::NoLeaseLate],
        ),
        (
            "a lease lives on after its time, by what a client saw",
            || {
                let mut story = base();
                story.time += 7 * SECOND;
                story.tell(put("c", "c8"));
                story.tell(get("l"));
                unseen(story)
            },
            LeaseLate,
            &[Weakness::NoLeaseLate],
        ),
        (
            "a dead lease is renewed",
            || {
                let mut story = base();
                story.tell(Request::LeaseRevoke(LeaseRequest { id: 7 }));
                let at = story.tell(keep_alive(7));
                set_ttl(&mut story.history.ops[at], 5);
                unseen(story)
            },
            LeaseAnswer,
            &[Weakness::NoLeaseAnswer],
        ),
        (
            "a living lease is said to be gone",
            || {
                let mut story = base();
                let at = story.tell(keep_alive(7));
                set_ttl(&mut story.history.ops[at], 0);
                story.tell(put("c", "c8"));
                unseen(story)
            },
            LeaseAnswer,
            &[Weakness::NoLeaseAnswer],
        ),
        (
            "an answer about a lease tells of another",
            || {
                let mut story = base();
                let at = story.tell(keep_alive(7));
                let Outcome::Ok(response) = &mut story.history.ops[at].outcome else {
                    panic!()
                };
                response.reply = Reply::LeaseKeepAlive(LeaseReply { id: 8, ttl: 5 });
                unseen(story)
            },
            LeaseAnswer,
            &[Weakness::NoLeaseAnswer],
        ),
        (
            "a lease has a TTL that was not granted",
            || {
                let mut story = base();
                let at = story.tell(Request::LeaseTimeToLive(LeaseTimeToLiveRequest {
                    id: 7,
                    keys: true,
                }));
                set_ttl(&mut story.history.ops[at], 6);
                unseen(story)
            },
            LeaseAnswer,
            &[Weakness::NoLeaseAnswer],
        ),
        (
            "a lease is listed that was never granted",
            || {
                let mut story = base();
                let at = story.tell(Request::LeaseLeases);
                let Outcome::Ok(response) = &mut story.history.ops[at].outcome else {
                    panic!()
                };
                response.reply = Reply::LeaseLeases(LeaseLeasesReply { leases: vec![7, 8] });
                unseen(story)
            },
            LeaseAnswer,
            &[Weakness::NoLeaseAnswer],
        ),
    ]
}
