"""The formats of a receipt: sections 2 to 7 of spec/receipt.md.

Every function either returns what it read or raises Failure with the name that
the specification gives.
"""

import base64
import hashlib
import json
import re

import ed25519
import mldsa
import p256
import x509

U64 = 1 << 64


class Failure(Exception):
    """Why a receipt is not valid: a name of section 9, and what was found."""

    def __init__(self, name, detail):
        super().__init__(name, detail)
        self.name, self.detail = name, detail


class Malformed(Exception):
    """Something does not have its format; the caller knows the name."""


def need(condition, name, detail=""):
    if not condition:
        raise Failure(name, detail)


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


# Section 2: primitives.


def unbase64(text):
    """Canonical base64 only."""
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError:
        raise Malformed("not base64") from None
    if base64.b64encode(raw).decode() != text:
        raise Malformed("base64 is not canonical")
    return raw


def number(text):
    if not re.fullmatch(r"0|[1-9][0-9]{0,18}", text) or int(text) >= 1 << 63:
        raise Malformed("not a number")
    return int(text)


def unhash(text):
    raw = unbase64(text)
    if len(raw) != 32:
        raise Malformed("not 32 bytes")
    return raw


UNENCODED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,;=:@")
HEX_DIGITS = frozenset(b"0123456789abcdefABCDEF")


def decode_part(text):
    """One identifier part; text and result are bytes."""
    out, i = bytearray(), 0
    while i < len(text):
        if text[i] in UNENCODED:
            out.append(text[i])
            i += 1
        elif text[i] == 0x25 and len(text) - i >= 3 and text[i + 1] in HEX_DIGITS and text[i + 2] in HEX_DIGITS:
            out.append(int(text[i + 1 : i + 3], 16))
            i += 3
        else:
            raise Malformed("a character must be percent-encoded")
    try:
        out.decode()
    except UnicodeDecodeError:
        raise Malformed("an identifier part is not UTF-8") from None
    if not 1 <= len(out) <= 255:
        raise Malformed("an identifier part is empty or too long")
    return bytes(out)


def identifier(text, least, most):
    """The decoded parts of an identifier."""
    parts = text.split(b"/")
    if not least <= len(parts) <= most:
        raise Malformed("an identifier has the wrong number of parts")
    return [decode_part(p) for p in parts]


def canonical(parts):
    return "/".join("".join(chr(c) if c in UNENCODED else "%%%02X" % c for c in p) for p in parts)


SPKI_ED25519 = bytes.fromhex("302a300506032b6570032100")
SPKI_P256 = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")


# RFC 9881: all of an ML-DSA key's DER but the key; registry number and name.
SPKI_MLDSA = {
    bytes.fromhex("30820532300b0609608648016503040311038205210" + "0"): (3, "ml-dsa-44", 1312),
    bytes.fromhex("308207b2300b0609608648016503040312038207a10" + "0"): (4, "ml-dsa-65", 1952),
    bytes.fromhex("30820a32300b060960864801650304031303820a210" + "0"): (5, "ml-dsa-87", 2592),
}


class PublicKey:
    """A key of one of the two forms; in receipts of version 2, also ML-DSA."""

    def __init__(self, spki, second=False):
        self.id = sha256(spki)
        if second and spki[:22] in SPKI_MLDSA:
            self.algorithm, self.name, size = SPKI_MLDSA[spki[:22]]
            self.raw = spki[22:]
            if len(self.raw) != size:
                raise Malformed("an ML-DSA key of another length")
            return
        if len(spki) == 44 and spki.startswith(SPKI_ED25519):
            self.algorithm, self.name, self.raw = 1, "ed25519", spki[12:]
        elif len(spki) == 91 and spki.startswith(SPKI_P256):
            self.algorithm, self.name = 2, "ecdsa-p256-sha256"
            self.x, self.y = int.from_bytes(spki[27:59], "big"), int.from_bytes(spki[59:], "big")
            if not p256.on_curve(self.x, self.y):
                raise Malformed("not a point of the curve")
        else:
            raise Malformed("a key of neither form")

    def verify(self, message, signature):
        """A first signature; ML-DSA keys make none."""
        if self.algorithm > 2:
            return False
        if self.algorithm == 1:
            return ed25519.verify(self.raw, message, signature)
        return p256.verify(self.x, self.y, message, signature)


    def verify_second(self, message, signature):
        return self.algorithm in (3, 4) and mldsa.verify(self.name, self.raw, message, signature)


