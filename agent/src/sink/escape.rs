//! Bytes from the network, made fit for a terminal: no control character, nothing that changes the
//! direction of text or hides, no invalid UTF-8 gets through.

use std::fmt::Write;

/// Whether a terminal may do more with `c` than show it: control characters (C0, DEL, C1), line
/// and paragraph separators, and the invisible ones that reorder, join or tag what is around them
/// (the "Trojan Source" set among these).
#[must_use]
pub fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{00ad}'
                | '\u{061c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// Appends `text` with hostile characters escaped as Rust does (`\n`, `\u{1b}`), at most
/// `max` characters of it; `…` stands for the rest.
pub fn text(out: &mut String, text: &str, max: usize) {
    for (at, c) in text.chars().enumerate() {
        if at == max {
            out.push('…');
            return;
        }
        character(out, c);
    }
}

/// Appends `text` in quotes, as [`text`], with `"` escaped too.
pub fn quoted(out: &mut String, text: &str, max: usize) {
    bytes_quoted(out, text.as_bytes(), max, false);
}

/// Appends bytes that are meant to be UTF-8, in quotes, as [`quoted`]; bytes that are not UTF-8
/// become `\x` and two hex digits. Where `cut` says that there was more, `…` stands for it.
pub fn bytes_quoted(out: &mut String, bytes: &[u8], max: usize, cut: bool) {
    let mut left = max;
    let mut cut = cut;
    out.push('"');
    'all: for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if left == 0 {
                cut = true;
                break 'all;
            }
            left -= 1;
            if c == '"' {
                out.push_str("\\\"");
            } else {
                character(out, c);
            }
        }
        for byte in chunk.invalid() {
            if left == 0 {
                cut = true;
                break 'all;
            }
            left -= 1;
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out.push('"');
    if cut {
        out.push('…');
    }
}

/// Appends bytes as hex digits, at most `max` bytes; `…` stands for the rest.
pub fn hex(out: &mut String, bytes: &[u8], max: usize, cut: bool) {
    for byte in bytes.iter().take(max) {
        let _ = write!(out, "{byte:02x}");
    }
    if cut || bytes.len() > max {
        out.push('…');
    }
}

fn character(out: &mut String, c: char) {
    match c {
        '\\' => out.push_str("\\\\"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        c if is_hostile(c) => {
            let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
        }
        c => out.push(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(input: &[u8]) -> String {
        let mut out = String::new();
        bytes_quoted(&mut out, input, 1000, false);
        out
    }

    #[test]
    fn what_a_terminal_obeys_is_escaped() {
        assert_eq!(shown(b"a\x1b[2Jb\x07"), r#""a\u{1b}[2Jb\u{7}""#);
        assert_eq!(shown("\u{9b}31m".as_bytes()), r#""\u{9b}31m""#);
        assert_eq!(
            shown("\u{202e}gpj\u{2066}\u{2069}".as_bytes()),
            r#""\u{202e}gpj\u{2066}\u{2069}""#
        );
        assert_eq!(shown(b"\xff\xfe ok \xc3"), r#""\xff\xfe ok \xc3""#);
        assert_eq!(shown(b"say \"hi\"\\\r\n"), r#""say \"hi\"\\\r\n""#);
    }

    #[test]
    fn what_is_only_text_stays() {
        assert_eq!(shown("grüße, 世界 🎉".as_bytes()), "\"grüße, 世界 🎉\"");
    }

    #[test]
    fn long_text_is_cut_at_a_character() {
        let mut out = String::new();
        text(&mut out, "äöü", 2);
        assert_eq!(out, "äö…");
        out.clear();
        quoted(&mut out, "äöü", 3);
        assert_eq!(out, "\"äöü\"");
        out.clear();
        hex(&mut out, &[1, 0xab, 3], 2, false);
        assert_eq!(out, "01ab…");
    }
}
