//! The payloads that describe the others: `#index` and `#files`.

use super::checksum;

const LEVEL: i32 = 9;
const SECTION_LEAD: usize = 24;

/// Packs one of the payloads `#index` and `#files`: its length, the packed length, the checksum of the packed
/// bytes, a zstd frame.
pub fn pack(content: &[u8], out: &mut Vec<u8>) {
    let packed = zstd::bulk::compress(content, LEVEL).expect("zstd compresses any bytes");
    for number in [content.len() as u64, packed.len() as u64, checksum(0, &packed)] {
        out.extend(number.to_le_bytes());
    }
    out.extend(packed);
}

/// Unpacks such a payload. The error says
/// what is wrong.
pub fn unpack(bytes: &[u8], cap: u64) -> Result<Vec<u8>, String> {
    let Some((lead, rest)) = bytes.split_first_chunk::<SECTION_LEAD>() else { return Err("is cut short".into()) };
    let [length, packed, sum] = [0, 8, 16].map(|at| u64::from_le_bytes(std::array::from_fn(|i| lead[at + i])));
    if length > cap {
        return Err(format!("claims {length} bytes unpacked, more than the {cap} allowed"));
    }
    let packed = usize::try_from(packed).ok().filter(|&n| n <= rest.len() && rest[n..].iter().all(|&b| b == 0));
    let Some(packed) = packed else { return Err("claims a length that its bytes do not have".into()) };
    if checksum(0, &rest[..packed]) != sum {
        return Err("does not have its checksum; fetch the file again".into());
    }
    let mut out = vec![0; usize::try_from(length).map_err(|_| "does not fit into memory")?];
    let written = zstd::bulk::decompress_to_buffer(&rest[..packed], &mut out);
    if written.ok() == Some(out.len()) { Ok(out) } else { Err("does not unpack to the length it claims".into()) }
}
