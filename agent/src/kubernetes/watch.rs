//! Listing and watching, for as long as the agent runs.
//!
//! A list comes in pages, and says from which version on to watch. The watch goes on from the last
//! version that was heard of, however often it ends, until the server no longer knows that version
//! (410): then comes a new list. What fails is counted and tried again, ever more seldom.

use std::{
    future::Future,
    pin::pin,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use kube::{
    Client,
    api::{ListParams, Request, WatchEvent, WatchParams},
};
use serde::de::DeserializeOwned;
use tokio::time::{sleep, timeout};

use super::{
    backoff::{Backoff, any_below},
    contact::Contact,
    object::{Meta, Page, Pod, Service},
};

/// Objects on a page: a pod may have tens of kilobytes, and a page is in memory whole.
const PAGE: u32 = 100;
/// How long a page may take.
const PAGE_PATIENCE: Duration = Duration::from_secs(60);
/// For how long the server is asked to keep a watch open, in seconds, and by how much that varies: the
/// agents of a cluster are started at the same time.
const WATCH_SECONDS: u32 = 240;
const WATCH_VARIES: u32 = 60;
/// How long it may be silent: the end is to come by itself before, and a connection that has died without a
/// word is noticed.
const WATCH_PATIENCE: Duration = Duration::from_secs(330);
/// Watches that may fail one after the other without having come on. What comes next may be what is
/// not understood, and a list goes past that.
const FAILURES: u32 = 3;
/// A watch that lasted so long shows that the server is well.
const GOOD_WATCH: Duration = Duration::from_secs(5);
/// Objects that are taken at the same time: each may wait for an answer on its owner.
const AT_ONCE: usize = 8;
/// The server no longer has the version (or, in a list, the page) that it was asked for.
const GONE: u16 = 410;

/// A kind of object.
pub(super) trait Resource: Clone + DeserializeOwned + Send + Sync + 'static {
    /// Its name in the API, and in metrics.
    const NAME: &str;
    /// Where all of them are.
    const PATH: &str;

    fn meta(&self) -> &Meta;
}

impl Resource for Pod {
    const NAME: &str = "pods";
    const PATH: &str = "/api/v1/pods";

    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

impl Resource for Service {
    const NAME: &str = "services";
    const PATH: &str = "/api/v1/services";

    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

/// Where objects go.
pub(super) trait Store: Send + Sync + 'static {
    type Object: Resource;

    /// A new list begins.
    fn begin(&self);
    /// Takes an object as it is now.
    fn put(&self, object: &Self::Object) -> impl Future<Output = ()> + Send;
    /// An object is no more.
    fn remove(&self, object: &Self::Object);
    /// The list is over.
    fn end(&self);
}

/// Why a list or a watch is no more.
#[derive(Debug, thiserror::Error)]
pub(super) enum WatchError {
    /// What was asked for is too old.
    #[error("the server no longer has that version")]
    Expired,
    /// It takes too long.
    #[error("no answer for {} s", .0.as_secs())]
    Silent(Duration),
    /// The server says so, or cannot be talked to.
    #[error("{}", describe(.0))]
    Client(#[from] kube::Error),
}

/// Follows one kind of object.
pub(super) struct Watch<S> {
    pub(super) client: Client,
    /// Of which objects, in the API's words; empty for all.
    pub(super) fields: String,
    pub(super) store: S,
    pub(super) contact: Contact,
}

impl<S: Store> Watch<S> {
    /// Works until it is dropped.
    pub(super) async fn run(self) {
        let mut backoff = Backoff::default();
        loop {
            let version = match self.list().await {
                Ok(version) => version,
                Err(error) => {
                    self.contact.failed(&error);
                    sleep(backoff.next()).await;
                    continue;
                }
            };
            self.contact.made();
            self.watch_from(version, &mut backoff).await;
        }
    }

