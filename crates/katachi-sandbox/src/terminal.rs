//! The caller's end of a command's terminal.

use std::fs::File;
use std::io::{self, Read, Write};

/// How large a terminal is, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

impl Default for TerminalSize {
    fn default() -> Self {
        Self {
            rows: 24,
            columns: 80,
        }
    }
}

/// What a person would see and type.
///
/// Reading gives what the command writes, and ends when nothing of the command
/// holds the terminal any more; writing is typing. Both also work on a shared
/// reference, from two threads at once.
#[derive(Debug)]
pub struct Terminal(pub(crate) File);

impl Terminal {
    /// Another handle to the same terminal.
    ///
    /// # Errors
    ///
    /// Returns the system's error if no descriptor is left.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Changes the size, which the command is told by `SIGWINCH`.
    ///
    /// # Errors
    ///
    /// Returns the system's error.
    pub fn resize(&self, size: TerminalSize) -> io::Result<()> {
        crate::platform::resize(&self.0, size)
    }
}

impl Read for &Terminal {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match (&self.0).read(buffer) {
            // So says the kernel when the other end is closed.
            #[cfg(unix)]
            Err(error) if error.raw_os_error() == Some(5) => Ok(0),
            other => other,
        }
    }
}

impl Read for Terminal {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buffer)
    }
}

impl Write for &Terminal {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&self.0).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Write for Terminal {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
