//! Where segments come from.

pub mod capture;
pub mod kernel;
