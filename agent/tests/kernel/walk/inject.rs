//! Raw sockets: what is written here is what the other end of the pair of devices receives.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use nix::sys::socket::{MsgFlags, send};

/// Writes Ethernet frames to a device.
pub struct Injector(OwnedFd);

impl Injector {
    /// Opens one in the network namespace of this thread.
    #[track_caller]
    pub fn open(device: &str) -> Self {
        Self::try_open(device).unwrap_or_else(|error| panic!("a raw socket on {device}: {error}"))
    }

    fn try_open(device: &str) -> io::Result<Self> {
        let index = nix::net::if_::if_nametoindex(device)?;
        // Protocol 0: nothing is received.
        // SAFETY: takes numbers alone.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it was opened just now, and nobody else has it.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: integers and bytes, all of which may be 0.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = index as i32;
        // SAFETY: an address of that family and its size.
        let bound = unsafe {
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as u32,
            )
        };
        if bound < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(socket))
    }

    /// Writes one; by the time that this returns, the other end has mostly received it.
    #[track_caller]
    pub fn send(&self, frame: &[u8]) {
        let sent = send(self.0.as_raw_fd(), frame, MsgFlags::empty());
        assert_eq!(sent, Ok(frame.len()), "writing a frame");
    }
}
