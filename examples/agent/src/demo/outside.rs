//! Looking for text in the memory of another process, from outside.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use memchr::memmem;

/// Memory is read in pieces of this many bytes.
const PIECE: usize = 1 << 20;

/// How often `needle` stands in the memory of process `pid`.
///
/// # Errors
///
/// Returns an error if this system has no `/proc` or does not let us read there.
pub(crate) fn in_memory(pid: u32, needle: &[u8]) -> std::io::Result<usize> {
    let process = Path::new("/proc").join(pid.to_string());
    let maps = std::fs::read_to_string(process.join("maps"))?;
    let mut memory = std::fs::File::open(process.join("mem"))?;
    let mut found = 0;
    for line in maps.lines() {
        let mut fields = line.split_whitespace();
        let (Some(range), Some(access)) = (fields.next(), fields.next()) else {
            continue;
        };
        let Some((start, end)) = range.split_once('-') else {
            continue;
        };
        let (Ok(start), Ok(end)) = (u64::from_str_radix(start, 16), u64::from_str_radix(end, 16))
        else {
            continue;
        };
        if !access.starts_with('r') || end > i64::MAX as u64 {
            continue;
        }
        found += in_range(&mut memory, start, end, needle);
    }
    Ok(found)
}

/// The same in one range; what cannot be read, as pages of a device, holds nothing.
fn in_range(memory: &mut std::fs::File, start: u64, end: u64, needle: &[u8]) -> usize {
    let mut found = 0;
    // Pieces overlap by what a hit on their border needs.
    let mut kept = Vec::new();
    let mut at = start;
    while at < end && memory.seek(SeekFrom::Start(at)).is_ok() {
        let length = PIECE.min(usize::try_from(end - at).unwrap_or(PIECE));
        let mut piece = vec![0; length];
        let Ok(read) = memory.read(&mut piece) else {
            break;
        };
        if read == 0 {
            break;
        }
        kept.extend_from_slice(&piece[..read]);
        found += memmem::find_iter(&kept, needle).count();
        let tail = kept.len().saturating_sub(needle.len() - 1);
        kept.drain(..tail);
        at += read as u64;
    }
    found
}
