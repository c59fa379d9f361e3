"""A real S3-compatible service on loopback: OpenStack Swift with its s3api, one device, no replicas, TLS.

From Debian (python3-swift: the packages of its daemons would start them, and bring nothing more). It checks
signatures and payload digests as Amazon's does.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.courier.loopback import LOOPBACK, Certificate, free_ports, until_open

ACCESS, SECRET, BUCKET = "archive:box", "a-secret-of-the-tests", "archive"
KINDS = ("account", "container", "object")
MISSING = not Path("/usr/lib/python3/dist-packages/swift").exists()
PART_BYTES = 64 << 10
"""The service's smallest part, by its configuration."""

PROXY = """
[DEFAULT]
bind_ip = {address}
bind_port = {port}
cert_file = {certificate}
key_file = {key}
swift_dir = {directory}
workers = 0
user = {user}
log_level = ERROR
[pipeline:main]
pipeline = catch_errors gatekeeper cache listing_formats s3api tempauth copy slo dlo versioned_writes proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:cache]
use = egg:swift#memcache
memcache_servers = {address}:1
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:copy]
use = egg:swift#copy
[filter:versioned_writes]
use = egg:swift#versioned_writes
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
[filter:s3api]
use = egg:swift#s3api
location = mx-test
min_segment_size = {part}
[filter:tempauth]
use = egg:swift#tempauth
user_archive_box = {secret} .admin
"""

SERVER = """
[DEFAULT]
bind_ip = {address}
bind_port = {port}
swift_dir = {directory}
devices = {directory}/devices
mount_check = false
workers = 0
user = {user}
log_level = ERROR
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""


@contextmanager
def swift(directory: Path, certificate: Certificate, user: str) -> Iterator[int]:
    """The proxy's port, once it answers."""
    (directory / "devices" / "one").mkdir(parents=True)
    (directory / "swift.conf").write_text(SWIFT)
    port, *ports = free_ports(4)
    facts = {"address": LOOPBACK, "directory": directory, "user": user}
    for kind, own in zip(KINDS, ports, strict=True):
        (directory / f"{kind}.conf").write_text(SERVER.format(kind=kind, port=own, **facts))
    rings = ["/usr/bin/python3", "-c", RINGS, str(directory), LOOPBACK, *map(str, ports)]
    subprocess.run(rings, check=True, capture_output=True, timeout=120)
    more = {"certificate": certificate.chain, "key": certificate.key, "secret": SECRET, "part": PART_BYTES}
    (directory / "proxy.conf").write_text(PROXY.format(port=port, **more, **facts))
    running = [_server(directory, kind) for kind in (*KINDS, "proxy")]
    try:
        for one in (port, *ports):
            until_open(one)
        yield port
    finally:
        for process in running:
            process.terminate()
        for process in running:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


SWIFT = """
[swift-hash]
swift_hash_path_suffix = tests
swift_hash_path_prefix = tests
[storage-policy:0]
name = one
default = yes
"""

START = """
import sys
from swift.common.wsgi import run_wsgi
from swift.obj import server
file, kind = sys.argv[1:]
sys.exit(run_wsgi(file, kind + "-server", **({"global_conf_callback": server.global_conf_callback} if kind == "object" else {})))
"""
"""What Debian's swift-*-server do."""

RINGS = """
import sys
from swift.common.ring import RingBuilder
directory, address, *ports = sys.argv[1:]
for number, (kind, port) in enumerate(zip(("account", "container", "object"), ports)):
    builder = RingBuilder(4, 1, 1)
    builder.add_dev({"id": 0, "region": 1, "zone": 1, "ip": address, "port": int(port), "device": "one", "weight": 1.0, "meta": "",
                     "replication_ip": address, "replication_port": int(port)})
    builder.rebalance()
    builder.get_ring().save(f"{directory}/{kind}.ring.gz")
"""
"""In one process of the system's Python: swift-ring-builder would take nine."""


def _server(directory: Path, kind: str) -> subprocess.Popen[bytes]:
    log = (directory / f"{kind}.log").open("wb")
    with log:
        line = ["/usr/bin/python3", "-c", START, str(directory / f"{kind}.conf"), kind]
        return subprocess.Popen(line, stdout=log, stderr=log)
