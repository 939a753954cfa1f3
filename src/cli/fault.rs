//! SIGBUS: bytes of a mapped file cannot be read, because another process shortened it or its disk failed. The process
//! ends with one line that names the file, and the exit code of an I/O error. Locks end with the process, and nothing has
//! its final name yet.
//!
//! A handler may run between any two instructions, so it calls nothing but the kernel: no allocation, no lock. Which file
//! lies at the address, the kernel's own list of maps tells.

#![allow(unsafe_code, reason = "a signal handler cannot be made without it")]

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicBool, Ordering};

/// As of [`taskvec::Error::Io`].
const EXIT_CODE: c_int = 74;

/// The longest line of the kernel's list that is looked at: two addresses, some fields and a path of 4096 bytes.
const LINE_BYTES: usize = 4352;

const WHAT: &[u8] =
    b": a part of this file that was there when it was opened cannot be read: another process shortened it, or \
    its disk failed; nothing was published. Run again when nobody writes to it; --io pread tells the two apart\n";

/// Installs the handler.
pub fn watch() {
    // SAFETY: zeros are a valid `sigaction` without flags; the handler has the type that SA_SIGINFO asks for.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handle as extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut());
    }
}

extern "C" fn handle(_: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    static TOLD: AtomicBool = AtomicBool::new(false);
    // SAFETY: the kernel passes a valid `siginfo_t` for this signal; the calls are on the list of signal-safety(7).
    unsafe {
        let mut line = [0; LINE_BYTES];
        let address = (*info).si_addr() as usize;
        let Some(length) = line_of(address, &mut line) else {
            // Not of a file: as if there were no handler, once the instruction is tried again.
            libc::signal(libc::SIGBUS, libc::SIG_DFL);
            return;
        };
        if TOLD.swap(true, Ordering::Relaxed) {
            // Another thread met it first, and ends the process.
            libc::sleep(60);
        }
        let path = path_of(&mut line[..length]);
        for text in [b"error: ", path, WHAT] {
            libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len());
        }
        libc::_exit(EXIT_CODE);
    }
}

/// Fills `line` with the entry of the shared map of a file at `address`; its length.
unsafe fn line_of(address: usize, line: &mut [u8; LINE_BYTES]) -> Option<usize> {
    // SAFETY: the path ends with a zero; `read` gets a buffer and its length.
    unsafe {
        let maps = libc::open(c"/proc/self/maps".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        let (mut piece, mut length) = ([0u8; 1024], 0);
        loop {
            let read = usize::try_from(libc::read(maps, piece.as_mut_ptr().cast(), piece.len())).ok()?;
            for &byte in &piece[..read] {
                if byte != b'\n' {
                    if let Some(place) = line.get_mut(length) {
                        *place = byte;
                        length += 1;
                    }
                } else if is_shared_file_at(&line[..length], address) {
                    return Some(length);
                } else {
                    length = 0;
                }
            }
            if read == 0 {
                return None;
            }
        }
    }
}

/// Whether a line such as `7f00-7fff r--s 00000000 08:01 12 /path` is of a shared map of a file, and holds `address`.
fn is_shared_file_at(line: &[u8], address: usize) -> bool {
    let (start, rest) = hexadecimal(line);
    let (end, rest) = hexadecimal(rest.get(1..).unwrap_or_default());
    (start..end).contains(&address) && rest.get(4) == Some(&b's') && rest.contains(&b'/')
}

fn hexadecimal(text: &[u8]) -> (usize, &[u8]) {
    let mut value = 0;
    let mut digits = 0;
    while let Some(digit) = text.get(digits).and_then(|b| char::from(*b).to_digit(16)) {
        value = value << 4 | digit as usize;
        digits += 1;
    }
    (value, &text[digits..])
}

/// The path at the end of a line, without control characters.
fn path_of(line: &mut [u8]) -> &[u8] {
    let start = line.iter().position(|b| *b == b'/').unwrap_or(line.len());
    let path = &mut line[start..];
    path.iter_mut().filter(|b| b.is_ascii_control()).for_each(|b| *b = b'?');
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_an_address_is_found_and_its_path_is_plain_text() {
        let mut line = *b"7f0000001000-7f0000003000 r--s 00000000 08:01 77    /models/my model\x1b[2J";
        for (address, inside) in [(0x7f00_0000_0fff, false), (0x7f00_0000_1000, true), (0x7f00_0000_3000, false)] {
            assert_eq!(is_shared_file_at(&line, address), inside, "{address:x}");
        }
        assert!(!is_shared_file_at(b"1000-2000 r-xp 00000000 08:01 77 /usr/bin/taskvec", 0x1000), "not an input");
        assert!(!is_shared_file_at(b"1000-2000 rw-s 00000000 00:00 0 ", 0x1000), "no file");
        assert_eq!(path_of(&mut line), b"/models/my model?[2J");
    }
}
