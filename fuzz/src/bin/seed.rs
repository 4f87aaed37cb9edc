//! Makes seeds of captures: `seed FOLDER CAPTURE...` writes what each conversation is to each
//! target into FOLDER/TARGET. The names follow from the content, so that the same seed is written
//! once.

use std::{
    collections::BTreeMap,
    env, fs,
    hash::{DefaultHasher, Hash, Hasher},
    io::Read,
    net::SocketAddr,
    ops::ControlFlow,
    path::Path,
    process::ExitCode,
};

use wstap::{proto::segment::Segment, source::capture::CaptureFile};
use wstap_common::{
    flow::mapped,
    record::{HEADER_LEN, RECORD_SEGMENT},
};

type Error = Box<dyn std::error::Error>;

/// What a segment is to the targets.
struct Piece {
    server: bool,
    flags: u8,
    seq: u32,
    bytes: Vec<u8>,
}

fn main() -> ExitCode {
    let mut args = env::args_os().skip(1);
    let Some(folder) = args.next() else {
        eprintln!("usage: seed FOLDER CAPTURE...");
        return ExitCode::from(2);
    };
    for capture in args {
        if let Err(error) = seed(Path::new(&folder), Path::new(&capture)) {
            eprintln!("seed: {}: {error}", capture.display());
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn seed(folder: &Path, capture: &Path) -> Result<(), Error> {
    let keep = |target: &str, seed: &[u8]| -> Result<(), Error> {
        let mut hasher = DefaultHasher::new();
        seed.hash(&mut hasher);
        let folder = folder.join(target);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(format!("{:016x}", hasher.finish())), seed)?;
        Ok(())
    };
    let file = fs::read(capture)?;
    keep("capture_file", &file)?;
    for (link, packet) in packets(&file) {
        keep("packet", &[&[link, 0, 0], packet].concat())?;
    }
    let mut connections: BTreeMap<(SocketAddr, SocketAddr), Vec<Piece>> = BTreeMap::new();
    let mut records = Vec::new();
    CaptureFile::open(capture)?.read(&mut |segment| {
        run(&mut records, &record(segment));
        let ends = (segment.source, segment.destination);
        // A capture that does not show the SYN begins with whoever sends first.
        let server = connections.contains_key(&(ends.1, ends.0));
        let key = if server { (ends.1, ends.0) } else { ends };
        connections.entry(key).or_default().push(Piece {
            server,
            flags: segment.flags.0,
            seq: segment.seq.0,
            bytes: captured(segment).to_owned(),
        });
        ControlFlow::Continue(())
    })?;
    keep("kernel_record", &records)?;
    for pieces in connections.values() {
        keep("observer", &observer(pieces))?;
        let http = blocks(pieces, false);
        keep("http_head", &[&[1], http.as_slice()].concat())?;
        let frames = blocks(pieces, true);
        if !frames.is_empty() {
            for settings in [0, 2, 5] {
                keep("frame_stream", &[&[settings], frames.as_slice()].concat())?;
            }
        }
        for message in compressed(&frames) {
            keep("deflate", &[&[15], message].concat())?;
        }
        for list in extensions(pieces) {
            let mut both = vec![0];
            run(&mut both, list.as_bytes());
            both.extend_from_slice(b"permessage-deflate; client_max_window_bits");
            keep("deflate", &both)?;
        }
    }
    Ok(())
}

/// A run as [`wstap_fuzz::input::Input::run`] reads it.
fn run(out: &mut Vec<u8>, bytes: &[u8]) {
    let bytes = bytes.get(..0xffff).unwrap_or(bytes);
    out.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
    out.extend_from_slice(bytes);
}

fn captured<'a>(segment: &Segment<'a>) -> &'a [u8] {
    segment.windows.first().map_or(&[], |window| window.bytes)
}

/// The packets of a pcap file of this machine's byte order, by what `packet` calls its link type.
fn packets(file: &[u8]) -> Vec<(u8, &[u8])> {
    let number = |at: usize| -> Option<usize> {
        let bytes = file.get(at..)?.first_chunk::<4>()?;
        usize::try_from(u32::from_le_bytes(*bytes)).ok()
    };
    let link = match number(20) {
        Some(1) => 0,
        Some(113) => 1,
        Some(276) => 2,
        Some(101) => 3,
        _ => return Vec::new(),
    };
    let mut packets = Vec::new();
    let mut at = 24;
    while let Some(len) = number(at + 8)
        && let Some(packet) = file.get(at + 16..at + 16 + len)
    {
        packets.push((link, packet));
        at += 16 + len;
    }
    packets
}

