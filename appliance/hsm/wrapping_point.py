"""A secret function out of ECDH, for tokens that have no HMAC (SmartCard-HSM, Nitrokey HSM): the token multiplies a point by its own key.

Pure. Every input becomes a point of P-256 whose logarithm nobody knows; its product with the token's private key can be told by the token
alone (the pseudo-random function of Naor, Pinkas and Reingold, under the decisional Diffie-Hellman assumption). Inputs are public salts:
finding their point needs no constant time. The mechanism is CKM_ECDH1_DERIVE with CKD_NULL (PKCS#11 2.40, 2.3.13), which these parts have.
"""

from __future__ import annotations

import hashlib

P = 2**256 - 2**224 + 2**192 + 2**96 - 1
B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
"""y^2 = x^3 - 3x + B over P: the curve P-256 (FIPS 186-5)."""
TRIES_MAX = 256
"""Each try finds a point with probability one half."""
_POINT, _SECRET = b"xacbe wrapping point 1\0", b"xacbe wrapping secret 1\0"


def point(data: bytes) -> bytes:
    """The point of an input, uncompressed (65 bytes)."""
    for number in range(TRIES_MAX):
        x = int.from_bytes(hashlib.sha256(_POINT + bytes([number]) + data).digest())
        square = (pow(x, 3, P) - 3 * x + B) % P
        y = pow(square, (P + 1) // 4, P)  # P is 3 modulo 4
        if x < P and y * y % P == square:
            return b"\x04" + x.to_bytes(32) + (y if y % 2 == 0 else P - y).to_bytes(32)
    raise RuntimeError("no point in 256 tries")


def secret(data: bytes, product_x: bytes) -> bytes:
    """32 bytes of the product's x coordinate, as ECDH gives it, made a key."""
    return hashlib.sha256(_SECRET + product_x.rjust(32, b"\0") + data).digest()
