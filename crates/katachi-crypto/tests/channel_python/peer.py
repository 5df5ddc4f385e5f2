"""The other end of a channel, in Python: `noiseprotocol` for the handshake and
the ciphers, and the framing written from the documentation alone.

Arguments: pattern, role, own private key, the responder's public key or `-`,
the secret or `-`, the prologue; all in hexadecimal. Bytes for the other end go
out as lines `frames HEX`, and come in the same way. The initiator of IK speaks
first and confirms. After the handshake each message is answered by itself
reversed, with a change of keys before every second answer, and a close by a close.
"""

import hashlib
import hmac
import sys

from noise.connection import Keypair, NoiseConnection

CLASSES = (256, 1024, 4096, 16384)
MESSAGE, MORE, REKEY, CLOSE, CONFIRM, REVEAL = range(1, 7)
FULL = 16384 - 8


def say(word, *values):
    print(word, *values, flush=True)


class Carrier:
    """Frames over lines of hexadecimal."""

    def __init__(self):
        self.bytes = b""

    def send(self, *messages):
        framed = (len(message).to_bytes(2, "big") + message for message in messages)
        say("frames", b"".join(framed).hex())

    def take(self, count):
        while len(self.bytes) < count:
            line = sys.stdin.readline()
            if not line:
                raise SystemExit("the other end went away")
            self.bytes += bytes.fromhex(line.split()[1])
        taken, self.bytes = self.bytes[:count], self.bytes[count:]
        return taken

    def receive(self):
        return self.take(int.from_bytes(self.take(2), "big"))


def encode(kind, content=b"", total=0):
    header = bytes([kind, 0]) + len(content).to_bytes(2, "big") + total.to_bytes(4, "big")
    size = next(size for size in CLASSES if len(header) + len(content) <= size)
    return (header + content).ljust(size, b"\0")


def decode(record):
    length = int.from_bytes(record[2:4], "big")
    assert len(record) in CLASSES and not any(record[8 + length :]) and record[1] == 0
    return record[0], int.from_bytes(record[4:8], "big"), record[8 : 8 + length]


def hkdf(salt, ikm, info, length):
    key = hmac.digest(salt, ikm, "sha256")
    assert length <= 32
    return hmac.digest(key, info + b"\1", "sha256")[:length]


def prefixed(field):
    return len(field).to_bytes(8, "big") + field


def short_code(digest, a, b):
    out = hkdf(digest, prefixed(a) + prefixed(b), prefixed(b"katachi-channel/1 code"), 5)
    bits = int.from_bytes(out, "big") >> 1
    return [1000 + (bits >> shift & 0x1FFF) for shift in (26, 13, 0)]


def commit(nonce):
    return hashlib.sha256(b"katachi-channel/1 commitment" + nonce).digest()


def main():
    pattern, role, key, remote, secret, prologue = sys.argv[1:]
    initiates = role == "initiator"
    noise = NoiseConnection.from_name(f"Noise_{pattern}_25519_AESGCM_SHA256".encode())
    noise.set_prologue(bytes.fromhex(prologue))
    if secret != "-":
        noise.set_psks(bytes.fromhex(secret))
    noise.set_as_initiator() if initiates else noise.set_as_responder()
    noise.set_keypair_from_private_bytes(Keypair.STATIC, bytes.fromhex(key))
    if remote != "-":
        noise.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, bytes.fromhex(remote))
    noise.start_handshake()

    carrier = Carrier()
    nonce = bytes(range(32))
    payloads = {"XX": [b"", commit(nonce), nonce]}.get(pattern, [b"", b""])
    received = []
    for number, payload in enumerate(payloads):
        if initiates == (number % 2 == 0):
            carrier.send(noise.write_message(payload))
        else:
            received.append(bytes(noise.read_message(carrier.receive())))
    assert noise.handshake_finished
    digest = noise.get_handshake_hash()
    say("hash", digest.hex())

    if pattern == "XX" and initiates:
        kind, _, theirs = decode(noise.decrypt(carrier.receive()))
        assert kind == REVEAL and commit(theirs) == received[0]
        say("code", *short_code(digest, theirs, nonce))
    elif pattern == "XX":
        carrier.send(noise.encrypt(encode(REVEAL, nonce)))
        say("code", *short_code(digest, nonce, received[1]))
    elif initiates:
        carrier.send(noise.encrypt(encode(CONFIRM)))
    else:
        assert decode(noise.decrypt(carrier.receive())) == (CONFIRM, 0, b"")

    talk(noise, carrier)


def talk(noise, carrier):
    answers = 0
    message, missing = b"", 0
    while True:
        kind, total, content = decode(noise.decrypt(carrier.receive()))
        if kind == REKEY:
            noise.rekey_inbound_cipher()
            continue
        if kind == CLOSE:
            carrier.send(noise.encrypt(encode(CLOSE)))
            return
        if kind == MESSAGE:
            assert missing == 0
            message, missing = b"", total
        else:
            assert kind == MORE and missing > 0
        assert len(content) == min(missing, FULL)
        message += content
        missing -= len(content)
        if missing:
            continue
        answers += 1
        out = []
        if answers % 2 == 0:
            out.append(noise.encrypt(encode(REKEY)))
            noise.rekey_outbound_cipher()
        answer = message[::-1]
        out.append(noise.encrypt(encode(MESSAGE, answer[:FULL], len(answer))))
        for start in range(FULL, len(answer), FULL):
            out.append(noise.encrypt(encode(MORE, answer[start : start + FULL])))
        carrier.send(*out)


main()
