//! One run from plan to verdict: boot, faults under load, liveness with a core of members, full
//! healing and convergence, and what is judged afterwards.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex},
    task::Poll,
    thread,
    time::{Duration, Instant as RealInstant},
};

use fated::{
    kernel::{ApiError, Entropy, Request, Response, mutant},
    pb::etcdserverpb as rpc,
};
use madsim::{
    runtime::{Handle, Runtime},
    task::NodeId,
    time::{TimeHandle, sleep},
};

mod forced;
mod space;
mod versions;
mod work_end;

use crate::{
    check,
    counters::Counters,
    history::{History, Meta},
    host::{self, Shared},
    observe::Violation,
    plan::Plan,
    record, tally,
    trace::{Keep, Trace},
    world::{Action, Item, Member, World},
};

/// Virtual time within which healthy members must get somewhere, beside election timeouts.
const PATIENCE_NANOS: u64 = 30_000_000_000;
/// What a plan that went wrong beyond all bounds may use up.
const STEPS_MAX: u64 = 20_000_000;

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed of the plan.
    pub seed: u64,
    /// The guarantee that did not hold.
    pub violation: Option<Violation>,
    /// Virtual time.
    pub simulated: Duration,
    /// Time of the machine that ran it.
    pub real: Duration,
    /// Requests of clients.
    pub operations: usize,
    /// Events and effects.
    pub steps: u64,
    /// The hash over all of them.
    pub hash: u64,
    /// What happened how often.
    pub counters: Counters,
    /// The last lines, if they were kept.
    pub lines: Vec<String>,
    /// The hash after each step, if it was kept.
    pub marks: Vec<u64>,
    /// What clients saw.
    pub history: History,
    /// How often the members came to the place of the planted bug.
    pub planted_reached: u64,
}

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Keeps panics for the report instead of printing them. Call once per process.
pub fn catch_panics() {
    std::panic::set_hook(Box::new(|info| {
        PANIC.with(|panic| {
            panic.borrow_mut().get_or_insert_with(|| info.to_string());
        });
    }));
}

/// Runs a plan on a fresh thread, because a second runtime on one thread is not the same world.
pub fn run(plan: Plan, keep: Keep) -> Report {
    let seed = plan.seed;
    on_thread(plan, keep, seed)
}

/// Runs a plan with everything else drawn that must not matter: the order in which the runtime
/// picks tasks, the drift of its clock, and the seeds of hash tables in the process.
pub fn run_disturbed(plan: Plan, keep: Keep) -> Report {
    let seed = plan.seed;
    on_thread(plan, keep, fresh_seed(!seed))
}

fn on_thread(plan: Plan, keep: Keep, runtime_seed: u64) -> Report {
    let thread = thread::Builder::new()
        .name(format!("seed {}", plan.seed))
        .stack_size(16 << 20)
        .spawn(move || run_here(plan, &keep, runtime_seed))
        .expect("the system gives a thread");
    thread.join().expect("a run catches its own panics")
}

