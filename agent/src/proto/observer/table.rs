//! Where connections are kept: found by key, and in lists by how long they have been silent.

use std::collections::HashMap;

// Seeded at random for each table, so that nobody can choose addresses that collide, and several
// times as fast as the standard library's for each segment. What was hashed never shows.
use foldhash::fast::RandomState;

use crate::proto::{flow::FlowKey, time::Timestamp};

/// No slot.
const NONE: u32 = u32::MAX;

/// A slot of the table. Slots are used again, under another [`Table::generation`].
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct SlotId(u32);

/// Lists, each from silent longest to heard of last.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum List {
    /// WebSockets.
    Open,
    /// Not decided.
    Candidates,
    /// Nothing more to be learnt from them: no WebSockets, and those that are over.
    Decided,
}

const LISTS: usize = 3;

#[derive(Clone, Copy, Debug)]
struct Ends {
    oldest: u32,
    newest: u32,
    len: usize,
}

#[derive(Debug)]
struct Slot<T> {
    key: FlowKey,
    value: Option<T>,
    list: List,
    older: u32,
    newer: u32,
    last_seen: Timestamp,
    generation: u32,
}

/// Values by flow, each in one of the lists.
#[derive(Debug)]
pub(super) struct Table<T> {
    index: HashMap<FlowKey, u32, RandomState>,
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    lists: [Ends; LISTS],
}

impl<T> Table<T> {
    pub fn new() -> Self {
        let empty = Ends {
            oldest: NONE,
            newest: NONE,
            len: 0,
        };
        Self {
            index: HashMap::default(),
            slots: Vec::new(),
            free: Vec::new(),
            lists: [empty; LISTS],
        }
    }

    /// Values in the table.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Values in `list`.
    pub fn len_of(&self, list: List) -> usize {
        self.lists[list as usize].len
    }

    pub fn find(&self, key: &FlowKey) -> Option<SlotId> {
        self.index.get(key).copied().map(SlotId)
    }

    /// Adds a value under a key that is not there, as the newest of `list`.
    pub fn insert(&mut self, key: FlowKey, list: List, value: T, now: Timestamp) -> SlotId {
        let slot = Slot {
            key,
            value: Some(value),
            list,
            older: NONE,
            newer: NONE,
            last_seen: now,
            generation: 0,
        };
        let at = match self.free.pop() {
            Some(at) => {
                let generation = self.slots[at as usize].generation.wrapping_add(1);
                self.slots[at as usize] = Slot { generation, ..slot };
                at
            }
            None => {
                self.slots.push(slot);
                u32::try_from(self.slots.len() - 1).unwrap_or(NONE)
            }
        };
        self.index.insert(key, at);
        self.append(at);
        SlotId(at)
    }

    pub fn remove(&mut self, id: SlotId) {
        let Some(slot) = self.slots.get_mut(id.0 as usize) else {
            return;
        };
        if slot.value.take().is_none() {
            return;
        }
        let key = slot.key;
        self.index.remove(&key);
        self.unlink(id.0);
        self.free.push(id.0);
    }

    pub fn get_mut(&mut self, id: SlotId) -> Option<&mut T> {
        self.slots.get_mut(id.0 as usize)?.value.as_mut()
    }

    pub fn key(&self, id: SlotId) -> FlowKey {
        self.slots[id.0 as usize].key
    }

    pub fn list(&self, id: SlotId) -> List {
        self.slots[id.0 as usize].list
    }

    pub fn last_seen(&self, id: SlotId) -> Timestamp {
        self.slots[id.0 as usize].last_seen
    }

    /// Tells values apart that have had the same slot.
    pub fn generation(&self, id: SlotId) -> u32 {
        self.slots[id.0 as usize].generation
    }

    /// Makes it the newest of its list, heard of at `now`.
    pub fn touch(&mut self, id: SlotId, now: Timestamp) {
        let slot = &mut self.slots[id.0 as usize];
        slot.last_seen = slot.last_seen.max(now);
        if slot.newer != NONE {
            self.unlink(id.0);
            self.append(id.0);
        }
    }

    /// Makes it the newest of `list`.
    pub fn move_to(&mut self, id: SlotId, list: List) {
        self.unlink(id.0);
        self.slots[id.0 as usize].list = list;
        self.append(id.0);
    }

    /// The one of `list` that has been silent longest.
    pub fn oldest(&self, list: List) -> Option<SlotId> {
        let oldest = self.lists[list as usize].oldest;
        (oldest != NONE).then_some(SlotId(oldest))
    }

    /// All, in no order that means anything.
    pub fn iter(&self) -> impl Iterator<Item = (SlotId, &T)> {
        (0u32..)
            .zip(&self.slots)
            .filter_map(|(at, slot)| slot.value.as_ref().map(|value| (SlotId(at), value)))
    }

    fn append(&mut self, at: u32) {
        let list = &mut self.lists[self.slots[at as usize].list as usize];
        let before = list.newest;
        list.newest = at;
        list.len += 1;
        if before == NONE {
            list.oldest = at;
        } else {
            self.slots[before as usize].newer = at;
        }
        let slot = &mut self.slots[at as usize];
        slot.older = before;
        slot.newer = NONE;
    }

    fn unlink(&mut self, at: u32) {
        let Slot {
            list, older, newer, ..
        } = self.slots[at as usize];
        let list = &mut self.lists[list as usize];
        list.len -= 1;
        if older == NONE {
            list.oldest = newer;
        } else {
            self.slots[older as usize].newer = newer;
        }
        let list = &mut self.lists[self.slots[at as usize].list as usize];
        if newer == NONE {
            list.newest = older;
        } else {
            self.slots[newer as usize].older = older;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(port: u16) -> FlowKey {
        FlowKey::new(([10, 0, 0, 1], port).into(), ([10, 0, 0, 2], 80).into(), 0).0
    }

    fn drain(table: &mut Table<u16>, list: List) -> Vec<u16> {
        let mut values = Vec::new();
        while let Some(id) = table.oldest(list) {
            values.push(*table.get_mut(id).unwrap());
            table.remove(id);
        }
        values
    }

    #[test]
    fn lists_are_ordered_by_silence() {
        let mut table = Table::new();
        let ids: Vec<_> = (0..5)
            .map(|n| table.insert(key(n), List::Candidates, n, Timestamp(n.into())))
            .collect();
        table.touch(ids[0], Timestamp(9));
        table.touch(ids[4], Timestamp(10));
        table.move_to(ids[2], List::Open);
        table.remove(ids[3]);
        assert_eq!(table.find(&key(3)), None);
        assert_eq!(table.find(&key(2)), Some(ids[2]));
        assert_eq!(table.len_of(List::Candidates), 3);
        assert_eq!(table.len(), 4);
        assert_eq!(drain(&mut table, List::Candidates), [1, 0, 4]);
        assert_eq!(drain(&mut table, List::Open), [2]);
        assert_eq!((table.len(), table.len_of(List::Open)), (0, 0));
    }

    #[test]
    fn slots_are_used_again() {
        let mut table = Table::new();
        let first = table.insert(key(1), List::Open, 1, Timestamp(0));
        let generation = table.generation(first);
        table.remove(first);
        table.remove(first);
        let second = table.insert(key(2), List::Open, 2, Timestamp(0));
        assert_eq!(first, second);
        assert_ne!(table.generation(second), generation);
        assert_eq!(table.find(&key(1)), None);
    }
}
