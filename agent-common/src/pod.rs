//! Tells aya which of the types of this crate are plain data.

use crate::{
    flow::{Cursor, CursorKey, FlowKey, FlowState, Followed, Vantage, Verdict},
    tally::Tally,
};

// SAFETY: `repr(C)`, integers and byte arrays only, no implicit padding (sizes are asserted beside
// each type), every bit pattern valid.
unsafe impl aya::Pod for FlowKey {}
// SAFETY: as above.
unsafe impl aya::Pod for FlowState {}
// SAFETY: as above.
unsafe impl aya::Pod for Followed {}
// SAFETY: as above.
unsafe impl aya::Pod for Verdict {}
// SAFETY: as above.
unsafe impl aya::Pod for CursorKey {}
// SAFETY: as above.
unsafe impl aya::Pod for Cursor {}
// SAFETY: as above.
unsafe impl aya::Pod for Tally {}
// SAFETY: as above.
unsafe impl aya::Pod for Vantage {}
