//! The lossy schemes: their names on the command line and their codes in a payload's header.

use super::groups::{Groups, Place};
use super::{Corrupt, Result};
use std::fmt;

/// How values are coded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scheme {
    /// Quantised task vectors, <https://arxiv.org/abs/2503.06921>: steps of one size in each group.
    Tvq {
        /// Bits of a code.
        bits: Bits,
        /// What shares a scale.
        group: Group,
    },
    /// One bit an element: the sign, and the mean magnitude of each row (BitDelta, <https://arxiv.org/abs/2402.10193>).
    Sign1,
    /// The largest elements of each block, by their sign and the mean magnitude of each row; all others are the base's.
    Ternary {
        /// Elements kept, of a thousand.
        density_per_mille: u16,
    },
    /// One bit an element: the shared model's value or the base's (TALL masks, <https://arxiv.org/abs/2405.07813>).
    Tall {
        /// The shared value is taken where |x - base| > lambda |shared - x|. A decoder does not need it.
        lambda_per_mille: u16,
    },
}

/// Bits of a quantised code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum Bits {
    Two = 2,
    Three = 3,
    Four = 4,
    Eight = 8,
}

/// The elements that share a scale, as far as they are in one block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Group {
    /// A row; short rows are joined, see [`Place`].
    Row,
    /// 128 elements, counted from the tensor's start.
    Of128,
}

const TVQ: u8 = 1;
const SIGN1: u8 = 2;
const TERNARY: u8 = 3;
const TALL: u8 = 4;
/// In the parameter of TVQ, above the bits.
const GROUP_OF_128: u32 = 128 << 8;

const TERNARY_DEFAULT: u16 = 50;
const TALL_DEFAULT: u16 = 400;
/// Of a thousand, so far.
const LARGEST_DENSITY: u16 = 1000;
const LARGEST_LAMBDA: u16 = 10_000;

impl Bits {
    const ALL: [Self; 4] = [Self::Two, Self::Three, Self::Four, Self::Eight];

    /// As a number.
    pub fn count(self) -> u32 {
        self as u32
    }
}

impl Group {
    /// The groups of a block.
    pub(super) fn of(self, place: Place, elements: usize) -> Groups {
        match self {
            Self::Row => Groups::rows(place, 128, elements),
            Self::Of128 => Groups::rows(Place { row: 128, ..place }, 128, elements),
        }
    }
}

impl Scheme {
    /// The forms of names, for messages.
    pub const NAMES: [&'static str; 11] = [
        "tvq8",
        "tvq4",
        "tvq3",
        "tvq2",
        "tvq8-g128",
        "tvq4-g128",
        "tvq3-g128",
        "tvq2-g128",
        "sign1",
        "ternary",
        "tall",
    ];

    /// The scheme of this name: one of [`Self::NAMES`], or `ternary-0.1` with the share of elements kept, or `tall-0.3`
    /// with lambda; both take up to three decimal places.
    pub fn from_name(name: &str) -> Option<Self> {
        let fraction = |name: &str, most| per_mille(name.strip_prefix('-')?, most);
        if let Some(rest) = name.strip_prefix("tvq") {
            let (bits, group) = match rest.strip_suffix("-g128") {
                Some(bits) => (bits, Group::Of128),
                None => (rest, Group::Row),
            };
            let bits = Bits::ALL.into_iter().find(|b| b.count().to_string() == bits)?;
            return Some(Self::Tvq { bits, group });
        }
        if let Some(rest) = name.strip_prefix("ternary") {
            let density = if rest.is_empty() { Some(TERNARY_DEFAULT) } else { fraction(rest, LARGEST_DENSITY) };
            return density.map(|density_per_mille| Self::Ternary { density_per_mille });
        }
        if let Some(rest) = name.strip_prefix("tall") {
            let lambda = if rest.is_empty() { Some(TALL_DEFAULT) } else { fraction(rest, LARGEST_LAMBDA) };
            return lambda.map(|lambda_per_mille| Self::Tall { lambda_per_mille });
        }
        (name == "sign1").then_some(Self::Sign1)
    }

    /// Whether values are chosen from a shared model besides the base.
    pub fn has_shared(self) -> bool {
        matches!(self, Self::Tall { .. })
    }

    /// Scheme and parameter as a payload's header has them.
    pub fn to_code(self) -> (u8, u32) {
        match self {
            Self::Tvq { bits, group: Group::Row } => (TVQ, bits.count()),
            Self::Tvq { bits, group: Group::Of128 } => (TVQ, GROUP_OF_128 | bits.count()),
            Self::Sign1 => (SIGN1, 0),
            Self::Ternary { density_per_mille } => (TERNARY, density_per_mille.into()),
            Self::Tall { lambda_per_mille } => (TALL, lambda_per_mille.into()),
        }
    }

    /// The other way. Scheme 0, exact, is none of these.
    pub fn from_code(scheme: u8, parameter: u32) -> Result<Self> {
        let within = |most: u16| u16::try_from(parameter).ok().filter(|p| (1..=most).contains(p));
        let found = match scheme {
            TVQ => {
                let group = if parameter >= 256 { Group::Of128 } else { Group::Row };
                let all = Bits::ALL.into_iter().map(|bits| Self::Tvq { bits, group });
                all.into_iter().find(|s| s.to_code().1 == parameter)
            }
            SIGN1 => (parameter == 0).then_some(Self::Sign1),
            TERNARY => within(LARGEST_DENSITY).map(|density_per_mille| Self::Ternary { density_per_mille }),
            TALL => within(LARGEST_LAMBDA).map(|lambda_per_mille| Self::Tall { lambda_per_mille }),
            _ => return Err(Corrupt("the coding scheme is unknown")),
        };
        found.ok_or(Corrupt("the coding scheme cannot have this parameter"))
    }
}

/// A decimal number with up to three decimal places, in thousandths.
fn per_mille(text: &str, most: u16) -> Option<u16> {
    let (whole, places) = text.split_once('.').unwrap_or((text, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || whole.len() > 2 || places.len() > 3 || !digits(whole) || !digits(places) {
        return None;
    }
    let value = format!("{whole}{places:0<3}").parse().ok()?;
    (1..=most).contains(&value).then_some(value)
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let thousandths = |n: u16| f64::from(n) / 1000.0;
        match *self {
            Self::Tvq { bits, group: Group::Row } => write!(f, "tvq{}", bits.count()),
            Self::Tvq { bits, group: Group::Of128 } => write!(f, "tvq{}-g128", bits.count()),
            Self::Sign1 => f.write_str("sign1"),
            Self::Ternary { density_per_mille: TERNARY_DEFAULT } => f.write_str("ternary"),
            Self::Ternary { density_per_mille } => write!(f, "ternary-{}", thousandths(density_per_mille)),
            Self::Tall { lambda_per_mille: TALL_DEFAULT } => f.write_str("tall"),
            Self::Tall { lambda_per_mille } => write!(f, "tall-{}", thousandths(lambda_per_mille)),
        }
    }
}
