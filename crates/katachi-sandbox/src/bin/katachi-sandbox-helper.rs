//! The sandbox helper as a program of its own, for
//! `katachi_sandbox::PlanOptions::helper`.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    katachi_sandbox::helper::run_if_requested();
    eprintln!(
        "katachi-sandbox-helper {}: started by programs that use katachi-sandbox, and does \
         nothing by itself; name its path with PlanOptions::helper",
        env!("CARGO_PKG_VERSION")
    );
    std::process::ExitCode::from(125)
}
