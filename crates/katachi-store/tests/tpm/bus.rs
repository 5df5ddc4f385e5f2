//! Somebody between the program and the chip: listening, changing, delaying.

use std::io::Write as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use katachi_store::tpm::{Tpm as _, TpmDevice, TpmError};
use memchr::memmem;

use crate::chip::secret;
use crate::software::{Case, SWTPM, SoftwareTpm};

pub const CASES: [Case; 6] = [
    (
        "the_secret_does_not_cross_the_bus",
        SWTPM,
        the_secret_does_not_cross_the_bus,
    ),
    (
        "another_implementation_knows_every_frame",
        SWTPM,
        another_implementation_knows_every_frame,
    ),
    (
        "an_answer_changed_on_the_way_is_refused",
        SWTPM,
        an_answer_changed_on_the_way_is_refused,
    ),
    (
        "another_key_in_the_chips_place_learns_nothing",
        SWTPM,
        another_key_in_the_chips_place_learns_nothing,
    ),
    (
        "asks_again_when_the_chip_is_busy",
        SWTPM,
        asks_again_when_the_chip_is_busy,
    ),
    (
        "a_character_device_is_spoken_to_like_a_socket",
        SWTPM,
        a_character_device_is_spoken_to_like_a_socket,
    ),
];

/// What becomes of the answer to a command, by its number in the conversation.
type Twist = dyn FnMut(usize, &[u8], Vec<u8>) -> Vec<u8> + Send;

/// The commands whose answers begin with a handle.
const MAKE_HANDLES: [&[u8]; 3] = [b"\0\0\x01\x31", b"\0\0\x01\x57", b"\0\0\x01\x76"];

/// A command and the answer to it.
type Exchange = (Vec<u8>, Vec<u8>);

/// Passes commands and answers on.
struct Bus {
    _directory: tempfile::TempDir,
    path: PathBuf,
    heard: Arc<Mutex<Vec<Exchange>>>,
}

impl Bus {
    fn to(chip: &SoftwareTpm, mut twist: Box<Twist>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bus");
        let listener = UnixListener::bind(&path).unwrap();
        let (socket, heard) = (chip.socket(), Arc::new(Mutex::new(Vec::new())));
        let record = Arc::clone(&heard);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut program = stream.unwrap();
                let mut chip = UnixStream::connect(&socket).unwrap();
                let (mut number, mut made) = (0, Vec::new());
                while let Some(command) = frame(&mut program) {
                    if chip.write_all(&command).is_err() {
                        break;
                    }
                    let Some(answer) = frame(&mut chip) else {
                        break;
                    };
                    if MAKE_HANDLES.contains(&&command[6..10]) && answer.len() > 14 {
                        made.extend_from_slice(&answer[10..14]);
                    }
                    let answer = twist(number, &command, answer);
                    record.lock().unwrap().push((command, answer.clone()));
                    number += 1;
                    if program.write_all(&answer).is_err() {
                        break;
                    }
                }
                // Whoever was told a wrong handle could not clear up behind it.
                for handle in made.chunks(4) {
                    let flush = [&b"\x80\x01\0\0\0\x0e\0\0\x01\x65"[..], handle].concat();
                    let _ = chip.write_all(&flush).map(|()| frame(&mut chip));
                }
            }
        });
        Self {
            _directory: directory,
            path,
            heard,
        }
    }

    fn device(&self) -> TpmDevice {
        TpmDevice::unix_socket(&self.path).with_deadline(Duration::from_secs(30))
    }
}

fn frame(stream: &mut impl std::io::Read) -> Option<Vec<u8>> {
    let mut frame = vec![0; 10];
    stream.read_exact(&mut frame).ok()?;
    let length = u32::from_be_bytes(frame[2..6].try_into().unwrap()) as usize;
    frame.resize(length, 0);
    stream.read_exact(&mut frame[10..]).ok()?;
    Some(frame)
}

fn honest() -> Box<Twist> {
    Box::new(|_, _, answer| answer)
}

fn the_secret_does_not_cross_the_bus() {
    let chip = SoftwareTpm::start();
    let bus = Bus::to(&chip, honest());
    let sealed = bus.device().seal(&secret()).unwrap();
    assert_eq!(bus.device().unseal(&sealed).unwrap(), secret());
    let heard = bus.heard.lock().unwrap();
    let all: Vec<u8> = heard
        .iter()
        .flat_map(|(to, from)| [&to[..], from].concat())
        .collect();
    // The listener hears everything, what was sealed too ...
    assert!(memmem::find(&all, &sealed[sealed.len() - 64..]).is_some());
    // ... and of the secret not even a part.
    for part in secret().expose_secret().chunks(8) {
        assert!(memmem::find(&all, part).is_none());
    }
}

fn another_implementation_knows_every_frame() {
    use tpm2_protocol::frame::{TpmCommand, TpmResponse};

    let chip = SoftwareTpm::start();
    let bus = Bus::to(&chip, honest());
    let sealed = bus.device().seal(&secret()).unwrap();
    bus.device().unseal(&sealed).unwrap();
    bus.device().status().unwrap();
    let heard = bus.heard.lock().unwrap();
    let mut kinds = std::collections::BTreeSet::new();
    for (command, answer) in heard.iter() {
        let command = TpmCommand::cast(command).unwrap();
        command.validate().unwrap();
        kinds.insert(command.cc().unwrap() as u32);
        TpmResponse::cast(answer)
            .unwrap()
            .validate(command.cc().unwrap())
            .unwrap();
    }
    assert_eq!(kinds.len(), 6, "{kinds:x?}");
}

