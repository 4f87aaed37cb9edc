//! A stand-in for a Kubernetes API server: lists in pages, watches with bookmarks, and every way in
//! which the real one fails.

use std::{
    collections::{BTreeMap, HashSet},
    io::{self, BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

/// What whoever asks has to show.
pub const TOKEN: &str = "not-a-secret";
/// The node whose pods are asked for.
pub const NODE: &str = "node-1";

/// Between two bookmarks; a real server takes a minute.
const BOOKMARKS: Duration = Duration::from_millis(200);

/// How a server says that a version is too old.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Expiry {
    /// As the status of the response.
    Status,
    /// As an event in a watch that has begun well.
    Event,
}

/// The server. It ends when this is dropped.
pub struct Cluster {
    shared: Arc<Shared>,
    /// Where it listens.
    pub address: SocketAddr,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    up: bool,
    over: bool,
    version: u64,
    /// Older versions are forgotten.
    oldest: u64,
    /// By resource, then by namespace and name.
    objects: BTreeMap<&'static str, BTreeMap<String, Value>>,
    log: Vec<(u64, &'static str, &'static str, Value)>,
    expiry: Expiry,
    delay: Duration,
    /// Resources that are refused with 403.
    forbidden: HashSet<&'static str>,
    /// Goes up to have every watch cut in the middle of its next line.
    cut: u64,
    requests: Vec<String>,
}

impl Cluster {
    /// Serves on a listener.
    pub fn serve(listener: TcpListener) -> Self {
        let address = listener.local_addr().expect("a bound address");
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                up: true,
                over: false,
                version: 100,
                oldest: 0,
                objects: BTreeMap::new(),
                log: Vec::new(),
                expiry: Expiry::Status,
                delay: Duration::ZERO,
                forbidden: HashSet::new(),
                cut: 0,
                requests: Vec::new(),
            }),
            changed: Condvar::new(),
        });
        listener.set_nonblocking(true).expect("a socket option");
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            while !accepting.state().over {
                let Ok((stream, _)) = listener.accept() else {
                    thread::sleep(Duration::from_millis(5));
                    continue;
                };
                let shared = Arc::clone(&accepting);
                // Whoever hangs up is not to be told why.
                thread::spawn(move || drop(shared.converse(&stream)));
            }
        });
        Self { shared, address }
    }

    /// A kubeconfig that leads here.
    pub fn kubeconfig(&self) -> String {
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{}", self.address)}}],
            "users": [{"name": "u", "user": {"token": TOKEN}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        })
        .to_string()
    }

    /// Makes or changes an object: `pods`, `services`, `replicasets` or `jobs`.
    pub fn put(&self, resource: &'static str, object: Value) {
        let mut state = self.shared.state();
        let mut object = object;
        state.version += 1;
        let version = state.version;
        object["metadata"]["resourceVersion"] = version.to_string().into();
        let objects = state.objects.entry(resource).or_default();
        let before = objects.insert(key(&object), object.clone());
        let what = if before.is_some() {
            "MODIFIED"
        } else {
            "ADDED"
        };
        state.log.push((version, resource, what, object));
        self.shared.changed.notify_all();
    }

    /// Deletes an object, named `namespace/name`.
    pub fn delete(&self, resource: &'static str, name: &str) {
        let mut state = self.shared.state();
        state.version += 1;
        let version = state.version;
        let gone = state
            .objects
            .get_mut(resource)
            .and_then(|all| all.remove(name));
        let mut gone = gone.unwrap_or_else(|| panic!("no {name} in {resource}"));
        gone["metadata"]["resourceVersion"] = version.to_string().into();
        state.log.push((version, resource, "DELETED", gone));
        self.shared.changed.notify_all();
    }

    /// Forgets all versions until now, with what happened in them that was not told yet.
    pub fn expire(&self, expiry: Expiry) {
        let mut state = self.shared.state();
        state.version += 1;
        state.oldest = state.version;
        state.expiry = expiry;
        state.log.clear();
        self.shared.changed.notify_all();
    }

    /// Hangs up on everybody, and on whoever comes.
    pub fn set_up(&self, up: bool) {
        self.shared.state().up = up;
        self.shared.changed.notify_all();
    }

    /// Takes its time before each answer.
    pub fn set_delay(&self, delay: Duration) {
        self.shared.state().delay = delay;
    }

    /// Refuses a resource from now on.
    pub fn forbid(&self, resource: &'static str) {
        self.shared.state().forbidden.insert(resource);
    }

    /// Tells those who watch of something that nobody has heard of.
    pub fn invent(&self) {
        let mut state = self.shared.state();
        state.version += 1;
        let version = state.version;
        let object = json!({"metadata": {"name": 7}, "spec": {"nodeName": NODE}});
        state.log.push((version, "pods", "INVENTED", object));
        self.shared.changed.notify_all();
    }

    /// Cuts every watch in the middle of its next line.
    pub fn cut_lines(&self) {
        self.shared.state().cut += 1;
    }

    /// Targets that were asked for so far.
    pub fn requests(&self) -> Vec<String> {
        self.shared.state().requests.clone()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.shared.state().over = true;
        self.set_up(false);
    }
}

