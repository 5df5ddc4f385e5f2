//! Addresses that stand for names.
//!
//! A program that knows no proxy asks for an address and connects to it. It is
//! told one of a pool that exists inside the sandbox only; the address it
//! connects to then says which name it meant.

use std::collections::HashMap;
use std::net::Ipv4Addr;

/// First address of the pool, on which the proxy itself listens. The network
/// is the one for measurements (RFC 2544), which no host of the public network
/// has.
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// Its mask: the pool has the lower 17 bits.
pub(crate) const MASK: Ipv4Addr = Ipv4Addr::new(255, 254, 0, 0);
/// Names remembered for one command.
const MOST: usize = 4096;

/// The names that were asked for, with their addresses.
#[derive(Debug, Default)]
pub(crate) struct Names {
    by_name: HashMap<String, Ipv4Addr>,
    by_address: HashMap<Ipv4Addr, String>,
}

impl Names {
    /// The address that stands for `name`; `None` when there are too many.
    pub(crate) fn address(&mut self, name: &str) -> Option<Ipv4Addr> {
        if let Some(address) = self.by_name.get(name) {
            return Some(*address);
        }
        let count = self.by_name.len();
        if count >= MOST {
            return None;
        }
        let address = Ipv4Addr::from(u32::from(GATEWAY) + 1 + u32::try_from(count).ok()?);
        self.by_name.insert(name.to_owned(), address);
        self.by_address.insert(address, name.to_owned());
        Some(address)
    }

    /// The name that `address` stands for.
    pub(crate) fn name(&self, address: Ipv4Addr) -> Option<&str> {
        self.by_address.get(&address).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_has_an_address_of_its_own_and_keeps_it() {
        let mut names = Names::default();
        let first = names.address("a.test").unwrap();
        let second = names.address("b.test").unwrap();
        assert_ne!(first, second);
        assert_ne!(first, GATEWAY);
        assert_eq!(names.address("a.test"), Some(first));
        assert_eq!(names.name(second), Some("b.test"));
        assert_eq!(names.name(GATEWAY), None);
    }

    #[test]
    fn a_flood_of_names_ends() {
        let mut names = Names::default();
        for index in 0..MOST {
            let address = names.address(&format!("{index}.test")).unwrap();
            assert_eq!(
                u32::from(address) & u32::from(MASK),
                u32::from(GATEWAY) & u32::from(MASK)
            );
        }
        assert_eq!(names.address("one-more.test"), None);
        assert!(names.address("0.test").is_some());
    }
}
