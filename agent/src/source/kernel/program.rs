//! The eBPF object: its globals, its maps, its programs.

use std::{panic::resume_unwind, thread};

use aya::{
    Ebpf, EbpfError, EbpfLoader, VerifierLogLevel,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, ProgramArray, RingBuf},
    programs::{Program, ProgramError, SchedClassifier},
};
use aya_log::EbpfLogger;
use log::LevelFilter;
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use wstap_common::{
    flow::{Cursor, CursorKey, FlowKey, Followed, Verdict},
    globals,
};

use super::{
    KernelError, Wake,
    attach::{HEARTBEAT_TIMEOUT, Method},
    interfaces::Framing,
    requirements::{self, CGROUP_ACCOUNTING, Privileges},
    slots::Slots,
    tallies::Pairs,
};
use crate::config::{CaptureConfig, CopyMode};

/// The object as built by `build.rs`; empty where it was not.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/wstap-ebpf"));

/// Part of the ring buffer that must be full before a record wakes the reader of [`Wake::Batch`].
const WAKEUP_SHARE: u32 = 8;

/// Flows that the kernel program may follow beyond `--max-connections`: those that open while the
/// agent makes room for them. It evicts the one silent longest; the program could only turn the new
/// one away.
const SPARE_FLOWS: u32 = 1024;

/// The ring buffer of `aya-log-ebpf`, which no message reaches where the log is off.
const LOG_MAP: &str = "AYA_LOGS";
/// A ring buffer has at least a page; this is one on every architecture.
const SMALLEST_RING: u32 = 64 << 10;

/// [`FLOWS_MAP`](globals::FLOWS_MAP), as the agent sees it.
pub(super) type Flows = HashMap<MapData, FlowKey, Followed>;
/// [`VERDICTS_MAP`](globals::VERDICTS_MAP), as the agent sees it.
pub(super) type Verdicts = HashMap<MapData, FlowKey, Verdict>;

/// [`CURSORS_MAP`](globals::CURSORS_MAP), as the agent sees it.
pub(super) type Cursors = HashMap<MapData, CursorKey, Cursor>;

/// A loaded object, taken apart.
pub(super) struct Loaded {
    /// The programs, and the maps that nobody here touches.
    pub ebpf: Ebpf,
    pub ring: RingBuf<MapData>,
    pub counters: PerCpuArray<MapData, u64>,
    pub flows: Flows,
    pub verdicts: Verdicts,
    pub cursors: Cursors,
    pub pairs: Pairs,
    pub slots: Slots,
    pub heartbeat: Array<MapData, u64>,
    /// The program's log, where it is on.
    pub log: Option<EbpfLogger<&'static dyn log::Log>>,
}

/// Whether the agent was built with the program.
#[must_use]
pub fn is_built() -> bool {
    !OBJECT.is_empty()
}

/// Loads the object. Nothing is attached yet.
///
/// # Errors
///
/// Nothing but what concerns the object, the maps and the verifier.
pub(super) fn load(
    config: &CaptureConfig,
    wake: Wake,
    method: Method,
) -> Result<Loaded, KernelError> {
    let mut ebpf = prepare(config, wake, method, VerifierLogLevel::default())?;

    verify_at_once(&mut ebpf)?;
    verified(&mut ebpf, globals::BODY)?;
    verify(&mut ebpf)?;
    let log = if config.kernel_log != LevelFilter::Off {
        EbpfLogger::init(&mut ebpf)
            .inspect_err(|error| log::warn!("the kernel program has no log: {error}"))
            .ok()
    } else {
        None
    };

    set_ports(&mut ebpf, config)?;
    Ok(Loaded {
        ring: take(&mut ebpf, globals::RECORDS_MAP)?,
        counters: take(&mut ebpf, globals::COUNTERS_MAP)?,
        flows: take(&mut ebpf, globals::FLOWS_MAP)?,
        verdicts: take(&mut ebpf, globals::VERDICTS_MAP)?,
        cursors: take(&mut ebpf, globals::CURSORS_MAP)?,
        pairs: Pairs::new(&mut ebpf)?,
        slots: Slots::new(&mut ebpf)?,
        heartbeat: take(&mut ebpf, globals::HEARTBEAT_MAP)?,
        ebpf,
        log,
    })
}

