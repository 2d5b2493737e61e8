#!/usr/bin/env python3
"""An independent verifier of Civibus receipts, written from spec/receipt.md.

    verify.py FILE --policy FILE [--json]

It needs Python 3.8 and nothing else: no packages, no network, no node. It exits
with 0 if the receipt is valid, 1 if it is not, 2 if a file cannot be read.
"""

import argparse
import base64
import json
import re
import sys
from datetime import datetime, timedelta, timezone

import x509
from formats import (
    EVENT,
    GROUP_MEMBER,
    KEY,
    MEMBER,
    RECORD,
    RIGHT,
    Base,
    Checkpoint,
    Failure,
    Malformed,
    Policy,
    Proof,
    PublicKey,
    canonical,
    check_state,
    cosignature_second,
    decode_part,
    identifier,
    key_hash,
    log_signature,
    matches,
    message,
    need,
    normal_path,
    number,
    read_file,
    sealed_digest,
    sha256,
    split_path,
)

CONSUMER, PROVIDER = 1, 2
ANSWERED, REFUSED, FAILED = 1, 2, 3
SEAL, LOG = 1, 2
HEAD = "civibus-head"


def in_force(periods, height):
    return any(p["from_height"] <= height and (p["to_height"] == 0 or height < p["to_height"]) for p in periods)


def key_in_force(key, height):
    return key["activate_height"] <= height and (key["revoke_height"] == 0 or height < key["revoke_height"])


def decode(table, raw, name):
    try:
        return message(table, raw)
    except Malformed as e:
        raise Failure(name, str(e)) from None


class Verification:
    """One run; the steps are the methods, in the order of run."""

    def __init__(self):
        self.steps, self.entries = [], []

    def run(self, receipt, policy):
        self.step("receipt", self.read_receipt, receipt)
        self.step("policy", self.read_policy, policy)
        self.step("registry_checkpoint", self.registry_checkpoint)
        self.step("registry_block", self.registry_block)
        self.step("registry_facts", self.registry_facts)
        for raw in self.file["entries"]:
            entry = Entry(self, raw)
            self.entries.append(entry)
            for name in ("record", "inclusion", "anchor", "evidence_checkpoint", "members", "request_seal", "response_seal", "right"):
                self.step(name, getattr(entry, name))
            if self.file["second"] or b"chains" in self.policy.require:
                self.step("certificates", entry.certificates)
        self.step("both_sides", self.both_sides)

    def step(self, name, check, *args):
        try:
            check(*args)
        except Failure as e:
            self.steps.append({"name": name, "ok": False, "detail": e.detail})
            raise
        self.steps.append({"name": name, "ok": True})

    def read_receipt(self, raw):  # 8.1
        self.file = read_file(raw)

    def read_policy(self, raw):  # 8.2
        self.policy = Policy(raw)

    def registry_checkpoint(self):  # 8.3
        self.block_proof = Proof(self.file["block_proof"])
        self.registry = Checkpoint(self.block_proof.checkpoint)
        origin = re.fullmatch(r"(civibus/[^/]+/)registry", self.registry.origin)
        need(origin, "registry_origin_invalid", self.registry.origin)
        for name, *_ in self.policy.witnesses.values():
            need(name.startswith(origin.group(1).encode()), "witness_of_another_ledger", name.decode("utf-8", "replace"))
        self.signed = self.policy.cosigners(self.registry)
        need(self.policy.satisfied(self.policy.quorum, self.signed), "quorum_not_reached", "%d witnesses cosigned" % len(self.signed))

    def registry_block(self):  # 8.4
        raw = self.file["block_event"]
        event = decode(EVENT, raw, "event_malformed")
        need(self.block_proof.index == self.registry.size - 1, "block_event_not_last", "index %d" % self.block_proof.index)
        need(self.block_proof.shows(raw, self.registry), "block_event_not_included")
        block = event["block_committed"]
        need(block is not None and len(block["state_root"]) == 32, "block_event_wrong_kind", event["kind"])
        self.height, self.time, self.root = event["height"], block["time_unix_nano"], block["state_root"]

    def registry_facts(self):  # 8.5
        self.facts, self.keys = {}, []
        keys = [key for key, _, _ in self.file["facts"]]
        need(len(set(keys)) == len(keys), "fact_duplicate")
        for key, value, proof in self.file["facts"]:
            check_state(self.root, key, value, proof)
            self.facts[key] = value if value is None else self.interpret(key, value)

    def interpret(self, key, value):
        """4.3 and 4.4."""
        kind, _, name = key.partition("/")
        table = {"member": MEMBER, "key": KEY, "right": RIGHT, "groupmember": GROUP_MEMBER}.get(kind)
        if table is None or "/" not in key:
            return {}
        record = decode(table, value, "fact_malformed")
        if kind == "groupmember":
            own = record["group"] + "|" + record["client"]
        else:
            own = record["id"]
        if kind == "key":
            own = record["id"].hex()
            try:
                record["public"] = PublicKey(record["spki"], self.file["second"])
            except Malformed as e:
                raise Failure("fact_malformed", "%s: %s" % (key, e)) from None
            need(record["id"] == record["public"].id and record["algorithm"] == record["public"].algorithm, "fact_malformed", key)
            self.keys.append(record)
        need(own == name, "fact_malformed", key)
        return record

    def fact(self, key):
        need(key in self.facts, "fact_missing", key)
        need(self.facts[key] is not None, "fact_absent", key)
        return self.facts[key]

    def both_sides(self):  # 8.15
        if len(self.entries) == 1:
            return
        a, b = (e.fields for e in self.entries)
        for name in ("message_id", "client", "service", "outcome", "fault", "status"):
            need(a[name] == b[name], "sides_disagree", name)
        for name in ("request", "response"):
            need(without_chain(a[name]) == without_chain(b[name]), "sides_disagree", name)
        for name in ("request_body", "response_body"):
            need(a[name] is None or b[name] is None or a[name]["size"] == b[name]["size"], "sides_disagree", name)


