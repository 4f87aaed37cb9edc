//! What is known of a flow, and what that means for its next segment.
//!
//! Flows that are not, or not yet, known to be WebSockets live in `CANDIDATES`, an LRU: they are
//! many and short. Those that are live in `FLOWS` until the agent deletes them. The stages are those
//! of `wstap_common::flow::stage`.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST},
    helpers::generated::bpf_get_prandom_u32,
    programs::TcContext,
};
use aya_log_ebpf::{debug, warn};
use wstap_common::{
    counter::Counter,
    flow::{FlowKey, FlowState, Verdict, stage},
};
use wstap_ebpf::recognise::Beginning;

use crate::{
    head::{may_ask_for_websocket, peek},
    headers::{ACK, FIN, Headers, RST, SYN},
    maps::{CANDIDATES, FLOWS, VERDICTS, count},
    sample::{Origin, now},
};

/// Segments of a flow older than the agent that are looked at before it is left alone.
const UNKNOWN_BUDGET: u32 = 64;
/// Segments that are sampled while a flow older than the agent is decided.
const PROBING_BUDGET: u32 = 256;
/// Segments that are sampled while an upgrade is decided: heads may come in very small pieces.
const UPGRADING_BUDGET: u32 = 2048;
/// Segments that are sampled from the status line of a refusal on: the rest of its head.
const REFUSAL_BUDGET: u32 = 16;
/// Segments for which the agent's verdict is awaited.
const WAITING_BUDGET: u32 = 1 << 16;

/// A segment on its way through a hook.
pub struct Passage {
    pub key: FlowKey,
    pub headers: Headers,
    /// Index of the sender in the key.
    pub sender: u32,
    /// `wstap_common::flow::hook`.
    pub hook: u32,
}

impl Passage {
    /// Whether it opens a connection.
    #[inline(always)]
    fn opens(&self) -> bool {
        self.headers.has(SYN)
    }

    /// The initial sequence number of the client that a SYN or SYN|ACK speaks of.
    #[inline(always)]
    fn isn(&self) -> u32 {
        if self.headers.has(ACK) {
            self.headers.ack.wrapping_sub(1)
        } else {
            self.headers.seq
        }
    }
}

/// What is to be done with a segment.
pub enum Decision {
    /// Leave it; it counts as this.
    Leave(Counter),
    /// Copy it.
    Copy(Origin),
}

/// Of a segment of a flow that is not followed yet: the agent has something to decide.
#[inline(always)]
fn undecided(state: &FlowState) -> Origin {
    Origin {
        epoch: state.epoch,
        now: now(),
        urgent: true,
    }
}

/// Decides about a segment.
#[inline(always)]
pub fn decide(ctx: &TcContext, passage: &Passage) -> Decision {
    // Candidates first: most segments belong to flows that are no WebSockets, and those are spared
    // the second look-up.
    let mut known = CANDIDATES
        .get_ptr_mut(passage.key)
        // SAFETY: the element of an evicted entry may be used again for another flow while this
        // program holds it; a candidate that is spoilt so is decided anew.
        .map(|state| unsafe { &mut *state });
    if known
        .as_ref()
        .is_none_or(|state| state.stage == stage::FOLLOWED)
        && let Some(state) = FLOWS.get_ptr_mut(passage.key)
    {
        // SAFETY: as above; what is written to a deleted element that is used again moves another
        // flow's account by a segment.
        let state = unsafe { &mut *state };
        // A SYN alone ends nothing (anybody can send one); the answer to another SYN than the one
        // that opened this connection says that it is gone.
        let reopened = passage.opens() && passage.headers.has(ACK) && passage.isn() != state.isn;
        if !reopened {
            return followed(passage, state);
        }
        let _ = FLOWS.remove(passage.key);
    }
    let Some(state) = &mut known else {
        return enter(ctx, passage);
    };
    if passage.opens() && passage.isn() != state.isn {
        **state = fresh(passage);
    }
    candidate(ctx, passage, state)
}

/// A segment of a flow that is followed.
#[inline(always)]
fn followed(passage: &Passage, state: &mut FlowState) -> Decision {
    account(passage, state).decision(|| {
        let now = now();
        state.last_seen = now;
        Origin {
            epoch: state.epoch,
            now,
            urgent: false,
        }
    })
}

/// Whose a segment is, and whether there is anything to it.
enum Account {
    /// This hook's, and worth a record.
    Mine,
    /// Another hook's.
    Other,
    /// Nobody's: an acknowledgement that says nothing of interest.
    Nothing,
}

