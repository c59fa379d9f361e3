"""What a local account may do. Deny by default: an account that is not entered, or has no role for an act, may not.

Pure. An account is a user of the operating system: the kernel says who is at the other end of a local socket, never the request. Rule
IV.2.III.B.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from appliance.errors import RefusedError

AUDITOR, ADMINISTRATOR = "auditor", "administrator"
ROLES = (AUDITOR, ADMINISTRATOR)
READ_LOG, CHANGE_ACCOUNTS = "read_log", "change_accounts"
_MAY = {AUDITOR: frozenset({READ_LOG}), ADMINISTRATOR: frozenset({CHANGE_ACCOUNTS})}
ROOT_UID = 0
ACCOUNTS_MAX = 200


class Account(msgspec.Struct, array_like=True, frozen=True):
    """`user`: name of a user of the operating system."""

    user: str
    roles: tuple[str, ...]


class RoleMissingError(RefusedError):
    """This person's account has no role for the act, or there is no such account."""

    kind = "access.role_missing"


def roles_of(user: str, accounts: Iterable[Account]) -> tuple[str, ...]:
    return next((account.roles for account in accounts if account.user == user), ())


def may(act: str, roles: Iterable[str]) -> bool:
    return any(act in _MAY.get(role, ()) for role in roles)


def check(act: str, user: str, accounts: Iterable[Account]) -> None:
    """Raises RoleMissingError."""
    if not may(act, roles_of(user, accounts)):
        raise RoleMissingError(f"{user}: {act}")


def check_change(user: str, uid: int | None, accounts: Iterable[Account]) -> None:
    """Who may enter accounts: an administrator, and root, who could write the file itself; root has no other role by being root.

    Raises RoleMissingError.
    """
    if uid != ROOT_UID:
        check(CHANGE_ACCOUNTS, user, accounts)