    /// Watches, again and again, until a new list is needed.
    async fn watch_from(&self, mut version: String, backoff: &mut Backoff) {
        let mut failures = 0;
        loop {
            let (begun, before) = (Instant::now(), version.clone());
            let ended = self.watch(&mut version).await;
            let lasted = begun.elapsed();
            if lasted >= GOOD_WATCH {
                backoff.reset();
            }
            if version != before {
                failures = 0;
            }
            match ended {
                // The time that was asked for is over.
                Ok(()) if lasted >= GOOD_WATCH => continue,
                Ok(()) => {}
                Err(WatchError::Expired) => {
                    log::debug!("watching {}: {}", S::Object::NAME, WatchError::Expired);
                    sleep(backoff.next()).await;
                    return;
                }
                Err(error) => {
                    self.contact.failed(&error);
                    failures += 1;
                }
            }
            sleep(backoff.next()).await;
            if failures >= FAILURES {
                return;
            }
        }
    }

    /// Takes all objects there are: the version that they make up.
    async fn list(&self) -> Result<String, WatchError> {
        self.store.begin();
        let mut params = ListParams {
            field_selector: Some(self.fields.clone()).filter(|fields| !fields.is_empty()),
            limit: Some(PAGE),
            ..ListParams::default()
        };
        loop {
            let request = Request::new(S::Object::PATH).list(&params);
            let request = request.map_err(kube::Error::BuildRequest)?;
            let page: Page<S::Object> = timeout(PAGE_PATIENCE, self.client.request(request))
                .await
                .map_err(|_| WatchError::Silent(PAGE_PATIENCE))?
                .map_err(expired)?;
            let objects = page.items.unwrap_or_default();
            stream::iter(&objects)
                .for_each_concurrent(AT_ONCE, |object| self.put(object))
                .await;
            if page.metadata.next.is_empty() {
                self.store.end();
                return Ok(page.metadata.resource_version);
            }
            params.continue_token = Some(page.metadata.next);
        }
    }

    /// Takes changes until there are no more; `version` moves with them.
    async fn watch(&self, version: &mut String) -> Result<(), WatchError> {
        let params = WatchParams {
            field_selector: Some(self.fields.clone()).filter(|fields| !fields.is_empty()),
            timeout: Some(WATCH_SECONDS + any_below(WATCH_VARIES)),
            bookmarks: true,
            ..WatchParams::default()
        };
        let request = Request::new(S::Object::PATH).watch(&params, version);
        let request = request.map_err(kube::Error::BuildRequest)?;
        let events = timeout(
            PAGE_PATIENCE,
            self.client.request_events::<S::Object>(request),
        )
        .await
        .map_err(|_| WatchError::Silent(PAGE_PATIENCE))?
        .map_err(expired)?;
        self.contact.made();
        let mut events = pin!(events);
        loop {
            let event = timeout(WATCH_PATIENCE, events.next())
                .await
                .map_err(|_| WatchError::Silent(WATCH_PATIENCE))?;
            let Some(event) = event else {
                return Ok(());
            };
            match event.map_err(expired)? {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    self.put(&object).await;
                    move_to(version, &object.meta().resource_version);
                }
                WatchEvent::Deleted(object) => {
                    self.store.remove(&object);
                    move_to(version, &object.meta().resource_version);
                }
                WatchEvent::Bookmark(bookmark) => {
                    move_to(version, &bookmark.metadata.resource_version);
                }
                WatchEvent::Error(status) => return Err(expired(kube::Error::Api(status))),
            }
        }
    }

    async fn put(&self, object: &S::Object) {
        if object.meta().is_sound() {
            self.store.put(object).await;
        }
    }
}

fn move_to(version: &mut String, next: &str) {
    if !next.is_empty() {
        next.clone_into(version);
    }
}

/// Tells what is too old from what has failed: it comes as a status, or as an event.
fn expired(error: kube::Error) -> WatchError {
    match error {
        kube::Error::Api(status) if status.code == GONE => WatchError::Expired,
        error => WatchError::Client(error),
    }
}

/// What went wrong, down to its cause.
fn describe(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        return format!("{} {}", status.code, status.message);
    }
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        source = error.source();
    }
    text
}
