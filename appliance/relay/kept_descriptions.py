"""The box's copies of service descriptions (`box/descriptions/`, written by the supervisor), for the metadata services."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

from appliance.access.rights import WSDL, Service
from appliance.errors import UnavailableError

DESCRIPTION_BYTES_MAX = 2 << 20
"""What the command that adds a description takes at most."""
DIRECTORY = "box/descriptions"


class DescriptionAwayError(UnavailableError):
    """The copy is not there, or not the one that the configuration names."""

    kind = "metadata.description_away"


class KeptDescriptions:
    """The port `Descriptions`. Nothing is kept in memory: questions are rare, documents large."""

    def __init__(self, state: Path) -> None:
        self._directory = state / DIRECTORY

    async def read(self, service: Service) -> bytes:
        """Raises DescriptionAwayError: what is told must be what was accepted, byte for byte."""
        return await asyncio.get_running_loop().run_in_executor(None, self._read, service)

    def _read(self, service: Service) -> bytes:
        path = self._directory / f"{service.document}.{'wsdl' if service.kind == WSDL else 'json'}"
        try:
            with path.open("rb") as file:
                data = file.read(DESCRIPTION_BYTES_MAX + 1)
        except OSError as error:
            raise DescriptionAwayError(f"the description of {service.id}: {error.strerror}") from None
        if hashlib.sha256(data).hexdigest() != service.document:
            raise DescriptionAwayError(f"the description of {service.id} is not the one that was accepted")
        return data
