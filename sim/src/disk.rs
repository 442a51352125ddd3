//! The disk under a member's log: inodes and names, the page cache and what is durable of it.
//!
//! A write reaches the page cache at once and the durable image at the next successful sync of its
//! file; a name does so at the next sync of the directory. A power cut keeps of what was not synced
//! any subset, sector by sector and name by name: the system may have written any of it back.
//!
//! Invariant: with nothing pending, cache and durable image are equal, except for pages that a
//! failed sync marked clean.

use std::collections::BTreeMap;

use fated::{
    kernel::{DiskError, DiskErrorKind, Entropy, SegmentId},
    wal::{SECTOR_BYTES, parse_segment_name},
};

use crate::counters::Counters;

const SECTOR: usize = SECTOR_BYTES as usize;

type InodeId = u64;

/// One member's log directory.
#[derive(Clone, Default, Debug)]
pub struct Disk {
    inodes: BTreeMap<InodeId, Inode>,
    names: BTreeMap<String, InodeId>,
    durable_names: BTreeMap<String, InodeId>,
    pending_names: Vec<NameChange>,
    next_inode: InodeId,
    /// Bytes that may be in use; no limit when absent.
    pub capacity: Option<u64>,
}

#[derive(Clone, Default, Debug)]
struct Inode {
    cache: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Pending>,
}

/// A write that no sync has covered yet.
#[derive(Clone, Debug)]
struct Pending {
    offset: usize,
    bytes: Vec<u8>,
}

#[derive(Clone, Debug)]
enum NameChange {
    Set { name: String, inode: InodeId },
    Gone { name: String },
}

impl Disk {
    /// Makes an empty file, in place of what had the name.
    pub fn create(&mut self, name: &str) {
        self.next_inode += 1;
        let inode = self.next_inode;
        self.inodes.insert(inode, Inode::default());
        self.set_name(name, inode);
    }

    /// Writes into the page cache.
    pub fn write(&mut self, name: &str, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let offset = usize::try_from(offset).expect("simulated files are small");
        let grows = (offset + bytes.len()).saturating_sub(self.inode(name)?.cache.len()) as u64;
        if self
            .capacity
            .is_some_and(|capacity| grows > 0 && self.used() + grows > capacity)
        {
            return Err(DiskError::new(DiskErrorKind::Full, name));
        }
        let inode = self.inode(name)?;
        overlay(&mut inode.cache, offset, bytes);
        inode.pending.push(Pending {
            offset,
            bytes: bytes.to_vec(),
        });
        Ok(())
    }

    /// Makes the content of a file durable.
    pub fn sync(&mut self, name: &str) -> Result<(), DiskError> {
        let inode = self.inode(name)?;
        for write in inode.pending.drain(..) {
            overlay(&mut inode.durable, write.offset, &write.bytes);
        }
        Ok(())
    }

    /// A sync that fails: what it should have written is anywhere between lost and durable, and
    /// the system forgets that it was dirty. The next sync succeeds and writes nothing of it.
    /// `revert` is for systems that also drop the pages, so that readers see the old content.
    pub fn fail_sync(&mut self, name: &str, revert: bool, entropy: &mut Entropy) {
        if let Ok(inode) = self.inode(name) {
            for write in std::mem::take(&mut inode.pending) {
                keep_some(&mut inode.durable, &write, Loss::draw(entropy), entropy);
            }
            if revert {
                inode.cache = inode.durable.clone();
            }
        }
    }

    /// Gives a file another name, in place of what had it.
    pub fn rename(&mut self, from: &str, to: &str) -> Result<(), DiskError> {
        let inode = *self.names.get(from).ok_or_else(|| missing(from))?;
        self.unlink(from)?;
        self.set_name(to, inode);
        Ok(())
    }

    /// Removes a name.
    pub fn unlink(&mut self, name: &str) -> Result<(), DiskError> {
        self.names.remove(name).ok_or_else(|| missing(name))?;
        let name = name.to_owned();
        self.pending_names.push(NameChange::Gone { name });
        Ok(())
    }

    /// Makes all names durable.
    pub fn sync_names(&mut self) {
        self.pending_names.clear();
        self.durable_names = self.names.clone();
        let live = &self.names;
        self.inodes
            .retain(|inode, _| live.values().any(|of| of == inode));
    }

    /// The names that can be seen.
    pub fn names(&self) -> Vec<String> {
        self.names.keys().cloned().collect()
    }

    /// The content that can be seen.
    pub fn read(&mut self, name: &str) -> Result<Vec<u8>, DiskError> {
        Ok(self.inode(name)?.cache.clone())
    }