def without_chain(seal):
    """What both sides must have recorded of a seal."""
    return seal and {name: value for name, value in seal.items() if name != "chain"}


class Entry:
    """The checks of one entry."""

    def __init__(self, run, raw):
        self.run, self.raw = run, raw
        self.request = self.response = self.terms = None
        self.seconds, self.findings = [], []

    def record(self):  # 8.6
        r = self.fields = decode(RECORD, self.raw["record"], "record_malformed")
        new = any(s is not None and (s["second"] is not None or s["chain"] != b"") for s in (r["request"], r["response"]))
        need(not new or (self.run.file["second"] and r["version"] == 2), "record_malformed", "a seal has a field of version 2")
        need(r["version"] == 1 or (r["version"] == 2 and self.run.file["second"]), "record_version_unknown", str(r["version"]))
        try:
            self.client = identifier(r["client"].encode(), 3, 4)
            self.service = identifier(r["service"].encode(), 5, 6)
        except Malformed as e:
            raise Failure("record_invalid", str(e)) from None
        request, response = r["request"], r["response"]
        answered = r["outcome"] == ANSWERED
        for ok in (
            r["side"] in (CONSUMER, PROVIDER),
            r["outcome"] in (ANSWERED, REFUSED, FAILED),
            canonical(self.client) == r["client"] and canonical(self.service) == r["service"],
            re.fullmatch(r"(?:[0-9a-f]{32})?", r["right_id"]),
            r["exchange_id"] != "",
            all(s is None or len(s["key_id"]) == 32 for s in (request, response)),
            all(s is None or s["second"] is None or len(s["second"]["key_id"]) == 32 for s in (request, response)),
            all(s is None or len(s["chain"]) in (0, 32) for s in (request, response)),
            all(b is None or len(b["sha256"]) in (0, 32) for b in (r["request_body"], r["response_body"])),
            len(r["usage"]) in (0, 32),
            100 <= r["status"] <= 599 if response is not None else r["status"] == 0,
            not answered or (request is not None and response is not None and r["fault"] == ""),
            answered or re.fullmatch(r"[a-z0-9_]{1,64}", r["fault"]),
            r["right_id"] == "" or request is not None,
        ):
            need(ok, "record_invalid")
        need(r["exchange_id"] == self.run.file["exchange"], "exchange_mismatch", r["exchange_id"])
        first = self.run.entries[0]
        need(first is self or first.fields["side"] != r["side"], "sides_equal")
        self.client_member, self.provider_member = canonical(self.client[:3]), canonical(self.service[:3])
        self.consumer = r["side"] == CONSUMER
        self.owner = self.client_member if self.consumer else self.provider_member
        self.height = r["registry_height"]

    def inclusion(self):  # 8.7
        self.proof = Proof(self.raw["proof"])
        self.checkpoint = Checkpoint(self.proof.checkpoint)
        leaf = b"\x01" + sha256(self.raw["salt"], self.raw["record"])
        need(self.proof.shows(leaf, self.checkpoint), "leaf_not_included", "index %d" % self.proof.index)

    def anchor(self):  # 8.8
        event = decode(EVENT, self.raw["anchor_event"], "event_malformed")
        proof = Proof(self.raw["anchor_proof"])
        need(proof.checkpoint == self.run.block_proof.checkpoint, "registry_checkpoints_differ")
        need(proof.shows(self.raw["anchor_event"], self.run.registry), "anchor_event_not_included", "index %d" % proof.index)
        log = event["log_anchored"]
        need(log is not None, "anchor_event_wrong_kind", event["kind"])
        need(log["origin"] == self.checkpoint.origin, "anchor_of_another_log", log["origin"])
        need((log["size"], log["root"]) == (self.checkpoint.size, self.checkpoint.root), "anchor_of_another_checkpoint")
        prefix = "civibus/" + self.owner.replace("+", "%2B") + "/evidence/"
        try:
            is_owners = log["origin"].startswith(prefix) and number(log["origin"][len(prefix) :]) >= 1
        except Malformed:
            is_owners = False
        need(is_owners and log["member"] == event["author"] == self.owner, "log_of_another_member", log["origin"])
        need(log["anchored_height"] == event["height"] <= self.run.height, "anchor_height_invalid", str(event["height"]))
        need(event["height"] >= self.height, "anchor_before_decision", str(event["height"]))
        self.anchored = event["height"]

    def evidence_checkpoint(self):  # 8.9
        name = self.checkpoint.origin.encode()
        first = self.log_key(name, 1, 1, lambda s, public: log_signature(self.checkpoint.text, s, public))
        need(first, "log_signature_missing", self.checkpoint.origin)
        second = self.log_key(name, 3, 6, lambda s, public: cosignature_second(self.checkpoint, name, s, public) is not None)
        need(second or b"second-log-signatures" not in self.run.policy.require, "second_log_signature_missing", self.checkpoint.origin)
        if second:
            self.seconds.append("log " + self.checkpoint.origin)

    def log_key(self, name, algorithm, kind, verifies):
        """Whether a key of an algorithm signed the checkpoint; the first one's lines are checked."""
        for key in self.run.keys:
            if key["algorithm"] != algorithm:
                continue
            public = key["public"].raw
            lines = [s for n, h, s in self.checkpoint.lines if n == name and h == key_hash(name, kind, public)]
            if not lines:
                continue
            need(key["purpose"] == LOG, "log_key_wrong_purpose", key["id"].hex())
            need(key["member"] == self.owner, "log_key_of_another_member", key["member"])
            need(key_in_force(key, self.anchored), "log_key_not_in_force", key["id"].hex())
            need(all(verifies(s, public) for s in lines), "log_signature_invalid", key["id"].hex())
            return True
        return False

    def members(self):  # 8.10
        sealed = self.fields["request"] is not None
        if sealed or self.consumer:
            need(in_force(self.run.fact("member/" + self.client_member)["periods"], self.height), "client_not_in_force", self.client_member)
        if sealed or not self.consumer:
            need(in_force(self.run.fact("member/" + self.provider_member)["periods"], self.height), "provider_not_in_force", self.provider_member)

    def seal(self, which, member, tags, nonce):
        """What 8.11 and 8.12 have in common."""
        seal = self.fields[which]
        key = self.seal_key(which, seal["key_id"], member)
        need(key["public"].verify(seal["base"], seal["signature"]), which + "_seal_invalid")
        try:
            base = Base(seal["base"])
        except Malformed as e:
            raise Failure(which + "_base_malformed", str(e)) from None
        p = base.params
        right = p.get("keyid") == key["id"].hex() and p.get("alg") == key["public"].name and p.get("tag") in tags
        right = right and isinstance(p.get("created"), int)
        if nonce:
            right = right and isinstance(p.get("nonce"), str) and p["nonce"] != ""
        need(right, which + "_params_mismatch", str(p))
        second = seal["second"]
        if second is None:
            need(b"second-seals" not in self.run.policy.require, "second_seal_missing", which)
        else:
            other = self.seal_key(which, second["key_id"], member)
            signed = base.second(seal["base"], seal["signature"], other)
            need(other["public"].verify_second(signed, second["signature"]), which + "_second_seal_invalid")
            self.seconds.append({"request": "request", "response": "answer"}[which])
        return base, key

    def seal_key(self, which, key_id, member):
        key = self.run.fact("key/" + key_id.hex())
        need(key["purpose"] == SEAL, which + "_key_wrong_purpose")
        need(key["member"] == member, which + "_key_of_another_member", key["member"])
        need(key_in_force(key, self.height), which + "_key_not_in_force", "height %d" % self.height)
        return key

    def digest(self, which, base, compare_length):
        body = self.fields[which + "_body"]
        name = which + "_digest_mismatch"
        try:
            digest = sealed_digest(base.either("content-digest"), body["sha256"] if body else b"")
        except Malformed as e:
            raise Failure(name, str(e)) from None
        length = base.get("civibus-body-length")
        need(not compare_length or body is None or length is None or length == str(body["size"]), name, "length")
        return digest

    def request_seal(self):  # 8.11
        r = self.fields
        if r["request"] is None:
            return
        tags = ("civibus",) if r["outcome"] == ANSWERED else ("civibus", HEAD)
        base, self.request_key = self.seal("request", self.client_member, tags, True)
        head = base.params["tag"] == HEAD
        for name in ("@method", "@path", "@query", "x-road-client", "x-road-id", "x-road-request-id"):
            need(base.get(name) is not None, "request_component_missing", name)
        need(head or base.either("content-digest"), "request_component_missing", "content-digest")
        need(not any("req" in params for _, params in base.values), "request_base_malformed", "req")
        try:
            client = identifier(base.get("x-road-client").encode("latin-1"), 3, 4)
        except Malformed:
            client = None
        need(client == self.client, "request_client_mismatch", base.get("x-road-client"))
        try:
            parts, self.path = split_path(base.get("@path"))
        except Malformed:
            parts = None
        need(parts == self.service[:5], "request_service_mismatch", base.get("@path"))
        ids = (base.get("x-road-request-id"), base.get("x-road-id"))
        need(ids == (latin(r["exchange_id"]), latin(r["message_id"])), "request_id_mismatch", str(ids))
        self.request_digest = None if head else self.digest("request", base, True)
        height = base.get("civibus-height")
        need(not self.consumer or height is None or height == str(self.height), "request_height_mismatch", height)
        self.request = base

    def response_seal(self):  # 8.12
        r = self.fields
        if r["response"] is None:
            return
        tags = ("civibus",) if r["outcome"] == ANSWERED else ("civibus", HEAD)
        base, self.response_key = self.seal("response", self.provider_member, tags, False)
        head = base.params["tag"] == HEAD
        missing = "response_component_missing"
        need(base.get("@status") is not None, missing, "@status")
        need(head or base.either("content-digest"), missing, "content-digest")
        for name in ("@method", "@path", "@query"):
            need(base.get(name, "req") is not None, missing, name)
        self.binding(base)
        other = "response_to_another_request"
        need(base.get("x-road-request-id") in (None, latin(r["exchange_id"])), other, "x-road-request-id")
        need(base.get("x-road-id") in (None, latin(r["message_id"])), other, "x-road-id")
        status = base.get("@status")
        need(re.fullmatch("[0-9]{3}", status) and int(status) == r["status"], "response_status_mismatch", status)
        spoken = base.get("@method", "req") == "HEAD" or r["status"] == 304
        self.response_digest = None if head else self.digest("response", base, not spoken)
        height = base.get("civibus-height")
        need(self.consumer or height is None or height == str(self.height), "response_height_mismatch", height)
        fault = base.get("civibus-fault")
        if fault is not None:
            ok = r["outcome"] != ANSWERED and fault == r["fault"]
        else:
            ok = r["outcome"] == ANSWERED or head or (r["outcome"] == FAILED and self.consumer)
        need(ok, "fault_mismatch", str(fault))
        self.response = base

    def binding(self, base):
        """That the answer is to this request."""
        missing, other = "response_component_missing", "response_to_another_request"
        if self.request is None:
            try:
                parts, _ = split_path(base.get("@path", "req"))
            except Malformed:
                parts = None
            need(parts == self.service[:5], other, "@path")
            return
        tag = self.request.params["tag"]
        early = False
        if tag == HEAD:
            need(base.either("signature", "req", 'key="%s"' % HEAD), missing, "signature")
        else:
            whole = base.either("signature", "req", 'key="civibus"')
            if self.fields["outcome"] != ANSWERED and not whole:
                early = bool(base.either("signature", "req", 'key="%s"' % HEAD)) and base.get("x-road-request-id") is not None
            need(early or (whole and base.either("content-digest", "req")), missing, "signature or content-digest")
        signature = ":" + base64.b64encode(self.fields["request"]["signature"]).decode() + ":"
        for (name, params), value in base.values.items():
            if "req" not in params:
                continue
            rest = params - {"req"}
            key = next((p for p in rest if p.startswith("key=")), None)
            if name == "signature" and key and rest <= {key, "tr"}:
                if key == 'key="%s"' % tag:
                    need(value == signature, other, name)
                    continue
                if early and key == 'key="%s"' % HEAD:
                    continue
            need(self.request.values.get((name, rest)) == value, other, name)

    def certificates(self):  # 8.14
        required = b"chains" in self.run.policy.require
        for which in ("request", "response"):
            seal = self.fields[which]
            if seal is None:
                continue
            base, key = (self.request, self.request_key) if which == "request" else (self.response, self.response_key)
            chain = self.run.file["chains"].get(seal["chain"])
            if chain is None:
                need(not required, "chain_missing", which)
                continue
            findings, failure = x509.examine(chain, key["spki"], base.params["created"], self.run.policy.anchors)
            side = "consumer" if self.consumer else "provider"
            self.findings += ["%s %s %s: %s" % (side, which, statement, outcome) for statement, outcome in findings]
            need(failure is None or not required, failure, which)

    def right(self):  # 8.13
        r = self.fields
        if r["right_id"] == "":
            if r["outcome"] == ANSWERED:
                metadata = len(self.service) == 5 and self.service[4] in (b"listMethods", b"allowedMethods", b"getOpenAPI")
                need(metadata and self.request.get("@method") == "GET" and self.path == b"", "right_missing")
            return
        right = self.run.fact("right/" + r["right_id"])
        terms = right["terms"] or message(RIGHT[2][1], b"")
        need(terms["service"] in (r["service"], canonical(self.service[:5])), "right_of_another_service", terms["service"])
        if terms["group"] == "":
            need(terms["client"] == r["client"], "right_of_another_client", terms["client"])
        else:
            member = self.run.fact("groupmember/%s|%s" % (terms["group"], r["client"]))
            need(in_force(member["periods"], self.height), "group_membership_not_in_force", terms["group"])
        if terms["endpoints"]:
            try:
                path = normal_path(self.path)
            except Malformed as e:
                raise Failure("path_not_normal", str(e)) from None
            method = self.request.get("@method")
            covered = any(e["method"] in ("*", method) and matches(e["path"].encode(), path) for e in terms["endpoints"])
            need(covered, "endpoint_not_covered", "%s %r" % (method, path))
        need(in_force(right["periods"], self.height), "right_not_in_force", "height %d" % self.height)
        t = self.request.params["created"]
        need(terms["valid_from"] <= t and (terms["valid_until"] == 0 or t < terms["valid_until"]), "right_not_valid_then", str(t))
        purpose = self.request.get("civibus-purpose")
        need(purpose is None or purpose == latin(terms["purpose"]), "purpose_mismatch", purpose)
        self.terms = terms