fn key(object: &Value) -> String {
    let part = |name: &str| {
        object["metadata"][name]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    format!("{}/{}", part("namespace"), part("name"))
}

fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    })
}

/// The values of a query.
fn query(target: &str) -> BTreeMap<&str, String> {
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name, decoded(value))).collect()
}

/// A value without its percent signs.
fn decoded(value: &str) -> String {
    let mut parts = value.split('%');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (code, rest) = part.split_at_checked(2).expect("two digits");
        let byte = u8::from_str_radix(code, 16).expect("two digits");
        text.push(char::from(byte));
        text.push_str(rest);
    }
    text
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers request after request.
    fn converse(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut lines = BufReader::new(stream).lines();
        loop {
            let Some(first) = lines.next() else {
                return Ok(());
            };
            let first = first?;
            let mut authorized = false;
            for line in lines.by_ref() {
                let line = line?;
                if line.is_empty() {
                    break;
                }
                authorized |= line
                    .to_ascii_lowercase()
                    .starts_with(&format!("authorization: bearer {TOKEN}"));
            }
            let target = first.split(' ').nth(1).unwrap_or_default().to_owned();
            let delay = {
                let mut state = self.state();
                if !state.up {
                    return Ok(());
                }
                state.requests.push(target.clone());
                state.delay
            };
            thread::sleep(delay);
            if !authorized {
                answer(stream, 401, &status(401, "Unauthorized", "Unauthorized"))?;
            } else if query(&target)
                .get("watch")
                .is_some_and(|watch| watch == "true")
            {
                return self.watch(stream, &target);
            } else {
                let (code, body) = self.look_up(&target);
                answer(stream, code, &body)?;
            }
        }
    }

    /// A list, a page of it, or a single object.
    fn look_up(&self, target: &str) -> (u16, Value) {
        let path = target.split('?').next().unwrap_or_default();
        let words: Vec<&str> = path.split('/').skip(1).collect();
        let state = self.state();
        let (resource, namespace, name) = match words[..] {
            ["api", "v1", resource] => (resource, "", ""),
            ["apis", _, "v1", "namespaces", namespace, resource, name] => {
                (resource, namespace, name)
            }
            _ => return (404, status(404, "NotFound", path)),
        };
        if state.forbidden.contains(resource) {
            let message = format!("{resource} is forbidden: User \"u\" cannot do that");
            return (403, status(403, "Forbidden", &message));
        }
        let none = BTreeMap::new();
        let all = state.objects.get(resource).unwrap_or(&none);
        if !name.is_empty() {
            return match all.get(&format!("{namespace}/{name}")) {
                Some(object) => (200, object.clone()),
                None => (404, status(404, "NotFound", name)),
            };
        }
        let query = query(target);
        let (version, after) = match query
            .get("continue")
            .and_then(|token| token.split_once('@'))
        {
            Some((version, after)) => (version.parse().unwrap_or(0), after.to_owned()),
            None => (state.version, String::new()),
        };
        if version < state.oldest {
            return (
                410,
                status(410, "Expired", "The provided continue parameter is too old"),
            );
        }
        let limit = query
            .get("limit")
            .and_then(|limit| limit.parse().ok())
            .unwrap_or(usize::MAX);
        let mut wanted = all
            .range(after.clone()..)
            .filter(|(key, object)| **key > after && selected(&query, object));
        let items: Vec<&Value> = wanted
            .by_ref()
            .take(limit)
            .map(|(_, object)| object)
            .collect();
        let next = match (items.last(), wanted.next()) {
            (Some(last), Some(_)) => format!("{version}@{}", key(last)),
            _ => String::new(),
        };
        let list = json!({
            "kind": "List", "apiVersion": "v1",
            "metadata": {"resourceVersion": version.to_string(), "continue": next, "shardInfo": null},
            "items": items,
        });
        (200, list)
    }

    /// Events from a version on, in chunks that end anywhere.
    fn watch(&self, stream: &TcpStream, target: &str) -> io::Result<()> {
        let query = query(target);
        let resource = target
            .split(['/', '?'])
            .nth(3)
            .unwrap_or_default()
            .to_owned();
        let number = |name: &str| query.get(name).and_then(|value| value.parse::<u64>().ok());
        let mut version = number("resourceVersion").unwrap_or(0);
        let until = Instant::now() + Duration::from_secs(number("timeoutSeconds").unwrap_or(300));
        let (forbidden, cut) = {
            let state = self.state();
            (state.forbidden.contains(&*resource), state.cut)
        };
        if forbidden {
            return answer(
                stream,
                403,
                &status(403, "Forbidden", "watching is forbidden"),
            );
        }
        let too_old = status(410, "Expired", "too old resource version");
        let mut begun = false;
        let mut bookmark = Instant::now() + BOOKMARKS;
        loop {
            let mut state = self.state();
            if version < state.oldest && state.expiry == Expiry::Status && !begun {
                drop(state);
                return answer(stream, 410, &too_old);
            }
            if !begun {
                begun = true;
                write(
                    stream,
                    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
                )?;
            }
            if !state.up {
                return Ok(());
            }
            if version < state.oldest {
                drop(state);
                return event(stream, "ERROR", &too_old).and_then(|()| write(stream, "0\r\n\r\n"));
            }
            let news: Vec<_> = state
                .log
                .iter()
                .filter(|(at, of, _, object)| {
                    *at > version && *of == resource && selected(&query, object)
                })
                .cloned()
                .collect();
            if !news.is_empty() {
                let cuts = state.cut > cut;
                drop(state);
                for (at, _, what, object) in news {
                    if cuts {
                        let line = json!({"type": what, "object": object}).to_string();
                        return chunk(stream, &line[..line.len() / 2]);
                    }
                    event(stream, what, &object)?;
                    version = at;
                }
                continue;
            }
            let now = Instant::now();
            if now >= until {
                return write(stream, "0\r\n\r\n");
            }
            if now >= bookmark && query.contains_key("allowWatchBookmarks") {
                bookmark = now + BOOKMARKS;
                version = state.version;
                drop(state);
                let object = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {
                    "resourceVersion": version.to_string(), "creationTimestamp": null}});
                event(stream, "BOOKMARK", &object)?;
                continue;
            }
            let timeout = BOOKMARKS.min(until.saturating_duration_since(now));
            state = self
                .changed
                .wait_timeout(state, timeout)
                .map_or_else(|e| e.into_inner().0, |(state, _)| state);
            drop(state);
        }
    }
}

