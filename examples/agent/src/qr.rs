//! A link as a picture, for a phone that looks at the terminal.
//!
//! Drawn in half blocks, dark on light whatever the terminal's colours are, and only
//! where it can be read: on a terminal that shows colours and is wide enough.

use anstyle::{Ansi256Color, Color, Style};
use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};

use crate::output::{note, paint};

/// Black on white in the part of the palette that no theme changes.
const PAPER: Style = Style::new()
    .fg_color(Some(Color::Ansi256(Ansi256Color(16))))
    .bg_color(Some(Color::Ansi256(Ansi256Color(231))));

/// Shows `link` on standard error, or nothing.
pub(crate) fn show(link: &str) {
    let colours = anstream::stderr().current_choice() != anstream::ColorChoice::Never;
    if let Some(columns) = columns().filter(|_| colours)
        && let Some(lines) = draw(link, columns)
    {
        note("");
        for line in lines {
            note(format_args!("    {}", paint(PAPER, line)));
        }
    }
}

/// The lines of the picture; `None` if it is wider than `columns` leave room for.
fn draw(link: &str, columns: usize) -> Option<Vec<String>> {
    let code = QrCode::with_error_correction_level(link, EcLevel::L).ok()?;
    let drawn = code.render::<Dense1x2>().module_dimensions(1, 1).build();
    let lines: Vec<_> = drawn.lines().map(str::to_owned).collect();
    let width = lines.first()?.chars().count();
    (width + 4 <= columns).then_some(lines)
}

/// How wide the terminal is on which standard error is shown.
#[cfg(unix)]
fn columns() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stderr()).ok()?;
    Some(size.ws_col.into())
}

/// Not asked elsewhere: the link alone is shown.
#[cfg(not(unix))]
fn columns() -> Option<usize> {
    None
}

#[cfg(test)]
mod tests {
    use super::draw;

    #[test]
    fn a_picture_is_drawn_where_it_fits_and_nowhere_else() {
        let link = format!("https://relay.example/#pair/1.{0}.{0}", "a".repeat(43));
        let width = draw(&link, 200).unwrap()[0].chars().count();
        assert!(draw(&link, width + 4).is_some());
        assert!(draw(&link, width + 3).is_none());
        assert!(draw(&"a".repeat(3000), 1000).is_none(), "beyond any code");
    }
}
