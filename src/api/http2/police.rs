//! Clients that ping too often are sent away, as etcd does it (`--grpc-keepalive-min-time`).
//!
//! The rules are those of Go's gRPC: a ping that comes sooner than allowed is a strike, what is
//! sent to the client between two pings forgives all, and with the third strike the connection
//! ends with GOAWAY, ENHANCE_YOUR_CALM and the words `too_many_pings`, which clients understand.

use std::time::{Duration, Instant};

/// What they are told.
pub(super) const STORY: &[u8] = b"too_many_pings";
/// Strikes that are let pass.
const STRIKES_MAX: u32 = 2;
/// Who has no stream open has no reason to ping more often than this.
const WITHOUT_STREAMS: Duration = Duration::from_secs(2 * 60 * 60);

/// What is known of one client's pings.
#[derive(Debug)]
pub(super) struct Police {
    apart_min: Duration,
    strikes: u32,
    last_ping: Option<Instant>,
}

/// What a ping comes upon.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scene {
    pub now: Instant,
    /// Data or headers were sent since the last ping.
    pub spoke: bool,
    /// A stream is open.
    pub busy: bool,
}

impl Police {
    /// Pings may come this far apart.
    pub fn new(apart_min: Duration) -> Self {
        Self {
            apart_min,
            strikes: 0,
            last_ping: None,
        }
    }

    /// Whether this ping is one too many.
    pub fn is_too_many(&mut self, scene: Scene) -> bool {
        let before = self.last_ping.replace(scene.now);
        if scene.spoke {
            self.strikes = 0;
            return false;
        }
        let apart_min = if scene.busy {
            self.apart_min
        } else {
            WITHOUT_STREAMS
        };
        if before.is_some_and(|before| before + apart_min > scene.now) {
            self.strikes += 1;
        }
        self.strikes > STRIKES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Client {
        police: Police,
        now: Instant,
        busy: bool,
    }

    impl Client {
        fn new(busy: bool) -> Self {
            Self {
                police: Police::new(Duration::from_millis(100)),
                now: Instant::now(),
                busy,
            }
        }

        fn ping(&mut self, apart_ms: u64, spoke: bool) -> bool {
            self.now += Duration::from_millis(apart_ms);
            self.police.is_too_many(Scene {
                now: self.now,
                spoke,
                busy: self.busy,
            })
        }

        /// How many pings it takes until the end, so far apart; at most ten.
        fn pings(&mut self, apart_ms: u64) -> Option<usize> {
            (1..=10).find(|_| self.ping(apart_ms, false))
        }
    }

    #[test]
    fn who_has_a_stream_open_may_ping_as_often_as_is_allowed() {
        let mut client = Client::new(true);
        assert_eq!(client.pings(100), None);
        assert_eq!(client.pings(99), Some(3));
    }

    #[test]
    fn who_has_none_may_ping_every_two_hours() {
        let mut client = Client::new(false);
        assert_eq!(client.pings(2 * 60 * 60 * 1000), None);
        assert_eq!(Client::new(false).pings(1000), Some(4), "the first is none");
    }

    #[test]
    fn what_is_sent_forgives() {
        let mut client = Client::new(true);
        for _ in 0..10 {
            assert!(!client.ping(1, false));
            assert!(!client.ping(1, false));
            assert!(!client.ping(1, true));
        }
    }
}
