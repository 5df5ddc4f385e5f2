//! Limits of a command and all it started together: processor time, disk.

use std::path::Path;
use std::time::Duration;

use katachi_sandbox::policy::{ByteSize, CpuShare, Limits, TimeSpan};
use katachi_sandbox::{Ending, Plan};

use super::Case;
use crate::bed::{Bed, Verdict, must};
use crate::verdicts::Seen;

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "processor time of all processes ends the command",
        run: processor_time,
        needs: &[],
    },
    Case {
        name: "a share of processors is held or refused",
        run: share,
        needs: &[],
    },
    Case {
        name: "many small files end at their limit",
        run: small_files,
        needs: &[],
    },
    Case {
        name: "many files as large as the limit end at their sum",
        run: large_files,
        needs: &[],
    },
    Case {
        name: "a million empty files end at their limit",
        run: empty_files,
        needs: &[],
    },
    Case {
        name: "removed files that are open count",
        run: nameless_files,
        needs: &[],
    },
    Case {
        name: "files too deep to be measured end the command",
        run: deep_files,
        needs: &[],
    },
    Case {
        name: "what is removed and what was there does not count",
        run: passing_files,
        needs: &[],
    },
    Case {
        name: "the private directories hold a bounded number of files",
        run: private_files,
        needs: &[],
    },
];

fn limited(bed: &Bed, change: impl FnOnce(&mut Limits)) -> Result<Plan, String> {
    let mut limits = Limits::default();
    change(&mut limits);
    bed.plan(&bed.policy().limits(limits))
}

fn disk(bed: &Bed, mebibytes: u64) -> Result<Plan, String> {
    limited(bed, |limits| {
        limits.disk = Some(ByteSize::new(mebibytes << 20));
    })
}

fn ended_by(bed: &Bed, plan: &Plan, attempt: &[&str], limit: &str) -> Verdict {
    let outcome = bed.run(plan, attempt)?;
    must(
        outcome.ending == Ending::LimitExceeded(limit.to_owned()),
        &format!("{attempt:?}: {:?}", outcome.ending),
    )?;
    must(
        outcome
            .violations
            .iter()
            .any(|violation| violation.target == limit),
        "nothing was reported",
    )
}

/// Files below a directory, and what they occupy.
fn occupied(directory: &Path) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt as _;
    let mut sum = (0, 0);
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        let metadata = entry.metadata().unwrap();
        sum.0 += 1;
        sum.1 += metadata.blocks() * 512;
        if metadata.is_dir() {
            let below = occupied(&entry.path());
            sum = (sum.0 + below.0, sum.1 + below.1);
        }
    }
    sum
}

fn processor_time(bed: &Bed) -> Verdict {
    let plan = limited(bed, |limits| {
        limits.cpu_time = Some(TimeSpan::new(Duration::from_millis(500)));
    })?;
    bed.control(&["spin-children", "3", "50", "wait"])?;
    bed.allowed_by(&plan, &["spin-children", "3", "50", "wait"])?;
    ended_by(bed, &plan, &["spin", "20000"], "cpu_time")?;
    // None of them uses that much by itself.
    ended_by(
        bed,
        &plan,
        &["spin-children", "100", "250", "wait"],
        "cpu_time",
    )?;
    // Nobody waits for these, so only the looks see them.
    ended_by(
        bed,
        &plan,
        &["spin-children", "100", "250", "forget"],
        "cpu_time",
    )
}

fn share(bed: &Bed) -> Verdict {
    bed.shows(Seen::Works);
    let half = CpuShare::try_from(0.2).map_err(|error| error.to_string())?;
    let plan = match limited(bed, |limits| limits.cpus = Some(half)) {
        Ok(plan) => plan,
        Err(error) => return must(error.contains("limits.cpus = 0.2"), &error),
    };
    let outcome = bed.run(&plan, &["spin", "400"])?;
    must(outcome.success(), &format!("{:?}", outcome.ending))?;
    must(
        outcome.time > Duration::from_millis(1500),
        &format!("it took {:?}", outcome.time),
    )
}

