//! Bytes on links as no healthy member sends them: damaged, cut short, oversized, under the head of
//! another frame, out of an earlier life, from another cluster. They meet the production code for
//! heads and greetings, which must refuse all of them; only a frame that is whole but old gets
//! through, and the members have to bear it.

use bytes::Bytes;
use fated::{
    host::wire::{self, Greeting, HEADER_BYTES, Header, Heard, Verdict},
    kernel::limits,
};

use super::{ClusterId, Event, Flight, Item, LinkId, MemberId, World, draw};
use crate::{observe::Violation, world::CLUSTER};

/// A frame that comes once more.
#[derive(Clone, Debug)]
pub struct Replay {
    from: usize,
    to: usize,
    /// The lives it was sent in.
    lives: [u64; 2],
    /// Whose link it was.
    ids: [MemberId; 2],
    bytes: Bytes,
}

impl World {
    /// Maybe does something to a frame after which its link has to end. Whether it did.
    pub(super) fn harm(&mut self, flight: &Flight) -> bool {
        let quality = &self.network.quality;
        let hostile = quality.hostile.clone();
        let corrupt_ppm = quality.corrupt_ppm;
        let entropy = &mut self.network.entropy;
        if draw::chance(hostile.replayed_ppm, entropy) {
            self.replay_later(flight);
        }
        let entropy = &mut self.network.entropy;
        let mut bytes = wire::header(&flight.bytes).to_vec();
        bytes.extend_from_slice(&flight.bytes);
        let name = if draw::chance(corrupt_ppm, entropy) {
            let at = draw::index(bytes.len(), entropy);
            bytes[at] ^= 1 << entropy.below(8);
            "network: damaged frame refused"
        } else if draw::chance(hostile.truncated_ppm, entropy) {
            bytes.truncate(draw::index(bytes.len(), entropy));
            "network: frame cut short refused"
        } else if draw::chance(hostile.oversized_ppm, entropy) {
            let most = limits::FRAME_BYTES_MAX as u64;
            let claimed = entropy.between(most + 1, u64::from(u32::MAX));
            let claimed = u32::try_from(claimed).expect("just bounded");
            bytes[..4].copy_from_slice(&claimed.to_le_bytes());
            "network: oversized frame refused"
        } else if draw::chance(hostile.mismatched_ppm, entropy) {
            let mut other = flight.bytes.to_vec();
            other.push(0);
            let length = u32::try_from(flight.bytes.len()).expect("frames are bounded");
            bytes[..HEADER_BYTES].copy_from_slice(&wire::header(&other));
            bytes[..4].copy_from_slice(&length.to_le_bytes());
            "network: frame under another head refused"
        } else {
            return false;
        };
        match receive(&bytes) {
            Ok(()) => {
                let story = format!("{name}: it was taken");
                let guarantee = "a link takes only whole frames";
                self.fail(Violation::new(guarantee, story));
            }
            Err(_) => self.counters.hit(name),
        }
        true
    }

    fn replay_later(&mut self, flight: &Flight) {
        let (from, to) = (flight.from, flight.to);
        let replay = Replay {
            from,
            to,
            lives: [self.members[from].boot, self.members[to].boot],
            ids: [self.members[from].id, self.members[to].id],
            bytes: flight.bytes.clone(),
        };
        let delay = draw::log_uniform(1_000, 10_000_000, &mut self.network.entropy);
        self.after(delay * 1000, Item::Replay(replay));
    }

    /// An old frame comes once more on the link that its sender has now.
    pub fn on_replay(&mut self, replay: Replay) {
        let Replay {
            from,
            to,
            lives,
            ids,
            bytes,
        } = replay;
        // Another member has come to one of the machines since.
        if ids != [self.members[from].id, self.members[to].id] {
            return;
        }
        let range = (to, LinkId::ZERO)..=(to, LinkId::new(u64::MAX));
        // Members hear on the links that others dialled, and those are odd.
        let mut links = self.network.ends.range(range);
        let heard = links.find(|((_, link), end)| end.peer == from && link.get() % 2 == 1);
        let Some(((_, link), _)) = heard else {
            return;
        };
        let link = *link;
        self.counters.hit("network: old frame delivered once more");
        if lives != [self.members[from].boot, self.members[to].boot] {
            self.counters
                .hit("network: frame of an earlier life delivered");
        }
        self.event_now(to, Event::Frame { link, bytes });
    }

    /// Both sides greet. Why there is no link, if there is none.
    pub(super) fn greet(&mut self, from: usize, to: usize) -> Option<&'static str> {
        let (own, peer) = (self.members[from].id, self.members[to].id);
        let foreign_ppm = self.network.quality.hostile.foreign_ppm;
        let entropy = &mut self.network.entropy;
        let foreign = draw::chance(foreign_ppm, entropy);
        let (cluster, answers) = match foreign {
            false => (CLUSTER, peer),
            true if entropy.one_in(2) => (ClusterId::new(CLUSTER.get() + 1), peer),
            // The address leads to somebody else.
            true => (CLUSTER, MemberId::new(peer.get() + 100)),
        };
        let said = Greeting {
            verdict: Verdict::Welcome,
            cluster,
            sender: own,
            receiver: peer,
        };
        let answer = Greeting::answer(over_the_wire(&said), CLUSTER, answers);
        let verdict = Greeting::accept(over_the_wire(&answer), cluster, peer);
        let expected = match (foreign, cluster == CLUSTER) {
            (false, _) => Verdict::Welcome,
            (true, false) => Verdict::Cluster,
            (true, true) => Verdict::Receiver,
        };
        if verdict != expected {
            let story = format!("{own:x?} dials {peer:x?}: {verdict:?} instead of {expected:?}");
            self.fail(Violation::new(
                "a link joins two members of one cluster",
                story,
            ));
        }
        if verdict == Verdict::Welcome {
            return None;
        }
        self.counters.hit(match cluster == CLUSTER {
            true => "network: link to another member refused",
            false => "network: link from another cluster refused",
        });
        Some(verdict.reason())
    }
}

fn over_the_wire(greeting: &Greeting) -> Heard {
    Greeting::decode(&greeting.encode()).expect("what was encoded can be decoded")
}

/// What the receiving side makes of the bytes of one frame, behind which the link ends.
fn receive(bytes: &[u8]) -> Result<(), String> {
    let head = bytes.first_chunk::<HEADER_BYTES>();
    let head = head.ok_or_else(|| "the link ended within a frame".to_owned())?;
    let header = Header::decode(head)?;
    let payload = &bytes[HEADER_BYTES..];
    header.check(&payload[..payload.len().min(header.length())])
}
