//! One run of requests against two fresh servers.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use fated::pb::etcdserverpb::{RangeRequest, watch_request::RequestUnion};

use crate::{
    Options,
    ask::{Answer, Ask, Ids, Reply},
    compare::{Pair, Rules},
    differences,
    generate::{self, Switches},
    newer::{self, Question},
    servers::Server,
    side::{Received, Side},
    streams,
    world::World,
};

/// How long what comes on streams may take to be alike.
const SETTLE_LIMIT: Duration = Duration::from_secs(8);
/// How often that is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// How long etcd may take to remove what was compacted: its deletions are seen from its next
/// commit on, and it commits every 100 ms. Until then, the number it gives for a revision at which
/// no key lives also covers what will be removed.
const REMOVAL_LIMIT: Duration = Duration::from_secs(3);
/// How long etcd may take to read on in history.
const CATCH_UP: Duration = Duration::from_millis(250);

/// A difference that no rule explains.
pub struct Finding {
    /// The episode it was found in.
    pub episode: usize,
    /// The request it was found at.
    pub request: usize,
    /// The call.
    pub call: &'static str,
    /// What was asked.
    pub ask: String,
    /// What etcd said.
    pub reference: String,
    /// What fated said.
    pub subject: String,
}

impl Finding {
    /// Whether it is only that the connection to the reference broke.
    pub fn is_a_break(&self) -> bool {
        let broke =
            |text: &str| text.contains("h2 protocol error") || text.contains("transport error");
        broke(&self.reference) && !broke(&self.subject)
    }
}

/// Two servers and what is known of them.
pub struct Episode {
    number: usize,
    trace: bool,
    switches: Switches,
    world: World,
    ids: Ids,
    reference: Side,
    subject: Side,
    /// Watches asked for on each stream.
    created: BTreeMap<usize, usize>,
    /// Requests so far.
    pub asked: usize,
    /// Whether only etcd did what was just asked, as is known.
    parted: bool,
    /// Progress that both told.
    pub progress: usize,
    /// Hashes that etcd gave right only once it had removed what was compacted.
    pub early_hashes: usize,
    /// etcd and fated.
    servers: (Server, Server),
}

impl Episode {
    /// Starts both servers.
    pub async fn start(
        number: usize,
        seed: u64,
        trace: bool,
        switches: Switches,
        options: &Options,
    ) -> Result<Self, String> {
        let reference = Server::start(&options.reference)?;
        let subject = Server::start(&options.subject)?;
        Ok(Self {
            number,
            trace,
            switches,
            world: World::new(seed),
            ids: Ids::default(),
            reference: Side::new(&reference.endpoint()),
            subject: Side::new(&subject.endpoint()),
            created: BTreeMap::new(),
            asked: 0,
            parted: false,
            progress: 0,
            early_hashes: 0,
            servers: (reference, subject),
        })
    }

    /// What the reference said last.
    pub fn last_words(&self) -> String {
        let log = self.servers.0.log();
        let lines: Vec<&str> = log.lines().collect();
        let panic = lines.iter().position(|line| line.contains("panic"));
        let from = panic.unwrap_or(lines.len().saturating_sub(5));
        let words = lines[from..].iter().take(8);
        words.map(|line| format!("    {line}\n")).collect()
    }

    /// Asks so many requests, or fewer if the two no longer hold the same.
    pub async fn run(
        &mut self,
        requests: usize,
        rules: &mut Rules,
        calls: &mut BTreeMap<&'static str, usize>,
        findings: &mut Vec<Finding>,
    ) {
        while self.asked < requests {
            let ask = generate::next(&mut self.world, self.switches);
            if self.trace {
                println!("{} {ask:?}", self.asked);
            }
            let finding = if ask == Ask::Settle {
                self.settle(Duration::ZERO).await
            } else if ask == Ask::SettleBehind {
                self.settle(CATCH_UP).await
            } else {
                self.asked += 1;
                *calls.entry(ask.name()).or_default() += 1;
                self.step(&ask, rules).await
            };
            if finding.is_none() && std::mem::take(&mut self.parted) && !self.same_state().await {
                return; // a known difference left them with other keys
            }
            let Some(finding) = finding else { continue };
            let streams = finding.call == "Settle";
            findings.push(finding);
            if streams || !self.same_state().await {
                return; // what follows would differ because of this
            }
        }
        let last = Duration::from_millis(300);
        findings.extend(self.settle(last).await);
        let open: Vec<usize> = self.created.keys().copied().collect();
        for number in open {
            self.count_met(number, rules);
        }
    }

