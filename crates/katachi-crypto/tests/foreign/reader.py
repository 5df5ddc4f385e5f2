"""A reader of KTC1 written from FORMAT.md alone, with PyPI's `cryptography`.

Each line of input is a data key in hexadecimal, a context as `tag:hex` fields
joined by commas, and an envelope in hexadecimal or in its text form. Each line
of output is `open ` and the plaintext in hexadecimal, or `refused ` and why.
"""

import base64
import hmac
import sys

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

CHUNK = 16 * 1024


class Refused(Exception):
    pass


def encode_context(fields):
    return b"".join(
        bytes([tag]) + len(content).to_bytes(4, "big") + content for tag, content in fields
    )


def open_envelope(key, context, envelope):
    if len(envelope) < 72:
        raise Refused("truncated")
    header, salt, commitment = envelope[:16], envelope[16:40], envelope[40:72]
    if header[:3] != b"KTC" or header[3] != 1 or header[4] != 1:
        raise Refused("unsupported")
    if header[5] not in range(1, 6) or header[6:8] != b"\0\0":
        raise Refused("unsupported")
    info = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0" + salt
    info += b"katachi.v1" + header + context
    keys = HKDFExpand(SHA512(), 76, info).derive(key)
    if not hmac.compare_digest(keys[44:], commitment):
        raise Refused("key mismatch")
    aead, base_nonce = AESGCM(keys[:32]), int.from_bytes(keys[32:44], "big")

    plaintext, rest, number = b"", envelope[72:], 0
    while True:
        chunk, rest = rest[: CHUNK + 16], rest[CHUNK + 16 :]
        if len(chunk) < 16:
            raise Refused("truncated")
        nonce = (base_nonce ^ number).to_bytes(12, "big")
        try:
            plaintext += aead.decrypt(nonce, chunk, None)
        except InvalidTag:
            raise Refused("tampered") from None
        if len(chunk) < CHUNK + 16:
            return plaintext
        number += 1


def main():
    for line in sys.stdin:
        key, fields, envelope = line.split()
        if envelope.startswith("ktc1."):
            text = envelope[5:]
            envelope = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        else:
            envelope = bytes.fromhex(envelope)
        fields = [field.split(":") for field in fields.split(",")]
        context = encode_context((int(tag), bytes.fromhex(content)) for tag, content in fields)
        try:
            print("open", open_envelope(bytes.fromhex(key), context, envelope).hex())
        except Refused as why:
            print("refused", why)


main()
