//! An identifier for people who need a name for the machine and not a key.

use std::fmt;

use katachi_crypto::kdf::{self, Label};
use zeroize::Zeroizing;

use crate::component::Component;
use crate::observation::Observation;

/// Names this machine within one application.
///
/// It is the same on every run and tells nothing about the machine or about
/// its identifier in another application. It is **no secret**: any program on
/// the machine can compute it. `Display` prints 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct DeviceId {
    bytes: [u8; 16],
    source: Component,
}

/// The machine shows nothing that could name it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("this machine shows no part that tells it from others; store a random identifier instead")]
pub struct Anonymous;

/// Parts that name a machine, the most lasting first. The models of board and
/// processor name thousands.
const NAMING: [Component; 6] = [
    Component::MachineId,
    Component::ProductUuid,
    Component::BoardSerial,
    Component::Nic,
    Component::DiskSerial,
    Component::Volume,
];

/// Derives the identifier of the machine `seen` within `application`.
///
/// It rests on a single part, the first that is there of machine id, product
/// UUID, board serial, network interface, disk serial and volume, since an
/// identifier cannot tolerate change the way an enrolment does.
/// [`DeviceId::source`] says which.
///
/// ```
/// use katachi_fingerprint::{Probe, SystemProbe, device_id};
///
/// if let Ok(id) = device_id(&SystemProbe::new().observe(), "com.example.editor") {
///     println!("{id}");
/// }
/// ```
///
/// # Errors
///
/// Returns [`Anonymous`] if none of these parts is there.
pub fn device_id(seen: &Observation, application: &str) -> Result<DeviceId, Anonymous> {
    let (source, reading) = NAMING
        .into_iter()
        .find_map(|part| Some((part, seen.reading(part)?)))
        .ok_or(Anonymous)?;
    // Values are sorted, so the first is the same in every order.
    let value: &Zeroizing<Vec<u8>> = &reading.values().first().ok_or(Anonymous)?.bytes;
    let label = Label::new("katachi/v1/device-id")
        .field(application.as_bytes())
        .field(&[source.tag()]);
    let id = kdf::derive::<16>(&[value], &[], &label);
    Ok(DeviceId {
        bytes: *id.expose_secret(),
        source,
    })
}

impl DeviceId {
    /// The 16 bytes of the identifier.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.bytes
    }

    /// The part it rests on; when that changes, so does the identifier.
    #[must_use]
    pub const fn source(&self) -> Component {
        self.source
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bytes
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: (Component, &str) = (Component::MachineId, "3d1219c7c4c5404aaa1f6d2a48adfda4");

    #[test]
    fn is_the_same_for_one_application_and_differs_between_two() {
        let seen = Observation::from_pairs([ID]);
        let editor = device_id(&seen, "editor").unwrap();
        assert_eq!(editor, device_id(&seen, "editor").unwrap());
        assert_ne!(editor, device_id(&seen, "mail").unwrap());
        assert_ne!(editor, device_id(&seen, "").unwrap());
    }

    #[test]
    fn other_parts_do_not_move_it() {
        let plain = device_id(&Observation::from_pairs([ID]), "editor").unwrap();
        let more = Observation::from_pairs([ID, (Component::Nic, "00:1b:21:0a:0b:0c")]);
        assert_eq!(plain, device_id(&more, "editor").unwrap());
    }

    #[test]
    fn a_model_is_no_name() {
        let seen = Observation::from_pairs([(Component::Cpu, "Ryzen"), (Component::Board, "X570")]);
        assert_eq!(device_id(&seen, "editor"), Err(Anonymous));
    }

    /// Once published, an identifier must not change with a version.
    #[test]
    fn keeps_its_published_value() {
        let seen = Observation::from_pairs([ID]);
        let id = device_id(&seen, "com.example.editor").unwrap();
        assert_eq!(
            id.to_string(),
            include_str!("../testdata/device-id.txt").trim()
        );
    }
}
