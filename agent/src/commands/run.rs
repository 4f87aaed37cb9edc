//! `wstap run`: the kernel through the observer, to metrics that are served.

use std::{process::ExitCode, sync::Arc, thread};

use anyhow::{Context as _, anyhow};
use tokio::{net::TcpListener, sync::oneshot};

use super::{
    live::{self, Interrupts, Source, sampled},
    metrics_config,
};
use crate::{
    config::RunConfig,
    kubernetes::Kubernetes,
    server::{self, ConnectionsEndpoint, Readiness, ServerState},
    sink::{
        metrics::{AgentStatus, Metrics, Totals},
        unit::{Bytes, Counted},
    },
    source::kernel::{AttachStatus, KernelError, Wake, privileges, requirements},
};

/// Threads of the HTTP server. Scrapes are few.
const SERVER_THREADS: usize = 2;

/// Follows and serves until interrupted.
///
/// # Errors
///
/// The address cannot be listened on, nothing can be attached, or one of the threads failed.
pub fn execute(config: RunConfig) -> anyhow::Result<ExitCode> {
    // Before anything is begun: where this is refused, threads may be too.
    requirements::bpf_usable().map_err(KernelError::from)?;
    privileges::confine();
    must_have_threads()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(SERVER_THREADS)
        // What listens and attaches is this thread.
        .on_thread_start(|| privileges::renounce(&[]))
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(run(config))
}

/// Fails where there can be no threads, of which the runtime would panic.
fn must_have_threads() -> anyhow::Result<()> {
    let thread = thread::Builder::new().spawn(|| ()).map_err(|error| {
        anyhow!(
            "starting a thread: {error}; a limit on processes is too low, or the seccomp profile of an older \
             container runtime refuses clone3()"
        )
    })?;
    // It does nothing that could fail.
    let _ = thread.join();
    Ok(())
}

async fn run(config: RunConfig) -> anyhow::Result<ExitCode> {
    // Before attaching, so that no signal leaves anything behind.
    let mut interrupts = Interrupts::listen()?;
    // Before attaching too: an address that is taken costs nothing then.
    let listener = TcpListener::bind(config.listen).await.map_err(|error| {
        let listen = config.listen;
        anyhow!("listening on {listen}: {error}; choose another address with --listen")
    })?;
    let listen = listener.local_addr().context("listening")?;

    let kubernetes = Kubernetes::start(&config.kubernetes).await?;
    let pods = kubernetes.as_ref().map(Kubernetes::names);
    let metrics = Metrics::new(&metrics_config(&config.series, &config.observer));
    let metrics = Arc::new(match &pods {
        Some(pods) => metrics.with_names(pods.clone()),
        None => metrics,
    });
    let readiness = Readiness::default();
    if let Some(pods) = pods.clone() {
        readiness.set_detail(move || pods.describe());
    }
    let state = ServerState {
        metrics: Arc::clone(&metrics),
        readiness: readiness.clone(),
        connections: if config.connections_endpoint {
            ConnectionsEndpoint::On
        } else {
            ConnectionsEndpoint::Off
        },
    };
    let (stop_server, stopped) = oneshot::channel::<()>();
    let mut server = tokio::spawn(server::serve(listener, state, async {
        // A sender that is gone means the same as a message.
        let _ = stopped.await;
    }));

    // In this thread, whose capabilities it takes, and which gives them up then. That is some hundred
    // milliseconds; the server answers meanwhile, and a signal waits.
    let source = Source::open(&config.capture, Wake::Batch)?;
    log::info!(
        "wstap {}, metrics at http://{listen}/metrics, attached with {} to {}",
        env!("CARGO_PKG_VERSION"),
        source.attacher().method().as_str(),
        source.attacher().describe()
    );
    let attach = source.attacher().status();
    ready(&readiness, &attach);
    let addresses = attach.addresses.clone();
    metrics.set_local(move |address| {
        // A pod's address is in the pod's own network namespace.
        addresses.contains(address) || pods.as_ref().is_some_and(|pods| pods.is_here(address))
    });

    let (alive, status) = (readiness.clone(), Arc::clone(&metrics));
    let mut session = source.start(&config.observer, metrics, move |now| {
        status.update_agent(now);
        alive.reader_alive();
        ready(&alive, &attach);
    })?;
    let served = tokio::select! {
        () = interrupts.next() => Ok(()),
        () = session.ended() => Ok(()),
        served = &mut server => flatten(served),
    };
    readiness.stopping();
    // What was counted last is served while the kernel detaches.
    let stopped = live::stop(session, &mut interrupts).await;
    drop(stop_server);
    if served.is_ok() {
        flatten(server.await)?;
    }
    let (metrics, status) = stopped?;
    served?;
    log::info!(
        "detached from all interfaces: {}",
        totals(&metrics.totals(), &status)
    );
    Ok(ExitCode::SUCCESS)
}

/// Ready once every interface that was there at the start has been attached, or found not to be wanted. With
/// TCX each takes some 20 ms, and those that are attached are read meanwhile.
fn ready(readiness: &Readiness, attach: &AttachStatus) {
    match attach.starting() {
        0 => readiness.programs_attached(),
        left => {
            let (attached, left) = (attach.attached(), Counted(left, "interface"));
            readiness.programs_failed(format!("attached to {attached}, {left} to go"));
        }
    }
}

/// What the agent has seen, and what it has not.
fn totals(seen: &Totals, status: &AgentStatus) -> String {
    let Totals {
        handshakes,
        closed,
        frames,
        payload_bytes,
    } = *seen;
    format!(
        "{}, {closed} closed, {}, {} of payload; {}",
        Counted(handshakes, "handshake"),
        Counted(frames, "frame"),
        Bytes(payload_bytes),
        sampled(status)
    )
}

fn flatten(served: Result<std::io::Result<()>, tokio::task::JoinError>) -> anyhow::Result<()> {
    served
        .map_err(anyhow::Error::from)
        .and_then(|result| result.map_err(anyhow::Error::from))
        .context("serving HTTP")
}
