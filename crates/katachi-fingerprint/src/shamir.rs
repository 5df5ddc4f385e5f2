//! Shamir's secret sharing over GF(256), byte by byte.
//!
//! The field is that of AES (FIPS 197 section 4): polynomials modulo
//! `x^8 + x^4 + x^3 + x + 1`. A secret of 32 bytes is the constant term of 32
//! polynomials; share `x` is their value at `x`. Arithmetic uses no table and
//! no branch on a secret, so its time tells nothing.
//!
//! Coefficients are uniform and may be zero. A library that avoided zero
//! leaked the secret to whoever saw many sharings of it (RUSTSEC-2024-0398).

use katachi_crypto::{Error, Secret};
use zeroize::Zeroizing;

/// A share's coordinate and its 32 values.
pub(crate) type Point = (u8, Zeroizing<[u8; 32]>);

/// Splits `secret` so that any `threshold` of the shares `1..=count` give it
/// back and fewer tell nothing.
///
/// The caller holds `1 <= threshold <= count`.
pub(crate) fn split(secret: &[u8; 32], threshold: u8, count: u8) -> Result<Vec<Point>, Error> {
    debug_assert!((1..=count).contains(&threshold));
    let mut coefficients = Vec::new();
    for _ in 1..threshold {
        coefficients.push(Secret::<32>::random()?);
    }
    Ok(split_with(secret, &coefficients, count))
}

/// Evaluates the polynomials `secret + c1 x + c2 x^2 + ...` at `1..=count`.
fn split_with(secret: &[u8; 32], coefficients: &[Secret<32>], count: u8) -> Vec<Point> {
    (1..=count)
        .map(|x| {
            let mut share = Zeroizing::new([0; 32]);
            // Horner's rule, from the highest power down to the secret.
            let powers = coefficients
                .iter()
                .rev()
                .map(|secret| secret.expose_secret())
                .chain([secret]);
            for coefficient in powers {
                for (sum, byte) in share.iter_mut().zip(coefficient) {
                    *sum = multiply(*sum, x) ^ byte;
                }
            }
            (x, share)
        })
        .collect()
}

/// The value at `x` of the lowest polynomials through `points`.
///
/// At zero that is the secret, at the coordinate of a further share it is that
/// share if it belongs to the same sharing. The caller holds that the
/// coordinates are distinct.
pub(crate) fn interpolate(points: &[&Point], x: u8) -> Zeroizing<[u8; 32]> {
    let mut sum = Zeroizing::new([0; 32]);
    for (factor, (_, values)) in lagrange(points, x).into_iter().zip(points) {
        for (sum, value) in sum.iter_mut().zip(values.iter()) {
            *sum ^= multiply(*value, factor);
        }
    }
    sum
}

/// Says whether `point` lies on the lowest polynomials through `points`.
///
/// Stops at the first byte that is off: most wrong guesses end here, and where
/// they do says nothing about the right one.
pub(crate) fn belongs(points: &[&Point], point: &Point) -> bool {
    let factors = lagrange(points, point.0);
    (0..32).all(|i| {
        let terms = factors.iter().zip(points);
        let sum = terms.fold(0, |sum, (factor, (_, values))| {
            sum ^ multiply(values[i], *factor)
        });
        sum == point.1[i]
    })
}

/// What each of `points` counts for at `x`: the product over the others of
/// `(x - other) / (own - other)`, where minus is xor.
fn lagrange(points: &[&Point], x: u8) -> Vec<u8> {
    let factor = |i: usize, own: u8| {
        let mut above = 1;
        let mut below = 1;
        for (j, (other, _)) in points.iter().enumerate() {
            if i != j {
                above = multiply(above, x ^ other);
                below = multiply(below, own ^ other);
            }
        }
        multiply(above, invert(below))
    };
    let coordinates = points.iter().map(|(own, _)| *own);
    coordinates
        .enumerate()
        .map(|(i, own)| factor(i, own))
        .collect()
}

/// Multiplies in the field: eight steps whatever the values.
fn multiply(left: u8, right: u8) -> u8 {
    let mut product = 0;
    let mut shifted = left;
    for bit in 0..8 {
        product ^= shifted & 0u8.wrapping_sub((right >> bit) & 1);
        let overflow = 0u8.wrapping_sub(shifted >> 7);
        shifted = (shifted << 1) ^ (overflow & 0x1b);
    }
    product
}

