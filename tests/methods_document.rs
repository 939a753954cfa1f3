//! docs/methods.md is what the table of methods says.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[test]
fn the_document_of_methods_is_fresh() {
    let found = std::fs::read_to_string("docs/methods.md").unwrap();
    assert!(
        found == taskvec::method::document(),
        "docs/methods.md is stale: run `cargo run -- methods --markdown > docs/methods.md`"
    );
}
