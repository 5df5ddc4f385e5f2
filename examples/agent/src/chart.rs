//! A small chart of activity for the terminal: one bar a day.

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Seconds of a day.
const DAY: u64 = 24 * 60 * 60;

/// Draws how many of the moments `at` fell on each of the last `days` days
/// before and with the day of `now` (UTC), oldest first.
pub(crate) fn by_day(at: impl IntoIterator<Item = u64>, now: u64, days: usize) -> String {
    let today = now / DAY;
    let mut counts = vec![0u32; days];
    for moment in at {
        let Some(age) = today.checked_sub(moment / DAY) else {
            continue;
        };
        if let Some(slot) = usize::try_from(age).ok().filter(|&age| age < days) {
            counts[days - 1 - slot] += 1;
        }
    }
    let most = counts.iter().copied().max().unwrap_or(0).max(1);
    counts
        .into_iter()
        .map(|count| match count {
            0 => '·',
            count => {
                let level = (count as usize * BARS.len()).div_ceil(most as usize) - 1;
                BARS[level.min(BARS.len() - 1)]
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_day_reaches_the_top_and_empty_days_stay_dots() {
        let now = 100 * DAY + 5;
        let moments = [now, now, now - DAY, now - 3 * DAY];
        assert_eq!(by_day(moments, now, 5), "·▄·▄█");
    }

    #[test]
    fn the_future_and_the_distant_past_are_left_out() {
        let now = 100 * DAY;
        assert_eq!(by_day([now + DAY, 0], now, 3), "···");
    }
}
