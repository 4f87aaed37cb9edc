//! What is known of a flow, and what that means for its next segment.
//!
//! Flows that are not, or not yet, known to be WebSockets live in `CANDIDATES`, an LRU: they are
//! many and short. Those that are live in `FLOWS` until the agent deletes them. The stages are those
//! of `wstap_common::flow::stage`.

use aya_ebpf::{
    bindings::{__sk_buff, BPF_ANY, BPF_NOEXIST},
    helpers::generated::bpf_get_prandom_u32,
    programs::TcContext,
};
use aya_log_ebpf::{debug, warn};
use wstap_common::{
    counter::Counter,
    flow::{FlowKey, FlowState, Place, Verdict, Walked, flag, mode, stage},
    oddity::{acknowledge, note},
    record::{RECORD_ARMING, RECORD_SEGMENT},
    tally::{TALLY_LEN, element},
};
use wstap_ebpf::{bound::increment, recognise::Beginning};

use crate::{
    follow::{followed, walk_behind},
    head::{ONLY_HEAD, REQUEST, blank_line, examine_request, peek},
    headers::{ACK, FIN, Headers, RST, SYN},
    maps::{
        CANDIDATE, CANDIDATES, CHANGES, FLOWS, FREE_TALLIES, Flow, HINTS, NEW_FLOW, PASSAGE,
        TALLIES, VERDICTS, WALKS, count,
    },
    sample::{Origin, copy_described, describe, now},
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
    /// `wstap_common::flow::Vantage::scope`, where the segment is not described yet.
    pub scope: u32,
    /// Whether packets of this hook begin with an Ethernet header.
    pub is_ethernet: u32,
    /// Whether the segment is described already.
    pub is_segment: u32,
    pub clock: Clock,
    /// By [`FlowKey::hint`].
    pub recent: [Recent; RECENT],
}

/// Flows of which a CPU keeps what was made of them.
pub const RECENT: usize = 32;

/// A candidate that nothing more happens to, most likely: what a look-up has said of it.
pub struct Recent {
    /// Its [`FlowKey`].
    pub key: [u64; size_of::<FlowKey>() / 8],
    /// What [`CHANGES`] was before the look-up.
    pub changes: u64,
    /// [`stage::IGNORED`] or [`stage::HTTP`].
    pub stage: u32,
}

/// Of [`crate::sample::recently`]: the timer's count, and the time when it was first seen.
pub struct Clock {
    pub tick: u64,
    pub time: u64,
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
    /// Follow the flow from here on. Not 0 if the segment begins with the answer that opens the WebSocket:
    /// where frames begin can be told from no other.
    Follow(u32),
}

/// Of a segment of a flow that is not followed yet: the agent has something to decide.
#[inline(always)]
fn undecided(state: &FlowState) -> Origin {
    Origin {
        epoch: state.epoch,
        now: now(),
        urgent: true,
        kind: RECORD_SEGMENT,
        tally: 0,
        boundary: 0,
    }
}

/// Decides about the segment in `PASSAGE` and does what is to be done; what it counts as.
///
/// What most segments need is decided here, with one look at each map; the rest in functions that
/// look again, each with a stack of its own.
#[inline(always)]
pub fn decide(skb: *mut __sk_buff, passage: &mut Passage) -> u32 {
    // Most segments belong to flows that are no WebSockets, and those are spared the second look-up;
    // so are those of the ones that the hint knows.
    let hinted = HINTS.get(passage.key.hint()).is_some_and(|hint| *hint != 0);
    let mut stage = stage::FOLLOWED;
    if !hinted && let Some(state) = CANDIDATES.get_ptr_mut(&passage.key) {
        // SAFETY: the element of an evicted entry may be used again for another flow while this
        // program holds it; a candidate that is spoilt so is decided anew.
        stage = unsafe { (*state).stage };
    }
    if stage == stage::FOLLOWED
        && let Some(flow) = FLOWS.get_ptr_mut(&passage.key)
    {
        // SAFETY: as above; what is written to a deleted element that is used again moves another
        // flow's account by a segment.
        let flow = unsafe { &mut *flow };
        // A SYN alone ends nothing (anybody can send one); the answer to another SYN than the one
        // that opened this connection says that it is gone.
        let reopened = passage.opens() && passage.headers.has(ACK) && passage.isn() != flow.isn;
        if !reopened {
            return followed(skb, passage, flow);
        }
        let _ = FLOWS.remove(&passage.key);
    }
    if stage == stage::IGNORED && !passage.opens() {
        return if passage.headers.len == 0 {
            Counter::Empty
        } else {
            Counter::Ignored
        } as u32;
    }
    let outcome = unfollowed(skb);
    if outcome & (COPY | ARM) == 0 {
        return outcome as u32;
    }
    let counter = copy_described(skb, true) as u32;
    if outcome & ARM != 0 {
        walk_behind(skb);
    }
    counter
}

