//! Who may send pieces of a large answer next: a few at a time, and everybody else in between.
//!
//! Ten large answers that are ready to be sent would otherwise each write a piece between two steps
//! of the core, and a put would wait for all of them at each of its stations. Where everybody else
//! needs long, one piece a round would starve large answers instead; so pieces may take about as
//! long as the others took in the round before.
//!
//! Invariant: while somebody waits, a task gives rounds of turns, and between two rounds all other
//! tasks that are ready have run and the sockets were looked at.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

/// About what a piece takes to be sent, the system's part of it included.
const PIECE_TIME: Duration = Duration::from_micros(20);
/// Pieces of one round, whatever the others took.
const PIECES_MAX: usize = 32;

/// A queue of those who have pieces to send. Clones are the same queue.
#[derive(Clone, Debug)]
pub struct Pace {
    queue: Arc<Mutex<Queue>>,
    clock: fn() -> Instant,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<oneshot::Sender<usize>>,
    /// A task gives turns.
    giving: bool,
}

impl Default for Pace {
    fn default() -> Self {
        let queue = Arc::default();
        let clock = Instant::now;
        Self { queue, clock }
    }
}

impl Pace {
    /// Comes true when pieces may be sent, and says how many. Going away gives the place up.
    pub fn place(&self) -> oneshot::Receiver<usize> {
        let (sender, place) = oneshot::channel();
        let mut queue = self.queue();
        queue.waiting.push_back(sender);
        if !std::mem::replace(&mut queue.giving, true) {
            tokio::spawn(self.clone().give());
        }
        place
    }

    async fn give(self) {
        let mut pieces = 1;
        while let Some(given) = self.round(pieces) {
            let begun = (self.clock)();
            tokio::task::yield_now().await;
            let round = (self.clock)().saturating_duration_since(begun);
            pieces = pieces_beside(round.saturating_sub(PIECE_TIME * given as u32));
        }
    }

    /// Gives so many pieces to those who wait, in their order; how many were taken. Nothing when
    /// nobody waits.
    fn round(&self, pieces: usize) -> Option<usize> {
        let mut queue = self.queue();
        let share = pieces.div_ceil(queue.waiting.len().max(1));
        let mut given = 0;
        while given < pieces {
            let some = share.min(pieces - given);
            match queue.waiting.pop_front() {
                // Whoever went away needs no turn, and the next one need not wait for it.
                Some(next) => given += next.send(some).map_or(0, |()| some),
                None if given == 0 => {
                    queue.giving = false;
                    return None;
                }
                // Whoever was given pieces comes back for more.
                None => break,
            }
        }
        Some(given)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("no holder of the lock panics")
    }
}

/// How many pieces take about as long as the others did.
fn pieces_beside(others: Duration) -> usize {
    let pieces = others.as_nanos() / PIECE_TIME.as_nanos();
    usize::try_from(pieces).map_or(PIECES_MAX, |pieces| pieces.clamp(1, PIECES_MAX))
}

#[cfg(test)]
mod tests {
    use std::sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    /// Goal: between two pieces of anybody, others that are ready get their turn, and everybody
    /// comes to an end.
    #[tokio::test]
    async fn one_piece_at_a_time() {
        // A clock that stands still: the others take no time.
        static NOW: OnceLock<Instant> = OnceLock::new();
        let pace = Pace {
            clock: || *NOW.get_or_init(Instant::now),
            ..Pace::default()
        };
        let pieces = Arc::new(AtomicUsize::new(0));
        let mut workers = tokio::task::JoinSet::new();
        for _ in 0..10 {
            let (pace, pieces) = (pace.clone(), Arc::clone(&pieces));
            workers.spawn(async move {
                for _ in 0..20 {
                    let given = pace.place().await.expect("a turn comes");
                    pieces.fetch_add(given, Ordering::Relaxed);
                }
            });
        }
        drop(pace.place());
        let (mut before, mut looks) = (0, 0);
        while before < 200 {
            tokio::task::yield_now().await;
            let now = pieces.load(Ordering::Relaxed);
            assert!(now <= before + 1, "{} pieces at once", now - before);
            before = now;
            looks += 1;
            assert!(looks < 10_000, "the work ends");
        }
        while let Some(done) = workers.join_next().await {
            done.expect("no worker fails");
        }
        // Soon nobody gives turns; who comes later gets one all the same.
        while pace.queue().giving {
            tokio::task::yield_now().await;
        }
        pace.place().await.expect("a turn comes");
    }

    // Goal: pieces are shared among those who wait, and follow what the others take.
    #[tokio::test]
    async fn a_round_is_shared() {
        let pace = Pace::default();
        let mut places: Vec<_> = (0..3).map(|_| pace.place()).collect();
        drop(places.remove(1));
        assert_eq!(pace.round(7), Some(6));
        assert_eq!(places[0].try_recv(), Ok(3));
        assert_eq!(places[1].try_recv(), Ok(3));
        assert_eq!(pace.round(7), None);
        let micros = Duration::from_micros;
        assert_eq!(pieces_beside(micros(3)), 1);
        assert_eq!(pieces_beside(micros(500)), 25);
        assert_eq!(pieces_beside(micros(5_000_000)), PIECES_MAX);
    }
}
