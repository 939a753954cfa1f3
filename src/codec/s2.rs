//! S2: the difference in the order of the base's exponents, cut into groups of exponents that are coded alike.
//!
//! In a group, the low `shift` bits of each difference are stored as they are. Of the rest, what is below a limit is a
//! symbol of a few bits, packed into bytes; what is not is marked by the limit as symbol, and stored as an escape.

use super::order::Word;
use super::permutation::Starts;
use super::stream::{Reader, Streams, write_u24};
use super::survey::{self, Group, Prices, Width};
use super::{BLOCK, Corrupt, Result, fit, planes, simd};

/// Buffers of the S2 coder for one width of elements.
#[derive(Default)]
pub struct Buffers<W> {
    escapes: Vec<W>,
    places: Vec<u32>,
    bytes: Vec<u8>,
}

impl<W: Word> Buffers<W> {
    /// Bytes that one value holds at most.
    pub const RESIDENT_BYTES: usize = BLOCK * (W::BITS as usize / 8 + 4 + 1) + 64 + survey::RESIDENT_BYTES;
}

/// Appends `z`, which is in permuted order.
pub fn encode<W: Word>(
    prices: Prices,
    starts: &Starts,
    z: &[W],
    buffers: &mut Buffers<W>,
    streams: &mut Streams,
    out: &mut Vec<u8>,
) {
    let groups = survey::groups(prices, starts, z);
    out.push(groups.len() as u8);
    for group in &groups {
        out.extend_from_slice(&group.store());
    }
    buffers.escapes.clear();
    buffers.escapes.reserve_exact(z.len());
    let mut first = 0;
    for group in &groups {
        let end = starts.at(usize::from(group.last_key) + 1);
        encode_group(*group, &z[first..end], buffers, streams, out);
        first = end;
    }
    write_escapes(buffers, streams, out);
}

fn encode_group<W: Word>(group: Group, z: &[W], buffers: &mut Buffers<W>, streams: &mut Streams, out: &mut Vec<u8>) {
    write_noise(z, group.shift, out);
    let bits = match group.width {
        Width::Gaps => return encode_gaps(z, group.shift, buffers, streams, out),
        Width::Bits(bits) => bits,
    };
    pack(z, group.shift, bits, &mut buffers.bytes);
    let (stride, limit) = (buffers.bytes.len(), W::from(limit(bits)));
    let escapes = &mut buffers.escapes;
    each_escape(&buffers.bytes, bits, |byte, slot| {
        if let Some(&z) = z.get(slot * stride + byte) {
            escapes.push((z >> group.shift).sub(limit));
        }
    });
    streams.write(&buffers.bytes, out);
}

fn encode_gaps<W: Word>(z: &[W], shift: u32, buffers: &mut Buffers<W>, streams: &mut Streams, out: &mut Vec<u8>) {
    buffers.bytes.clear();
    buffers.bytes.reserve_exact(z.len());
    let mut next = 0;
    let above = W::from(1) << shift;
    for (c, chunk) in z.chunks(CHUNK).enumerate() {
        if chunk.iter().fold(W::default(), |largest, &z| largest.max(z)) >= above {
            for (i, &z) in chunk.iter().enumerate().filter(|(_, z)| **z >= above) {
                let place = c * CHUNK + i;
                let gap = place - next;
                buffers.bytes.extend(std::iter::repeat_n(SKIP, gap / usize::from(SKIP)));
                buffers.bytes.push((gap % usize::from(SKIP)) as u8);
                buffers.escapes.push((z >> shift).sub(W::from(1)));
                next = place + 1;
            }
        }
    }
    write_u24(buffers.bytes.len(), out);
    streams.write(&buffers.bytes, out);
}

/// Elements that are looked at together.
const CHUNK: usize = 32;
/// As a gap: this many elements without a change, and the gap goes on.
const SKIP: u8 = 255;

/// The largest symbol of `bits` bits.
fn limit(bits: u32) -> u8 {
    (0xff_u32 >> (8 - bits)) as u8
}

