"""The laboratory's MQTT broker: a real mosquitto with mutual TLS, where each box may speak for itself only."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from provisioning.centre import Centre
from provisioning.lab import layout
from provisioning.lab.keeper import Unit

MONITOR = "monitor"
"""Common name of the monitor's certificate: reads everything, may ask for rebirth."""


def units(directory: Path, centre: Centre, address: str) -> list[Unit]:
    """Writes the broker's files and returns its unit."""
    place = directory / "broker"
    place.mkdir(exist_ok=True)
    for name in ("broker", MONITOR):
        # leaf and issuing authority; the root is the other side's anchor
        chain = (centre.certificate_file(one, "pem").read_text() for one in (name, "issuing"))
        (place / f"{name}.pem").write_text("".join(chain))
    shutil.copyfile(centre.authorities_file, place / "ca.pem")
    (place / "access").write_text(_access(centre.instance))
    (place / "mosquitto.conf").write_text(
        f"""# One listener, TLS 1.3, certificates required; the certificate's common name is the user.
listener {layout.BROKER_PORT} {address}
cafile {place}/ca.pem
certfile {place}/broker.pem
keyfile {centre.key_file("broker")}
tls_version tlsv1.3
require_certificate true
use_identity_as_username true
acl_file {place}/access
allow_anonymous false
persistence false
max_packet_size 1048576
max_queued_messages 1000
log_type error
log_type warning
user root
"""
    )
    return [
        Unit(
            name="ceiqroo.broker",
            argv=["/usr/sbin/mosquitto", "-c", str(place / "mosquitto.conf")],
            log=str(place / "mosquitto.log"),
            stop_rank=1,
        ),
        _witness(directory, centre, address),
    ]


def _witness(directory: Path, centre: Centre, address: str) -> Unit:
    """Keeps the checkpoints of the boxes' logs: `ceiqroo log witness`."""
    told = describe(directory, centre, address)
    files = [word for name in ("ca", "monitor_cert", "monitor_key") for word in (f"--{name.removeprefix('monitor_')}", told[name])]
    argv = [str(Path(sys.executable).parent / "ceiqroo"), "log", "collect", str(centre.directory)]
    argv += ["--broker", f"{told['host']}:{told['port']}", *files]
    return Unit(name="ceiqroo.witness", argv=argv, log=str(directory / "witness.log"), stop_rank=1)


def describe(directory: Path, centre: Centre, address: str) -> dict[str, Any]:
    """`ceiqroo.broker` of lab.json."""
    place = directory / "broker"
    return {
        "host": address,
        "port": layout.BROKER_PORT,
        "ca": str(place / "ca.pem"),
        "monitor_cert": str(place / f"{MONITOR}.pem"),
        "monitor_key": str(centre.key_file(MONITOR)),
    }


def _access(instance: str) -> str:
    """Sparkplug topics by edge node, which is the certificate's common name."""
    return f"""user {MONITOR}
topic read spBv1.0/{instance}/#
topic write spBv1.0/{instance}/NCMD/+
topic write spBv1.0/STATE/#
pattern write spBv1.0/{instance}/NBIRTH/%u
pattern write spBv1.0/{instance}/NDATA/%u
pattern write spBv1.0/{instance}/NDEATH/%u
pattern write spBv1.0/{instance}/DBIRTH/%u/+
pattern write spBv1.0/{instance}/DDATA/%u/+
pattern write spBv1.0/{instance}/DDEATH/%u/+
pattern read spBv1.0/{instance}/NCMD/%u
"""
