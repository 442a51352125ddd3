//! The actor that owns watch streams: it hands new revisions to the hub, lets slow watchers catch
//! up in slices, and fills in what only this member knows.
//!
//! Inputs: `WatchesInput`. Timers: progress notifications, the next catch-up slice, the end of
//! streams that demand a leader.
//! Invariants: the hub's; every applied revision reaches the hub once and in order.

use std::{sync::Arc, time::Duration};

use super::{
    NodeConfig,
    mail::{Mail, WatchesInput},
};
use crate::{
    kernel::{
        ApiError, ClusterId, Context, Effect, Fault, Instant, MemberId, StreamItem, StreamRequest,
        Term, limits,
    },
    pb::etcdserverpb::{ResponseHeader, WatchResponse},
    raft::RoleChange,
    watch::{Counters, History, Hub, Settings},
};

/// How long a catch-up slice lets others go first.
const CATCH_UP_PAUSE: Duration = Duration::from_micros(100);

/// The actor that owns watch streams.
#[derive(Debug)]
pub struct Watches {
    hub: Hub,
    cluster: ClusterId,
    member: MemberId,
    term: Term,
    /// Three election timeouts: so long a stream that demands a leader may be without.
    leaderless_max: Duration,
    leaderless_since: Option<Instant>,
    has_leader: bool,
    catch_up_at: Option<Instant>,
}

impl Watches {
    /// A hub without streams, at the store's current revision.
    pub fn new(config: &NodeConfig, store: &dyn History) -> Self {
        let settings = Settings {
            progress_interval: config.progress_interval,
            fragment_bytes: (config.request_bytes_max + limits::REQUEST_OVERHEAD_BYTES)
                .min(config.fragment_bytes_max),
            window_bytes: config.stream_window_bytes,
            windows_bytes_max: config.stream_windows_bytes_max,
            catchup_revisions: config.catchup_revisions,
            ..Settings::default()
        };
        Self {
            hub: Hub::new(settings, store),
            cluster: config.cluster,
            member: config.member,
            term: Term::ZERO,
            leaderless_max: config.election.saturating_mul(3),
            leaderless_since: None,
            has_leader: false,
            catch_up_at: None,
        }
    }

    /// Handles one input.
    pub fn on_input(
        &mut self,
        input: WatchesInput,
        store: &dyn History,
        cx: &mut Context<'_, Mail>,
    ) {
        match input {
            WatchesInput::Opened {
                stream,
                credentials,
            } => {
                // Nothing ends such a stream later, when the timer has already run out.
                if credentials.require_leader && !self.has_leader {
                    let item = StreamItem::End(ApiError::NoLeader);
                    cx.emit(Effect::Stream { stream, item });
                } else {
                    self.hub.open(stream, &credentials, cx.now, cx.entropy);
                }
            }
            WatchesInput::Item {
                stream,
                item: StreamRequest::Watch(request),
            } => {
                self.hub.request(stream, request, Ok(()), store);
            }
            WatchesInput::Credit { stream, bytes } => self.hub.credit(stream, bytes),
            WatchesInput::Closed { stream } => self.hub.close(stream),
            WatchesInput::Revisions(revisions) => {
                for (revision, events) in revisions {
                    let outcome = self.hub.on_revision(revision, &events, store);
                    self.halt_on_error(outcome, cx);
                }
            }
            WatchesInput::Compacted => self.hub.on_compacted(store),
            WatchesInput::Installed { revision } => self.hub.on_installed(revision, store),
            WatchesInput::Role(role) => self.on_role(role, cx.now),
            WatchesInput::End(error) => self.hub.cancel_all(error),
        }
        if self.hub.wants_catch_up() && self.catch_up_at.is_none() {
            self.catch_up_at = Some(cx.now);
        }
        self.send(cx);
    }

    fn on_role(&mut self, role: RoleChange, now: Instant) {
        self.term = role.term;
        self.has_leader = role.leader.is_some();
        self.leaderless_since = match role.leader {
            Some(_) => None,
            None => Some(self.leaderless_since.unwrap_or(now)),
        };
    }

    fn halt_on_error(
        &mut self,
        outcome: Result<(), crate::kernel::DiskError>,
        cx: &mut Context<'_, Mail>,
    ) {
        if let Err(error) = outcome {
            cx.emit(Effect::Halt(Fault::Disk(error)));
        }
    }

    /// Sends what the hub has ready.
    fn send(&mut self, cx: &mut Context<'_, Mail>) {
        // The last one that many watches get, before and after its header was filled in.
        let mut alike: Option<(Arc<WatchResponse>, Arc<WatchResponse>)> = None;
        for (stream, mut item) in self.hub.take_output() {
            match &mut item {
                StreamItem::Watch { response, .. } => response.header = self.header(response),
                StreamItem::Alike { response, .. } => match &alike {
                    Some((bare, filled)) if Arc::ptr_eq(bare, response) => {
                        *response = Arc::clone(filled);
                    }
                    Some(_) | None => {
                        let filled = Arc::new(WatchResponse {
                            header: self.header(response),
                            ..(**response).clone()
                        });
                        let bare = std::mem::replace(response, Arc::clone(&filled));
                        alike = Some((bare, filled));
                    }
                },
                StreamItem::End(_) => {}
            }
            cx.emit(Effect::Stream { stream, item });
        }
    }

    fn header(&self, response: &WatchResponse) -> Option<ResponseHeader> {
        let revision = response.header.as_ref().map_or(0, |header| header.revision);
        Some(ResponseHeader {
            cluster_id: self.cluster.get(),
            member_id: self.member.get(),
            revision,
            raft_term: self.term.get(),
        })
    }

    /// When it wants `on_deadline`.
    pub fn deadline(&self) -> Option<Instant> {
        let leaderless = self
            .leaderless_since
            .map(|since| since.after(self.leaderless_max));
        [self.hub.deadline(), self.catch_up_at, leaderless]
            .into_iter()
            .flatten()
            .min()
    }

    /// Progress, catch-up, and streams that waited too long for a leader.
    pub fn on_deadline(&mut self, store: &dyn History, cx: &mut Context<'_, Mail>) {
        if self
            .hub
            .deadline()
            .is_some_and(|deadline| deadline <= cx.now)
        {
            self.hub.on_deadline(cx.now, cx.entropy);
        }
        if self.catch_up_at.is_some_and(|at| at <= cx.now) {
            match self.hub.catch_up(store) {
                Ok(more) => self.catch_up_at = more.then(|| cx.now.after(CATCH_UP_PAUSE)),
                Err(error) => cx.emit(Effect::Halt(Fault::Disk(error))),
            }
        }
        if self
            .leaderless_since
            .is_some_and(|since| since.after(self.leaderless_max) <= cx.now)
        {
            self.leaderless_since = None;
            self.hub.no_leader();
        }
        self.send(cx);
    }

    /// What the hub counts.
    pub fn counters(&self) -> Counters {
        self.hub.counters()
    }

    /// Asserts every invariant.
    pub fn check(&self) {
        self.hub.check();
    }
}
