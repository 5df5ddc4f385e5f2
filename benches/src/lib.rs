//! Measures the crates beside their peers; see `benches/`.
