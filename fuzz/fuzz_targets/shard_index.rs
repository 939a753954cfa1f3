#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let _ = (taskvec_fuzz::target("shard_index").run)(input);
});
