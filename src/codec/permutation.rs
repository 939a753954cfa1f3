//! The order in which a block is coded: by the exponents of the base, ascending, and stable.

use super::order::Word;
use super::{BLOCK, fit, simd};
use crate::tensor::Dtype;

/// Quarters of a block: each has its own cursors, so that four places are found at a time.
const LANES: usize = 4;
type Cursors = [[u32; 256]; LANES];

/// The order of one block, derived from the base alone.
pub struct Permutation {
    dtype: Dtype,
    /// The exponent of each element of the base, in natural order.
    keys: Vec<u8>,
    /// Where the elements of each lane and key begin in the permuted order.
    cursors: Box<Cursors>,
    starts: Box<Starts>,
}

/// Where the elements of each key begin in the permuted order; the last entry is the number of elements.
pub struct Starts([u32; 257]);

impl Starts {
    /// `len` elements that all have the key 0.
    pub fn of_one_key(len: usize) -> Self {
        let mut starts = [len as u32; 257];
        starts[0] = 0;
        Self(starts)
    }

    /// Where the elements with `key` begin, for keys 0 to 256.
    pub fn at(&self, key: usize) -> usize {
        self.0[key] as usize
    }
}

impl Default for Permutation {
    fn default() -> Self {
        Self {
            dtype: Dtype::U8,
            keys: Vec::new(),
            cursors: Box::new([[0; 256]; LANES]),
            starts: Box::new(Starts([0; 257])),
        }
    }
}

impl Permutation {
    /// Bytes that one value holds at most.
    pub const RESIDENT_BYTES: usize = BLOCK + (LANES + 2) * 1024;

    /// The order of the block whose base is `base`: at most [`BLOCK`] elements of `dtype`.
    pub fn of(dtype: Dtype, base: &[u8]) -> Self {
        let mut permutation = Self::default();
        permutation.derive(dtype, base);
        permutation
    }

    /// Makes this the order of another block; reuses the memory.
    pub fn derive(&mut self, dtype: Dtype, base: &[u8]) {
        let len = base.len() / dtype.bytes();
        assert!(len <= BLOCK && base.len() == len * dtype.bytes(), "a block is at most {BLOCK} whole elements");
        self.dtype = dtype;
        fit(&mut self.keys, len);
        keys(dtype, base, &mut self.keys);
        count(&self.keys, &mut self.cursors);
        self.place();
    }

    /// Turns the counts of `cursors` into places.
    fn place(&mut self) {
        let mut next = 0;
        for key in 0..256 {
            self.starts.0[key] = next;
            for lane in self.cursors.iter_mut() {
                (lane[key], next) = (next, next + lane[key]);
            }
        }
        self.starts.0[256] = next;
    }

