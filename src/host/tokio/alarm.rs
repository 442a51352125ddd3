//! The one timer of the event loop.
//!
//! The loop waits for a moment that moves on with nearly every step. A timer made anew for each
//! wait would be entered into the runtime's wheel and taken out again, and the runtime would call
//! itself by a system call for each that is earlier than what it knew of. So one timer stays: it
//! is set anew only if it would ring too late, and if it rings too early, it is set again then.
//!
//! Invariant: while the loop waits, the timer rings at the wanted moment or before it.

use std::{future::Future, pin::Pin, task::Poll};

use tokio::time::{Instant, Sleep, sleep_until};

/// A timer that is set late and seldom.
#[derive(Debug, Default)]
pub(super) struct Alarm {
    timer: Option<Pin<Box<Sleep>>>,
}

impl Alarm {
    /// Waits for the future until a moment; `None` when the moment came first.
    pub(super) async fn before<F: Future>(&mut self, at: Instant, future: F) -> Option<F::Output> {
        let mut future = std::pin::pin!(future);
        std::future::poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
            if timer.deadline() > at {
                timer.as_mut().reset(at);
            }
            while timer.as_mut().poll(cx).is_ready() {
                if timer.deadline() >= at {
                    return Poll::Ready(None);
                }
                timer.as_mut().reset(at);
            }
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::{future, time::Duration};

    use super::*;

    fn after(millis: u64) -> Instant {
        Instant::now() + Duration::from_millis(millis)
    }

    /// Goal: no moment is missed, whichever was waited for before. Method: a timer that stands an
    /// hour ahead, or too early, is waited with until earlier, later and passed moments; who waits
    /// too long is told by a limit far beyond all of them.
    #[tokio::test]
    async fn it_rings_at_the_moment_that_is_wanted_now() {
        let mut alarm = Alarm::default();
        for (before, wanted) in [(3_600_000, 20), (10, 40), (5, 0), (0, 30), (3_600_000, 0)] {
            let mut polls = 0;
            let once = future::poll_fn(|cx| {
                polls += 1;
                cx.waker().wake_by_ref();
                if polls > 1 {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            });
            let given_up = alarm.before(after(before), once).await;
            assert!(before == 0 || given_up.is_some());
            let at = after(wanted);
            let wait = alarm.before(at, future::pending::<()>());
            let rung = tokio::time::timeout(Duration::from_secs(60), wait).await;
            assert_eq!(rung, Ok(None), "it never rang");
            assert!(Instant::now() >= at, "it rang too early");
        }
    }
}
