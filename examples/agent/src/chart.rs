//! A small chart for the terminal: one bar a number.

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

#[cfg(test)]
mod tests {
    use super::bars;

    #[test]
    fn the_largest_reaches_the_top_and_zero_stays_a_dot() {
        assert_eq!(bars(&[0, 1, 0, 1, 2]), "·▄·▄█");
        assert_eq!(bars(&[0, 0]), "··");
        assert_eq!(bars(&[]), "");
        assert_eq!(bars(&[u64::MAX, 1]), "█▁");
    }
}
