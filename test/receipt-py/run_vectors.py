#!/usr/bin/env python3
"""Runs verify.py over the vectors of a folder with an index.json.

    run_vectors.py [FOLDER]

It prints one line for every vector on which the verifier and the index differ,
then a count, and exits with 0 if there is none.
"""

import json
import os
import sys
import time

from verify import verify


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.join(here, "../../spec/vectors/receipts")

    def read(name):
        with open(os.path.join(folder, name), "rb") as f:
            return f.read()

    start, wrong, index = time.time(), 0, json.loads(read("index.json"))
    for vector in index:
        report = verify(read(vector["file"]), read(vector["policy"]))
        got, want = report.get("failure", ""), vector.get("failure", "")
        summary = report.get("summary", {})
        same = all(summary.get(name, []) == vector.get(name, []) for name in ("post_quantum", "findings"))
        if report["valid"] and not same:
            wrong += 1
            print("%s: %s %s, not what the index says" % (vector["file"], summary["post_quantum"], summary["findings"]))
        if report["valid"] != vector["valid"] or got != want:
            wrong += 1
            print("%s: %s, the index says %s (%s)" % (vector["file"], got or "valid", want or "valid", report.get("detail")))
    # What is too large to be kept as a vector.
    if verify(read(index[0]["file"]) + b" " * 4194304, read(index[0]["policy"])).get("failure") != "receipt_too_large":
        wrong += 1
        print("a file above the limit was read")
    print("%d vectors, %d differ, %.1f s" % (len(index), wrong, time.time() - start))
    return 1 if wrong or not index else 0


if __name__ == "__main__":
    sys.exit(main())