impl Account {
    /// What this means for the segment; `origin` is asked for where it is to be copied.
    #[inline(always)]
    fn decision(self, origin: impl FnOnce() -> Origin) -> Decision {
        match self {
            Self::Mine => Decision::Copy(origin()),
            Self::Other => Decision::Leave(Counter::NotOwner),
            Self::Nothing => Decision::Leave(Counter::Empty),
        }
    }
}

/// Finds out whether this hook accounts for the segment's direction.
///
/// A packet passes several hooks, one after the other. The one that is the first to see new bytes
/// has the account; the others see only what it has seen already. Where a route changes and the
/// owner is no longer passed, the next new bytes make their first hook the owner.
#[inline(always)]
fn account(passage: &Passage, state: &mut FlowState) -> Account {
    let headers = &passage.headers;
    let sender = (passage.sender & 1) as usize;
    // A reset has no place in the sequence by which a second account would show. It may be made by
    // this very host, behind the owner; twice seen, it does no harm.
    if headers.has(RST) {
        return Account::Mine;
    }
    let takes = headers.len + u32::from(headers.has(FIN));
    let end = headers
        .seq
        .wrapping_add(takes)
        .wrapping_add(u32::from(headers.has(SYN)));
    let owner = state.owner[sender];
    let ahead = end.wrapping_sub(state.high[sender]);
    let new = takes > 0 && (owner == 0 || (ahead > 0 && ahead < 1 << 30));
    if new {
        state.owner[sender] = passage.hook;
        state.high[sender] = end;
        return Account::Mine;
    }
    if owner != passage.hook {
        return Account::Other;
    }
    // Retransmissions; of the bare acknowledgements those that close the window, and keep-alive
    // probes: one before the next sequence number.
    let probe = headers.seq.wrapping_add(1) == state.high[sender];
    if takes > 0 || headers.window == 0 || probe {
        Account::Mine
    } else {
        Account::Nothing
    }
}

/// The first segment of a flow that nothing is known of.
#[inline(always)]
fn enter(ctx: &TcContext, passage: &Passage) -> Decision {
    let mut state = fresh(passage);
    if !passage.opens() {
        if passage.headers.len == 0 {
            return Decision::Leave(Counter::Empty);
        }
        state.isn = 0;
        state.stage = stage::UNKNOWN;
    }
    // Decided first and entered then: another CPU may do the same with another segment of the
    // flow, and the first of them wins.
    let decision = candidate(ctx, passage, &mut state);
    let _ = CANDIDATES.insert(passage.key, state, BPF_NOEXIST.into());
    decision
}

/// A flow whose SYN this is.
#[inline(always)]
fn fresh(passage: &Passage) -> FlowState {
    FlowState {
        last_seen: 0,
        // SAFETY: a helper without arguments.
        epoch: unsafe { bpf_get_prandom_u32() } | 1,
        isn: passage.isn(),
        owner: [0; 2],
        high: [0; 2],
        stage: stage::FRESH,
        budget: UNKNOWN_BUDGET,
    }
}

/// A segment of a flow that is not followed.
#[inline(always)]
fn candidate(ctx: &TcContext, passage: &Passage, state: &mut FlowState) -> Decision {
    const UNDECIDED: Decision = Decision::Leave(Counter::Undecided);
    let headers = &passage.headers;
    let sampled = matches!(
        state.stage,
        stage::UPGRADING | stage::REFUSED | stage::PROBING
    );
    if (sampled || state.stage == stage::WAITING) && obey(passage, state) {
        return follow(ctx, passage, state);
    }
    if headers.len == 0 {
        // The end of a flow that is being decided concerns the agent; anything else does not.
        return if sampled && (headers.has(FIN) || headers.has(RST)) {
            Decision::Copy(undecided(state))
        } else {
            Decision::Leave(Counter::Empty)
        };
    }
    match state.stage {
        stage::IGNORED => return Decision::Leave(Counter::Ignored),
        stage::FOLLOWED => return resume(ctx, passage, state),
        stage::WAITING | stage::PROBING => return spend(passage, state),
        _ => {}
    }

    let beginning = peek(ctx, headers);
    match beginning {
        Beginning::SwitchingProtocols => {
            // Frames may follow at once, long before the agent can say a word.
            return follow(ctx, passage, state);
        }
        // Behind a header of the PROXY protocol a request may follow at once; alone it is not known
        // to be none.
        Beginning::Get | Beginning::Proxied => {
            if may_ask_for_websocket(ctx, headers) {
                if state.stage != stage::UPGRADING {
                    state.owner = [0; 2];
                }
                state.stage = stage::UPGRADING;
                state.budget = UPGRADING_BUDGET;
            } else if !matches!(state.stage, stage::UPGRADING | stage::REFUSED) {
                state.stage = stage::HTTP;
            }
        }
        Beginning::Request | Beginning::Response
            if matches!(state.stage, stage::FRESH | stage::UNKNOWN) =>
        {
            state.stage = stage::HTTP;
        }
        Beginning::FinalResponse => match state.stage {
            stage::FRESH | stage::UNKNOWN => state.stage = stage::HTTP,
            stage::UPGRADING => {
                state.stage = stage::REFUSED;
                state.budget = REFUSAL_BUDGET;
            }
            _ => {}
        },
        // Behind HTTP it is what a tunnel (`CONNECT`) is for. Where the agent is looking on, it counts.
        Beginning::ClientHello
            if matches!(state.stage, stage::FRESH | stage::UNKNOWN | stage::HTTP) =>
        {
            count(Counter::Tls, 1);
            state.stage = stage::IGNORED;
        }
        Beginning::Frame if state.stage == stage::UNKNOWN => {
            state.stage = stage::PROBING;
            state.budget = PROBING_BUDGET;
        }
        _ => match state.stage {
            // The client's first bytes are no HTTP, and there will be none.
            stage::FRESH if headers.seq.wrapping_sub(state.isn) <= 1 => {
                state.stage = stage::IGNORED;
            }
            stage::FRESH | stage::UNKNOWN => {
                state.budget = state.budget.saturating_sub(1);
                if state.budget == 0 {
                    state.stage = stage::IGNORED;
                }
            }
            _ => {}
        },
    }
    match state.stage {
        stage::UPGRADING | stage::REFUSED | stage::PROBING => spend(passage, state),
        stage::IGNORED => Decision::Leave(Counter::Ignored),
        _ => UNDECIDED,
    }
}