    /// The power fails. Returns whether anything that was not durable was lost.
    pub fn power_cut(&mut self, entropy: &mut Entropy, counters: &mut Counters) {
        let loss = Loss::draw(entropy);
        for inode in self.inodes.values_mut() {
            let mut lost_before = false;
            for write in std::mem::take(&mut inode.pending) {
                let kept = keep_some(&mut inode.durable, &write, loss, entropy);
                count_loss(&kept, &mut lost_before, counters);
            }
            inode.cache = inode.durable.clone();
        }
        for change in std::mem::take(&mut self.pending_names) {
            let keep = match loss {
                Loss::Nothing => true,
                Loss::Everything => false,
                Loss::Writes | Loss::Sectors => entropy.one_in(2),
            };
            if !keep {
                counters.hit(match change {
                    NameChange::Set { .. } => "power cut: new name lost",
                    NameChange::Gone { .. } => "power cut: removed name came back",
                });
                continue;
            }
            match change {
                NameChange::Set { name, inode } => self.durable_names.insert(name, inode),
                NameChange::Gone { name } => self.durable_names.remove(&name),
            };
        }
        self.names = self.durable_names.clone();
        let live = &self.names;
        self.inodes
            .retain(|inode, _| live.values().any(|of| of == inode));
    }

    /// Whether anything would be lost if the power failed now.
    pub fn is_pending(&self) -> bool {
        let mut inodes = self.inodes.values();
        !self.pending_names.is_empty() || inodes.any(|inode| !inode.pending.is_empty())
    }

    /// What would be left of the log if the power failed now and nothing was written back.
    pub fn worst_case(&self) -> BTreeMap<SegmentId, &[u8]> {
        let names = self.durable_names.iter();
        names
            .filter_map(|(name, inode)| {
                let segment = parse_segment_name(name)?;
                let inode = self.inodes.get(inode)?;
                Some((segment, inode.durable.as_slice()))
            })
            .collect()
    }

    /// A write that lands on an earlier place of its file, as far as it fits there. Returns where;
    /// nothing happens when there is no earlier place.
    pub fn write_elsewhere(
        &mut self,
        name: &str,
        offset: u64,
        bytes: &[u8],
        entropy: &mut Entropy,
    ) -> Option<u64> {
        let sectors = offset / SECTOR_BYTES;
        let blank = |sector: &[u8]| sector.iter().all(|byte| *byte == 0);
        if sectors == 0 || bytes.chunks(SECTOR).any(blank) {
            return None;
        }
        let place = entropy.below(sectors) * SECTOR_BYTES;
        let length = index(offset - place).min(bytes.len());
        self.write(name, place, &bytes[..length]).ok()?;
        Some(place)
    }

    /// Flips one bit of a byte that is not zero, in a file that holds something. Returns where.
    pub fn rot(&mut self, entropy: &mut Entropy) -> Option<(String, usize)> {
        let written: Vec<(String, InodeId)> = self
            .names
            .iter()
            .filter(|(_, inode)| self.inodes[inode].cache.iter().any(|byte| *byte != 0))
            .map(|(name, inode)| (name.clone(), *inode))
            .collect();
        let count = u64::try_from(written.len()).expect("few files");
        if count == 0 {
            return None;
        }
        let (name, inode) = &written[index(entropy.below(count))];
        let inode = self.inodes.get_mut(inode).expect("names point to inodes");
        let places: Vec<usize> = (0..inode.cache.len())
            .filter(|at| inode.cache[*at] != 0)
            .collect();
        let at = places[index(entropy.below(places.len() as u64))];
        let bit = 1 << entropy.below(8);
        inode.cache[at] ^= bit;
        if let Some(byte) = inode.durable.get_mut(at) {
            *byte ^= bit;
        }
        Some((name.clone(), at))
    }

    fn used(&self) -> u64 {
        self.inodes
            .values()
            .map(|inode| inode.cache.len() as u64)
            .sum()
    }

    /// Bytes in use, for whoever sets a limit.
    pub fn used_bytes(&self) -> u64 {
        self.used()
    }

    fn inode(&mut self, name: &str) -> Result<&mut Inode, DiskError> {
        let inode = self.names.get(name).ok_or_else(|| missing(name))?;
        Ok(self.inodes.get_mut(inode).expect("names point to inodes"))
    }

    fn set_name(&mut self, name: &str, inode: InodeId) {
        self.names.insert(name.to_owned(), inode);
        let name = name.to_owned();
        self.pending_names.push(NameChange::Set { name, inode });
    }
}

/// Puts one written sector in the place of another one, which lies in the first `known` bytes.
/// Returns both; nothing happens when there are no two.
pub fn misread(content: &mut [u8], known: usize, entropy: &mut Entropy) -> Option<(usize, usize)> {
    let sector = |number: usize| number * SECTOR..(number + 1) * SECTOR;
    let is_written = |number: &usize| content[sector(*number)].iter().any(|byte| *byte != 0);
    let written: Vec<usize> = (0..content.len() / SECTOR).filter(is_written).collect();
    let known = written.partition_point(|number| (number + 1) * SECTOR <= known);
    if known == 0 || written.len() < 2 {
        return None;
    }
    let right = written[index(entropy.below(known as u64))];
    let others: Vec<usize> = written
        .into_iter()
        .filter(|other| *other != right)
        .collect();
    let wrong = others[index(entropy.below(others.len() as u64))];
    if content[sector(right)] == content[sector(wrong)] {
        return None;
    }
    content.copy_within(sector(wrong), right * SECTOR);
    Some((wrong, right))
}