# Section 3: the file.


def read_file(raw):
    need(len(raw) <= 4194304, "receipt_too_large", "%d bytes" % len(raw))
    bad = "receipt_malformed"

    def unique(pairs):
        out = dict(pairs)
        need(len(out) == len(pairs), bad, "a member occurs twice")
        return out

    try:
        data = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError):
        raise Failure(bad, "not UTF-8 JSON") from None

    def obj(value, *names):
        need(isinstance(value, dict) and set(value) == set(names), bad, "not an object of " + ", ".join(names))
        return [value[n] for n in names]

    def string(value):
        need(isinstance(value, str) and all(" " <= c <= "~" or c in "\n\u2014" for c in value), bad, "not a plain string")
        return value

    def binary(value):
        try:
            return unbase64(string(value))
        except Malformed as e:
            raise Failure("base64_malformed", str(e)) from None

    def array(value, least, most):
        need(isinstance(value, list) and least <= len(value) <= most, bad, "not a list of %d to %d" % (least, most))
        return value

    need(isinstance(data, dict), bad, "not an object")
    version = string(data.get("format"))
    need(version in ("civibus-receipt/v1", "civibus-receipt/v2"), "format_unknown", version)
    second = version == "civibus-receipt/v2"
    _, exchange, registry, entries, *chains = obj(data, "format", "exchange", "registry", "entries", *(["chains"] if second else []))
    need(1 <= len(string(exchange)) <= 128, bad, "exchange is empty or too long")
    block_event, block_proof, facts = obj(registry, "block_event", "block_proof", "facts")
    out = {"exchange": exchange, "block_event": binary(block_event), "block_proof": string(block_proof), "facts": [], "entries": [], "second": second, "chains": {}}
    for fact in array(facts, 0, 64):
        key, value, proof = obj(fact, "key", "value", "proof")
        out["facts"].append((string(key), None if value is None else binary(value), binary(proof)))
    for entry in array(entries, 1, 2):
        record, salt, proof, event, anchor = obj(entry, "record", "salt", "proof", "anchor_event", "anchor_proof")
        e = {"record": binary(record), "salt": binary(salt), "proof": string(proof), "anchor_event": binary(event), "anchor_proof": string(anchor)}
        need(len(e["salt"]) == 16, bad, "the salt has not 16 bytes")
        out["entries"].append(e)
    for chain in array(chains[0], 0, 4) if second else []:
        chain = [binary(c) for c in array(chain, 1, 8)]
        out["chains"].setdefault(sha256(*[sha256(c) for c in chain]), chain)
    return out


# Section 4: messages. A table gives name, type and whether the field is
# repeated; fields that exclude each other have a common last element.


def fields(**table):
    out = {}
    for name, (no, kind, *rest) in table.items():
        out[no] = (name, kind, "repeated" in rest, "oneof" in rest)
    return out