fn selected(query: &BTreeMap<&str, String>, object: &Value) -> bool {
    query.get("fieldSelector").is_none_or(|selector| {
        let (field, value) = selector.split_once('=').expect("one selector");
        assert_eq!(field, "spec.nodeName", "the only field that is asked for");
        object["spec"]["nodeName"] == *value
    })
}

fn answer(stream: &TcpStream, code: u16, body: &Value) -> io::Result<()> {
    let body = body.to_string();
    let head = format!(
        "HTTP/1.1 {code} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    write(stream, &(head + &body))
}

/// An event, in two chunks.
fn event(stream: &TcpStream, what: &str, object: &Value) -> io::Result<()> {
    let line = json!({"type": what, "object": object}).to_string() + "\n";
    let (first, rest) = line.split_at(line.len() / 2);
    chunk(stream, first)?;
    chunk(stream, rest)
}

fn chunk(stream: &TcpStream, text: &str) -> io::Result<()> {
    write(stream, &format!("{:x}\r\n{text}\r\n", text.len()))
}

fn write(mut stream: &TcpStream, text: &str) -> io::Result<()> {
    stream.write_all(text.as_bytes())
}

/// A pod as a server shows it, with much that nobody asked for. `owner` is a kind and a name.
pub fn pod(name: &str, addresses: &[&str], owner: Option<(&str, &str)>) -> Value {
    let hash = owner
        .and_then(|(_, name)| name.rsplit_once('-'))
        .map_or("", |(_, hash)| hash);
    let owners: Vec<Value> = owner
        .into_iter()
        .map(|(kind, name)| owned_by(kind, name))
        .collect();
    let listed: Vec<Value> = addresses
        .iter()
        .map(|address| json!({"ip": address}))
        .collect();
    json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {
            "name": name, "namespace": "shop", "uid": format!("uid-of-{name}-at-{}", addresses.concat()),
            "creationTimestamp": "2026-01-01T00:00:00Z", "generation": 1,
            "labels": {"app": "x", "pod-template-hash": hash},
            "annotations": {"kubectl.kubernetes.io/last-applied": "{\"much\":\"text\"}"},
            "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {"f:podIPs": {".": {}}}}}],
            "ownerReferences": owners,
        },
        "spec": {
            "nodeName": NODE, "hostNetwork": false,
            "containers": [{"name": "main", "image": "registry.example/main:1", "env": [{"name": "A", "value": "b"}]}],
            "tolerations": [{"key": "x", "operator": "Exists"}],
        },
        "status": {
            "phase": "Running", "podIP": addresses.first(), "podIPs": listed, "hostIP": "192.0.2.1",
            "startTime": "2026-01-01T00:00:01Z", "inventedLater": {"deep": [1, 2, 3]},
        },
    })
}

/// A ReplicaSet, a Job or the like, which belongs to another.
pub fn owned(name: &str, owner: Option<(&str, &str)>) -> Value {
    let owners: Vec<Value> = owner
        .into_iter()
        .map(|(kind, name)| owned_by(kind, name))
        .collect();
    json!({"metadata": {"name": name, "namespace": "shop", "uid": name, "ownerReferences": owners}})
}

/// A Service with cluster addresses.
pub fn service(name: &str, addresses: &[&str]) -> Value {
    json!({
        "kind": "Service", "apiVersion": "v1",
        "metadata": {"name": name, "namespace": "shop", "uid": name},
        "spec": {"clusterIP": addresses.first(), "clusterIPs": addresses, "ports": [{"port": 80}]},
    })
}

fn owned_by(kind: &str, name: &str) -> Value {
    let group = match kind {
        "ReplicaSet" | "Deployment" | "StatefulSet" | "DaemonSet" => "apps/v1",
        "Job" | "CronJob" => "batch/v1",
        _ => "v1",
    };
    json!({"apiVersion": group, "kind": kind, "name": name, "uid": name, "controller": true, "blockOwnerDeletion": true})
}
