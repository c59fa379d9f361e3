"""The laboratory's addresses, before anything is started or written: is the base one that it can use, and is nobody there already.

What this does not see in time (another laboratory that starts at the same moment) the keeper's own log says.
"""

from __future__ import annotations

import errno
import re
import socket
from collections.abc import Iterable, Sequence

from appliance.errors import RefusedError
from provisioning.lab import layout
from provisioning.lab.layout import Box

CENTRE_PORTS = (layout.CONFIGURATION_PORT, layout.OCSP_PORT, layout.TSA_PORT, layout.BROKER_PORT)


class AddressError(RefusedError):
    """Not a base for loopback addresses, or somebody listens there already."""

    kind = "lab.address"


def check_base(base: str) -> None:
    """Three octets, the first 127: the laboratory never leaves this machine. Raises AddressError."""
    octets = base.split(".")
    numbers = len(octets) == 3 and all(re.fullmatch(r"0|[1-9][0-9]{0,2}", octet) and int(octet) <= 255 for octet in octets)
    if not numbers or octets[0] != "127":
        raise AddressError(f"{base!r}: three octets from 0 to 255, the first 127, for example 127.0.10")


def check_free(base: str, boxes: Sequence[Box]) -> None:
    """Binds every address of the laboratory once. Raises AddressError with the first one that is taken."""
    for host, port in _listeners(base, boxes):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the listeners: connections that just ended are no obstacle
            try:
                probe.bind((host, port))
            except OSError as error:
                said = "is in use" if error.errno == errno.EADDRINUSE else error.strerror
                raise AddressError(f"{host}:{port} {said}") from None


def _listeners(base: str, boxes: Sequence[Box]) -> Iterable[tuple[str, int]]:
    yield from ((f"{base}.1", port) for port in CENTRE_PORTS)
    yield f"{base}.2", layout.SYSTEM_PORT
    for box in boxes:
        yield from ((box.address, port) for port in layout.BOX_PORTS.values())
