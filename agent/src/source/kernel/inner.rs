//! The programs of interfaces in other network namespaces.
//!
//! A program does not know in which namespace it runs, so that each interface there has small ones of
//! its own, that say so and go on with the large ones, which all share. What they share with these are
//! two maps, which go by name from one object to the other: through a bpf file system that nobody else
//! sees, and that goes with its last descriptor.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{fd::AsRawFd as _, unix::fs::OpenOptionsExt as _},
    panic::resume_unwind,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData, ProgramArray},
};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use wstap_common::{
    flow::{FIRST_VANTAGE, Vantage},
    globals,
};

use super::{
    KernelError,
    interfaces::Framing,
    program::{in_map, load_error, load_program, program_error, take, verified},
};

/// The object as built by `build.rs`; empty where it was not.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/wstap-ebpf-inner"));

/// Makes the programs of interfaces in other network namespaces.
pub(super) struct Inner {
    loader: EbpfLoader<'static>,
    /// The large programs are in it as long as it is open.
    _programs: ProgramArray<MapData>,
    /// The root of the file system.
    _pins: File,
    /// Interfaces so far.
    interfaces: u32,
}

impl Inner {
    /// Prepares it, with the object that holds the large programs.
    ///
    /// # Errors
    ///
    /// A program was refused, or there is no way to share maps.
    pub fn new(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        let pins = pins().map_err(KernelError::Pins)?;
        let path = |name: &str| pinned(&pins, name);
        let name = globals::VANTAGE_MAP;
        let map = ebpf.map(name).ok_or(KernelError::Mismatch(name))?;
        map.pin(path(name))
            .map_err(|error| KernelError::Pins(io::Error::other(error)))?;

        let mut loader = EbpfLoader::new();
        loader
            // Of the kernel's own types nothing is needed, and they are many.
            .btf(None)
            .map_pin_path(globals::VANTAGE_MAP, path(globals::VANTAGE_MAP))
            .map_pin_path(globals::INNER_MAP, path(globals::INNER_MAP));
        // The first one that is loaded makes the map and gives it its name.
        let mut first = loader.load(OBJECT).map_err(load_error)?;
        let name = globals::INNER_MAP;
        let mut programs: ProgramArray<MapData> = take(&mut first, name)?;
        for (link, names) in globals::INNER_PROGRAMS.into_iter().enumerate() {
            for (direction, program) in names.into_iter().enumerate() {
                let fd = verified(ebpf, program)?
                    .fd()
                    .map_err(|error| program_error(program, error))?;
                programs
                    .set(globals::inner(link, direction), fd, 0)
                    .map_err(in_map(name))?;
            }
        }
        Ok(Self {
            loader,
            _programs: programs,
            _pins: pins,
            interfaces: 0,
        })
    }

    /// A number for an interface that no other one has, see [`Vantage::interface`].
    pub fn number(&mut self) -> u32 {
        let number = FIRST_VANTAGE | (self.interfaces & (FIRST_VANTAGE - 1));
        self.interfaces = self.interfaces.wrapping_add(1);
        number
    }

    /// The programs of an interface: those of [`globals::PROGRAMS`] for its framing are loaded.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    pub fn load(&mut self, here: Vantage, framing: Framing) -> Result<Ebpf, KernelError> {
        let mut ebpf = self.loader.load(OBJECT).map_err(load_error)?;
        let name = globals::HERE_MAP;
        let mut map: Array<MapData, Vantage> = take(&mut ebpf, name)?;
        map.set(0, here, 0).map_err(in_map(name))?;
        for name in globals::PROGRAMS[framing as usize] {
            let program = ebpf.program_mut(name).ok_or(KernelError::Mismatch(name))?;
            load_program(name, program)?;
        }
        Ok(ebpf)
    }
}

/// Where what has this name is to be found, as long as the file system is open.
fn pinned(pins: &File, name: &str) -> PathBuf {
    Path::new("/proc/self/fd")
        .join(pins.as_raw_fd().to_string())
        .join(name)
}

/// Mounts a bpf file system in a mount namespace that only a thread is in, and ends the thread: nobody
/// finds the file system any more but by the descriptor, and it goes when that is closed, whatever
/// happens to the agent.
fn pins() -> io::Result<File> {
    // A folder that is there in any case; it stays as it is for everybody else.
    const PLACE: &str = "/proc";
    let thread =
        thread::Builder::new()
            .name("mount".to_owned())
            .spawn(|| -> io::Result<File> {
                unshare(CloneFlags::CLONE_NEWNS)?;
                let none = None::<&str>;
                // Or the mount would be passed on to where this namespace has come from.
                let slave = MsFlags::MS_REC | MsFlags::MS_SLAVE;
                mount(none, "/", none, slave, none)?;
                // Its root is root's, and the agent need not be.
                let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
                mount(Some("wstap"), PLACE, Some("bpf"), quiet, Some("mode=0777"))?;
                OpenOptions::new()
                    .read(true)
                    .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
                    .open(PLACE)
            })?;
    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
}

/// The one that attachers share. A panic of one of them has left it whole.
pub(super) fn lock(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}