    async fn step(&mut self, ask: &Ask, rules: &mut Rules) -> Option<Finding> {
        self.note(ask, rules);
        let translated = self.ids.for_subject(ask);
        if let Ask::MemberAdd(request) = ask {
            rules.met(
                differences::USELESS_URL,
                newer::has_useless_url(request).into(),
            );
        }
        let (reference, subject) = match newer::question(ask) {
            Question::Send(question) => {
                tokio::join!(self.reference.ask(question), self.subject.ask(translated))
            }
            Question::Known(answer) => {
                rules.met(differences::BAD_SORT, 1);
                (answer, self.subject.ask(translated).await)
            }
        };
        if matches!(ask, Ask::Lock(_) | Ask::Campaign(_)) && reference.is_err() {
            // The key of one that did not wait to its end is removed behind its answer.
            self.same_revision().await;
        }
        let reference = self.once_removed(ask, reference, &subject).await;
        self.pair_ids(&reference, &subject);
        if self.trace {
            println!("    {reference:?}\n    {subject:?}");
        }
        self.world.learn(ask, &reference);
        let mut pair = Pair {
            ask,
            reference,
            subject,
        };
        let parted = pair.reference.is_ok() && pair.subject.is_err();
        if rules.agree(&mut pair, &self.ids) {
            self.parted = parted;
            return None;
        }
        Some(self.finding(
            ask.name(),
            &format!("{ask:?}"),
            &pair.reference,
            &pair.subject,
        ))
    }

    /// What the reference says once it has removed what was compacted, if that is what fated said
    /// at once; otherwise its first answer.
    async fn once_removed(&mut self, ask: &Ask, first: Answer, subject: &Answer) -> Answer {
        let hash = |answer: &Answer| match answer {
            Ok(Reply::HashKv(reply)) => Some((reply.hash, reply.compact_revision)),
            _ => None,
        };
        let wanted = hash(subject);
        if hash(&first) == wanted || wanted.is_none() || hash(&first).is_none() {
            return first;
        }
        let began = tokio::time::Instant::now();
        while began.elapsed() < REMOVAL_LIMIT {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let again = self.reference.ask(ask.clone()).await;
            if hash(&again) == wanted {
                self.early_hashes += 1;
                return again;
            }
        }
        first
    }

    fn finding(
        &self,
        call: &'static str,
        ask: &str,
        reference: &dyn std::fmt::Debug,
        subject: &dyn std::fmt::Debug,
    ) -> Finding {
        let short = |text: String| match text.char_indices().nth(3000) {
            Some((end, _)) => format!("{} ... ({} bytes)", &text[..end], text.len()),
            None => text,
        };
        Finding {
            episode: self.number,
            request: self.asked,
            call,
            ask: short(ask.to_owned()),
            reference: short(format!("{reference:?}")),
            subject: short(format!("{subject:?}")),
        }
    }

    fn note(&mut self, ask: &Ask, rules: &mut Rules) {
        match ask {
            Ask::OpenStream(number) => {
                self.created.insert(*number, 0);
            }
            Ask::CloseStream(number) => {
                self.created.remove(number);
                self.count_met(*number, rules);
            }
            Ask::Watch(number, request) => {
                if let Some(RequestUnion::CreateRequest(_)) = &request.request_union {
                    *self.created.entry(*number).or_default() += 1;
                }
            }
            _ => {}
        }
    }

