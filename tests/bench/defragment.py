#!/usr/bin/env python3
"""Shows what a defragmentation costs those who write and read beside it.

    tests/bench/defragment.py target/release/fated [--megabytes 300] [--seconds 15]

Starts one member with a store of its own, fills it, makes a share of it free, and measures puts and
reads twice: alone, and while one Defragment follows the other. Prints the longest and the 99.9th
percentile of each, how long commits, log syncs and parts of the rewriting took, and the file's size.
A machine that does other things shows in both columns; what the defragmentation adds is their
difference. Nothing is asserted here.
"""

import argparse
import base64
import http.client
import json
import random
import re
import socket
import subprocess
import tempfile
import threading
import time

HISTOGRAMS = [
    "etcd_disk_wal_fsync_duration_seconds",
    "etcd_disk_backend_commit_duration_seconds",
    "fated_disk_backend_defrag_part_duration_seconds",
    "etcd_disk_backend_defrag_duration_seconds",
]
VALUE_BYTES = 4096
OPERATIONS = 100


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def text(data):
    return base64.b64encode(data).decode()


class Client:
    """One connection to the JSON gateway."""

    def __init__(self, port):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)

    def call(self, path, body):
        self.connection.request("POST", "/v3/" + path, json.dumps(body))
        answer = self.connection.getresponse()
        payload = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{path}: {answer.status} {payload[:200]}")
        return json.loads(payload)

    def get(self, path):
        self.connection.request("GET", path)
        return self.connection.getresponse().read().decode()


def key_of(number):
    return text(b"fill/%08d" % number)


def fill(client, keys, step):
    """Writes every `step`th key, many in one transaction."""
    numbers = range(0, keys, step)
    for begin in range(0, len(numbers), OPERATIONS):
        puts = []
        for number in numbers[begin : begin + OPERATIONS]:
            value = text(random.randbytes(VALUE_BYTES))
            puts.append({"requestPut": {"key": key_of(number), "value": value}})
        client.call("kv/txn", {"success": puts})


def histogram(metrics, name):
    buckets = {}
    for bound, count in re.findall(name + r'_bucket\{le="([^"]+)"\} (\d+)', metrics):
        buckets[float(bound)] = int(count)
    return buckets


def within(before, after):
    """The bounds below which most of, and all of, what came between two looks stayed."""
    counts = {bound: after[bound] - before.get(bound, 0) for bound in sorted(after)}
    total = max(counts.values(), default=0)
    if total == 0:
        return "none"
    answer = f"{total}"
    for share in (0.5, 0.99, 1.0):
        bound = next(bound for bound, count in counts.items() if count >= share * total)
        answer += f", {share:.0%} within {bound * 1000:g} ms"
    return answer


def load(port, seconds, beside):
    """Puts and reads for a while, each from a thread of its own."""
    end = time.monotonic() + seconds
    taken = {"put": [], "read": []}

    def repeat(name, path, body):
        client = Client(port)
        while time.monotonic() < end:
            began = time.monotonic()
            client.call(path, body)
            taken[name].append(time.monotonic() - began)

    put = {"key": text(b"beside"), "value": text(bytes(100))}
    read = {"key": text(b"beside"), "serializable": True}
    jobs = [("put", "kv/put", put)] * 2 + [("read", "kv/range", read)]
    threads = [threading.Thread(target=repeat, args=job) for job in jobs]
    for thread in threads:
        thread.start()
    rounds = 0
    while beside and time.monotonic() < end:
        Client(port).call("maintenance/defragment", {})
        rounds += 1
    for thread in threads:
        thread.join()
    return taken, rounds


def line(name, samples):
    samples.sort()
    high = samples[int(len(samples) * 0.999)]
    return (
        f"  {name}: {len(samples)}, median {samples[len(samples) // 2] * 1000:.2f} ms, "
        f"99.9 % {high * 1000:.1f} ms, longest {samples[-1] * 1000:.1f} ms"
    )


def size(client):
    status = client.call("maintenance/status", {})
    return int(status["dbSize"]) / 1e6, int(status["dbSizeInUse"]) / 1e6


def measure(port, seconds):
    client = Client(port)
    for beside in [False, True]:
        print("while it is defragmented:" if beside else "alone:")
        before = client.get("/metrics")
        taken, rounds = load(port, seconds, beside)
        after = client.get("/metrics")
        print(line("put", taken["put"]))
        print(line("read of the core's memory", taken["read"]))
        for name in HISTOGRAMS:
            print(f"  {name}: {within(histogram(before, name), histogram(after, name))}")
        if beside:
            print(f"  defragmentations: {rounds}")
        print("  file %.1f MB, in use %.1f MB" % size(client), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary")
    parser.add_argument("--megabytes", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--dir", help="where the store lies; a temporary directory otherwise")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.dir) as home:
        client_port, peer_port = free_port(), free_port()
        urls = [f"http://127.0.0.1:{port}" for port in (client_port, peer_port)]
        arguments = [
            options.binary,
            f"--data-dir={home}/data",
            f"--listen-client-urls={urls[0]}",
            f"--advertise-client-urls={urls[0]}",
            f"--listen-peer-urls={urls[1]}",
            f"--initial-advertise-peer-urls={urls[1]}",
            f"--initial-cluster=default={urls[1]}",
            "--quota-backend-bytes=8589934592",
        ]
        with open(f"{home}/log", "wb") as log:
            server = subprocess.Popen(arguments, stdout=log, stderr=log)
        try:
            run(client_port, options)
        finally:
            server.terminate()
            server.wait()


def run(port, options):
    for _ in range(300):
        try:
            Client(port).call("maintenance/status", {})
            break
        except (OSError, RuntimeError):
            time.sleep(0.1)
    client = Client(port)
    keys = options.megabytes * 1_000_000 // VALUE_BYTES
    fill(client, keys, 1)
    fill(client, keys, 5)
    revision = client.call("maintenance/status", {})["header"]["revision"]
    client.call("kv/compaction", {"revision": revision, "physical": True})
    print("filled: file %.1f MB, in use %.1f MB" % size(client), flush=True)
    measure(port, options.seconds)


if __name__ == "__main__":
    main()
