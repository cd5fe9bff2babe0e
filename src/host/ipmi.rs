//! Messages to the machine's BMC through `/dev/ipmi0`: one request, one answer, with a limit of time.
//!
//! The driver (Documentation/driver-api/ipmi.rst, include/uapi/linux/ipmi.h) takes a request by
//! `IPMICTL_SEND_COMMAND`, makes the descriptor readable when the answer is there, and gives it by
//! `IPMICTL_RECEIVE_MSG_TRUNC`. The device is opened for each request: what a BMC answers too late is dropped by the
//! kernel with the descriptor, and no open device keeps a driver from being unloaded. The node is for root only (mode
//! 0600) and, in a container, needs an entry in the device cgroup. On a machine in memory the device is a text file.

use std::ffi::{c_int, c_long, c_short, c_uchar, c_uint, c_ushort};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::ioctl::{Opcode, Setter, Updater, ioctl, opcode};

use crate::clock;
use crate::host::script::ERRNOS;
use crate::host::{FILE_MAX, Host, Source};

/// The longest message that the driver carries (`IPMI_MAX_MSG_LENGTH`).
const MESSAGE_MAX: usize = 272;
/// Room for the longest address (`IPMI_MAX_ADDR_SIZE`).
const ADDRESS_MAX: usize = 32;
/// `IPMI_SYSTEM_INTERFACE_ADDR_TYPE`: the BMC itself, behind the system interface.
const SYSTEM_INTERFACE: c_int = 0x0c;
/// `IPMI_BMC_CHANNEL`.
const BMC_CHANNEL: c_short = 0x0f;
/// `IPMI_RESPONSE_RECV_TYPE`; others are events and requests from the BMC.
const RESPONSE: c_int = 1;
/// The number under which a request's answer is known; each has a descriptor of its own.
const MESSAGE: c_long = 1;

const SEND_COMMAND: Opcode = opcode::read::<Request>(b'i', 13);
const RECEIVE_TRUNC: Opcode = opcode::read_write::<Answer>(b'i', 11);

/// `struct ipmi_system_interface_addr`.
#[repr(C)]
struct Address {
    kind: c_int,
    channel: c_short,
    lun: c_uchar,
}

/// `struct ipmi_msg`.
#[repr(C)]
struct Message {
    netfn: c_uchar,
    cmd: c_uchar,
    length: c_ushort,
    data: *mut c_uchar,
}

/// `struct ipmi_req`.
#[repr(C)]
struct Request {
    address: *mut Address,
    address_length: c_uint,
    id: c_long,
    message: Message,
}

/// `struct ipmi_recv`.
#[repr(C)]
struct Answer {
    kind: c_int,
    address: *mut c_uchar,
    address_length: c_uint,
    id: c_long,
    message: Message,
}

impl Host {
    /// Whether the device at `device` is there and may be used.
    ///
    /// # Errors
    /// What the kernel said when it was opened.
    pub fn ipmi_usable(&self, device: &str) -> Result<(), Errno> {
        match &self.source {
            Source::Live(live) | Source::Recording(live, _) => live.open_device(device).map(drop),
            Source::Memory(memory) => memory.borrow().read(device, &mut Vec::new(), 0),
        }
    }

    /// Asks the BMC behind `device` (`dev/ipmi0`) one thing. The answer begins with the completion code.
    ///
    /// A machine in memory has a text file there, with a line `2c 02 dc 01 00 00 = 00 dc c8 00 …` for each request
    /// (`netfn cmd data = answer`, in hex); the answer may be the name of an error. A request without a line is not
    /// answered.
    ///
    /// # Errors
    /// What the kernel said; [`Errno::TIMEDOUT`] if nothing came within `timeout`.
    pub fn ipmi(&self, device: &str, netfn: u8, cmd: u8, data: &[u8], timeout: Duration) -> Result<Vec<u8>, Errno> {
        match &self.source {
            Source::Live(live) | Source::Recording(live, _) => {
                exchange(&live.open_device(device)?, netfn, cmd, data, timeout)
            }
            Source::Memory(memory) => {
                let mut text = Vec::new();
                memory.borrow().read(device, &mut text, FILE_MAX)?;
                scripted(&text, &[&[netfn, cmd], data].concat())
            }
        }
    }
}

/// One request on a descriptor of its own, and its answer.
fn exchange(device: &OwnedFd, netfn: u8, cmd: u8, data: &[u8], timeout: Duration) -> Result<Vec<u8>, Errno> {
    let deadline = clock::now().boot + timeout;
    send(device, netfn, cmd, data)?;
    loop {
        let left = deadline.saturating_sub(clock::now().boot);
        let left = Timespec { tv_sec: left.as_secs().try_into().unwrap_or(0), tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(device, PollFlags::IN)], Some(&left)) {
            Ok(0) => return Err(Errno::TIMEDOUT),
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno),
        }
        match receive(device) {
            Ok(Some(answer)) => return Ok(answer),
            // Somebody else's message, or none after all: what is left of the time is waited for ours.
            Ok(None) | Err(Errno::AGAIN | Errno::INTR) if clock::now().boot < deadline => {}
            Ok(None) => return Err(Errno::TIMEDOUT),
            Err(errno) => return Err(errno),
        }
    }
}

