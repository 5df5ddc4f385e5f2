//! What a command makes that programs outside would act upon.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use katachi_sandbox::policy::GitAccess;
use katachi_sandbox::report::Violation;
use katachi_sandbox::{Plan, Policy};

use super::Case;
use super::online::{outside, serve};
use crate::bed::{Bed, Verdict, must, text};
use crate::verdicts::Seen;

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "a clone works outside and runs nothing there",
        run: clone,
        needs: &["git"],
    },
    Case {
        name: "nothing in a new repository runs outside",
        run: every_vector,
        needs: &["git"],
    },
    Case {
        name: "a new working tree runs nothing outside",
        run: worktree,
        needs: &["git"],
    },
    Case {
        name: "a new submodule runs nothing outside",
        run: submodule,
        needs: &["git"],
    },
    Case {
        name: "a repository without its name runs nothing outside",
        run: disguised,
        needs: &["git"],
    },
    Case {
        name: "a pointer to a repository elsewhere is set aside",
        run: pointers,
        needs: &["git"],
    },
    Case {
        name: "a repository made from old parts runs nothing outside",
        run: old_parts,
        needs: &["git"],
    },
    Case {
        name: "what a killed command made is looked at too",
        run: killed,
        needs: &["git"],
    },
    Case {
        name: "a repository of the user made later stays as it is",
        run: users_own,
        needs: &["git"],
    },
    Case {
        name: "new tool configuration is set aside at any depth",
        run: deep_names,
        needs: &[],
    },
];

/// Ways in which a repository runs a program, as a shell script that knows
/// `$G`, its directory, and `$M`, the file that the program makes; and the
/// call of git that would run it.
pub(super) const VECTORS: &[(&str, &str, &[&str])] = &[
    (
        "hook",
        "mkdir -p \"$G/hooks\"; printf '#!/bin/sh\\ntouch %s\\n' \"$M\" > \"$G/hooks/post-commit\"; chmod 755 \"$G/hooks/post-commit\"",
        &["commit", "--allow-empty", "-q", "-m", "x"],
    ),
    (
        "hooksPath",
        "mkdir -p \"$G/more\"; printf '#!/bin/sh\\ntouch %s\\n' \"$M\" > \"$G/more/post-commit\"; chmod 755 \"$G/more/post-commit\"; git config -f \"$G/config\" core.hooksPath \"$G/more\"",
        &["commit", "--allow-empty", "-q", "-m", "x"],
    ),
    (
        "fsmonitor",
        "git config -f \"$G/config\" core.fsmonitor \"touch $M #\"",
        &["status"],
    ),
    (
        "alias",
        "git config -f \"$G/config\" alias.zz \"!touch $M\"",
        &["zz"],
    ),
    (
        "include",
        "printf '[alias]\\n\\tzz = !touch %s\\n' \"$M\" > \"$G/more-config\"; git config -f \"$G/config\" include.path more-config",
        &["zz"],
    ),
    (
        "sshCommand",
        "git config -f \"$G/config\" core.sshCommand \"touch $M #\"",
        &["ls-remote", "ssh://nowhere.test/x"],
    ),
    (
        "filter",
        "git config -f \"$G/config\" filter.f.clean \"touch $M; cat\"; mkdir -p \"$G/info\"; echo '* filter=f' > \"$G/info/attributes\"",
        &["add", "--renormalize", "."],
    ),
    (
        "rebase",
        "mkdir \"$G/rebase-merge\"; H=$(git --git-dir=\"$G\" rev-parse HEAD); echo refs/heads/main > \"$G/rebase-merge/head-name\"; echo $H > \"$G/rebase-merge/onto\"; echo $H > \"$G/rebase-merge/orig-head\"; : > \"$G/rebase-merge/interactive\"; echo \"exec touch $M\" > \"$G/rebase-merge/git-rebase-todo\"",
        &["rebase", "--continue"],
    ),
];

/// A workspace in which git and a shell can be used.
fn plan(bed: &Bed) -> Result<Plan, String> {
    bed.plan(&tools(Policy::default().read("@system").write(".")))
}