    /// Where each key begins.
    pub fn starts(&self) -> &Starts {
        &self.starts
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether the block has no elements.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether the permuted order is the natural one: all elements have one exponent.
    fn is_identity(&self) -> bool {
        self.starts.0.windows(2).any(|s| (s[1] - s[0]) as usize == self.len())
    }

    /// `permuted` receives the elements of `natural`, both of the dtype that the order was made for.
    pub fn permute(&self, natural: &[u8], permuted: &mut [u8]) {
        match self.dtype.bytes() {
            1 => self.permute_bytes::<u8>(natural, permuted),
            2 => self.permute_bytes::<u16>(natural, permuted),
            4 => self.permute_bytes::<u32>(natural, permuted),
            _ => self.permute_bytes::<u64>(natural, permuted),
        }
    }

    /// The inverse of [`Permutation::permute`].
    pub fn unpermute(&self, permuted: &[u8], natural: &mut [u8]) {
        self.unpermute_as(self.dtype.bytes(), permuted, natural);
    }

    /// The same for elements of `size` bytes: values computed from those that the order was made for.
    pub fn unpermute_as(&self, size: usize, permuted: &[u8], natural: &mut [u8]) {
        match size {
            1 => self.gather(u8::split(permuted), u8::split_mut(natural)),
            2 => self.gather(u16::split(permuted), u16::split_mut(natural)),
            4 => self.gather(u32::split(permuted), u32::split_mut(natural)),
            _ => self.gather(u64::split(permuted), u64::split_mut(natural)),
        }
    }

    fn permute_bytes<W: Word>(&self, natural: &[u8], permuted: &mut [u8]) {
        self.scatter(W::split(natural), W::split_mut(permuted));
    }

    /// `permuted[place(i)] = natural[i]`.
    pub fn scatter<T: Copy>(&self, natural: &[T], permuted: &mut [T]) {
        assert!(natural.len() == self.len() && permuted.len() == self.len());
        if self.is_identity() {
            return permuted.copy_from_slice(natural);
        }
        let mut cursors = *self.cursors;
        let [a, b, c, d] = &mut cursors;
        let (keys, tail) = lanes(&self.keys);
        let (values, rest) = lanes(natural);
        let [k0, k1, k2, k3] = keys;
        let [v0, v1, v2, v3] = values;
        let halves = (k0.iter().zip(k1).zip(v0.iter().zip(v1))).zip(k2.iter().zip(k3).zip(v2.iter().zip(v3)));
        for (((k0, k1), (v0, v1)), ((k2, k3), (v2, v3))) in halves {
            permuted[step(a, *k0)] = *v0;
            permuted[step(b, *k1)] = *v1;
            permuted[step(c, *k2)] = *v2;
            permuted[step(d, *k3)] = *v3;
        }
        for (&key, &value) in tail.iter().zip(rest) {
            permuted[step(d, key)] = value;
        }
    }

    /// `natural[i] = permuted[place(i)]`.
    pub fn gather<T: Copy>(&self, permuted: &[T], natural: &mut [T]) {
        assert!(natural.len() == self.len() && permuted.len() == self.len());
        if self.is_identity() {
            return natural.copy_from_slice(permuted);
        }
        let mut cursors = *self.cursors;
        let [a, b, c, d] = &mut cursors;
        let (keys, tail) = lanes(&self.keys);
        let (values, rest) = lanes_mut(natural);
        let [k0, k1, k2, k3] = keys;
        let [v0, v1, v2, v3] = values;
        let halves = (k0.iter().zip(k1).zip(v0.iter_mut().zip(v1))).zip(k2.iter().zip(k3).zip(v2.iter_mut().zip(v3)));
        for (((k0, k1), (v0, v1)), ((k2, k3), (v2, v3))) in halves {
            *v0 = permuted[step(a, *k0)];
            *v1 = permuted[step(b, *k1)];
            *v2 = permuted[step(c, *k2)];
            *v3 = permuted[step(d, *k3)];
        }
        for (&key, value) in tail.iter().zip(rest) {
            *value = permuted[step(d, key)];
        }
    }
}

#[inline(always)]
fn step(cursors: &mut [u32; 256], key: u8) -> usize {
    let cursor = &mut cursors[usize::from(key)];
    *cursor += 1;
    *cursor as usize - 1
}

/// Four quarters of equal length, and up to three elements that remain.
fn lanes<T>(all: &[T]) -> ([&[T]; LANES], &[T]) {
    let quarter = all.len() / LANES;
    let (whole, rest) = all.split_at(quarter * LANES);
    (std::array::from_fn(|lane| &whole[lane * quarter..][..quarter]), rest)
}

fn lanes_mut<T>(all: &mut [T]) -> ([&mut [T]; LANES], &mut [T]) {
    let quarter = all.len() / LANES;
    let (a, rest) = all.split_at_mut(quarter);
    let (b, rest) = rest.split_at_mut(quarter);
    let (c, rest) = rest.split_at_mut(quarter);
    let (d, rest) = rest.split_at_mut(quarter);
    ([a, b, c, d], rest)
}

fn count(keys: &[u8], counts: &mut Cursors) {
    counts.iter_mut().for_each(|lane| lane.fill(0));
    let [a, b, c, d] = counts;
    let ([k0, k1, k2, k3], tail) = lanes(keys);
    for ((k0, k1), (k2, k3)) in k0.iter().zip(k1).zip(k2.iter().zip(k3)) {
        a[usize::from(*k0)] += 1;
        b[usize::from(*k1)] += 1;
        c[usize::from(*k2)] += 1;
        d[usize::from(*k3)] += 1;
    }
    for &key in tail {
        d[usize::from(key)] += 1;
    }
}

/// The exponent field of each element. F64: the exponents -127 to 128 as 0 to 255, all others the nearest of these.
/// Types that are not float have key 0 alone.
fn keys(dtype: Dtype, base: &[u8], keys: &mut [u8]) {
    match dtype {
        Dtype::F64 => each(base, keys, |x: u64| ((x >> 52 & 0x7ff).clamp(896, 1151) - 896) as u8),
        Dtype::F32 => each(base, keys, |x: u32| (x >> 23) as u8),
        Dtype::BF16 => each(base, keys, |x: u16| (x >> 7) as u8),
        Dtype::F16 => each(base, keys, |x: u16| (x >> 10) as u8 & 31),
        Dtype::F8E4M3 => each(base, keys, |x: u8| x >> 3 & 15),
        Dtype::F8E5M2 => each(base, keys, |x: u8| x >> 2 & 31),
        _ => keys.fill(0),
    }
}

#[inline(always)]
fn each<W: Word>(base: &[u8], keys: &mut [u8], key: impl Fn(W) -> u8) {
    simd(
        #[inline(always)]
        || {
            for (k, &b) in keys.iter_mut().zip(W::split(base)) {
                *k = key(W::load(b));
            }
        },
    );
}
