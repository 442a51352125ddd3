//! A sender and a receiver of an image, with a network that loses and a receiver that dies.

use super::*;
use crate::kernel::{Entropy, Outbox, StoreCursor, WallTime};

const SENDER: MemberId = MemberId::new(1);
const RECEIVER: MemberId = MemberId::new(2);

/// One actor, the operations it waits for, and what it told others.
struct Side {
    actor: Snapshots,
    disk: VecDeque<(Ticket, DiskOp)>,
    told: Vec<Mail>,
}

impl Side {
    fn new() -> Self {
        Self {
            actor: Snapshots::default(),
            disk: VecDeque::new(),
            told: Vec::new(),
        }
    }

    fn turn(&mut self, now: Instant, act: impl FnOnce(&mut Snapshots, &mut Context<'_, Mail>)) {
        let mut outbox = Outbox::default();
        let mut entropy = Entropy::from_seed(1);
        let mut cx = Context::new(now, WallTime::default(), &mut entropy, &mut outbox);
        act(&mut self.actor, &mut cx);
        self.actor.check();
        self.told.extend(outbox.mail);
        for effect in outbox.effects {
            match effect {
                Effect::Disk { ticket, op } => self.disk.push_back((ticket, op)),
                Effect::Log(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn input(&mut self, now: Instant, input: SnapshotsInput) {
        self.turn(now, |actor, cx| actor.on_input(input, cx));
    }

    /// Lets the disk do everything it was told; an image has `chunks` chunks.
    fn disk(&mut self, now: Instant, chunks: usize) {
        while let Some((ticket, op)) = self.disk.pop_front() {
            let outcome = match op {
                DiskOp::SnapshotOpen { .. } => DiskOutcome::SnapshotOpened { bytes_estimate: 9 },
                DiskOp::SnapshotRead { cursor, .. } => {
                    let at = cursor.map_or(0, |cursor| cursor.key.len());
                    let next = (at + 1 < chunks).then(|| cursor_at(at + 1));
                    let data = Bytes::from_static(b"records");
                    DiskOutcome::SnapshotChunk { data, next }
                }
                _ => DiskOutcome::Done,
            };
            let outcome = Ok(outcome);
            self.input(now, SnapshotsInput::Done { ticket, outcome });
        }
    }

    /// What it wants the other side to get.
    fn letters(&mut self) -> Vec<SnapshotsInput> {
        let told = std::mem::take(&mut self.told);
        let (letters, rest) = told.into_iter().partition(|mail| {
            matches!(
                mail,
                Mail::Peers(PeersInput::SnapshotChunk { .. } | PeersInput::SnapshotAck { .. })
            )
        });
        self.told = rest;
        let letters: Vec<Mail> = letters;
        letters
            .into_iter()
            .map(|mail| match mail {
                Mail::Peers(PeersInput::SnapshotChunk { chunk, .. }) => SnapshotsInput::Chunk {
                    from: SENDER,
                    chunk,
                },
                Mail::Peers(PeersInput::SnapshotAck { ack, .. }) => SnapshotsInput::Ack {
                    from: RECEIVER,
                    ack,
                },
                other => unreachable!("{other:?}"),
            })
            .collect()
    }
}

fn cursor_at(chunk: usize) -> StoreCursor {
    StoreCursor {
        bucket: 0,
        key: vec![b'k'; chunk].into(),
    }
}

fn meta() -> SnapshotMeta {
    SnapshotMeta {
        id: EntryId::new(Term::new(1), LogIndex::new(7)),
        conf_state: ConfState::default(),
    }
}

/// A sender that was asked for an image of so many chunks and has pinned it.
fn sender(now: Instant, chunks: usize) -> Side {
    let mut sender = Side::new();
    let term = Term::new(1);
    let peer = RECEIVER;
    sender.input(now, SnapshotsInput::Wanted { peer, term });
    let id = sender.actor.next_id;
    let meta = meta();
    sender.input(now, SnapshotsInput::Cut { id, meta });
    sender.disk(now, chunks);
    sender
}

/// Carries letters both ways until there are none.
fn talk(sender: &mut Side, receiver: &mut Side, now: Instant, chunks: usize) {
    loop {
        let out = sender.letters();
        let back = receiver.letters();
        if out.is_empty() && back.is_empty() {
            return;
        }
        for letter in out {
            receiver.input(now, letter);
            receiver.disk(now, chunks);
        }
        for letter in back {
            sender.input(now, letter);
            sender.disk(now, chunks);
        }
    }
}

fn done(side: &Side) -> Option<bool> {
    side.told.iter().find_map(|mail| match mail {
        Mail::Consensus(ConsensusInput::SnapshotDone { ok, .. }) => Some(*ok),
        _ => None,
    })
}

fn restores(side: &Side) -> bool {
    let is_restore = |mail: &Mail| matches!(mail, Mail::Consensus(ConsensusInput::Restore { .. }));
    side.told.iter().any(is_restore)
}

/// Goal: a receiver that has everything, says so and dies before it installs is found out at the
/// next repetition, not when the transfer is given up.
#[test]
fn a_receiver_that_dies_with_everything_is_found_out() {
    for chunks in [2, 3, 8, 30] {
        let now = Instant::from_nanos(1);
        let (mut sender, mut receiver) = (sender(now, chunks), Side::new());
        talk(&mut sender, &mut receiver, now, chunks);
        assert!(restores(&receiver), "{chunks} chunks are all there");
        assert_eq!(done(&sender), None);

        let mut reborn = Side::new();
        let later = now.after(RESEND);
        assert_eq!(sender.actor.deadline(), Some(later));
        sender.turn(later, Snapshots::on_deadline);
        talk(&mut sender, &mut reborn, later, chunks);
        assert_eq!(done(&sender), Some(false), "{chunks} chunks");
        assert!(!restores(&reborn));
    }
}

/// Goal: the only chunk of a small image brings the whole of it, also to a life that knows nothing.
#[test]
fn a_small_image_is_simply_repeated() {
    let now = Instant::from_nanos(1);
    let (mut sender, mut receiver) = (sender(now, 1), Side::new());
    talk(&mut sender, &mut receiver, now, 1);
    assert!(restores(&receiver));
    let mut reborn = Side::new();
    let later = now.after(RESEND);
    sender.turn(later, Snapshots::on_deadline);
    talk(&mut sender, &mut reborn, later, 1);
    assert!(restores(&reborn));
    let snapshot = reborn.actor.next_id;
    reborn.input(later, SnapshotsInput::Installed { snapshot });
    talk(&mut sender, &mut reborn, later, 1);
    assert_eq!(done(&sender), Some(true));
}

/// Goal: an installation may take longer than a transfer may be silent.
#[test]
fn a_slow_installation_is_waited_for() {
    let mut now = Instant::from_nanos(1);
    let (mut sender, mut receiver) = (sender(now, 5), Side::new());
    talk(&mut sender, &mut receiver, now, 5);
    let end = now.after(GIVE_UP * 3);
    while now < end {
        now = now.after(RESEND);
        sender.turn(now, Snapshots::on_deadline);
        talk(&mut sender, &mut receiver, now, 5);
    }
    assert_eq!(done(&sender), None);
    let snapshot = receiver.actor.next_id;
    receiver.input(now, SnapshotsInput::Installed { snapshot });
    talk(&mut sender, &mut receiver, now, 5);
    assert_eq!(done(&sender), Some(true));
}

/// Goal: where nobody answers, the transfer is given up in the end.
#[test]
fn a_silent_receiver_is_given_up() {
    let mut now = Instant::from_nanos(1);
    let mut sender = sender(now, 5);
    while done(&sender).is_none() {
        assert!(now <= Instant::from_nanos(1).after(GIVE_UP + RESEND));
        now = now.after(RESEND);
        sender.turn(now, Snapshots::on_deadline);
    }
    assert_eq!(done(&sender), Some(false));
}

/// Goal: an image whose pin is gone ends the transfer at once.
#[test]
fn a_lost_pin_ends_the_transfer() {
    let now = Instant::from_nanos(1);
    let mut sender = Side::new();
    let (peer, term) = (RECEIVER, Term::new(1));
    sender.input(now, SnapshotsInput::Wanted { peer, term });
    let id = sender.actor.next_id;
    let meta = meta();
    sender.input(now, SnapshotsInput::Cut { id, meta });
    let (ticket, _) = sender.disk.pop_front().expect("it opens the image");
    let outcome = Ok(DiskOutcome::SnapshotOpened { bytes_estimate: 9 });
    sender.input(now, SnapshotsInput::Done { ticket, outcome });
    let (ticket, _) = sender.disk.pop_front().expect("it reads the image");
    let outcome = Err(DiskError::new(DiskErrorKind::Missing, "gone"));
    sender.input(now, SnapshotsInput::Done { ticket, outcome });
    assert_eq!(done(&sender), Some(false));
}