pub(super) fn tools(policy: Policy) -> Policy {
    policy
        .allow("@git")
        .allow("@system")
        .set_env("GIT_AUTHOR_NAME", "a")
        .set_env("GIT_AUTHOR_EMAIL", "a@example.com")
        .set_env("GIT_COMMITTER_NAME", "a")
        .set_env("GIT_COMMITTER_EMAIL", "a@example.com")
        .set_env("GIT_CONFIG_NOSYSTEM", "1")
}

pub(super) fn script(bed: &Bed, repository: &Path, script: &str) -> String {
    format!(
        "set -e; G='{}'; M='{}'; {script}",
        text(repository),
        text(&marker(bed))
    )
}

fn marker(bed: &Bed) -> PathBuf {
    bed.workspace.join("ran")
}

/// Runs a shell script inside and gives what was reported.
fn inside(plan: &Plan, script: &str) -> Result<Vec<Violation>, String> {
    let output = plan
        .command(["sh", "-c", script])
        .output()
        .map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    must(
        output.outcome.success(),
        &format!("{script}: {:?}: {said}", output.outcome),
    )?;
    Ok(output.outcome.violations)
}

/// Runs git outside, as the user would, and says whether it succeeded and
/// whether something ran that the repository chose.
pub(super) fn git(bed: &Bed, directory: &Path, words: &[&str]) -> (bool, bool) {
    let marker = marker(bed);
    let _ = fs::remove_file(&marker);
    let status = Command::new("git")
        .args(words)
        .current_dir(directory)
        .env("HOME", &bed.outside)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_AUTHOR_NAME", "a")
        .env("GIT_AUTHOR_EMAIL", "a@example.com")
        .env("GIT_COMMITTER_NAME", "a")
        .env("GIT_COMMITTER_EMAIL", "a@example.com")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let ran = marker.exists();
    (status.is_ok_and(|status| status.success()), ran)
}

/// Git works there and runs nothing, whatever it is asked for.
pub(super) fn is_clean(bed: &Bed, directory: &Path) -> Verdict {
    for words in [&["status"][..], &["log"]] {
        let (worked, ran) = git(bed, directory, words);
        must(worked, &format!("{words:?} fails outside"))?;
        must(!ran, &format!("{words:?} ran a program"))?;
    }
    for (name, _, words) in VECTORS {
        must(
            !git(bed, directory, words).1,
            &format!("{name} ran a program"),
        )?;
    }
    Ok(())
}

fn reported(found: &[Violation], place: &Path, part: &str) -> Verdict {
    let told = found
        .iter()
        .any(|violation| violation.target == text(place) && violation.reason.contains(part));
    must(
        told,
        &format!("{part} in {} is not reported: {found:?}", place.display()),
    )
}

pub(super) const NEW: &str = "git init -q -b main \"${G%/.git}\"; cd \"${G%/.git}\"; echo x > file; git add file; git commit -q -m first; ";

fn clone(bed: &Bed) -> Verdict {
    bed.shows(Seen::Works);
    let editor =
        "mkdir .vscode; echo '{}' > .vscode/tasks.json; git add .vscode; git commit -q -m editor; ";
    let source = script(
        bed,
        &bed.outside.join("source/.git"),
        &format!("{NEW}{editor}"),
    );
    let set_up = plan_nothing(bed, &source)?;
    must(set_up, "no repository to clone")?;
    outside(bed, &["git", "clone", "--bare", "source", "repo.git"])?;
    outside(bed, &["git", "-C", "repo.git", "update-server-info"])?;
    let (files, plan) = serve(bed, tools(Policy::default()))?;
    let url = format!("https://files.test:{}/repo.git", files.port);
    let place = bed.workspace.join("a/b/c/d/clone");
    let repository = place.join(".git");
    let steps = format!("mkdir -p a/b/c/d; git clone --quiet {url} a/b/c/d/clone");
    let found = inside(&plan, &steps)?;
    // Of a plain clone stays everything; what editors act upon is told.
    must(
        found.len() == 1 && found[0].target == text(&place.join(".vscode")),
        &format!("more or less than its configuration was reported: {found:?}"),
    )?;
    let config = fs::read_to_string(repository.join("config")).unwrap();
    must(config.contains(&url), "the remote is gone")?;
    is_clean(bed, &place)?;
    // The same plan later: what is planted then is found then.
    let plants: String = VECTORS
        .iter()
        .filter(|(name, ..)| *name != "rebase")
        .map(|(_, plant, _)| format!("{plant}; "))
        .collect();
    let found = inside(&plan, &script(bed, &repository, &plants))?;
    for part in [
        "hooks/post-commit",
        "core.fsmonitor",
        "filter.f.clean",
        "info/attributes",
    ] {
        reported(&found, &repository, part)?;
    }
    is_clean(bed, &place)?;
    let config = fs::read_to_string(repository.join("config")).unwrap();
    must(config.contains(&url), "the remote is gone")?;
    // It can be accepted.
    let kept = repository.join("set-aside/config");
    must(
        fs::read_to_string(kept).is_ok_and(|text| text.contains("fsmonitor")),
        "what was set aside is gone",
    )
}

