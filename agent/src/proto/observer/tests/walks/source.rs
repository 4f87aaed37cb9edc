//! A source that follows the frames of a WebSocket, as the kernel program does.

use std::{
    collections::HashMap,
    iter,
    sync::{Arc, Mutex, PoisonError},
};

use super::super::*;
use crate::proto::{
    event::{Counted, OpcodeCounts},
    flow::{Direction, Role},
    frame::{HeaderDecoder, Opcode},
    observer::script::{ACK, FIN, RST},
    segment::TcpFlags,
    seq::SeqNumber,
    walk::{
        self, Cursor, Entry as WalkEntry, LastFrame, MessageState, Place, Tallies, Tally, Walk,
    },
};

/// The number of the client's tally; the server's is the next.
pub(super) const TALLY: u32 = 6;
pub(super) const EPOCH: u32 = 77;

/// What the source has counted.
#[derive(Clone, Debug, Default)]
pub(super) struct Shared(Arc<Mutex<HashMap<u32, Tally>>>);

impl Shared {
    pub(super) fn with<T>(&self, tally: u32, then: impl FnOnce(&mut Tally) -> T) -> T {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        then(all.entry(tally).or_default())
    }
}

impl Tallies for Shared {
    fn read(&self, tally: u32, epoch: u32) -> Option<Tally> {
        (epoch == EPOCH).then(|| self.with(tally, |tally| *tally))
    }

    fn last_seen(&self, tally: u32, epoch: u32) -> Option<Timestamp> {
        Some(self.read(tally, epoch)?.last_seen).filter(|seen| seen.0 > 0)
    }
}

pub(super) type OwnEntry = (SeqNumber, Place, bool, Vec<u8>);

/// A walk, as the source would hand it over.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) walk: Walk<'static>,
    pub(super) entries: Vec<OwnEntry>,
}

/// What the source knows of one direction.
#[derive(Clone, Debug, Default)]
pub(super) struct Walker {
    pub(super) place: Place,
    /// Payload before the next header, and of that what is to be handed over.
    pub(super) ahead: u64,
    pub(super) control: usize,
    pub(super) carry: Vec<u8>,
    pub(super) number: u32,
    pub(super) version: u32,
    pub(super) is_lost: bool,
}

/// A source that follows the frames.
pub(super) struct Source {
    pub(super) script: Script,
    pub(super) shared: Shared,
    pub(super) walkers: [Walker; 2],
    /// Hands over every frame, or only control frames.
    pub(super) each_frame: bool,
    pub(super) last_payload: Timestamp,
}

impl Source {
    /// Behind the handshakes.
    pub(super) fn new(each_frame: bool) -> Self {
        Self::with(each_frame, config())
    }

    /// As [`Self::new`], with a configuration of its own.
    pub(super) fn with(each_frame: bool, config: Config) -> Self {
        let shared = Shared::default();
        let mut script = Script::new(config.clone());
        script.observer = Observer::new(config).with_tallies(Box::new(shared.clone()));
        script.epoch = EPOCH;
        script.connect();
        script.client(REQUEST.as_bytes());
        let boundary = script.next[1] + RESPONSE.len() as u32;
        script.sample = Sample {
            tally: TALLY + 1,
            boundary: Some(boundary),
            is_trial: false,
        };
        script.server(RESPONSE.as_bytes());
        script.sample = Sample::default();
        let last_payload = script.now;
        Self {
            script,
            shared,
            walkers: Default::default(),
            each_frame,
            last_payload,
        }
    }

    pub(super) fn lines(&mut self) -> Vec<String> {
        self.script.lines()
    }

    /// `role` sends a segment, which is handed over.
    pub(super) fn send(&mut self, role: Role, flags: u8, bytes: &[u8]) {
        if let Some(record) = self.walk(role, flags, bytes) {
            self.hand_over(&record);
        }
    }

    pub(super) fn client(&mut self, bytes: &[u8]) {
        self.send(Role::Client, ACK, bytes);
    }

    pub(super) fn server(&mut self, bytes: &[u8]) {
        self.send(Role::Server, ACK, bytes);
    }

