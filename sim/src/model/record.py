#!/usr/bin/env python3
"""Asks a real etcd and writes what it answers as a history, one request after the other.

    record.py ETCD_BINARY > recorded.jsonl

The model's test replays the file and demands equal answers. The requests are a list of the odd cases
followed by a long random walk over few keys, so that nearly every rule of the data model is met.
"""
import base64, json, random, subprocess, sys, tempfile, time, urllib.error, urllib.request

PORT = 23791
BYTES = {"key", "range_end", "value"}
PATHS = {
    "range": "kv/range", "put": "kv/put", "delete_range": "kv/deleterange", "txn": "kv/txn",
    "compact": "kv/compaction", "lease_grant": "lease/grant", "lease_revoke": "lease/revoke",
    "lease_keep_alive": "lease/keepalive", "lease_time_to_live": "lease/timetolive",
    "lease_leases": "lease/leases",
}
FIELDS = {"ttl": "TTL", "id": "ID", "grantedTTL": "granted_ttl"}
TARGETS = {"version": "version", "create": "create_revision", "mod": "mod_revision", "value": "value",
           "lease": "lease"}


def b64(text):
    return base64.b64encode(text.encode()).decode()


def text(encoded):
    return base64.b64decode(encoded).decode()


def to_wire(name, body):
    """Our request as the gateway wants it."""
    out = {}
    for field, value in (body or {}).items():
        if field in BYTES:
            out[field] = b64(value)
        elif field in ("sort_order", "sort_target"):
            out[field] = value.upper()
        elif field == "compare":
            out[field] = [compare_to_wire(c) for c in value]
        elif field in ("success", "failure"):
            out[field] = [op_to_wire(op) for op in value]
        else:
            out[FIELDS.get(field, field)] = value
    return out


def compare_to_wire(compare):
    (target, value), = compare["target"].items()
    out = {"key": b64(compare["key"]), "result": compare["result"].upper(), "target": target.upper(),
           TARGETS[target]: b64(value) if target == "value" else value}
    if "range_end" in compare:
        out["range_end"] = b64(compare["range_end"])
    return out


def op_to_wire(op):
    (name, body), = op.items()
    return {"request_" + name: to_wire(name, body)}


def pair(wire):
    return {f: text(v) if f in BYTES else int(v) for f, v in wire.items()}


def reply(name, wire):
    """The gateway's answer as ours; everything of no account is left out."""
    if name in ("compact", "lease_revoke"):
        return name
    out = {}
    wire = dict(wire.get("result", wire)) if name == "lease_keep_alive" else wire
    for field, value in wire.items():
        if field == "header":
            continue
        if field in ("kvs", "prev_kvs"):
            out[field] = [pair(kv) for kv in value]
        elif field == "prev_kv":
            out[field] = pair(value)
        elif field == "responses":
            out[field] = [op_reply(op) for op in value]
        elif field == "keys":
            out[field] = [text(key) for key in value]
        elif field == "leases":
            out[field] = [int(lease["ID"]) for lease in value]
        elif isinstance(value, bool):
            out[field] = value
        else:
            out[{"TTL": "ttl", "ID": "id", "grantedTTL": "granted_ttl"}.get(field, field)] = int(value)
    return {name: out}


def op_reply(op):
    (name, wire), = op.items()
    return reply(name.removeprefix("response_"), wire)


class Recorder:
    def __init__(self):
        self.count = 0

    def ask(self, name, **body):
        self.count += 1
        url = f"http://127.0.0.1:{PORT}/v3/{PATHS[name]}"
        data = json.dumps(to_wire(name, body)).encode()
        request = urllib.request.Request(url, data, {"content-type": "application/json"})
        try:
            wire = json.load(urllib.request.urlopen(request, timeout=10))
            header = wire.get("result", wire)["header"]
            answer = reply(name, wire)
            outcome = {"ok": {"header": {"revision": int(header["revision"])}, "reply": answer}}
        except urllib.error.HTTPError as error:
            wire = json.load(error)
            outcome = {"failed": {"code": wire["code"], "text": wire["message"]}}
        request = name if name == "lease_leases" else {name: body}
        print(json.dumps({"op": {"id": self.count, "client": 1, "call": 10 * self.count,
                                 "ret": 10 * self.count + 5, "request": request, "outcome": outcome}},
                         separators=(",", ":")))
        return wire


