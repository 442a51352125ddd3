//! The actor of what a member proposes by itself to keep the cluster in shape: alarms about space
//! and corruption, compactions by the clock, and the version of the cluster.
//!
//! Inputs: `UpkeepInput`. Timers: the next sample of the automatic compaction.
//! Invariants: it only proposes; what becomes of a proposal is decided from the log alone. Its
//! proposals have the request id zero, since nobody waits for them, and each may be made again.

pub mod compaction;
pub mod space;

use std::time::Duration;

pub use compaction::AutoCompaction;

use self::{compaction::Compactor, space::Space};
use super::{
    NodeConfig,
    applier::Applier,
    mail::{ConsensusInput, Mail, UpkeepInput, encode_command},
};
use crate::{
    backend::Backend,
    kernel::{
        Context, Effect, Instant, MemberId, RequestId, Term,
        effect::{LogLevel, LogLine},
    },
    membership::{Cluster, version::Version},
    mutant,
    pb::{
        etcdserverpb::{AlarmRequest, AlarmType, CompactionRequest, alarm_request::AlarmAction},
        fated::command::{ClusterVersion, command::Body},
    },
    raft::Role,
};

/// A proposal that has not come to anything in this time is made again.
const PROPOSE_AGAIN: Duration = Duration::from_secs(1);

/// The actor that keeps the cluster in shape.
#[derive(Debug)]
pub struct Upkeep {
    member: MemberId,
    /// The version of this server.
    version: Option<Version>,
    /// The term this member leads in.
    leading: Option<Term>,
    space: Space,
    compactor: Option<Compactor>,
    /// The members' states differ and no majority is right.
    divided: bool,
    /// When corruption or the version may be proposed again.
    alarm_next: Instant,
    version_next: Instant,
}

impl Upkeep {
    /// An actor that has seen nothing yet.
    pub fn new(config: &NodeConfig) -> Self {
        Self {
            member: config.member,
            version: config.version.parse().ok(),
            leading: None,
            space: Space::new(config),
            compactor: config.auto_compaction.map(Compactor::new),
            divided: false,
            alarm_next: Instant::ZERO,
            version_next: Instant::ZERO,
        }
    }

    /// Handles one input.
    pub fn on_input<B: Backend>(
        &mut self,
        input: UpkeepInput,
        applier: &Applier<B>,
        cx: &mut Context<'_, Mail>,
    ) {
        match input {
            UpkeepInput::Role(role) => {
                self.leading = (role.role == Role::Leader).then_some(role.term);
                self.space.forget_silence();
            }
            UpkeepInput::Refused { cost } => {
                self.space.on_refused(cost);
                self.look_at_space(applier, cx);
            }
            UpkeepInput::Divided => self.divided = true,
            UpkeepInput::Tick { silent } => {
                self.space.on_silent(&silent, cx.now);
                self.look_at_space(applier, cx);
                self.look_at_corruption(applier, cx);
                self.look_at_version(applier.machine().cluster(), cx);
            }
        }
    }

    fn look_at_space<B: Backend>(&mut self, applier: &Applier<B>, cx: &mut Context<'_, Mail>) {
        let machine = applier.machine();
        let wanted = self.space.look(space::Sight {
            now: cx.now,
            live_bytes: applier.live_bytes(),
            alarms: machine.alarms(),
            cluster: machine.cluster(),
            leads: self.leading.is_some(),
        });
        if let Some(request) = wanted {
            self.propose_alarm(request, cx);
        }
    }

    /// Where nobody knows which state is right, nothing may be written until an operator has
    /// decided. A single wrong member needs no alarm: it alone refuses to serve.
    fn look_at_corruption<B: Backend>(&mut self, applier: &Applier<B>, cx: &mut Context<'_, Mail>) {
        if !self.divided || cx.now < self.alarm_next {
            return;
        }
        let alarms = applier.machine().alarms();
        if alarms.stands(MemberId::ZERO, AlarmType::Corrupt) {
            self.divided = false;
            return;
        }
        self.alarm_next = cx.now.after(PROPOSE_AGAIN);
        let request = AlarmRequest {
            action: AlarmAction::Activate as i32,
            member_id: MemberId::ZERO.get(),
            alarm: AlarmType::Corrupt as i32,
        };
        self.propose_alarm(request, cx);
    }