fn run_here(plan: Plan, keep: &Keep, runtime_seed: u64) -> Report {
    let began = RealInstant::now();
    let seed = plan.seed;
    mutant::plant(plan.planted.as_deref().map(lasting));
    let trace = Trace::new(keep).expect("the trace file can be written");
    let shared = Shared::new(World::new(Arc::new(plan), trace));
    let runtime = Runtime::with_seed_and_config(runtime_seed, madsim::Config::default());
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(Runner::new(shared.clone()).drive())
    }));
    let mut world = shared.world();
    if let Some(home) = &world.home {
        home.remove();
    }
    let panicked = outcome.is_err().then(|| {
        let text = PANIC.with(|panic| panic.borrow_mut().take());
        Violation::new("no assertion fails", text.unwrap_or_default())
    });
    let mut violation = world.broken.clone().or(panicked);
    let told = world.told.take();
    let told = told.unwrap_or_else(|| world.told_so_far());
    let mut history = record::history(
        &world.clients.history[..told.operations],
        &world.watchers.history[..told.watched],
    );
    let own = record::by_the_clock(told.log.iter(), &mut history.ops);
    let (commits, refused) = record::commits(told.log.iter(), &history.ops, &own);
    history.commits = commits;
    world.counters.add("space: refused when applied", refused);
    record::count_unknown(&history, &mut world.counters);
    history.meta = meta(&world);
    let here = &mut *world;
    tally::count(&history, here.observer.log.values(), &mut here.counters);
    if violation.is_none() {
        let options = check::Options {
            plain_ops_max: 0,
            ..check::Options::default()
        };
        let verdict = check::check(&history, &options);
        world.counters.hit(if verdict.by_log {
            "check: order found once the log told what became of lost answers"
        } else {
            "check: order found from what clients saw alone"
        });
        // The first to be broken is named; that nothing could be decided only if all else holds.
        let undecided =
            |broken: &&check::Violation| broken.guarantee == check::Guarantee::Undecided;
        let mut found = verdict.violations.iter();
        let first = found.find(|broken| !undecided(broken));
        let first = first.or(verdict.violations.iter().find(undecided));
        violation = first.map(|broken| {
            let guarantee = format!("{:?}", broken.guarantee);
            Violation::new(guarantee, broken.to_string()).shown_at(broken.time)
        });
    }
    let report = Report {
        seed,
        violation,
        simulated: Duration::from_nanos(world.now),
        real: began.elapsed(),
        operations: world.clients.history.len(),
        steps: world.trace.steps(),
        hash: world.trace.hash(),
        counters: world.counters.clone(),
        lines: world.trace.take_lines(),
        marks: world.trace.take_marks(),
        history,
        planted_reached: mutant::reached(),
    };
    // After a panic inside a task the runtime may hold it half run; leak it rather than drop it,
    // but not the world with it.
    if outcome.is_err() {
        let empty = Trace::new(&Keep::Hash).expect("nothing is written");
        let mut plan = Plan::clone(&world.plan);
        plan.disks.lmdb = false;
        *world = World::new(Arc::new(plan), empty);
        std::mem::forget(runtime);
    }
    drop(world);
    report
}

/// What the judges must know of the cluster.
fn meta(world: &World) -> Meta {
    let cluster = &world.plan.cluster;
    let heartbeat = Duration::from_millis(cluster.heartbeat_ms);
    let ticks = u32::try_from(cluster.election_ms / cluster.heartbeat_ms).expect("ticks are few");
    let shared = &world.clients.shared;
    Meta {
        lease_ttl_min: fated::lease::minimum_ttl_seconds(ticks, heartbeat),
        drift_ppm: shared.drift_ppm,
        lease_late_max: world.plan.lease_late_ms.map(|late| late * 1_000_000),
        clock_jumps: shared.jumps.clone(),
        ..Meta::default()
    }
}

/// A name of a planted bug for as long as the process lives. There are few of them.
fn lasting(name: &str) -> &'static str {
    static NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut names = NAMES.lock().expect("no holder panics");
    if let Some(known) = names.get(name) {
        return known;
    }
    let new: &'static str = String::leak(name.to_owned());
    names.insert(new);
    new
}

type Answer = Result<Response, ApiError>;

/// What asking again and again came to.
enum Asked {
    /// The answers are as they should be.
    Wanted(Vec<Answer>),
    /// They never were; these were the last.
    Other(Vec<Answer>),
    /// Somebody did not answer.
    Nothing,
}

/// Takes the world forward, one thing after the other.
struct Runner {
    shared: Shared,
    handle: Handle,
    time: TimeHandle,
    nodes: Vec<NodeId>,
}

impl Runner {
    fn new(shared: Shared) -> Setup {
        Setup { shared }
    }

    /// Runs until `done` holds, or not longer than this. Whether it holds.
    async fn until(&self, nanos: u64, done: impl Fn(&World) -> bool) -> bool {
        let limit = self.shared.world().now + nanos;
        loop {
            let next = {
                let world = self.shared.world();
                if world.broken.is_some() || done(&world) {
                    return true;
                }
                assert!(
                    world.trace.steps() < STEPS_MAX,
                    "a run does not come to an end"
                );
                world.next_time()
            };
            let Some(next) = next.filter(|next| *next <= limit) else {
                let mut world = self.shared.world();
                world.now = world.now.max(limit);
                self.follow(world.now);
                return false;
            };
            self.follow(next);
            self.shared.world().advance();
            self.act().await;
        }
    }

