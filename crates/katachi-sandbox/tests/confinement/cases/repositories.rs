//! What programs outside act upon: repositories and tool configuration.

use super::Case;
use crate::bed::{Bed, Verdict, must, text};
use crate::verdicts::Seen;
use katachi_sandbox::Plan;
use katachi_sandbox::plan::NewConfiguration;
use katachi_sandbox::policy::GitAccess;

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "a repository cannot be changed when it is for reading",
        run: read_mode,
        needs: &[],
    },
    Case {
        name: "commits can be made and hooks cannot",
        run: commit_mode,
        needs: &[],
    },
    Case {
        name: "a hidden repository shows nothing",
        run: hidden_mode,
        needs: &[],
    },
    Case {
        name: "a full repository can be changed",
        run: full_mode,
        needs: &[],
    },
    Case {
        name: "a repository cannot be swapped for another",
        run: swapped,
        needs: &[],
    },
    Case {
        name: "nested repositories are protected too",
        run: nested,
        needs: &[],
    },
    Case {
        name: "a linked working tree is protected with its repository",
        run: linked_tree,
        needs: &["git"],
    },
    Case {
        name: "a pointer in a repository opens nothing",
        run: pointer,
        needs: &[],
    },
    Case {
        name: "existing tool configuration is read-only",
        run: configuration,
        needs: &[],
    },
    Case {
        name: "every name that tools act upon is protected, there or not",
        run: every_name,
        needs: &[],
    },
    Case {
        name: "new tool configuration is set aside and leaves no ghost",
        run: new_configuration,
        needs: &[],
    },
];

fn read_mode(bed: &Bed) -> Verdict {
    bed.repository("");
    let plan = bed.plan(&bed.policy())?;
    bed.control(&["append", &bed.inside(".git/config")])?;
    for file in [".git/config", ".git/HEAD"] {
        bed.denied_by(&plan, &["append", &bed.inside(file)])?;
    }
    bed.control(&["make-directories-and-file", &bed.inside(".git/control/x")])?;
    bed.denied_by(
        &plan,
        &[
            "make-directories-and-file",
            &bed.inside(".git/hooks/pre-commit"),
        ],
    )?;
    bed.allowed_by(&plan, &["read", &bed.inside(".git/HEAD")])
}

fn commit_mode(bed: &Bed) -> Verdict {
    let git = bed.repository("");
    let plan = bed.plan(&bed.policy().git(GitAccess::Commit))?;
    bed.allowed_in_namespaces(&plan, &["create", &bed.inside(".git/index")])?;
    for file in [".git/objects/new", ".git/refs/heads/new"] {
        bed.allowed_by(&plan, &["create", &bed.inside(file)])?;
    }
    bed.denied_by(&plan, &["append", &bed.inside(".git/config")])?;
    bed.denied_by(
        &plan,
        &[
            "rename",
            &bed.inside(".git/objects/new"),
            &bed.inside(".git/config"),
        ],
    )?;
    for file in [
        "hooks/pre-commit",
        "info/attributes",
        "modules/x/config",
        "worktrees/x/gitdir",
    ] {
        bed.control(&[
            "make-directories-and-file",
            &bed.inside(&format!("control/{file}")),
        ])?;
        bed.denied_by(
            &plan,
            &[
                "make-directories-and-file",
                &bed.inside(&format!(".git/{file}")),
            ],
        )?;
    }
    for part in ["hooks", "info", "modules", "worktrees"] {
        must(!git.join(part).exists(), "a placeholder was left behind")?;
    }
    Ok(())
}

fn hidden_mode(bed: &Bed) -> Verdict {
    bed.repository("");
    let plan = bed.plan(&bed.policy().git(GitAccess::Hidden))?;
    bed.control(&["read", &bed.inside(".git/HEAD")])?;
    bed.denied_by(&plan, &["read", &bed.inside(".git/HEAD")])?;
    bed.denied_by(&plan, &["create", &bed.inside(".git/new")])
}

fn full_mode(bed: &Bed) -> Verdict {
    bed.repository("");
    let plan = bed.plan(&bed.policy().git(GitAccess::Full))?;
    bed.allowed_by(&plan, &["append", &bed.inside(".git/config")])
}

fn swapped(bed: &Bed) -> Verdict {
    bed.repository("");
    bed.repository("vendor/sub");
    bed.control(&["rename", &bed.inside(".git"), &bed.inside("moved")])?;
    std::fs::rename(bed.workspace.join("moved"), bed.workspace.join(".git")).unwrap();
    for git in [GitAccess::Read, GitAccess::Commit, GitAccess::Hidden] {
        let plan = bed.plan(&bed.policy().git(git))?;
        for name in [".git", "vendor", "vendor/sub", "vendor/sub/.git"] {
            bed.denied_by(&plan, &["rename", &bed.inside(name), &bed.inside("away")])?;
        }
    }
    Ok(())
}

