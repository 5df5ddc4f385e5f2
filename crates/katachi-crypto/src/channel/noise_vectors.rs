//! The published vectors, over this crate's primitives.

use snow::{Builder, HandshakeState};

use super::Primitives;

const VECTORS: &str = include_str!("testdata/noise.txt");

/// One vector: fields by name, in order.
struct Vector(Vec<(&'static str, &'static str)>);

impl Vector {
    fn all() -> Vec<Self> {
        VECTORS
            .split("\n\n")
            .skip(1)
            .map(|block| {
                Self(
                    block
                        .lines()
                        .filter_map(|line| line.split_once(' '))
                        .collect(),
                )
            })
            .collect()
    }

    fn find(&self, name: &str) -> Option<&'static str> {
        let mut fields = self.0.iter();
        fields.find(|field| field.0 == name).map(|field| field.1)
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        unhex(self.find(name).unwrap())
    }

    fn start(&self, initiates: bool) -> HandshakeState {
        let (us, them) = if initiates {
            ("init", "resp")
        } else {
            ("resp", "init")
        };
        let (key, ephemeral) = (
            self.bytes(&format!("{us}_static")),
            self.bytes(&format!("{us}_ephemeral")),
        );
        let prologue = self.bytes("prologue");
        let name = self.find("name").unwrap();
        let mut builder = Builder::with_resolver(name.parse().unwrap(), Box::new(Primitives))
            .prologue(&prologue)
            .unwrap()
            .local_private_key(&key)
            .unwrap()
            .fixed_ephemeral_key_for_testing_only(&ephemeral);
        let remote = super::StaticKey::from_secret(
            crate::Secret::from_slice(&self.bytes(&format!("{them}_static"))).unwrap(),
        )
        .public();
        if initiates && name.contains("_IK") {
            builder = builder.remote_public_key(remote.as_bytes()).unwrap();
        }
        let psk = self.find("psk").map(|psk| unhex(psk).try_into().unwrap());
        if let Some(psk) = &psk {
            builder = builder.psk(2, psk).unwrap();
        }
        if initiates {
            builder.build_initiator().unwrap()
        } else {
            builder.build_responder().unwrap()
        }
    }
}

fn unhex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

#[test]
fn published_vectors_hold_in_both_roles() {
    let vectors = Vector::all();
    assert_eq!(vectors.len(), 5);
    for vector in &vectors {
        let (mut one, mut two) = (vector.start(true), vector.start(false));
        let mut messages = vector.0.iter().filter(|field| field.0 == "message");
        let mut buffer = [0; 1024];
        let mut opened = [0; 1024];
        let mut count = 0;
        while !one.is_handshake_finished() {
            let (payload, ciphertext) = messages.next().unwrap().1.split_once(' ').unwrap();
            let (from, to) = if count % 2 == 0 {
                (&mut one, &mut two)
            } else {
                (&mut two, &mut one)
            };
            let written = from.write_message(&unhex(payload), &mut buffer).unwrap();
            assert_eq!(buffer[..written], unhex(ciphertext));
            let read = to.read_message(&buffer[..written], &mut opened).unwrap();
            assert_eq!(opened[..read], unhex(payload));
            count += 1;
        }
        if vector.find("handshake_hash").is_some() {
            assert_eq!(one.get_handshake_hash(), vector.bytes("handshake_hash"));
        }
        assert_eq!(one.get_handshake_hash(), two.get_handshake_hash());
        let mut one = one.into_transport_mode().unwrap();
        let mut two = two.into_transport_mode().unwrap();
        for (_, message) in messages {
            let (payload, ciphertext) = message.split_once(' ').unwrap();
            let (from, to) = if count % 2 == 0 {
                (&mut one, &mut two)
            } else {
                (&mut two, &mut one)
            };
            let written = from.write_message(&unhex(payload), &mut buffer).unwrap();
            assert_eq!(buffer[..written], unhex(ciphertext));
            let read = to.read_message(&buffer[..written], &mut opened).unwrap();
            assert_eq!(opened[..read], unhex(payload));
            count += 1;
        }
    }
}

/// The points of small order on Curve25519 and its twist, with their high bits.
#[test]
fn keys_that_force_a_shared_secret_of_zeros_are_refused() {
    use super::X25519;
    use snow::types::Dh;

    let mut ours = X25519::default();
    ours.set(&[7; 32]);
    let mut one = [0; 32];
    one[0] = 1;
    let mut minus_one = [0xff; 32];
    (minus_one[0], minus_one[31]) = (0xec, 0x7f);
    let mut p = minus_one;
    p[0] = 0xed;
    let order_8 = unhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800");
    for point in [[0; 32].as_slice(), &one, &minus_one, &p, &order_8] {
        let mut out = [0; 32];
        assert!(ours.dh(point, &mut out).is_err(), "{point:02x?}");
    }
}