/// Of [`unfollowed`], above the number of a counter: the record is described, the copy to be made.
const COPY: u64 = 1 << 32;
/// Of [`unfollowed`]: besides, what is behind the head is to be walked.
const ARM: u64 = 1 << 33;

/// Decides about the segment in `PASSAGE`, of a flow that is not followed; what it counts as.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn unfollowed(skb: *mut __sk_buff) -> u64 {
    let ctx = TcContext::new(skb);
    let Some(passage) = PASSAGE.get_ptr_mut(0) else {
        return Counter::Missed as u64;
    };
    // SAFETY: this CPU's own slot, which `inspect` has filled.
    let passage = unsafe { &*passage };
    let Some(scratch) = CANDIDATE.get_ptr_mut(0) else {
        return Counter::Missed as u64;
    };
    // SAFETY: this CPU's own slot, used by nobody else while this program runs.
    let scratch = unsafe { &mut *scratch };
    let known = CANDIDATES.get_ptr_mut(&passage.key);
    let is_new = known.is_none();
    // SAFETY: as in `decide`.
    let state = known.map_or(&raw mut *scratch, |state| state);
    // SAFETY: as above, or of `scratch`, which is not used by its other name meanwhile.
    let state = unsafe { &mut *state };
    let before = state.stage;
    if is_new || (passage.opens() && passage.isn() != state.isn) {
        begin(state, passage);
    }
    if is_new && !passage.opens() {
        if passage.headers.len == 0 {
            return Counter::Empty as u64;
        }
        state.isn = 0;
        state.stage = stage::UNKNOWN;
    }
    let outcome = match candidate(&ctx, passage, state) {
        Decision::Leave(counter) => counter as u64,
        Decision::Copy(origin) => {
            describe(passage, &origin);
            COPY
        }
        Decision::Follow(answers) => {
            if !is_new {
                copy(state, scratch);
            }
            let outcome = follow(skb, answers);
            if !is_new {
                state.stage = scratch.stage;
            }
            outcome
        }
    };
    if is_new {
        // Decided first and entered then: another CPU may do the same with another segment of the
        // flow, and the first of them wins.
        let _ = CANDIDATES.insert(&passage.key, &*scratch, BPF_NOEXIST.into());
    }
    if (is_new || state.stage != before)
        && let Some(changes) = CHANGES.get_ptr_mut(0)
    {
        // SAFETY: an element of an array is always there, and aligned.
        unsafe { increment(changes) };
    }
    outcome
}

/// Copies a candidate word by word, or a call of `memmove` comes of it.
#[inline(always)]
fn copy(from: &FlowState, to: &mut FlowState) {
    let from = (&raw const *from).cast::<u64>();
    let to = (&raw mut *to).cast::<u64>();
    for i in 0..size_of::<FlowState>() / 8 {
        // SAFETY: within both.
        unsafe { to.add(i).write_volatile(from.add(i).read_volatile()) };
    }
}

/// Whose a segment is, and whether there is anything to it.
pub enum Account {
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
            other => other.leave(),
        }
    }

    /// What a segment counts as that is not this hook's.
    #[inline(always)]
    pub fn leave(self) -> Decision {
        Decision::Leave(match self {
            Self::Nothing => Counter::Empty,
            _ => Counter::NotOwner,
        })
    }
}

/// Finds out whether this hook accounts for the segment's direction.
///
/// A packet passes several hooks, one after the other. The one that is the first to see new bytes
/// has the account; the others see only what it has seen already. Where a route changes and the
/// owner is no longer passed, the next new bytes make their first hook the owner.
#[inline(always)]
pub fn account(passage: &Passage, owner: &mut u32, high: &mut u32) -> Account {
    let headers = &passage.headers;
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
    let ahead = end.wrapping_sub(*high);
    let new = takes > 0 && (*owner == 0 || (ahead > 0 && ahead < 1 << 30));
    if new {
        *owner = passage.hook;
        *high = end;
        return Account::Mine;
    }
    if *owner != passage.hook {
        return Account::Other;
    }
    // Retransmissions; of the bare acknowledgements those that close the window, and keep-alive
    // probes: one before the next sequence number.
    let probe = headers.seq.wrapping_add(1) == *high;
    if takes > 0 || headers.window == 0 || probe {
        Account::Mine
    } else {
        Account::Nothing
    }
}

