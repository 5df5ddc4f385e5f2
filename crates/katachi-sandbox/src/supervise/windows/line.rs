//! Command lines and environments as Windows takes them: one text each.

/// The command line that `CommandLineToArgvW` and the C library's `argv` read
/// back as these words. `None` if it cannot be written: a quote in the name of
/// the program, or a zero.
///
/// Backslashes mean themselves, but for those before a quote: two stand for one
/// there. The first word is read by a rule of its own, without any escape.
pub(crate) fn command_line(argv: &[&str]) -> Option<String> {
    let (name, arguments) = argv.split_first()?;
    if name.contains('"') || argv.iter().any(|word| word.contains('\0')) {
        return None;
    }
    let mut line = format!("\"{name}\"");
    for word in arguments {
        line.push(' ');
        quote(word, &mut line);
    }
    Some(line)
}

fn quote(word: &str, line: &mut String) {
    let plain = !word.is_empty() && !word.contains([' ', '\t', '\n', '\u{b}', '"']);
    if plain {
        line.push_str(word);
        return;
    }
    line.push('"');
    let mut backslashes = 0;
    for letter in word.chars() {
        match letter {
            '\\' => backslashes += 1,
            '"' => {
                // Those so far, each twice, and one for the quote.
                line.extend(std::iter::repeat_n('\\', backslashes + 1));
                backslashes = 0;
            }
            _ => backslashes = 0,
        }
        line.push(letter);
    }
    line.extend(std::iter::repeat_n('\\', backslashes));
    line.push('"');
}

/// An environment block, without its last zero: variables sorted by name in
/// capital letters, each ended by a zero. Of two names that differ in case
/// alone the later one counts. `None` if one cannot be written.
pub(crate) fn environment_block(words: &[&str]) -> Option<String> {
    let mut sorted = std::collections::BTreeMap::new();
    for word in words {
        let (name, _) = word.split_once('=')?;
        if name.is_empty() || word.contains('\0') {
            return None;
        }
        sorted.insert(name.to_uppercase(), *word);
    }
    Some(sorted.values().map(|word| format!("{word}\0")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What `CommandLineToArgvW` does, from its documentation, letter by letter.
    fn parse(line: &str) -> Vec<String> {
        let letters: Vec<char> = line.chars().collect();
        let mut words = Vec::new();
        let mut at = 0;
        // The program: quoted up to the next quote, or up to a space.
        let mut name = String::new();
        if letters.first() == Some(&'"') {
            at = 1;
            while at < letters.len() && letters[at] != '"' {
                name.push(letters[at]);
                at += 1;
            }
            at += 1;
        } else {
            while at < letters.len() && !letters[at].is_whitespace() {
                name.push(letters[at]);
                at += 1;
            }
        }
        words.push(name);
        loop {
            while at < letters.len() && matches!(letters[at], ' ' | '\t') {
                at += 1;
            }
            if at >= letters.len() {
                return words;
            }
            let mut word = String::new();
            let mut quoted = false;
            while at < letters.len() {
                match letters[at] {
                    ' ' | '\t' if !quoted => break,
                    '\\' => {
                        let run = letters[at..].iter().take_while(|l| **l == '\\').count();
                        let before_quote = letters.get(at + run) == Some(&'"');
                        at += run;
                        if !before_quote {
                            word.extend(std::iter::repeat_n('\\', run));
                            continue;
                        }
                        word.extend(std::iter::repeat_n('\\', run / 2));
                        if run % 2 == 1 {
                            word.push('"');
                            at += 1;
                        }
                    }
                    '"' => {
                        // Two quotes inside of quotes are one, and the quotes go on.
                        if quoted && letters.get(at + 1) == Some(&'"') {
                            word.push('"');
                            at += 1;
                        } else {
                            quoted = !quoted;
                        }
                        at += 1;
                    }
                    letter => {
                        word.push(letter);
                        at += 1;
                    }
                }
            }
            words.push(word);
        }
    }

    #[test]
    fn known_lines_are_written_as_the_documentation_shows() {
        let cases: &[(&[&str], &str)] = &[
            (&["a.exe"], r#""a.exe""#),
            (&[r"C:\a b\c.exe", "x"], r#""C:\a b\c.exe" x"#),
            (&["a", ""], r#""a" """#),
            (&["a", "b c"], r#""a" "b c""#),
            (&["a", r"b\c"], r#""a" b\c"#),
            (&["a", r"b c\"], r#""a" "b c\\""#),
            (&["a", r#"b"c"#], r#""a" "b\"c""#),
            (&["a", r#"b\"c"#], r#""a" "b\\\"c""#),
        ];
        for (argv, line) in cases {
            assert_eq!(command_line(argv).as_deref(), Some(*line));
        }
        assert_eq!(command_line(&["a\"b"]), None);
        assert_eq!(command_line(&["a", "b\0c"]), None);
        assert_eq!(command_line(&[]), None);
    }

    proptest! {
        #[test]
        fn every_line_is_read_back_as_its_words(
            name in "[a-z \\\\:.]{1,12}",
            words in prop::collection::vec("[a \t\\\\\"é^%&|]{0,12}", 0..6),
        ) {
            let argv: Vec<&str> = std::iter::once(name.as_str())
                .chain(words.iter().map(String::as_str))
                .collect();
            let line = command_line(&argv).unwrap();
            prop_assert_eq!(parse(&line), argv, "{}", line);
        }
    }

    #[test]
    fn an_environment_has_one_variable_of_a_name() {
        let block = environment_block(&["b=1", "A=x=y", "B=2", "c="]);
        assert_eq!(block.as_deref(), Some("A=x=y\0B=2\0c=\0"));
        assert_eq!(environment_block(&["=C:=x"]), None);
        assert_eq!(environment_block(&["A=\0"]), None);
        assert_eq!(environment_block(&["A"]), None);
        assert_eq!(environment_block(&[]).as_deref(), Some(""));
    }
}