    /// The runtime's clock follows the world's. It also moves by itself, by a random little with
    /// every task that ran, so nothing that happens may be timed by it.
    fn follow(&self, now: u64) {
        let left = Duration::from_nanos(now).saturating_sub(self.time.elapsed());
        if !left.is_zero() {
            self.time.advance(left);
        }
    }

    async fn act(&self) {
        loop {
            let action = self.shared.world().actions.pop_front();
            match action {
                None => return,
                Some(Action::Run(at)) => {
                    if self.shared.world().grant(at) {
                        self.wait_for_turn().await;
                    }
                }
                Some(Action::Kill(at)) => self.handle.kill(self.nodes[at]),
                Some(Action::Spawn(at)) => {
                    self.shared.world().busy = true;
                    self.handle.restart(self.nodes[at]);
                    let node = self.handle.get_node(self.nodes[at]);
                    let node = node.expect("every member has a node");
                    drop(node.spawn(host::live(self.shared.clone(), at)));
                    self.wait_for_turn().await;
                }
            }
        }
    }

    /// Tasks hold each other and the world through their wakers: only killed ones are ever freed.
    async fn end_lives(&self) {
        self.nodes.iter().for_each(|node| self.handle.kill(node));
        // Whoever sleeps is woken behind everybody who is ready.
        sleep(Duration::from_millis(1)).await;
    }

