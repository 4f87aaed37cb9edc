//! Which requests for a WebSocket were seen lately: one connection can be seen under several pairs
//! of addresses (before and after NAT) and in several places.

use std::{
    collections::{BTreeMap, VecDeque, hash_map::RandomState},
    hash::BuildHasher,
};

use crate::proto::{flow::FlowKey, seq::SeqNumber, upgrade::MAX_KEY};

/// Requests that are remembered. The accounts of one connection are milliseconds apart.
const REMEMBERED: usize = 16_384;

/// The hash of `Sec-WebSocket-Key` and the sequence number of the request. Proxies open a TCP connection
/// of their own, which begins with another number; NAT leaves it as it is. Of 64 bits whose secret nobody
/// outside knows: two that are equal by chance will not be met.
type Request = u64;

/// The requests, and the flow that had each first.
#[derive(Debug, Default)]
pub(super) struct Keys {
    secret: RandomState,
    /// A tree: a hash table in which one comes for each that goes doubles for what has gone.
    flows: BTreeMap<Request, FlowKey>,
    order: VecDeque<Request>,
}

impl Keys {
    /// The other flow that the request was seen on before; else it is remembered as `flow`'s.
    pub fn taken(&mut self, key: &str, seq: SeqNumber, flow: FlowKey) -> Option<FlowKey> {
        if key.len() > MAX_KEY {
            return None;
        }
        let request = self.secret.hash_one((key, seq.0));
        if let Some(first) = self.flows.get(&request) {
            return (*first != flow).then_some(*first);
        }
        if self.order.len() >= REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.flows.remove(&oldest);
        }
        self.order.push_back(request);
        self.flows.insert(request, flow);
        None
    }
}
