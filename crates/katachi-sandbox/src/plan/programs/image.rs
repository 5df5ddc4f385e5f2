//! What the kernel would do with an executable file: run it, or hand it to a
//! loader or interpreter.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// How an executable file starts.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Image {
    /// A text that begins with `#!`.
    Script {
        interpreter: PathBuf,
        /// The program that `env` would start.
        argument: Option<String>,
        /// Everything behind the interpreter, which the kernel passes on as
        /// one word.
        option: Option<String>,
    },
    /// An ELF file that names its loader.
    Dynamic { loader: PathBuf },
    /// Anything else, a static program for instance.
    Other,
}

impl Image {
    /// Looks at the beginning of a file. What cannot be read is [`Self::Other`].
    pub(super) fn read(path: &Path) -> Self {
        let mut head = Vec::new();
        match File::open(path).and_then(|file| file.take(1 << 16).read_to_end(&mut head)) {
            Ok(_) => Self::parse(&head),
            Err(_) => Self::Other,
        }
    }

    fn parse(head: &[u8]) -> Self {
        if let Some(line) = head.strip_prefix(b"#!") {
            return script(line).unwrap_or(Self::Other);
        }
        loader(head).map_or(Self::Other, |loader| Self::Dynamic { loader })
    }
}

fn script(line: &[u8]) -> Option<Image> {
    let line = line.split(|byte| *byte == b'\n').next()?;
    let text = std::str::from_utf8(line)
        .ok()?
        .trim_matches([' ', '\t', '\r']);
    let (interpreter, rest) = text.split_once([' ', '\t']).unwrap_or((text, ""));
    if !interpreter.starts_with('/') {
        return None;
    }
    // `env -S node --flag` and `env VAR=1 node` name the program later.
    let argument = rest
        .split([' ', '\t'])
        .find(|word| !word.is_empty() && !word.starts_with('-') && !word.contains('='))
        .map(str::to_owned);
    let option = Some(rest.trim_start_matches([' ', '\t']).to_owned());
    Some(Image::Script {
        interpreter: interpreter.into(),
        argument,
        option: option.filter(|option| !option.is_empty()),
    })
}

/// The `PT_INTERP` segment of a 64-bit little-endian ELF file.
fn loader(head: &[u8]) -> Option<PathBuf> {
    const PT_INTERP: u32 = 3;
    if !head.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let at = |offset: usize, length: usize| head.get(offset..offset.checked_add(length)?);
    let u16_at = |offset| Some(u16::from_le_bytes(at(offset, 2)?.try_into().ok()?));
    let u32_at = |offset| Some(u32::from_le_bytes(at(offset, 4)?.try_into().ok()?));
    let u64_at = |offset| usize::try_from(u64::from_le_bytes(at(offset, 8)?.try_into().ok()?)).ok();
    let table = u64_at(32)?;
    let size = usize::from(u16_at(54)?);
    let count = usize::from(u16_at(56)?);
    for index in 0..count {
        let header = table.checked_add(index.checked_mul(size)?)?;
        if u32_at(header)? == PT_INTERP {
            let bytes = at(
                u64_at(header.checked_add(8)?)?,
                u64_at(header.checked_add(32)?)?,
            )?;
            let name = bytes.split(|byte| *byte == 0).next()?;
            return std::str::from_utf8(name)
                .ok()
                .filter(|name| name.starts_with('/'))
                .map(Into::into);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_script_headers() {
        let script =
            |interpreter: &str, argument: Option<&str>, option: Option<&str>| Image::Script {
                interpreter: interpreter.into(),
                argument: argument.map(str::to_owned),
                option: option.map(str::to_owned),
            };
        assert_eq!(
            Image::parse(b"#!/bin/sh\necho"),
            script("/bin/sh", None, None)
        );
        assert_eq!(
            Image::parse(b"#! /usr/bin/env  node\n"),
            script("/usr/bin/env", Some("node"), Some("node"))
        );
        assert_eq!(
            Image::parse(b"#!/usr/bin/env -S A=1 python3 -u\n"),
            script("/usr/bin/env", Some("python3"), Some("-S A=1 python3 -u"))
        );
        assert_eq!(Image::parse(b"#!sh\n"), Image::Other);
        assert_eq!(Image::parse(b""), Image::Other);
    }

    #[test]
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    fn finds_the_loader_of_this_very_program() {
        let Image::Dynamic { loader } = Image::read(&std::env::current_exe().unwrap()) else {
            panic!("a dynamic program")
        };
        assert!(loader.exists());
    }

    proptest! {
        #[test]
        fn survives_any_header(mut tail in proptest::collection::vec(any::<u8>(), 0..200)) {
            tail.splice(0..0, *b"\x7fELF\x02\x01");
            let _ = Image::parse(&tail);
        }
    }
}
