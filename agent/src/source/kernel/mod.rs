//! The kernel: program, attachment, ring buffer.
//!
//! [`open`] loads the program and attaches it. Three things come back, to be used from three places:
//! the [`Attacher`], which holds the attachment and follows the interfaces, the [`Reader`], which
//! turns records into segments, and the [`Counters`]. Nothing here knows of the observer or of
//! sinks.

pub mod attach;
pub mod clock;
mod clsact;
pub mod counters;
mod here;
mod inner;
pub mod interfaces;
mod namespaces;
pub mod netlink;
pub mod privileges;
pub mod program;
pub mod reader;
pub mod requirements;
mod slots;
mod status;
pub mod tallies;

use std::io;

use aya::{EbpfError, maps::MapError, programs::ProgramError};

pub use self::{
    attach::{Attacher, Method},
    counters::Counters,
    interfaces::{InterfaceNames, LocalAddresses},
    reader::Reader,
    status::AttachStatus,
};
use self::{inner::Inner, requirements::Refusal};
use crate::config::CaptureConfig;

/// When records wake the reader.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Wake {
    /// As soon as there is one and the reader sleeps: somebody is watching.
    Each,
    /// When an eighth of the ring buffer is full. Else the reader's own timer finds them.
    Batch,
}

/// Why there is nothing to read from the kernel. The messages say what their causes say, so that
/// what to do can follow; so these are not given as sources once more.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The object is a stub.
    #[error(
        "loading the eBPF program: this wstap was built without it; `cargo xtask build --release` \
         sets up what is missing and builds with it"
    )]
    Stub,
    /// The kernel would refuse, and why is known.
    #[error("loading the eBPF program: {0}")]
    Refused(Refusal),
    /// The object could not be loaded, maps and all.
    #[error("loading the eBPF program: {}", one_line(.0))]
    Load(Box<EbpfError>),
    /// A map could not be created.
    #[error("creating the eBPF map {name}: {cause}; {}", map_remedy(.cause))]
    CreateMap {
        /// Which.
        name: String,
        /// What the kernel said.
        cause: io::Error,
    },
    /// The verifier refused a program.
    #[error(
        "loading the eBPF program {name}: {cause}: {reason}; `wstap check` tells what this kernel \
         lacks, `-vv` shows the verifier's log"
    )]
    Verifier {
        /// Which.
        name: &'static str,
        /// What the kernel said.
        cause: io::Error,
        /// The verifier's last word.
        reason: String,
    },
    /// A program of the object could not be loaded for another reason.
    #[error("loading the eBPF program {name}: {}", one_line(.cause))]
    Program {
        /// Which.
        name: &'static str,
        /// Why.
        cause: Box<ProgramError>,
    },
    /// The object lacks something that this agent needs.
    #[error("the eBPF program has no {0}: it was built for another wstap; build again")]
    Mismatch(&'static str),
    /// A map could not be read or written.
    #[error("using the eBPF map {name}: {}", one_line(.cause))]
    Map {
        /// Which.
        name: &'static str,
        /// Why.
        cause: MapError,
    },
    /// A map could not be mapped into memory.
    #[error("mapping the eBPF map {name} into memory: {cause}")]
    MapMemory {
        /// Which.
        name: &'static str,
        /// Why.
        cause: io::Error,
    },
    /// TCX was asked for, and the kernel has none.
    #[error(
        "attaching with TCX: {0}; it needs Linux 6.6: leave out `--attach tcx` to use what there is"
    )]
    NoTcx(String),
    /// Attaching to one interface failed.
    #[error("attaching to {interface}: {reason}")]
    Attach {
        /// Its name.
        interface: String,
        /// Why, and what to do.
        reason: String,
    },
    /// Other network namespaces are to be entered, and capabilities for it are missing.
    #[error("following other network namespaces (--netns): {0}")]
    Namespaces(Refusal),
    /// There is no place for what the programs of other network namespaces share.
    #[error(
        "following other network namespaces (--netns): mounting a bpf file system that nobody else sees: \
         {0}; a security module (AppArmor, SELinux) or a seccomp profile may forbid it, see the kernel's log"
    )]
    Pins(io::Error),
    /// Interfaces could not be listed or watched.
    #[error("{doing}: {cause}")]
    Netlink {
        /// What was tried.
        doing: &'static str,
        /// Why not.
        cause: io::Error,
    },
}

impl From<Refusal> for KernelError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Loads the program and attaches it to the interfaces that are wanted and there. Further ones are
/// attached once [`Attacher::watch`] runs.
///
/// In between the calling thread gives up the capabilities that nobody needs any more, and so has none for
/// another call.
///
/// # Errors
///
/// [`KernelError`]. One interface that cannot be attached to is none, unless there is no other.
pub fn open(
    config: &CaptureConfig,
    wake: Wake,
) -> Result<(Attacher, Reader, Counters), KernelError> {
    let method = attach::choose(config.attach)?;
    requirements::may_enter(&config.namespaces)?;
    let program::Loaded {
        ebpf,
        ring,
        counters,
        flows,
        verdicts,
        cursors,
        pairs,
        slots,
        heartbeat,
        log,
    } = program::load(config, wake, method)?;
    let mut attacher = Attacher::new(ebpf, method, heartbeat, log, config)?;
    // Before anything is attached: what works now works for the interfaces that appear later.
    privileges::renounce(&privileges::needed_later(method, &config.namespaces));
    attacher.begin()?;
    Ok((
        attacher,
        Reader::new(ring, flows, verdicts, cursors, pairs, slots),
        Counters::new(counters),
    ))
}

/// Loads the program and lets go of it; whether the kernel has compiled it, where it says so.
///
/// # Errors
///
/// [`KernelError`]: those of [`open`] that do not concern interfaces.
pub fn trial(config: &CaptureConfig) -> Result<Option<bool>, KernelError> {
    let method = attach::choose(config.attach)?;
    requirements::may_enter(&config.namespaces)?;
    let mut loaded = program::load(config, Wake::Batch, method)?;
    if !config.namespaces.wanted.is_empty() {
        Inner::new(&mut loaded.ebpf)?;
    }
    Ok(program::is_compiled(&loaded.ebpf))
}

/// An error and its sources on one line.
fn one_line(error: &dyn std::error::Error) -> String {
    let mut line = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        // Many errors repeat their source in their own message.
        if !line.contains(&text) {
            if !line.is_empty() {
                line.push_str(": ");
            }
            line.push_str(&text);
        }
        next = error.source();
    }
    line
}

fn map_remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM) => {
            "before Linux 5.11 maps count against the memlock limit: raise it (`ulimit -l unlimited`, \
             `LimitMEMLOCK=infinity`) or grant CAP_SYS_RESOURCE (in Kubernetes `capabilities: {add: \
             [SYS_RESOURCE]}`)"
        }
        Some(libc::ENOMEM) => {
            "lower --max-connections, --max-candidates or --ring-buffer, or raise the memory limit"
        }
        _ => "`wstap check` tells what this kernel lacks",
    }
}