/// As [`account`], of a flow that is not followed.
#[inline(always)]
fn account_of(passage: &Passage, state: &mut FlowState) -> Account {
    let sender = (passage.sender & 1) as usize;
    let headers = &passage.headers;
    let high = if state.owner[sender] == 0 {
        headers.seq
    } else {
        state.high[sender]
    };
    let account = account(passage, &mut state.owner[sender], &mut state.high[sender]);
    if matches!(account, Account::Mine) && headers.flags & (RST | SYN) == 0 {
        // What is counted is counted by the agent, until the flow is followed. Then this goes on.
        if headers.has(ACK) {
            acknowledge(&mut state.hole[1 - sender], headers.ack);
            note_window(
                &mut state.closed_at[1 - sender],
                state.high[1 - sender],
                headers.window,
            );
        }
        if headers.len > 0 || headers.has(FIN) {
            let _ = note(high, &mut state.hole[sender], headers.seq, headers.len);
        }
    }
    account
}

/// A receiver announces a window; `high` is how far its opposite has come.
#[inline(always)]
pub fn note_window(closed_at: &mut u32, high: u32, window: u16) {
    *closed_at = if window == 0 { high } else { 0 };
}

/// Makes `state` that of a flow whose SYN this is.
#[inline(always)]
fn begin(state: &mut FlowState, passage: &Passage) {
    // SAFETY: within the structure. Volatile, so that no call of `memset` comes of it.
    unsafe {
        let words = (&raw mut *state).cast::<u64>();
        for i in 0..size_of::<FlowState>() / 8 {
            words.add(i).write_volatile(0);
        }
    }
    // SAFETY: a helper without arguments.
    state.epoch = unsafe { bpf_get_prandom_u32() } | 1;
    state.isn = passage.isn();
    state.stage = stage::FRESH;
    state.budget = UNKNOWN_BUDGET;
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
        return Decision::Follow(0);
    }
    if headers.len == 0 {
        // The end of a flow that is being decided concerns the agent, and what it would count.
        return if !sampled || headers.has(SYN) {
            Decision::Leave(Counter::Empty)
        } else if headers.has(FIN) || headers.has(RST) {
            Decision::Copy(undecided(state))
        } else {
            account_of(passage, state).decision(|| undecided(state))
        };
    }
    match state.stage {
        stage::IGNORED => return Decision::Leave(Counter::Ignored),
        stage::FOLLOWED => return resume(passage, state),
        stage::WAITING | stage::PROBING => return spend(passage, state),
        _ => {}
    }

    let beginning = peek(ctx, headers);
    match beginning {
        Beginning::SwitchingProtocols => {
            // Frames may follow at once, long before the agent can say a word.
            return Decision::Follow(1);
        }
        // Behind a header of the PROXY protocol a request may follow at once; alone it is not known
        // to be none.
        Beginning::Get | Beginning::Proxied => {
            let request = examine_request(ctx, headers);
            if request & REQUEST != 0 {
                if state.stage != stage::UPGRADING {
                    state.owner = [0; 2];
                }
                state.request_end = if request & ONLY_HEAD != 0 {
                    headers.seq.wrapping_add(headers.len)
                } else {
                    0
                };
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
    account_of(passage, state).decision(|| undecided(state))
}

/// Applies the agent's verdict, where there is one; whether it is to follow the flow.
#[inline(always)]
fn obey(passage: &Passage, state: &mut FlowState) -> bool {
    let Some(verdict) = VERDICTS.get_ptr(&passage.key) else {
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
            let _ = VERDICTS.remove(&passage.key);
        }
        _ => {}
    }
    false
}

/// A segment of a flow that was followed and is no more.
#[inline(always)]
fn resume(passage: &Passage, state: &mut FlowState) -> Decision {
    let _ = obey(passage, state);
    if state.stage == stage::IGNORED {
        return Decision::Leave(Counter::Ignored);
    }
    // Silent for so long that any hook may be the owner by now.
    state.owner = [0; 2];
    Decision::Follow(0)
}

/// Moves the flow in `CANDIDATE` to those that are followed, and treats the segment in `PASSAGE` as one of them:
/// as [`unfollowed`]. See [`Decision::Follow`] for `answers`. A function of its own, so that the verifier
/// walks it once, and not for all that leads here.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn follow(skb: *mut __sk_buff, answers: u32) -> u64 {
    let ctx = TcContext::new(skb);
    let (Some(passage), Some(state)) = (PASSAGE.get_ptr_mut(0), CANDIDATE.get_ptr_mut(0)) else {
        return Counter::Missed as u64;
    };
    // SAFETY: these are this CPU's own slots; the first one `inspect` has filled.
    let (passage, state) = unsafe { (&*passage, &mut *state) };
    let sender = (passage.sender & 1) as usize;
    let account = account_of(passage, state);
    let now = now();
    let Some(new) = NEW_FLOW.get_ptr_mut(0) else {
        return Counter::Missed as u64;
    };
    // SAFETY: this CPU's own slot, used by nobody else while this program runs.
    let new = unsafe { &mut *new };
    new.epoch = state.epoch;
    new.last_seen = now;
    new.isn = state.isn;
    new.tally = 0;
    new.flags = 0;
    new.closed_at = state.closed_at;
    new.directions[0] = Walked::new(Place::WHOLE, state.owner[0], state.high[0]);
    new.directions[1] = Walked::new(Place::WHOLE, state.owner[1], state.high[1]);
    new.directions[0].hole = state.hole[0];
    new.directions[1].hole = state.hole[1];
    let mut origin = Origin {
        epoch: state.epoch,
        now,
        urgent: true,
        kind: RECORD_SEGMENT,
        tally: 0,
        boundary: 0,
    };
    if WALKS.load() != 0 {
        new.tally = tally(state.epoch);
        // The server answers, so the other one is the client. Where this is no answer, both
        // directions are copied whole until the agent says what they are.
        new.flags = 1 - sender as u32;
        let head = if answers != 0 && new.tally != 0 {
            blank_line(&ctx, &passage.headers)
        } else {
            0
        };
        let behind = head as u32;
        // What came before its turn has been copied whole already, and will not pass again.
        let is_last = state.high[sender].wrapping_sub(passage.headers.seq) == passage.headers.len
            || passage.headers.has(FIN);
        if behind != 0 && is_last {
            if head >> 32 != 0 {
                new.flags |= flag::DEFLATE;
            }
            let boundary = passage.headers.seq.wrapping_add(behind);
            new.directions[sender].place = Place::new(boundary, 0, 0, 0, mode::NEAR).0;
            // Only this segment is counted by the agent, though the flow has a tally.
            origin.kind = RECORD_ARMING;
            origin.tally = new.tally;
            origin.boundary = boundary;
            // Unless the client has sent more than a request.
            let end = state.request_end;
            if end != 0 && end == passage.headers.ack && end == state.high[1 - sender] {
                new.directions[1 - sender].place = Place::new(end, 0, 0, 0, mode::NEAR).0;
            }
        }
    }
    // SAFETY: the same value but for the type of its lock, which nobody holds.
    let value = unsafe { &*(&raw const *new).cast::<Flow>() };
    if FLOWS.insert(&passage.key, value, BPF_ANY.into()).is_err() {
        count(Counter::FlowsFull, 1);
        give_back(new.tally);
        state.stage = stage::IGNORED;
        warn!(
            &ctx,
            "the map of flows is full: a WebSocket is not followed"
        );
        return Counter::Ignored as u64;
    }
    if let Some(hint) = HINTS.get_ptr_mut(passage.key.hint()) {
        // SAFETY: an element of an array is always there.
        unsafe { *hint = 1 };
    }
    // Only now: another CPU that finds it followed expects it there.
    state.stage = stage::FOLLOWED;
    debug!(&ctx, "following flow, epoch {}", state.epoch);
    match account {
        Account::Mine => {
            describe(passage, &origin);
            if origin.kind == RECORD_ARMING {
                ARM
            } else {
                COPY
            }
        }
        Account::Other => Counter::NotOwner as u64,
        Account::Nothing => Counter::Empty as u64,
    }
}

/// Gives a pair of tallies back that no flow has got.
#[inline(always)]
fn give_back(pair: u32) {
    if pair == 0 {
        return;
    }
    for sender in 0..2 {
        if let Some(tally) = TALLIES.get_ptr_mut(element(pair, sender)) {
            // SAFETY: an element of an array is always there.
            unsafe { (*tally).epoch = 0 };
        }
    }
    let _ = FREE_TALLIES.push(pair, 0);
}

/// Takes a pair of tallies for a flow; 0 if there is none left.
#[inline(always)]
fn tally(epoch: u32) -> u32 {
    let Ok(Some(pair)) = FREE_TALLIES.pop() else {
        count(Counter::TalliesUsedUp, 1);
        return 0;
    };
    for sender in 0..2 {
        if let Some(tally) = TALLIES.get_ptr_mut(element(pair, sender)) {
            let words = tally.cast::<u64>();
            for i in 0..TALLY_LEN / 8 {
                // SAFETY: within the element. Volatile, so that no call of `memset` comes of it.
                unsafe { words.add(i).write_volatile(0) };
            }
            // SAFETY: an element of an array is always there.
            unsafe { (*tally).epoch = epoch };
        }
    }
    pair
}
