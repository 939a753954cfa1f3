use super::super::Place;
use super::*;
use crate::kernel::magnitude_key;
use proptest::prelude::*;

const BLOCK: usize = 7;

fn magnitudes() -> View<'static> {
    Box::new(|block, keys| {
        for (x, keys) in block.experts.iter().zip(keys) {
            keys.clear();
            keys.extend(x.iter().map(|&x| magnitude_key(x)));
        }
    })
}

/// Shows all values, in blocks, to two workers in turn, as often as is wanted.
fn bars(mut largest: Largest<'_>, values: &[f32]) -> Vec<Bar> {
    loop {
        let mut sums = Vec::new();
        for (i, block) in values.chunks(BLOCK).enumerate().filter(|_| largest.wants(0)) {
            let experts = [block.to_vec()];
            let place = Place { tensor: 0, name: "t", shape: &[], first: (i * BLOCK) as u64 };
            largest.observe(i % 2, Block { place, base: &[], experts: &experts }, &mut sums);
        }
        largest.fold(0, &sums);
        if largest.end_pass() == Progress::Complete {
            break;
        }
    }
    match Box::new(largest).finish() {
        Survey::Bars(bars) => bars.of(0).to_vec(),
        other => panic!("{other:?}"),
    }
}

/// The places of the values that clear the bar.
fn taken(bar: Bar, values: &[f32]) -> Vec<usize> {
    let mut places = Vec::new();
    for (i, block) in values.chunks(BLOCK).enumerate() {
        let mut equals = bar.equals_in((i * BLOCK) as u64);
        for (j, &x) in block.iter().enumerate() {
            let key = magnitude_key(x);
            if key > bar.key || (key == bar.key && equals > 0) {
                places.push(i * BLOCK + j);
                equals -= usize::from(key == bar.key);
            }
        }
    }
    places
}

fn values() -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec(prop_oneof![Just(0.0f32), Just(0.5), Just(-0.5), -2.0..2.0f32, any::<f32>()], 1..80)
        .prop_map(|v| v.into_iter().map(|x| if x.is_nan() { 1.0 } else { x }).collect())
}

proptest! {
    #[test]
    fn exactly_the_first_m_of_a_stable_sort_are_taken(values in values(), small: bool) {
        let mut order: Vec<usize> = (0..values.len()).collect();
        order.sort_by(|&a, &b| values[b].abs().total_cmp(&values[a].abs()));
        for count in 0..=values.len() {
            let asked = vec![(0, values.len() as u64, vec![vec![count as u64, 1]])];
            let mut largest = Largest::per_tensor(MAGNITUDES, magnitudes(), asked, 2);
            largest.groups[0].small = small;
            let mut want = order[..count].to_vec();
            want.sort_unstable();
            prop_assert_eq!(taken(bars(largest, &values)[0], &values), want);
        }
    }

    #[test]
    fn in_the_whole_model_ties_stay_and_hidden_zeros_count(values in values(), zeros in 0u64..9) {
        let mut sorted: Vec<f32> = values.iter().map(|v| v.abs()).chain((0..zeros).map(|_| 0.0)).collect();
        sorted.sort_by(|a, b| b.total_cmp(a));
        for count in 1..sorted.len() {
            let asked = (sorted.len() as u64, &[vec![count as u64]][..]);
            let largest = Largest::of_model(MAGNITUDES, magnitudes(), 0..1, asked, (0, zeros), 2);
            let want: Vec<usize> = (0..values.len()).filter(|&i| values[i].abs() >= sorted[count - 1]).collect();
            prop_assert_eq!(taken(bars(largest, &values)[0], &values), want);
        }
    }

    #[test]
    fn histograms_stand_in_for_the_first_pass_and_lies_are_found(values in values(), lie in 0u8..4, zeros in 0u64..4) {
        let mut sorted: Vec<f32> = values.iter().map(|v| v.abs()).chain((0..zeros).map(|_| 0.0)).collect();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let mut bins: Vec<u16> = values.iter().map(|&x| (magnitude_key(x) >> 16) as u16).collect();
        match lie {
            1 => bins[0] ^= 1,
            2 => bins[0] = if bins[0] > 0x7f00 { 1 } else { 0xff00 },
            3 => bins.fill(0x8000),
            _ => {}
        }
        for count in 1..sorted.len() {
            let asked = (sorted.len() as u64, &[vec![count as u64]][..]);
            let hidden = (0, zeros);
            let mut largest = Largest::of_model(MAGNITUDES, magnitudes(), 0..1, asked, hidden, 2).of_magnitudes();
            prop_assert!(largest.takes_histograms());
            bins.iter().for_each(|&bin| largest.know(0, &[(bin, 1)]));
            prop_assert_eq!(largest.end_pass(), Progress::Again);
            let want: Vec<usize> = (0..values.len()).filter(|&i| values[i].abs() >= sorted[count - 1]).collect();
            prop_assert_eq!(taken(bars(largest, &values)[0], &values), want);
        }
    }
}
