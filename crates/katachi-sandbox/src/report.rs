//! What was really enforced, what stays possible, and what was refused.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How much this machine lets us enforce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Tier {
    /// Nothing: commands are not started.
    None,
    /// The means of macOS or Windows, which nobody has seen hold on a real one.
    /// Only where the caller accepts it.
    Unwitnessed,
    /// Landlock, seccomp and a tracer, without namespaces: for machines that
    /// forbid them. Only where the caller accepts it, and what it cannot hold
    /// is refused or declared.
    Landlock,
    /// Namespaces, a root of its own, Landlock and seccomp.
    Namespaces,
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Unwitnessed => "unwitnessed",
            Self::Landlock => "landlock",
            Self::Namespaces => "namespaces",
        })
    }
}

/// How far one control is enforced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Enforced {
    /// As requested.
    Full,
    /// With the named gap.
    Partial(String),
    /// Not at all, for the named reason.
    Off(String),
}

/// One control: what was asked, how it is met.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Control {
    /// Stable name, such as `files` or `network`.
    pub id: String,
    /// What the policy asks for, in a few words.
    pub requested: String,
    /// How far it holds.
    pub enforced: Enforced,
    /// The kernel features that hold it.
    pub mechanism: String,
    /// Whether a self-test under this plan saw the control refuse an attempt.
    pub witnessed: bool,
}

/// What holds for one started command, or would hold for a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Enforcement {
    /// The tier reached.
    pub tier: Tier,
    /// Kernel release.
    pub kernel: String,
    /// Landlock ABI in use, zero where there is none.
    pub landlock_abi: u32,
    /// Each control.
    pub controls: Vec<Control>,
    /// What stays possible, in sentences.
    pub residual: Vec<String>,
    /// [`Policy::hash`](crate::Policy::hash) of the policy.
    pub policy_hash: String,
    /// [`Plan::hash`](crate::Plan::hash) of the plan.
    pub plan_hash: String,
}

impl Enforcement {
    /// The control with this name.
    #[must_use]
    pub fn control(&self, id: &str) -> Option<&Control> {
        self.controls.iter().find(|control| control.id == id)
    }

    #[cfg(target_os = "linux")]
    pub(crate) fn add_gap(&mut self, id: &str, reason: &str) {
        let Some(control) = self.controls.iter_mut().find(|control| control.id == id) else {
            return;
        };
        control.enforced = match std::mem::replace(&mut control.enforced, Enforced::Full) {
            Enforced::Full => Enforced::Partial(reason.to_owned()),
            Enforced::Partial(known) => Enforced::Partial(format!("{known}; {reason}")),
            off @ Enforced::Off(_) => off,
        };
    }

    /// Whether every control is enforced as requested.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.controls
            .iter()
            .all(|control| control.enforced == Enforced::Full)
    }
}

impl fmt::Display for Enforcement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tier {}, kernel {}", self.tier, self.kernel)?;
        match self.landlock_abi {
            0 => writeln!(f)?,
            version => writeln!(f, ", Landlock ABI {version}")?,
        }
        for control in &self.controls {
            let (state, reason) = match &control.enforced {
                Enforced::Full => ("full", ""),
                Enforced::Partial(reason) => ("partial", reason.as_str()),
                Enforced::Off(reason) => ("off", reason.as_str()),
            };
            let witnessed = if control.witnessed { ", witnessed" } else { "" };
            writeln!(
                f,
                "  {:<12} {state}{witnessed}: {} ({})",
                control.id, control.requested, control.mechanism
            )?;
            if !reason.is_empty() {
                writeln!(f, "               gap: {}", one_line(reason))?;
            }
        }
        for line in &self.residual {
            writeln!(f, "  residual: {line}")?;
        }
        Ok(())
    }
}

/// A name as one line of text: what a terminal would act upon, or would show
/// as another line, is written out.
pub(crate) fn one_line(text: impl fmt::Display) -> String {
    let mut line = String::new();
    for letter in text.to_string().chars() {
        if letter.is_control() {
            line.extend(letter.escape_default());
        } else {
            line.push(letter);
        }
    }
    line
}

/// Something that was refused, or that was found changed afterwards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Violation {
    /// The control that refused, such as `exec`.
    pub control: String,
    /// `read`, `write`, `look` (whether it is there), `exec`, `connect`, `system
    /// call` or a limit.
    pub operation: String,
    /// What it was tried on.
    pub target: String,
    /// Why it is refused, with the rule.
    pub reason: String,
    /// The line of policy that would allow it, where one exists.
    pub allow_with: Option<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} denied by {}: {}",
            self.operation,
            one_line(&self.target),
            self.control,
            one_line(&self.reason)
        )?;
        match &self.allow_with {
            Some(line) => write!(f, "; to allow it: {}", one_line(line)),
            None => Ok(()),
        }
    }
}
