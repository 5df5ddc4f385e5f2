//! Every case, by what is attacked.

mod agreement;
mod appeared;
mod arguments;
mod callers;
mod crash;
mod execution;
mod faults;
mod files;
mod groups;
mod kernel;
mod later;
mod learning;
mod linked;
mod network;
mod online;
mod programs;
mod proxy;
mod records;
mod repositories;
mod resources;
mod sideways;
mod sums;
mod traffic;

pub(crate) use callers::without_helper;
pub(crate) use crash::caller;
pub(crate) use faults::{attack, start_with_proxy};

use crate::bed::{Bed, Verdict};

/// A need of cases that only root's commands can show.
pub(crate) const ROOT: &str = "root";

/// A need of cases that make the place they are about, so that they are the
/// same in every other.
pub(crate) const OWN_PLACE: &str = "a place of its own";

/// One case. Its name is a sentence about the sandbox.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&Bed) -> Verdict,
    /// Programs without which it shows nothing.
    pub(crate) needs: &'static [&'static str],
}

pub(crate) fn all() -> Vec<Case> {
    [
        files::CASES,
        linked::CASES,
        repositories::CASES,
        appeared::CASES,
        crash::CASES,
        later::CASES,
        execution::CASES,
        arguments::CASES,
        network::CASES,
        proxy::CASES,
        traffic::CASES,
        online::CASES,
        kernel::CASES,
        resources::CASES,
        callers::CASES,
        sums::CASES,
        groups::CASES,
        programs::CASES,
        learning::CASES,
        records::CASES,
        sideways::CASES,
        agreement::CASES,
        faults::CASES,
    ]
    .concat()
}

/// Whether a case is about what a user namespace of its own could change:
/// privileges, owners of files, mounts, limits of a user. Others are tried
/// without one at `--long`.
pub(crate) fn is_of_privileges(name: &str) -> bool {
    [
        kernel::CASES,
        files::CASES,
        linked::CASES,
        sideways::CASES,
        execution::CASES,
        network::CASES,
        appeared::CASES,
    ]
    .concat()
    .iter()
    .any(|case| case.name == name)
}
