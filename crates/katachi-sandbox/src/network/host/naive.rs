//! The obvious way to read an IPv4 address in its loose spellings, for tests.

/// The address, if `text` is one (a last dot does not count).
pub(super) fn address(text: &str) -> Option<[u8; 4]> {
    let text = text.strip_suffix('.').unwrap_or(text).to_lowercase();
    let mut numbers = Vec::new();
    for part in text.split('.') {
        let mut digits = part.chars().peekable();
        let mut base = 10;
        if part.starts_with("0x") {
            base = 16;
            digits.next();
            digits.next();
        } else if part.starts_with('0') && part.len() > 1 {
            base = 8;
            digits.next();
        }
        digits.peek()?;
        let mut value: u64 = 0;
        for digit in digits {
            value = value * base + u64::from(digit.to_digit(u32::try_from(base).ok()?)?);
            if value > u64::from(u32::MAX) {
                return None;
            }
        }
        numbers.push(value);
    }
    let mut bytes = Vec::new();
    let last = numbers.pop()?;
    for number in &numbers {
        bytes.push(u8::try_from(*number).ok()?);
    }
    let mut tail = Vec::new();
    let mut rest = last;
    while bytes.len() + tail.len() < 4 {
        tail.insert(0, (rest % 256) as u8);
        rest /= 256;
    }
    bytes.extend(tail);
    (rest == 0 && bytes.len() == 4 && numbers.len() < 4)
        .then(|| [bytes[0], bytes[1], bytes[2], bytes[3]])
}