    /// The leader moves the cluster's version: down when a downgrade wants it, up again when none
    /// does. Its first version it got from its first leader.
    fn look_at_version(&mut self, cluster: &Cluster, cx: &mut Context<'_, Mail>) {
        let (Some(term), Some(own), Some(current)) =
            (self.leading, self.version, cluster.cluster_version())
        else {
            return;
        };
        let next = match cluster.downgrade() {
            Some(_) if mutant!("downgrade-without-effect") => None,
            None if mutant!("version-stays-low") => None,
            Some(target) => [current, own]
                .iter()
                .all(|from| from.one_below() == Some(target))
                .then_some(target),
            None => (current < own.cluster() && current.may_move_to(own)).then(|| own.cluster()),
        };
        if let Some(next) = next
            && cx.now >= self.version_next
        {
            self.version_next = cx.now.after(PROPOSE_AGAIN);
            let version = next.to_string();
            let fields = vec![("from", current.short()), ("to", next.short())];
            log(
                cx,
                LogLevel::Info,
                "updating the version of the cluster",
                fields,
            );
            let body = Body::ClusterVersion(ClusterVersion { version });
            self.propose_as_leader(term, body, cx);
        }
    }

    /// When the automatic compaction wants to look at the revision.
    pub fn deadline(&self) -> Option<Instant> {
        self.compactor.as_ref().map(Compactor::deadline)
    }

    /// The automatic compaction takes a sample, and on a leader compacts.
    pub fn on_deadline<B: Backend>(&mut self, applier: &Applier<B>, cx: &mut Context<'_, Mail>) {
        let Some(compactor) = &mut self.compactor else {
            return;
        };
        let leads = self.leading.is_some();
        let wanted = compactor.on_time(cx.now, applier.machine().store(), leads);
        let Some(revision) = wanted else { return };
        let fields = vec![("revision", revision.to_string())];
        log(cx, LogLevel::Info, "starting auto compaction", fields);
        let body = Body::Compact(CompactionRequest {
            revision,
            physical: false,
        });
        if let Some(term) = self.leading {
            self.propose_as_leader(term, body, cx);
        }
    }

    fn propose_alarm(&self, request: AlarmRequest, cx: &mut Context<'_, Mail>) {
        let (level, message) = match request.action() {
            AlarmAction::Activate => (LogLevel::Warn, "raising alarm"),
            AlarmAction::Deactivate | AlarmAction::Get => (LogLevel::Info, "clearing alarm"),
        };
        let fields = vec![
            ("alarm", request.alarm().as_str_name().to_owned()),
            ("member-id", format!("{:x}", request.member_id)),
        ];
        log(cx, level, message, fields);
        self.propose(Body::Alarm(request), cx);
    }

    fn propose(&self, body: Body, cx: &mut Context<'_, Mail>) {
        cx.tell(Mail::Consensus(ConsensusInput::Propose {
            request: RequestId::ZERO,
            data: encode_command(RequestId::ZERO, self.member, body),
            conf_change: false,
        }));
    }

    fn propose_as_leader(&self, term: Term, body: Body, cx: &mut Context<'_, Mail>) {
        let data = encode_command(RequestId::ZERO, self.member, body);
        cx.tell(Mail::Consensus(ConsensusInput::ProposeAsLeader {
            term,
            data,
        }));
    }
}

fn log(
    cx: &mut Context<'_, Mail>,
    level: LogLevel,
    message: &str,
    fields: Vec<(&'static str, String)>,
) {
    cx.emit(Effect::Log(LogLine {
        level,
        caller: "node/upkeep.rs",
        message: message.to_owned(),
        fields,
    }));
}
