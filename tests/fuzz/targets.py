"""Every parser of the box that sees bytes from elsewhere: how it is asked, and good inputs to begin from.

A target takes bytes and returns, or raises one of our own errors: anything else is a bug, whoever sent them (T01, T05, T07, T08). Files in
`corpus/<target>/` are inputs that once broke one; they are tried first, for ever.
"""

from __future__ import annotations

from tests.fuzz import of_evidence, of_messages, of_surroundings
from tests.fuzz.target import CORPUS as CORPUS
from tests.fuzz.target import Target as Target

TARGETS: tuple[Target, ...] = (*of_messages.TARGETS, *of_evidence.TARGETS, *of_surroundings.TARGETS)
