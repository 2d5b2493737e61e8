"""What a verifier needs of X.509 certificates (RFC 5280): DER, names, times, who signed."""

import calendar
import hashlib
import re

import ecdsa
import ed25519


class Malformed(Exception):
    """It is not the certificate that it should be."""


def element(raw, at=0):
    """Tag, content, and the whole of one DER element."""
    if at + 2 > len(raw):
        raise Malformed("it is cut")
    tag, length, start = raw[at], raw[at + 1], at + 2
    if tag & 31 == 31 or length == 0x80:
        raise Malformed("not DER")
    if length > 0x80:
        count = length & 127
        digits = raw[start : start + count]
        length = int.from_bytes(digits, "big")
        start += count
        if count > 4 or len(digits) < count or digits[0] == 0 or length < 128:
            raise Malformed("not DER")
    if start + length > len(raw):
        raise Malformed("it is cut")
    return tag, raw[start : start + length], raw[at : start + length]


def elements(raw):
    out, at = [], 0
    while at < len(raw):
        tag, content, whole = element(raw, at)
        out.append((tag, content, whole))
        at += len(whole)
    return out


def sequence(raw):
    tag, content, whole = element(raw)
    if tag != 0x30 or len(whole) != len(raw):
        raise Malformed("not one sequence")
    return elements(content)