/// Reads the object and creates its maps. The verifier has not seen the programs yet; `detail` is what
/// it will say of one that it refuses.
///
/// # Errors
///
/// Nothing but what concerns the object and the maps.
pub fn prepare(
    config: &CaptureConfig,
    wake: Wake,
    method: Method,
    detail: VerifierLogLevel,
) -> Result<Ebpf, KernelError> {
    if !is_built() {
        return Err(KernelError::Stub);
    }
    if requirements::kernel_version() < CGROUP_ACCOUNTING {
        // Refused without CAP_SYS_RESOURCE. The limit may be high enough all the same; if it is
        // not, creating a map fails and says so.
        if let Err(error) = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY) {
            log::debug!("raising the memlock limit: {error}");
        }
    }

    let port_filter = u32::from(!config.ports.is_empty());
    let heartbeat_timeout: u64 = match method {
        Method::Tcx => 0,
        Method::Clsact => u64::try_from(HEARTBEAT_TIMEOUT.as_nanos()).unwrap_or(u64::MAX),
    };
    let wakeup_bytes = match wake {
        Wake::Each => 0,
        Wake::Batch => config.ring_buffer / WAKEUP_SHARE,
    };
    let crowded_bytes = config.ring_buffer / 2;
    let log_level = log_level(config.kernel_log);
    let walks = u32::from(config.copy == CopyMode::Headers);
    let each_frame = u32::from(wake == Wake::Each);
    let flows = config.max_connections.saturating_add(SPARE_FLOWS);
    // The first pair is none.
    let pairs = if walks == 0 {
        1
    } else {
        flows.saturating_add(1)
    };

    let mut loader = EbpfLoader::new();
    loader
        .verifier_log_level(detail)
        .override_global(globals::SNAP_LENGTH, &config.snap_length, true)
        .override_global(globals::PORT_FILTER, &port_filter, true)
        .override_global(globals::HEARTBEAT_TIMEOUT, &heartbeat_timeout, true)
        .override_global(globals::WAKEUP_BYTES, &wakeup_bytes, true)
        .override_global(globals::CROWDED_BYTES, &crowded_bytes, true)
        .override_global(globals::WALKS, &walks, true)
        .override_global(globals::EACH_FRAME, &each_frame, true)
        .override_global(globals::PREVIEW, &config.preview, true)
        .override_global(aya_log::LEVEL, &log_level, false)
        .map_max_entries(globals::RECORDS_MAP, config.ring_buffer)
        .map_max_entries(globals::FLOWS_MAP, flows)
        .map_max_entries(globals::TALLIES_MAP, pairs.saturating_mul(2))
        .map_max_entries(globals::FREE_TALLIES_MAP, pairs)
        .map_max_entries(globals::CANDIDATES_MAP, config.max_candidates);
    if log_level == 0 {
        loader.map_max_entries(LOG_MAP, SMALLEST_RING);
    }
    loader.load(OBJECT).map_err(load_error)
}

/// Has the verifier look at the programs for every framing, unless it has.
fn verify(ebpf: &mut Ebpf) -> Result<(), KernelError> {
    for name in globals::PROGRAMS.as_flattened() {
        verified(ebpf, name)?;
    }
    Ok(())
}

/// Has the verifier look at all programs, each in a thread, since that is most of what starting takes. One that
/// has got no thread is left to [`verify`] and [`load`].
///
/// Those for a framing that no interface has are among them: once there is one, it is too late, for what
/// loading takes has been given up.
fn verify_at_once(ebpf: &mut Ebpf) -> Result<(), KernelError> {
    let programs = globals::PROGRAMS.as_flattened().iter().copied();
    let needed: Vec<_> = [globals::BODY].into_iter().chain(programs).collect();
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for (name, program) in ebpf.programs_mut() {
            let Some(name) = needed.iter().copied().find(|needed| *needed == name) else {
                continue;
            };
            let verifying = thread::Builder::new()
                .name(name.to_owned())
                .spawn_scoped(scope, move || load_program(name, program).map(|_| ()));
            threads.extend(verifying);
        }
        for thread in threads {
            thread.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        }
        Ok(())
    })
}

pub(super) fn verified<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut SchedClassifier, KernelError> {
    let program = ebpf.program_mut(name).ok_or(KernelError::Mismatch(name))?;
    load_program(name, program)
}

pub(super) fn load_program<'a>(
    name: &'static str,
    program: &'a mut Program,
) -> Result<&'a mut SchedClassifier, KernelError> {
    let program: &mut SchedClassifier = program
        .try_into()
        .map_err(|_: ProgramError| KernelError::Mismatch(name))?;
    match program.load() {
        Ok(()) | Err(ProgramError::AlreadyLoaded) => Ok(program),
        Err(error) => Err(program_error(name, error)),
    }
}

/// Puts the program in its place that all others go on with: from now on they work. It stays there as long as the
/// map is open, which the object holds.
pub(super) fn arm(ebpf: &mut Ebpf) -> Result<(), KernelError> {
    let program = verified(ebpf, globals::BODY)?;
    let body = program.fd().and_then(|fd| Ok(fd.try_clone()?));
    let body = body.map_err(|error| program_error(globals::BODY, error))?;
    let name = globals::BODY_MAP;
    let map = ebpf.map_mut(name).ok_or(KernelError::Mismatch(name))?;
    let mut bodies = ProgramArray::try_from(map).map_err(in_map(name))?;
    bodies.set(0, &body, 0).map_err(in_map(name))
}

/// Takes the program out of its place: those that would go on with it let every packet pass.
pub(super) fn disarm(ebpf: &mut Ebpf) -> Result<(), KernelError> {
    let name = globals::BODY_MAP;
    let map = ebpf.map_mut(name).ok_or(KernelError::Mismatch(name))?;
    let mut bodies = ProgramArray::try_from(map).map_err(in_map(name))?;
    bodies.clear_index(&0).map_err(in_map(name))
}

