//! The public endorsement key of a TPM 2.0.
//!
//! Every TPM derives its endorsement key from a seed that its maker put in, by
//! a template that the TCG fixed: the same template gives the same key for as
//! long as the seed is there. Clearing the TPM and reinstalling the system
//! leave it alone. So nothing has to be stored; the TPM is asked to make the
//! key again, the public half is read, and the object is let go.
//!
//! One template is used and no other: ECC on P-256, which every PC Client TPM
//! has. Falling back to RSA would make the reading depend on luck.
//!
//! Two fixed commands and one response need no library.

use std::io::{self, Read, Write};

/// Why a TPM gave no endorsement key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TpmError {
    /// The device could not be written to or read from.
    #[error("cannot talk to the TPM: {0}")]
    Device(#[from] io::Error),
    /// The TPM refused. The number is the response code of TPM 2.0 Library,
    /// Part 2, section 6.6.
    #[error(
        "the TPM refused with code {0:#05x}; it may lack P-256, or its endorsement hierarchy has \
         a password"
    )]
    Refused(u32),
    /// The response is not what a TPM 2.0 answers.
    #[error("the TPM's answer is not a P-256 endorsement key")]
    Malformed,
}

/// Asks a TPM 2.0 for its public endorsement key: the coordinates x and y on
/// P-256, 32 bytes each, big-endian.
///
/// `tpm` takes commands and gives responses as `/dev/tpmrm0` does. The kernel
/// bounds the time of each command; a TPM takes up to a second for this one.
/// The device is ordinarily closed to users, so this is for
/// [`publish`](crate::publish) and for programs that root runs.
///
/// ```no_run
/// use std::fs::OpenOptions;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut device = OpenOptions::new().read(true).write(true).open("/dev/tpmrm0")?;
/// let key = katachi_fingerprint::endorsement_key(&mut device)?;
/// # let _ = key;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// Returns [`TpmError`] if the device fails, the TPM refuses, or the answer is
/// not a key of the template.
pub fn endorsement_key(tpm: &mut (impl Read + Write)) -> Result<[u8; 64], TpmError> {
    let response = patiently(tpm, &create_primary())?;
    let created = parse_created(&response)?;
    let handle = created.handle.to_be_bytes();
    // TPM_ST_NO_SESSIONS, size, TPM2_FlushContext (Part 3, section 28.4). The
    // kernel's resource manager would do it when the device is closed; others
    // have room for three objects.
    let flush = [&[0x80, 0x01, 0, 0, 0, 14, 0, 0, 0x01, 0x65][..], &handle].concat();
    body(&transmit(tpm, &flush)?)?;
    Ok(created.key)
}

/// `TPM2_CreatePrimary` (Part 3, section 24.1) with template L-2 of the TCG EK
/// Credential Profile 2.5, section B.3.4. All numbers are big-endian.
fn create_primary() -> Vec<u8> {
    let template: Vec<u8> = [
        // TPM_ALG_ECC, names by SHA-256.
        &[0, 0x23, 0, 0x0b][..],
        // Fixed to this TPM, restricted decryption, administered by policy.
        &[0, 0x03, 0, 0xb2],
        // PolicySecret(TPM_RH_ENDORSEMENT), as the profile prints it.
        &[0, 32],
        &[
            0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5,
            0xd7, 0x24, 0xfd, 0x52, 0xd7, 0x6e, 0x06, 0x52, 0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b,
            0x33, 0x14, 0x69, 0xaa,
        ],
        // AES-128-CFB, no scheme, NIST P-256, no key derivation.
        &[0, 6, 0, 0x80, 0, 0x43, 0, 0x10, 0, 3, 0, 0x10],
        // The unique field: two coordinates of 32 zero bytes.
        &[0, 32],
        &[0; 32],
        &[0, 32],
        &[0; 32],
    ]
    .concat();
    let parameters = [
        // TPM_RH_ENDORSEMENT.
        &[0x40, 0, 0, 0x0b][..],
        // Nine bytes of authorisation: TPM_RS_PW with the empty password.
        &[0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0],
        // No secret and no data of the caller's.
        &[0, 4, 0, 0, 0, 0],
        &(template.len() as u16).to_be_bytes(),
        &template,
        // No outside information, no PCR.
        &[0, 0, 0, 0, 0, 0],
    ]
    .concat();
    // TPM_ST_SESSIONS, size, TPM_CC_CreatePrimary.
    let size = (10 + parameters.len() as u32).to_be_bytes();
    [&[0x80, 0x02][..], &size, &[0, 0, 0x01, 0x31], &parameters].concat()
}