PERIOD = fields(from_height=(1, "u64"), to_height=(2, "u64"))
GATEWAY = fields(code=(1, "string"), address=(2, "string"))
ENDPOINT = fields(method=(1, "string"), path=(2, "string"))
RATE_LIMIT = fields(requests=(1, "u32"), per_seconds=(2, "u32"))
MEMBER = fields(
    id=(1, "string"), name=(2, "string"), parent=(3, "string"), gateways=(4, GATEWAY, "repeated"), status=(5, "enum"), periods=(6, PERIOD, "repeated")
)
KEY = fields(
    id=(1, "bytes"),
    member=(2, "string"),
    purpose=(3, "enum"),
    algorithm=(4, "enum"),
    spki=(5, "bytes"),
    certificate=(6, "bytes"),
    activate_height=(7, "u64"),
    revoke_height=(8, "u64"),
    reason=(9, "enum"),
)
TERMS = fields(
    service=(1, "string"),
    endpoints=(2, ENDPOINT, "repeated"),
    client=(3, "string", "oneof"),
    group=(4, "string", "oneof"),
    purpose=(5, "string"),
    legal_basis=(6, "string"),
    valid_from=(7, "i64"),
    valid_until=(8, "i64"),
    rate_limit=(9, RATE_LIMIT),
    supersedes=(10, "string"),
    disclosure=(11, "enum"),
    disclosed_from=(12, "i64"),
    sentence=(13, "string"),
)
RIGHT = fields(id=(1, "string"), terms=(2, TERMS), status=(3, "enum"), periods=(4, PERIOD, "repeated"), granted_by=(5, "bytes"))
GROUP_MEMBER = fields(group=(1, "string"), client=(2, "string"), periods=(3, PERIOD, "repeated"))
LOG = fields(origin=(1, "string"), member=(2, "string"), size=(3, "u64"), root=(4, "bytes"), anchored_height=(5, "u64"))
BLOCK = fields(time_unix_nano=(1, "i64"), state_root=(2, "bytes"), transactions=(3, "u32"))
EVENT = fields(
    height=(1, "u64"),
    index=(2, "u32"),
    tx_hash=(3, "bytes"),
    author=(4, "string"),
    log_anchored=(17, LOG, "oneof"),
    block_committed=(30, BLOCK, "oneof"),
    **{"other_%d" % n: (n, "bytes", "oneof") for n in (10, 11, 12, 13, 14, 15, 16, 18, 19)}
)
SECOND = fields(signature=(1, "bytes"), key_id=(2, "bytes"))
SEAL = fields(base=(1, "bytes"), signature=(2, "bytes"), key_id=(3, "bytes"), second=(4, SECOND), chain=(5, "bytes"))
BODY = fields(size=(1, "u64"), sha256=(2, "bytes"), archive=(3, "string"))
RECORD = fields(
    version=(1, "u32"),
    side=(2, "enum"),
    exchange_id=(3, "string"),
    message_id=(4, "string"),
    client=(5, "string"),
    service=(6, "string"),
    right_id=(7, "string"),
    registry_height=(8, "u64"),
    outcome=(9, "enum"),
    fault=(10, "string"),
    status=(11, "u32"),
    request=(12, SEAL),
    response=(13, SEAL),
    request_body=(14, BODY),
    response_body=(15, BODY),
    started_unix_nano=(16, "i64"),
    finished_unix_nano=(17, "i64"),
    peer_key_id=(18, "bytes"),
    usage=(19, "bytes"),
)
STATE_PROOF = fields(depth=(1, "u32"), bitmap=(2, "bytes"), siblings=(3, "bytes", "repeated"), other_key_hash=(4, "bytes"), other_value_hash=(5, "bytes"))

LIMITS = {"u64": U64, "i64": U64, "u32": 1 << 32, "enum": 1 << 31, "bool": 2}
EMPTY = {"bytes": b"", "string": ""}


def varint(raw, at):
    value = 0
    for i in range(10):
        if at + i >= len(raw):
            raise Malformed("a varint is cut")
        byte = raw[at + i]
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            if value >= U64 or (i > 0 and byte == 0):
                raise Malformed("a varint is too large or too long")
            return value, at + i + 1
    raise Malformed("a varint is too long")


