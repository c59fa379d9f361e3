"""From the settings to a token: the one place that knows all makers. A maker's library is loaded only where it is used."""

from __future__ import annotations

from pathlib import Path

from appliance.errors import SettingsError
from appliance.hsm.token import Token
from appliance.settings import SignerSettings


def open_token(settings: SignerSettings, instance: str, keys: Path) -> Token:
    """The token of this box, not logged in yet; `keys` is the signer's directory. Raises SettingsError."""
    if settings.token == "pkcs11":  # noqa: S105  a kind of token, no secret
        from appliance.hsm.pkcs11 import Pkcs11Token

        named = {"label": settings.token_label, "serial": settings.token_serial}
        return Pkcs11Token(settings.module, **named, address=settings.module_address, configuration=settings.module_configuration)
    if settings.token == "tpm2":  # noqa: S105  a kind of token, no secret
        from appliance.hsm.tpm2 import TpmToken

        return TpmToken(settings.tcti, keys / "tpm2")
    try:
        from appliance.hsm.software import SoftwareToken
    except ModuleNotFoundError:
        raise SettingsError("signer.token: keys in files are for the bench; this image has none of it") from None
    return SoftwareToken(instance, keys / "software")
