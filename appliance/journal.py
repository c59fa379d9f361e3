"""The system log: one JSON line per event on standard error, which systemd or the laboratory keeps.

An event is a past-tense name with facts; strings are JSON-escaped, so a hostile name cannot forge a line or move a terminal's cursor.
Never bodies, PINs, key handles or names of persons.
"""

from __future__ import annotations

import json
import logging
import sys


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        facts = getattr(record, "facts", {})
        line = {"at": round(record.created, 6), "level": record.levelname, "event": record.getMessage()}
        line |= {"from": record.name, **facts}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def start_journal(process: str, level: int = logging.INFO) -> logging.Logger:
    """Called once by a process's main; returns its logger."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    logging.basicConfig(handlers=[handler], level=level, force=True)
    return logging.getLogger(process)


def event(log: logging.Logger, level: int, name: str, **facts: object) -> None:
    """Says that something happened: `event(log, INFO, "batch.signed", messages=17)`."""
    log.log(level, name, extra={"facts": facts})