def oid(content):
    numbers, n = [], 0
    for b in content:
        n = n << 7 | b & 127
        if b < 128:
            numbers.append(n)
            n = 0
    first = min(numbers[0] // 40, 2) if numbers else 0
    return ".".join(map(str, [first, numbers[0] - 40 * first] + numbers[1:])) if numbers else ""


def moment(tag, content):
    """UTCTime or GeneralizedTime in seconds since 1970."""
    text = content.decode("ascii", "replace")
    form = r"(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z" if tag == 0x17 else r"(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z"
    m = re.fullmatch(form, text, re.ASCII)
    if tag not in (0x17, 0x18) or not m:
        raise Malformed("not a time")
    y, *rest = map(int, m.groups())
    if tag == 0x17:
        y += 1900 if y >= 50 else 2000
    return calendar.timegm((y, *rest, 0, 0, 0))


# RFC 8017, RFC 5758, RFC 8410: algorithm, hash.
SIGNATURES = {
    "1.2.840.113549.1.1.11": ("rsa", hashlib.sha256),
    "1.2.840.113549.1.1.12": ("rsa", hashlib.sha384),
    "1.2.840.113549.1.1.13": ("rsa", hashlib.sha512),
    "1.2.840.10045.4.3.2": ("ecdsa", hashlib.sha256),
    "1.2.840.10045.4.3.3": ("ecdsa", hashlib.sha384),
    "1.2.840.10045.4.3.4": ("ecdsa", hashlib.sha512),
    "1.3.101.112": ("ed25519", None),
}
# DigestInfo up to the digest, RFC 8017 section 9.2.
DIGEST_INFO = {
    "sha256": bytes.fromhex("3031300d060960864801650304020105000420"),
    "sha384": bytes.fromhex("3041300d060960864801650304020205000430"),
    "sha512": bytes.fromhex("3051300d060960864801650304020305000440"),
}
CURVES = {"1.2.840.10045.3.1.7": ecdsa.P256, "1.3.132.0.34": ecdsa.P384}

HOLDS, FAILS, NOT_CHECKED = "holds", "fails", "not checked"


class Certificate:
    def __init__(self, raw):
        try:
            self.read(raw)
        except (IndexError, UnicodeDecodeError, ValueError) as e:
            raise Malformed(str(e)) from None

    def read(self, raw):
        self.raw = raw
        (_, _, self.signed), (_, _, algorithm), (tag, bits, _) = sequence(raw)
        if tag != 3 or bits[0] != 0:
            raise Malformed("the signature is no bit string")
        self.algorithm, self.signature = oid(sequence(algorithm)[0][1]), bits[1:]
        fields = sequence(self.signed)
        if fields[0][0] == 0xA0:
            fields = fields[1:]
        _, _, (_, _, self.issuer), (_, validity, _), (_, _, self.subject), (_, _, self.spki) = fields[:6]
        self.not_before, self.not_after = [moment(tag, content) for tag, content, _ in elements(validity)]
        self.authority, self.usage, self.qualified = False, None, False
        for tag, content, _ in fields[6:]:
            if tag == 0xA3:
                for _, _, extension in sequence(content):
                    parts = sequence(extension)
                    self.extension(oid(parts[0][1]), parts[-1][1])

    def extension(self, name, value):
        if name == "2.5.29.19":
            constraints = sequence(value)
            self.authority = bool(constraints) and constraints[0][0] == 1 and constraints[0][1] == b"\xff"
        elif name == "2.5.29.15":
            self.usage = element(value)[1]
        elif name == "1.3.6.1.5.5.7.1.3":
            self.qualified = any(oid(sequence(s)[0][1]) == "0.4.0.1862.1.1" for _, _, s in sequence(value))

    def may_issue(self):
        return self.authority and (self.usage is None or (len(self.usage) > 1 and self.usage[1] & 0x04))

    def issued_by(self, by):
        """Section 7.5: whether another certificate's key signed this one."""
        if self.issuer != by.subject:
            return FAILS
        if self.algorithm not in SIGNATURES:
            return NOT_CHECKED
        kind, digest = SIGNATURES[self.algorithm]
        (_, algorithm, _), (_, key, _) = sequence(by.spki)
        parameters = elements(algorithm)
        name, key = oid(parameters[0][1]), key[1:]
        if name == "1.2.840.113549.1.1.1":
            (_, n, _), (_, e, _) = sequence(key)
            size = len(n.lstrip(b"\0"))
            if not 256 <= size <= 1024:
                return NOT_CHECKED
        elif name == "1.2.840.10045.2.1":
            curve = CURVES.get(oid(parameters[1][1]))
            if curve is None:
                return NOT_CHECKED
        if not by.may_issue():
            return FAILS
        try:
            if kind == "rsa" and name == "1.2.840.113549.1.1.1":
                ok = rsa(int.from_bytes(n, "big"), int.from_bytes(e, "big"), size, digest, self.signed, self.signature)
            elif kind == "ecdsa" and name == "1.2.840.10045.2.1":
                (_, r, _), (_, s, _) = sequence(self.signature)
                ok = curve.verify(key, digest(self.signed).digest(), int.from_bytes(r, "big"), int.from_bytes(s, "big"))
            elif kind == "ed25519" and name == "1.3.101.112":
                ok = ed25519.verify(key, self.signed, self.signature)
            else:
                ok = False
        except (Malformed, ValueError):
            ok = False
        return HOLDS if ok else FAILS


def rsa(n, e, size, digest, message, signature):
    """RSASSA-PKCS1-v1_5, RFC 8017 section 8.2.2."""
    h = digest(message)
    encoded = DIGEST_INFO[h.name] + h.digest()
    encoded = b"\x00\x01" + b"\xff" * (size - 3 - len(encoded)) + b"\x00" + encoded
    s = int.from_bytes(signature, "big")
    return len(signature) == size and s < n and pow(s, e, n).to_bytes(size, "big") == encoded


def examine(chain, spki, at, anchors):
    """The findings about a chain for a key at a time (8.14), and the failure for a policy that requires chains."""
    try:
        chain = [Certificate(raw) for raw in chain]
    except Malformed:
        return [("bound", FAILS)], "chain_of_another_key"
    links = [c.issued_by(by) for c, by in zip(chain, chain[1:])]
    signed = next((link for link in links if link != HOLDS), HOLDS)
    trusted = NOT_CHECKED
    if anchors:
        trusted = FAILS
        for i, c in enumerate(chain):
            if any(a.raw == c.raw or c.issued_by(a) == HOLDS for a in anchors):
                trusted = HOLDS
                break
            if i < len(links) and links[i] != HOLDS:
                break
    found = [
        ("bound", HOLDS if chain[0].spki == spki else FAILS, "chain_of_another_key"),
        ("in_time", HOLDS if all(c.not_before <= at <= c.not_after for c in chain) else FAILS, "chain_not_in_time"),
        ("signed", signed, "chain_not_signed"),
        ("trusted", trusted, "chain_not_trusted"),
    ]
    failure = next((name for _, outcome, name in found if outcome != HOLDS), None)
    findings = [(statement, outcome) for statement, outcome, _ in found] + [("not_revoked", NOT_CHECKED)]
    if chain[0].qualified:
        findings.append(("qualified", "claimed"))
    return findings, failure
