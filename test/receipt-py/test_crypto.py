#!/usr/bin/env python3
"""Published test vectors for the signature algorithms, and forgeries of them."""

import unittest

import base64
import hashlib
import json
import os

import ecdsa
import ed25519
import mldsa
import p256

# RFC 8032, section 7.1: tests 1, 2 and 3 (public key, message, signature).
RFC8032 = [
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
]

# RFC 6979, section A.2.5: P-256 with SHA-256 (message, r, s).
RFC6979_KEY = (
    0x60FED4BA255A9D31C961EB74C6356D68C049B8923B61FA6CE669622E60F29FB6,
    0x7903FE1008B8BC99A41AE9E95628BC64F2F1B20C2D7E9F5177A3C294D4462299,
)
RFC6979 = [
    (
        b"sample",
        "efd48b2aacb6a8fd1140dd9cd45e81d69d2c877b56aaf991c34d0ea84eaf3716",
        "f7cb1c942d657c41d436c7a1b6e29f65f3e900dbb9aff4064dc4ab2f843acda8",
    ),
    (
        b"test",
        "f1abb023518351cd71d881567b1ea663ed3efcf6c5132b354f28d3b0b7d38367",
        "019f4113742a2b14bd25926b49c649155f267e60d3814b4c0cc84250e46f0083",
    ),
]


class Ed25519(unittest.TestCase):
    def test_rfc8032(self):
        for public, message, signature in RFC8032:
            public, message, signature = bytes.fromhex(public), bytes.fromhex(message), bytes.fromhex(signature)
            self.assertTrue(ed25519.verify(public, message, signature))
            self.assertFalse(ed25519.verify(public, message + b"x", signature))
            for i in (0, 31, 32, 63):
                forged = bytearray(signature)
                forged[i] ^= 1
                self.assertFalse(ed25519.verify(public, message, bytes(forged)))
            s = int.from_bytes(signature[32:], "little") + ed25519.L
            self.assertFalse(ed25519.verify(public, message, signature[:32] + s.to_bytes(32, "little")))

    def test_public_keys(self):
        for raw in (ed25519.P, ed25519.P + 1, 2**255 - 1, 1 | 1 << 255, (ed25519.P - 1) | 1 << 255, 2):
            self.assertIsNone(ed25519.decode(raw.to_bytes(32, "little")), hex(raw))
        self.assertEqual(ed25519.decode((1).to_bytes(32, "little")), ed25519.NEUTRAL)


class P256(unittest.TestCase):
    def test_rfc6979(self):
        for message, r, s in RFC6979:
            signature = bytes.fromhex(r + s)
            self.assertTrue(p256.verify(*RFC6979_KEY, message, signature))
            self.assertFalse(p256.verify(*RFC6979_KEY, message + b"x", signature))
            for i in (0, 31, 32, 63):
                forged = bytearray(signature)
                forged[i] ^= 1
                self.assertFalse(p256.verify(*RFC6979_KEY, message, bytes(forged)))
            self.assertFalse(p256.verify(*RFC6979_KEY, message, bytes(64)))
            self.assertFalse(p256.verify(*RFC6979_KEY, message, signature[:32] + p256.N.to_bytes(32, "big")))

    def test_key_off_the_curve(self):
        self.assertFalse(p256.on_curve(RFC6979_KEY[0], RFC6979_KEY[1] ^ 1))


class MLDSA(unittest.TestCase):
    def test_c2sp(self):
        """C2SP httpsig-pq v1.0.0."""
        here = os.path.dirname(os.path.abspath(__file__))
        with open(os.path.join(here, "../../internal/mldsa/testdata/httpsig-pq.json"), "rb") as f:
            vectors = json.load(f)["vectors"]
        self.assertEqual(len(vectors), 3)
        for v in vectors:
            name, public = v["algorithm"], base64.b64decode(v["public_key_base64"])
            message, signature = base64.b64decode(v["signature_base_base64"]), base64.b64decode(v["deterministic_signature_base64"])
            p = mldsa.SETS[name]
            self.assertTrue(mldsa.verify(name, public, message, signature))
            self.assertFalse(mldsa.verify(name, public, message + b"x", signature))
            for i in (0, p.challenge, len(signature) - p.k - 1, len(signature) - 1):
                forged = bytearray(signature)
                forged[i] ^= 1
                self.assertFalse(mldsa.verify(name, public, message, bytes(forged)))
            self.assertFalse(mldsa.verify(name, public, message, signature[:-1]))
            self.assertFalse(mldsa.verify(name, public[:-1] + bytes([public[-1] ^ 1]), message, signature))


class ECDSA(unittest.TestCase):
    def test_rfc6979(self):
        """P-256 as above, and section A.2.6: P-384 with SHA-384."""
        x, y = RFC6979_KEY
        point = b"\x04" + x.to_bytes(32, "big") + y.to_bytes(32, "big")
        for message, r, s in RFC6979:
            digest = hashlib.sha256(message).digest()
            self.assertTrue(ecdsa.P256.verify(point, digest, int(r, 16), int(s, 16)))
            self.assertFalse(ecdsa.P256.verify(point, digest, int(r, 16), int(s, 16) ^ 1))
        point = bytes.fromhex(
            "04EC3A4E415B4E19A4568618029F427FA5DA9A8BC4AE92E02E06AAE5286B300C64DEF8F0EA9055866064A254515480BC13"
            "8015D9B72D7D57244EA8EF9AC0C621896708A59367F9DFB9F54CA84B3F1C9DB1288B231C3AE0D4FE7344FD2533264720"
        )
        r = 0x94EDBB92A5ECB8AAD4736E56C691916B3F88140666CE9FA73D64C4EA95AD133C81A648152E44ACF96E36DD1E80FABE46
        s = 0x99EF4AEB15F178CEA1FE40DB2603138F130E740A19624526203B6351D0A3A94FA329C145786E679E7B82C71A38628AC8
        digest = hashlib.sha384(b"sample").digest()
        self.assertTrue(ecdsa.P384.verify(point, digest, r, s))
        self.assertFalse(ecdsa.P384.verify(point, digest, r, s ^ 1))


if __name__ == "__main__":
    unittest.main()
