//! The end-to-end channel with the devices of this machine's owner.
//!
//! The relay carries bytes; what they say is between a device (a browser) and
//! this agent, by the Noise channels of katachi-crypto. Which devices there are
//! stands in a [sealed file](Devices) here and nowhere else, so a relay can
//! neither add one nor speak for one. The agent does nothing that comes outside a
//! channel, also as long as no device is paired.

mod code;
mod converse;
mod devices;
mod pairing;

use katachi_crypto::channel::StaticKey;
use katachi_store::vault::Vault;

pub(crate) use code::{CodePairing, LOOK, Told};
pub(crate) use converse::{Asker, serve};
pub(crate) use devices::Devices;
pub(crate) use pairing::{LIFETIME as PAIRING_LIFETIME, Pairing};

/// Names the agent's own key among those that the vault derives.
const KEY_NAME: &str = "katachi-agent/channel";

/// The key by which devices know this agent.
pub(crate) fn own_key(vault: &Vault) -> StaticKey {
    StaticKey::from_secret(vault.derive(KEY_NAME))
}