def compare(key, target, value, result="equal", **more):
    return {"key": key, "result": result, "target": {target: value}, **more}


def odd_cases(ask):
    put, get = (lambda **b: {"put": b}), (lambda **b: {"range": b})
    delete, txn = (lambda **b: {"delete_range": b}), (lambda **b: {"txn": b})
    ask("range", key="")
    ask("put", key="", value="v")
    ask("delete_range", key="")
    ask("delete_range", key="nothing")
    ask("put", key="a", value="v", ignore_value=True)
    ask("put", key="a", lease=5, ignore_lease=True)
    ask("put", key="a", ignore_value=True)
    ask("put", key="a", value="v", ignore_lease=True)
    ask("put", key="a", value="v", lease=77)
    ask("put", key="a", ignore_value=True, lease=77)
    ask("compact", revision=9)
    ask("range", key="a", revision=9)
    ask("range", key="a", revision=-3)
    ask("put", key="a", value="1", prev_kv=True)
    ask("put", key="a", value="2", prev_kv=True)
    ask("put", key="a", ignore_value=True, prev_kv=True)
    ask("compact", revision=0)
    ask("compact", revision=0)
    ask("compact", revision=3)
    ask("compact", revision=3)
    ask("compact", revision=99)
    ask("range", key="a", revision=2)
    ask("range", key="a", revision=3)
    ask("range", key="b", range_end="a")
    ask("delete_range", key="b", range_end="a")
    ask("lease_grant", ttl=9000000001, id=4)
    ask("lease_grant", ttl=9000000000, id=4)
    ask("lease_grant", ttl=600, id=4)
    ask("lease_grant", ttl=0, id=6)
    ask("lease_grant", ttl=-5, id=8)
    ask("lease_revoke", id=5)
    ask("lease_keep_alive", id=5)
    ask("lease_time_to_live", id=5, keys=True)
    ask("lease_grant", ttl=600, id=5)
    ask("lease_keep_alive", id=5)
    ask("put", key="l1", value="x", lease=5)
    ask("put", key="l2", value="x", lease=5)
    ask("put", key="l2", value="y", ignore_lease=True)
    ask("put", key="l3", value="x", lease=5)
    ask("put", key="l3", value="x", lease=4)
    ask("range", key="l", range_end="m")
    ask("lease_revoke", id=5)
    ask("range", key="l", range_end="m")
    ask("lease_revoke", id=4)
    ask("lease_grant", ttl=600, id=10)
    ask("lease_revoke", id=10)
    many = [put(key=f"m{i}", value="v") for i in range(129)]
    ask("txn", success=many)
    ask("txn", compare=[compare("a", "mod", 1)] * 129)
    ask("txn", success=many[:127], failure=[txn(success=[get(key="a")])])
    ask("txn", success=many[:128], failure=[txn(success=[get(key="a")])])
    ask("txn", compare=[compare("", "mod", 1)])
    ask("txn", success=[put(key="")])
    ask("txn", success=[put(key="d", value="1"), put(key="d", value="2")])
    ask("txn", success=[put(key="d", value="1"), delete(key="a", range_end="z")])
    ask("txn", success=[put(key="d", value="1"), delete(key="a", range_end="d")])
    ask("txn", success=[put(key="d", value="1"), delete(key="a", range_end="\0")])
    ask("txn", failure=[txn(success=[put(key="d")]), put(key="d")])
    ask("txn", success=[txn(success=[put(key="d")], failure=[put(key="d", value="e")])])
    ask("txn", success=[txn(success=[delete(key="d")]), put(key="d", value="f")])
    ask("txn", success=[txn(success=[put(key="e")], failure=[delete(key="e")])])
    ask("txn", success=[txn(success=[put(key="e")]), txn(success=[delete(key="e")])])
    ask("txn", success=[delete(key="e"), delete(key="e", range_end="f")])
    ask("txn", success=[put(key="f", ignore_value=True)])
    ask("txn", success=[put(key="g", value="1"), put(key="f", lease=123)])
    ask("txn", success=[put(key="g", value="1"), get(key="a", revision=1)])
    ask("txn", success=[put(key="g", value="1"), get(key="a", revision=9999)])
    ask("txn", success=[put(key="g", value="1"), get(key="g"), delete(key="a"), get(key="a")])
    ask("txn", success=[delete(key="nothing")])
    ask("txn")
    ask("txn", compare=[compare("none", "value", "", result) for result in ["equal"]])
    for target, value in [("value", ""), ("version", 0), ("create", 0), ("mod", 0), ("lease", 0)]:
        for result in ["equal", "not_equal", "greater", "less"]:
            ask("txn", compare=[compare("none", target, value, result)])
            ask("txn", compare=[compare("a", target, value, result, range_end="\0")])
    ask("lease_leases")