/// The inverse in the field: `value^254`, and zero for zero.
fn invert(value: u8) -> u8 {
    let mut power = value;
    let mut result = 1;
    for _ in 0..7 {
        power = multiply(power, power);
        result = multiply(result, power);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Schoolbook product and reduction: the dull twin of [`multiply`].
    fn dull_multiply(left: u8, right: u8) -> u8 {
        let mut product: u16 = 0;
        for bit in 0..8 {
            if right >> bit & 1 == 1 {
                product ^= u16::from(left) << bit;
            }
        }
        for bit in (8..16).rev() {
            if product >> bit & 1 == 1 {
                product ^= 0x11b << (bit - 8);
            }
        }
        u8::try_from(product).unwrap()
    }

    #[test]
    fn multiplies_as_the_examples_of_fips_197() {
        assert_eq!(multiply(0x57, 0x83), 0xc1);
        assert_eq!(multiply(0x57, 0x13), 0xfe);
        assert_eq!(multiply(0x57, 0x10), 0x07);
    }

    #[test]
    fn multiplies_as_its_dull_twin_for_every_pair() {
        for left in 0..=255 {
            for right in 0..=255 {
                assert_eq!(multiply(left, right), dull_multiply(left, right));
            }
        }
    }

    #[test]
    fn every_value_but_zero_has_an_inverse() {
        for value in 1..=255 {
            assert_eq!(multiply(value, invert(value)), 1, "{value}");
        }
        assert_eq!(invert(0), 0);
    }

    /// The vectors come from an implementation in another language that uses
    /// logarithm tables; `testdata/shamir.py` is that implementation.
    #[test]
    fn agrees_with_an_independent_implementation() {
        let text = include_str!("../testdata/shamir.txt");
        let mut sharings = 0;
        let mut secret = None;
        let mut coefficients = Vec::new();
        let mut shares: Vec<Point> = Vec::new();
        for line in text.lines().chain([""]) {
            let mut words = line.split_whitespace();
            match (words.next(), words.next(), words.next()) {
                (Some("secret"), Some(hex), None) => secret = Some(unhex(hex)),
                (Some("coefficient"), Some(hex), None) => {
                    coefficients.push(Secret::new(unhex(hex)))
                }
                (Some("share"), Some(x), Some(hex)) => {
                    shares.push((x.parse().unwrap(), Zeroizing::new(unhex(hex))));
                }
                (None, ..) => {
                    let Some(secret) = secret.take() else {
                        continue;
                    };
                    let count = u8::try_from(shares.len()).unwrap();
                    let ours = split_with(&secret, &coefficients, count);
                    assert_eq!(ours, shares);
                    let last: Vec<&Point> =
                        shares.iter().rev().take(coefficients.len() + 1).collect();
                    assert_eq!(*interpolate(&last, 0), secret);
                    coefficients.clear();
                    shares.clear();
                    sharings += 1;
                }
                _ => assert!(line.starts_with('#'), "{line}"),
            }
        }
        assert!(sharings >= 4, "{sharings} sharings read");
    }

    fn unhex(text: &str) -> [u8; 32] {
        std::array::from_fn(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
    }

    #[test]
    fn coefficients_are_uniform_and_may_be_zero() {
        // With threshold 2 the coefficient is share 1 minus the secret. 64,000
        // bytes in 256 classes: chi-square has 255 degrees of freedom, so 400
        // is exceeded once in more than ten million runs; a generator that
        // avoids zero misses its 250 and adds 250 at once, and is caught below.
        let mut seen = [0u32; 256];
        for _ in 0..2_000 {
            let shares = split(&[0; 32], 2, 2).unwrap();
            for byte in shares[0].1.iter() {
                seen[usize::from(*byte)] += 1;
            }
        }
        let expected = 250.0;
        let chi_square: f64 = seen
            .iter()
            .map(|count| (f64::from(*count) - expected).powi(2) / expected)
            .sum();
        assert!(chi_square < 400.0, "{chi_square}");
        assert!(seen[0] > 150, "zero was drawn {} times", seen[0]);
    }

    proptest! {
        #[test]
        fn any_threshold_of_shares_gives_the_secret_and_every_other_share(
            secret: [u8; 32],
            threshold in 1u8..12,
            more in 0u8..12,
            seed: [u8; 32],
        ) {
            let count = threshold + more;
            let mut shares = split(&secret, threshold, count).unwrap();
            // A shuffle by sorting on pseudo-random keys.
            shares.sort_by_key(|(x, _)| seed[usize::from(*x) % 32].wrapping_mul(*x));
            let shares: Vec<&Point> = shares.iter().collect();
            let (some, rest) = shares.split_at(usize::from(threshold));
            prop_assert_eq!(*interpolate(some, 0), secret);
            for share in rest {
                prop_assert_eq!(&interpolate(some, share.0), &share.1);
                prop_assert!(belongs(some, share));
                let mut other = (*share).clone();
                other.1[usize::from(seed[0]) % 32] ^= 1;
                prop_assert!(!belongs(some, &other));
            }
        }

        #[test]
        fn one_share_too_few_does_not_give_the_secret(secret: [u8; 32], threshold in 2u8..12) {
            let shares = split(&secret, threshold, threshold).unwrap();
            let short: Vec<&Point> = shares[1..].iter().collect();
            prop_assert_ne!(*interpolate(&short, 0), secret);
        }
    }
}
