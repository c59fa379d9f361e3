"""What the global configuration says of a box: registered, suspended, terminated, or nothing (II.2.XIV, III.4).

Pure; imports nothing heavy, since the supervisor reads the words.
"""

from __future__ import annotations

REGISTERED, SUSPENDED, TERMINATED, ABSENT = "registered", "suspended", "terminated", "absent"
STATED = (SUSPENDED, TERMINATED)
"""What CEIQROO states in so many words, of a member or of one of its boxes; the others follow from the list of boxes."""


def standing_of(is_listed: bool, stated: list[str]) -> str:
    """`stated`: what is said of the member and of the box itself. The graver word counts; a box that is listed and not suspended works."""
    for word in reversed(STATED):
        if word in stated:
            return word
    return REGISTERED if is_listed else ABSENT
