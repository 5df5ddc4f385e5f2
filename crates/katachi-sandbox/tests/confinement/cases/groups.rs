//! Limits that a control group holds. Each case runs in a group that was
//! handed over to its user.

use std::time::Duration;

use katachi_sandbox::policy::{ByteSize, CpuShare, Limits, TimeSpan};
use katachi_sandbox::report::Enforced;
use katachi_sandbox::{Ending, Plan, Policy};

use super::Case;
use crate::bed::{Bed, Verdict, must};
use crate::groups::{left, own};
use crate::verdicts::Seen;

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "a control group bounds processes",
        run: processes,
        needs: &["cgroup pids"],
    },
    Case {
        name: "a control group bounds memory, all of it",
        run: memory,
        needs: &["cgroup memory", "sh"],
    },
    Case {
        name: "a control group bounds the share of processors",
        run: share,
        needs: &["cgroup cpu"],
    },
    Case {
        name: "a control group counts all processor time",
        run: time,
        needs: &["cgroup any"],
    },
    Case {
        name: "a control group goes with its command",
        run: gone,
        needs: &["cgroup pids"],
    },
    Case {
        name: "a control group keeps a bound that the caller has",
        run: bound,
        needs: &["cgroup pids"],
    },
];

fn limits(change: impl FnOnce(&mut Limits)) -> Limits {
    let mut limits = Limits::default();
    change(&mut limits);
    limits
}

fn plan(bed: &Bed, policy: &Policy, mechanism: &str) -> Result<Plan, String> {
    let plan = bed.plan(policy)?;
    let report = plan.enforcement();
    let control = report.control("limits").ok_or("nothing about limits")?;
    must(
        control.mechanism.contains(mechanism),
        &format!("held by {}", control.mechanism),
    )?;
    must(
        control.enforced == Enforced::Full,
        &format!("{:?}", control.enforced),
    )?;
    Ok(plan)
}

fn processes(bed: &Bed) -> Verdict {
    let policy = bed.policy().limits(limits(|limits| {
        limits.processes = Some(40);
    }));
    let plan = plan(bed, &policy, "processes: cgroup pids.max")?;
    let outcome = bed.run(&plan, &["fork-bomb"])?;
    must(
        outcome.ending == Ending::Code(1)
            && outcome
                .violations
                .iter()
                .any(|violation| violation.target == "processes"),
        &format!("{outcome:?}"),
    )?;
    must(left(&own()) == 0, "the group is left")
}

fn memory(bed: &Bed) -> Verdict {
    bed.shows(Seen::Ended);
    let policy = bed.policy().allow("sh").limits(limits(|limits| {
        limits.memory = Some(ByteSize::new(96 << 20));
    }));
    let plan = plan(bed, &policy, "memory: cgroup memory.max")?;
    bed.allowed_by(&plan, &["eat-memory", "20"])?;
    let program = Bed::program();
    let program = program.display();
    // One process, many, and files in memory.
    let mut scripts = vec![
        format!("{program} --attempt eat-memory 200; echo done"),
        format!(
            "for i in 1 2 3; do {program} --attempt eat-memory 50 30000 & done; wait; echo all"
        ),
    ];
    if bed.has_namespaces_for("files in memory") {
        scripts.push(format!(
            "{program} --attempt fill /tmp/a 800; {program} --attempt fill /dev/shm/b 800"
        ));
    }
    for script in scripts {
        let outcome = plan
            .command(["sh", "-c", &script])
            .output()
            .map_err(|error| error.to_string())?
            .outcome;
        must(
            outcome.ending == Ending::LimitExceeded("memory".into()),
            &format!("{script}: {:?}", outcome.ending),
        )?;
    }
    must(left(&own()) == 0, "a group is left")
}

fn share(bed: &Bed) -> Verdict {
    let share = CpuShare::try_from(0.2).map_err(|error| error.to_string())?;
    let policy = bed.policy();
    let free = bed.run(&bed.plan(&policy)?, &["spin", "400"])?;
    let policy = policy.limits(limits(|limits| limits.cpus = Some(share)));
    let plan = plan(bed, &policy, "cpus: cgroup cpu.max")?;
    let outcome = bed.run(&plan, &["spin", "400"])?;
    must(
        outcome.success() && outcome.time > free.time + Duration::from_secs(1),
        &format!("{:?} beside {:?}", outcome.time, free.time),
    )
}

fn time(bed: &Bed) -> Verdict {
    let policy = bed.policy().limits(limits(|limits| {
        limits.cpu_time = Some(TimeSpan::new(Duration::from_secs(1)));
    }));
    let plan = plan(bed, &policy, "cpu_time: cgroup cpu.stat")?;
    // Short, and nobody waits for them.
    let outcome = bed.run(&plan, &["spin-children", "500", "20", "forget"])?;
    must(
        outcome.ending == Ending::LimitExceeded("cpu_time".into()),
        &format!("{outcome:?}"),
    )
}

fn gone(bed: &Bed) -> Verdict {
    let policy = bed.policy().limits(limits(|limits| {
        limits.processes = Some(40);
    }));
    let plan = plan(bed, &policy, "processes: cgroup pids.max")?;
    let here = own();
    // One that a killed caller left, and one that is nothing of ours.
    let (abandoned, other) = (here.join("katachi-sandbox-1-0"), here.join("other"));
    for group in [&abandoned, &other] {
        std::fs::create_dir(group).unwrap();
    }
    let child = plan
        .command(Bed::argv(&["sleep", "60"]))
        .spawn()
        .map_err(|error| error.to_string())?;
    must(!abandoned.exists(), "the abandoned group is left")?;
    must(other.exists(), "a group that is not ours is gone")?;
    must(left(&here) == 1, "there is no group")?;
    // A group in use is not taken for abandoned.
    bed.allowed_by(&plan, &["sleep", "0"])?;
    must(left(&here) == 1, "a group in use is gone")?;
    drop(child);
    std::fs::remove_dir(&other).unwrap();
    must(left(&here) == 0, "the group is left")?;
    if !bed.has_namespaces_for("waiting sandboxes") {
        return Ok(());
    }
    // One that waits for its command has its group, and takes it along.
    let pool = katachi_sandbox::Pool::new(&plan, 1).map_err(|error| error.to_string())?;
    must(left(&here) == 1, "a waiting sandbox has no group")?;
    drop(pool);
    must(left(&here) == 0, "the waiting sandbox's group is left")
}

fn bound(bed: &Bed) -> Verdict {
    // The process's own group allows less than the policy.
    std::fs::write(own().join("supervisor/pids.max"), "30").map_err(|error| error.to_string())?;
    let policy = bed.policy().limits(limits(|limits| {
        limits.processes = Some(10_000);
    }));
    let plan = plan(bed, &policy, "processes: cgroup pids.max")?;
    let outcome = bed.run(&plan, &["fork-bomb"])?;
    must(outcome.ending == Ending::Code(1), &format!("{outcome:?}"))
}