fn send(device: impl AsFd, netfn: u8, cmd: u8, data: &[u8]) -> Result<(), Errno> {
    let mut data = data.to_vec();
    let mut address = Address { kind: SYSTEM_INTERFACE, channel: BMC_CHANNEL, lun: 0 };
    let length = c_ushort::try_from(data.len()).map_err(|_| Errno::MSGSIZE)?;
    let request = Request {
        address: &raw mut address,
        address_length: size::<Address>(),
        id: MESSAGE,
        message: Message { netfn, cmd, length, data: data.as_mut_ptr() },
    };
    // SAFETY: the number is the driver's own, with the size of the structure that it reads. The structure and what it
    // points to (an address of the length given, data of the length given) live until the call returns, and the driver
    // copies them.
    #[allow(unsafe_code)]
    unsafe {
        ioctl(device, Setter::<SEND_COMMAND, Request>::new(request))
    }
}

/// The next message; `None` if it is not the answer to our request.
fn receive(device: impl AsFd) -> Result<Option<Vec<u8>>, Errno> {
    let mut data = vec![0; MESSAGE_MAX];
    let mut address = [0_u64; ADDRESS_MAX / 8];
    let mut answer = Answer {
        kind: 0,
        address: address.as_mut_ptr().cast(),
        address_length: size::<[u64; ADDRESS_MAX / 8]>(),
        id: 0,
        message: Message {
            netfn: 0,
            cmd: 0,
            length: c_ushort::try_from(MESSAGE_MAX).unwrap_or(0),
            data: data.as_mut_ptr(),
        },
    };
    // SAFETY: the number is the driver's own, with the size of the structure that it reads and writes. Both buffers
    // that the structure points to are as long as it says and live until the call returns; the driver writes no more
    // than that and leaves the pointers as they are.
    #[allow(unsafe_code)]
    let result = unsafe { ioctl(device, Updater::<RECEIVE_TRUNC, Answer>::new(&mut answer)) };
    match result {
        // Longer than the buffer: what fitted is there.
        Ok(()) | Err(Errno::MSGSIZE) => {}
        Err(errno) => return Err(errno),
    }
    data.truncate(answer.message.length.into());
    Ok((answer.kind == RESPONSE && answer.id == MESSAGE).then_some(data))
}

fn size<T>() -> c_uint {
    c_uint::try_from(size_of::<T>()).unwrap_or(0)
}

/// The answer that a device in memory has for a request.
fn scripted(text: &[u8], request: &[u8]) -> Result<Vec<u8>, Errno> {
    for line in String::from_utf8_lossy(text).lines() {
        let Some((asked, answer)) = line.split_once('=') else { continue };
        if bytes(asked).as_deref() != Some(request) {
            continue;
        }
        let named = ERRNOS.iter().find(|(name, _)| *name == answer.trim());
        return named.map_or_else(|| bytes(answer).ok_or(Errno::PROTO), |(_, errno)| Err(*errno));
    }
    Err(Errno::TIMEDOUT)
}

/// Bytes in hex with spaces between them.
fn bytes(text: &str) -> Option<Vec<u8>> {
    text.split_ascii_whitespace().map(|byte| u8::from_str_radix(byte, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_pointer_width = "64")]
    fn the_driver_knows_these_numbers() {
        assert_eq!((SEND_COMMAND, RECEIVE_TRUNC), (0x8028_690d, 0xc030_690b));
        assert_eq!((size_of::<Address>(), size_of::<Request>(), size_of::<Answer>()), (8, 40, 48));
    }

    #[test]
    fn a_device_in_memory_answers_line_by_line() {
        let text = b"2c 01 dc 01 = 00 dc\n2c 02 = EACCES\n06 01 =\nnonsense\n06 02 = xyz\n";
        assert_eq!(scripted(text, &[0x2c, 1, 0xdc, 1]), Ok(vec![0, 0xdc]));
        assert_eq!(scripted(text, &[0x2c, 2]), Err(Errno::ACCESS));
        assert_eq!(scripted(text, &[6, 1]), Ok(vec![]));
        assert_eq!(scripted(text, &[6, 2]), Err(Errno::PROTO));
        assert_eq!(scripted(text, &[0x2c]), Err(Errno::TIMEDOUT), "nobody answers");
    }

    #[test]
    fn what_is_no_ipmi_device_says_so() {
        let host = Host::live(&crate::config::HostRoots::default()).unwrap();
        let asked = host.ipmi("dev/null", 6, 1, &[], Duration::from_millis(10));
        assert_eq!(asked, Err(Errno::NOTTY));
        assert_eq!(host.ipmi_usable("dev/no-such-device"), Err(Errno::NOENT));
    }
}
