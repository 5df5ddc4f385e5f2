//! What the host replaces or adds while a command runs.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use katachi_sandbox::plan::LateMatches;
use katachi_sandbox::policy::GitAccess;
use katachi_sandbox::{Outcome, Plan};

use super::Case;
use crate::bed::{Bed, Ground, Verdict, must, text};
use crate::verdicts::Seen;

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "a denied file that the host replaces is hidden again",
        run: replaced_secret,
        needs: &[],
    },
    Case {
        name: "a protected file that the host replaces is protected again",
        run: replaced_configuration,
        needs: &[],
    },
    Case {
        name: "a directory that the host replaces is protected again",
        run: replaced_directory,
        needs: &[],
    },
    Case {
        name: "what appears under a denied name is hidden",
        run: appears,
        needs: &[],
    },
    Case {
        name: "what appeared since the plan was made is never seen",
        run: appeared_before,
        needs: &[],
    },
    Case {
        name: "what the command makes under a denied name is hidden",
        run: made_inside,
        needs: &[],
    },
    Case {
        name: "names that appear later are refused unless watched",
        run: refused,
        needs: &[],
    },
    Case {
        name: "a waiting sandbox hides what appeared meanwhile",
        run: waiting,
        needs: &[],
    },
];

/// How many milliseconds the command tries at most, if it goes on.
fn patience() -> &'static str {
    match Ground::here() {
        Ground::All | Ground::NoUsers => "30000",
        // Where it does in some cases.
        Ground::Nothing => "1000",
    }
}

/// Microseconds. A thousand are usual; on a machine with nothing else to do,
/// fewer. What is tested is that it ends.
const WINDOW: u128 = 5_000_000;

/// Tries to `how` a file inside while the host does something, which must
/// have made it possible for a moment at most.
fn closes(
    bed: &Bed,
    plan: &Plan,
    how: &str,
    file: &Path,
    host: &dyn Fn(),
) -> Result<Outcome, String> {
    let acted = bed.workspace.join("acted");
    let _ = fs::remove_file(&acted);
    let attempt = ["keep-trying", how, &text(file), patience(), &text(&acted)];
    let mut child = plan
        .command(Bed::argv(&attempt))
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    let mut said = BufReader::new(child.stdout.take().ok_or("no pipe")?);
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    // For a moment before the host does something, too.
    std::thread::sleep(Duration::from_millis(20));
    host();
    fs::write(&acted, "").unwrap();
    line.clear();
    said.read_to_string(&mut line).unwrap();
    let outcome = child.wait().map_err(|error| error.to_string())?;
    must(
        outcome.exit_code() == 1,
        &format!("{how} of {} goes on: {outcome:?}", file.display()),
    )?;
    let open: u128 = line
        .split_whitespace()
        .nth(1)
        .and_then(|time| time.parse().ok())
        .ok_or("it said nothing")?;
    must(open < WINDOW, &format!("it was possible for {open} µs"))?;
    // Outside it is possible now.
    bed.control(&["keep-trying", how, &text(file), "1"])?;
    Ok(outcome)
}

fn reported(outcome: &Outcome, file: &Path) -> Verdict {
    let told = outcome.violations.iter();
    let told = told
        .filter(|violation| violation.target == text(file))
        .count();
    must(
        told > 0,
        &format!("it was not reported: {:?}", outcome.violations),
    )
}

/// As editors save: a new file takes the old one's name.
fn replace(file: &Path, content: &str) {
    let beside = file.with_extension("new");
    fs::write(&beside, content).unwrap();
    fs::rename(beside, file).unwrap();
}

fn replaced_secret(bed: &Bed) -> Verdict {
    bed.shows(Seen::Denied);
    fs::create_dir(bed.workspace.join("sub")).unwrap();
    for (name, rule) in [(".env", ".env"), ("sub/.env", "**/.env")] {
        let file = bed.workspace.join(name);
        fs::write(&file, "secret").unwrap();
        let plan = bed.plan(&bed.policy().deny(rule))?;
        let outcome = closes(bed, &plan, "read", &file, &|| {
            for round in 0..5 {
                replace(&file, &format!("secret {round}"));
                std::thread::sleep(Duration::from_millis(10));
            }
        })?;
        reported(&outcome, &file)?;
    }
    Ok(())
}

fn replaced_configuration(bed: &Bed) -> Verdict {
    bed.shows(Seen::Denied);
    let repository = bed.repository("");
    let settings = bed.workspace.join(".npmrc");
    fs::write(&settings, "").unwrap();
    for file in [settings, repository.join("config")] {
        let plan = bed.plan(&bed.policy().git(GitAccess::Commit))?;
        let outcome = closes(bed, &plan, "write", &file, &|| replace(&file, "[core]"))?;
        reported(&outcome, &file)?;
    }
    Ok(())
}

