"""The yardstick: nginx relaying the same bodies, TLS in and mutual TLS out, to an nginx that answers them."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

RELAY_PORT, UPSTREAM_PORT, TAKEN_PORT = 9443, 9444, 9445


class Nginx:
    """Two nginx servers in a directory of their own; only the relaying one is measured."""

    def __init__(self, directory: Path, address: str, answer_bytes: int = 64, file_bytes: int = 0) -> None:
        """`file_bytes`: what GET /bulk gives; POST /take reads anything whole before it answers.
        Neither is kept in files on its way through the relaying nginx."""
        self.address = address
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        _certificates(directory)
        self._answer = "x" * answer_bytes
        if file_bytes:
            with (directory / "bulk").open("wb") as file:
                file.truncate(file_bytes)
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Nginx:
        upstream = f"""server {{ listen {self.address}:{UPSTREAM_PORT} ssl; ssl_certificate cert.pem; ssl_certificate_key key.pem;
          ssl_client_certificate cert.pem; ssl_verify_client on; ssl_protocols TLSv1.3;
          location / {{ return 200 "{self._answer}"; }}
          location = /bulk {{ root {self._directory.absolute()}; }}
          location = /take {{ proxy_pass http://{self.address}:{TAKEN_PORT}; }} }}
          server {{ listen {self.address}:{TAKEN_PORT}; return 200 "taken"; }}"""
        relay = f"""upstream far {{ server {self.address}:{UPSTREAM_PORT}; keepalive 256; keepalive_requests 1000000; }}
        server {{ listen {self.address}:{RELAY_PORT} ssl; ssl_certificate cert.pem; ssl_certificate_key key.pem; ssl_protocols TLSv1.3;
          keepalive_requests 1000000;
          location / {{ proxy_pass https://far; proxy_http_version 1.1; proxy_set_header Connection "";
            proxy_ssl_certificate cert.pem; proxy_ssl_certificate_key key.pem;
            proxy_ssl_protocols TLSv1.3; proxy_ssl_session_reuse on; }}
          location ~ ^/(bulk|take)$ {{ proxy_pass https://far; proxy_http_version 1.1; proxy_set_header Connection "";
            proxy_buffering off; proxy_request_buffering off; proxy_ssl_certificate cert.pem; proxy_ssl_certificate_key key.pem;
            proxy_ssl_protocols TLSv1.3; proxy_ssl_session_reuse on; }} }}"""
        for name, body in (("upstream", upstream), ("relay", relay)):
            place = self._directory / name
            place.mkdir(exist_ok=True)
            for file in ("cert.pem", "key.pem"):
                (place / file).write_bytes((self._directory / file).read_bytes())
            (place / "nginx.conf").write_text(
                f"""daemon off; master_process off; pid {place}/pid; error_log {place}/error.log; worker_processes 1;
                events {{ worker_connections 4096; }}
                http {{ access_log off; client_body_temp_path {place}/body; proxy_temp_path {place}/proxy; fastcgi_temp_path {place}/f;
                uwsgi_temp_path {place}/u; scgi_temp_path {place}/s; client_max_body_size 0; keepalive_requests 1000000; {body} }}"""
            )
            self._processes.append(subprocess.Popen(["/usr/sbin/nginx", "-p", str(place), "-c", str(place / "nginx.conf")]))
        time.sleep(0.5)
        return self

    @property
    def pid(self) -> int:
        """The relaying nginx."""
        return self._processes[1].pid

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait(10)


def _certificates(directory: Path) -> None:
    if not (directory / "cert.pem").exists():
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30", "-subj"]
            + ["/CN=localhost", "-keyout", str(directory / "key.pem"), "-out", str(directory / "cert.pem")],
            check=True,
            capture_output=True,
        )
