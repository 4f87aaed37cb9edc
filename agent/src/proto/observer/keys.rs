//! Which requests for a WebSocket were seen lately: one connection can be seen under several pairs
//! of addresses (before and after NAT) and in several places.

use std::{
    collections::{BTreeMap, VecDeque, hash_map::RandomState},
    hash::BuildHasher,
};

use crate::proto::{
    flow::FlowKey,
    seq::SeqNumber,
    upgrade::{MAX_KEY, accept_for},
};

/// Requests that are remembered. The accounts of one connection are milliseconds apart.
const REMEMBERED: usize = 16_384;

/// The hash of `Sec-WebSocket-Key` and the sequence number of the request, or of `Sec-WebSocket-Accept` and
/// that of the answer. Proxies open a TCP connection
/// of their own, which begins with another number; NAT leaves it as it is. Of 64 bits whose secret nobody
/// outside knows: two that are equal by chance will not be met.
type Head = u64;

/// The requests, and the flow that had each first, with the server's side.
#[derive(Debug, Default)]
pub(super) struct Keys {
    secret: RandomState,
    /// Trees: a hash table in which one comes for each that goes doubles for what has gone.
    flows: BTreeMap<Head, (FlowKey, usize)>,
    /// The answers that are expected.
    answers: BTreeMap<Head, FlowKey>,
    order: VecDeque<(Head, Option<Head>)>,
}

impl Keys {
    /// The other flow that the request was seen on before, and the server's side there; else it is
    /// remembered as `flow`'s, whose server is `server`, and where the answer begins at `answer`.
    pub fn taken(
        &mut self,
        key: &str,
        seq: SeqNumber,
        answer: Option<SeqNumber>,
        (flow, server): (FlowKey, usize),
    ) -> Option<(FlowKey, usize)> {
        if key.len() > MAX_KEY {
            return None;
        }
        let request = self.secret.hash_one((key, seq.0));
        if let Some(first) = self.flows.get(&request) {
            return (first.0 != flow).then_some(*first);
        }
        if self.order.len() >= REMEMBERED
            && let Some((oldest, answer)) = self.order.pop_front()
        {
            self.flows.remove(&oldest);
            answer.and_then(|answer| self.answers.remove(&answer));
        }
        let answer = answer.map(|seq| self.secret.hash_one((&*accept_for(key), seq.0)));
        self.order.push_back((request, answer));
        self.flows.insert(request, (flow, server));
        if let Some(answer) = answer {
            self.answers.insert(answer, flow);
        }
        None
    }

    /// The other flow on which what is answered here was asked for.
    pub fn asked(&self, accept: &str, seq: SeqNumber, flow: FlowKey) -> Option<FlowKey> {
        let answer = self.secret.hash_one((accept, seq.0));
        let asked = self.answers.get(&answer).copied();
        asked.filter(|asked| *asked != flow)
    }
}
