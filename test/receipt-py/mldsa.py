"""ML-DSA signature verification from FIPS 204 (algorithms 3 and 8), with an empty context."""

import hashlib

Q, D, N = 8380417, 13, 256


class Parameters:
    """A row of FIPS 204 table 1."""

    def __init__(self, k, l, tau, gamma1, gamma2, omega, beta, challenge):
        self.k, self.l, self.tau, self.gamma1, self.gamma2 = k, l, tau, gamma1, gamma2
        self.omega, self.beta, self.challenge = omega, beta, challenge
        self.public_size = 32 + 320 * k
        self.z_bits = gamma1.bit_length()
        self.signature_size = challenge + l * 32 * self.z_bits + omega + k


SETS = {
    "ml-dsa-44": Parameters(4, 4, 39, 1 << 17, (Q - 1) // 88, 80, 78, 32),
    "ml-dsa-65": Parameters(6, 5, 49, 1 << 19, (Q - 1) // 32, 55, 196, 48),
    "ml-dsa-87": Parameters(8, 7, 60, 1 << 19, (Q - 1) // 32, 75, 120, 64),
}

ZETAS = [pow(1753, int("{:08b}".format(m)[::-1], 2), Q) for m in range(N)]


def ntt(w):  # algorithm 41
    w, m, length = list(w), 0, 128
    while length >= 1:
        for start in range(0, N, 2 * length):
            m += 1
            z = ZETAS[m]
            for j in range(start, start + length):
                t = z * w[j + length] % Q
                w[j + length] = (w[j] - t) % Q
                w[j] = (w[j] + t) % Q
        length //= 2
    return w


def inverse_ntt(w):  # algorithm 42
    w, m, length = list(w), N, 1
    while length < N:
        for start in range(0, N, 2 * length):
            m -= 1
            z = -ZETAS[m]
            for j in range(start, start + length):
                t = w[j]
                w[j] = (t + w[j + length]) % Q
                w[j + length] = z * (t - w[j + length]) % Q
        length *= 2
    return [8347681 * x % Q for x in w]


def unpack(raw, bits):
    """Algorithm 18: integers of some bits each, least significant first."""
    value, mask = int.from_bytes(raw, "little"), (1 << bits) - 1
    return [value >> bits * i & mask for i in range(len(raw) * 8 // bits)]


def expand(rho, r, s):
    """Algorithm 30: one polynomial of the public matrix."""
    length = 1024
    while True:
        stream, out = hashlib.shake_128(rho + bytes([s, r])).digest(length), []
        for i in range(0, length - 2, 3):
            z = (stream[i + 2] & 127) << 16 | stream[i + 1] << 8 | stream[i]
            if z < Q:
                out.append(z)
                if len(out) == N:
                    return out
        length *= 2


def sample_in_ball(seed, tau):
    """Algorithm 29: a polynomial with tau coefficients of 1 or -1."""
    stream = hashlib.shake_256(seed).digest(4096)
    signs, at, c = int.from_bytes(stream[:8], "little"), 8, [0] * N
    for i in range(N - tau, N):
        while stream[at] > i:
            at += 1
        j = stream[at]
        at += 1
        c[i] = c[j]
        c[j] = -1 if signs >> (i + tau - N) & 1 else 1
    return c


def unpack_hints(raw, p):
    """Algorithm 21; None if they are malformed."""
    out, index = [], 0
    for i in range(p.k):
        row, end, first = set(), raw[p.omega + i], index
        if end < index or end > p.omega:
            return None
        while index < end:
            if index > first and raw[index - 1] >= raw[index]:
                return None
            row.add(raw[index])
            index += 1
        out.append(row)
    return None if any(raw[index : p.omega]) else out


def use_hint(hint, r, gamma2):  # algorithms 36 and 40
    r0 = r % (2 * gamma2)
    if r0 > gamma2:
        r0 -= 2 * gamma2
    if r - r0 == Q - 1:
        r1, r0 = 0, r0 - 1
    else:
        r1 = (r - r0) // (2 * gamma2)
    if not hint:
        return r1
    return (r1 + (1 if r0 > 0 else -1)) % ((Q - 1) // (2 * gamma2))


def verify(name, public, message, signature):
    p = SETS[name]
    if len(public) != p.public_size or len(signature) != p.signature_size:
        return False
    # The key and the signature taken apart.
    rho, t1 = public[:32], [unpack(public[32 + 320 * i : 352 + 320 * i], 10) for i in range(p.k)]
    challenge, at, z = signature[: p.challenge], p.challenge, []
    for _ in range(p.l):
        z.append([p.gamma1 - x for x in unpack(signature[at : at + 32 * p.z_bits], p.z_bits)])
        at += 32 * p.z_bits
    hints = unpack_hints(signature[at:], p)
    if hints is None or any(abs(x) >= p.gamma1 - p.beta for row in z for x in row):
        return False
    # What was signed, and the commitment that the signature leads to.
    tr = hashlib.shake_256(public).digest(64)
    mu = hashlib.shake_256(tr + b"\x00\x00" + message).digest(64)
    c = ntt(sample_in_ball(challenge, p.tau))
    z = [ntt(row) for row in z]
    bits = ((Q - 1) // (2 * p.gamma2) - 1).bit_length()
    encoded = b""
    for r in range(p.k):
        total = [0] * N
        for s in range(p.l):
            a = expand(rho, r, s)
            total = [(x + y * v) % Q for x, y, v in zip(total, a, z[s])]
        t = ntt([x << D for x in t1[r]])
        w = inverse_ntt([(x - y * v) % Q for x, y, v in zip(total, c, t)])
        value = 0
        for i in range(N):
            value |= use_hint(i in hints[r], w[i], p.gamma2) << bits * i
        encoded += value.to_bytes(32 * bits, "little")
    return hashlib.shake_256(mu + encoded).digest(p.challenge) == challenge
