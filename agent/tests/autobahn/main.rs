//! The case groups of the Autobahn test suite, as traffic: what `wstap read` says is held against
//! what was sent, case by case.
//!
//! Each case is sent by the client and by the server, and each of these in segments of whole
//! frames, in segments of one byte, and in segments that are as large as can be. All are connections
//! of one capture, which stays in cargo's folder for temporary files for other dissectors to read.
//! The kernel tests send the same cases over real sockets.

mod cases;

// The unit tests write captures, too.
#[path = "../support/pcap.rs"]
mod pcap;

use std::{fs, net::SocketAddr, path::PathBuf, process::Command};

use etherparse::TcpHeader;

use cases::{
    run::{self, Run},
    said::{self, Said},
    table::Table,
};
use pcap::{Magic, Order, Pcap};

const WSTAP: &str = env!("CARGO_BIN_EXE_wstap");

/// A segment that fits into an IPv4 packet.
const LARGEST: usize = 60_000;

#[test]
fn every_case() {
    let runs = run::all();
    let capture = record(&runs);
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("autobahn");
    fs::create_dir_all(&path).expect("a writable folder");
    let path = path.join("cases.pcap");
    fs::write(&path, capture).expect("a writable folder");
    let mut command = Command::new(WSTAP);
    let output = command.arg("read").args(said::flags()).arg(&path).output();
    let output = output.expect("the binary runs");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && complaint.is_empty(),
        "{complaint}"
    );
    let said = said::by_path(&String::from_utf8_lossy(&output.stdout));
    assert_eq!(said.len(), runs.len(), "connections");
    let mut table = Table::default();
    for run in &runs {
        let lines = said.get(&run.path()).map(Said::lines).unwrap_or_default();
        table.add(run, &run.expected(), &lines);
    }
    table.settle("From a capture:");
}

/// Writes a capture, one connection after the other.
fn record(runs: &[Run]) -> Vec<u8> {
    let mut file = Pcap::new(Order::Little, Magic::Nanoseconds, 1);
    let mut now = 1_700_000_000_000_000_000;
    for (port, run) in (1024u16..).zip(runs) {
        let mut wire = Wire {
            file: &mut file,
            now,
            ends: [([192, 0, 2, 7], port).into(), ([192, 0, 2, 1], 80).into()],
            // The same key with the same numbers would be the same connection behind a NAT.
            next: [0x1000, 0x5000].map(|next: u32| next << 16 | u32::from(port)),
        };
        wire.segment(0, &[], |tcp| tcp.syn = true);
        wire.segment(1, &[], |tcp| (tcp.syn, tcp.ack) = (true, true));
        wire.send(0, run.request("dGhlIHNhbXBsZSBub25jZQ==").as_bytes());
        wire.send(1, run.response("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=").as_bytes());
        let sides = [run.sender, 1 - run.sender];
        for side in sides {
            for piece in run.pieces(side) {
                wire.send(side, &piece);
            }
        }
        for side in sides {
            wire.segment(side, &[], |tcp| (tcp.fin, tcp.ack) = (true, true));
        }
        now = wire.now;
    }
    file.bytes()
}

/// A connection on its way into the capture.
struct Wire<'a> {
    file: &'a mut Pcap,
    now: u64,
    ends: [SocketAddr; 2],
    next: [u32; 2],
}

impl Wire<'_> {
    fn send(&mut self, side: usize, bytes: &[u8]) {
        for piece in bytes.chunks(LARGEST) {
            self.segment(side, piece, |tcp| (tcp.psh, tcp.ack) = (true, true));
        }
    }

    fn segment(&mut self, side: usize, bytes: &[u8], set: impl FnOnce(&mut TcpHeader)) {
        let [source, destination] = [self.ends[side], self.ends[1 - side]];
        let mut header = TcpHeader::new(source.port(), destination.port(), self.next[side], 8192);
        set(&mut header);
        if header.ack {
            header.acknowledgment_number = self.next[1 - side];
        }
        self.next[side] += bytes.len() as u32 + u32::from(header.syn) + u32::from(header.fin);
        let segment = pcap::tcp(&header, bytes);
        let packet = pcap::ethernet(&pcap::ip(source.ip(), destination.ip(), &segment));
        self.now += 1_000;
        self.file.packet(self.now, &packet);
    }
}
