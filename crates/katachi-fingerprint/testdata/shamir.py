"""Prints shamir.txt: sharings made with logarithm tables, generator 3."""

import hashlib

EXP, LOG = [0] * 510, [0] * 256
value = 1
for power in range(255):
    EXP[power] = EXP[power + 255] = value
    LOG[value] = power
    double = value << 1
    value ^= double ^ (0x11B if double & 0x100 else 0)


def times(a, b):
    return EXP[LOG[a] + LOG[b]] if a and b else 0


print("# Made by shamir.py: shares of 32 bytes over GF(256) modulo 0x11b.")
for threshold, count in ((1, 3), (2, 2), (3, 5), (6, 10), (12, 22)):
    def draw(name):
        return hashlib.sha256(f"{threshold} {count} {name}".encode()).digest()

    polynomial = [draw("secret")] + [draw(f"c{i}") for i in range(1, threshold)]
    if threshold == 3:
        polynomial[2] = bytes(32)  # the highest coefficient may be zero
    print("secret", polynomial[0].hex())
    for coefficient in polynomial[1:]:
        print("coefficient", coefficient.hex())
    for x in range(1, count + 1):
        share = bytearray(32)
        for i, coefficient in enumerate(polynomial):
            power = EXP[LOG[x] * i % 255]
            for j in range(32):
                share[j] ^= times(coefficient[j], power)
        print("share", x, share.hex())
    print()
