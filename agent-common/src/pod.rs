//! Tells aya which of the types of this crate are plain data.

use crate::flow::{FlowKey, FlowState, Verdict};

// SAFETY: `repr(C)`, integers and byte arrays only, no implicit padding (sizes are asserted beside
// each type), every bit pattern valid.
unsafe impl aya::Pod for FlowKey {}
// SAFETY: as above.
unsafe impl aya::Pod for FlowState {}
// SAFETY: as above.
unsafe impl aya::Pod for Verdict {}
