//! Who may do a piece of long work next: one piece at a time, and everybody else in between.
//!
//! Ten large answers that are ready to be sent would otherwise each encode and write a piece
//! between two steps of the core, and a put would wait for all of them at each of its stations.
//!
//! Invariant: while somebody waits, a task gives one turn after the other, and between two of them
//! all other tasks that are ready have run and the sockets were looked at.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::sync::oneshot;

/// A queue of those who have a piece of work to do. Clones are the same queue.
#[derive(Clone, Debug, Default)]
pub struct Pace(Arc<Mutex<Queue>>);

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<oneshot::Sender<()>>,
    /// A task gives turns.
    giving: bool,
}

impl Pace {
    /// Comes true when the next piece may be done. Going away gives the place up.
    pub fn place(&self) -> oneshot::Receiver<()> {
        let (sender, place) = oneshot::channel();
        let mut queue = self.queue();
        queue.waiting.push_back(sender);
        if !std::mem::replace(&mut queue.giving, true) {
            tokio::spawn(self.clone().give());
        }
        place
    }

    async fn give(self) {
        while let Some(next) = self.next() {
            // Whoever went away needs no turn, and the next one need not wait for it.
            if next.send(()).is_ok() {
                tokio::task::yield_now().await;
            }
        }
    }

    fn next(&self) -> Option<oneshot::Sender<()>> {
        let mut queue = self.queue();
        let next = queue.waiting.pop_front();
        queue.giving = next.is_some();
        next
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().expect("no holder of the lock panics")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Goal: between two pieces of anybody, others that are ready get their turn, and everybody
    /// comes to an end.
    #[tokio::test]
    async fn one_piece_at_a_time() {
        let pace = Pace::default();
        let pieces = Arc::new(AtomicUsize::new(0));
        let mut workers = tokio::task::JoinSet::new();
        for _ in 0..10 {
            let (pace, pieces) = (pace.clone(), Arc::clone(&pieces));
            workers.spawn(async move {
                for _ in 0..20 {
                    pace.place().await.expect("a turn comes");
                    pieces.fetch_add(1, Ordering::Relaxed);
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
}