/// The low `shift` bits, a multiple of 4: an odd nibble of each element, two to a byte, then whole bytes.
fn write_noise<W: Word>(z: &[W], shift: u32, out: &mut Vec<u8>) {
    if shift % 8 == 4 {
        let start = out.len();
        let half = z.len().div_ceil(2);
        out.resize(start + half, 0);
        let bytes = &mut out[start..];
        simd(
            #[inline(always)]
            || {
                for (b, &z) in bytes.iter_mut().zip(&z[..half]) {
                    *b = z.low() & 15;
                }
                for (b, &z) in bytes.iter_mut().zip(&z[half..]) {
                    *b |= z.low() << 4;
                }
            },
        );
    }
    for byte in 0..shift / 8 {
        let start = out.len();
        out.resize(start + z.len(), 0);
        let down = byte * 8 + shift % 8;
        let bytes = &mut out[start..];
        simd(
            #[inline(always)]
            || {
                for (b, &z) in bytes.iter_mut().zip(z) {
                    *b = (z >> down).low();
                }
            },
        );
    }
}

/// `z = z << shift | noise`.
fn read_noise<W: Word>(reader: &mut Reader<'_>, shift: u32, z: &mut [W]) -> Result<()> {
    z.fill(W::default());
    if shift % 8 == 4 {
        let half = z.len().div_ceil(2);
        let bytes = reader.take(half)?;
        let (low, high) = z.split_at_mut(half);
        simd(
            #[inline(always)]
            || {
                for (z, &b) in low.iter_mut().zip(bytes) {
                    *z = W::from(b & 15);
                }
                for (z, &b) in high.iter_mut().zip(bytes) {
                    *z = W::from(b >> 4);
                }
            },
        );
    }
    for byte in 0..shift / 8 {
        let bytes = reader.take(z.len())?;
        let up = byte * 8 + shift % 8;
        simd(
            #[inline(always)]
            || {
                for (z, &b) in z.iter_mut().zip(bytes) {
                    *z = *z | W::from(b) << up;
                }
            },
        );
    }
    Ok(())
}

/// Byte `j` holds the symbols of elements `j`, `j + m`, `j + 2 m`, ..., lowest bits first, where m is the number of
/// bytes.
fn pack<W: Word>(z: &[W], shift: u32, bits: u32, bytes: &mut Vec<u8>) {
    let stride = z.len().div_ceil(8 / bits as usize);
    bytes.clear();
    fit(bytes, stride);
    let limit = W::from(limit(bits));
    simd(
        #[inline(always)]
        || {
            for (slot, z) in z.chunks(stride).enumerate() {
                let up = slot as u32 * bits;
                for (b, &z) in bytes.iter_mut().zip(z) {
                    *b |= (z >> shift).min(limit).low() << up;
                }
            }
        },
    );
}

/// `z = z | symbol << shift`.
fn unpack<W: Word>(bytes: &[u8], shift: u32, bits: u32, z: &mut [W]) {
    let limit = limit(bits);
    simd(
        #[inline(always)]
        || {
            for (slot, z) in z.chunks_mut(bytes.len()).enumerate() {
                let down = slot as u32 * bits;
                for (z, &b) in z.iter_mut().zip(bytes) {
                    *z = *z | W::from(b >> down & limit) << shift;
                }
            }
        },
    );
}

/// Calls `found(byte, slot)` for each symbol that is the limit: bytes ascending, in a byte slots ascending.
#[inline(always)]
fn each_escape(bytes: &[u8], bits: u32, mut found: impl FnMut(usize, usize)) {
    let (words, tail) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last[..tail.len()].copy_from_slice(tail);
    for (w, &word) in words.iter().chain([&last]).enumerate() {
        let mut marks = limits_of(u64::from_le_bytes(word), bits);
        while marks != 0 {
            let bit = marks.trailing_zeros();
            found(w * 8 + bit as usize / 8, (bit % 8 / bits) as usize);
            marks &= marks - 1;
        }
    }
}

/// The lowest bit of each symbol whose bits are all set.
#[inline(always)]
fn limits_of(x: u64, bits: u32) -> u64 {
    match bits {
        1 => x,
        2 => x & x >> 1 & 0x5555_5555_5555_5555,
        4 => {
            let pairs = x & x >> 1;
            pairs & pairs >> 2 & 0x1111_1111_1111_1111
        }
        _ => {
            let pairs = x & x >> 1;
            let fours = pairs & pairs >> 2;
            fours & fours >> 4 & 0x0101_0101_0101_0101
        }
    }
}

fn write_escapes<W: Word>(buffers: &mut Buffers<W>, streams: &mut Streams, out: &mut Vec<u8>) {
    let all = buffers.escapes.iter().fold(W::default(), |all, &e| all | e);
    let bytes = all.bit_length().div_ceil(8);
    out.push(bytes as u8);
    planes::write(&buffers.escapes, bytes, streams, &mut buffers.bytes, out);
}

