//! Small charts for the terminal: upright bars for days, a lying one for a share.

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Draws `counts`, the largest reaching the top, zero as a dot.
pub(crate) fn bars(counts: &[u64]) -> String {
    let most = counts.iter().copied().max().unwrap_or(0).max(1);
    counts
        .iter()
        .map(|&count| match count {
            0 => '·',
            count => {
                let level = (u128::from(count) * BARS.len() as u128).div_ceil(u128::from(most));
                // From 1 to the number of bars, as count is from 1 to most.
                BARS[usize::try_from(level).unwrap_or(1).clamp(1, BARS.len()) - 1]
            }
        })
        .collect()
}

/// Draws a lying bar that is `width` cells long where `part` is `whole`, and
/// never shorter than an eighth of a cell where there is anything.
pub(crate) fn share(part: u64, whole: u64, width: usize) -> String {
    const PARTS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let cells = width as u128 * 8;
    let eighths = (u128::from(part) * cells).div_ceil(u128::from(whole.max(1)));
    let eighths = usize::try_from(eighths.min(cells)).unwrap_or(0);
    let bar = format!("{}{}", "█".repeat(eighths / 8), PARTS[eighths % 8]);
    format!("{bar:<width$}")
}

#[cfg(test)]
mod tests {
    use super::{bars, share};

    #[test]
    fn a_share_fills_its_width_and_the_smallest_is_seen() {
        assert_eq!(share(8, 8, 4), "████");
        assert_eq!(share(9, 8, 4), "████");
        assert_eq!(share(3, 8, 4), "█▌  ");
        assert_eq!(share(1, u64::MAX, 4), "▏   ");
        assert_eq!(share(0, 8, 4), "    ");
        assert_eq!(share(0, 0, 4), "    ");
    }

    #[test]
    fn the_largest_reaches_the_top_and_zero_stays_a_dot() {
        assert_eq!(bars(&[0, 1, 0, 1, 2]), "·▄·▄█");
        assert_eq!(bars(&[0, 0]), "··");
        assert_eq!(bars(&[]), "");
        assert_eq!(bars(&[u64::MAX, 1]), "█▁");
    }
}
