//! Files with more than one name: what is written or read under one is so under all.

use std::fs::{self, hard_link};
use std::path::Path;

use katachi_sandbox::policy::GitAccess;

use super::Case;
use crate::bed::{Bed, Verdict, must};
use crate::verdicts::Seen;

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "a file with a name outside is read-only",
        run: outside,
        needs: &[],
    },
    Case {
        name: "a file with a read-only name is read-only under each",
        run: read_only,
        needs: &[],
    },
    Case {
        name: "what git acts upon is read-only under each name",
        run: metadata,
        needs: &["git"],
    },
    Case {
        name: "a denied file is denied under each name",
        run: denied,
        needs: &[],
    },
    Case {
        name: "many files with names outside are read-only",
        run: many,
        needs: &[],
    },
];

fn outside(bed: &Bed) -> Verdict {
    fs::create_dir_all(bed.workspace.join("deep/er")).unwrap();
    let names = ["shared", "deep/er/shared"];
    for name in names {
        hard_link(bed.outside.join("victim"), bed.workspace.join(name)).unwrap();
    }
    let plain = bed.policy();
    // Directories that are looked through by more than one rule.
    let twice = plain.clone().write("deep").write(bed.inside("deep/er"));
    for policy in [plain, twice] {
        let plan = bed.plan(&policy)?;
        for name in names {
            bed.denied_by(&plan, &["append", &bed.inside(name)])?;
            bed.allowed_by(&plan, &["read", &bed.inside(name)])?;
        }
    }
    must(
        content(&bed.outside.join("victim")) == "victim",
        "it changed",
    )?;
    bed.control(&["append", &bed.inside("shared")])?;
    must(
        content(&bed.outside.join("victim")) == "victim+",
        "another file",
    )
}

fn content(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

fn read_only(bed: &Bed) -> Verdict {
    fs::create_dir_all(bed.workspace.join("kept/deep")).unwrap();
    fs::create_dir_all(bed.workspace.join("made")).unwrap();
    let kept = bed.workspace.join("kept/deep/file");
    fs::write(&kept, "x").unwrap();
    fs::write(bed.workspace.join("made/first"), "x").unwrap();
    hard_link(&kept, bed.workspace.join("made/alias")).unwrap();
    hard_link(
        bed.workspace.join("made/first"),
        bed.workspace.join("made/second"),
    )
    .unwrap();
    let plan = bed.plan(&bed.policy().read("kept"))?;
    bed.denied_by(&plan, &["append", &bed.inside("made/alias")])?;
    bed.denied_by(&plan, &["truncate", &bed.inside("made/alias")])?;
    must(content(&kept) == "x", "the file for reading changed")?;
    // Nothing is taken away where each name can be written.
    bed.allowed_by(&plan, &["append", &bed.inside("made/second")])?;
    bed.allowed_by(
        &bed.plan(&bed.policy())?,
        &["append", &bed.inside("made/alias")],
    )?;
    bed.control(&["append", &bed.inside("made/alias")])
}

fn metadata(bed: &Bed) -> Verdict {
    let git = |arguments: &[&str]| {
        let mut git = std::process::Command::new("git");
        git.args(arguments).env("HOME", &bed.outside);
        let status = git.current_dir(&bed.workspace).status().unwrap();
        must(status.success(), "git fails outside")
    };
    git(&["init", "--quiet"])?;
    git(&["init", "--quiet", "--bare", "bare"])?;
    let place = |name: &str| bed.workspace.join(name);
    fs::write(place(".git/hooks/post-commit"), "#!/bin/sh\n").unwrap();
    let aliases = [
        (".git/config", "config"),
        (".git/hooks/post-commit", "hook"),
        ("bare/config", "other"),
    ];
    for (file, alias) in aliases {
        hard_link(place(file), place(alias)).unwrap();
    }
    for access in [GitAccess::Read, GitAccess::Commit] {
        let plan = bed.plan(&bed.policy().git(access))?;
        for (file, alias) in aliases {
            let before = content(&place(file));
            bed.denied_by(&plan, &["append", &bed.inside(alias)])?;
            must(content(&place(file)) == before, "it changed")?;
        }
    }
    let full = bed.plan(&bed.policy().git(GitAccess::Full))?;
    bed.allowed_by(&full, &["append", &bed.inside("hook")])?;
    aliases
        .iter()
        .try_for_each(|(_, alias)| bed.control(&["append", &bed.inside(alias)]))
}

fn denied(bed: &Bed) -> Verdict {
    bed.shows(Seen::Denied);
    fs::create_dir_all(bed.workspace.join("private")).unwrap();
    let pairs = [
        (bed.inside("deep.env"), "first"),
        (bed.inside("private/key"), "second"),
        (bed.out("secret"), "third"),
    ];
    for (file, alias) in &pairs {
        if !Path::new(file).exists() {
            fs::write(file, "secret").unwrap();
        }
        hard_link(file, bed.workspace.join(alias)).unwrap();
    }
    let policy = bed
        .policy()
        .deny("**/*.env")
        .deny("private")
        .deny(bed.out("secret"));
    let plan = bed.plan(&policy)?;
    for (_, alias) in &pairs {
        let alias = bed.inside(alias);
        bed.denied_by(&plan, &["read", &alias])?;
        bed.denied_by(&plan, &["append", &alias])?;
        bed.control(&["read", &alias])?;
    }
    // Nor by a name in a directory for reading alone.
    hard_link(bed.inside("private/key"), bed.out("fourth")).unwrap();
    let seen = bed.plan(&policy.clone().read(bed.out("")))?;
    bed.denied_by(&seen, &["read", &bed.out("fourth")])?;
    bed.allowed_by(&seen, &["read", &bed.out("victim")])?;
    // To name it is a contradiction.
    let error = bed.plan(&policy.read("second")).unwrap_err();
    must(error.contains("lies in what is denied"), &error)
}

fn many(bed: &Bed) -> Verdict {
    const COUNT: usize = 250;
    let packages = bed.workspace.join("packages");
    // A protected name has its directory mounted, which can be written.
    fs::create_dir_all(packages.join("inner/.vscode")).unwrap();
    fs::create_dir_all(bed.outside.join("store")).unwrap();
    for n in 0..COUNT {
        let file = bed.outside.join("store").join(n.to_string());
        fs::write(&file, "x").unwrap();
        let directory = if n % 2 == 0 { "" } else { "inner" };
        hard_link(file, packages.join(directory).join(n.to_string())).unwrap();
    }
    fs::write(bed.workspace.join("own"), "").unwrap();
    let plan = bed.plan(&bed.policy())?;
    for name in ["packages/0", "packages/inner/1", "packages/inner/249"] {
        bed.denied_by(&plan, &["append", &bed.inside(name)])?;
        bed.allowed_by(&plan, &["read", &bed.inside(name)])?;
        bed.control(&["append", &bed.inside(name)])?;
    }
    bed.allowed_by(&plan, &["append", &bed.inside("own")])
}
