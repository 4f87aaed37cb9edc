//! What a pod belongs to, one level up: the Deployment of its ReplicaSet, the CronJob of its Job.
//!
//! The API is asked for the ReplicaSet or the Job, for their metadata alone, and once each. Where it
//! does not say, names do: a Deployment's ReplicaSet is named after it and the hash of its template,
//! a CronJob's Job after it and the minute.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use kube::{
    Client,
    api::{GetParams, Request},
};
use tokio::time::timeout;

use super::object::{Bare, Meta, Owner, is_name};

/// How long an answer may take. The pod has no name until then.
const PATIENCE: Duration = Duration::from_secs(2);
/// For so long nobody is asked again after a refusal.
const REFUSED: Duration = Duration::from_secs(300);
/// For so long nobody is asked again after no answer.
const SILENT: Duration = Duration::from_secs(10);
/// Digits of the minutes since 1970, as they have been since 1989 and will be until 2160.
const MINUTE_DIGITS: usize = 8;

/// Resolves owners, and remembers as many answers as it was told.
pub(super) struct Owners {
    client: Client,
    state: Mutex<State>,
}

impl fmt::Debug for Owners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Owners")
    }
}

struct State {
    known: Known,
    /// By kind of owner: until when nobody is asked.
    paused: HashMap<Kind, Instant>,
    guessed: u64,
}

/// Owners that have owners.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Kind {
    ReplicaSet,
    Job,
}

impl Kind {
    fn of(owner: &Owner) -> Option<Self> {
        let group = owner.api_version.split('/').next();
        match (group, &*owner.kind) {
            (Some("apps"), "ReplicaSet") => Some(Self::ReplicaSet),
            (Some("batch"), "Job") => Some(Self::Job),
            _ => None,
        }
    }

    fn path(self, namespace: &str) -> String {
        match self {
            Self::ReplicaSet => format!("/apis/apps/v1/namespaces/{namespace}/replicasets"),
            Self::Job => format!("/apis/batch/v1/namespaces/{namespace}/jobs"),
        }
    }

    /// What the names say.
    fn guess(self, name: &str, pod: &Meta) -> String {
        let owner = match self {
            Self::ReplicaSet => {
                let end = pod.template_hash().map(|hash| format!("-{hash}"));
                end.and_then(|end| name.strip_suffix(&end))
            }
            Self::Job => name.rsplit_once('-').and_then(|(owner, minute)| {
                let is_minute =
                    minute.len() == MINUTE_DIGITS && minute.bytes().all(|b| b.is_ascii_digit());
                is_minute.then_some(owner)
            }),
        };
        (owner.filter(|owner| !owner.is_empty()).unwrap_or(name)).to_owned()
    }
}

impl Owners {
    pub(super) fn new(client: Client, limit: usize) -> Self {
        Self {
            client,
            state: Mutex::new(State {
                known: Known::new(limit),
                paused: HashMap::new(),
                guessed: 0,
            }),
        }
    }

    /// The name of what a pod belongs to. Empty where it belongs to nothing, or to the node, as a static pod
    /// does: names that are one pod's alone would be label values without end.
    pub(super) async fn workload(&self, pod: &Meta) -> Arc<str> {
        let Some(owner) = pod.controller().filter(|owner| is_name(&owner.name)) else {
            return "".into();
        };
        let Some(kind) = Kind::of(owner) else {
            return match &*owner.kind {
                "Node" => "".into(),
                _ => owner.name.as_str().into(),
            };
        };
        let key = (kind, pod.namespace.clone(), owner.name.clone());
        let may_ask = {
            let state = self.state();
            if let Some(known) = state.known.find(&key) {
                return known;
            }
            (state.paused.get(&kind)).is_none_or(|until| Instant::now() >= *until)
        };
        let answer = if may_ask {
            self.ask(kind, &pod.namespace, &owner.name).await
        } else {
            Answer::Paused
        };
        let mut state = self.state();
        let workload: Arc<str> = match answer {
            Answer::Owner(name) => name.into(),
            Answer::Gone => kind.guess(&owner.name, pod).into(),
            // Not remembered: the next change of the pod asks again.
            Answer::Paused => {
                state.guessed += 1;
                return kind.guess(&owner.name, pod).into();
            }
            Answer::No(pause) => {
                state.guessed += 1;
                state.paused.insert(kind, Instant::now() + pause);
                return kind.guess(&owner.name, pod).into();
            }
        };
        state.known.insert(key, Arc::clone(&workload));
        workload
    }