/// Runs a script outside.
fn plan_nothing(bed: &Bed, script: &str) -> Result<bool, String> {
    let status = Command::new("sh")
        .args(["-c", script])
        .current_dir(&bed.workspace)
        .env("HOME", &bed.outside)
        .env("GIT_AUTHOR_NAME", "a")
        .env("GIT_AUTHOR_EMAIL", "a@example.com")
        .env("GIT_COMMITTER_NAME", "a")
        .env("GIT_COMMITTER_EMAIL", "a@example.com")
        .stderr(Stdio::null())
        .status();
    status
        .map(|status| status.success())
        .map_err(|error| error.to_string())
}

fn every_vector(bed: &Bed) -> Verdict {
    bed.shows(Seen::SetAside);
    let plan = plan(bed)?;
    for (name, plant, trigger) in VECTORS {
        let whole = format!("{NEW}{plant}");
        let control = bed.outside.join(format!("control-{name}/.git"));
        must(
            plan_nothing(bed, &script(bed, &control, &whole))?,
            &format!("{name} cannot be planted"),
        )?;
        must(
            git(bed, control.parent().unwrap(), trigger).1,
            &format!("the control of {name} shows nothing"),
        )?;
        let repository = bed.workspace.join(format!("new-{name}/.git"));
        let found = inside(&plan, &script(bed, &repository, &whole))?;
        must(
            found
                .iter()
                .any(|violation| violation.target == text(&repository)),
            &format!("{name} is not reported: {found:?}"),
        )?;
        is_clean(bed, repository.parent().unwrap())?;
    }
    Ok(())
}

fn worktree(bed: &Bed) -> Verdict {
    bed.shows(Seen::SetAside);
    let steps = format!(
        "{NEW}git worktree add -q ../linked; git config extensions.worktreeConfig true; cd ../linked; git config --worktree core.fsmonitor \"touch $M #\""
    );
    for (base, confined) in [(&bed.outside, false), (&bed.workspace, true)] {
        let steps = script(bed, &base.join("main/.git"), &steps);
        let linked = base.join("linked");
        if !confined {
            must(plan_nothing(bed, &steps)?, "no working tree to be had")?;
            must(
                git(bed, &linked, &["status"]).1,
                "the control shows nothing",
            )?;
            continue;
        }
        let found = inside(&plan(bed)?, &steps)?;
        reported(
            &found,
            &base.join("main/.git/worktrees/linked"),
            "core.fsmonitor",
        )?;
        is_clean(bed, &linked)?;
    }
    Ok(())
}

fn submodule(bed: &Bed) -> Verdict {
    bed.shows(Seen::SetAside);
    let steps = format!(
        "{NEW}cd ..; git init -q -b main top; cd top; git -c protocol.file.allow=always submodule --quiet add \"${{G%/.git}}\" deep/sub; git commit -q -m sub; git config -f .git/modules/deep/sub/config core.fsmonitor \"touch $M #\""
    );
    for (base, confined) in [(&bed.outside, false), (&bed.workspace, true)] {
        let steps = script(bed, &base.join("sub/.git"), &steps);
        let place = base.join("top/deep/sub");
        if !confined {
            must(plan_nothing(bed, &steps)?, "no submodule to be had")?;
            must(git(bed, &place, &["status"]).1, "the control shows nothing")?;
            continue;
        }
        let found = inside(&plan(bed)?, &steps)?;
        reported(
            &found,
            &base.join("top/.git/modules/deep/sub"),
            "core.fsmonitor",
        )?;
        is_clean(bed, &place)?;
        let (works, ran) = git(bed, &base.join("top"), &["submodule", "status"]);
        must(works && !ran, "the submodule is lost")?;
    }
    Ok(())
}

