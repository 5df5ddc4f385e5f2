//! What people and programs see.
//!
//! Standard output carries results and nothing else, so that it can be piped;
//! progress, notes and errors go to standard error. Colour appears only on
//! terminals and follows `NO_COLOR`.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use anstyle::{AnsiColor, Style};

/// Emphasis for headings and names.
pub(crate) const BOLD: Style = Style::new().bold();
/// Something went as promised.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
/// Something is weaker than it could be.
pub(crate) const WEAK: Style = AnsiColor::Yellow.on_default();
/// Something failed or was refused.
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();
/// Detail that may be skipped.
pub(crate) const QUIET: Style = Style::new().dimmed();

/// Wraps `text` in the escape codes of `style`; the writers below remove them
/// where nobody would see colour.
pub(crate) fn paint(style: Style, text: impl Display) -> String {
    format!("{style}{text}{style:#}")
}

/// Writes `text` to standard output.
///
/// A reader that went away (`| head`) is not an error.
///
/// # Errors
///
/// Returns the error of the write, for instance a full disk.
pub(crate) fn print(text: &str) -> io::Result<()> {
    quiet_pipe(write_all(&mut anstream::stdout(), text))
}

/// Writes `value` to standard output as indented JSON with a final newline.
///
/// # Errors
///
/// Returns the error of the write, for instance a full disk.
pub(crate) fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    let mut out = io::stdout().lock();
    quiet_pipe(out.write_all(text.as_bytes()).and_then(|()| out.flush()))?;
    Ok(())
}

/// Writes one line to standard error.
pub(crate) fn note(text: impl Display) {
    // There is nowhere left to report that standard error is gone.
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// Asks a yes-or-no question on the terminal; anything but yes is no.
///
/// # Errors
///
/// Returns an error if standard input cannot be read or is not a terminal.
pub(crate) fn confirm(question: &str) -> io::Result<bool> {
    if !io::stdin().is_terminal() {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "there is no terminal to ask on",
        ));
    }
    let mut err = anstream::stderr();
    write!(err, "{question} [y/N] ")?;
    err.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes" | "Yes"))
}

/// Asks for one line, on the terminal or from a program that writes it.
///
/// # Errors
///
/// Returns an error if standard input cannot be read or is at its end.
pub(crate) fn ask(question: &str) -> io::Result<String> {
    let mut err = anstream::stderr();
    write!(err, "{question} ")?;
    err.flush()?;
    let mut answer = String::new();
    match io::stdin().read_line(&mut answer)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(answer),
    }
}

/// Replaces characters that could move the cursor, change the terminal or
/// stand there unseen.
///
/// Newlines and tabs stay; everything that came over the network passes here
/// before it is shown.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\t' => c,
            c if c.is_control() || is_unseen(c) => '\u{fffd}',
            c => c,
        })
        .collect()
}

/// The same for what has one line to itself, and must not look like another.
pub(crate) fn one_line(text: &str) -> String {
    printable(text).replace(['\n', '\t', '\u{2028}', '\u{2029}'], " ")
}

/// Characters that show nothing or turn the direction of the text. Two names
/// that differ in these alone look the same.
fn is_unseen(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
        | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}'
        | '\u{feff}' | '\u{ffa0}' | '\u{e0000}'..='\u{e0fff}')
}

/// Breaks `text` into lines of at most `width` characters where words allow it.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        let fits = line.chars().count() + 1 + word.chars().count() <= width;
        if !line.is_empty() && !fits {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    if !line.is_empty() {
        lines.push(line);
    }
    lines
}

/// Columns of the terminal on standard output, or 100 where it has none.
pub(crate) fn columns() -> usize {
    std::env::var("COLUMNS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(100)
        .clamp(60, 140)
}

fn write_all(out: &mut impl Write, text: &str) -> io::Result<()> {
    out.write_all(text.as_bytes())?;
    out.flush()
}

fn quiet_pipe(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wraps_at_words_and_keeps_long_words_whole() {
        assert_eq!(wrap("aa bb cc", 5), ["aa bb", "cc"]);
        assert_eq!(wrap("aaaaaaaa b", 3), ["aaaaaaaa", "b"]);
        assert!(wrap("", 10).is_empty());
    }

    #[test]
    fn escape_sequences_never_reach_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\n"), "a\u{fffd}[2Jb\n");
        assert_eq!(printable("x\u{202e}y"), "x\u{fffd}y");
    }

    #[test]
    fn nothing_stands_on_the_terminal_unseen() {
        for unseen in [
            '\u{200b}',
            '\u{2060}',
            '\u{feff}',
            '\u{ad}',
            '\u{61c}',
            '\u{e0041}',
        ] {
            assert_eq!(
                printable(&format!("ana{unseen}")),
                "ana\u{fffd}",
                "{unseen:?}"
            );
        }
        assert_eq!(printable("Ünal 山 🦀"), "Ünal 山 🦀");
    }

    #[test]
    fn what_has_one_line_stays_in_it() {
        assert_eq!(
            one_line("a\n    7  x\tb\u{2028}c\r"),
            "a     7  x b c\u{fffd}"
        );
    }
}
