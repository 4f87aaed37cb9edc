//! Where connections are kept: found by key, and in lists by how long they have been silent.

use std::hash::BuildHasher;

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

/// Where keys are, without the keys: the slots have them. Open addressing with linear probing.
#[derive(Debug, Default)]
struct Index {
    /// A power of two of places, of which a quarter is empty at least.
    places: Vec<Place>,
    len: usize,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    /// [`NONE`] where it is empty.
    at: u32,
    hash: u32,
}

const EMPTY: Place = Place { at: NONE, hash: 0 };

impl Index {
    fn next(&self, place: usize) -> usize {
        (place + 1) & (self.places.len() - 1)
    }

    fn home(&self, hash: u32) -> usize {
        hash as usize & (self.places.len() - 1)
    }

    /// The place of what has this hash and `is_meant`.
    fn place(&self, hash: u32, is_meant: impl Fn(u32) -> bool) -> Option<usize> {
        if self.places.is_empty() {
            return None;
        }
        let mut place = self.home(hash);
        loop {
            let found = self.places[place];
            if found.at == NONE {
                return None;
            }
            if found.hash == hash && is_meant(found.at) {
                return Some(place);
            }
            place = self.next(place);
        }
    }

    /// Adds what is not there.
    fn insert(&mut self, hash: u32, at: u32) {
        if (self.len + 1) * 4 > self.places.len() * 3 {
            let places = vec![EMPTY; (self.places.len() * 2).max(16)];
            for place in std::mem::replace(&mut self.places, places) {
                if place.at != NONE {
                    self.put(place);
                }
            }
        }
        self.put(Place { at, hash });
        self.len += 1;
    }

    fn put(&mut self, new: Place) {
        let mut place = self.home(new.hash);
        while self.places[place].at != NONE {
            place = self.next(place);
        }
        self.places[place] = new;
    }

    /// Empties a place, and moves those behind it up that would not be found any more.
    fn remove(&mut self, place: usize) {
        self.len -= 1;
        let mut hole = place;
        let mut next = self.next(hole);
        while self.places[next].at != NONE {
            let home = self.home(self.places[next].hash);
            let mask = self.places.len() - 1;
            if next.wrapping_sub(home) & mask >= next.wrapping_sub(hole) & mask {
                self.places[hole] = self.places[next];
                hole = next;
            }
            next = self.next(next);
        }
        self.places[hole] = EMPTY;
    }
}

/// Values by flow, each in one of the lists.
#[derive(Debug)]
pub(super) struct Table<T> {
    hasher: RandomState,
    index: Index,
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
            hasher: RandomState::default(),
            index: Index::default(),
            slots: Vec::new(),
            free: Vec::new(),
            lists: [empty; LISTS],
        }
    }

    /// Values in the table.
    pub fn len(&self) -> usize {
        self.index.len
    }

    fn hash(&self, key: &FlowKey) -> u32 {
        self.hasher.hash_one(key) as u32
    }

    /// Where in the index a key is.
    fn place(&self, key: &FlowKey) -> Option<usize> {
        let is_meant = |at: u32| self.slots[at as usize].key == *key;
        self.index.place(self.hash(key), is_meant)
    }

    /// Values in `list`.
    pub fn len_of(&self, list: List) -> usize {
        self.lists[list as usize].len
    }

    pub fn find(&self, key: &FlowKey) -> Option<SlotId> {
        self.place(key)
            .map(|place| SlotId(self.index.places[place].at))
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
        self.index.insert(self.hash(&key), at);
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
        if let Some(place) = self.place(&key) {
            self.index.remove(place);
        }
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

    /// How many slots there are, those that are free included.
    pub fn slots(&self) -> u32 {
        u32::try_from(self.slots.len()).unwrap_or(NONE)
    }

    /// A slot by its number, which is below [`Self::slots`].
    pub fn slot(&self, at: u32) -> SlotId {
        debug_assert!(at < self.slots());
        SlotId(at)
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

    #[test]
    fn the_index_finds_what_is_there_and_nothing_else() {
        let mut table = Table::new();
        let mut there = std::collections::BTreeMap::new();
        let mut random = 1u32;
        for _ in 0..50_000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let port = (random >> 16) as u16 % 3000;
            match there.remove(&port) {
                Some(id) => table.remove(id),
                None => {
                    let id = table.insert(key(port), List::Open, port, Timestamp(0));
                    there.insert(port, id);
                }
            }
        }
        assert_eq!(table.len(), there.len());
        for port in 0..3000 {
            assert_eq!(table.find(&key(port)), there.get(&port).copied());
        }
    }
}