fn an_answer_changed_on_the_way_is_refused() {
    let chip = SoftwareTpm::start();
    let target = Arc::new(Mutex::new((0_usize, 0_usize)));
    let aimed = Arc::clone(&target);
    let bus = Bus::to(
        &chip,
        Box::new(move |number, _, mut answer| {
            let (which, place) = *aimed.lock().unwrap();
            if number == which
                && let Some(byte) = answer.get_mut(place)
            {
                *byte ^= 0x10;
            }
            answer
        }),
    );
    *target.lock().unwrap() = (usize::MAX, 0);
    let sealed = bus.device().seal(&secret()).unwrap();
    let lengths: Vec<usize> = {
        bus.heard.lock().unwrap().clear();
        assert_eq!(bus.device().unseal(&sealed).unwrap(), secret());
        bus.heard
            .lock()
            .unwrap()
            .iter()
            .map(|(_, answer)| answer.len())
            .collect()
    };
    let mut tampered = 0;
    // The answers that matter: storage key, session, loading, unsealing. Their
    // lengths are spared, since a liar about those only costs the deadline.
    for (number, length) in lengths.iter().take(4).enumerate() {
        for place in (0..*length)
            .filter(|place| !(2..6).contains(place))
            .step_by(4)
        {
            *target.lock().unwrap() = (number, place);
            match bus.device().unseal(&sealed) {
                // Some bytes are of no consequence, such as the creation data.
                Ok(opened) => assert_eq!(opened, secret(), "answer {number}, byte {place}"),
                Err(TpmError::Tampered) => tampered += 1,
                Err(TpmError::Timeout) => panic!("answer {number}, byte {place}: timeout"),
                Err(_) => {}
            }
        }
    }
    assert!(tampered > 10, "{tampered}");
    // Every byte of what carries the secret.
    let unsealing = lengths[3];
    for place in 14..unsealing {
        *target.lock().unwrap() = (3, place);
        let error = bus.device().unseal(&sealed).unwrap_err();
        assert!(
            matches!(error, TpmError::Tampered | TpmError::Failed { .. }),
            "byte {place}: {error}"
        );
    }
}

fn another_key_in_the_chips_place_learns_nothing() {
    // Somebody with a chip of their own answers for the real one.
    let (own, foreign) = (SoftwareTpm::start(), SoftwareTpm::start());
    let sealed = own.device().seal(&secret()).unwrap();
    let bus = Bus::to(&foreign, honest());
    assert_eq!(bus.device().unseal(&sealed).unwrap_err(), TpmError::Other);
    let heard = bus.heard.lock().unwrap();
    for (command, _) in heard.iter() {
        let code = u32::from_be_bytes(command[6..10].try_into().unwrap());
        // The question for its key, and the end; no session, no sealed secret.
        assert!([0x131, 0x165].contains(&code), "{code:#x}");
    }
}

fn asks_again_when_the_chip_is_busy() {
    const RETRY: &[u8] = b"\x80\x01\x00\x00\x00\x0a\x00\x00\x09\x22";
    let chip = SoftwareTpm::start();
    let sealed = chip.device().seal(&secret()).unwrap();
    // A command that is put off has not been done, so the chip must not see it.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bus");
    let listener = UnixListener::bind(&path).unwrap();
    let socket = chip.socket();
    std::thread::spawn(move || {
        let (mut program, _) = listener.accept().unwrap();
        let mut chip = UnixStream::connect(&socket).unwrap();
        let mut number = 0;
        while let Some(command) = frame(&mut program) {
            number += 1;
            if number % 3 != 0 {
                program.write_all(RETRY).unwrap();
                continue;
            }
            chip.write_all(&command).unwrap();
            program.write_all(&frame(&mut chip).unwrap()).unwrap();
        }
    });
    let device = TpmDevice::unix_socket(&path).with_deadline(Duration::from_secs(30));
    assert_eq!(device.unseal(&sealed).unwrap(), secret());
}

fn a_character_device_is_spoken_to_like_a_socket() {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

    // A terminal without any manners passes bytes on as a chip's device does.
    let chip = SoftwareTpm::start();
    let far = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&far).unwrap();
    unlockpt(&far).unwrap();
    let path = PathBuf::from(ptsname(&far, Vec::new()).unwrap().into_string().unwrap());
    let near = std::fs::File::open(&path).unwrap();
    let mut manners = tcgetattr(&near).unwrap();
    manners.make_raw();
    tcsetattr(&near, OptionalActions::Now, &manners).unwrap();
    let mut far = std::fs::File::from(far);
    let socket = chip.socket();
    std::thread::spawn(move || {
        let mut chip = UnixStream::connect(socket).unwrap();
        while let Some(command) = frame(&mut far) {
            chip.write_all(&command).unwrap();
            far.write_all(&frame(&mut chip).unwrap()).unwrap();
        }
    });
    let device = TpmDevice::device(&path).with_deadline(Duration::from_secs(30));
    let sealed = device.seal(&secret()).unwrap();
    assert_eq!(device.unseal(&sealed).unwrap(), secret());
    drop(near);
}
