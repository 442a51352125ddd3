"""Cases for the JSON gateway: the same request by curl to both servers, and the answers compared.

etcd before 3.6 has an older gateway. What it does otherwise is translated into what the newer one
does, in `as_newer`, for the reference alone; everything else must be equal.
"""

import base64
import json
import re
import subprocess

TIME_LIMIT = 15
# Numbers that differ from server to server; they are text in JSON, and zero is left out.
NUMBERS = r'"(raft_term|raftTerm|raftIndex|raftAppliedIndex|dbSize|dbSizeInUse)":"[1-9]\d*"'


def b64(text):
    return base64.b64encode(text.encode()).decode()


def curl(url, body, extra=(), seconds=TIME_LIMIT):
    """Status, content type and body of one request; a stream is ended after `seconds`."""
    argv = ["curl", "-s", "-N", "-m", str(seconds), "-w", "\n%{http_code} %{content_type}", *extra, url]
    if body is not None:
        argv += ["-d", body]
    out = subprocess.run(argv, capture_output=True, text=True, timeout=TIME_LIMIT + 5)
    text, _, last = out.stdout.rpartition("\n")
    status, _, kind = last.partition(" ")
    return int(status or 0), kind, text


def as_newer(status, kind, text):
    """What etcd from 3.6 on says where an older one said this."""
    if status == 404 and text.strip() == "Not Found":
        return 404, "application/json", '{"code":5,"message":"Not Found"}'
    if status == 405:
        return 501, "application/json", '{"code":12,"message":"Method Not Allowed"}'
    try:
        answer = json.loads(text)
    except ValueError:
        return status, kind, text
    # The text stood twice, and a failed precondition had a status of its own.
    if isinstance(answer, dict) and "code" in answer and answer.get("error") == answer.get("message"):
        del answer["error"]
        return 400 if answer["code"] == 9 else status, kind, json.dumps(answer)
    return status, kind, text


def canonical(line, quiet):
    """A line of JSON with its keys in order, so that only their meaning is compared."""
    try:
        answer = json.loads(line)
    except ValueError:
        return line
    if quiet and isinstance(answer, dict):
        answer.pop("message", None)
    text = json.dumps(answer, sort_keys=True, separators=(",", ":"))
    return re.sub(NUMBERS, r'"\1":"<number>"', text)


def post(t, path, body=None, quiet=False, raw=None, extra=(), seconds=TIME_LIMIT):
    """One request to both. quiet: the text of an error may differ; raw: a body that is no JSON."""
    text = raw if raw is not None else json.dumps(body if body is not None else {})

    def one(side):
        url = "http://" + t.fill(side, "{EP1}") + path
        status, kind, answer = curl(url, text, extra, seconds)
        if side == 0 and t.runner.versions[0] < (3, 6):
            status, kind, answer = as_newer(status, kind, answer)
        lines = [canonical(line, quiet) for line in answer.splitlines()]
        return f"{status} {kind}\n" + "\n".join(lines)

    for side, answer in enumerate(t.both(one)):
        t.write(side, f"$ curl {path} -d {text!r} {' '.join(extra)}".rstrip(), answer)


def header(t, path, extra, names):
    """The named headers of an answer, in any case and order."""
    def one(side):
        url = "http://" + t.fill(side, "{EP1}") + path
        out = subprocess.run(["curl", "-s", "-i", "-m", str(TIME_LIMIT), *extra, url],
                             capture_output=True, text=True, timeout=TIME_LIMIT + 5)
        head = out.stdout.replace("\r", "").split("\n\n")[0].splitlines()
        found = sorted(line.lower() for line in head[1:] if line.split(":")[0].lower() in names)
        return "\n".join([" ".join(head[0].split()[:2]), *found])

    for side, answer in enumerate(t.both(one)):
        t.write(side, f"$ curl -i {path} {' '.join(extra)}".rstrip(), answer)


