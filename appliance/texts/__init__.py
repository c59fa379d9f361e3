"""Everything that a technician or municipal staff reads, in Spanish and English: the one catalogue.

Pure but for the chosen language, which a command sets once at start. Keys are `room.thing`; facts are inserted with str.format.
"""

from __future__ import annotations

from appliance.texts.archive import ARCHIVE_TEXTS
from appliance.texts.command import COMMAND_TEXTS
from appliance.texts.evidence import EVIDENCE_TEXTS
from appliance.texts.kinds import KIND_TEXTS
from appliance.texts.log import LOG_TEXTS
from appliance.texts.monitoring import MONITORING_TEXTS
from appliance.texts.network import NETWORK_TEXTS
from appliance.texts.service import SERVICE_TEXTS
from appliance.texts.status import STATUS_TEXTS
from appliance.texts.token import TOKEN_TEXTS
from appliance.texts.verify import VERIFY_TEXTS

_LANGUAGES = ("es", "en")
_chosen = 0

_ROOMS = (
    ARCHIVE_TEXTS,
    COMMAND_TEXTS,
    EVIDENCE_TEXTS,
    KIND_TEXTS,
    LOG_TEXTS,
    MONITORING_TEXTS,
    NETWORK_TEXTS,
    SERVICE_TEXTS,
    STATUS_TEXTS,
    TOKEN_TEXTS,
    VERIFY_TEXTS,
)
TEXTS = {key: both for room in _ROOMS for key, both in room.items()}
if len(TEXTS) != sum(map(len, _ROOMS)):
    raise RuntimeError("a text stands in two rooms")


def set_language(language: str) -> None:
    """Chooses `es` or `en` for this run of the program."""
    global _chosen  # noqa: PLW0603  the one piece of state: a command has one reader
    _chosen = _LANGUAGES.index(language)


def text(key: str, **facts: object) -> str:
    """The text in the chosen language. A missing key is a bug (KeyError), found by the catalogue's test."""
    return TEXTS[key][_chosen].format(**facts) if facts else TEXTS[key][_chosen]


def refusal(kind: str, detail: str) -> str:
    """One line for a person: `kind: what it means (detail)`; `kind: detail` where the catalogue does not know the kind."""
    key = f"kind.{kind}"
    if key not in TEXTS:
        return f"{kind}: {detail}"
    return f"{kind}: {text(key)}" + (f" ({detail})" if detail not in ("", kind) else "")


def system_refusal(error: OSError) -> str:
    """The same line for what the operating system refused: a missing directory, a full disk."""
    said = error.strerror or str(error)
    return refusal("command.failed", said if error.filename is None else f"{error.filename}: {said}")
