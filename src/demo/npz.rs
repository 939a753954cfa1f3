//! The reader of `.npz` archives: the arrays of floats and bytes that numpy saved, by name.
//!
//! Only what the zoo holds: little-endian `f4` and `u1`, C order, `.npy` versions 1 and 2.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use zip::ZipArchive;

/// No array of the zoo takes more; a damaged length must not fill the memory.
const ARRAY_MAX_BYTES: usize = 64 << 20;

/// One array in C order.
#[derive(Debug, PartialEq)]
pub struct Array {
    /// The extents, slowest first.
    pub shape: Vec<usize>,
    /// The elements, as many as the extents' product.
    pub elements: Elements,
}

/// The elements of an array.
#[derive(Debug, PartialEq)]
pub enum Elements {
    /// numpy's `<f4`.
    F32(Vec<f32>),
    /// numpy's `|u1`.
    U8(Vec<u8>),
}

/// Every array of the archive in `bytes`, by name.
pub fn read_npz(bytes: &[u8]) -> Result<BTreeMap<String, Array>, String> {
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(|e| format!("not an .npz archive: {e}"))?;
    let mut arrays = BTreeMap::new();
    for i in 0..archive.len() {
        let bad = |e| format!("member {i} of the .npz archive: {e}");
        let member = archive.by_index(i).map_err(bad)?;
        let file_name = member.name().map_err(bad)?;
        let name = file_name.strip_suffix(".npy").unwrap_or(&file_name).to_owned();
        drop(file_name);
        let array = read_npy(member).map_err(|problem| format!("array `{name}`: {problem}"))?;
        arrays.insert(name, array);
    }
    Ok(arrays)
}

fn read_npy(mut source: impl Read) -> Result<Array, String> {
    let first: [u8; 8] = read(&mut source)?;
    let header_bytes = match first {
        [0x93, b'N', b'U', b'M', b'P', b'Y', 1, _] => u32::from(u16::from_le_bytes(read(&mut source)?)),
        [0x93, b'N', b'U', b'M', b'P', b'Y', 2, _] => u32::from_le_bytes(read(&mut source)?),
        _ => return Err(format!("begins with {first:02x?}, expected .npy version 1 or 2")),
    };
    let header = read_exactly(&mut source, header_bytes as usize)?;
    let header = String::from_utf8_lossy(&header);
    if !field(&header, "fortran_order")?.starts_with("False") {
        return Err("expected C order, got Fortran order".to_owned());
    }
    let shape = shape(field(&header, "shape")?)?;
    let count = shape.iter().try_fold(1, |n: usize, &extent| n.checked_mul(extent));
    let count = count.filter(|&n| n <= ARRAY_MAX_BYTES).ok_or_else(|| format!("shape {shape:?} is too large"))?;
    let descr = field(&header, "descr")?;
    let elements = if descr.starts_with("'<f4'") {
        let bytes = read_exactly(&mut source, count * 4)?;
        Elements::F32(bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect())
    } else if descr.starts_with("'|u1'") {
        Elements::U8(read_exactly(&mut source, count)?)
    } else {
        return Err(format!("expected dtype '<f4' or '|u1', got {descr}"));
    };
    // Reading to the end also makes the archive check its CRC.
    match source.read(&mut [0]).map_err(|e| e.to_string())? {
        0 => Ok(Array { shape, elements }),
        _ => Err("longer than its header says".to_owned()),
    }
}

fn read<const N: usize>(source: &mut impl Read) -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    source.read_exact(&mut bytes).map_err(|e| e.to_string())?;
    Ok(bytes)
}

fn read_exactly(source: &mut impl Read, count: usize) -> Result<Vec<u8>, String> {
    if count > ARRAY_MAX_BYTES {
        return Err(format!("claims {count} bytes, expected at most {ARRAY_MAX_BYTES}"));
    }
    let mut bytes = Vec::new();
    source.take(count as u64).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if bytes.len() != count {
        return Err(format!("ends after {} of {count} bytes", bytes.len()));
    }
    Ok(bytes)
}

/// What follows `'key':` in the Python dictionary that is an `.npy` header.
fn field<'a>(header: &'a str, key: &str) -> Result<&'a str, String> {
    let (_, value) = header.split_once(&format!("'{key}':")).ok_or_else(|| format!("no `{key}` in {header:?}"))?;
    Ok(value.trim_start())
}

fn shape(tuple: &str) -> Result<Vec<usize>, String> {
    let inner = tuple.strip_prefix('(').and_then(|t| t.split_once(')'));
    let (inner, _) = inner.ok_or_else(|| format!("the shape is no tuple: {tuple:?}"))?;
    let extents = inner.split(',').map(str::trim).filter(|e| !e.is_empty());
    extents.map(|e| e.parse().map_err(|_| format!("{e:?} is no extent"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn npy(version: u8, header: &str, data: &[u8]) -> Vec<u8> {
        let length = (header.len() as u32).to_le_bytes();
        let length = if version == 1 { &length[..2] } else { &length };
        [b"\x93NUMPY", &[version, 0][..], length, header.as_bytes(), data].concat()
    }

    #[test]
    fn both_versions_and_both_dtypes_are_read() {
        let floats =
            npy(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2), }", &[0, 0, 128, 63, 0, 0, 0, 64]);
        let expected = Array { shape: vec![1, 2], elements: Elements::F32(vec![1.0, 2.0]) };
        assert_eq!(read_npy(&floats[..]), Ok(expected));
        let bytes = npy(2, "{'descr': '|u1', 'fortran_order': False, 'shape': (3,), }", &[7, 8, 9]);
        let expected = Array { shape: vec![3], elements: Elements::U8(vec![7, 8, 9]) };
        assert_eq!(read_npy(&bytes[..]), Ok(expected));
    }

    #[test]
    fn every_other_layout_is_refused_by_name() {
        for (header, problem) in [
            ("{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }", "got '<f8'"),
            ("{'descr': '<f4', 'fortran_order': True, 'shape': (1,), }", "Fortran order"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", "ends after 4 of 8 bytes"),
            ("{'descr': '|u1', 'fortran_order': False, 'shape': (3,), }", "longer than"),
            ("{'descr': '|u1', 'fortran_order': False, 'shape': (4294967296, 4294967296), }", "too large"),
            ("{'descr': '|u1', 'fortran_order': False, 'shape': (-1,), }", "\"-1\" is no extent"),
        ] {
            let error = read_npy(&npy(1, header, &[0; 4])[..]).unwrap_err();
            assert!(error.contains(problem), "{error}");
        }
    }

    #[test]
    fn a_damaged_archive_is_an_error() {
        let whole = crate::demo::embedded::HEADS;
        assert_eq!(read_npz(whole).unwrap().len(), 14);
        for end in (0..whole.len()).step_by(whole.len() / 40) {
            assert!(read_npz(&whole[..end]).is_err(), "cut at {end}");
        }
        // Byte 1000 lies in the first array's compressed data.
        let mut damaged = whole.to_vec();
        damaged[1000] ^= 1;
        assert!(read_npz(&damaged).unwrap_err().contains("array `digits`"));
    }
}
