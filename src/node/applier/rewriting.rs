//! Rewriting the store's file without its free pages: when a client asks for it, and by itself when
//! too much of the file is free.
//!
//! It is done in parts, with a pause behind each, so that commits and the log have the disk in
//! between; nobody waits for more than one part. A rewriting that nobody asked for leaves the disk
//! alone most of the time, and the next one waits for many times as long as it took, so that what
//! it writes stays a small share of what the disk can do.
//!
//! Invariants: one rewriting at a time; an image that is to be installed waits for one part at most
//! and ends it, because the image brings a new file; files that were replaced are removed once this
//! actor no longer reads them.

use std::time::Duration;

use super::{Applier, waste::Waste};
use crate::{
    backend::Backend,
    kernel::{
        ApiError, BackendSize, CallId, Context, DiskError, DiskErrorKind, DiskOp, DiskOutcome,
        Effect, Fault, Instant, Response, Ticket,
        effect::{LogLevel, LogLine},
    },
    mutant,
    node::{
        RewriteRules,
        mail::{FrontendInput, Mail},
    },
    pb::etcdserverpb::DefragmentResponse,
};

/// The pause behind a part, in times that the part took, and at most.
const PAUSE_TIMES: u32 = 1;
const PAUSE_TIMES_UNASKED: u32 = 4;
const PAUSE_MAX: Duration = Duration::from_millis(200);
/// What is being rewritten, and what will be.
#[derive(Debug)]
pub(super) struct Rewriting {
    pub(super) waste: Waste,
    run: Option<Run>,
    /// Removals of replaced files on their way.
    removals: Vec<Ticket>,
}

/// A rewriting under way.
#[derive(Debug)]
struct Run {
    /// Who asked for it, if anybody did.
    call: Option<CallId>,
    began: Instant,
    /// The part on its way.
    part: Option<Ticket>,
    part_began: Instant,
    /// When the next part begins.
    next: Instant,
}

impl Rewriting {
    /// Nothing is under way.
    pub(super) fn new(rules: RewriteRules) -> Self {
        Self {
            waste: Waste::new(rules),
            run: None,
            removals: Vec::new(),
        }
    }

    /// Whether a rewriting is under way, between its parts too.
    pub(super) fn runs(&self) -> bool {
        self.run.is_some()
    }

    /// When `rewriting_goes_on` has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match &self.run {
            Some(run) => run.part.is_none().then_some(run.next),
            None => self.waste.due(),
        }
    }

    fn is_part(&self, ticket: Ticket) -> bool {
        self.run
            .as_ref()
            .is_some_and(|run| run.part == Some(ticket))
    }
}

impl<B: Backend> Applier<B> {
    pub(super) fn on_defragment(&mut self, call: CallId, cx: &mut Context<'_, Mail>) {
        let is_asked_for = |run: &Run| run.call.is_some();
        if self.rewriting.run.as_ref().is_some_and(is_asked_for) || self.installing.is_some() {
            let result = Err(ApiError::TooManyRequests);
            cx.tell(Mail::Frontend(FrontendInput::Answer { call, result }));
            return;
        }
        self.cut(cx);
        match &mut self.rewriting.run {
            Some(run) => run.call = Some(call),
            None => self.begin_rewriting(Some(call), cx),
        }
    }

    fn begin_rewriting(&mut self, call: Option<CallId>, cx: &mut Context<'_, Mail>) {
        self.rewriting.run = Some(Run {
            call,
            began: cx.now,
            part: None,
            part_began: cx.now,
            next: cx.now,
        });
        self.rewriting.waste.on_begun();
        self.log_file("defragmenting", Vec::new(), cx);
        self.rewriting_goes_on(cx);
    }

    /// Begins what is due and asks for the next part.
    pub(super) fn rewriting_goes_on(&mut self, cx: &mut Context<'_, Mail>) {
        if self.installing.is_some() && !mutant!("defragmentation-forgets-the-image") {
            return;
        }
        let is_due = self.rewriting.waste.due().is_some_and(|due| due <= cx.now);
        let Some(run) = &mut self.rewriting.run else {
            if is_due {
                self.begin_rewriting(None, cx);
            }
            return;
        };
        if run.part.is_some() || run.next > cx.now {
            return;
        }
        let ticket = self.tickets.issue();
        run.part = Some(ticket);
        run.part_began = cx.now;
        let bytes_max = self.rewriting.waste.rules().part_bytes;
        let op = DiskOp::Defragment { bytes_max };
        cx.emit(Effect::Disk { ticket, op });
    }

