"""Who may read the log: by role, with a reason, and only after the reading itself is a durable audit record (IV.2.III.B, T31)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from appliance.access import roles
from appliance.access.roles import Account, RoleMissingError
from appliance.errors import RefusedError
from appliance.messagelog import audit
from appliance.messagelog.groups import Draft
from appliance.messagelog.record import AuditEntry
from appliance.net.local_server import caller_uid, caller_user

Accounts = Callable[[], Awaitable[list[Account]]]
"""The accounts as the supervisor holds them now. Raises XacbeError: then nobody reads."""
Write = Callable[[Draft], Awaitable[object]]


class ReasonMissingError(RefusedError):
    """A read of the log needs a reason."""

    kind = "log.reason_missing"


class Readers:
    """Stands before every read. Invariant: what is read without `admit` having returned does not exist."""

    def __init__(self, accounts: Accounts, write: Write) -> None:
        self._accounts, self._write = accounts, write

    async def admit(self, caller: str, act: str, reason: str, facts: dict[str, str]) -> None:
        """Returns when this person may read and the audit record of it is durable; a refusal leaves one too.

        Raises ReasonMissingError, RoleMissingError, LogFullError, LogBusyError, and what asking for the accounts raises.
        """
        told = {"act": act, "by": caller_user(), "uid": str(caller_uid()), "reason": audit.cut(reason.strip()), **facts}
        try:
            await self.allow()
            if not reason.strip():
                raise ReasonMissingError("say why: --reason TEXT")
        except RefusedError as error:
            await self._write(Draft(AuditEntry(audit.READ_REFUSED, caller, {**told, "kind": error.kind}), audit=True))
            raise
        await self._write(Draft(AuditEntry(audit.READ, caller, told), audit=True))

    async def note_own(self, caller: str, facts: dict[str, str]) -> None:
        """Returns when the audit record is durable of an owner's read of its own message (`own_reading`)."""
        await self._write(Draft(AuditEntry(audit.READ, caller, {"act": "download", **facts}), audit=True))

    async def allow(self) -> None:
        """The role alone, for what shows no message. Raises RoleMissingError, UnavailableError leaves."""
        user = caller_user()
        if caller_uid() is None:
            raise RoleMissingError("nobody knows who asks")
        roles.check(roles.READ_LOG, user, await self._accounts())
