//! Deltas on deltas.

use super::{chain, every_dtype, tuned};
use std::fs;

#[test]
fn a_chain_of_deltas_gives_each_of_its_models() {
    let bench = chain(3);
    for i in 1..=3 {
        bench.ok(&format!("apply m0 deltas/{i}.tvd -o out{i}"));
        bench.same(&format!("m{i}"), &format!("out{i}"));
        bench.ok(&format!("verify deltas/{i}.tvd --against m0"));
    }
}

#[test]
fn on_takes_a_delta_as_the_base_and_makes_the_delta_that_its_result_would() {
    let bench = chain(1);
    bench.put("next/model.safetensors", &tuned(&every_dtype(1), 77));
    bench.ok("diff m0 next --on deltas/1.tvd -o a.tvd");
    bench.ok("diff m1 next -o b.tvd");
    bench.same("a.tvd", "b.tvd");
    bench.ok("apply m1 b.tvd -o out");
    bench.same("next", "out");
}

#[test]
fn a_chain_may_have_sixteen_deltas_and_no_more() {
    let bench = chain(16);
    bench.ok("apply m0 deltas/16.tvd -o out");
    bench.same("m16", "out");
    bench.put("m17/model.safetensors", &tuned(&every_dtype(1), 77));
    bench.ok("diff m16 m17 -o deltas/17.tvd");
    bench.refused("apply m0 deltas/17.tvd -o out17", 65, &["17.tvd", "longer than 16"]);
    bench.ok("apply m0 deltas/16.tvd -o again");
}

#[test]
fn a_delta_whose_parent_is_missing_is_refused_with_76() {
    let bench = chain(2);
    fs::remove_file(bench.path("deltas/1.tvd")).unwrap();
    bench.refused("apply m0 deltas/2.tvd -o out", 76, &["is not the one that 2.tvd was made for"]);
    bench.ok("apply m1 deltas/2.tvd -o out");
    bench.same("m2", "out");
}
