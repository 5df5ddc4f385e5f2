//! The cheapest attack on a stolen file slot, mounted, and its guesses counted.
//!
//! The thief has a copy of the disk: the vault, its secret file, and every part
//! that is on the disk too. What is missing are parts of the board, and the
//! only way to learn whether a guess was right is to try the slot. The real
//! machine is the last of all candidates, so the whole space is counted.
//!
//! A cloud machine and a microVM are attacked in full size. A laptop's space
//! of 2^16 is gone through with `KATACHI_LONG=1`; the ordinary run takes a part
//! of it with fewer boards and processors.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test that cannot set up fails loudly")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use Component::{Board, Cpu, DiskSerial, MachineId, Nic, Volume};
use katachi_fingerprint::{Component, Observation};
use katachi_store::binding::{
    BindingError, Enrolled, FingerprintBinding, MachineBinding, Recovered,
};
use katachi_store::vault::{Builder, SlotFailure, SlotKind, VaultError};
use katachi_store::{Secret, Vault};

/// How many boards and processors the estimate counts with.
const BOARD_BITS: u32 = 10;
const CPU_BITS: u32 = 6;

const IMAGE: [(Component, &str); 2] = [
    (MachineId, "8f0e2f6d5c3b4a7990e1b7d2c4f6a813"),
    (Volume, "5d2a90c1-36c3-4d0e-a7a5-3f2f3a0b6e11"),
];
const DRIVE: (Component, &str) = (DiskSerial, "S4EWNX0R123456");
const NETWORK: (Component, &str) = (Nic, "54:e1:ad:3b:7c:92");

/// A machine that somebody claims to have, and how often the slot was tried.
#[derive(Debug)]
struct Claimed {
    parts: FingerprintBinding<Observation>,
    tried: Arc<AtomicU64>,
}

impl MachineBinding for Claimed {
    fn enroll(&self) -> Result<Enrolled, BindingError> {
        self.parts.enroll()
    }

    fn recover(
        &self,
        state: &[u8],
        verify: &mut dyn FnMut(&Secret<32>) -> bool,
    ) -> Result<Recovered, BindingError> {
        self.parts.recover(state, &mut |secret| {
            self.tried.fetch_add(1, Ordering::Relaxed);
            verify(secret)
        })
    }
}

struct Stolen {
    home: tempfile::TempDir,
    /// Against a copied image, as the vault reported it when it was made.
    estimated_bits: u32,
    tried: Arc<AtomicU64>,
}

impl Stolen {
    fn from(machine: &[(Component, &str)]) -> Self {
        let mut stolen = Self {
            home: tempfile::tempdir().unwrap(),
            estimated_bits: 0,
            tried: Arc::default(),
        };
        let vault = stolen.claiming(machine).create().unwrap();
        assert_eq!(vault.report().slot.kind, SlotKind::File);
        assert!(vault.report().is_copy_deterrent());
        stolen.estimated_bits = vault.report().strength.unwrap().image_copy;
        stolen
    }

    fn claiming(&self, parts: &[(Component, &str)]) -> Builder {
        Vault::builder(self.home.path().join("vault"))
            .binding(Claimed {
                parts: FingerprintBinding::with_probe(Observation::from_pairs(
                    parts.iter().copied(),
                )),
                tried: Arc::clone(&self.tried),
            })
            .file_slot(self.home.path().join("secrets"))
    }

