//! What is told of the attachment while another thread holds it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use super::interfaces::{InterfaceNames, LocalAddresses};

/// What others may know of an [`super::Attacher`] that has been given away.
#[derive(Clone, Debug, Default)]
pub struct AttachStatus {
    /// Names of interfaces.
    pub names: InterfaceNames,
    /// Addresses of this machine.
    pub addresses: LocalAddresses,
    pub(super) attached: Arc<AtomicU64>,
    pub(super) failed: Arc<AtomicU64>,
    starting: Arc<AtomicU64>,
    namespaces: Arc<AtomicU64>,
    namespaces_failed: Arc<AtomicU64>,
    namespaces_turned_away: Arc<AtomicU64>,
}

impl AttachStatus {
    /// Interfaces that are attached now.
    #[must_use]
    pub fn attached(&self) -> u64 {
        self.attached.load(Ordering::Relaxed)
    }

    /// Interfaces that are wanted and could not be attached.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Interfaces that were there at the start and have not been looked at yet. Once it is 0 it stays so.
    #[must_use]
    pub fn starting(&self) -> u64 {
        self.starting.load(Ordering::Relaxed)
    }

    /// Network namespaces that are followed now, besides the agent's own.
    #[must_use]
    pub fn namespaces(&self) -> u64 {
        self.namespaces.load(Ordering::Relaxed)
    }

    /// Network namespaces that could not be entered, and looks at processes that were denied.
    #[must_use]
    pub fn namespaces_failed(&self) -> u64 {
        self.namespaces_failed.load(Ordering::Relaxed)
    }

    /// Network namespaces that were one too many.
    #[must_use]
    pub fn namespaces_turned_away(&self) -> u64 {
        self.namespaces_turned_away.load(Ordering::Relaxed)
    }

    pub(super) fn set_starting(&self, n: usize) {
        self.starting.store(count(n), Ordering::Relaxed);
    }

    pub(super) fn set_namespaces(&self, n: usize) {
        self.namespaces.store(count(n), Ordering::Relaxed);
    }

    pub(super) fn count_namespace_failed(&self) {
        self.namespaces_failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_namespace_turned_away(&self) {
        self.namespaces_turned_away.fetch_add(1, Ordering::Relaxed);
    }
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

/// Moves a sum of several attachers on, from what one of them had in it.
pub(super) fn update(sum: &AtomicU64, counted: &mut u64, now: usize) {
    let now = count(now);
    sum.fetch_add(now.wrapping_sub(*counted), Ordering::Relaxed);
    *counted = now;
}
