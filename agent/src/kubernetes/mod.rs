//! Names from Kubernetes: the pods of this node, and Services if they are asked for.
//!
//! Owns the conversation with the API server and the table of who has which address. It knows no
//! events and no metrics: sinks ask it through [`PeerNames`]. Whatever becomes of the server, names
//! stay as last known, and nobody waits for it.

mod backoff;
mod contact;
mod object;
mod owner;
mod table;
mod watch;

use std::{
    env,
    fmt::Display,
    net::IpAddr,
    path::Path,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use kube::{Client, Config, config::KubeConfigOptions};
use tokio::task::JoinSet;

use self::{
    contact::Contact,
    object::{Pod, Service},
    owner::Owners,
    table::Table,
    watch::{Resource, Store, Watch},
};
use crate::{
    config::{KubernetesConfig, KubernetesMode},
    proto::time::Timestamp,
    sink::peer::{Peer, PeerCounts, PeerKind, PeerNames},
};

/// Where a pod that has a service account finds its token.
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
/// The variable that every pod has.
const SERVICE_HOST: &str = "KUBERNETES_SERVICE_HOST";
/// The variable that names a configuration.
const KUBECONFIG: &str = "KUBECONFIG";

/// Why there are no names.
#[derive(Debug, thiserror::Error)]
pub enum KubernetesError {
    /// There is no configuration.
    #[error(
        "looking for a Kubernetes API server: no service account ({service_account}) and no \
         kubeconfig ({kubeconfig}); mount the one, name the other in KUBECONFIG, or use --kubernetes off"
    )]
    NotConfigured {
        /// What is wrong with the one.
        service_account: String,
        /// What is wrong with the other.
        kubeconfig: String,
    },
    /// There is one, and it cannot be used.
    #[error(
        "reading the Kubernetes configuration ({from}): {reason}; mend it, or use --kubernetes off"
    )]
    Configuration {
        /// Where it is.
        from: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// The conversation with the API server. It ends when this is dropped.
#[derive(Debug)]
pub struct Kubernetes {
    names: Arc<Names>,
    /// They end with it.
    _tasks: JoinSet<()>,
}

impl Kubernetes {
    /// Begins to ask, and waits for no answer. `None` where Kubernetes is not wanted, or with `auto`
    /// not there. Needs a runtime.
    ///
    /// # Errors
    ///
    /// There is no configuration, or one that is no good.
    pub async fn start(config: &KubernetesConfig) -> Result<Option<Self>, KubernetesError> {
        let Some(server) = configuration(config.mode).await? else {
            return Ok(None);
        };
        let node = config.node_name.clone().unwrap_or_else(host_name);
        log::info!(
            "Kubernetes: names of pods on node {node} from {}",
            server.cluster_url
        );
        let client = client(server)?;
        let names = Arc::new(Names {
            pods: RwLock::new(Table::new(config.max_pods)),
            services: config
                .services
                .then(|| RwLock::new(Table::new(config.max_pods))),
            generation: AtomicU64::new(0),
            owners: Owners::new(client.clone(), config.max_pods),
            pod_contact: Contact::new(Pod::NAME),
            service_contact: Contact::new(Service::NAME),
            node: node.clone(),
        });
        let mut tasks = JoinSet::new();
        let pods = Watch {
            client: client.clone(),
            fields: format!("spec.nodeName={node}"),
            store: Pods(Arc::clone(&names)),
            contact: names.pod_contact.clone(),
        };
        tasks.spawn(pods.run());
        if config.services {
            let services = Watch {
                client,
                fields: String::new(),
                store: Services(Arc::clone(&names)),
                contact: names.service_contact.clone(),
            };
            tasks.spawn(services.run());
        }
        Ok(Some(Self {
            names,
            _tasks: tasks,
        }))
    }

    /// The names, for whoever asks.
    #[must_use]
    pub fn names(&self) -> Arc<Names> {
        Arc::clone(&self.names)
    }
}

/// Names of pods and Services by their addresses.
#[derive(Debug)]
pub struct Names {
    pods: RwLock<Table>,
    services: Option<RwLock<Table>>,
    generation: AtomicU64,
    owners: Owners,
    pod_contact: Contact,
    service_contact: Contact,
    node: String,
}

impl Names {
    /// Whether a pod of this node has `address`.
    #[must_use]
    pub fn is_here(&self, address: IpAddr) -> bool {
        find(&self.pods, address.to_canonical()).is_some()
    }

    /// How it stands with Kubernetes, for people: a line.
    #[must_use]
    pub fn describe(&self) -> String {
        let services = self
            .services
            .as_ref()
            .and_then(|_| self.service_contact.complaint());
        let complaints: Vec<String> = self
            .pod_contact
            .complaint()
            .into_iter()
            .chain(services)
            .collect();
        if !complaints.is_empty() {
            return format!("kubernetes: {}", complaints.join("; "));
        }
        let (pods, node) = (read(&self.pods, Table::len), &self.node);
        if pods == 0 {
            return format!(
                "kubernetes: no pods on node {node}; --node-name says which node this is"
            );
        }
        format!("kubernetes: {pods} pods on node {node}")
    }

    /// Takes an object's addresses and name.
    fn put(&self, table: &RwLock<Table>, uid: &str, addresses: Vec<IpAddr>, peer: Peer) {
        let mut table = table.write().unwrap_or_else(PoisonError::into_inner);
        if table.insert(uid, addresses, peer, Instant::now()) {
            drop(table);
            self.generation.fetch_add(1, Ordering::Release);
        }
    }
}

impl PeerNames for Names {
    fn find(&self, address: IpAddr) -> Option<Arc<Peer>> {
        let address = address.to_canonical();
        find(&self.pods, address).or_else(|| {
            self.services
                .as_ref()
                .and_then(|table| find(table, address))
        })
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    fn counts(&self) -> PeerCounts {
        let services =
            |ask: fn(&Table) -> u64| self.services.as_ref().map_or(0, |table| read(table, ask));
        PeerCounts {
            pods: read(&self.pods, |pods| pods.len() as u64),
            pod_errors: self.pod_contact.errors(),
            service_errors: self.service_contact.errors(),
            owners_guessed: self.owners.guessed(),
            pods_exceeded: read(&self.pods, Table::exceeded),
            services_exceeded: services(Table::exceeded),
            owners_exceeded: self.owners.exceeded(),
        }
    }
}

fn find(table: &RwLock<Table>, address: IpAddr) -> Option<Arc<Peer>> {
    read(table, |table| table.find(address, Instant::now()).cloned())
}

fn read<T>(table: &RwLock<Table>, ask: impl FnOnce(&Table) -> T) -> T {
    ask(&table.read().unwrap_or_else(PoisonError::into_inner))
}

fn change(table: &RwLock<Table>, change: impl FnOnce(&mut Table)) {
    change(&mut table.write().unwrap_or_else(PoisonError::into_inner));
}

/// Takes pods.
struct Pods(Arc<Names>);

impl Store for Pods {
    type Object = Pod;

    fn begin(&self) {
        change(&self.0.pods, Table::begin);
    }

    async fn put(&self, pod: &Pod) {
        let (meta, addresses) = (&pod.metadata, pod.addresses());
        // Without an address there is nothing to name, and nothing to ask for.
        let workload = if addresses.is_empty() {
            "".into()
        } else {
            self.0.owners.workload(meta).await
        };
        let peer = Peer::new(
            PeerKind::Pod,
            &meta.namespace,
            &meta.name,
            &workload,
            pod.since(),
        );
        self.0.put(&self.0.pods, &meta.uid, addresses, peer);
    }

    fn remove(&self, pod: &Pod) {
        change(&self.0.pods, |table| {
            table.remove(&pod.metadata.uid, Instant::now());
        });
    }

    fn end(&self) {
        change(&self.0.pods, |table| table.end(Instant::now()));
    }
}

/// Takes Services.
struct Services(Arc<Names>);

impl Services {
    fn table(&self) -> Option<&RwLock<Table>> {
        self.0.services.as_ref()
    }
}

impl Store for Services {
    type Object = Service;

    fn begin(&self) {
        if let Some(table) = self.table() {
            change(table, Table::begin);
        }
    }

    async fn put(&self, service: &Service) {
        let meta = &service.metadata;
        // An address is a Service's at any time: those that were made late have not inherited a connection.
        let peer = Peer::new(
            PeerKind::Service,
            &meta.namespace,
            &meta.name,
            &meta.name,
            Timestamp::default(),
        );
        if let Some(table) = self.table() {
            self.0.put(table, &meta.uid, service.addresses(), peer);
        }
    }

    fn remove(&self, service: &Service) {
        if let Some(table) = self.table() {
            change(table, |table| {
                table.remove(&service.metadata.uid, Instant::now());
            });
        }
    }

    fn end(&self) {
        if let Some(table) = self.table() {
            change(table, |table| table.end(Instant::now()));
        }
    }
}

/// Where the server is, and how to talk to it.
async fn configuration(mode: KubernetesMode) -> Result<Option<Config>, KubernetesError> {
    match mode {
        KubernetesMode::Off => Ok(None),
        KubernetesMode::Auto => {
            if env::var_os(SERVICE_HOST).is_none() || !Path::new(TOKEN).exists() {
                return Ok(None);
            }
            match Config::incluster_env() {
                Ok(config) => Ok(Some(config)),
                Err(error) => {
                    log::warn!(
                        "the service account is of no use ({error}): there are no names of pods"
                    );
                    Ok(None)
                }
            }
        }
        KubernetesMode::On => match env::var_os(KUBECONFIG).filter(|path| !path.is_empty()) {
            Some(path) => kubeconfig().await.map(Some).map_err(|reason| {
                let from = format!("{KUBECONFIG}={}", path.display());
                KubernetesError::Configuration { from, reason }
            }),
            None => match Config::incluster_env() {
                Ok(config) => Ok(Some(config)),
                Err(error) => kubeconfig().await.map(Some).map_err(|kubeconfig| {
                    let service_account = first_line(&error);
                    KubernetesError::NotConfigured {
                        service_account,
                        kubeconfig,
                    }
                }),
            },
        },
    }
}

/// What `KUBECONFIG` names, or lies in the home folder; or what is wrong with it.
async fn kubeconfig() -> Result<Config, String> {
    let config = Config::from_kubeconfig(&KubeConfigOptions::default()).await;
    config.map_err(|error| first_line(&error))
}

fn client(mut config: Config) -> Result<Client, KubernetesError> {
    let from = config.cluster_url.to_string();
    // Whatever fails is to be seen here, where it is counted and told.
    config.default_retry = false;
    Client::try_from(config).map_err(|error| {
        let reason = first_line(&error);
        KubernetesError::Configuration { from, reason }
    })
}

/// Parsers add a picture.
fn first_line(error: &impl Display) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().to_owned()
}

/// What the kubelet calls the node, unless it was told otherwise.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_ascii_lowercase()
}
