//! `taskvec demo`.

use super::Outcome;
use super::args::{Common, DemoArgs};
use taskvec::pass::Stop;

pub fn demo(_args: &DemoArgs, _common: &Common, _stop: &Stop) -> Outcome {
    Ok(())
}
