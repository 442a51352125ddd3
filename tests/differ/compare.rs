//! Decides whether two answers say the same.
//!
//! A *normalisation* hides one thing in which two servers must differ, such as an id that each
//! chooses by itself. A *difference* is behaviour of ours that is meant to be unlike that of the
//! reference; each is named, has its reason, and must be met, or the run fails.

use crate::ask::{Answer, Ask, Ids, Reply};

/// Two answers to one request.
pub struct Pair<'a> {
    /// What was asked, with the reference's ids.
    pub ask: &'a Ask,
    /// What etcd said.
    pub reference: Answer,
    /// What fated said.
    pub subject: Answer,
}

/// One rule, with how often it was met.
pub struct Rule {
    /// What it is called in reports.
    pub name: &'static str,
    /// Why it is right.
    pub reason: &'static str,
    /// Makes the answers alike where the rule speaks of them; tells whether it did.
    apply: fn(&mut Pair<'_>) -> bool,
    /// How often it was met.
    pub used: usize,
}

/// All rules.
pub struct Rules {
    /// Applied to every answer.
    pub normalisations: Vec<Rule>,
    /// Applied where answers still differ.
    pub differences: Vec<Rule>,
}

const fn rule(name: &'static str, reason: &'static str, apply: fn(&mut Pair<'_>) -> bool) -> Rule {
    Rule {
        name,
        reason,
        apply,
        used: 0,
    }
}

impl Rules {
    /// None met yet.
    pub fn new() -> Self {
        Self {
            normalisations: vec![
                rule("terms", "elections are each server's own affair", terms),
                rule("raft indices", "each server logs what it needs", indices),
                rule("sizes", "the stores have other file formats", sizes),
                rule("versions", "the reference is older", versions),
                rule(
                    "remaining time",
                    "time passes between two questions",
                    remaining,
                ),
                rule(
                    "who ends a wait",
                    "the client's deadline is kept by both sides, and either may be first",
                    deadline,
                ),
                rule(
                    "order of leases",
                    "etcd lists them from unordered maps",
                    order,
                ),
            ],
            differences: crate::differences::all(),
        }
    }

    /// Notes that a rule which streams follow was met.
    pub fn met(&mut self, name: &str, times: usize) {
        let rule = self.differences.iter_mut().find(|rule| rule.name == name);
        rule.expect("streams follow rules that exist").used += times;
    }

    /// Whether the answers say the same; if not, they come back as they were compared.
    pub fn agree(&mut self, pair: &mut Pair<'_>, ids: &Ids) -> bool {
        if let Ok(reply) = &mut pair.subject {
            ids.in_reply(reply);
        }
        for rule in &mut self.normalisations {
            rule.used += usize::from((rule.apply)(pair));
        }
        if pair.reference == pair.subject {
            return true;
        }
        for rule in &mut self.differences {
            if (rule.apply)(pair) {
                rule.used += 1;
                if pair.reference == pair.subject {
                    return true;
                }
            }
        }
        false
    }
}

/// A difference rule.
pub(crate) const fn difference(
    name: &'static str,
    reason: &'static str,
    apply: fn(&mut Pair<'_>) -> bool,
) -> Rule {
    rule(name, reason, apply)
}

fn both(pair: &mut Pair<'_>, mut change: impl FnMut(&mut Reply) -> bool) -> bool {
    let mut used = false;
    for reply in [&mut pair.reference, &mut pair.subject]
        .into_iter()
        .flatten()
    {
        used |= change(reply);
    }
    used
}

/// A number that must be there, whatever it is.
fn hide(number: &mut u64) -> bool {
    let there = *number != 0;
    *number = u64::from(there);
    there
}

fn terms(pair: &mut Pair<'_>) -> bool {
    both(pair, |reply| {
        let mut used = false;
        reply.each_header(&mut |header| used |= hide(&mut header.raft_term));
        if let Reply::Status(status) = reply {
            hide(&mut status.raft_term);
        }
        used
    })
}

fn indices(pair: &mut Pair<'_>) -> bool {
    both(pair, |reply| match reply {
        Reply::Status(status) => {
            hide(&mut status.raft_index) | hide(&mut status.raft_applied_index)
        }
        _ => false,
    })
}

fn sizes(pair: &mut Pair<'_>) -> bool {
    both(pair, |reply| match reply {
        Reply::Status(status) => {
            status.db_size = status.db_size.signum();
            status.db_size_in_use = status.db_size_in_use.signum();
            true
        }
        _ => false,
    })
}

fn versions(pair: &mut Pair<'_>) -> bool {
    both(pair, |reply| match reply {
        Reply::Status(status) => {
            status.version.truncate(2);
            true
        }
        _ => false,
    })
}

fn remaining(pair: &mut Pair<'_>) -> bool {
    let (Ok(Reply::LeaseTimeToLive(one)), Ok(Reply::LeaseTimeToLive(two))) =
        (&mut pair.reference, &mut pair.subject)
    else {
        return false;
    };
    if one.ttl > 0 && two.ttl > 0 && one.ttl.abs_diff(two.ttl) <= 2 {
        two.ttl = one.ttl;
        return true;
    }
    false
}

fn deadline(pair: &mut Pair<'_>) -> bool {
    let mut used = false;
    if !matches!(pair.ask, Ask::Lock(_) | Ask::Campaign(_)) {
        return used;
    }
    for answer in [&mut pair.reference, &mut pair.subject] {
        if let Err(refusal) = answer
            && (refusal.text.ends_with("context deadline exceeded")
                || refusal.text == "Timeout expired")
        {
            refusal.code = 4;
            refusal.text = "it took too long".to_owned();
            used = true;
        }
    }
    used
}

fn order(pair: &mut Pair<'_>) -> bool {
    both(pair, |reply| match reply {
        Reply::LeaseTimeToLive(reply) => {
            reply.keys.sort();
            !reply.keys.is_empty()
        }
        Reply::LeaseLeases(reply) => {
            reply.leases.sort_by_key(|lease| lease.id);
            true
        }
        _ => false,
    })
}