/// A segment as the kernel program writes it.
fn record(segment: &Segment<'_>) -> Vec<u8> {
    let bytes = captured(segment);
    let mut record = Vec::with_capacity(HEADER_LEN + bytes.len());
    record.extend_from_slice(&segment.ts.0.to_ne_bytes());
    for number in [1u32, 1] {
        record.extend_from_slice(&number.to_ne_bytes());
    }
    for end in [segment.source, segment.destination] {
        record.extend_from_slice(&mapped(end.ip()));
    }
    for end in [segment.source, segment.destination] {
        record.extend_from_slice(&end.port().to_ne_bytes());
    }
    let ack = segment.ack.map_or(0, |ack| ack.0);
    for number in [segment.seq.0, ack, segment.len, bytes.len() as u32] {
        record.extend_from_slice(&number.to_ne_bytes());
    }
    record.extend_from_slice(&segment.window.to_ne_bytes());
    record.extend_from_slice(&[segment.flags.0, 0]);
    for number in [RECORD_SEGMENT, 0] {
        record.extend_from_slice(&number.to_ne_bytes());
    }
    record.extend_from_slice(bytes);
    record
}

/// The steps of `observer`.
fn observer(pieces: &[Piece]) -> Vec<u8> {
    let mut out = vec![8 | 16];
    for piece in pieces {
        let side = u8::from(piece.server) << 3;
        if !piece.bytes.is_empty() {
            out.push(side);
            run(&mut out, &piece.bytes);
        }
        if piece.bytes.is_empty() || piece.flags & 0x07 != 0 {
            out.extend_from_slice(&[side | 3, piece.flags]);
        }
        out.extend_from_slice(&[4, 0, 20]);
    }
    out
}

/// The blocks of a conversation, in the order of the capture and each byte once; without the
/// handshake where it is not wanted.
fn blocks(pieces: &[Piece], only_frames: bool) -> Vec<u8> {
    let mut out = Vec::new();
    let mut next = [None; 2];
    let mut opened = [!only_frames; 2];
    for piece in pieces {
        if piece.bytes.is_empty() {
            continue;
        }
        let side = usize::from(piece.server);
        if next[side].is_some_and(|next: u32| piece.seq.wrapping_sub(next).cast_signed() < 0) {
            continue;
        }
        next[side] = Some(piece.seq.wrapping_add(piece.bytes.len() as u32));
        let mut bytes = piece.bytes.as_slice();
        if !opened[side] {
            let head = bytes.windows(4).position(|window| window == b"\r\n\r\n");
            let Some(head) = head else { continue };
            opened[side] = true;
            bytes = &bytes[head + 4..];
        }
        if !bytes.is_empty() {
            out.push(u8::from(piece.server) << 7 | (out.len() & 0x7f) as u8);
            run(&mut out, bytes);
        }
    }
    out
}

/// Payloads of unmasked compressed frames that begin a block and are short.
fn compressed(mut blocks: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    while let [_, high, low, rest @ ..] = blocks {
        let len = usize::from(u16::from_be_bytes([*high, *low]));
        let (block, behind) = rest.split_at(len.min(rest.len()));
        if let [0xc1 | 0xc2, len @ 0..=125, payload @ ..] = block {
            found.extend(payload.get(..usize::from(*len)));
        }
        blocks = behind;
    }
    found
}

/// Values of `Sec-WebSocket-Extensions`.
fn extensions(pieces: &[Piece]) -> Vec<String> {
    let mut found = Vec::new();
    for piece in pieces {
        let mut text = String::new();
        let mut bytes = piece.bytes.as_slice().take(4096);
        // Frames are no text, and have no such header.
        if bytes.read_to_string(&mut text).is_err() {
            continue;
        }
        found.extend(text.lines().filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            let is = name.eq_ignore_ascii_case("Sec-WebSocket-Extensions");
            is.then(|| value.trim().to_owned())
        }));
    }
    found
}