fn nested(bed: &Bed) -> Verdict {
    bed.repository("vendor/deep/er");
    bed.control(&["append", &bed.inside("vendor/deep/er/.git/config")])?;
    for git in [GitAccess::Read, GitAccess::Commit] {
        let plan = bed.plan(&bed.policy().git(git))?;
        bed.denied_by(
            &plan,
            &["append", &bed.inside("vendor/deep/er/.git/config")],
        )?;
        let hook = bed.inside("vendor/deep/er/.git/hooks/post-checkout");
        bed.denied_by(&plan, &["make-directories-and-file", &hook])?;
        bed.allowed_in_namespaces(
            &plan,
            &["create", &bed.inside(&format!("vendor/deep/er/{git:?}"))],
        )?;
    }
    Ok(())
}

/// What an earlier command left, for the next plan to follow.
fn pointer(bed: &Bed) -> Verdict {
    let git = bed.repository("other");
    for (name, content) in [
        ("commondir", bed.out("")),
        ("gitdir", bed.out("secret")),
        ("config", format!("[core]\n\tworktree = {}\n", bed.out(""))),
        ("objects/info/alternates", bed.out("")),
    ] {
        std::fs::create_dir_all(git.join("objects/info")).unwrap();
        std::fs::write(git.join(name), content).unwrap();
    }
    let worktree = bed.workspace.join("worktree");
    std::fs::create_dir(&worktree).unwrap();
    std::fs::write(worktree.join(".git"), format!("gitdir: {}\n", bed.out(""))).unwrap();
    bed.control(&["read", &bed.out("secret")])?;
    bed.control(&["create", &bed.out("control")])?;
    for access in [GitAccess::Read, GitAccess::Commit, GitAccess::Full] {
        let plan = bed.plan(&bed.policy().git(access))?;
        bed.denied_by(&plan, &["read", &bed.out("secret")])?;
        bed.denied_by(&plan, &["create", &bed.out("new")])?;
    }
    Ok(())
}

/// As `git worktree add` makes it. Git follows what each of these files says.
fn linked_tree(bed: &Bed) -> Verdict {
    let make = "git init -q -b main main && cd main && \
                git -c user.name=a -c user.email=a@example.com commit -q --allow-empty -m x && \
                git worktree add -q ../linked";
    let made = std::process::Command::new("sh")
        .args(["-c", make])
        .current_dir(&bed.workspace)
        .env("HOME", &bed.outside)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .status();
    must(made.is_ok_and(|status| status.success()), "no working tree")?;
    let own = "main/.git/worktrees/linked";
    let there = [
        "linked/.git".to_owned(),
        "main/.git/config".to_owned(),
        format!("{own}/commondir"),
        format!("{own}/gitdir"),
    ];
    let absent = [
        format!("{own}/config.worktree"),
        "main/.git/hooks/post-checkout".to_owned(),
        "main/.git/info/attributes".to_owned(),
    ];
    let places: Vec<String> = there.iter().map(|name| bed.inside(name)).collect();
    for (access, verdict) in [
        (GitAccess::Read, "true false\n"),
        (GitAccess::Commit, "true false\n"),
        (GitAccess::Hidden, "false false\n"),
    ] {
        let plan = bed.plan(&bed.policy().git(access))?;
        let said = verdicts(&plan, &places)?;
        must(
            said == verdict.repeat(there.len()),
            &format!("{access:?}: {said}"),
        )?;
        for name in &absent {
            let made = ["make-directories-and-file", &bed.inside(name)];
            if access == GitAccess::Commit && name.ends_with("config.worktree") {
                // Made where commits are, and gone with the command.
                let output = plan.command(Bed::argv(&made)).output();
                must(output.is_ok(), "the command was not run")?;
                must(!bed.workspace.join(name).exists(), name)?;
                continue;
            }
            bed.denied_by(&plan, &made)?;
        }
        for name in ["linked/.git", own] {
            bed.denied_by(&plan, &["rename", &bed.inside(name), &bed.inside("away")])?;
        }
    }
    for name in &there {
        bed.control(&["append", &bed.inside(name)])?;
    }
    absent
        .iter()
        .try_for_each(|name| bed.control(&["make-directories-and-file", &bed.inside(name)]))
}

