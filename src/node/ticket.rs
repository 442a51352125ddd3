//! Tickets of disk operations: a counter, with the owner's number in the low bits.

use crate::kernel::Ticket;

/// Which actor waits for a disk operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    Journal,
    Applier,
    Snapshots,
}

const OWNERS: u64 = 4;

/// Makes the tickets of one owner.
#[derive(Debug)]
pub struct Tickets {
    owner: Owner,
    issued: u64,
}

impl Tickets {
    /// No ticket has been issued yet.
    pub const fn new(owner: Owner) -> Self {
        Self { owner, issued: 0 }
    }

    /// A ticket nobody had before.
    pub fn issue(&mut self) -> Ticket {
        self.issued += 1;
        let owner = match self.owner {
            Owner::Journal => 0,
            Owner::Applier => 1,
            Owner::Snapshots => 2,
        };
        Ticket::new(self.issued * OWNERS + owner)
    }
}

/// Who issued a ticket; `None` for a number that no owner makes.
pub fn owner_of(ticket: Ticket) -> Option<Owner> {
    match ticket.get() % OWNERS {
        0 => Some(Owner::Journal),
        1 => Some(Owner::Applier),
        2 => Some(Owner::Snapshots),
        _ => None,
    }
}
