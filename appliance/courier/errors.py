"""What can be wrong between the box and a remote target, by name: a technician must know whom to call."""

from __future__ import annotations

from appliance.errors import RefusedError, UnavailableError, UnverifiedError


class TargetUnreachableError(UnavailableError):
    """No connection, a connection that ended, or a server that cannot now. Tried again."""

    kind = "courier.unreachable"


class HostKeyWrongError(UnverifiedError):
    """The server is not the one that the settings name: nothing was sent, no key was shown."""

    kind = "courier.host_key_wrong"


class CredentialsMissingError(RefusedError):
    """No credential lies where the settings want one."""

    kind = "courier.credentials_missing"


class CredentialsRefusedError(RefusedError):
    """The server does not take our key, or does not let it do this."""

    kind = "courier.credentials_refused"


class PlaceMissingError(RefusedError):
    """There is no such directory or bucket."""

    kind = "courier.place_missing"


class TargetRefusedError(RefusedError):
    """The server answered and does not do it: no room, a limit, a rule of its own."""

    kind = "courier.target_refused"


class DamagedOnTheWayError(UnverifiedError):
    """What the target gives back is not what was sent. It was removed there, and is sent again."""

    kind = "courier.damaged_on_the_way"


class NameTakenError(UnverifiedError):
    """Another file has this archive's name at the target: it is never written over. A person must look."""

    kind = "courier.name_taken"
