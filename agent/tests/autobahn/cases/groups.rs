//! The groups of the public list, with what RFC 6455 and RFC 7692 say of each case.
//!
//! A case that there is another one in several writes is here the same one in another cut, but for
//! those that are about writes of so many octets.

use flate2::{Compress, Compression, FlushCompress};

use super::case::{BINARY, Case, FIN, PING, PONG, TEXT, body};

/// All of them.
pub fn all() -> Vec<Case> {
    let groups = [
        framing(),
        pings(),
        reserved_bits(),
        opcodes(),
        fragmentation(),
        utf8(),
        closing(),
        close_codes(),
        limits(),
        compression(),
    ];
    groups.concat()
}

/// 1: lengths in each of their three forms.
fn framing() -> Vec<Case> {
    let sizes = [0, 125, 126, 127, 128, 65535, 65536];
    let mut cases = Vec::new();
    for (n, size) in (1..).zip(sizes) {
        cases.push(Case::new(format!("1.1.{n}")).text(vec![b'*'; size]));
        cases.push(Case::new(format!("1.2.{n}")).binary(vec![0xfe; size]));
    }
    let (text, binary) = (vec![b'*'; 65536], vec![0xfe; 65536]);
    cases.push(Case::new("1.1.8").text(text).in_chops(997));
    cases.push(Case::new("1.2.8").binary(binary).in_chops(997));
    cases
}

