//! The cases, once, for all the ways in which they are run: into a capture, over real sockets, and
//! against implementations of others.

pub mod case;
pub mod groups;
pub mod run;
pub mod said;
pub mod table;