    /// Opens it, or says what a thief is told.
    fn guess(&self, parts: &[(Component, &str)]) -> Result<(), String> {
        match self.claiming(parts).open() {
            Ok(_) => Ok(()),
            Err(VaultError::NoUsableSlot { tried }) => {
                assert!(matches!(
                    tried[0].why,
                    SlotFailure::Binding(BindingError::WrongMachine { .. })
                ));
                Err(tried[0].to_string())
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn names(what: &str, bits: u32) -> Vec<String> {
    (0..1_u32 << bits).map(|i| format!("{what} {i}")).collect()
}

#[test]
fn the_cheapest_attack_on_a_laptop_needs_two_to_the_power_of_the_estimate() {
    let long = std::env::var_os("KATACHI_LONG").is_some_and(|value| value == "1");
    let (board_bits, cpu_bits) = if long { (BOARD_BITS, CPU_BITS) } else { (4, 3) };
    let boards = names("Board", board_bits);
    let processors = names("Processor", cpu_bits);
    let real = (Board, boards.last().unwrap().as_str());
    let real_cpu = (Cpu, processors.last().unwrap().as_str());
    let [id, volume] = IMAGE;
    let stolen = Stolen::from(&[id, volume, DRIVE, NETWORK, real, real_cpu]);

    // One part at a time would be a sum and not a product. It opens nothing.
    let told = stolen.guess(&[
        id,
        volume,
        (Board, "Board of a thief"),
        (Cpu, "Processor of a thief"),
    ]);
    assert!(told.is_err());
    assert_eq!(
        stolen.guess(&[id, volume, real, (Cpu, "Processor of a thief")]),
        told
    );
    assert_eq!(
        stolen.guess(&[id, volume, (Board, "Board of a thief"), real_cpu]),
        told
    );
    for board in &boards {
        stolen.guess(&[id, volume, (Board, board)]).unwrap_err();
    }

    let mut guesses = 0_u64;
    stolen.tried.store(0, Ordering::Relaxed);
    for board in &boards {
        for processor in &processors {
            guesses += 1;
            let opened = stolen.guess(&[id, volume, (Board, board), (Cpu, processor)]);
            let is_real = (Board, board.as_str()) == real && (Cpu, processor.as_str()) == real_cpu;
            assert_eq!(opened.is_ok(), is_real, "{board}, {processor}");
        }
    }
    // Each pair had to go to the slot, and once was enough.
    assert_eq!(stolen.tried.load(Ordering::Relaxed), guesses);
    let left_out = (BOARD_BITS - board_bits) + (CPU_BITS - cpu_bits);
    assert_eq!(guesses.ilog2() + left_out, stolen.estimated_bits);
    assert!(guesses.is_power_of_two());
}

#[test]
fn the_cheapest_attack_on_a_small_machine_in_full_size() {
    let [id, volume] = IMAGE;
    let processors = names("Processor", CPU_BITS);
    let real = (Cpu, processors.last().unwrap().as_str());
    let machines: [(&str, &[(Component, &str)]); 2] = [
        ("cloud", &[id, volume, (Board, "m7.large"), real]),
        ("microVM", &[id, real]),
    ];
    for (name, machine) in machines {
        let stolen = Stolen::from(machine);
        let mut guesses = 0_u64;
        let opened = processors.iter().position(|processor| {
            guesses += 1;
            stolen.guess(&[id, volume, (Cpu, processor)]).is_ok()
        });
        assert_eq!(opened, Some(processors.len() - 1), "{name}");
        assert_eq!(guesses, 1 << stolen.estimated_bits, "{name}");
    }
}

#[test]
fn a_file_slot_whose_secret_was_not_taken_cannot_be_attacked_by_guessing() {
    let [id, volume] = IMAGE;
    let machine = [id, volume, DRIVE, NETWORK, (Board, "Board"), (Cpu, "Cpu")];
    let stolen = Stolen::from(&machine);
    std::fs::remove_dir_all(stolen.home.path().join("secrets")).unwrap();
    stolen.tried.store(0, Ordering::Relaxed);
    // Everything is known of the machine, and the enrolment does not open.
    let Err(VaultError::NoUsableSlot { tried }) = stolen.claiming(&machine).open() else {
        panic!("it opened, or was refused for another reason");
    };
    assert!(matches!(tried[0].why, SlotFailure::SecretFile { .. }));
    assert_eq!(stolen.tried.load(Ordering::Relaxed), 0);
}