/// 2: pings, pongs, unsolicited pongs.
fn pings() -> Vec<Case> {
    let long = [0xfe; 125];
    let mut ten = Case::new("2.10");
    for n in 0..10 {
        ten = ten.frame(PING, format!("payload-{n}"));
    }
    for n in 0..10 {
        ten = ten.pong(format!("payload-{n}"));
    }
    vec![
        Case::new("2.1").frame(PING, "").pong(""),
        Case::new("2.2")
            .frame(PING, "Hello, world!")
            .pong("Hello, world!"),
        Case::new("2.3")
            .frame(PING, b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff")
            .pong(b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff"),
        Case::new("2.4").frame(PING, long).pong(long),
        Case::new("2.5")
            .frame(PING, [0xfe; 126])
            .breaks("oversized_control", 1),
        Case::new("2.7").frame(PONG, ""),
        Case::new("2.8").frame(PONG, "unsolicited pong payload"),
        Case::new("2.9")
            .frame(PONG, "unsolicited pong payload")
            .frame(PING, "ping payload")
            .pong("ping payload"),
        ten,
    ]
}

/// 3: reserved bits without an extension that gives them a meaning (RFC 6455, section 5.2).
fn reserved_bits() -> Vec<Case> {
    let small = "Hello, world!";
    let broken = |id: &str, rsv: u8| {
        let case = Case::new(id).text(small);
        case.frame(FIN | rsv << 4 | TEXT, small)
            .message("text", small.len(), 1)
            .frame(PING, "")
            .pong("")
            .breaks("reserved_bits", 1)
    };
    vec![
        Case::new("3.1")
            .frame(FIN | 1 << 4 | TEXT, small)
            .message("text", small.len(), 1)
            .breaks("reserved_bits", 1),
        broken("3.2", 2),
        broken("3.3", 3),
        broken("3.4", 4),
        Case::new("3.5")
            .frame(FIN | 5 << 4 | BINARY, [0xff; 8])
            .message("binary", 8, 1)
            .breaks("reserved_bits", 1),
        Case::new("3.6")
            .frame(PING | 6 << 4, small)
            .pong(small)
            .breaks("reserved_bits", 1),
        Case {
            ending: Case::new("").close(&[], 1005, "").ending,
            ..Case::new("3.7")
                .frame(0x88 | 7 << 4, "")
                .breaks("reserved_bits", 1)
        },
    ]
}

/// 4: reserved opcodes, of data and of control frames.
fn opcodes() -> Vec<Case> {
    let small = "Hello, world!";
    let mut cases = Vec::new();
    for (group, opcodes) in [("4.1", 3..=7), ("4.2", 11..=15)] {
        for (n, opcode) in (1..).zip(opcodes) {
            let id = format!("{group}.{n}");
            let case = match n {
                1 => Case::new(id).frame(FIN | opcode, ""),
                2 => Case::new(id).frame(FIN | opcode, "reserved opcode payload"),
                _ => Case::new(id)
                    .text(small)
                    .frame(FIN | opcode, if n == 3 { "" } else { "reserved" })
                    .frame(PING, "")
                    .pong(""),
            };
            cases.push(case.breaks("reserved_opcode", 1));
        }
    }
    cases
}

/// 5: fragments, control frames between them, and continuations of nothing.
fn fragmentation() -> Vec<Case> {
    let fragmented = |id: &str| {
        Case::new(id)
            .frame(TEXT, "fragment1")
            .frame(FIN, "fragment2")
    };
    let mut many = Case::new("5.19")
        .frame(TEXT, "fragment1")
        .frame(0, "fragment2");
    many = many.frame(PING, "pongme 1!");
    many = many.frame(0, "fragment3").frame(0, "fragment4");
    many = many.frame(PING, "pongme 2!").frame(FIN, "fragment5");
    vec![
        Case::new("5.1")
            .frame(0x09, "fragment1")
            .frame(FIN, "fragment2")
            .breaks("fragmented_control", 1)
            .breaks("unexpected_continuation", 1),
        Case::new("5.2")
            .frame(0x0a, "fragment1")
            .frame(FIN, "fragment2")
            .breaks("fragmented_control", 1)
            .breaks("unexpected_continuation", 1),
        fragmented("5.3").message("text", 18, 2),
        Case::new("5.6")
            .frame(TEXT, "fragment1")
            .frame(PING, "ping payload")
            .frame(FIN, "fragment2")
            .message("text", 18, 2)
            .pong("ping payload"),
        Case::new("5.9")
            .frame(FIN, "non-continuation payload")
            .text("Hello, world!")
            .breaks("unexpected_continuation", 1),
        Case::new("5.12")
            .frame(0, "non-continuation payload")
            .text("Hello, world!")
            .breaks("unexpected_continuation", 1),
        fragmented("5.15")
            .message("text", 18, 2)
            .frame(0, "fragment3")
            .text("fragment4")
            .breaks("unexpected_continuation", 1),
        Case::new("5.16")
            .frame(0, "fragment1")
            .frame(TEXT, "fragment2")
            .frame(FIN, "fragment3")
            .message("text", 18, 2)
            .frame(0, "fragment4")
            .frame(TEXT, "fragment5")
            .frame(FIN, "fragment6")
            .message("text", 18, 2)
            .breaks("unexpected_continuation", 2),
        Case::new("5.17")
            .frame(FIN, "fragment1")
            .frame(TEXT, "fragment2")
            .frame(FIN, "fragment3")
            .message("text", 18, 2)
            .frame(FIN, "fragment4")
            .frame(TEXT, "fragment5")
            .frame(FIN, "fragment6")
            .message("text", 18, 2)
            .breaks("unexpected_continuation", 2),
        // The second begins a message where the first is not complete.
        Case::new("5.18")
            .frame(TEXT, "fragment1")
            .frame(FIN | TEXT, "fragment2")
            .message("text", 9, 1)
            .breaks("expected_continuation", 1),
        many.message("text", 45, 5)
            .pong("pongme 1!")
            .pong("pongme 2!"),
    ]
}

/// 6: texts that are UTF-8, and texts that are not (RFC 6455, section 8.1; RFC 3629).
fn utf8() -> Vec<Case> {
    let valid: [(&str, &[u8]); 17] = [
        ("6.1.1", b""),
        (
            "6.2.1",
            "Hello-\u{b5}@\u{df}\u{f6}\u{e4}\u{fc}\u{e0}\u{e1}-UTF-8!!".as_bytes(),
        ),
        ("6.5.1", "\u{3ba}\u{1f79}\u{3c3}\u{3bc}\u{3b5}".as_bytes()),
        ("6.6.2", b"\xce\xba"),
        ("6.6.5", b"\xce\xba\xe1\xbd\xb9"),
        ("6.7.1", b"\x00"),
        ("6.7.2", b"\xc2\x80"),
        ("6.7.3", b"\xe0\xa0\x80"),
        ("6.7.4", b"\xf0\x90\x80\x80"),
        ("6.9.1", b"\x7f"),
        ("6.9.2", b"\xdf\xbf"),
        ("6.9.3", b"\xef\xbf\xbf"),
        ("6.9.4", b"\xf4\x8f\xbf\xbf"),
        ("6.11.1", b"\xed\x9f\xbf"),
        ("6.11.2", b"\xee\x80\x80"),
        ("6.11.3", b"\xef\xbf\xbd"),
        ("6.11.4", b"\xf4\x8f\xbf\xbf"),
    ];
    let invalid: [(&str, &[u8]); 53] = [
        (
            "6.3.1",
            b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
        ),
        (
            "6.4.1",
            b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xf4\x90\x80\x80edited",
        ),
        ("6.6.1", b"\xce"),
        ("6.6.3", b"\xce\xba\xe1"),
        ("6.6.4", b"\xce\xba\xe1\xbd"),
        ("6.8.1", b"\xf8\x88\x80\x80\x80"),
        ("6.8.2", b"\xfc\x84\x80\x80\x80\x80"),
        ("6.10.1", b"\xf7\xbf\xbf\xbf"),
        ("6.10.2", b"\xfb\xbf\xbf\xbf\xbf"),
        ("6.10.3", b"\xfd\xbf\xbf\xbf\xbf\xbf"),
        ("6.11.5", b"\xf4\x90\x80\x80"),
        ("6.12.1", b"\x80"),
        ("6.12.2", b"\xbf"),
        ("6.12.3", b"\x80\xbf"),
        ("6.12.4", b"\x80\xbf\x80"),
        ("6.12.5", b"\x80\xbf\x80\xbf"),
        ("6.12.6", b"\x80\xbf\x80\xbf\x80"),
        ("6.12.7", b"\x80\xbf\x80\xbf\x80\xbf"),
        ("6.12.8", b"\x80\xbf\x80\xbf\x80\xbf\x80\xbe"),
        ("6.13.1", b"\xc0 \xc1 \xc2 \xc3 "),
        ("6.13.2", b"\xe0 \xe1 \xe2 "),
        ("6.13.3", b"\xf0 \xf1 "),
        ("6.13.4", b"\xf8 \xf9 \xfa "),
        ("6.13.5", b"\xfc \xfd "),
        ("6.14.1", b"\xc0"),
        ("6.14.2", b"\xe0\x80"),
        ("6.14.3", b"\xf0\x80\x80"),
        ("6.14.4", b"\xf8\x80\x80\x80"),
        ("6.14.5", b"\xfc\x80\x80\x80\x80"),
        ("6.14.6", b"\xdf"),
        ("6.14.7", b"\xef\xbf"),
        ("6.14.8", b"\xf7\xbf\xbf"),
        ("6.14.9", b"\xfb\xbf\xbf\xbf"),
        ("6.14.10", b"\xfd\xbf\xbf\xbf\xbf"),
        ("6.15.1", b"\xc0\xe0\x80\xf0\x80\x80"),
        ("6.16.1", b"\xfe"),
        ("6.16.2", b"\xff"),
        ("6.16.3", b"\xfe\xfe\xff\xff"),
        ("6.17.1", b"\xc0\xaf"),
        ("6.17.2", b"\xe0\x80\xaf"),
        ("6.17.3", b"\xf0\x80\x80\xaf"),
        ("6.17.4", b"\xf8\x80\x80\x80\xaf"),
        ("6.17.5", b"\xfc\x80\x80\x80\x80\xaf"),
        ("6.18.1", b"\xc1\xbf"),
        ("6.18.2", b"\xe0\x9f\xbf"),
        ("6.18.3", b"\xf0\x8f\xbf\xbf"),
        ("6.18.4", b"\xf8\x87\xbf\xbf\xbf"),
        ("6.18.5", b"\xfc\x83\xbf\xbf\xbf\xbf"),
        ("6.19.1", b"\xc0\x80"),
        ("6.19.2", b"\xe0\x80\x80"),
        ("6.19.3", b"\xf0\x80\x80\x80"),
        ("6.19.4", b"\xf8\x80\x80\x80\x80"),
        ("6.19.5", b"\xfc\x80\x80\x80\x80\x80"),
    ];
    let mut valid: Vec<_> = (valid.iter())
        .map(|(id, text)| ((*id).to_owned(), text.to_vec()))
        .collect();
    // Characters that are none are encoded all the same, and so are special ones.
    let ends = (0..=16u32).flat_map(|plane| [plane << 16 | 0xfffe, plane << 16 | 0xffff]);
    for (group, points) in [
        ("6.22", ends.collect()),
        ("6.23", Vec::from_iter(0xfff9..=0xffff)),
    ] {
        let texts = points.into_iter().filter_map(char::from_u32);
        let texts = (1..).zip(texts.map(|c| c.to_string().into_bytes()));
        valid.extend(texts.map(|(n, text)| (format!("{group}.{n}"), text)));
    }
    let mut invalid: Vec<_> = (invalid.iter())
        .map(|(id, text)| ((*id).to_owned(), text.to_vec()))
        .collect();
    // Surrogates, alone and as a pair, are no characters.
    let alone = [0xd800u16, 0xdb7f, 0xdb80, 0xdbff, 0xdc00, 0xdf80, 0xdfff];
    for (n, surrogate) in (1..).zip(alone) {
        invalid.push((format!("6.20.{n}"), three_octets(surrogate).to_vec()));
    }
    let firsts = [0xd800u16, 0xdb7f, 0xdb80, 0xdbff];
    let pairs = firsts
        .into_iter()
        .flat_map(|first| [(first, 0xdc00), (first, 0xdfff)]);
    for (n, (first, second)) in (1..).zip(pairs) {
        let pair = [three_octets(first), three_octets(second)].concat();
        invalid.push((format!("6.21.{n}"), pair));
    }
    let mut cases = Vec::new();
    for (id, text) in valid {
        cases.push(Case::new(&id).text(&text));
        // In one fragment a byte: characters are cut.
        let mut pieces = Case::new(format!("{id}, fragmented")).frame(TEXT, "");
        for byte in &text {
            pieces = pieces.frame(0, [*byte]);
        }
        cases.push(
            pieces
                .frame(FIN, "")
                .message("text", text.len(), text.len() + 2),
        );
    }
    for (id, text) in invalid {
        cases.push(Case::new(&id).text(&text).breaks("invalid_utf8", 1));
        let (one, other) = text.split_at(text.len() / 2);
        cases.push(
            Case::new(format!("{id}, fragmented"))
                .frame(TEXT, one)
                .frame(FIN, other)
                .message("text", text.len(), 2)
                .breaks("invalid_utf8", 1),
        );
        // What is no text may be anything.
        cases.push(Case::new(format!("{id}, binary")).binary(text));
    }
    cases
}

/// What UTF-8 would encode a surrogate as.
fn three_octets(surrogate: u16) -> [u8; 3] {
    let six = |shift: u16| 0x80 | (surrogate >> shift & 0x3f) as u8;
    [0xe0 | (surrogate >> 12) as u8, six(6), six(0)]
}

/// 7.1 to 7.5: the closing handshake, and what comes after it.
fn closing() -> Vec<Case> {
    let normal = body(1000, "");
    let long = "*".repeat(123);
    vec![
        Case::new("7.1.1")
            .text("Hello World!")
            .close(&normal, 1000, "")
            .answered(&normal),
        Case::new("7.1.2")
            .close(&normal, 1000, "")
            .close(&normal, 1000, "")
            .answered(&normal)
            .breaks("data_after_close", 1),
        Case::new("7.1.3").close(&normal, 1000, "").frame(PING, ""),
        Case::new("7.1.4")
            .close(&normal, 1000, "")
            .text("Hello World!")
            .breaks("data_after_close", 1),
        Case::new("7.1.5")
            .frame(TEXT, "fragment1")
            .close(&normal, 1000, "")
            .frame(FIN, "fragment2")
            .message("text", 18, 2)
            .breaks("data_after_close", 1),
        Case::new("7.1.6")
            .text(vec![b'B'; 262_144])
            .text("Hello World!")
            .close(&normal, 1000, "")
            .frame(PING, ""),
        Case::new("7.3.1").close(&[], 1005, "").answered(&[]),
        Case::new("7.3.2")
            .close(b"a", 1005, "")
            .breaks("invalid_close_length", 1),
        Case::new("7.3.3")
            .close(&normal, 1000, "")
            .answered(&normal),
        Case::new("7.3.4")
            .close(&body(1000, "Hello World!"), 1000, "Hello World!")
            .answered(&normal),
        Case::new("7.3.5")
            .close(&body(1000, &long), 1000, &long)
            .answered(&normal),
        Case::new("7.3.6")
            .close(&body(1000, "*".repeat(124)), 1000, &"*".repeat(124))
            .breaks("oversized_control", 1),
        Case::new("7.5.1")
            .close(
                &body(1000, b"\xce\xba\xed\xa0\x80"),
                1000,
                "\u{3ba}\u{fffd}\u{fffd}\u{fffd}",
            )
            .breaks("invalid_utf8", 1),
    ]
}

/// 7.7, 7.9 and 7.13: close codes (RFC 6455, section 7.4, and the registry).
fn close_codes() -> Vec<Case> {
    let valid = [
        1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999,
    ];
    let invalid = [0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999];
    let mut cases = Vec::new();
    for (n, code) in (1..).zip(valid) {
        let close = body(code, "");
        cases.push(
            Case::new(format!("7.7.{n}"))
                .close(&close, code, "")
                .answered(&close),
        );
    }
    let beyond = [("7.13.1", 5000), ("7.13.2", 65535)];
    let named = (1..)
        .zip(invalid)
        .map(|(n, code)| (format!("7.9.{n}"), code));
    let beyond = beyond.map(|(id, code)| (id.to_owned(), code));
    for (id, code) in named.chain(beyond) {
        cases.push(
            Case::new(id)
                .close(&body(code, ""), code, "")
                .breaks("invalid_close_code", 1),
        );
    }
    cases
}

/// 9 and 10: long messages, short fragments of long messages, many messages. Up to 1 MiB, where the
/// list has 16.
fn limits() -> Vec<Case> {
    let sizes = [1 << 16, 1 << 18, 1 << 20];
    let mut cases = Vec::new();
    for (n, size) in (1..).zip(sizes) {
        cases.push(Case::new(format!("9.1.{n}")).text(vec![b'*'; size]));
        cases.push(Case::new(format!("9.2.{n}")).binary(vec![0xfe; size]));
    }
    for (group, first, kind) in [("9.3", TEXT, "text"), ("9.4", BINARY, "binary")] {
        for (n, size) in (1..).zip([64, 256, 1 << 10, 1 << 12, 1 << 14, 1 << 16]) {
            let total = 1 << 17;
            let count = total / size;
            let mut case = Case::new(format!("{group}.{n}"));
            for i in 0..count {
                let fin = if i + 1 == count { FIN } else { 0 };
                let opcode = if i == 0 { first } else { 0 };
                case = case.frame(fin | opcode, vec![b'*'; size]);
            }
            cases.push(case.message(kind, total, count));
        }
    }
    for (n, octets) in (1..).zip([64, 128, 256, 512, 1024, 2048]) {
        let (texts, binaries) = (format!("9.5.{n}"), format!("9.6.{n}"));
        let (text, binary) = (vec![b'*'; 1 << 17], vec![0xfe; 1 << 17]);
        cases.push(Case::new(texts).text(text).in_chops(octets));
        cases.push(Case::new(binaries).binary(binary).in_chops(octets));
    }
    for (n, size) in (1..).zip([0, 16, 64, 256]) {
        let (mut texts, mut binaries) =
            (Case::new(format!("9.7.{n}")), Case::new(format!("9.8.{n}")));
        for _ in 0..500 {
            texts = texts.text(vec![b'*'; size]);
            binaries = binaries.binary(vec![0xfe; size]);
        }
        cases.extend([texts, binaries]);
    }
    let mut chopped = Case::new("10.1.1").frame(TEXT, vec![b'*'; 1300]);
    for _ in 0..49 {
        chopped = chopped.frame(0, vec![b'*'; 1300]);
    }
    cases.push(
        chopped
            .frame(FIN, vec![b'*'; 536])
            .message("text", 65536, 51),
    );
    cases
}

/// 12 and 13: permessage-deflate, with the window kept between messages or not.
fn compression() -> Vec<Case> {
    let parameters = [
        ("12", "permessage-deflate"),
        (
            "13.2",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
        ),
        ("13.3", "permessage-deflate; server_max_window_bits=15"),
        (
            "13.5",
            "permessage-deflate; server_max_window_bits=15; server_no_context_takeover; \
             client_no_context_takeover",
        ),
    ];
    let sizes = [16, 64, 256, 1024, 4096, 8192, 16384, 32768, 65536, 131_072];
    let mut cases = Vec::new();
    for (group, extensions) in parameters {
        for (n, size) in (1..).zip(sizes) {
            let mut compressor = Compress::new(Compression::fast(), false);
            let mut case = Case::new(format!("{group}.{n}")).agrees(extensions);
            for message in 0..5 {
                let words = ["lorem ", "ipsum ", "dolor ", "sit ", "amet, "];
                let text: String = (0..)
                    .map(|i| words[(i * i + message + i / 7) % words.len()])
                    .take(size / 4)
                    .collect();
                if extensions.contains("no_context_takeover") {
                    compressor.reset();
                }
                let wire = deflated(&mut compressor, text.as_bytes());
                case = case.compressed(&wire, text.len());
            }
            // Not every message needs to be compressed.
            cases.push(case.text("as it is"));
        }
    }
    // RFC 7692, section 7.2.3: only the first frame says that a message is compressed, and one that
    // does so later breaks a rule.
    cases.push(
        Case::new("12, second frame")
            .agrees("permessage-deflate")
            .frame(TEXT, "one ")
            .frame(FIN | 0x40, "two")
            .message("text", 7, 2)
            .breaks("reserved_bits", 1),
    );
    cases
}

/// A message as RFC 7692, section 7.2.1, compresses it.
fn deflated(compressor: &mut Compress, text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 1024);
    compressor
        .compress_vec(text, &mut out, FlushCompress::Sync)
        .expect("memory to compress into");
    assert!(out.ends_with(&[0, 0, 0xff, 0xff]), "room for all of it");
    out.truncate(out.len() - 4);
    out
}