def register(case):
    @case("gateway/kv", once=True)
    def _(t):
        post(t, "/v3/kv/put", {"key": b64("a"), "value": b64("1")})
        post(t, "/v3/kv/put", {"key": b64("a"), "value": b64("2"), "prev_kv": True})
        post(t, "/v3/kv/put", {"key": b64("b"), "value": ""})
        post(t, "/v3/kv/range", {"key": b64("a")})
        post(t, "/v3/kv/range", {"key": b64("a"), "range_end": b64("z"), "limit": "1"})
        post(t, "/v3/kv/range", {"key": b64("a"), "rangeEnd": b64("z"), "sortOrder": "DESCEND", "sort_target": "MOD"})
        post(t, "/v3/kv/range", {"key": b64("a"), "range_end": b64("z"), "sort_order": 2, "keys_only": True})
        post(t, "/v3/kv/range", {"key": b64("a"), "range_end": b64("z"), "count_only": True, "nonsense": [1]})
        post(t, "/v3/kv/range", {"key": b64("none")})
        post(t, "/v3/kv/range", {"key": b64("a"), "revision": t.R + 1, "serializable": True})
        post(t, "/v3/kv/deleterange", {"key": b64("a"), "prev_kv": True})
        post(t, "/v3/kv/deleterange", {"key": b64("a")})
        post(t, "/v3beta/kv/range", {"key": b64("b")})

    @case("gateway/txn", once=True)
    def _(t):
        post(t, "/v3/kv/put", {"key": b64("a"), "value": b64("1")})
        post(t, "/v3/kv/txn", {
            "compare": [{"key": b64("a"), "target": "VALUE", "result": "EQUAL", "value": b64("1")},
                        {"key": b64("a"), "target": "MOD", "result": "GREATER", "mod_revision": "0"}],
            "success": [{"request_put": {"key": b64("b"), "value": b64("2")}},
                        {"requestRange": {"key": b64("a"), "range_end": b64("z")}},
                        {"request_delete_range": {"key": b64("none")}}]})
        post(t, "/v3/kv/txn", {
            "compare": [{"key": b64("a"), "target": 0, "result": 3, "version": 1}],
            "success": [],
            "failure": [{"request_txn": {"success": [{"request_range": {"key": b64("b")}}]}}]})
        post(t, "/v3/kv/txn", {})
        post(t, "/v3/kv/txn", {"success": [{"request_put": {"key": b64("a")}}, {"request_put": {"key": b64("a")}}]})
        post(t, "/v3/kv/txn", {"success": [{"request_put": {}}]})

    @case("gateway/errors", fresh=True, once=True)
    def _(t):
        post(t, "/v3/kv/range", {})
        post(t, "/v3/kv/put", {"key": b64("a"), "lease": "9"})
        post(t, "/v3/kv/put", {"key": b64("none"), "ignore_value": True})
        post(t, "/v3/kv/range", {"key": b64("a"), "revision": 999})
        post(t, "/v3/kv/range", {"key": b64("a"), "sort_order": 77})
        post(t, "/v3/kv/compaction", {"revision": 999})
        post(t, "/v3/kv/put", {"key": b64("a"), "value": b64("1")})
        post(t, "/v3/kv/put", {"key": b64("a"), "value": b64("2")})
        post(t, "/v3/kv/compaction", {"revision": 3})
        post(t, "/v3/kv/range", {"key": b64("a"), "revision": 2})
        post(t, "/v3/lease/revoke", {"ID": 12345})
        post(t, "/v3/lease/grant", {"TTL": "9000000001"})
        post(t, "/v3/cluster/member/remove", {"ID": 1})
        post(t, "/v3/cluster/member/add", {"peerURLs": ["nonsense"]})
        post(t, "/v3/maintenance/transfer-leadership", {"targetID": 1})
        post(t, "/v3/kv/nothing", {})
        post(t, "/v3/", {})

    @case("gateway/bad bodies", once=True)
    def _(t):
        # How a parser words its complaint differs even between builds of etcd.
        for raw in ("{", '{"key":', "x", '{"key":"!"}', '{"key":1}', '{"limit":"x"}', '{"key" "a"}', "[]", '"a"',
                    '{"key":"YQ==","limit":1.5}', '{"serializable":"yes"}', '{"key":"YQ==","sort_order":[]}'):
            post(t, "/v3/kv/range", raw=raw, quiet=True)
        post(t, "/v3/kv/range", raw="")
        post(t, "/v3/kv/range", raw='{"key":"YQ=="} trailing')
        post(t, "/v3/kv/range", raw='{"key":null,"limit":null}')

    @case("gateway/lease", fresh=True, once=True)
    def _(t):
        post(t, "/v3/lease/grant", {"TTL": "600", "ID": "77"})
        post(t, "/v3/lease/grant", {"TTL": 600, "ID": 77})
        post(t, "/v3/kv/put", {"key": b64("k"), "lease": 77})
        post(t, "/v3/lease/leases", {})
        post(t, "/v3/kv/lease/leases", {})
        post(t, "/v3/lease/timetolive", {"ID": 78, "keys": True})
        post(t, "/v3/lease/keepalive", raw='{"ID":"77"}{"ID":78} ')
        post(t, "/v3/lease/keepalive", {})
        post(t, "/v3/kv/lease/revoke", {"ID": 77})
        post(t, "/v3/kv/range", {"key": b64("k")})

    @case("gateway/lock and election", fresh=True, once=True)
    def _(t):
        post(t, "/v3/lease/grant", {"TTL": 600, "ID": 77})
        post(t, "/v3/lease/grant", {"TTL": 600, "ID": 78})
        post(t, "/v3/lock/lock", {"name": b64("m"), "lease": 77})
        post(t, "/v3/lock/lock", {"name": b64("m"), "lease": 77})
        post(t, "/v3/lock/lock", {"name": b64("m"), "lease": 79})
        post(t, "/v3/lock/unlock", {"key": b64("m/4d")})
        post(t, "/v3/lock/unlock", {"key": b64("m/4d")})
        post(t, "/v3/lock/unlock", {})
        post(t, "/v3/election/leader", {"name": b64("e")})
        post(t, "/v3/election/campaign", {"name": b64("e"), "lease": 77, "value": b64("one")})
        post(t, "/v3/election/leader", {"name": b64("e")})
        post(t, "/v3/election/observe", {"name": b64("e")}, seconds=1)
        leader = {"name": b64("e"), "key": b64("e/4d"), "rev": "3", "lease": "77"}
        post(t, "/v3/kv/range", {"key": b64("e/"), "range_end": b64("e0")})
        post(t, "/v3/election/proclaim", {"leader": {**leader, "rev": t.R + 3}, "value": b64("two")})
        post(t, "/v3/election/proclaim", {"leader": {**leader, "rev": 1}, "value": b64("no")})
        post(t, "/v3/election/proclaim", {})
        post(t, "/v3/election/resign", {"leader": {**leader, "rev": t.R + 3}})
        post(t, "/v3/election/resign", {"leader": {**leader, "rev": 1}})
        post(t, "/v3/election/resign", {})
        post(t, "/v3/election/leader", {"name": b64("e")})

    @case("gateway/watch", once=True)
    def _(t):
        post(t, "/v3/kv/put", {"key": b64("a"), "value": b64("1")})
        post(t, "/v3/kv/put", {"key": b64("a"), "value": b64("2"), "lease": 0})
        post(t, "/v3/kv/deleterange", {"key": b64("a")})
        first = {"key": b64("a"), "start_revision": t.R + 1}
        post(t, "/v3/watch", {"create_request": first}, seconds=1)
        post(t, "/v3/watch", {"create_request": {**first, "prev_kv": True, "filters": ["NODELETE"]}}, seconds=1)
        post(t, "/v3/watch", {"create_request": {"key": b64("b"), "range_end": b64("a")}}, seconds=1)
        post(t, "/v3/watch", {"create_request": {**first, "watch_id": 7}}, seconds=1)

    @case("gateway/cluster and maintenance", fresh=True, once=True)
    def _(t):
        post(t, "/v3/cluster/member/list", {})
        post(t, "/v3/cluster/member/list", {"linearizable": True})
        post(t, "/v3/maintenance/alarm", {})
        post(t, "/v3/maintenance/alarm", {"action": "ACTIVATE", "memberID": 1, "alarm": "NOSPACE"})
        post(t, "/v3/maintenance/alarm", {"action": 2, "memberID": "1", "alarm": 1})
        post(t, "/v3/kv/put", {"key": b64("a"), "value": b64("1")})
        post(t, "/v3/maintenance/defragment", {})

    @case("gateway/headers and methods", once=True)
    def _(t):
        names = {"content-type", "grpc-metadata-content-type", "access-control-allow-origin",
                 "access-control-allow-methods", "access-control-allow-headers", "allow"}
        header(t, "/v3/kv/range", ["-d", '{"key":"YQ=="}'], names)
        header(t, "/v3/kv/range", ["-d", "{}"], names)
        header(t, "/v3/kv/range", ["-X", "OPTIONS"], names)
        header(t, "/nothing", [], names)
        post(t, "/v3/kv/range", extra=["-X", "GET"])
        post(t, "/v3/kv/range", extra=["-X", "PUT"])
        post(t, "/v3/kv/range", {"key": b64("a")}, extra=["-H", "Content-Type: text/plain"])
        post(t, "/v3/kv/range", {"key": b64("a")}, extra=["-H", "Grpc-Metadata-hasleader: true"])
        post(t, "/v3/kv/range", {"key": b64("a")}, extra=["-H", "Grpc-Timeout: nonsense"], quiet=True)