fn disguised(bed: &Bed) -> Verdict {
    bed.shows(Seen::SetAside);
    // A shared directory without a HEAD of its own is the second disguise.
    let bare = "mkdir -p docs/objects docs/refs; echo 'ref: refs/heads/main' > docs/HEAD; printf '[alias]\\n\\tzz = !touch %s\\n' \"$M\" > docs/config";
    let shared = "mkdir -p docs/worktrees/x; mv docs/HEAD docs/worktrees/x/; echo ../.. > docs/worktrees/x/commondir; echo 'gitdir: docs/worktrees/x' > .git";
    let both = format!("{bare}; {shared}");
    for (name, steps, place) in [("bare", bare, "docs"), ("shared", &both, "")] {
        for (base, confined) in [(&bed.outside, false), (&bed.workspace, true)] {
            let base = base.join(name);
            fs::create_dir_all(&base).unwrap();
            let steps = format!("cd '{}'; {steps}", text(&base));
            let steps = script(bed, &base, &steps);
            let place = base.join(place);
            if !confined {
                must(plan_nothing(bed, &steps)?, "no repository to be had")?;
                must(git(bed, &place, &["zz"]).1, "the control shows nothing")?;
                continue;
            }
            let found = inside(&plan(bed)?, &steps)?;
            reported(&found, &base.join("docs"), "alias.zz")?;
            must(!git(bed, &place, &["zz"]).1, "a program ran")?;
            // What is there when the next plan is made is protected.
            if name == "bare" {
                let config = text(&base.join("docs/config"));
                bed.denied_by(&bed.plan(&bed.policy())?, &["append", &config])?;
            }
        }
    }
    Ok(())
}

fn pointers(bed: &Bed) -> Verdict {
    bed.shows(Seen::SetAside);
    let hostile = bed.outside.join("hostile/.git");
    let plant = format!("{NEW}{}", VECTORS[2].1);
    must(
        plan_nothing(bed, &script(bed, &hostile, &plant))?,
        "no repository",
    )?;
    for name in ["file", "link"] {
        fs::create_dir(bed.workspace.join(name)).unwrap();
        let pointer = bed.workspace.join(name).join(".git");
        let steps = match name {
            "file" => format!("echo 'gitdir: {}' > {name}/.git", text(&hostile)),
            _ => format!("ln -s '{}' {name}/.git", text(&hostile)),
        };
        let found = inside(&plan(bed)?, &steps)?;
        reported(&found, &pointer, "leads git")?;
        must(pointer.symlink_metadata().is_err(), "it is still there")?;
        must(
            !git(bed, &bed.workspace.join(name), &["status"]).1,
            "a program ran",
        )?;
        fs::write(&pointer, format!("gitdir: {}", text(&hostile))).unwrap();
        must(
            git(bed, &bed.workspace.join(name), &["status"]).1,
            "the control shows nothing",
        )?;
    }
    Ok(())
}

/// A directory the project brought along becomes a repository by a rename.
fn old_parts(bed: &Bed) -> Verdict {
    bed.shows(Seen::SetAside);
    let plant = format!(
        "{NEW}{}; mv .git parts; mv parts/refs kept-refs",
        VECTORS[2].1
    );
    let place = bed.workspace.join("project");
    must(
        plan_nothing(bed, &script(bed, &place.join(".git"), &plant))?,
        "no parts to be had",
    )?;
    // Older than any tick of the clock.
    std::thread::sleep(std::time::Duration::from_millis(60));
    let plan = plan(bed)?;
    std::thread::sleep(std::time::Duration::from_millis(60));
    let steps = "mkdir -p away; mv project/kept-refs project/parts/refs; mv project away/moved; mv away/moved/parts away/moved/.git";
    let found = inside(&plan, steps)?;
    let moved = bed.workspace.join("away/moved");
    reported(&found, &moved.join(".git"), "core.fsmonitor")?;
    is_clean(bed, &moved)
}

