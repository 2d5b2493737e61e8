"""ECDSA verification on P-256 and P-384 (FIPS 186-5, SP 800-186) for certificates, in affine coordinates."""


class Curve:
    """y^2 = x^3 - 3x + b over the integers mod p, with a generator of order n."""

    def __init__(self, size, p, n, b, x, y):
        self.size, self.p, self.n, self.b, self.g = size, p, n, b, (x, y)

    def add(self, a, b):
        if a is None or b is None:
            return a or b
        if a[0] == b[0]:
            if (a[1] + b[1]) % self.p == 0:
                return None
            slope = (3 * a[0] * a[0] - 3) * pow(2 * a[1], -1, self.p)
        else:
            slope = (b[1] - a[1]) * pow(b[0] - a[0], -1, self.p)
        x = (slope * slope - a[0] - b[0]) % self.p
        return x, (slope * (a[0] - x) - a[1]) % self.p

    def multiply(self, k, a):
        out = None
        for bit in bin(k)[2:]:
            out = self.add(out, out)
            if bit == "1":
                out = self.add(out, a)
        return out

    def verify(self, point, digest, r, s):
        """Whether r, s are the signature of a digest by the key with this uncompressed point."""
        x, y = int.from_bytes(point[1 : 1 + self.size], "big"), int.from_bytes(point[1 + self.size :], "big")
        if len(point) != 1 + 2 * self.size or point[0] != 4 or x >= self.p or y >= self.p:
            return False
        if (y * y - (x * x * x - 3 * x + self.b)) % self.p or not (0 < r < self.n and 0 < s < self.n):
            return False
        e = int.from_bytes(digest[: self.size], "big")  # the leftmost bits
        w = pow(s, -1, self.n)
        found = self.add(self.multiply(e * w % self.n, self.g), self.multiply(r * w % self.n, (x, y)))
        return found is not None and found[0] % self.n == r


P256 = Curve(
    32,
    2**256 - 2**224 + 2**192 + 2**96 - 1,
    0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B,
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)
P384 = Curve(
    48,
    2**384 - 2**128 - 2**96 + 2**32 - 1,
    0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973,
    0xB3312FA7E23EE7E4988E056BE3F82D19181D9C6EFE8141120314088F5013875AC656398D8A2ED19D2A85C8EDD3EC2AEF,
    0xAA87CA22BE8B05378EB1C71EF320AD746E1D3B628BA79B9859F741E082542A385502F25DBF55296C3A545E3872760AB7,
    0x3617DE4A96262C6F5D9E98BF9292DC29F8F41DBD289A147CE9DA3113B5F0B8C00A60B1CE1D7E819D7A431D7C90EA0E5F,
)
