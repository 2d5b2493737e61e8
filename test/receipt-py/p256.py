"""ECDSA P-256 verification (FIPS 186-5, SP 800-186) in pure Python.

Points are in Jacobian coordinates (X, Y, Z) with x = X/Z^2, y = Y/Z^3; Z = 0 is
the point at infinity.
"""

import functools
import hashlib

P = 2**256 - 2**224 + 2**192 + 2**96 - 1
N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
G = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
    1,
)
INFINITY = (1, 1, 0)


def on_curve(x, y):
    return x < P and y < P and (y * y - (x * x * x - 3 * x + B)) % P == 0


def double(p):
    x, y, z = p
    if z == 0 or y == 0:
        return INFINITY
    delta = z * z % P
    gamma = y * y % P
    beta = x * gamma % P
    alpha = 3 * (x - delta) * (x + delta) % P
    x3 = (alpha * alpha - 8 * beta) % P
    z3 = 2 * y * z % P
    return x3, (alpha * (4 * beta - x3) - 8 * gamma * gamma) % P, z3


def add(p, q):
    if p[2] == 0:
        return q
    if q[2] == 0:
        return p
    x1, y1, z1 = p
    x2, y2, z2 = q
    zz1, zz2 = z1 * z1 % P, z2 * z2 % P
    u1, u2 = x1 * zz2 % P, x2 * zz1 % P
    s1, s2 = y1 * z2 * zz2 % P, y2 * z1 * zz1 % P
    h, r = (u2 - u1) % P, (s2 - s1) % P
    if h == 0:
        return double(p) if r == 0 else INFINITY
    hh = h * h % P
    hhh = h * hh % P
    v = u1 * hh % P
    x3 = (r * r - hhh - 2 * v) % P
    return x3, (r * (v - x3) - s1 * hhh) % P, h * z1 * z2 % P


@functools.lru_cache(maxsize=4096)
def verify(x, y, message, signature):
    """Whether signature (r || s) is that of message by the key (x, y)."""
    if len(signature) != 64 or not on_curve(x, y):
        return False
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    if not (0 < r < N and 0 < s < N):
        return False
    e = int.from_bytes(hashlib.sha256(message).digest(), "big")
    w = pow(s, N - 2, N)
    u1, u2 = e * w % N, r * w % N
    q = (x, y, 1)
    both = add(G, q)
    acc = INFINITY
    for i in range(255, -1, -1):
        acc = double(acc)
        bits = u1 >> i & 1, u2 >> i & 1
        if bits == (1, 1):
            acc = add(acc, both)
        elif bits == (1, 0):
            acc = add(acc, G)
        elif bits == (0, 1):
            acc = add(acc, q)
    if acc[2] == 0:
        return False
    inverse = pow(acc[2], P - 2, P)
    return acc[0] * inverse * inverse % P % N == r
