//! Finds the word someone probably meant, and writes words into lines of policy.

/// The candidate nearest to `word`, if it is near enough to be a slip.
pub(crate) fn closest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.chars().count() / 4)
        .min()
        .map(|(_, candidate)| candidate)
}

/// The text as a string of TOML on one line, whatever is in it: it may be a name
/// that a command chose.
pub(crate) fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            // Rust escapes what does not print, in braces.
            _ if letter.escape_debug().len() > 1 && letter != '\'' => {
                quoted.push_str(&format!("\\U{:08X}", u32::from(letter)));
            }
            _ => quoted.push(letter),
        }
    }
    quoted.push('"');
    quoted
}

/// Edits, swaps of neighbours included, that turn one word into the other.
fn distance(from: &str, to: &str) -> usize {
    let from: Vec<char> = from.chars().take(64).collect();
    let to: Vec<char> = to.chars().take(64).collect();
    let mut rows = vec![vec![0; to.len() + 1]; from.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=from.len() {
        for j in 1..=to.len() {
            let change = usize::from(from[i - 1] != to[j - 1]);
            let mut best = (rows[i - 1][j] + 1)
                .min(rows[i][j - 1] + 1)
                .min(rows[i - 1][j - 1] + change);
            if i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[from.len()][to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_one_word_of_one_line() {
        for text in [
            "plain name",
            "it's",
            "a\"]\n[network]\nallow = [\"evil",
            "\\",
            "\u{1b}[2K\r\0\u{202e}ü",
        ] {
            let line = format!("[commands]\nallow = [{}]", quoted(text));
            assert_eq!(line.lines().count(), 2);
            let read: toml::Table = line.parse().unwrap();
            let words = read["commands"]["allow"].as_array().unwrap();
            assert_eq!(words.len(), 1);
            assert_eq!(words[0].as_str(), Some(text));
        }
    }

    #[test]
    fn finds_a_slip_and_nothing_else() {
        let words = ["read", "write", "deny", "exec_from"];
        assert_eq!(closest("raed", words), Some("read"));
        assert_eq!(closest("exec-from", words), Some("exec_from"));
        assert_eq!(closest("network", words), None);
    }
}