def walk(ask, seed, steps):
    rnd = random.Random(seed)
    keys = ["a", "b", "b\0", "c", "d"]
    leases = list(range(101, 106))
    state = {"revision": 60, "oldest": 3}

    def bounds():
        key = rnd.choice(keys)
        end = rnd.choice(["", "", "\0", "c", "d", "e", key + "\0"])
        return {"key": key, **({"range_end": end} if end else {})}

    def maybe(share, **fields):
        return fields if rnd.random() < share else {}

    def get():
        old = rnd.randint(max(1, state["oldest"] - 2), state["revision"] + 1)
        body = {**bounds(), **maybe(0.3, revision=old), **maybe(0.3, limit=rnd.randint(1, 3)),
                **maybe(0.2, keys_only=True), **maybe(0.1, count_only=True),
                **maybe(0.2, sort_order=rnd.choice(["ascend", "descend"])),
                **maybe(0.3, sort_target=rnd.choice(["key", "version", "create", "mod", "value"]))}
        for name in ["min_mod_revision", "max_mod_revision", "min_create_revision", "max_create_revision"]:
            body.update(maybe(0.1, **{name: rnd.randint(1, state["revision"])}))
        return "range", body

    def put():
        body = {"key": rnd.choice(keys), "value": str(rnd.randint(0, 9)),
                **maybe(0.3, lease=rnd.choice(leases)), **maybe(0.3, prev_kv=True)}
        if rnd.random() < 0.15:
            body.pop("value")
            body["ignore_value"] = True
        if rnd.random() < 0.15:
            body.pop("lease", None)
            body["ignore_lease"] = True
        return "put", body

    def delete():
        return "delete_range", {**bounds(), **maybe(0.5, prev_kv=True)}

    def condition():
        target = rnd.choice(["value", "version", "create", "mod", "lease"])
        value = {"value": str(rnd.randint(0, 9)), "version": rnd.randint(0, 3),
                 "create": rnd.randint(0, state["revision"]), "mod": rnd.randint(0, state["revision"]),
                 "lease": rnd.choice([0] + leases)}[target]
        return {**bounds(), "target": {target: value},
                "result": rnd.choice(["equal", "not_equal", "greater", "less"])}

    def txn(depth=0):
        def ops():
            makers = [get, put, put, delete] + ([lambda: txn(depth + 1)] if depth < 2 else [])
            return [dict([rnd.choice(makers)()]) for _ in range(rnd.randint(0, 3))]
        return "txn", {"compare": [condition() for _ in range(rnd.randint(0, 2))],
                       "success": ops(), "failure": ops()}

    def lease():
        id = rnd.choice(leases)
        return rnd.choice([("lease_grant", {"ttl": 1000, "id": id}), ("lease_revoke", {"id": id}),
                           ("lease_time_to_live", {"id": id, "keys": True}),
                           ("lease_keep_alive", {"id": id})])

    def compact():
        state["oldest"] = rnd.randint(state["oldest"], state["revision"] - 2)
        return "compact", {"revision": state["oldest"]}

    for _ in range(steps):
        name, body = rnd.choices([get, put, delete, txn, lease, compact], [30, 25, 8, 25, 12, 1])[0]()
        wire = ask(name, **body)
        header = wire.get("result", wire).get("header")
        if header:
            state["revision"] = int(header["revision"])


def main():
    with tempfile.TemporaryDirectory() as folder:
        client, peer = f"http://127.0.0.1:{PORT}", f"http://127.0.0.1:{PORT + 1}"
        server = subprocess.Popen(
            [sys.argv[1], "--data-dir", folder, "--listen-client-urls", client, "--advertise-client-urls",
             client, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
             "--initial-cluster", f"default={peer}"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            for _ in range(100):
                try:
                    urllib.request.urlopen(client + "/health", timeout=1)
                    break
                except OSError:
                    time.sleep(0.1)
            recorder = Recorder()
            odd_cases(recorder.ask)
            walk(recorder.ask, 1, 1200)
        finally:
            server.terminate()
            server.wait()


main()
