//! Flipped bits, missing bytes, a byte more: none passes a check.

use super::common::apply_run;
use super::forged::Forged;
use super::{made, made_of, made_with_a_histogram};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use taskvec::codec::Codec;
use taskvec::job;

/// What a check says of a damaged file: `None` if it finds nothing.
fn found(path: &Path) -> Option<String> {
    let checked = catch_unwind(AssertUnwindSafe(|| job::check_delta(path, None, &apply_run())));
    match checked {
        Ok(Ok(_)) => None,
        Ok(Err(e)) => {
            assert!([65, 66, 74, 76].contains(&e.exit_code()), "{e}");
            Some(e.to_string())
        }
        Err(_) => Some("panicked".into()),
    }
}

/// Flips these bits one after another, on all cores; panics with those that were not found or not found as they should.
fn flip(delta: &Path, bits: &[usize]) {
    let whole = fs::read(delta).unwrap();
    let blocks = Forged::read(delta).blocks();
    let missed = std::sync::Mutex::new(Vec::new());
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for core in 0..cores {
            let (whole, blocks, missed) = (&whole, &blocks, &missed);
            scope.spawn(move || {
                let path = delta.with_file_name(format!("flipped{core}.tvd"));
                fs::write(&path, whole).unwrap();
                let file = File::options().write(true).open(&path).unwrap();
                for &bit in bits.iter().skip(core).step_by(cores) {
                    let at = bit / 8;
                    file.write_all_at(&[whole[at] ^ 1 << (bit % 8)], at as u64).unwrap();
                    let message = found(&path);
                    file.write_all_at(&[whole[at]], at as u64).unwrap();
                    let wanted = blocks.iter().find(|(range, _)| range.contains(&at)).map_or("", |(_, words)| words);
                    if message.as_ref().is_none_or(|m| m == "panicked" || !m.contains(wanted)) {
                        missed.lock().unwrap().push((bit, message));
                    }
                }
                assert_eq!(found(&path), None, "the file is whole again");
            });
        }
    });
    let missed = missed.into_inner().unwrap();
    let text =
        |at: usize| String::from_utf8_lossy(&whole[at.saturating_sub(20)..(at + 20).min(whole.len())]).into_owned();
    let shown: Vec<_> =
        missed.iter().take(10).map(|(bit, message)| (bit / 8, bit % 8, text(bit / 8), message)).collect();
    assert!(missed.is_empty(), "{} of {} flips, such as {shown:#?}", missed.len(), bits.len());
}

#[test]
fn every_bit_flipped_in_a_delta_file_is_found_and_in_a_block_the_block_is_named() {
    let folder = made(Codec::Auto);
    let delta = folder.path().join("x.tvd");
    let bytes = fs::metadata(&delta).unwrap().len() as usize;
    assert!((14 << 10..18 << 10).contains(&bytes), "{bytes} bytes, expected about 16 KiB");
    flip(&delta, &(0..bytes * 8).collect::<Vec<_>>());
}

/// A thousand of the bits of a delta file of 1 MiB, spread over it; `TASKVEC_DELTA_BITS=all` for each, or another number.
#[test]
fn bits_flipped_in_a_delta_file_of_many_blocks_are_found() {
    let folder = made_of(Codec::Auto, 27_600);
    let delta = folder.path().join("x.tvd");
    let bits = 8 * fs::metadata(&delta).unwrap().len() as usize;
    assert!((8 << 20..9 << 20).contains(&bits), "{bits} bits, expected those of about 1 MiB");
    let asked = std::env::var("TASKVEC_DELTA_BITS").unwrap_or("1000".into());
    let count = if asked == "all" { bits } else { asked.parse().expect("TASKVEC_DELTA_BITS: all or a number") };
    flip(&delta, &(0..count).map(|i| (i as u128 * bits as u128 / count as u128) as usize).collect::<Vec<_>>());
}

#[test]
fn every_bit_flipped_in_a_histogram_or_a_raw_block_is_found() {
    let folder = made_with_a_histogram();
    let delta = folder.path().join("x.tvd");
    let header = Forged::read(&delta).header_bytes();
    let bytes = fs::metadata(&delta).unwrap().len() as usize;
    flip(&delta, &(header * 8..bytes * 8).collect::<Vec<_>>());
}

#[test]
fn every_truncation_and_every_appended_byte_is_found() {
    let folder = made(Codec::Auto);
    let path = folder.path().join("x.tvd");
    let whole = fs::read(&path).unwrap();
    let file = File::options().append(true).open(&path).unwrap();
    for byte in 0..=u8::MAX {
        (&file).write_all(&[byte]).unwrap();
        assert!(found(&path).is_some_and(|m| m != "panicked"), "{byte} appended");
        file.set_len(whole.len() as u64).unwrap();
    }
    for length in (0..whole.len()).rev() {
        file.set_len(length as u64).unwrap();
        assert!(found(&path).is_some_and(|m| m != "panicked"), "cut to {length}");
    }
}