/// Copies a segment of a flow that is being decided, or lets it pass where the decision is late.
#[inline(always)]
fn spend(passage: &Passage, state: &mut FlowState) -> Decision {
    if state.budget > 0 {
        state.budget -= 1;
    } else {
        match state.stage {
            // The refusal has been seen; the next attempt is looked for.
            stage::REFUSED => state.stage = stage::HTTP,
            stage::WAITING => state.stage = stage::IGNORED,
            _ => {
                state.stage = stage::WAITING;
                state.budget = WAITING_BUDGET;
            }
        }
        return Decision::Leave(Counter::Undecided);
    }
    if state.stage == stage::WAITING {
        return Decision::Leave(Counter::Undecided);
    }
    account(passage, state).decision(|| undecided(state))
}

/// Applies the agent's verdict, where there is one; whether it is to follow the flow.
#[inline(always)]
fn obey(passage: &Passage, state: &mut FlowState) -> bool {
    let Some(verdict) = VERDICTS.get_ptr(passage.key) else {
        return false;
    };
    // SAFETY: as in `decide`; a verdict is void unless its epoch is right.
    let verdict = unsafe { *verdict };
    if verdict.epoch != state.epoch {
        return false;
    }
    match verdict.decision {
        Verdict::FOLLOW => return true,
        Verdict::IGNORE => state.stage = stage::IGNORED,
        // Said once: the next attempt is decided anew. Where that has begun already, this is about
        // the one before.
        Verdict::REJECTED if state.stage != stage::UPGRADING => {
            state.stage = stage::HTTP;
            let _ = VERDICTS.remove(passage.key);
        }
        _ => {}
    }
    false
}

/// A segment of a flow that was followed and is no more.
#[inline(always)]
fn resume(ctx: &TcContext, passage: &Passage, state: &mut FlowState) -> Decision {
    let _ = obey(passage, state);
    if state.stage == stage::IGNORED {
        return Decision::Leave(Counter::Ignored);
    }
    // Silent for so long that any hook may be the owner by now.
    state.owner = [0; 2];
    follow(ctx, passage, state)
}

/// Moves a flow to those that are followed, and treats the segment as one of them.
#[inline(always)]
fn follow(ctx: &TcContext, passage: &Passage, state: &mut FlowState) -> Decision {
    let account = account(passage, state);
    let now = now();
    let followed = FlowState {
        last_seen: now,
        stage: stage::FOLLOWED,
        ..*state
    };
    if FLOWS.insert(passage.key, followed, BPF_ANY.into()).is_err() {
        count(Counter::FlowsFull, 1);
        state.stage = stage::IGNORED;
        warn!(ctx, "the map of flows is full: a WebSocket is not followed");
        return Decision::Leave(Counter::Ignored);
    }
    // Only now: another CPU that finds it followed expects it there.
    state.stage = stage::FOLLOWED;
    debug!(ctx, "following flow, epoch {}", state.epoch);
    account.decision(|| Origin {
        epoch: state.epoch,
        now,
        urgent: true,
    })
}