    pub(super) fn hand_over(&mut self, record: &Record) {
        let mut entries = record.entries.iter().map(|entry| WalkEntry {
            seq: entry.0,
            place: entry.1,
            continues: entry.2,
            bytes: &entry.3,
        });
        self.script.observer.handle_walk(&record.walk, &mut entries);
    }

    /// `role` sends a segment: what is to be handed over of it.
    pub(super) fn walk(&mut self, role: Role, flags: u8, bytes: &[u8]) -> Option<Record> {
        let own = usize::from(role == Role::Server);
        let script = &mut self.script;
        script.now = script.now.saturating_add(Duration::from_millis(1));
        let (source, destination) = match role {
            Role::Client => (script.client, script.server),
            Role::Server => (script.server, script.client),
        };
        let seq = script.next[own];
        let end = seq + bytes.len() as u32;
        script.next[own] = end + u32::from(flags & FIN != 0);
        let mut walk = Walk {
            segment: Segment {
                ts: script.now,
                source,
                destination,
                seq,
                ack: Some(script.next[1 - own]),
                flags: TcpFlags(flags),
                window: 1000,
                len: bytes.len() as u32,
                behind: 0,
                windows: &[],
                interface: Some(3),
                scope: 0,
                epoch: EPOCH,
            },
            tally: TALLY + own as u32,
            quiet_since: self.last_payload,
            from: seq,
            high: end,
            number: 0,
            place: self.walkers[own].place,
            lost: None,
            resumed: false,
        };
        let walker = &mut self.walkers[own];
        let each_frame = self.each_frame;
        let entries = self.shared.with(TALLY + own as u32, |tally| {
            if !bytes.is_empty() {
                tally.last_seen = walk.segment.ts;
            }
            let entries = walker.walk(seq, bytes, each_frame, tally);
            tally.ahead = walker.ahead;
            tally.next = end + walker.ahead as u32;
            entries
        });
        if !bytes.is_empty() {
            self.last_payload = walk.segment.ts;
        }
        if entries.is_empty() && flags & (FIN | RST) == 0 {
            return None;
        }
        walk.number = self.walkers[own].number;
        self.walkers[own].number += 1;
        Some(Record { walk, entries })
    }

    /// The source gives up its place in what `role` sends, which is at a header.
    pub(super) fn lose(&mut self, role: Role) -> Record {
        let own = usize::from(role == Role::Server);
        let mut record = self.walk(role, RST, &[]).expect("a record");
        record.walk.segment.flags = TcpFlags(ACK);
        record.walk.from = self.script.next[own] + self.walkers[own].ahead as u32;
        self.walkers[own].version += 1;
        self.walkers[own].is_lost = true;
        record.walk.lost = Some(self.walkers[own].version);
        record
    }

    /// A trial that began with a segment of `role`, and was confirmed, has come to the header of frame `index`,
    /// which is `ahead` bytes behind what `role` has sent.
    pub(super) fn confirm(&mut self, role: Role, ahead: u32, index: u32) {
        let own = usize::from(role == Role::Server);
        let mut record = self.walk(role, RST, &[]).expect("a record");
        record.walk.segment.flags = TcpFlags(ACK);
        record.walk.from = self.script.next[own] + ahead;
        record.walk.place = Place {
            index,
            ..Place::default()
        };
        record.walk.resumed = true;
        self.walkers[own].place = record.walk.place;
        self.walkers[own].ahead = ahead.into();
        self.walkers[own].is_lost = false;
        self.hand_over(&record);
    }

    /// The next place of the server's that the source should be told of. The client's is told as well,
    /// before it speaks.
    pub(super) fn server_cursor(&mut self) -> Option<Cursor> {
        let mut cursors = iter::from_fn(|| self.script.observer.poll_cursor());
        cursors.find(|cursor| !cursor.is_client)
    }

    /// `role` sends a segment that is handed over whole.
    pub(super) fn whole(&mut self, role: Role, flags: u8, bytes: &[u8]) {
        let own = u32::from(role == Role::Server);
        self.script.sample = Sample {
            tally: TALLY + own,
            boundary: None,
            is_trial: false,
        };
        self.script.segment(role, flags, bytes);
        self.script.sample = Sample::default();
        self.last_payload = self.script.now;
    }

