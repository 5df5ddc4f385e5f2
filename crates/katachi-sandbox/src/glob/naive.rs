//! The obvious matcher: slow, short, and what the quick one is held against,
//! by tests here and by the fuzz target.

/// Whether `path` matches `pattern`, by trying everything.
pub(crate) fn naive_matches(pattern: &str, path: &str) -> bool {
    fn name(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), _) => {
                name(rest, text) || !text.is_empty() && name(pattern, &text[1..])
            }
            (Some((p, rest)), Some((t, tail))) => (*p == b'?' || p == t) && name(rest, tail),
            _ => false,
        }
    }
    fn whole(pattern: &[&str], path: &[&str]) -> bool {
        match (pattern.split_first(), path.split_first()) {
            (None, None) => true,
            (Some((&"**", rest)), _) => {
                whole(rest, path) || !path.is_empty() && whole(pattern, &path[1..])
            }
            (Some((p, rest)), Some((t, tail))) => {
                name(p.as_bytes(), t.as_bytes()) && whole(rest, tail)
            }
            _ => false,
        }
    }
    let split = |text: &str| -> Vec<String> {
        text.split('/')
            .filter(|p| !p.is_empty() && *p != ".")
            .map(str::to_owned)
            .collect()
    };
    let (pattern, path) = (split(pattern), split(path));
    whole(
        &pattern.iter().map(String::as_str).collect::<Vec<_>>(),
        &path.iter().map(String::as_str).collect::<Vec<_>>(),
    )
}