/// Whether the kernel runs the programs compiled; `None` where it does not say.
pub(super) fn is_compiled(ebpf: &Ebpf) -> Option<bool> {
    let [name, ..] = globals::PROGRAMS[Framing::Ethernet as usize];
    let program: &SchedClassifier = ebpf.program(name)?.try_into().ok()?;
    let info = program.info().ok()?;
    Some(info.size_jitted() > 0)
}

fn set_ports(ebpf: &mut Ebpf, config: &CaptureConfig) -> Result<(), KernelError> {
    let name = globals::PORTS_MAP;
    let map = ebpf.map_mut(name).ok_or(KernelError::Mismatch(name))?;
    let mut ports = Array::<_, u64>::try_from(map).map_err(in_map(name))?;
    for (word, bits) in (0..).zip(port_bits(config)) {
        if bits != 0 {
            ports.set(word, bits, 0).map_err(in_map(name))?;
        }
    }
    Ok(())
}

/// Says that an operation on a map failed.
pub(super) fn in_map(name: &'static str) -> impl FnOnce(MapError) -> KernelError {
    move |cause| KernelError::Map { name, cause }
}

pub(super) fn take<T>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, KernelError>
where
    T: TryFrom<Map, Error = MapError>,
{
    let map = ebpf.take_map(name).ok_or(KernelError::Mismatch(name))?;
    T::try_from(map).map_err(in_map(name))
}

/// The bits of [`globals::PORTS_MAP`].
fn port_bits(config: &CaptureConfig) -> Vec<u64> {
    let mut words = vec![0; globals::PORT_WORDS as usize];
    for port in config.ports.iter().cloned().flatten() {
        words[usize::from(port / 64)] |= 1 << (port % 64);
    }
    words
}

/// `aya_log_common`'s numbers; 0 lets the verifier remove every message.
fn log_level(level: LevelFilter) -> u8 {
    match level {
        LevelFilter::Off => 0,
        LevelFilter::Error => 1,
        LevelFilter::Warn => 2,
        LevelFilter::Info => 3,
        LevelFilter::Debug => 4,
        LevelFilter::Trace => 5,
    }
}

pub(super) fn load_error(error: EbpfError) -> KernelError {
    match error {
        EbpfError::MapError(MapError::CreateError { name, io_error }) => {
            let memlock = requirements::kernel_version() < CGROUP_ACCOUNTING;
            match io_error.raw_os_error() {
                Some(libc::ENOSYS) => blame(&io_error),
                Some(libc::EPERM) if !memlock => blame(&io_error),
                _ => KernelError::CreateMap {
                    name,
                    cause: io_error,
                },
            }
        }
        error => KernelError::Load(Box::new(error)),
    }
}

pub(super) fn program_error(name: &'static str, error: ProgramError) -> KernelError {
    match error {
        ProgramError::LoadError {
            io_error,
            verifier_log,
        } => {
            if io_error.raw_os_error() == Some(libc::EPERM) {
                return blame(&io_error);
            }
            let log = verifier_log.to_string();
            log::debug!("the verifier on {name}:\n{log}");
            KernelError::Verifier {
                name,
                cause: io_error,
                reason: last_word(&log),
            }
        }
        error => KernelError::Program {
            name,
            cause: Box::new(error),
        },
    }
}

fn blame(error: &std::io::Error) -> KernelError {
    let privileges = Privileges::current().unwrap_or_default();
    KernelError::Refused(privileges.blame(error))
}

/// The line of a verifier's log that says why: the last one before the statistics.
fn last_word(log: &str) -> String {
    let statistics = ["processed ", "verification time ", "stack depth "];
    log.lines()
        .map(str::trim)
        .rfind(|line| !line.is_empty() && !statistics.iter().any(|s| line.starts_with(s)))
        .unwrap_or("the verifier gave no reason")
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{AttachMode, InterfaceSelection, NamespaceSelection};

    fn config() -> CaptureConfig {
        CaptureConfig {
            interfaces: InterfaceSelection::new(&[], &[]).unwrap(),
            namespaces: NamespaceSelection::default(),
            ports: vec![80..=80, 8000..=8001, 65535..=65535],
            ring_buffer: 1 << 20,
            attach: AttachMode::Auto,
            snap_length: 65536,
            copy: CopyMode::Headers,
            preview: 0,
            max_connections: 16,
            max_candidates: 16,
            kernel_log: LevelFilter::Off,
        }
    }

    #[test]
    fn ports_become_bits() {
        let words = port_bits(&config());
        assert_eq!(words[1], 1 << 16);
        assert_eq!(words[125], 0b11);
        assert_eq!(words[1023], 1 << 63);
        assert_eq!(words.iter().map(|word| word.count_ones()).sum::<u32>(), 4);
    }

    #[test]
    fn the_verifiers_reason_is_found() {
        let log = "0: R1=ctx()\ninvalid zero-sized read\nverification time 12 usec\nstack depth 0\n\
                   processed 3 insns (limit 1000000)\n\n";
        assert_eq!(last_word(log), "invalid zero-sized read");
        assert_eq!(last_word(""), "the verifier gave no reason");
    }
}