/// Fills `z`, in permuted order, from `block`.
pub fn decode<W: Word>(
    starts: &Starts,
    block: &[u8],
    buffers: &mut Buffers<W>,
    streams: &mut Streams,
    z: &mut [W],
) -> Result<()> {
    let mut reader = Reader::new(block);
    let count = reader.byte()?;
    let groups = reader.take(usize::from(count) * Group::BYTES)?;
    buffers.places.clear();
    // Slots after the last element are noted before they are refused.
    buffers.places.reserve_exact(z.len() + 8);
    let (mut next_key, mut first, mut shifts) = (0, 0, Vec::new());
    for stored in groups.as_chunks().0 {
        let group = Group::load::<W>(*stored)?;
        let end = starts.at(usize::from(group.last_key) + 1);
        if usize::from(group.last_key) < next_key {
            return Err(Corrupt("the groups are not in order"));
        }
        decode_group(group, &mut reader, first, &mut z[first..end], buffers, streams)?;
        shifts.push((buffers.places.len(), group.shift));
        (next_key, first) = (usize::from(group.last_key) + 1, end);
    }
    if first != z.len() {
        return Err(Corrupt("the groups do not hold all elements"));
    }
    read_escapes(&mut reader, &shifts, buffers, streams, z)?;
    reader.finish()
}

/// Fills the elements of one group but for the escapes, whose places are noted.
fn decode_group<W: Word>(
    group: Group,
    reader: &mut Reader<'_>,
    first: usize,
    z: &mut [W],
    buffers: &mut Buffers<W>,
    streams: &mut Streams,
) -> Result<()> {
    read_noise(reader, group.shift, z)?;
    let bits = match group.width {
        Width::Gaps => return decode_gaps(reader, first, z, group.shift, buffers, streams),
        Width::Bits(bits) => bits,
    };
    if z.is_empty() {
        return Ok(());
    }
    let stride = z.len().div_ceil(8 / bits as usize);
    fit(&mut buffers.bytes, stride);
    streams.read(reader, &mut buffers.bytes)?;
    unpack(&buffers.bytes, group.shift, bits, z);
    let places = &mut buffers.places;
    let mut outside = false;
    each_escape(&buffers.bytes, bits, |byte, slot| {
        let place = slot * stride + byte;
        outside |= place >= z.len();
        places.push((first + place) as u32);
    });
    if outside { Err(Corrupt("a symbol stands after the last element")) } else { Ok(()) }
}

fn decode_gaps<W: Word>(
    reader: &mut Reader<'_>,
    first: usize,
    z: &mut [W],
    shift: u32,
    buffers: &mut Buffers<W>,
    streams: &mut Streams,
) -> Result<()> {
    let len = reader.u24()?;
    if len > z.len() {
        return Err(Corrupt("there are more gaps than elements"));
    }
    fit(&mut buffers.bytes, len);
    streams.read(reader, &mut buffers.bytes)?;
    let mut place = 0;
    for &gap in &buffers.bytes {
        place += usize::from(gap);
        if gap != SKIP {
            let z = z.get_mut(place).ok_or(Corrupt("a gap leads out of the group"))?;
            *z = *z | W::from(1) << shift;
            buffers.places.push((first + place) as u32);
            place += 1;
        }
    }
    Ok(())
}

/// Adds the escapes. `shifts` says for each group how many places were noted up to its end, and its shift.
fn read_escapes<W: Word>(
    reader: &mut Reader<'_>,
    shifts: &[(usize, u32)],
    buffers: &mut Buffers<W>,
    streams: &mut Streams,
    z: &mut [W],
) -> Result<()> {
    let bytes = u32::from(reader.byte()?);
    if bytes > W::BITS / 8 {
        return Err(Corrupt("an escape is wider than an element"));
    }
    fit(&mut buffers.escapes, buffers.places.len());
    planes::read(reader, bytes, streams, &mut buffers.bytes, &mut buffers.escapes)?;
    let mut done = 0;
    for &(end, shift) in shifts {
        for (&place, &escape) in buffers.places[done..end].iter().zip(&buffers.escapes[done..end]) {
            let z = &mut z[place as usize];
            *z = z.add(escape << shift);
        }
        done = end;
    }
    Ok(())
}
