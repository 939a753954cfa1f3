//! Pure loops over `&[f32]`: no I/O, no allocation, no threads, no dtype.
//!
//! Every multiply and add is rounded by itself, in the order written; nothing is contracted or reassociated, so each loop
//! gives the same bits on every CPU. `pulp` compiles a loop once per instruction set and picks at run time.

mod combine;
mod count;
mod deviate;
mod differ;
mod elect;
mod element;
mod keys;
mod low_rank;
mod products;
mod random;

pub use combine::{add_scaled, axpy, delta, divide, multiply, scale};
pub use count::{Change, change, first_beyond, first_non_finite};
pub use deviate::{deviations, magnitudes};
pub use differ::{largest_magnitude, nonzero, signs};
pub use elect::{Agreed, drop_where_set, elect, elect_sum, keep_above, select_weighted, trim};
pub use element::{clear_unmarked, element_deviations, element_magnitudes, mark_above, replace_unmarked};
pub use keys::{count_in_bucket, magnitude_key, magnitude_of_key, number_of_key, signed_key};
pub use low_rank::{PANEL_COLUMNS, low_rank};
pub use products::{dot, inner_products, squares};
pub use random::{keep_at_random, keep_by_rank, keep_each_at_random};

use pulp::Arch;

/// Runs `body`, a loop to be compiled for the widest vectors of this CPU.
#[inline(always)]
fn simd<R>(body: impl FnOnce() -> R) -> R {
    Arch::new().dispatch(body)
}

/// What a loop can be compiled for. [`simd`] takes the widest; tests go through all that this CPU has.
#[cfg(test)]
#[derive(Clone, Copy, Debug)]
enum InstructionSet {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2(pulp::x86::V3),
    Widest,
}

#[cfg(test)]
impl InstructionSet {
    fn all() -> impl Iterator<Item = Self> {
        let sets = [Self::Scalar, Self::Widest].into_iter();
        #[cfg(target_arch = "x86_64")]
        let sets = sets.chain(pulp::x86::V3::try_new().map(Self::Avx2));
        sets
    }

    fn run<L: pulp::WithSimd>(self, body: L) -> L::Output {
        match self {
            Self::Scalar => pulp::Simd::vectorize(pulp::Scalar::new(), body),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(avx2) => pulp::Simd::vectorize(avx2, body),
            Self::Widest => Arch::new().dispatch(body),
        }
    }
}