    /// Counts what a stream showed of what is known to differ.
    fn count_met(&mut self, number: usize, rules: &mut Rules) {
        let (one, two) = (self.reference.received(), self.subject.received());
        let compactions = &self.world.compactions;
        let met = streams::met(compactions, &one[&number], &two[&number]);
        rules.met(differences::NEGATIVE_START, met.negative_starts);
        rules.met(differences::TOMBSTONE, met.kept_deletions);
        rules.met(differences::PROGRESS, met.progress_withheld);
        self.progress += met.progress_told;
    }

    /// Notes ids that each server chose by itself.
    fn pair_ids(&mut self, reference: &Answer, subject: &Answer) {
        match (reference, subject) {
            (Ok(Reply::LeaseGrant(one)), Ok(Reply::LeaseGrant(two))) => {
                self.ids.lease(one.id, two.id);
            }
            (Ok(Reply::MemberAdd(one)), Ok(Reply::MemberAdd(two))) => {
                if let (Some(one), Some(two)) = (&one.member, &two.member) {
                    self.ids.member(one.id, two.id);
                }
            }
            _ => {}
        }
    }

    /// Waits until every stream was sent the same on both sides and nothing more comes.
    async fn settle(&mut self, at_least: Duration) -> Option<Finding> {
        let began = tokio::time::Instant::now();
        let mut before = None;
        loop {
            let seen = (self.reference.received(), self.subject.received());
            let open: Vec<usize> = self.created.keys().copied().collect();
            let odd = open
                .into_iter()
                .find_map(|number| self.unlike(number, &seen.0[&number], &seen.1[&number]));
            let counts = |side: &BTreeMap<usize, Received>| -> usize {
                side.values().map(|received| received.responses.len()).sum()
            };
            let now = (counts(&seen.0), counts(&seen.1));
            let calm = odd.is_none() && before == Some(now) && began.elapsed() >= at_least;
            if calm {
                return None;
            }
            if began.elapsed() > SETTLE_LIMIT {
                return odd;
            }
            before = Some(now);
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// What differs on a stream, if anything does.
    fn unlike(&self, number: usize, one: &Received, two: &Received) -> Option<Finding> {
        let mut two = two.clone();
        for response in &mut two.responses {
            self.ids.in_watch(response);
        }
        let unlike = streams::unlike(self.created[&number], &self.world.compactions, one, &two)?;
        let ask = format!("stream {number}, {}", unlike.place);
        Some(self.finding("Settle", &ask, &unlike.reference, &unlike.subject))
    }

    /// Waits until both stand at the same revision and stay there; not for ever.
    async fn same_revision(&mut self) {
        let began = tokio::time::Instant::now();
        let mut calm = 0;
        while calm < 3 && began.elapsed() < SETTLE_LIMIT {
            tokio::time::sleep(LOOK_AGAIN).await;
            let any = || {
                Ask::Range(RangeRequest {
                    key: Bytes::from_static(b"a"),
                    ..Default::default()
                })
            };
            let one = revision(self.reference.ask(any()).await);
            let two = revision(self.subject.ask(any()).await);
            calm = if one == two { calm + 1 } else { 0 };
        }
    }

    /// Whether both hold the same keys at the same revision.
    async fn same_state(&mut self) -> bool {
        let everything = || {
            Ask::Range(RangeRequest {
                key: Bytes::from_static(b"\0"),
                range_end: Bytes::from_static(b"\0"),
                ..Default::default()
            })
        };
        let one = self.reference.ask(everything()).await;
        let two = self.subject.ask(everything()).await;
        let ask = everything();
        let mut pair = Pair {
            ask: &ask,
            reference: one,
            subject: two,
        };
        Rules::new().agree(&mut pair, &self.ids)
    }
}

fn revision(answer: Answer) -> Option<i64> {
    let mut seen = None;
    if let Ok(mut reply) = answer {
        reply.each_header(&mut |header| seen = Some(header.revision));
    }
    seen
}
