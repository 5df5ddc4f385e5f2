//! JSON objects, and nothing that only looks like one.

use serde::de::DeserializeOwned;

/// Reads an object. A struct can also be read from an array of its values in order,
/// which no format here allows; that is `None`, as is all else that does not fit.
pub(crate) fn object<T: DeserializeOwned>(json: &[u8]) -> Option<T> {
    let first = json.iter().find(|byte| !byte.is_ascii_whitespace());
    (first == Some(&b'{'))
        .then(|| serde_json::from_slice(json).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::object;

    #[derive(Debug, PartialEq, serde::Deserialize)]
    struct Point {
        x: u8,
        y: u8,
    }

    #[test]
    fn an_array_of_the_members_is_no_object() {
        assert_eq!(object(b" {\"y\": 2, \"x\": 1}"), Some(Point { x: 1, y: 2 }));
        for other in [
            "[1, 2]",
            " [1,2]",
            "",
            "null",
            "{\"x\": 1}",
            "{\"x\":1,\"y\":2}}",
        ] {
            assert_eq!(object::<Point>(other.as_bytes()), None, "{other}");
        }
    }
}