    /// How often nobody could be asked, or nobody answered.
    pub(super) fn guessed(&self) -> u64 {
        self.state().guessed
    }

    /// How many answers were forgotten to make room.
    pub(super) fn exceeded(&self) -> u64 {
        self.state().known.exceeded
    }

    async fn ask(&self, kind: Kind, namespace: &str, name: &str) -> Answer {
        let request = Request::new(kind.path(namespace));
        let Ok(request) = request.get_metadata(name, &GetParams::default()) else {
            return Answer::No(SILENT);
        };
        match timeout(PATIENCE, self.client.request::<Bare>(request)).await {
            Ok(Ok(object)) => {
                let owner = (object.metadata.controller()).filter(|owner| is_name(&owner.name));
                Answer::Owner(owner.map_or(name, |owner| &owner.name).to_owned())
            }
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => Answer::Gone,
            Ok(Err(error)) => {
                let refused =
                    matches!(&error, kube::Error::Api(status) if matches!(status.code, 401 | 403));
                log::debug!("asking for {kind:?} {namespace}/{name}: {error}");
                Answer::No(if refused { REFUSED } else { SILENT })
            }
            Err(_) => {
                log::debug!("asking for {kind:?} {namespace}/{name}: no answer for {PATIENCE:?}");
                Answer::No(SILENT)
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the API says.
enum Answer {
    /// Who the owner belongs to, or itself.
    Owner(String),
    /// There is no such object any more.
    Gone,
    /// None; and for how long nobody should ask.
    No(Duration),
    /// It was not asked.
    Paused,
}

type Key = (Kind, String, String);

/// Answers, the oldest of which makes room for a new one.
struct Known {
    limit: usize,
    answers: HashMap<Key, Arc<str>>,
    order: VecDeque<Key>,
    exceeded: u64,
}

impl Known {
    fn new(limit: usize) -> Self {
        Self {
            limit,
            answers: HashMap::new(),
            order: VecDeque::new(),
            exceeded: 0,
        }
    }

    fn find(&self, key: &Key) -> Option<Arc<str>> {
        self.answers.get(key).cloned()
    }

    fn insert(&mut self, key: Key, answer: Arc<str>) {
        if self.answers.insert(key.clone(), answer).is_some() {
            return;
        }
        self.order.push_back(key);
        if self.order.len() > self.limit
            && let Some(oldest) = self.order.pop_front()
        {
            self.answers.remove(&oldest);
            self.exceeded += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(hash: &str) -> Meta {
        let json = format!(r#"{{"labels":{{"pod-template-hash":"{hash}"}}}}"#);
        serde_json::from_str(&json).unwrap()
    }

    #[test]
    fn names_tell_where_the_api_does_not() {
        for (kind, name, hash, expected) in [
            (Kind::ReplicaSet, "chat-5d4f", "5d4f", "chat"),
            (Kind::ReplicaSet, "chat-5d4f", "77aa", "chat-5d4f"),
            (Kind::ReplicaSet, "chat-5d4f", "", "chat-5d4f"),
            (Kind::ReplicaSet, "-5d4f", "5d4f", "-5d4f"),
            (Kind::Job, "report-29384710", "", "report"),
            (Kind::Job, "report-2938471", "", "report-2938471"),
            (Kind::Job, "migrate-x9384710", "", "migrate-x9384710"),
            (Kind::Job, "migrate", "", "migrate"),
        ] {
            assert_eq!(kind.guess(name, &meta(hash)), expected, "{name}");
        }
    }

    #[test]
    fn only_so_many_answers_are_remembered() {
        let mut known = Known::new(2);
        let key = |n: u8| (Kind::Job, "n".to_owned(), n.to_string());
        for n in [1, 2, 2, 3] {
            known.insert(key(n), "x".into());
        }
        assert_eq!((known.answers.len(), known.exceeded), (2, 1));
        assert!(known.find(&key(1)).is_none() && known.find(&key(3)).is_some());
    }
}