def latin(text):
    """Text as it stands in a signature base that was read as latin-1."""
    return text.encode().decode("latin-1")


def utc(seconds):
    """A time for reading; one beyond the calendar stays a number."""
    try:
        return (datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
    except OverflowError:
        return "%d s after 1970" % seconds


def summary(v):
    e = v.entries[0]
    r = e.fields
    out = {
        "exchange": r["exchange_id"],
        "client": r["client"],
        "service": r["service"],
        "outcome": {1: "answered", 2: "refused", 3: "failed"}[r["outcome"]],
        "fault": r["fault"],
        "status": r["status"],
        "right": r["right_id"],
        "block_height": v.height,
        "block_time": utc(v.time // 10**9),
        "witnesses": {name.decode("utf-8", "replace"): utc(t) for name, t in v.signed.items()},
        "sides": [
            {
                "side": "consumer" if x.consumer else "provider",
                "member": x.owner,
                "log": x.checkpoint.origin,
                "index": x.proof.index,
                "decided_at_height": x.height,
                "anchored_at_height": x.anchored,
            }
            for x in v.entries
        ],
    }
    if e.request:
        out["method"], out["path"] = e.request.get("@method"), e.request.get("@path")
        out["requested"] = utc(e.request.params["created"])
        out["request_sha256"] = e.request_digest.hex() if e.request_digest else None
    if e.response:
        out["answered"] = utc(e.response.params["created"])
        out["response_sha256"] = e.response_digest.hex() if e.response_digest else None
    seconds = ["registry checkpoint by " + v.policy.witnesses[w][0].decode("utf-8", "replace") for w in v.policy.witnesses if w in v.signed and v.policy.witnesses[w][1] == 6]
    for x in v.entries:
        seconds += [s for s in x.seconds if s not in seconds]
    out["post_quantum"] = seconds
    out["findings"] = [f for x in v.entries for f in x.findings]
    if e.terms:
        out["purpose"], out["legal_basis"] = e.terms["purpose"], e.terms["legal_basis"]
    return out


def verify(receipt, policy):
    """The report on a receipt under a policy; both are bytes."""
    v = Verification()
    try:
        v.run(receipt, policy)
    except Failure as e:
        return {"valid": False, "failure": e.name, "detail": e.detail, "steps": v.steps}
    return {"valid": True, "steps": v.steps, "summary": summary(v)}


def main():
    parser = argparse.ArgumentParser(description="Verify a Civibus receipt offline.")
    parser.add_argument("file", help="the receipt file")
    parser.add_argument("--policy", required=True, help="the policy file: whose word is taken")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    args = parser.parse_args()
    try:
        with open(args.file, "rb") as f:
            receipt = f.read()
        with open(args.policy, "rb") as f:
            policy = f.read()
    except OSError as e:
        print("verify.py: error: %s" % e, file=sys.stderr)
        return 2
    report = verify(receipt, policy)
    if args.json:
        print(json.dumps(report))
    else:
        print("VALID" if report["valid"] else "NOT VALID: %s" % report["failure"])
        for s in report["steps"]:
            print("  %s %s %s" % ("ok  " if s["ok"] else "FAIL", s["name"], ascii(s.get("detail", ""))[1:-1]))
        for name, value in report.get("summary", {}).items():
            print("  %s: %s" % (name, json.dumps(value)))
    return 0 if report["valid"] else 1


if __name__ == "__main__":
    sys.exit(main())
