//! The PROXY protocol's header, which load balancers put before what a connection is about (HAProxy's
//! `proxy-protocol.txt`, versions 1 and 2). It is skipped: whose address it names is not the peer's.

/// What bytes at the beginning of a connection are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Preface {
    /// A header of so many bytes.
    Whole(usize),
    /// What may become one.
    Begun,
    /// Something else.
    None,
}

/// Version 2 begins with this.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Behind the signature: version and command, family, and the length of what follows.
const V2_FIXED: usize = SIGNATURE.len() + 4;

/// Version 1 is a line that begins so and is no longer than [`V1_LONGEST`], its end included.
const V1: [&[u8]; 3] = [b"PROXY TCP4 ", b"PROXY TCP6 ", b"PROXY UNKNOWN"];
const V1_LONGEST: usize = 107;

impl Preface {
    /// What `bytes` are or begin with.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let begins = |with: &[u8]| bytes.iter().zip(with).all(|(a, b)| a == b);
        if begins(SIGNATURE) {
            let length = match bytes.get(V2_FIXED - 4..V2_FIXED) {
                None => return Self::Begun,
                // The upper half of the first byte is the version.
                Some(&[version, _, high, low]) if version >> 4 == 2 => [high, low],
                Some(_) => return Self::None,
            };
            let whole = V2_FIXED + usize::from(u16::from_be_bytes(length));
            if bytes.len() < whole {
                return Self::Begun;
            }
            return Self::Whole(whole);
        }
        if !V1.iter().any(|v1| begins(v1)) {
            return Self::None;
        }
        let line = bytes.get(..V1_LONGEST).unwrap_or(bytes);
        match line.iter().position(|byte| *byte == b'\n') {
            Some(at) => Self::Whole(at + 1),
            None if line.len() < V1_LONGEST => Self::Begun,
            None => Self::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_told_by_what_they_begin_with() {
        let v2 = [SIGNATURE, &[0x21, 0x11, 0, 12], &[9; 12], b"GET"].concat();
        for (bytes, preface) in [
            (
                &b"PROXY TCP4 192.0.2.1 192.0.2.2 1 80\r\nGET / HTTP/1.1"[..],
                Preface::Whole(37),
            ),
            (b"PROXY UNKNOWN\r\n", Preface::Whole(15)),
            (b"PROXY TCP6 ", Preface::Begun),
            (b"PROX", Preface::Begun),
            (b"", Preface::Begun),
            (b"\r\n", Preface::Begun),
            (&v2[..20], Preface::Begun),
            (&v2, Preface::Whole(28)),
            (b"PROXY / HTTP/1.1\r\n", Preface::None),
            (b"POST", Preface::None),
            (b"\r\nGET", Preface::None),
            (b"\r\n\r\n\0\r\nQUIT\n\x31\0\0\0", Preface::None),
            (&[b"PROXY TCP4 ", &[b'1'; 200][..]].concat(), Preface::None),
        ] {
            assert_eq!(Preface::of(bytes), preface, "{bytes:?}");
        }
    }
}
