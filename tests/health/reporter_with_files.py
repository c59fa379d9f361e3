"""The reporter as its own program with a key from files: `python -m tests.health.reporter_with_files STATE CERTIFICATE KEY`."""

from __future__ import annotations

import ssl
import sys
from pathlib import Path

from appliance.clock import SystemClock
from appliance.journal import start_journal
from appliance.net.local_sockets import inherited_sockets
from appliance.net.mqtt_session import KeyLoader
from appliance.processes.reporter import Reporter
from appliance.processes.running import run, until_stopped
from appliance.settings import BoxSettings, ReporterSettings, load


def main(state: Path, certificate: Path, key: Path) -> int:
    def load_key(context: ssl.SSLContext) -> None:
        context.load_cert_chain(certificate, key)

    async def find() -> KeyLoader:
        return load_key

    async def serve() -> None:
        log = start_journal("reporter")
        reporter = Reporter(state, load(state, BoxSettings), load(state, ReporterSettings), SystemClock(), log, find)
        channels = {name.removeprefix("channel."): sock for name, sock in inherited_sockets().items()}
        await until_stopped(reporter.serve(channels))

    return run(start_journal("reporter"), serve())


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:4])))