/// The largest response of a PC Client TPM.
const MOST_RESPONSE: usize = 4096;

/// Sends a command again while the TPM is busy with itself: it tests its
/// algorithms after a start, or yields.
fn patiently(tpm: &mut (impl Read + Write), command: &[u8]) -> Result<Vec<u8>, TpmError> {
    /// `TPM_RC_YIELDED`, `TPM_RC_TESTING`, `TPM_RC_RETRY`.
    const BUSY: [u32; 3] = [0x908, 0x90a, 0x922];
    const MOST_TRIES: u32 = 10;
    for _ in 1..MOST_TRIES {
        let response = transmit(tpm, command)?;
        match body(&response) {
            Err(TpmError::Refused(code)) if BUSY.contains(&code) => {
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            _ => return Ok(response),
        }
    }
    transmit(tpm, command)
}

fn transmit(tpm: &mut (impl Read + Write), command: &[u8]) -> Result<Vec<u8>, TpmError> {
    tpm.write_all(command)?;
    tpm.flush()?;
    // A device gives the whole response to one read and keeps nothing of it
    // for a second; a socket may give it in pieces.
    let mut response = vec![0; MOST_RESPONSE];
    let mut have = 0;
    loop {
        match tpm.read(&mut response[have..]) {
            Ok(0) => return Err(TpmError::Malformed),
            Ok(more) => have += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        }
        let size = Bytes(&response[..have])
            .skip(2)
            .and_then(|mut rest| rest.u32());
        match size {
            Some(size) if size as usize <= have => break,
            Some(size) if size as usize > MOST_RESPONSE => return Err(TpmError::Malformed),
            _ => {}
        }
    }
    response.truncate(have);
    Ok(response)
}

/// What follows the head of a response, if the TPM agreed.
fn body(response: &[u8]) -> Result<Bytes<'_>, TpmError> {
    let mut rest = Bytes(response).skip(2).ok_or(TpmError::Malformed)?;
    let size = rest.u32().ok_or(TpmError::Malformed)?;
    let code = rest.u32().ok_or(TpmError::Malformed)?;
    match (size as usize == response.len(), code) {
        (false, _) => Err(TpmError::Malformed),
        (true, 0) => Ok(rest),
        (true, code) => Err(TpmError::Refused(code)),
    }
}

/// What `TPM2_CreatePrimary` made.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Created {
    pub(crate) handle: u32,
    pub(crate) key: [u8; 64],
}

/// Reads the response to [`create_primary`].
pub(crate) fn parse_created(response: &[u8]) -> Result<Created, TpmError> {
    let mut rest = body(response)?;
    read_created(&mut rest).ok_or(TpmError::Malformed)
}

fn read_created(rest: &mut Bytes<'_>) -> Option<Created> {
    let handle = rest.u32()?;
    let _parameter_size = rest.u32()?;
    let mut public = Bytes(rest.sized()?);
    // TPMT_PUBLIC of an ECC key (Part 2, section 12.2.4).
    let template = (public.take(2)?, public.take(2)?, public.take(4)?);
    if template != (&[0, 0x23], &[0, 0x0b], &[0, 0x03, 0, 0xb2]) {
        return None;
    }
    let _policy = public.sized()?;
    if public.take(12)? != [0, 6, 0, 0x80, 0, 0x43, 0, 0x10, 0, 3, 0, 0x10] {
        return None;
    }
    let mut key = [0; 64];
    let (x, y) = key.split_at_mut(32);
    for coordinate in [x, y] {
        // Some TPMs leave leading zeros away.
        let bytes = public.sized()?;
        let zeros = 32usize.checked_sub(bytes.len())?;
        coordinate[zeros..].copy_from_slice(bytes);
    }
    let says_something = key.iter().any(|byte| *byte != 0);
    (public.0.is_empty() && says_something).then_some(Created { handle, key })
}

