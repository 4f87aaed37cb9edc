//! What a search costs a byte, on what makes it dear.

use std::time::{Duration, Instant};

use crate::{
    traffic::{Random, SEGMENT},
    watch::Silent,
};

/// Bytes of each measurement, unless the time is up first.
const BYTES: u64 = 20_000_000;
const TIME: Duration = Duration::from_secs(3);

/// Patterns that are repeated, or made anew for each segment.
fn patterns(random: &mut Random) -> Vec<(&'static str, Vec<u8>)> {
    let mut noise = vec![0; 1 << 20];
    random.fill(&mut noise);
    let repeat = |pattern: &[u8]| pattern.repeat((1 << 20) / pattern.len());
    // Headers that go together, of lengths that lead from each to another.
    let mut dense = Vec::new();
    while dense.len() < 1 << 20 {
        dense.push(random.of(&[0x82, 0x81, 0x8a, 0x89, 0xc1, 0xc2]));
        dense.push(random.of(&[0, 1, 2, 3, 4]));
    }
    let mut masked = Vec::new();
    while masked.len() < 1 << 20 {
        masked.push(random.of(&[0x82, 0x81, 0x8a, 0x89]));
        masked.push(random.of(&[0x80, 0x81, 0x82, 0x83, 0x84]));
    }
    vec![
        ("random", noise),
        ("zeros", repeat(&[0])),
        ("82 00", repeat(&[0x82, 0])),
        ("82 01 00", repeat(&[0x82, 1, 0])),
        ("82 01", repeat(&[0x82, 1])),
        ("81 03", repeat(&[0x81, 3])),
        ("8a 02 89 02", repeat(&[0x8a, 2, 0x89, 2])),
        ("82 80 and a key", repeat(&[0x82, 0x80, 1, 2, 3, 4])),
        ("82 81", repeat(&[0x82, 0x81])),
        ("short headers", dense),
        ("short masked headers", masked),
    ]
}

/// Prints what each pattern takes.
pub fn table(seed: u64) {
    println!("\nWork: bytes that are searched without end");
    println!(
        "{:<24}{:<8}{:>10}{:>12}{:>12}{:>12}{:>8}",
        "payload", "sender", "segments", "MB", "MB/s", "held B", "syncs"
    );
    let mut random = Random::new(seed);
    for (name, bytes) in patterns(&mut random) {
        for masked in [false, true] {
            for segment in [SEGMENT, 65_160, 16] {
                let mut silent = Silent::new(masked);
                let begun = Instant::now();
                let mut done = 0;
                'all: loop {
                    for piece in bytes.chunks(segment) {
                        silent.deliver(piece);
                        done += piece.len() as u64;
                        if done >= BYTES || begun.elapsed() > TIME {
                            break 'all;
                        }
                    }
                }
                let time = begun.elapsed().as_secs_f64();
                println!(
                    "{name:<24}{:<8}{segment:>10}{:>12.1}{:>12.2}{:>12}{:>8}",
                    crate::side(masked),
                    done as f64 / 1e6,
                    done as f64 / 1e6 / time,
                    silent.held(),
                    silent.syncs(),
                );
            }
        }
    }
}