fn killed(bed: &Bed) -> Verdict {
    bed.shows(Seen::SetAside);
    let plan = plan(bed)?;
    let repository = bed.workspace.join("new/.git");
    let steps = format!("{NEW}{}; touch done; sleep 60", VECTORS[2].1);
    for way in ["kill", "drop"] {
        let child = plan
            .command(["sh", "-c", &script(bed, &repository, &steps)])
            .spawn()
            .map_err(|error| error.to_string())?;
        let done = bed.workspace.join("new/done");
        for _ in 0..1000 {
            if done.exists() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        must(done.exists(), "it was not made")?;
        let mut child = Some(child);
        if way == "kill" {
            let mut child = child.take().unwrap();
            child.kill();
            let outcome = child.wait().map_err(|error| error.to_string())?;
            reported(&outcome.violations, &repository, "core.fsmonitor")?;
        }
        drop(child);
        is_clean(bed, repository.parent().unwrap())?;
        fs::remove_dir_all(bed.workspace.join("new")).unwrap();
    }
    Ok(())
}

fn users_own(bed: &Bed) -> Verdict {
    bed.shows(Seen::Works);
    let plan = plan(bed)?;
    let own = bed.workspace.join("own/.git");
    let make = format!("{NEW}{}", VECTORS[3].1);
    must(
        plan_nothing(bed, &script(bed, &own, &make))?,
        "no repository",
    )?;
    std::thread::sleep(std::time::Duration::from_millis(60));
    let found = inside(&plan, "echo x > own/other")?;
    must(found.is_empty(), &format!("{found:?}"))?;
    must(
        git(bed, own.parent().unwrap(), &["zz"]).1,
        "the user's alias is gone",
    )?;
    // With everything allowed, nothing is looked for.
    let policy = tools(Policy::default().read("@system").write("."));
    let full = bed.plan(&policy.git(GitAccess::Full))?;
    let made = bed.workspace.join("made/.git");
    let found = inside(&full, &script(bed, &made, &make))?;
    must(found.is_empty(), &format!("{found:?}"))?;
    must(
        git(bed, made.parent().unwrap(), &["zz"]).1,
        "it was removed",
    )
}

fn deep_names(bed: &Bed) -> Verdict {
    bed.shows(Seen::SetAside);
    fs::create_dir_all(bed.workspace.join("a/b/c/d")).unwrap();
    fs::create_dir_all(bed.workspace.join("linked")).unwrap();
    symlink("elsewhere", bed.workspace.join("linked/.envrc")).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(60));
    let plan = bed.plan(&bed.policy())?;
    for name in ["a/b/c/d/.envrc", "a/b/c/d/new/er/.vscode/tasks.json"] {
        // What changed within a tick of the clock is told twice.
        std::thread::sleep(std::time::Duration::from_millis(60));
        let outcome = bed.run(&plan, &["make-directories-and-file", &bed.inside(name)])?;
        let place = bed.inside(name.trim_end_matches("/tasks.json"));
        must(
            outcome.violations.len() == 1 && outcome.violations[0].target == place,
            &format!("{name}: {:?}", outcome.violations),
        )?;
        must(
            !Path::new(&place).exists() && Path::new(&format!("{place}.set-aside")).exists(),
            &format!("{name} was not set aside"),
        )?;
    }
    // What was reported once and did not change is not reported again.
    std::thread::sleep(std::time::Duration::from_millis(60));
    let outcome = bed.run(&plan, &["create", &bed.inside("a/ordinary")])?;
    must(
        outcome.violations.is_empty(),
        &format!("{:?}", outcome.violations),
    )?;
    // A directory that hides what is in it is named.
    let script = ["make-directories-and-file", &bed.inside("closed/.git/HEAD")];
    bed.run(&plan, &script)?;
    let outcome = bed.run(&plan, &["set-mode", &bed.inside("closed"), "0300"])?;
    let told = outcome
        .violations
        .iter()
        .any(|violation| violation.target == bed.inside("closed"));
    // Nothing is closed to root.
    must(
        told || fs::read_dir(bed.workspace.join("closed")).is_ok(),
        "a directory that was not looked at is not reported",
    )?;
    let (from, to) = (bed.inside("linked/.envrc"), bed.inside("linked/away"));
    let outcome = bed.run(&plan, &["rename", &from, &to])?;
    must(
        outcome
            .violations
            .iter()
            .any(|violation| violation.target == from),
        "a link that was replaced is not reported",
    )
}
