//! Inside a cluster: a service account, and TLS.

use std::process::Command;

use super::*;
use crate::support::{cluster::TOKEN, netns};

/// TLS in front of the API server, and in a folder what a pod's service account has.
fn service_account(node: &Node, front: SocketAddr, folder: &Path) -> Process {
    let path = |name: &str| folder.join(name).to_str().expect("a plain path").to_owned();
    let certificate = |name: &str, extra: &[&str]| {
        let (key, out) = (path(&format!("{name}.key")), path(&format!("{name}.crt")));
        let subject = format!("/CN={name}");
        let words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2";
        let mut openssl = Command::new("openssl");
        openssl
            .args(words.split(' '))
            .args(["-subj", &subject, "-keyout", &key, "-out", &out]);
        netns::run(openssl.args(extra));
    };
    certificate("ca", &[]);
    let (ca, key) = (path("ca.crt"), path("ca.key"));
    let name = format!("subjectAltName=IP:{}", front.ip());
    let leaf = [
        "-CA",
        &ca,
        "-CAkey",
        &key,
        "-addext",
        &name,
        "-addext",
        "basicConstraints=critical,CA:FALSE",
    ];
    certificate("server", &leaf);
    let read = |name: &str| fs::read_to_string(folder.join(name)).expect("a file");
    fs::write(folder.join("pem"), read("server.crt") + &read("server.key")).expect("a file");
    fs::write(folder.join("token"), TOKEN).expect("a file");
    fs::write(folder.join("namespace"), "wstap").expect("a file");
    let config = format!(
        "global\nnbthread 1\ndefaults\nmode tcp\ntimeout connect 5s\ntimeout client 60s\ntimeout server 60s\n\
         listen api\nbind {front} ssl crt {}\nserver it {}\n",
        path("pem"),
        node.cluster.address
    );
    fs::write(folder.join("config"), config).expect("a file");
    let mut haproxy = node.host.command("haproxy");
    haproxy.args(["-db", "-f", &path("config")]);
    Process::spawn(haproxy)
}

#[test]
fn in_a_cluster_a_service_account_is_all_it_takes() {
    let Some(_turn) = turn() else { return };
    let node = Node::new();
    node.deploy();
    let folder = tempfile::tempdir().expect("a folder");
    let free = || {
        SocketAddr::from((
            Ipv4Addr::LOCALHOST,
            node.host.free_port(Ipv4Addr::LOCALHOST.into()),
        ))
    };
    let (front, listen) = (free(), free());
    let _tls = service_account(&node, front, folder.path());
    // The files are where a pod has them, and no others' certificates, as in the image; the namespace of
    // mounts is the command's own.
    let account = "/run/secrets/kubernetes.io/serviceaccount";
    let from = folder.path().to_str().expect("a plain path");
    let script = format!(
        "mount -t tmpfs none /run && mount -t tmpfs none /etc/ssl && mkdir -p {account} && cp {from}/ca.crt {from}/token {from}/namespace {account} && \
         exec {WSTAP} run --listen {listen}"
    );
    let mut command = node.host.command("sh");
    command.args(["-ec", &script]).envs([
        ("KUBERNETES_SERVICE_HOST", front.ip().to_string()),
        ("KUBERNETES_SERVICE_PORT", front.port().to_string()),
        ("WSTAP_NODE_NAME", NODE.to_owned()),
    ]);
    let mut agent = Process::spawn(command);
    eventually("it knows the pods by itself", PATIENCE, || {
        agent.must_live();
        let answer = node
            .host
            .http_get(listen, "/readyz")
            .map_err(|error| error.to_string());
        let body = answer?.1;
        let knows = body == "ready\nkubernetes: 2 pods on node node-1\n";
        knows.then_some(()).ok_or_else(|| body + &agent.stderr())
    });
}