def message(table, raw):
    """A message as a dictionary. A sub-message that is not there is None."""
    out, chosen, at = {}, False, 0
    for name, kind, repeated, _ in table.values():
        out[name] = [] if repeated else None if isinstance(kind, dict) else EMPTY.get(kind, 0)
    seen = set()
    while at < len(raw):
        tag, at = varint(raw, at)
        no, wire = tag >> 3, tag & 7
        if no not in table:
            raise Malformed("unknown field %d" % no)
        name, kind, repeated, oneof = table[no]
        if (no in seen and not repeated) or (oneof and chosen):
            raise Malformed("field %s twice or against another" % name)
        seen.add(no)
        chosen = chosen or oneof
        if wire != (0 if kind in LIMITS else 2) if not isinstance(kind, dict) else wire != 2:
            raise Malformed("field %s has another wire type" % name)
        value, at = varint(raw, at)
        if wire == 0:
            if value >= LIMITS[kind]:
                raise Malformed("field %s is too large" % name)
            if kind == "i64" and value >= 1 << 63:
                value -= U64
        else:
            if value > len(raw) - at:
                raise Malformed("field %s is cut" % name)
            value, at = raw[at : at + value], at + value
            if kind == "string":
                try:
                    value = value.decode()
                except UnicodeDecodeError:
                    raise Malformed("field %s is not UTF-8" % name) from None
            elif isinstance(kind, dict):
                value = message(kind, value)
        if repeated:
            out[name].append(value)
        else:
            out[name] = value
    if table is EVENT:
        out["kind"] = next((name for no, (name, *_) in table.items() if no in seen and no >= 10), "")
    return out


# Section 5: trees, proofs and notes.


def node(left, right):
    return sha256(b"\x01", left, right)


def included(data, index, size, root, proof):
    """RFC 6962 inclusion of a leaf with this data (5.1)."""
    if index >= size:
        return False
    r, fn, sn = sha256(b"\x00", data), index, size - 1
    for p in proof:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            r = node(p, r)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = node(r, p)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and r == root


class Proof:
    """A tlog-proof (5.2)."""

    def __init__(self, text):
        try:
            head, self.checkpoint = text.split("\n\n", 1)
            lines = head.split("\n")
            if lines[0] != "c2sp.org/tlog-proof@v1" or len(lines) < 2 or not lines[1].startswith("index ") or len(lines) > 65:
                raise Malformed("its first lines are not those of a tlog-proof")
            self.index = number(lines[1][6:])
            self.hashes = [unhash(line) for line in lines[2:]]
        except (ValueError, Malformed) as e:
            raise Failure("proof_malformed", str(e)) from None

    def shows(self, data, checkpoint):
        return included(data, self.index, checkpoint.size, checkpoint.root, self.hashes)


class Checkpoint:
    """A checkpoint with its signature lines (5.3)."""

    def __init__(self, text):
        try:
            parts = text.split("\n", 4)
            if len(parts) != 5 or not parts[0] or parts[3]:
                raise Malformed("not origin, size, root and an empty line")
            self.origin, self.size, self.root = parts[0], number(parts[1]), unhash(parts[2])
            self.text = "\n".join(parts[:3]).encode() + b"\n"
            lines = parts[4].split("\n")
            if lines.pop() != "" or not 1 <= len(lines) <= 64:
                raise Malformed("not 1 to 64 signature lines")
            self.lines = [self.line(line) for line in lines]
        except Malformed as e:
            raise Failure("checkpoint_malformed", str(e)) from None

    @staticmethod
    def line(text):
        words = text.split(" ")
        if len(words) != 3 or words[0] != "\u2014" or not words[1] or "+" in words[1] or "\t" in words[1]:
            raise Malformed("not a signature line")
        raw = unbase64(words[2])
        if len(raw) < 5:
            raise Malformed("a signature is too short")
        return words[1].encode(), raw[:4], raw[4:]


def key_hash(name, kind, public):
    return sha256(name, b"\n", bytes([kind]), public)[:4]


def log_signature(text, signature, public):
    return ed25519.verify(public, text, signature)


def cosignature(text, signature, public):
    """The time of a cosignature, or None if it does not verify."""
    time = int.from_bytes(signature[:8], "big")
    if len(signature) != 72 or not 1 <= time < 1 << 63:
        return None
    signed = b"cosignature/v1\ntime %d\n" % time + text
    return time if ed25519.verify(public, signed, signature[8:]) else None


def cosignature_second(checkpoint, name, signature, public):
    """The time of an ML-DSA-44 cosignature, or None if it does not verify."""
    time, origin = int.from_bytes(signature[:8], "big"), checkpoint.origin.encode()
    if len(signature) < 8 or not 1 <= time < 1 << 63 or len(name) > 255 or len(origin) > 255:
        return None
    signed = b"subtree/v1\n\0" + bytes([len(name)]) + name + time.to_bytes(8, "big") + bytes([len(origin)]) + origin
    signed += bytes(8) + checkpoint.size.to_bytes(8, "big") + checkpoint.root
    return time if mldsa.verify("ml-dsa-44", public, signed, signature[8:]) else None


