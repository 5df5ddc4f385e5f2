//! Measures the crates beside their peers; see `benches/`.

pub mod nginx;

/// Processor time of a process and its threads so far, in nanoseconds; the
/// clock of `/proc/PID/stat` ticks a hundred times a second.
///
/// # Errors
///
/// Returns an error if there is no such process.
pub fn processor_time(pid: u32) -> std::io::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let unreadable = || std::io::Error::other(format!("not the shape of stat: {stat}"));
    // The name stands in parentheses and may hold anything.
    let (_, fields) = stat.rsplit_once(')').ok_or_else(unreadable)?;
    let mut ticks = 0_u64;
    for field in fields.split_whitespace().skip(11).take(2) {
        ticks += field.parse::<u64>().map_err(|_| unreadable())?;
    }
    Ok(ticks as f64 * 1e7)
}