    /// Goes on where it is told.
    pub(super) fn resume(&mut self, cursor: &Cursor, role: Role) {
        let own = usize::from(role == Role::Server);
        let walker = &mut self.walkers[own];
        assert_eq!(cursor.version, walker.version);
        assert_eq!(cursor.epoch, EPOCH);
        walker.place = cursor.place;
        walker.ahead = u64::from(cursor.next.0.wrapping_sub(self.script.next[own].0));
        walker.is_lost = false;
    }

    /// What was counted by tally, in both directions.
    pub(super) fn counted(events: &[Event]) -> [OpcodeCounts; 2] {
        let mut frames: [OpcodeCounts; 2] = Default::default();
        for event in events {
            if let EventKind::Counted(counted) = &event.kind {
                let Counted { direction, .. } = **counted;
                for (kind, n) in counted.frames.iter().enumerate() {
                    let opcode = walk::opcode_of(kind).unwrap_or(Opcode::Reserved(3));
                    let own = usize::from(direction == Direction::ServerToClient);
                    frames[own].add(opcode, *n);
                }
            }
        }
        frames
    }
}

impl Walker {
    pub(super) fn walk(
        &mut self,
        seq: SeqNumber,
        bytes: &[u8],
        each_frame: bool,
        tally: &mut Tally,
    ) -> Vec<OwnEntry> {
        let mut entries = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let left = &bytes[at..];
            if self.ahead > 0 {
                let n = left.len().min(usize::try_from(self.ahead).unwrap());
                if self.control > 0 {
                    let (seq, payload) = (seq + at as u32, left[..n].to_vec());
                    entries.push((seq, self.place, true, payload));
                    self.control -= n;
                }
                self.ahead -= n as u64;
                at += n;
                continue;
            }
            let carried = self.carry.len();
            self.carry
                .extend_from_slice(&left[..left.len().min(14 - carried)]);
            let (taken, header) = HeaderDecoder::new().decode(&self.carry);
            let Some(header) = header else {
                return entries;
            };
            let begin = (seq + at as u32).0.wrapping_sub(carried as u32);
            let before = self.place;
            let mut copied = self.carry[..taken].to_vec();
            self.carry.clear();
            at += taken - carried;
            self.ahead = header.payload_len();
            let mut message = None;
            if header.opcode.is_control() {
                let n = (bytes.len() - at).min(header.len as usize);
                copied.extend_from_slice(&bytes[at..at + n]);
                at += n;
                self.ahead -= n as u64;
                self.control = self.ahead as usize;
                self.place.closed |= header.opcode == Opcode::Close;
            } else {
                self.place.message = match self.place.message {
                    MessageState::Within {
                        opcode,
                        compressed,
                        frames,
                        len,
                    } if header.opcode == Opcode::Continuation => MessageState::Within {
                        opcode,
                        compressed,
                        frames: frames + 1,
                        len: len + header.len,
                    },
                    _ => MessageState::Within {
                        opcode: header.opcode,
                        compressed: false,
                        frames: 1,
                        len: header.len,
                    },
                };
                if let (true, MessageState::Within { opcode, len, .. }) =
                    (header.fin, self.place.message)
                {
                    message = Some((if opcode == Opcode::Text { 0 } else { 2 }, len));
                    self.place.message = MessageState::Between;
                }
            }
            let kind = (0..7).find(|kind| walk::opcode_of(*kind) == Some(header.opcode));
            let kind = kind.unwrap_or(6);
            tally.counts.frames[kind] += 1;
            tally.counts.bytes[kind] += header.len;
            tally.counts.frame_sizes[walk::class_of(header.len)] += 1;
            if let Some((kind, len)) = message {
                tally.counts.messages[kind] += 1;
                tally.counts.message_sizes[walk::class_of(len)] += 1;
                tally.counts.message_bytes += len;
            }
            tally.last = LastFrame {
                kind,
                size: header.len,
                message,
            };
            self.place.index += 1;
            if each_frame || header.opcode.is_control() {
                entries.push((SeqNumber(begin), before, false, copied));
            }
        }
        entries
    }
}
