"""Ed25519 verification (RFC 8032, section 5.1) in pure Python.

Points are in extended homogeneous coordinates (X, Y, Z, T) with x = X/Z,
y = Y/Z, x*y = T/Z. Nothing here is secret, so nothing is constant-time.
"""

import functools
import hashlib

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
D2 = 2 * D % P
SQRT_M1 = pow(2, (P - 1) // 4, P)
NEUTRAL = (0, 1, 1, 0)


def add(p, q):
    """The sum of two points (RFC 8032, section 5.1.4)."""
    x1, y1, z1, t1 = p
    x2, y2, z2, t2 = q
    a = (y1 - x1) * (y2 - x2) % P
    b = (y1 + x1) * (y2 + x2) % P
    c = t1 * D2 * t2 % P
    d = 2 * z1 * z2 % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def double(p):
    """Twice a point."""
    x, y, z, _ = p
    a = x * x % P
    b = y * y % P
    c = 2 * z * z % P
    h = a + b
    e = h - (x + y) * (x + y) % P
    g = a - b
    f = c + g
    return e * f % P, g * h % P, f * g % P, e * h % P


def negate(p):
    return -p[0] % P, p[1], p[2], -p[3] % P


def decode(raw):
    """The point of 32 bytes, or None (RFC 8032, section 5.1.3)."""
    y = int.from_bytes(raw, "little")
    sign = y >> 255
    y &= (1 << 255) - 1
    if y >= P:
        return None
    u = (y * y - 1) % P
    v = (D * y * y + 1) % P
    x = u * pow(v, 3, P) * pow(u * pow(v, 7, P), (P - 5) // 8, P) % P
    vxx = v * x * x % P
    if vxx == -u % P:
        x = x * SQRT_M1 % P
    elif vxx != u:
        return None
    if x == 0 and sign:
        return None
    if x & 1 != sign:
        x = P - x
    return x, y, 1, x * y % P


def encode(p):
    inverse = pow(p[2], P - 2, P)
    x, y = p[0] * inverse % P, p[1] * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def table(p):
    """0p to 15p."""
    out = [NEUTRAL, p]
    for _ in range(14):
        out.append(add(out[-1], p))
    return out


BASE = decode((4 * pow(5, P - 2, P) % P).to_bytes(32, "little"))
BASE_TABLE = table(BASE)


@functools.lru_cache(maxsize=256)
def negated_table(public):
    p = decode(public)
    return None if p is None else table(negate(p))


@functools.lru_cache(maxsize=4096)
def verify(public, message, signature):
    """Whether signature is that of message by the 32-byte public key."""
    if len(public) != 32 or len(signature) != 64:
        return False
    a = negated_table(public)
    s = int.from_bytes(signature[32:], "little")
    if a is None or s >= L:
        return False
    k = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % L
    # [S]B - [k]A, four bits of both at a time
    acc = NEUTRAL
    for shift in range(252, -4, -4):
        acc = double(double(double(double(acc))))
        i, j = s >> shift & 15, k >> shift & 15
        if i:
            acc = add(acc, BASE_TABLE[i])
        if j:
            acc = add(acc, a[j])
    return encode(acc) == signature[:32]
