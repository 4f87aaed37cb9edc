//! Connections that are open and silent.
//!
//! Most of the many WebSockets of a server say something once a minute. Of one that says nothing only
//! so much is kept as to go on as if nothing had been put away: some two hundred bytes instead of
//! thousands. A connection wakes up before anything is done with it.

use super::{
    Live, Observer, State,
    table::{List, SlotId},
    walks::Walks,
};
use crate::proto::{
    flow::ConnId,
    packed::{Packed, Packer},
    session::{Quiet, Session},
    tcp::TcpFlow,
    time::Timestamp,
};

/// A connection that dozes. The source keeps tallies of it.
#[derive(Debug)]
pub(super) struct Dozing {
    quiet: Quiet,
    /// Of side 0.
    pub tally: u32,
    /// Up to what time the tallies were looked at.
    pub looked: Timestamp,
    /// What [`Walks::told`] says.
    pub told: u32,
    packed: Packed,
}

// What fits exactly into what the allocator hands out. There may be a hundred thousand of them.
const _: () = assert!(size_of::<Dozing>() == 216);

impl Dozing {
    pub fn id(&self) -> ConnId {
        self.quiet.connection().id
    }
}

/// Connections with tallies that may be awake at a time, but for those in the midst of something: to
/// wake one up takes about as long as a frame does.
const AWAKE: usize = if cfg!(test) { 0 } else { 4096 };

impl Observer {
    /// Whether there are so many that one that was awake for a look alone dozes again at once: the memory
    /// that it took is then there for the next.
    pub(super) fn is_crowded(&self) -> bool {
        self.table.len_of(List::Open) > AWAKE
    }

    /// Puts a connection away where many are awake.
    pub(super) fn doze_if_crowded(&mut self, slot: SlotId) {
        if self.table.len_of(List::Open).saturating_sub(self.dozing) > AWAKE {
            self.doze(slot);
        }
    }

    /// Puts a connection away of which nothing is under way.
    pub(super) fn doze(&mut self, slot: SlotId) {
        let now = self.now;
        let Some(entry) = self.table.get_mut(slot) else {
            return;
        };
        let (State::Live(live), None) = (&mut entry.state, entry.timer) else {
            return;
        };
        let Live {
            tcp,
            session,
            walks: Some(walks),
        } = &mut **live
        else {
            return;
        };
        if !tcp.is_quiet() || !walks.is_quiet(now) || !session.is_quiet() {
            return;
        }
        let mut p = Packer::writer();
        let Some(quiet) = session.write(&mut p) else {
            return;
        };
        tcp.pack(&mut p);
        walks.pack(tcp, &mut p);
        entry.state = State::Dozing(Box::new(Dozing {
            quiet,
            tally: walks.tally,
            looked: walks.looked,
            told: walks.told(),
            packed: p.finish(),
        }));
        self.dozing += 1;
    }

    /// Wakes a connection up if it dozes.
    pub(super) fn wake(&mut self, slot: SlotId) {
        let key = self.table.key(slot);
        let Some(entry) = self.table.get_mut(slot) else {
            return;
        };
        if !matches!(entry.state, State::Dozing(_)) {
            return;
        }
        let State::Dozing(dozing) = std::mem::replace(&mut entry.state, State::Ignored) else {
            return;
        };
        let Dozing {
            quiet,
            tally,
            looked,
            told: _,
            packed,
        } = *dozing;
        self.dozing = self.dozing.saturating_sub(1);
        let mut p = Packer::reader(packed);
        let session = Session::read(&key, quiet, &mut p);
        let mut tcp = TcpFlow::new();
        tcp.pack(&mut p);
        let mut walks = Walks::new(0, tally, Default::default());
        walks.pack(&tcp, &mut p);
        walks.looked = looked;
        entry.state = State::Live(Box::new(Live {
            tcp,
            session,
            walks: Some(walks),
        }));
    }
}
