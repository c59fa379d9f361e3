"""The floor of the relay: TLS in, mutual TLS out, nothing else, beside nginx doing the same.

wrk cannot show a client certificate, so the box under test does, towards an nginx that answers. CPU time of the relay's process per
request (user + system, from /proc) is the figure; rounds are interleaved because the machine is shared, and medians are compared.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import uvloop

from appliance.net import http1, tls
from appliance.net.connection import ServerConnection
from appliance.net.dialer import Dialer, DialerLimits
from appliance.net.listener import Listener, ListenerLimits
from appliance.net.tls_engine import HandshakeThreads
from tests.net import pki

COUNTER, UPSTREAM, NGINX, OURS = 15910, 15911, 15912, 15913
CONNECTIONS, SECONDS = 64, 2
RATIO_WANTED = 2.0
_DROPPED = frozenset({b"host", b"connection", b"content-length", b"transfer-encoding"})

_NGINX = """
daemon off; worker_processes 1; pid {dir}/{name}.pid; error_log stderr crit;
events {{ worker_connections 2048; }}
http {{
  access_log off; client_body_temp_path {dir}/{name}-body; proxy_temp_path {dir}/{name}-proxy; fastcgi_temp_path {dir}/{name}-x;
  uwsgi_temp_path {dir}/{name}-x; scgi_temp_path {dir}/{name}-x; keepalive_requests 10000000; client_max_body_size 0;
  {body}
}}
"""
_ANSWERS = """server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {b}; ssl_certificate_key {b}; ssl_client_certificate {ca};
  ssl_verify_client on; ssl_protocols TLSv1.3;
  location / {{ root {dir}; }} location /post {{ default_type text/plain; return 200 "{answer}"; }} }}"""
_COUNTS = "server {{ listen 127.0.0.1:{count}; location / {{ stub_status; }} }}"
_RELAYS = """upstream up {{ server 127.0.0.1:{up}; keepalive 256; keepalive_requests 10000000; }}
  server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {a}; ssl_certificate_key {a}; ssl_protocols TLSv1.3;
  location / {{ proxy_pass https://up; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_ssl_certificate {a};
    proxy_ssl_certificate_key {a}; proxy_ssl_trusted_certificate {ca}; proxy_ssl_verify off; proxy_ssl_protocols TLSv1.3;
    proxy_buffering off; proxy_request_buffering off; }} }}"""
_LUA = """wrk.method = "POST"
wrk.body = string.rep("x", 1024)
wrk.headers["X-Road-Client"] = "QROO/GOB/1234/sub"
wrk.headers["Content-Type"] = "application/json"
"""


async def relay(directory: Path, port: int) -> None:
    """The relay under test: each request is handed on as it comes."""
    ca, a = directory / "ca.pem", directory / "a.pem"
    threads = HandshakeThreads()
    anchors = [_der(ca)]
    inward = tls.client_https_context(lambda context: context.load_cert_chain(a))
    outward = tls.peer_client_context(anchors, lambda context: context.load_cert_chain(a))
    dialer = Dialer(DialerLimits(), threads)
    upstream = [("127.0.0.1", UPSTREAM)]

    async def handle(connection: ServerConnection) -> None:
        while (request := await connection.request()) is not None:
            headers = [field for field in request.headers if field[0].lower() not in _DROPPED]
            headers += [(b"Host", b"up"), (b"Content-Length", b"%d" % max(0, request.body_bytes))]
            head = http1.request_head(request.method, request.target, headers)
            out = await dialer.acquire(upstream, "peer", context=outward)
            try:
                if request.body_bytes <= 65536:
                    out.start(request.method, head + await connection.read_body(65536))
                else:
                    out.start(request.method, head, more=True)
                    while (piece := await connection.next_chunk()) is not None and not out.response_started:
                        out.write(piece)
                        await out.drain()
                    if piece is None:
                        out.finish()
                answer = await out.response(30)
                headers = [field for field in answer.headers if field[0].lower() not in _DROPPED]
                headers.append((b"Content-Length", b"%d" % answer.body_bytes))
                head = http1.response_head(answer.status, headers, answer.reason)
                if answer.body_bytes <= 65536:
                    connection.write(head + await out.read_body(65536))
                else:
                    connection.write(head)
                    while (piece := await out.next_chunk()) is not None:
                        connection.write(piece)
                        await connection.drain()
            finally:
                dialer.release(out)

    sock = socket.create_server(("127.0.0.1", port), backlog=1024)
    listener = Listener(sock, handle, ListenerLimits(), context=lambda: inward, threads=threads)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, listener.stop)
    await listener.serve()
    await dialer.close()


def _der(pem: Path) -> bytes:
    import ssl

    text = pem.read_text()
    return ssl.PEM_cert_to_DER_cert(text[: text.index("-----END CERTIFICATE-----") + 26])


def cpu_s(pid: int) -> tuple[float, float]:
    """User and system time of all threads, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    tick = os.sysconf("SC_CLK_TCK")
    return int(fields[11]) / tick, int(fields[12]) / tick


