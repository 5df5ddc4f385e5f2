//! The pages for operators: what stands in them as code, and the unit of their service.

use std::path::Path;

pub(crate) fn page(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    std::fs::read_to_string(root.join(name)).unwrap()
}

/// The fenced blocks of a page, without the indent of the list that they stand in.
pub(crate) fn blocks(page: &str) -> Vec<String> {
    let fenced = page.split("```").skip(1).step_by(2);
    let block = |text: &str| -> Option<String> {
        let (_, lines) = text.split_once('\n')?;
        let indent = lines.len() - lines.trim_start_matches(' ').len();
        let lines = lines.lines().map(|line| line.get(indent..).unwrap_or(""));
        Some(lines.collect::<Vec<_>>().join("\n"))
    };
    fenced.filter_map(block).collect()
}

/// What stands in a page as code: lines of blocks, and words in backticks.
pub(crate) fn code(page: &str) -> Vec<String> {
    let blocks = blocks(page).join("\n").replace("\\\n", " ");
    let prose: String = page.split("```").step_by(2).collect();
    let words = prose.split('`').skip(1).step_by(2);
    let words = words.map(|words| words.split_whitespace().collect::<Vec<_>>().join(" "));
    blocks.lines().map(str::to_owned).chain(words).collect()
}

/// The guide's unit, in its own words.
pub(crate) fn unit() -> String {
    let blocks = blocks(&page("docs/operator-guide.md"));
    let unit = blocks.into_iter().find(|block| block.starts_with("[Unit]"));
    unit.unwrap()
}

/// The values of `key` in a unit.
pub(crate) fn values<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    let value = |line: &'a str| line.strip_prefix(key)?.strip_prefix('=');
    unit.lines().filter_map(value).collect()
}

/// Where the guide has the program.
pub(crate) const PROGRAM: &str = "/usr/local/bin/katachi-relay";
