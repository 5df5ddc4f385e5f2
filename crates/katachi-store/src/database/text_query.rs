//! Turns what a person types into a full-text query that is always valid.

/// A query for FTS5's `MATCH`, made from any text.
///
/// All words must occur, in any order; words in double quotes must follow each
/// other; a word that ends in `*` stands for all that begin with it. Nothing
/// else is special: `AND`, `-`, `:` or brackets are looked for like any text.
/// So that whatever a user types is a valid query and can neither fail nor
/// reach other columns.
///
/// ```
/// use katachi_store::database::TextQuery;
///
/// let query = TextQuery::parse(r#"plum "red wine" cher* a:b"#).expect("words");
/// assert_eq!(query.as_str(), r#""plum" "red wine" "cher"* "a:b""#);
/// assert!(TextQuery::parse("  ... ").is_none());
/// ```
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct TextQuery(String);

/// Further words are ignored: each costs a walk through the index.
const MAX_TERMS: usize = 32;

impl TextQuery {
    /// Reads a query. `None` if there is nothing in it that could be found,
    /// which means no result.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut query = String::new();
        for term in terms(text).take(MAX_TERMS) {
            if !query.is_empty() {
                // A space joins like AND, and unlike it forgives a phrase in
                // which the tokenizer finds no word.
                query.push(' ');
            }
            query.push('"');
            query.extend(term.words.chars().map(printable));
            query.push('"');
            if term.prefix {
                query.push('*');
            }
        }
        (!query.is_empty()).then_some(Self(query))
    }

    /// The query in FTS5's syntax.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// FTS5 reads its query as a C string.
fn printable(character: char) -> char {
    if character == '\0' { ' ' } else { character }
}

struct Term<'t> {
    words: &'t str,
    prefix: bool,
}

fn terms(text: &str) -> impl Iterator<Item = Term<'_>> {
    // Every second piece between quotes is a phrase; quotes themselves never
    // get into a term, so none needs escaping.
    text.split('"').enumerate().flat_map(|(index, piece)| {
        let phrase = index % 2 == 1;
        let whole = phrase.then_some(piece);
        let words = (!phrase).then(|| piece.split(|c: char| c.is_whitespace() || c == '\0'));
        whole
            .into_iter()
            .map(|words| Term {
                words,
                prefix: false,
            })
            .chain(words.into_iter().flatten().map(|word| Term {
                words: word.trim_end_matches('*'),
                prefix: word.ends_with('*'),
            }))
            .filter(|term| term.words.chars().any(char::is_alphanumeric))
    })
}

#[cfg(test)]
mod tests {
    use super::TextQuery;

    fn query(text: &str) -> Option<String> {
        TextQuery::parse(text).map(|query| query.as_str().to_owned())
    }

    #[test]
    fn operators_are_ordinary_words() {
        assert_eq!(query("a AND (b)").unwrap(), r#""a" "AND" "(b)""#);
        assert_eq!(query("text:secret").unwrap(), r#""text:secret""#);
        assert_eq!(query("-x ^y").unwrap(), r#""-x" "^y""#);
    }

    #[test]
    fn an_open_quote_closes_at_the_end() {
        assert_eq!(query(r#"one "two three"#).unwrap(), r#""one" "two three""#);
    }

    #[test]
    fn nothing_to_find_is_no_query() {
        for text in ["", " ", "\0", "***", "\"\"", "-", "…"] {
            assert_eq!(query(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_nul_does_not_end_the_query() {
        assert_eq!(query("\"a\0b\"").unwrap(), r#""a b""#);
    }

    #[test]
    fn very_long_queries_are_cut() {
        assert_eq!(
            query(&"w ".repeat(1000)).unwrap().matches("\"w\"").count(),
            32
        );
    }
}
