//! What tests against the finished binary share: network namespaces, peers that count for
//! themselves, the agent as a child process, and the text that it serves.

pub mod agent;
pub mod browser;
pub mod cluster;
pub mod container;
pub mod exposition;
pub mod load;
pub mod machine;
pub mod netns;
pub mod node;
pub mod peers;
pub mod proxy;
pub mod random;
pub mod row;
pub mod tally;
pub mod tap;
pub mod trace;

use std::time::{Duration, Instant};

/// Asks again and again until `probe` has an answer; after `limit`, fails with the last reason.
#[track_caller]
pub fn eventually<T>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> Result<T, String>,
) -> T {
    let start = Instant::now();
    loop {
        match probe() {
            Ok(answer) => return answer,
            Err(reason) if start.elapsed() > limit => {
                panic!("not within {limit:?}: {what}\n{reason}")
            }
            Err(_) => std::thread::sleep(Duration::from_millis(25)),
        }
    }
}