/// Whether each file can be read and written under a plan.
fn verdicts(plan: &Plan, files: &[String]) -> Result<String, String> {
    let mut attempt = vec!["verdicts"];
    attempt.extend(files.iter().map(String::as_str));
    let output = plan.command(Bed::argv(&attempt)).output();
    let output = output.map_err(|error| error.to_string())?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What editors, shells, agents and build tools act upon.
const NAMES: &[&str] = &[
    ".envrc",
    ".vscode/tasks.json",
    ".idea/workspace.xml",
    ".zed/settings.json",
    ".claude/settings.json",
    ".codex/config.toml",
    ".cursor/mcp.json",
    ".gemini/settings.json",
    ".agents/settings.json",
    ".aider.conf.yml",
    ".mcp.json",
    ".npmrc",
    ".yarnrc",
    ".yarnrc.yml",
    ".pnpmfile.cjs",
    ".cargo/config.toml",
    ".gitmodules",
    ".gitconfig",
    ".bashrc",
    ".bash_profile",
    ".bash_login",
    ".profile",
    ".zshrc",
    ".zshenv",
    ".zprofile",
    ".husky/pre-commit",
    ".devcontainer/devcontainer.json",
    ".pre-commit-config.yaml",
    ".bash_logout",
    ".bash_aliases",
    ".zlogin",
    ".zlogout",
    ".inputrc",
    ".vimrc",
    ".exrc",
    ".nvimrc",
    ".nvim.lua",
    ".dir-locals.el",
    ".vs/tasks.vs.json",
    ".windsurf/rules",
    ".continue/config.yaml",
    ".kiro/settings.json",
    ".roo/mcp.json",
    ".opencode/config.json",
    ".mise.toml",
    "mise.toml",
    ".lefthook.yml",
    "lefthook.yml",
];

/// The file or directory of a name that is protected.
fn protected(name: &str) -> &str {
    name.split('/').next().unwrap()
}

fn every_name(bed: &Bed) -> Verdict {
    bed.shows(Seen::Denied);
    // At the top and further down, where none is yet: all of it is set aside.
    let places = |names: &[&str]| -> Vec<String> {
        let both = names
            .iter()
            .flat_map(|name| [(*name).to_owned(), format!("a/b/{name}")]);
        both.map(|name| bed.inside(&name)).collect()
    };
    std::fs::create_dir_all(bed.workspace.join("a/b")).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(60));
    let plan = bed.plan(&bed.policy())?;
    let files = places(NAMES);
    let mut attempt = vec!["make-each"];
    attempt.extend(files.iter().map(String::as_str));
    let outcome = bed.run(&plan, &attempt)?;
    must(outcome.success(), "they could not be made")?;
    let heads: Vec<&str> = NAMES.iter().map(|name| protected(name)).collect();
    for head in places(&heads) {
        let told = outcome.violations.iter();
        must(
            told.filter(|violation| violation.target == head).count() == 1,
            &format!("{head} is not reported once: {:#?}", outcome.violations),
        )?;
        let aside = format!("{head}.set-aside");
        must(
            !std::path::Path::new(&head).exists() && std::path::Path::new(&aside).exists(),
            &format!("{head} was not set aside"),
        )?;
    }
    // Where they are there, none of them changes.
    bed.control(&attempt)?;
    let said = verdicts(&bed.plan(&bed.policy())?, &files)?;
    must(said.lines().count() == files.len(), "it said too little")?;
    for (file, verdict) in files.iter().zip(said.lines()) {
        must(verdict == "true false", &format!("{file}: {verdict}"))?;
    }
    Ok(())
}

fn configuration(bed: &Bed) -> Verdict {
    std::fs::create_dir_all(bed.workspace.join("sub/.vscode")).unwrap();
    std::fs::write(bed.workspace.join("sub/.vscode/tasks.json"), "{}").unwrap();
    std::fs::write(bed.workspace.join(".envrc"), "").unwrap();
    let plan = bed.plan(&bed.policy())?;
    for name in [".envrc", "sub/.vscode/tasks.json"] {
        bed.control(&["append", &bed.inside(name)])?;
        bed.denied_by(&plan, &["append", &bed.inside(name)])?;
        bed.allowed_by(&plan, &["read", &bed.inside(name)])?;
    }
    bed.denied_by(&plan, &["rename", &bed.inside("sub"), &bed.inside("away")])?;
    bed.denied_by(
        &plan,
        &["rename", &bed.inside(".envrc"), &bed.inside("away")],
    )
}

fn new_configuration(bed: &Bed) -> Verdict {
    bed.shows(Seen::SetAside);
    let plan = bed.plan(&bed.policy())?;
    let outcome = bed.run(&plan, &["create", &bed.inside("ordinary")])?;
    must(
        outcome.violations.is_empty(),
        "an ordinary file was reported",
    )?;
    let left: Vec<_> = std::fs::read_dir(&bed.workspace)
        .unwrap()
        .flatten()
        .collect();
    must(
        left.len() == 1,
        "something was left behind in the workspace",
    )?;
    // Whoever asks for the report alone has it stay.
    let kept = bed
        .policy()
        .plan(&bed.options().new_configuration(NewConfiguration::Report))
        .map_err(|error| error.to_string())?;
    let envrc = bed.workspace.join(".envrc");
    let made = |plan: &Plan| -> Verdict {
        let outcome = bed.run(plan, &["create", &text(&envrc)])?;
        must(outcome.violations.len() == 1, "nothing was reported")?;
        must(
            outcome.violations[0].target == text(&envrc),
            "something else was reported",
        )
    };
    made(&kept)?;
    must(envrc.exists(), "it was to be reported alone")?;
    std::fs::remove_file(&envrc).unwrap();
    for aside in [".envrc.set-aside", ".envrc.set-aside-2"] {
        made(&plan)?;
        must(!envrc.exists(), "programs outside would meet it")?;
        must(
            bed.workspace.join(aside).exists(),
            &format!("{aside} is not there"),
        )?;
    }
    Ok(())
}