fn replaced_directory(bed: &Bed) -> Verdict {
    bed.shows(Seen::Denied);
    let place = bed.workspace.join("a/b");
    let fill = || {
        fs::create_dir_all(place.join(".vscode")).unwrap();
        for name in [".vscode/tasks.json", ".npmrc", ".env"] {
            fs::write(place.join(name), "{}").unwrap();
        }
    };
    fill();
    let host = || {
        let away = bed.outside.join("away");
        let _ = fs::remove_dir_all(&away);
        fs::rename(bed.workspace.join("a"), &away).unwrap();
        fill();
    };
    for (how, name) in [
        ("write", ".vscode/tasks.json"),
        ("write", ".npmrc"),
        ("read", ".env"),
    ] {
        let plan = bed.plan(&bed.policy().deny("**/.env"))?;
        closes(bed, &plan, how, &place.join(name), &host)?;
    }
    Ok(())
}

fn appears(bed: &Bed) -> Verdict {
    bed.shows(Seen::Denied);
    let plan = bed.plan(&bed.policy().deny("**/.env").deny("keys/only"))?;
    for name in [".env", "new/directory/.env", "keys/only"] {
        let file = bed.workspace.join(name);
        let outcome = closes(bed, &plan, "read", &file, &|| {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, "secret").unwrap();
        })?;
        reported(&outcome, &file)?;
    }
    // A directory that comes with a secret in it.
    let (made, place) = (bed.outside.join("made"), bed.workspace.join("moved"));
    fs::create_dir_all(made.join("deep")).unwrap();
    fs::write(made.join("deep/.env"), "secret").unwrap();
    let file = place.join("deep/.env");
    closes(bed, &plan, "read", &file, &|| {
        fs::rename(&made, &place).unwrap()
    })?;
    // A link to a secret.
    fs::write(bed.workspace.join("plain"), "secret").unwrap();
    let link = bed.workspace.join("linked/.env");
    fs::create_dir(bed.workspace.join("linked")).unwrap();
    closes(bed, &plan, "read", &link, &|| {
        std::os::unix::fs::symlink("../plain", &link).unwrap();
    })?;
    Ok(())
}

fn appeared_before(bed: &Bed) -> Verdict {
    fs::write(bed.workspace.join(".env"), "secret").unwrap();
    let plan = bed.plan(&bed.policy().deny("**/.env"))?;
    let late = bed.workspace.join("a/.env");
    fs::create_dir(bed.workspace.join("a")).unwrap();
    fs::write(&late, "secret").unwrap();
    bed.control(&["read", &text(&late)])?;
    bed.denied_by(&plan, &["read", &text(&late)])?;
    let attempt = ["keep-trying", "read", &text(&late), "100"];
    let output = plan
        .command(Bed::argv(&attempt))
        .output()
        .map_err(|error| error.to_string())?;
    must(output.stdout.starts_with(b"trying\n0 "), "it was seen")
}

fn made_inside(bed: &Bed) -> Verdict {
    bed.shows(Seen::Denied);
    let plan = bed.plan(&bed.policy().deny("**/*.pem"))?;
    let file = bed.inside("a/late.pem");
    bed.run(&plan, &["make-directories-and-file", &file])?;
    must(Path::new(&file).exists(), "it could not be made")?;
    // What another process of the host does to it is hidden too.
    closes(bed, &plan, "read", Path::new(&file), &|| {
        fs::write(&file, "secret").unwrap()
    })?;
    Ok(())
}

fn refused(bed: &Bed) -> Verdict {
    bed.shows(Seen::RefusedPlanned);
    let options = bed.options().late_matches(LateMatches::default());
    for (name, instead) in [
        ("**/.env", "deny the directory"),
        ("not/yet/there", "make it before"),
    ] {
        let policy = bed.policy().deny(name);
        let error = policy
            .plan(&options)
            .err()
            .ok_or("it was planned")?
            .to_string();
        must(
            error.contains("filesystem.deny") && error.contains(instead),
            &error,
        )?;
        let told = bed.plan(&policy)?.enforcement().to_string();
        must(told.contains("appears later"), "the report does not say it")?;
    }
    // A denied directory hides what appears in it.
    let directory = bed.workspace.join("secrets");
    fs::create_dir(&directory).unwrap();
    let plan = bed.policy().deny("secrets").plan(&options);
    let plan = plan.map_err(|error| error.to_string())?;
    let file = directory.join("late");
    fs::write(&file, "secret").unwrap();
    bed.control(&["read", &text(&file)])?;
    bed.denied_by(&plan, &["read", &text(&file)])
}

fn waiting(bed: &Bed) -> Verdict {
    bed.shows(Seen::Denied);
    let plan = bed.plan(&bed.policy().deny("**/.env"))?;
    let pool = katachi_sandbox::Pool::new(&plan, 1).map_err(|error| error.to_string())?;
    let late = bed.workspace.join("a/.env");
    fs::create_dir(bed.workspace.join("a")).unwrap();
    fs::write(&late, "secret").unwrap();
    let attempt = ["keep-trying", "read", &text(&late), "100"];
    let output = pool
        .command(Bed::argv(&attempt))
        .output()
        .map_err(|error| error.to_string())?;
    must(output.stdout.starts_with(b"trying\n0 "), "it was seen")
}