    /// Takes what belongs to a rewriting; answers whether it did.
    pub(super) fn on_rewriting_done(
        &mut self,
        ticket: Ticket,
        outcome: &Result<DiskOutcome, DiskError>,
        cx: &mut Context<'_, Mail>,
    ) -> Result<bool, Fault> {
        let removals = self.rewriting.removals.len();
        self.rewriting.removals.retain(|own| *own != ticket);
        if self.rewriting.removals.len() < removals {
            return match outcome {
                Ok(_) => Ok(true),
                Err(error) => Err(error.clone().into()),
            };
        }
        if !self.rewriting.is_part(ticket) {
            return Ok(false);
        }
        match outcome {
            Ok(DiskOutcome::Backend(size)) => self.on_rewritten(*size, cx)?,
            Ok(_) => self.on_part(cx),
            Err(error) if error.kind == DiskErrorKind::Full => {
                // There was no room for the copy; the store itself is untouched.
                self.log_file(
                    "failed to defragment",
                    vec![("error", error.to_string())],
                    cx,
                );
                self.rewriting.waste.on_no_room(cx.now);
                self.end_rewriting(Err(ApiError::NoSpace), cx);
                self.rewriting.waste.weigh(self.size, cx.now);
            }
            Err(error) => return Err(error.clone().into()),
        }
        // An image that came meanwhile has waited for this, perhaps for nothing else.
        if !mutant!("defragmentation-forgets-the-image") {
            self.maybe_install(cx);
        }
        Ok(true)
    }

    fn on_part(&mut self, cx: &mut Context<'_, Mail>) {
        if let Some(run) = &mut self.rewriting.run {
            run.part = None;
            let took = cx.now.since(run.part_began);
            let times = match run.call {
                Some(_) => PAUSE_TIMES,
                None => PAUSE_TIMES_UNASKED,
            };
            run.next = cx.now.after(took.saturating_mul(times).min(PAUSE_MAX));
        }
    }

    fn on_rewritten(&mut self, size: BackendSize, cx: &mut Context<'_, Mail>) -> Result<(), Fault> {
        let before = self.size;
        if size != BackendSize::default() {
            self.size = size;
        }
        self.machine.refresh()?;
        self.remove_replaced(cx);
        self.tell_load(cx);
        let began = self.rewriting.run.as_ref().map(|run| run.began);
        let took = began.map_or(Duration::ZERO, |began| cx.now.since(began));
        let fields = vec![
            ("db-size-bytes-before", before.file_bytes.to_string()),
            ("took", format!("{took:?}")),
        ];
        self.log_file("finished defragmenting directory", fields, cx);
        let response = Response::Defragment(DefragmentResponse::default());
        self.end_rewriting(Ok(response), cx);
        let waste = &mut self.rewriting.waste;
        waste.on_rewritten(took, self.size, cx.now);
        Ok(())
    }

    /// Nothing is rewritten any more; whoever asked for it is answered.
    fn end_rewriting(&mut self, result: Result<Response, ApiError>, cx: &mut Context<'_, Mail>) {
        let run = self.rewriting.run.take();
        self.rewriting.waste.on_begun();
        if let Some(call) = run.and_then(|run| run.call) {
            cx.tell(Mail::Frontend(FrontendInput::Answer { call, result }));
        }
    }

    /// Whether an image may be installed as far as this is concerned: not while a part is on its
    /// way. A rewriting between two parts is over then, as if it had been asked for later.
    pub(super) fn yields_to_image(&mut self, cx: &mut Context<'_, Mail>) -> bool {
        let Some(run) = &self.rewriting.run else {
            return true;
        };
        if run.part.is_some() || mutant!("defragmentation-forgets-the-image") {
            return false;
        }
        self.end_rewriting(Err(ApiError::TooManyRequests), cx);
        true
    }

    /// Has files removed that this actor has just stopped reading.
    pub(super) fn remove_replaced(&mut self, cx: &mut Context<'_, Mail>) {
        let ticket = self.tickets.issue();
        self.rewriting.removals.push(ticket);
        let op = DiskOp::RemoveReplaced;
        cx.emit(Effect::Disk { ticket, op });
    }

    fn log_file(
        &self,
        message: &str,
        more: Vec<(&'static str, String)>,
        cx: &mut Context<'_, Mail>,
    ) {
        let mut fields = vec![
            ("current-db-size-bytes", self.size.file_bytes.to_string()),
            (
                "current-db-size-in-use-bytes",
                self.size.used_bytes.to_string(),
            ),
        ];
        fields.extend(more);
        cx.emit(Effect::Log(LogLine {
            level: LogLevel::Info,
            caller: "node/applier.rs",
            message: message.to_owned(),
            fields,
        }));
    }
}
