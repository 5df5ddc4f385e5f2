use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use super::*;
use crate::testing::fault;

fn private(home: &tempfile::TempDir) -> Directory {
    Directory::create(&home.path().join("private"), Privacy::Private).unwrap()
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().mode() & 0o7777
}

#[test]
fn reads_what_was_saved_last() {
    let home = tempfile::tempdir().unwrap();
    let directory = private(&home);
    for content in [&b"one"[..], b"", b"a longer one"] {
        directory.replace("file", content).unwrap();
        assert_eq!(&directory.read("file", 100).unwrap()[..], content);
    }
}

#[test]
fn makes_directories_and_files_for_the_owner_alone() {
    let home = tempfile::tempdir().unwrap();
    let deep = home.path().join("a/b/c");
    let directory = Directory::create(&deep, Privacy::Private).unwrap();
    directory.replace("file", b"content").unwrap();
    drop(directory.lock("file").unwrap());
    for path in [home.path().join("a"), home.path().join("a/b"), deep.clone()] {
        assert_eq!(mode(&path), 0o700, "{}", path.display());
    }
    for name in ["file", ".file.lock"] {
        assert_eq!(mode(&deep.join(name)), 0o600, "{name}");
    }
}

#[test]
fn refuses_what_others_may_read_or_write() {
    let home = tempfile::tempdir().unwrap();
    let directory = private(&home);
    directory.replace("file", b"content").unwrap();
    let file = directory.path().join("file");
    for wide in [0o640, 0o604, 0o666, 0o602] {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(wide)).unwrap();
        let error = directory.read("file", 100).unwrap_err();
        assert!(
            matches!(error, FileError::Permissions { mode, directory: false, .. } if mode == wide),
            "{error}"
        );
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }
    for wide in [0o750, 0o705, 0o777] {
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(wide)).unwrap();
        let error = Directory::open(directory.path(), Privacy::Private).unwrap_err();
        assert!(
            matches!(error, FileError::Permissions { mode, directory: true, .. } if mode == wide),
            "{error}"
        );
    }
    assert!(Directory::open(directory.path(), Privacy::Shared).is_ok());
}

#[test]
fn follows_no_symbolic_link() {
    let home = tempfile::tempdir().unwrap();
    let directory = private(&home);
    directory.replace("real", b"content").unwrap();
    symlink(directory.path().join("real"), directory.path().join("link")).unwrap();
    let error = directory.read("link", 100).unwrap_err();
    assert!(matches!(error, FileError::SymlinkRefused { .. }), "{error}");

    symlink(
        directory.path().join("real"),
        directory.path().join(".link.lock"),
    )
    .unwrap();
    let error = directory.lock("link").unwrap_err();
    assert!(matches!(error, FileError::SymlinkRefused { .. }), "{error}");

    // Saving over a link replaces the link and leaves alone what it points to.
    directory.replace("link", b"new").unwrap();
    assert_eq!(&directory.read("real", 100).unwrap()[..], b"content");
    assert_eq!(&directory.read("link", 100).unwrap()[..], b"new");

    let away = home.path().join("away");
    symlink(directory.path(), &away).unwrap();
    let error = Directory::open(&away, Privacy::Private).unwrap_err();
    assert!(matches!(error, FileError::SymlinkRefused { .. }), "{error}");
}

#[test]
fn refuses_pipes_directories_and_too_much() {
    let home = tempfile::tempdir().unwrap();
    let directory = private(&home);
    std::fs::create_dir(directory.path().join("directory")).unwrap();
    let error = directory.read("directory", 100).unwrap_err();
    assert!(matches!(error, FileError::WrongType { .. }), "{error}");

    // A pipe that nobody writes to would hang a careless reader.
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(
        rustix::fs::CWD,
        directory.path().join("pipe"),
        rustix::fs::FileType::Fifo,
        mode,
        0,
    )
    .unwrap();
    let error = directory.read("pipe", 100).unwrap_err();
    assert!(matches!(error, FileError::WrongType { .. }), "{error}");

    directory.replace("file", &[7; 101]).unwrap();
    let error = directory.read("file", 100).unwrap_err();
    assert!(
        matches!(error, FileError::TooLarge { limit: 100, .. }),
        "{error}"
    );
    assert!(directory.read("absent", 100).unwrap_err().is_not_found());
}

#[test]
fn removes_leftovers_and_nothing_else() {
    let home = tempfile::tempdir().unwrap();
    let directory = private(&home);
    directory.replace("vault", b"content").unwrap();
    let keep = [
        ".vault.lock",
        ".vault.notes.tmp",
        ".vault.0123456789abcdeX.tmp",
        ".other.0123456789abcdef.tmp",
    ];
    let leftovers = [".vault.0123456789abcdef.tmp", ".vault.ffffffffffffffff.tmp"];
    let lock = directory.lock("vault").unwrap();
    for name in keep.iter().chain(&leftovers) {
        std::fs::write(directory.path().join(name), b"").unwrap();
    }
    directory.clean_leftovers(&lock, "vault").unwrap();
    for name in keep {
        assert!(directory.contains(name).unwrap(), "{name} is gone");
    }
    for name in leftovers {
        assert!(!directory.contains(name).unwrap(), "{name} is still there");
    }
    assert!(directory.contains("vault").unwrap());
}

#[test]
fn leaves_the_old_file_and_no_rubbish_when_a_step_fails() {
    let home = tempfile::tempdir().unwrap();
    let directory = private(&home);
    directory.replace("file", b"old").unwrap();
    let mut failures = 0;
    for step in 1.. {
        fault::fail_in(step);
        let saved = directory.replace("file", b"new");
        if fault::stop_failing() {
            saved.unwrap();
            break;
        }
        failures += 1;
        assert!(saved.is_err());
        let content = directory.read("file", 100).unwrap();
        // After the rename only the flush of the directory can fail.
        assert!(
            &content[..] == b"old" || (step > 5 && &content[..] == b"new"),
            "step {step}"
        );
        assert_eq!(
            directory
                .names()
                .unwrap()
                .iter()
                .filter(|name| name.ends_with(".tmp"))
                .count(),
            0
        );
        directory.replace("file", b"old").unwrap();
    }
    assert_eq!(failures, 7, "every step of a save was made to fail");
}

#[test]
fn lets_one_writer_at_a_time_in() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("private");
    Directory::create(&path, Privacy::Private)
        .unwrap()
        .replace("count", b"0")
        .unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..25 {
                    let directory = Directory::open(&path, Privacy::Private).unwrap();
                    let _lock = directory.lock("count").unwrap();
                    let count: u32 = str::from_utf8(&directory.read("count", 9).unwrap())
                        .unwrap()
                        .parse()
                        .unwrap();
                    directory
                        .replace("count", (count + 1).to_string().as_bytes())
                        .unwrap();
                }
            });
        }
    });
    let directory = Directory::open(&path, Privacy::Private).unwrap();
    assert_eq!(&directory.read("count", 9).unwrap()[..], b"100");
}

#[test]
fn notices_that_a_file_was_replaced() {
    let home = tempfile::tempdir().unwrap();
    let directory = private(&home);
    directory.replace("file", b"same").unwrap();
    let mut stamps = vec![directory.stamp("file").unwrap()];
    assert_eq!(directory.stamp("file").unwrap(), stamps[0]);
    for _ in 0..20 {
        directory.replace("file", b"same").unwrap();
        let stamp = directory.stamp("file").unwrap();
        assert_ne!(Some(&stamp), stamps.last());
        stamps.push(stamp);
    }
}