/// The answer to [`create_primary`] that gives these coordinates.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn print_created(handle: u32, x: &[u8], y: &[u8]) -> Vec<u8> {
    // The template up to its unique field, as the command has it.
    let template = &create_primary()[35..89];
    let sized = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
    let public = [template, &sized(x), &sized(y)].concat();
    let parameters = sized(&public);
    let rest = [
        &handle.to_be_bytes()[..],
        &(parameters.len() as u32).to_be_bytes(),
        &parameters,
        // An empty authorisation.
        &[0, 0, 1, 0, 0],
    ]
    .concat();
    let size = (10 + rest.len() as u32).to_be_bytes();
    [&[0x80, 0x02][..], &size, &[0; 4], &rest].concat()
}

/// What is left of a response.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn skip(mut self, count: usize) -> Option<Self> {
        self.take(count)?;
        Some(self)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    /// Bytes that their length as two bytes precedes.
    fn sized(&mut self) -> Option<&'a [u8]> {
        let length = self.take(2)?.try_into().ok()?;
        self.take(u16::from_be_bytes(length).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(x: &[u8], y: &[u8]) -> Vec<u8> {
        print_created(0x8000_0001, x, y)
    }

    #[test]
    fn the_command_is_as_long_as_it_says() {
        let command = create_primary();
        assert_eq!(command.len(), 163);
        assert_eq!(command[2..6], 163_u32.to_be_bytes());
    }

    #[test]
    fn leading_zeros_left_away_are_put_back() {
        let short = parse_created(&answer(&[7; 31], &[9; 32])).unwrap();
        let mut x = [7; 32];
        x[0] = 0;
        let whole = parse_created(&answer(&x, &[9; 32])).unwrap();
        assert_eq!(short, whole);
        assert_eq!(short.handle, 0x8000_0001);
    }

    #[test]
    fn refuses_every_shorter_answer_and_longer_coordinates() {
        let whole = answer(&[7; 32], &[9; 32]);
        for end in 0..whole.len() {
            let refused = parse_created(&whole[..end]);
            assert!(matches!(refused, Err(TpmError::Malformed)), "{end}");
        }
        assert!(parse_created(&answer(&[7; 33], &[9; 32])).is_err());
        assert!(parse_created(&answer(&[0; 32], &[0; 32])).is_err());
    }

    /// A TPM that answers in pieces and remembers what it was asked.
    struct Slow {
        answers: Vec<u8>,
        piece: usize,
        asked: Vec<u8>,
    }

    impl Read for Slow {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = self.piece.min(buffer.len()).min(self.answers.len());
            let rest = self.answers.split_off(length);
            buffer[..length].copy_from_slice(&self.answers);
            self.answers = rest;
            Ok(length)
        }
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.asked.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_answer_may_come_in_pieces_and_the_object_is_let_go() {
        let flushed = [0x80, 1, 0, 0, 0, 10, 0, 0, 0, 0];
        for piece in [1, 3, 9] {
            let created = answer(&[7; 32], &[9; 32]);
            let mut tpm = Slow {
                // A piece never reaches over the end of an answer.
                answers: created.clone(),
                piece,
                asked: Vec::new(),
            };
            let whole = transmit(&mut tpm, &[]).unwrap();
            assert_eq!(whole, created);
        }
        let mut tpm = Slow {
            answers: [&answer(&[7; 32], &[9; 32])[..], &flushed].concat(),
            piece: 1,
            asked: Vec::new(),
        };
        endorsement_key(&mut tpm).unwrap();
        assert_eq!(tpm.asked.len(), 163 + 14);
        assert!(tpm.asked.ends_with(&[0, 0, 0x01, 0x65, 0x80, 0, 0, 1]));
    }

    #[test]
    fn an_endless_and_an_empty_answer_are_refused() {
        for answers in [
            vec![0x80, 1, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0],
            vec![0x80, 1, 0, 0, 0x10, 0x01],
            vec![],
        ] {
            let mut tpm = Slow {
                answers,
                piece: 64,
                asked: Vec::new(),
            };
            let refused = endorsement_key(&mut tpm);
            assert!(matches!(refused, Err(TpmError::Malformed)));
        }
    }

    #[test]
    fn a_refusal_names_its_code() {
        let refused = parse_created(&[0x80, 0x01, 0, 0, 0, 10, 0, 0, 0x09, 0xa2]);
        assert!(matches!(refused, Err(TpmError::Refused(0x9a2))));
    }
}