fn small_files(bed: &Bed) -> Verdict {
    let plan = disk(bed, 16)?;
    bed.allowed_by(&plan, &["small-files", &bed.inside("few"), "1000", "4096"])?;
    let many = bed.inside("many");
    ended_by(
        bed,
        &plan,
        &["small-files", &many, "200000", "4096"],
        "disk",
    )?;
    let (_, bytes) = occupied(&bed.workspace);
    must(bytes < MOST, &format!("{bytes} bytes were written"))
}

/// What 16 MiB may become: two sums in a row have to find them passed, a tenth of
/// a second apart, and the command writes on meanwhile.
const MOST: u64 = 128 << 20;

/// Each file may be as large as all of them together.
fn large_files(bed: &Bed) -> Verdict {
    const COUNT: u64 = 64;
    let size = (16 << 20).to_string();
    let plan = disk(bed, 16)?;
    let all = COUNT.to_string();
    let few = bed.inside("few");
    bed.control(&["small-files", &bed.inside("control"), "2", &size])?;
    std::fs::remove_dir_all(bed.inside("control")).unwrap();
    bed.allowed_by(&plan, &["small-files", &few, "1", &(15 << 20).to_string()])?;
    std::fs::remove_dir_all(few).unwrap();
    let many = bed.inside("many");
    ended_by(bed, &plan, &["small-files", &many, &all, &size], "disk")?;
    let (_, bytes) = occupied(&bed.workspace);
    // Which are written with less work than small ones.
    must(bytes < 2 * MOST, &format!("{bytes} bytes were written"))
}

fn empty_files(bed: &Bed) -> Verdict {
    let plan = disk(bed, 16)?;
    let many = bed.inside("many");
    ended_by(bed, &plan, &["small-files", &many, "1000000", "0"], "disk")?;
    let (files, _) = occupied(&bed.workspace);
    must(files < 200_000, &format!("{files} files were made"))
}

fn nameless_files(bed: &Bed) -> Verdict {
    let plan = disk(bed, 16)?;
    bed.control(&["nameless-files", &bed.inside("."), "2", "0"])?;
    ended_by(
        bed,
        &plan,
        &["nameless-files", &bed.inside("."), "64", "60"],
        "disk",
    )
}

fn deep_files(bed: &Bed) -> Verdict {
    let (control, deep) = (bed.inside("control"), bed.inside("deep"));
    for directory in [&control, &deep] {
        std::fs::create_dir(directory).unwrap();
    }
    bed.control(&["deep-files", &control, "1"])?;
    std::fs::rename(&control, bed.out("control")).unwrap();
    let plan = disk(bed, 16)?;
    ended_by(bed, &plan, &["deep-files", &deep, "100"], "disk")
}

fn passing_files(bed: &Bed) -> Verdict {
    for old in ["old", "older", "oldest"] {
        std::fs::write(bed.workspace.join(old), vec![1; 3 << 20]).unwrap();
    }
    let plan = disk(bed, 4)?;
    bed.allowed_by(&plan, &["passing-files", &bed.inside("."), "100"])?;
    // Nor does it count when it is moved or changed.
    let (old, moved) = (bed.inside("old"), bed.inside("moved"));
    bed.allowed_by(&plan, &["rename", &old, &moved])?;
    bed.allowed_by(&plan, &["append", &moved])
}

fn private_files(bed: &Bed) -> Verdict {
    let plan = disk(bed, 1)?;
    bed.allowed_by(&plan, &["small-files", "/tmp/a", "100", "0"])?;
    bed.control(&["small-files", &bed.inside("control"), "300", "0"])?;
    bed.denied_by(&plan, &["small-files", "/tmp/a", "300", "0"])
}
