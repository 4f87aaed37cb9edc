//! What is read of the API's objects: a few fields, everything else is passed over while it is
//! parsed.

use std::net::IpAddr;

use serde::Deserialize;

use crate::proto::time::Timestamp;

/// Longest name that the API allows (RFC 1123 subdomain).
const MAX_NAME: usize = 253;

/// A page of a list.
#[derive(Debug, Deserialize)]
pub(super) struct Page<T> {
    pub(super) metadata: PageMeta,
    /// `null` where there is none, as Go writes an empty list.
    pub(super) items: Option<Vec<T>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PageMeta {
    /// Where watching goes on from.
    pub(super) resource_version: String,
    /// Where the next page begins; empty on the last one.
    #[serde(rename = "continue")]
    pub(super) next: String,
}

/// What all objects have.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Meta {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) uid: String,
    pub(super) resource_version: String,
    pub(super) creation_timestamp: Time,
    labels: Option<Labels>,
    owner_references: Option<Vec<Owner>>,
}

/// An object that nothing but the metadata is wanted of.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Bare {
    pub(super) metadata: Meta,
}

/// The one label that is of use: a Deployment gives it to the pods of each of its ReplicaSets, whose name
/// ends with it.
#[derive(Clone, Debug, Default, Deserialize)]
struct Labels {
    #[serde(rename = "pod-template-hash")]
    template_hash: Option<String>,
}

/// Who an object belongs to.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Owner {
    pub(super) api_version: String,
    pub(super) kind: String,
    pub(super) name: String,
    controller: Option<bool>,
}

impl Meta {
    /// Who manages the object: there is one at most.
    pub(super) fn controller(&self) -> Option<&Owner> {
        let mut owners = self.owner_references.iter().flatten();
        owners.find(|owner| owner.controller == Some(true))
    }

    /// The end that a ReplicaSet's name has if it is a Deployment's.
    pub(super) fn template_hash(&self) -> Option<&str> {
        (self.labels.as_ref()?.template_hash.as_deref()).filter(|hash| !hash.is_empty())
    }

    /// Whether the names are such as the API gives.
    pub(super) fn is_sound(&self) -> bool {
        is_name(&self.name) && is_name(&self.namespace) && self.uid.len() <= MAX_NAME
    }
}

/// Whether `name` is one that the API gives: a DNS subdomain (RFC 1123).
pub(super) fn is_name(name: &str) -> bool {
    let plain =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
    !name.is_empty() && name.len() <= MAX_NAME && name.bytes().all(plain)
}

/// A pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Pod {
    pub(super) metadata: Meta,
    spec: PodSpec,
    status: PodStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodSpec {
    host_network: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodStatus {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<PodIp>>,
    start_time: Time,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct PodIp {
    ip: String,
}

impl Pod {
    /// Addresses that are its own: none where it has the node's, and none once it is over.
    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        let phase = self.status.phase.as_deref();
        if self.spec.host_network || matches!(phase, Some("Succeeded" | "Failed")) {
            return Vec::new();
        }
        let listed = self.status.pod_ips.iter().flatten();
        let listed = listed.map(|listed| listed.ip.as_str());
        addresses(listed.chain(self.status.pod_ip.as_deref()))
    }

    /// Since when it has been there: its start, or before that is known its making.
    pub(super) fn since(&self) -> Timestamp {
        match self.status.start_time {
            Time(Timestamp(0)) => self.metadata.creation_timestamp.0,
            Time(start) => start,
        }
    }
}

/// A Service.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Service {
    pub(super) metadata: Meta,
    spec: ServiceSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ServiceSpec {
    #[serde(rename = "clusterIP")]
    cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Option<Vec<String>>,
}

impl Service {
    /// Its cluster addresses; none where it is headless or a name for something outside.
    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        let listed = self.spec.cluster_ips.iter().flatten().map(String::as_str);
        addresses(listed.chain(self.spec.cluster_ip.as_deref()))
    }
}

/// Those that are addresses, each once: `None` and the empty string are not.
fn addresses<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = texts.filter_map(|text| text.parse().ok()).collect();
    for address in &mut addresses {
        *address = address.to_canonical();
    }
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// RFC 3339, as the API writes times; the beginning of 1970 where there is none, or nonsense.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Time(pub(super) Timestamp);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Option::<Text>::deserialize(deserializer)?;
        let nanos = text.and_then(|Text(text)| {
            let time: jiff::Timestamp = text.parse().ok()?;
            u64::try_from(time.as_nanosecond()).ok()
        });
        Ok(Self(Timestamp(nanos.unwrap_or_default())))
    }
}

#[derive(Deserialize)]
struct Text(String);

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(json: &str) -> Pod {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn what_is_wanted_is_read_and_the_rest_passed_over() {
        let pod = pod(
            r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a-5d4-x","namespace":"n","uid":"u",
            "creationTimestamp":"2026-01-01T00:00:00Z","labels":{"app":"a","pod-template-hash":"5d4"},
            "annotations":{"x":"y"},"managedFields":[{"fieldsV1":{"f:a":{}}}],
            "ownerReferences":[{"kind":"Other","name":"o"},{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"a-5d4","controller":true}]},
            "spec":{"containers":[{"name":"c"}],"unheardOf":7},
            "status":{"phase":"Running","podIP":"10.0.0.1","podIPs":[{"ip":"10.0.0.1"},{"ip":"fd00::1"}],
            "startTime":"2026-01-01T00:00:05Z"}}"#,
        );
        let addresses: Vec<String> = pod.addresses().iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.0.0.1", "fd00::1"]);
        assert_eq!(pod.metadata.controller().unwrap().name, "a-5d4");
        assert_eq!(pod.metadata.template_hash(), Some("5d4"));
        assert_eq!(pod.since(), Timestamp(1_767_225_605_000_000_000));
        assert!(pod.metadata.is_sound());
    }

    #[test]
    fn some_pods_have_no_address_of_their_own() {
        for json in [
            r#"{"metadata":{},"status":{"phase":"Pending","startTime":null}}"#,
            r#"{"spec":{"hostNetwork":true},"status":{"podIPs":[{"ip":"10.0.0.1"}]}}"#,
            r#"{"status":{"phase":"Succeeded","podIP":"10.0.0.1"}}"#,
            r#"{"status":{"phase":"Failed","podIPs":[{"ip":"10.0.0.1"}]}}"#,
            r#"{"status":{"podIP":"","podIPs":null}}"#,
        ] {
            assert_eq!(pod(json).addresses(), [] as [IpAddr; 0], "{json}");
        }
    }

    #[test]
    fn services_have_cluster_addresses_or_none() {
        for (json, expected) in [
            (
                r#"{"spec":{"clusterIP":"10.96.0.1","clusterIPs":["10.96.0.1","fd00::a"]}}"#,
                2,
            ),
            (r#"{"spec":{"clusterIP":"None","clusterIPs":["None"]}}"#, 0),
            (r#"{"spec":{"externalName":"example.com"}}"#, 0),
        ] {
            let service: Service = serde_json::from_str(json).unwrap();
            assert_eq!(service.addresses().len(), expected, "{json}");
        }
    }

    #[test]
    fn names_are_those_of_the_api() {
        assert!(is_name("chat-7d9.example-0"));
        for name in ["", "a/b", "A", "a b", "..\u{e9}", &"a".repeat(254)] {
            assert!(!is_name(name), "{name}");
        }
    }
}