def check_state(root, key, value, proof):
    """One fact against a state root (5.4)."""
    bad = "fact_proof_malformed"
    try:
        p = message(STATE_PROOF, proof)
    except Malformed as e:
        raise Failure(bad, "%s: %s" % (key, e)) from None
    k, depth, bitmap, other = sha256(key.encode()), p["depth"], p["bitmap"], p["other_key_hash"]
    need(depth <= 256 and len(bitmap) == (depth + 7) // 8, bad, key)
    bits = "".join("{:08b}".format(b) for b in bitmap)
    path = "".join("{:08b}".format(b) for b in k)
    need("1" not in bits[depth:], bad, key)
    need(depth == 0 or bits[depth - 1] == "1", bad, key)
    need(bits.count("1") == len(p["siblings"]), bad, key)
    need(all(len(s) == 32 and any(s) for s in p["siblings"]), bad, key)
    need((len(other), len(p["other_value_hash"])) in ((0, 0), (32, 32)), bad, key)
    if other:
        need(value is None and other != k, bad, key)
        need("".join("{:08b}".format(b) for b in other)[:depth] == path[:depth], bad, key)
    if value is not None:
        this = sha256(b"\x00", k, sha256(value))
    elif other:
        this = sha256(b"\x00", other, p["other_value_hash"])
    else:
        this = bytes(32)
    siblings = list(p["siblings"])
    for level in range(depth - 1, -1, -1):
        sibling = siblings.pop() if bits[level] == "1" else bytes(32)
        this = node(this, sibling) if path[level] == "0" else node(sibling, this)
    need(this == root, "fact_not_proven", key)


# Section 6: the policy.

REQUIREMENTS = (b"second-log-signatures", b"second-seals", b"chains")


class Policy:
    """Witnesses, groups and the quorum."""

    def __init__(self, raw):
        self.names, self.witnesses, self.quorum = {}, {}, None
        self.members, self.require, self.anchors = set(), set(), []
        try:
            self.read(raw)
        except Malformed as e:
            raise Failure("policy_malformed", str(e)) from None

    def read(self, raw):
        if len(raw) > 1048576 or any(c != 9 and c != 10 and (c < 0x20 or c == 0x7F) for c in raw):
            raise Malformed("too large, or a control character")
        certificate = None
        for line in raw.split(b"\n"):
            if certificate is None and line == b"-----BEGIN CERTIFICATE-----":
                certificate = b""
                continue
            if certificate is not None:
                if line == b"-----END CERTIFICATE-----":
                    self.anchor(certificate)
                    certificate = None
                else:
                    certificate += line
                continue
            words = line.replace(b"\t", b" ").split(b" ")
            words = [w for w in words if w]
            if not words or words[0].startswith(b"#"):
                continue
            if words[0] == b"witness" and len(words) in (3, 4):
                self.witness(words[1], words[2])
            elif words[0] == b"group" and len(words) >= 4:
                self.group(words[1], words[2], words[3:])
            elif words[0] == b"quorum" and len(words) == 2 and self.quorum is None:
                if words[1] == b"none":
                    raise Failure("policy_without_quorum", "the policy needs no witness")
                if words[1] not in self.names:
                    raise Malformed("the quorum is not defined")
                self.quorum = words[1]
            elif words[0] == b"require" and len(words) == 2 and words[1] in REQUIREMENTS and words[1] not in self.require:
                self.require.add(words[1])
            else:
                raise Malformed("not a witness, group, quorum or require line")
        if self.quorum is None or certificate is not None:
            raise Malformed("no quorum line, or a certificate that does not end")

    def anchor(self, text):
        try:
            self.anchors.append(x509.Certificate(unbase64(text.decode("ascii"))))
        except (UnicodeDecodeError, x509.Malformed) as e:
            raise Malformed("a trust anchor: %s" % e) from None

    def define(self, name, value):
        if name == b"none" or name in self.names:
            raise Malformed("a name is reserved or taken")
        self.names[name] = value

    def witness(self, name, vkey):
        parts = vkey.split(b"+", 2)
        if len(parts) != 3 or not parts[0]:
            raise Malformed("not a vkey")
        try:
            raw = unbase64(parts[2].decode("ascii"))
        except UnicodeDecodeError:
            raise Malformed("not a vkey") from None
        if (len(raw), raw[0] if raw else 0) not in ((33, 4), (1313, 6)) or key_hash(parts[0], raw[0], raw[1:]).hex().encode() != parts[1]:
            raise Malformed("a vkey's type, length or hash is wrong")
        if any(raw[1:] == public or (parts[0], raw[0]) == (key_name, kind) for key_name, kind, public in self.witnesses.values()):
            raise Malformed("two witnesses with one key, or key name and type")
        self.define(name, None)
        self.witnesses[name] = (parts[0], raw[0], raw[1:])

    def group(self, name, threshold, members):
        for m in members:
            if m not in self.names or m in self.members:
                raise Malformed("a group member is not defined or already a member")
            self.members.add(m)
        if threshold == b"any":
            k = 1
        elif threshold == b"all":
            k = len(members)
        else:
            k = number(threshold.decode("latin-1"))
        if not 1 <= k <= len(members):
            raise Malformed("a threshold is out of range")
        self.define(name, (k, members))

    def cosigners(self, checkpoint):
        """Witness name to time, of those who signed."""
        out = {}
        for name, key_id, signature in checkpoint.lines:
            for label, (key_name, kind, public) in self.witnesses.items():
                if name == key_name and key_id == key_hash(key_name, kind, public):
                    if kind == 6:
                        time = cosignature_second(checkpoint, key_name, signature, public)
                    else:
                        time = cosignature(checkpoint.text, signature, public)
                    need(time is not None, "cosignature_invalid", name.decode())
                    out[label] = time
        return out

    def satisfied(self, name, signed):
        rule = self.names[name]
        if rule is None:
            return name in signed
        return sum(self.satisfied(m, signed) for m in rule[1]) >= rule[0]


# Section 7: seals. A component is (name, frozenset of parameters); the values of
# a base are latin-1 text, one character a byte.

NAME = r"@?[a-z0-9\-_.~!#$%&'*+^|`]+"
TEXT = r'"[\x20\x21\x23-\x5b\x5d-\x7e]*"'
COMPONENT = re.compile(r'"(%s)"((?:;(?:req|tr|sf|bs|key=%s))*)' % (NAME, TEXT))
PARAMETER = re.compile(r";([a-z*][a-z0-9\-_.*]*)=(?:(0|[1-9][0-9]{0,14})|(%s))(?=;|\Z)" % TEXT)
COMPONENT_PARAMETER = re.compile(r";(req|tr|sf|bs|key=%s)" % TEXT)


class Base:
    """A signature base (7.1)."""

    def __init__(self, raw):
        *lines, last = raw.decode("latin-1").split("\n")
        self.values, self.params, identifiers = {}, {}, []
        for line in lines:
            m = COMPONENT.match(line)
            if not m or not line.startswith(": ", m.end()):
                raise Malformed("not a component and a value")
            value = line[m.end() + 2 :]
            if re.search(r"[\x00-\x08\x0a-\x1f\x7f]", value):
                raise Malformed("a control character in a value")
            params = COMPONENT_PARAMETER.findall(m.group(2))
            flags = [p.split("=")[0] for p in params]
            component = (m.group(1), frozenset(params))
            if len(set(flags)) != len(flags) or component in self.values:
                raise Malformed("a component or parameter twice")
            self.values[component] = value
            identifiers.append(m.group(0))
        start = '"@signature-params": (%s)' % " ".join(identifiers)
        if not identifiers or not last.startswith(start):
            raise Malformed("@signature-params does not list the lines")
        at = len(start)
        while at < len(last):
            m = PARAMETER.match(last, at)
            if not m or m.group(1) in self.params:
                raise Malformed("a signature parameter is malformed or twice")
            self.params[m.group(1)] = int(m.group(2)) if m.group(3) is None else m.group(3)[1:-1]
            at = m.end()

    def get(self, name, *params):
        return self.values.get((name, frozenset(params)))

    def second(self, raw, signature, key):
        """The base of the second signature (7.4)."""
        lines = raw[: raw.rindex(b"\n")]
        identifiers = [COMPONENT.match(line).group(0) for line in lines.decode("latin-1").split("\n")]
        name = '"signature"%s;key="%s"' % (";tr" if self.get("content-digest", "tr") is not None else "", self.params["tag"])
        params = ";created=%d" % self.params["created"]
        if isinstance(self.params.get("nonce"), str):
            params += ';nonce="%s"' % self.params["nonce"]
        params += ';keyid="%s";alg="%s";tag="civibus-pq"' % (key["id"].hex(), key["public"].name)
        signed = '\n%s: :%s:\n"@signature-params": (%s)%s' % (name, base64.b64encode(signature).decode(), " ".join(identifiers + [name]), params)
        return lines + signed.encode("latin-1")

    def either(self, name, *params):
        """The values with and without tr."""
        found = [self.get(name, *params), self.get(name, *params, "tr")]
        return [v for v in found if v is not None]


def sealed_digest(values, claimed):
    """The sealed content digest; it must be the claimed one if that is given."""
    digest = b""
    for value in values:
        members = [m.strip(" ") for m in value.split(",")]
        members = [m[9:] for m in members if m.startswith("sha-256=:")]
        if len(members) != 1 or not members[0].endswith(":"):
            raise Malformed("not exactly one sha-256")
        digest = unhash(members[0][:-1])
        if claimed and digest != claimed:
            raise Malformed("another digest than the recorded one")
    return digest


def split_path(path):
    """Decoded identifier parts and service path of an @path (7.2)."""
    if not path.startswith("/r1/"):
        raise Malformed("not a path of a service")
    parts = path[4:].encode("latin-1").split(b"/", 5)
    if len(parts) < 5:
        raise Malformed("not a path of a service")
    return [decode_part(p) for p in parts[:5]], b"/" + parts[5] if len(parts) == 6 else b""


def normal_path(path):
    """The normal form of a service path (7.3); path and result are bytes."""
    if not path:
        return path
    kept = []
    segments = path[1:].split(b"/")
    for i, raw in enumerate(segments):
        if re.search(rb"%(?![0-9a-fA-F]{2})", raw):
            raise Malformed("broken percent-encoding")
        s = undecoded = unescape(raw)
        try:
            undecoded.decode()
        except UnicodeDecodeError:
            raise Malformed("not UTF-8") from None
        if 0 in s:
            raise Malformed("a zero byte")
        last = i == len(segments) - 1
        if s == b"..":
            if not kept or not kept[-1]:
                raise Malformed("dots that lead out")
            kept.pop()
        elif s != b".":
            if hides_dots(s):
                raise Malformed("hidden dots")
            kept.append(s)
            continue
        if last:
            kept.append(b"")
    return b"/" + b"/".join(kept)


def unescape(raw):
    return re.sub(rb"%([0-9a-fA-F]{2})", lambda m: bytes([int(m.group(1), 16)]), raw)


def hides_dots(s):
    if b".." in s:
        return True
    for _ in range(4):
        decoded = unescape(s)
        if decoded == s:
            return False
        s = decoded
        if b".." in s:
            return True
    return True


def matches(pattern, path):
    """Whether a path pattern matches the whole path (7.3); both are bytes."""
    tokens = re.findall(rb"\*\*|\*|\\\*|.", pattern, re.DOTALL)
    ends = {0}  # how much of the path the tokens so far can have taken
    for token in tokens:
        after = set()
        for at in ends:
            if token == b"**":
                after.update(range(at, len(path) + 1))
            elif token == b"*":
                stop = path.find(b"/", at)
                after.update(range(at, (len(path) if stop < 0 else stop) + 1))
            elif path[at : at + 1] == token[-1:]:
                after.add(at + 1)
        ends = after
    return len(path) in ends
