//! Real programs keep working.

use std::path::Path;

use katachi_sandbox::policy::GitAccess;
use katachi_sandbox::{Output, Plan, Policy};

use super::Case;
use crate::bed::{Bed, Verdict, must};
use crate::verdicts::Seen;

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "a shell and its tools work",
        run: shell,
        needs: &["bash"],
    },
    Case {
        name: "python works",
        run: python,
        needs: &["python3"],
    },
    Case {
        name: "git commits and its hooks stay as they are",
        run: git,
        needs: &["git"],
    },
    Case {
        name: "git commits in linked working trees and submodules",
        run: inner_git,
        needs: &["git"],
    },
    Case {
        name: "a compiler builds a program that runs",
        run: compiler,
        needs: &["cc", "make"],
    },
];

fn run(plan: &Plan, argv: &[&str]) -> Result<Output, String> {
    let output = plan
        .command(argv.iter().copied())
        .output()
        .map_err(|error| error.to_string())?;
    if output.outcome.success() {
        return Ok(output);
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(format!(
        "{argv:?} ended with {:?}: {said}",
        output.outcome.ending
    ))
}

fn shell(bed: &Bed) -> Verdict {
    bed.shows(Seen::Works);
    let plan = bed.plan(&Policy::default().write(".").allow("@system"))?;
    let script = "set -e; mkdir a; echo hello > a/b; cat <(grep -r hello a) | sed s/hello/bye/ > c; \
                  for i in $(seq 3); do echo $i; done | sort -r | tee d; test \"$(cat c)\" = a/b:bye; \
                  mktemp > /dev/null; ls -la \"${TMPDIR:-/tmp}\" ~ > /dev/null; date > /dev/null";
    let output = run(&plan, &["bash", "-c", script])?;
    must(output.stdout == b"3\n2\n1\n", "the output is different")
}

fn python(bed: &Bed) -> Verdict {
    bed.shows(Seen::Works);
    let plan = bed.plan(
        &Policy::default()
            .read("@system")
            .write(".")
            .allow("@python"),
    )?;
    let script = "import json, hashlib, subprocess, tempfile, ssl, multiprocessing, threading\n\
                  t = threading.Thread(target=lambda: open('made', 'w').write('x')); t.start(); t.join()\n\
                  print(json.dumps(hashlib.sha256(b'x').hexdigest()[:4]))";
    let output = run(&plan, &["python3", "-c", script])?;
    must(output.stdout == b"\"2d71\"\n", "the output is different")?;
    must(bed.workspace.join("made").exists(), "the file was not made")
}

fn git(bed: &Bed) -> Verdict {
    bed.shows(Seen::Works);
    let outside = |arguments: &[&str]| {
        let status = std::process::Command::new("git")
            .args(["-c", "init.defaultBranch=main"])
            .args(arguments)
            .env("HOME", &bed.outside)
            .current_dir(&bed.workspace)
            .status()
            .unwrap();
        must(status.success(), "git fails outside")
    };
    outside(&["init", "--quiet"])?;
    let hook = bed.workspace.join(".git/hooks/post-commit");
    let policy = Policy::default()
        .read("@system")
        .write(".")
        .allow("@git")
        .git(GitAccess::Commit)
        .set_env("GIT_AUTHOR_NAME", "a")
        .set_env("GIT_AUTHOR_EMAIL", "a@example.com")
        .set_env("GIT_COMMITTER_NAME", "a")
        .set_env("GIT_COMMITTER_EMAIL", "a@example.com");
    std::fs::write(bed.workspace.join("file"), "content").unwrap();
    let plan = bed.plan(&policy)?;
    if bed.has_namespaces_for("commits") {
        run(&plan, &["git", "add", "file"])?;
        run(&plan, &["git", "commit", "--quiet", "-m", "first"])?;
    } else {
        let added = plan.command(["git", "add", "file"]).output();
        must(
            added.is_ok_and(|output| !output.outcome.success()),
            "the index was changed",
        )?;
        outside(&["add", "file"])?;
        let who = ["-c", "user.name=a", "-c", "user.email=a@example.com"];
        outside(&[&who[..], &["commit", "--quiet", "-m", "first"]].concat())?;
    }
    let log = run(&plan, &["git", "log", "--format=%s"])?;
    must(log.stdout == b"first\n", "the commit is not there")?;
    if bed.has_namespaces_for("branches") {
        run(&plan, &["git", "checkout", "--quiet", "-b", "other"])?;
    }
    let changed = plan
        .command(["git", "config", "core.hooksPath", "hooks"])
        .output();
    must(
        changed.is_ok_and(|output| !output.outcome.success()),
        "the configuration changed",
    )?;
    must(!hook.exists(), "there is a hook")?;
    // For reading, history works and commits do not.
    let plan = bed.plan(&policy.git(GitAccess::Read))?;
    run(&plan, &["git", "log", "--format=%s"])?;
    run(&plan, &["git", "status", "--short"])?;
    std::fs::write(bed.workspace.join("file"), "changed").unwrap();
    let commit = plan
        .command(["git", "commit", "-a", "-m", "second"])
        .output();
    must(
        commit.is_ok_and(|output| !output.outcome.success()),
        "a commit was made",
    )
}

fn inner_git(bed: &Bed) -> Verdict {
    bed.shows(Seen::Works);
    const MAKE: &str = "git init -q -b main source; git init -q -b main main; \
        git -C source commit -q --allow-empty -m x; cd main; \
        git -c protocol.file.allow=always submodule --quiet add \"$PWD/../source\" deep/sub; \
        git commit -q -m sub; git worktree add -q ../linked";
    let identity = ["AUTHOR", "COMMITTER"].map(|who| {
        let name = |what: &str| format!("GIT_{who}_{what}");
        [(name("NAME"), "a"), (name("EMAIL"), "a@example.com")]
    });
    let identity = identity.as_flattened();
    let made = std::process::Command::new("sh")
        .args(["-ec", MAKE])
        .current_dir(&bed.workspace)
        .env("HOME", &bed.outside)
        .envs(identity.iter().cloned())
        .status();
    must(
        made.is_ok_and(|status| status.success()),
        "git fails outside",
    )?;
    let mut policy = bed.policy().allow("@git").git(GitAccess::Commit);
    for (name, value) in identity {
        policy = policy.set_env(name, *value);
    }
    let plan = bed.plan(&policy)?;
    let inner = [
        ("linked", "main/.git/worktrees/linked"),
        ("main/deep/sub", "main/.git/modules/deep/sub"),
    ];
    for (tree, directory) in inner {
        if bed.has_namespaces_for("commits") {
            let commit = [
                "git",
                "-C",
                tree,
                "commit",
                "--allow-empty",
                "-qm",
                "inside",
            ];
            run(&plan, &commit)?;
            let log = run(&plan, &["git", "-C", tree, "log", "-1", "--format=%s"])?;
            must(log.stdout == b"inside\n", "the commit is not there")?;
        }
        let configure = ["git", "-C", tree, "config", "core.hooksPath", "hooks"];
        let configured = plan.command(configure).output();
        must(
            configured.is_ok_and(|output| !output.outcome.success()),
            "the configuration changed",
        )?;
        let redirect = match tree {
            "linked" => "commondir",
            _ => "config",
        };
        let redirect = bed.inside(&format!("{directory}/{redirect}"));
        bed.denied_by(&plan, &["append", &redirect])?;
        bed.denied_by(
            &plan,
            &["rename", &bed.inside("source/.git/HEAD"), &redirect],
        )?;
        bed.denied_by(
            &plan,
            &["rename", &bed.inside(directory), &bed.inside("away")],
        )?;
        let hook = bed.inside(&format!("{directory}/hooks/post-commit"));
        bed.denied_by(&plan, &["make-directories-and-file", &hook])?;
        bed.control(&["make-directories-and-file", &hook])?;
    }
    Ok(())
}

fn compiler(bed: &Bed) -> Verdict {
    bed.shows(Seen::Works);
    std::fs::write(
        bed.workspace.join("a.c"),
        "#include <stdio.h>\nint main(void) { puts(\"built\"); }\n",
    )
    .unwrap();
    std::fs::write(
        bed.workspace.join("Makefile"),
        "out/a: a.c\n\tcc -o $@ $<\n\t./out/a\n",
    )
    .unwrap();
    std::fs::create_dir(bed.workspace.join("out")).unwrap();
    let plan = bed.plan(
        &Policy::default()
            .write(".")
            .exec_from("out")
            .allow("@system")
            .allow("@cc"),
    )?;
    let output = run(&plan, &["make", "-s"])?;
    must(
        output.stdout == b"built\n",
        "the program said something else",
    )?;
    must(
        Path::new(&bed.inside("out/a")).exists(),
        "there is no program",
    )
}
