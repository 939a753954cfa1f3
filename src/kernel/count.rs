//! What is counted and checked while values pass by.

use super::simd;

const LANES: usize = 16;

/// How a run of elements differs from the base.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Change {
    /// Elements whose bits differ.
    pub elements: u64,
    /// The largest absolute difference, in `f32`.
    pub max_abs: f32,
}

impl Change {
    /// Both runs together.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        Self { elements: self.elements + other.elements, max_abs: self.max_abs.max(other.max_abs) }
    }
}

/// Compares `now` with `before`, element by element.
pub fn change(before: &[f32], now: &[f32]) -> Change {
    assert_eq!(before.len(), now.len());
    simd(
        #[inline(always)]
        || {
            let (mut counts, mut largest) = ([0u32; LANES], [0f32; LANES]);
            let (b, n) = (before.as_chunks::<LANES>(), now.as_chunks::<LANES>());
            for (b, n) in b.0.iter().zip(n.0) {
                for i in 0..LANES {
                    counts[i] += u32::from(b[i].to_bits() != n[i].to_bits());
                    let distance = (n[i] - b[i]).abs();
                    largest[i] = if distance > largest[i] { distance } else { largest[i] };
                }
            }
            for (i, (b, n)) in b.1.iter().zip(n.1).enumerate() {
                counts[i] += u32::from(b.to_bits() != n.to_bits());
                largest[i] = largest[i].max((n - b).abs());
            }
            Change {
                elements: counts.iter().map(|&c| u64::from(c)).sum(),
                max_abs: largest.iter().fold(0.0, |m, &x| m.max(x)),
            }
        },
    )
}

/// The first element that is NaN or infinite.
pub fn first_non_finite(x: &[f32]) -> Option<usize> {
    first_at_or_above(x, 0x7f80_0000)
}

/// The first element whose magnitude is above `limit`, or that is NaN.
pub fn first_beyond(x: &[f32], limit: f32) -> Option<usize> {
    first_at_or_above(x, limit.to_bits() + 1)
}

/// The first element whose magnitude, as bits, is at least `floor`: bits of magnitudes order as the values do, NaN last.
fn first_at_or_above(x: &[f32], floor: u32) -> Option<usize> {
    let largest = simd(
        #[inline(always)]
        || x.iter().fold(0, |m, v| m.max(v.to_bits() & 0x7fff_ffff)),
    );
    if largest < floor {
        return None;
    }
    x.iter().position(|v| v.to_bits() & 0x7fff_ffff >= floor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_counted_by_bits_and_measured_by_distance() {
        let before: Vec<f32> = (0..37).map(|i| i as f32).collect();
        let mut now = before.clone();
        (now[3], now[0], now[36]) = (1.0, -0.0, 39.5);
        assert_eq!(change(&before, &now), Change { elements: 3, max_abs: 3.5 });
    }

    #[test]
    fn the_first_value_that_is_not_finite_is_found() {
        let mut x = vec![f32::MAX; 100];
        assert_eq!(first_non_finite(&x), None);
        (x[70], x[41]) = (f32::INFINITY, -f32::NAN);
        assert_eq!(first_non_finite(&x), Some(41));
        assert_eq!(first_beyond(&[1.0, -2.0, 3.0], 2.0), Some(2));
    }
}
