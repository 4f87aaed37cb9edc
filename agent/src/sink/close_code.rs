//! Names of close codes, from IANA's registry of WebSocket close codes.

use crate::proto::frame::CloseCode;

/// The registered name; for the others the name of their range (RFC 6455, section 7.4.2).
#[must_use]
pub fn name(code: CloseCode) -> &'static str {
    match code.0 {
        1000 => "Normal Closure",
        1001 => "Going Away",
        1002 => "Protocol error",
        1003 => "Unsupported Data",
        1005 => "No Status Rcvd",
        1006 => "Abnormal Closure",
        1007 => "Invalid frame payload data",
        1008 => "Policy Violation",
        1009 => "Message Too Big",
        1010 => "Mandatory Ext.",
        1011 => "Internal Error",
        1012 => "Service Restart",
        1013 => "Try Again Later",
        1014 => "Bad Gateway",
        1015 => "TLS handshake",
        3000 => "Unauthorized",
        3003 => "Forbidden",
        3008 => "Timeout",
        1004 | 1016..=2999 => "reserved",
        3001..=3999 => "unregistered",
        4000..=4999 => "private use",
        ..=999 | 5000.. => "invalid",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_name() {
        for (code, expected) in [
            (0, "invalid"),
            (999, "invalid"),
            (1000, "Normal Closure"),
            (1004, "reserved"),
            (1006, "Abnormal Closure"),
            (2999, "reserved"),
            (3008, "Timeout"),
            (3009, "unregistered"),
            (4999, "private use"),
            (u16::MAX, "invalid"),
        ] {
            assert_eq!(name(CloseCode(code)), expected, "{code}");
        }
    }
}