/// How a power cut treats what was on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Loss {
    Nothing,
    Everything,
    /// Each write whole or not at all.
    Writes,
    /// Each sector by itself.
    Sectors,
}

impl Loss {
    fn draw(entropy: &mut Entropy) -> Self {
        match entropy.below(5) {
            0 => Self::Nothing,
            1 => Self::Everything,
            2 => Self::Writes,
            _ => Self::Sectors,
        }
    }
}

/// Writes back some of a write, and returns which sectors.
fn keep_some(
    durable: &mut Vec<u8>,
    write: &Pending,
    loss: Loss,
    entropy: &mut Entropy,
) -> Vec<bool> {
    let whole = match loss {
        Loss::Nothing => Some(true),
        Loss::Everything => Some(false),
        Loss::Writes => Some(entropy.one_in(2)),
        Loss::Sectors => None,
    };
    let mut kept = Vec::new();
    for (number, sector) in write.bytes.chunks(SECTOR).enumerate() {
        let keeps = whole.unwrap_or_else(|| entropy.one_in(2));
        if keeps {
            overlay(durable, write.offset + number * SECTOR, sector);
        }
        kept.push(keeps);
    }
    kept
}

/// Counts what was lost of a write, and whether something older than what was kept is gone.
fn count_loss(kept: &[bool], lost_before: &mut bool, counters: &mut Counters) {
    let count = kept.iter().filter(|kept| **kept).count();
    counters.add("power cut: sectors lost", (kept.len() - count) as u64);
    if 0 < count && count < kept.len() {
        counters.hit("power cut: write torn");
    }
    let mut lost = *lost_before;
    let mut reordered = false;
    for kept in kept {
        reordered |= lost && *kept;
        lost |= !kept;
    }
    *lost_before = lost;
    if reordered {
        counters.hit("power cut: later sector kept, earlier one lost");
    }
}

fn overlay(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(bytes);
}

fn missing(name: &str) -> DiskError {
    DiskError::new(DiskErrorKind::Missing, name)
}

fn index(number: u64) -> usize {
    usize::try_from(number).expect("an index fits")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> Disk {
        let mut disk = Disk::default();
        disk.create("a");
        disk.write("a", 0, &[1; 2048]).unwrap();
        disk.sync("a").unwrap();
        disk.sync_names();
        disk
    }

    /// Goal: whatever was synced survives every cut. Method: many seeds, one file, unsynced writes
    /// behind it.
    #[test]
    fn what_was_synced_stays() {
        let mut torn = 0;
        for seed in 0..300 {
            let mut disk = disk();
            disk.write("a", 2048, &[2; 2048]).unwrap();
            disk.create("b");
            disk.rename("b", "c").unwrap();
            let mut counters = Counters::default();
            disk.power_cut(&mut Entropy::from_seed(seed), &mut counters);
            let content = disk.read("a").unwrap();
            assert_eq!(&content[..2048], &[1; 2048]);
            let rest: u32 = content[2048..].iter().map(|byte| u32::from(*byte)).sum();
            torn += u32::from(rest > 0 && rest < 2 * 2048);
        }
        assert!(torn > 10, "no write was torn");
    }

    #[test]
    fn a_name_needs_the_directory_to_be_synced() {
        let lost = (0..100).filter(|seed| {
            let mut disk = disk();
            disk.create("b");
            disk.sync("b").unwrap();
            disk.power_cut(&mut Entropy::from_seed(*seed), &mut Counters::default());
            disk.read("b").is_err()
        });
        let lost = lost.count();
        assert!(lost > 10 && lost < 90, "{lost} of 100 names were lost");
    }

    #[test]
    fn after_a_failed_sync_the_next_one_makes_nothing_durable() {
        let mut lost = 0;
        for seed in 0..50 {
            let mut entropy = Entropy::from_seed(seed);
            let mut disk = disk();
            disk.write("a", 0, &[9; 512]).unwrap();
            disk.fail_sync("a", false, &mut entropy);
            disk.sync("a").unwrap();
            assert_eq!(disk.read("a").unwrap()[0], 9, "the cache still shows it");
            disk.power_cut(&mut entropy, &mut Counters::default());
            lost += u32::from(disk.read("a").unwrap()[0] == 1);
        }
        assert!(lost > 5);
    }

    #[test]
    fn a_full_disk_takes_overwrites_only() {
        let mut disk = disk();
        disk.capacity = Some(disk.used_bytes());
        assert!(disk.write("a", 0, &[3; 2048]).is_ok());
        let refused = disk.write("a", 2048, &[3; 1]).unwrap_err();
        assert_eq!(refused.kind, DiskErrorKind::Full);
    }
}