    async fn wait_for_turn(&self) {
        poll_fn(|cx| {
            let mut world = self.shared.world();
            if world.busy {
                world.runner = Some(cx.waker().clone());
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        })
        .await;
    }

    fn fail(&self, guarantee: &'static str, story: String) {
        self.shared.world().fail(Violation::new(guarantee, story));
    }

    fn patience(&self) -> u64 {
        PATIENCE_NANOS + 30 * 1_000_000 * self.shared.world().plan.cluster.election_ms
    }

    async fn phases(&self) {
        let plan = self.shared.world().plan.clone();
        self.shared.world().arm_founders();
        for at in 0..plan.cluster.members {
            self.shared
                .world()
                .after(at as u64 * 1000, Item::Boot { at });
        }
        let founders = plan.cluster.members;
        let serving = move |world: &World| {
            let mut founders = world.members[..founders].iter();
            founders.all(|member| member.serving)
        };
        if !self.until(self.patience(), serving).await {
            return self.fail("a new cluster comes to serve", self.story());
        }
        {
            let mut world = self.shared.world();
            world.start_clients();
            world.start_watchers();
            world.schedule_faults();
            world.schedule_changes();
        }
        let term = self.shared.world().term();
        self.until(plan.faults_ms * 1_000_000, |_| false).await;
        self.judge_calm(&plan, term);
        if plan.ends_early {
            self.shared.world().clients.stopped = true;
            return self.await_answers().await;
        }
        self.liveness(&plan).await;
        self.heal().await;
        if plan.last_cut {
            self.shared.world().cut_all_and_boot();
            self.converge().await;
            self.probe_all().await;
            self.compare_members().await;
        }
        if let Some(forced) = &plan.membership.forced {
            self.go_on_alone(forced).await;
        }
        self.shared.world().counters.hit("run: came to its end");
    }

    /// Where nothing breaks, no load makes members elect another leader.
    fn judge_calm(&self, plan: &Plan, before: u64) {
        if !plan.overload.calm {
            return;
        }
        let after = self.shared.world().term();
        if after != before {
            let story = format!("term {before} became {after}: {}", self.story());
            self.fail("load alone changes no leader", story);
        }
        self.shared
            .world()
            .counters
            .hit("overload: nothing else was wrong");
    }

    /// What was asked is answered or over, and takes no room.
    async fn judge_quiet(&self) {
        if !self.until(self.patience(), World::is_quiet).await {
            let world = self.shared.world();
            let crowds: Vec<_> = world.crowds().collect();
            drop(world);
            let story = format!("nothing is asked, and members count {crowds:?}");
            self.fail("a call takes room until it ends and no longer", story);
        }
    }

    /// A majority is whole, and the rest stays as broken as it is: the majority must serve.
    async fn liveness(&self, plan: &Plan) {
        let core = {
            let mut world = self.shared.world();
            world.end_faults();
            // Those of the plan first; where one is lost for ever, another takes its place.
            let mut candidates = world.voters();
            candidates.sort_by_key(|at| !plan.core.contains(at));
            candidates.truncate(world.core_size());
            if world.is_unsure() {
                // Whoever may come to vote is needed.
                world
                    .counters
                    .hit("members: healed with a change under way");
            } else {
                world.leave_behind(&candidates);
            }
            for at in &candidates {
                world.probe(*at);
            }
            candidates
        };
        if !self.until(self.patience(), World::probes_done).await {
            let open = self.shared.world().clients.probes_open();
            let story = format!("core {core:?}, not served at {open:?}: {}", self.story());
            self.fail("a healthy majority serves", story);
        }
    }

    async fn heal(&self) {
        {
            let mut world = self.shared.world();
            world.heal();
            for at in 0..world.members.len() {
                world.after(0, Item::Boot { at });
            }
        }
        self.finish_scripts().await;
        self.shared.world().clients.stopped = true;
        self.await_answers().await;
        self.converge().await;
        self.await_votes().await;
        self.probe_all().await;
        self.converge().await;
        self.compare_hashes().await;
        self.compare_members().await;
        self.compare_contents().await;
        self.judge_work().await;
        self.settle_versions().await;
        self.judge_quiet().await;
        self.free_space().await;
    }

    async fn converge(&self) {
        let done = |world: &World| {
            let mut alive = (0..world.members.len()).filter(|at| world.belongs(*at));
            let committed = world.observer.committed();
            let equal = |at| {
                let member: &Member = &world.members[at];
                member.serving && member.view.applied == committed
            };
            alive.all(equal) && world.leader().is_some() && world.lingering().is_empty()
        };
        if !self.until(self.patience(), done).await {
            self.fail("healed members become equal", self.story());
        }
    }

    async fn probe_all(&self) {
        {
            let mut world = self.shared.world();
            for at in world.voters() {
                world.probe(at);
            }
        }
        if !self.until(self.patience(), World::probes_done).await {
            let open = self.shared.world().clients.probes_open();
            let story = format!("not served at {open:?}: {}", self.story());
            self.fail("a healed cluster serves", story);
        }
    }

    /// What members say of their whole history must agree, by the API's own hash.
    async fn compare_hashes(&self) {
        let request = Request::HashKv(rpc::HashKvRequest { revision: 0 });
        let Some(answers) = self.ask_voters(&request).await else {
            return self.fail("a healed cluster serves", "no answer to HashKV".to_owned());
        };
        let hash = |answer: &Answer| match answer {
            Ok(Response::HashKv(hash)) => Some((
                hash.header.as_ref().map(|header| header.revision),
                hash.compact_revision,
                hash.hash,
            )),
            _ => None,
        };
        let hashes: Vec<_> = answers.iter().map(hash).collect();
        if hashes
            .iter()
            .any(|hash| *hash != hashes[0] || hash.is_none())
        {
            self.fail("healed members become equal", format!("HashKV: {hashes:?}"));
        }
    }

    /// What members say of the member set must be what was applied, on everybody, whether asked for
    /// the latest or for their own view.
    async fn compare_members(&self) {
        for linearizable in [true, false] {
            let request = Request::MemberList(rpc::MemberListRequest { linearizable });
            let Some(answers) = self.ask_voters(&request).await else {
                let story = "no answer to MemberList".to_owned();
                return self.fail("a healed cluster serves", story);
            };
            let world = self.shared.world();
            let cluster = world.observer.roster.cluster();
            let applied: Vec<_> = cluster.members().map(|member| member.to_wire()).collect();
            drop(world);
            let agrees = |answer: &Answer| match answer {
                Ok(Response::MemberList(list)) => list.members == applied,
                _ => false,
            };
            if let Some(other) = answers.iter().find(|answer| !agrees(answer)) {
                let story = format!("applied is {applied:?}, a member says {other:?}");
                self.fail("every member lists the members that were applied", story);
            }
        }
    }

    /// Asks every voter the same, beside the history.
    async fn ask_voters(&self, request: &Request) -> Option<Vec<Answer>> {
        let calls: Vec<_> = {
            let mut world = self.shared.world();
            let voters = world.voters().into_iter();
            let ask = |at| world.own_call(at, request.clone());
            voters.map(ask).collect()
        };
        let answered = |world: &World| {
            let mut calls = calls.iter();
            calls.all(|call| world.nemesis.answers.contains_key(call))
        };
        if !self.until(self.patience(), answered).await {
            return None;
        }
        let world = self.shared.world();
        let answers = calls.iter();
        answers
            .map(|call| world.nemesis.answers.get(call).cloned())
            .collect()
    }

    /// Once every compaction has run to its end, the stores hold the same records: what a member
    /// never got around to removing shows here.
    async fn compare_contents(&self) {
        let request = Request::Hash(rpc::HashRequest {});
        let hash = |answer: &Answer| match answer {
            Ok(Response::Hash(hash)) => Some((
                hash.header.as_ref().map(|header| header.revision),
                hash.hash,
            )),
            _ => None,
        };
        let equal = |answers: &[Answer]| {
            let first = answers.first().and_then(hash);
            first.is_some() && answers.iter().all(|answer| hash(answer) == first)
        };
        match self.ask_until(&request, equal).await {
            Asked::Wanted(_) => {}
            Asked::Other(answers) => {
                let hashes: Vec<_> = answers.iter().map(hash).collect();
                self.fail("healed members become equal", format!("Hash: {hashes:?}"));
            }
            Asked::Nothing => self.fail("a healed cluster serves", "no answer to Hash".to_owned()),
        }
    }

    /// Asks every voter the same again and again, until the answers are as they should be or the
    /// patience is over.
    async fn ask_until(&self, request: &Request, wanted: impl Fn(&[Answer]) -> bool) -> Asked {
        let patience = self.patience();
        let limit = self.shared.world().now + patience;
        loop {
            let Some(answers) = self.ask_voters(request).await else {
                return Asked::Nothing;
            };
            if wanted(&answers) {
                return Asked::Wanted(answers);
            }
            let world = self.shared.world();
            let over = world.now >= limit || world.broken.is_some();
            drop(world);
            if over {
                return Asked::Other(answers);
            }
            self.until(100_000_000, |_| false).await;
        }
    }

    fn story(&self) -> String {
        let world = self.shared.world();
        let mut story = format!("committed {}", world.observer.committed());
        for (at, member) in world.members.iter().enumerate() {
            if !member.standing.runs() {
                story += &format!("; m{at} {:?}", member.standing);
                continue;
            }
            let view = &member.view;
            story += &format!(
                "; m{at} {} {} t{} c{} a{} d{}{}{}",
                view.role,
                if member.serving {
                    "serves"
                } else {
                    "does not serve"
                },
                view.term.get(),
                view.commit.get(),
                view.applied.get(),
                view.durable.get(),
                if member.rotten { " rotten" } else { "" },
                if member.paused > 0 { " paused" } else { "" },
            );
            if world.is_removed(at) {
                story += " removed";
            } else if world.seat(at).is_none() {
                story += " stranger";
            } else if !world.votes(at) {
                story += " learner";
            }
        }
        story
    }
}

/// What exists before the runtime does.
struct Setup {
    shared: Shared,
}

impl Setup {
    async fn drive(self) {
        let handle = Handle::current();
        let count = self.shared.world().members.len();
        let name = |at: usize| format!("m{at}");
        let nodes = (0..count).map(|at| handle.create_node().name(name(at)).build().id());
        let nodes = nodes.collect();
        let runner = Runner {
            shared: self.shared,
            time: TimeHandle::current(),
            nodes,
            handle,
        };
        runner.phases().await;
        runner.end_lives().await;
    }
}

/// A number that names a batch of seeds nobody has run before.
pub fn fresh_seed(salt: u64) -> u64 {
    Entropy::from_seed(salt).next_u64() >> 16
}