def rss_kib(pid: int) -> int:
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) if found else 0


def _nginx(directory: Path, name: str, body: str) -> subprocess.Popen[bytes]:
    (directory / f"{name}.conf").write_text(_NGINX.format(dir=directory, name=name, body=body))
    return subprocess.Popen(["nginx", "-p", str(directory), "-c", str(directory / f"{name}.conf")])


def _worker(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def _requests() -> int:
    """How many the upstream has answered: both relays are counted by the same clerk."""
    with urllib.request.urlopen(f"http://127.0.0.1:{COUNTER}/") as answer:
        return int(answer.read().split()[9])


def _load(url: str, pid: int, script: Path | None) -> tuple[int, float, float]:
    """Requests, and user and system microseconds for each, while connections are warm: handshakes are another figure."""
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS + 2}s", url]
    with subprocess.Popen(command + (["-s", str(script)] if script else []), stdout=subprocess.DEVNULL) as load:
        time.sleep(1.2)
        before, count = cpu_s(pid), _requests()
        time.sleep(SECONDS)
        after, count = cpu_s(pid), _requests() - count
        load.wait()
    user_us, system_us = ((b - a) / max(count, 1) * 1e6 for a, b in zip(before, after, strict=True))
    return count, user_us, system_us


def run(options: argparse.Namespace, _: Path) -> dict[str, Any]:
    """1 KB posts and 1 MB downloads."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        return {"post": measure(Path(name), options.rounds, bulk=False), "download": measure(Path(name), options.rounds, bulk=True)}


def measure(directory: Path, rounds: int, *, bulk: bool) -> dict[str, Any]:
    made = pki.make(directory)
    directory.chmod(0o755)  # nginx's workers have a user of their own
    (directory / "1mb").write_bytes(bytes(1 << 20))
    files = {"a": made.a.file, "b": made.b.file, "count": COUNTER, "ca": made.ca.file, "dir": directory, "up": UPSTREAM}
    (directory / "post.lua").write_text(_LUA)
    script, path = (None, "/1mb") if bulk else (directory / "post.lua", "/post")
    children = [
        _nginx(directory, "upstream", (_ANSWERS + _COUNTS).format(port=UPSTREAM, answer="y" * 1024, **files)),
        _nginx(directory, "relay", _RELAYS.format(port=NGINX, **files)),
        subprocess.Popen([sys.executable, "-m", "tests.bench.relay_floor", str(directory)]),
    ]
    try:
        time.sleep(1.5)
        if len(cores := sorted(os.sched_getaffinity(0))) > 1:  # the relay alone on one core, what it serves and asks on the others
            for pid in (_worker(children[1].pid), children[2].pid):
                os.sched_setaffinity(pid, cores[:1])
            for pid in (_worker(children[0].pid), os.getpid()):
                os.sched_setaffinity(pid, cores[1:])
        pids = {"nginx": (NGINX, _worker(children[1].pid)), "ours": (OURS, children[2].pid)}
        figures: dict[str, list[float]] = {name: [] for name in pids}
        for number in range(rounds + 1):
            for name, (port, pid) in pids.items():
                _, user_us, system_us = _load(f"https://127.0.0.1:{port}{path}", pid, script)
                if number:  # the first round warms up: handshakes, imports
                    figures[name].append(user_us + system_us)
        ratios = [ours / theirs for ours, theirs in zip(figures["ours"], figures["nginx"], strict=True)]
        rss_mib = rss_kib(pids["ours"][1]) / 1024
    finally:
        for child in children:
            child.terminate()
        for child in children:
            child.wait(10)
        os.sched_setaffinity(0, cores)
    return {
        "us": {name: round(statistics.median(values), 1) for name, values in figures.items()},
        "ratio": round(statistics.median(ratios), 2),
        "ratio_wanted": RATIO_WANTED,
        "rss_mib": round(rss_mib),
    }


def print_table(found: dict[str, Any]) -> None:
    print(f"\nThe relay alone: TLS in, mutual TLS out, no evidence (wanted: {RATIO_WANTED}x nginx)")
    for name, one in found.items():
        print(f"  {name:8} {one['us']['ours']} us, nginx {one['us']['nginx']} us: {one['ratio']}x; {one['rss_mib']} MiB")


if __name__ == "__main__":
    uvloop.run(relay(Path(sys.argv[1]), OURS))
