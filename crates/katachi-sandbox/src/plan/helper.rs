//! A helper program that the caller names.

use std::path::PathBuf;

use super::build::Draft;
use super::pin::Pin;
use super::resolve;
use crate::error::PlanError;

/// The program that builds sandboxes, as it was when the plan was made.
#[derive(Clone, Debug)]
pub(crate) struct Helper {
    pub(crate) path: PathBuf,
    pub(crate) pin: Pin,
}

/// Finds and pins the helper. One that a command could replace would build the
/// next sandbox as the command likes, so it is refused.
pub(super) fn helper(draft: &Draft<'_>) -> Result<Option<Helper>, PlanError> {
    let Some(named) = &draft.options.helper else {
        return Ok(None);
    };
    let rule = || format!("PlanOptions::helper({})", named.display());
    let found = std::path::absolute(named)
        .and_then(|path| resolve::follow(&path))
        .and_then(|resolved| Ok((Pin::new(&resolved.path)?, resolved.path)));
    let (pin, path) = found.map_err(|error| PlanError::Missing {
        rule: rule(),
        problem: error.to_string(),
        next_step: "install katachi-sandbox-helper and give its path".to_owned(),
    })?;
    if pin.directory {
        return Err(PlanError::Missing {
            rule: rule(),
            problem: "is a directory".to_owned(),
            next_step: "give the path of the program katachi-sandbox-helper".to_owned(),
        });
    }
    let writable = draft.write_roots.iter();
    if let Some((_, other)) = writable.clone().find(|(root, _)| path.starts_with(root)) {
        return Err(PlanError::Contradiction {
            rule: rule(),
            other: other.clone(),
            problem: format!("the command could replace {}", path.display()),
            next_step: "keep the helper out of writable directories".to_owned(),
        });
    }
    Ok(Some(Helper { path, pin }))
}
