"""A TPM 2.0 as token: keys below a storage primary that the TPM derives from its own seed.

The primary is made anew at each connection from a fixed template, so nothing persistent is written into the TPM. A key is a blob (public
area, and private area encrypted by the TPM) that only this TPM can load; the blobs are files of the keys directory. Keys are noDA (a wrong
guess elsewhere must not lock the seals), fixedTPM and made inside. There is no PIN: a blob is useless without its chip.

ECDSA signs the leftmost bytes of a digest (FIPS 186-5, 6.4.1), so a TPM without SHA-512 makes valid ecdsa-sha512 signatures. RSA seals need
a TPM that knows the hash by name. One context, one thread.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, unquote

import msgspec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from tpm2_pytss import (
    ESAPI,
    TPM2_ALG,
    TPM2_CAP,
    TPM2_HC,
    TPM2_PT,
    TPM2_RC,
    TPM2_RH,
    TPM2_ST,
    TPM2B_DIGEST,
    TPM2B_MAX_BUFFER,
    TPM2B_PRIVATE,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPMA_OBJECT,
    TPMT_PUBLIC,
    TPMT_SIG_SCHEME,
    TPMT_TK_HASHCHECK,
    TSS2_Exception,
)

from appliance import durable
from appliance.errors import UNREADABLE, CorruptStateError, XacbeError
from appliance.hsm import token
from appliance.hsm.socket_paths import reachable
from appliance.hsm.token import (
    KeyExistsError,
    KeyMissingError,
    MechanismMissingError,
    PinLockedError,
    TokenAbsentError,
    TokenFacts,
    TokenKey,
    TokenSeen,
)

TRANSIENT_MAX = 16
"""More objects than any TPM has room for."""
LOADED_MAX = 2
"""Keys loaded at once besides the primary: a TPM must hold three objects (the kernel's resource manager: exactly three)."""

_INSIDE = TPMA_OBJECT.FIXEDTPM | TPMA_OBJECT.FIXEDPARENT | TPMA_OBJECT.SENSITIVEDATAORIGIN | TPMA_OBJECT.USERWITHAUTH
_KEY = _INSIDE | TPMA_OBJECT.NODA | TPMA_OBJECT.SIGN_ENCRYPT
_STORAGE = _INSIDE | TPMA_OBJECT.NODA | TPMA_OBJECT.RESTRICTED | TPMA_OBJECT.DECRYPT
_PRIMARY_TEMPLATE = "ecc256:aes128cfb"
_TEMPLATES = {
    token.EC_P256: "ecc256:null",
    token.EC_P384: "ecc384:null",
    token.RSA_2048: "rsa2048",
    token.RSA_3072: "rsa3072",
    token.HMAC_SHA256: "hmac",
}
_HASHES = {"sha256": TPM2_ALG.SHA256, "sha384": TPM2_ALG.SHA384, "sha512": TPM2_ALG.SHA512}
_BY_LENGTH = {32: TPM2_ALG.SHA256, 48: TPM2_ALG.SHA384}

_LAYER_MASK = 0xFF0000
"""Response codes of 0 here were said by the TPM itself; any other layer means that it was not reached."""
_FORMAT_ONE, _FORMAT_ONE_ERROR = 0x80, 0x0BF
_CANNOT = frozenset(
    int(code) for code in (TPM2_RC.ASYMMETRIC, TPM2_RC.CURVE, TPM2_RC.HASH, TPM2_RC.KEY_SIZE, TPM2_RC.SCHEME, TPM2_RC.VALUE, TPM2_RC.TYPE)
)
_NOT_OURS = frozenset((int(TPM2_RC.INTEGRITY),))

Result = TypeVar("Result")


class KeyBlob(msgspec.Struct, array_like=True):
    """One key's file. `parent`: name of the primary that wrapped it, so that another TPM's blobs are told apart without loading."""

    parent: bytes
    algorithm: str
    public: bytes
    private: bytes


class TpmToken:
    """The TPM behind one TCTI string (`device:/dev/tpmrm0`, `swtpm:path=...`), with its blobs in `directory`."""

    def __init__(self, tcti: str, directory: Path) -> None:
        os.environ.setdefault("TSS2_LOG", "all+none")  # noqa: TID251  the library's own interface: our journal has JSON lines only
        scheme, given, path = tcti.partition("path=")
        self._tcti = f"{scheme}path={reachable(path)}" if given else tcti
        durable.make_directory(directory)
        self._directory = directory
        self._blobs = {unquote(file.stem): _blob(file) for file in sorted(directory.glob("*.tpm"))}
        self._context: Any = None
        self._primary: Any = None
        self._name = b""
        self._loaded: dict[str, Any] = {}
        """Handles by label, the least recently used first; at most LOADED_MAX."""

    def login(self, pin: str) -> None:
        """There is no PIN."""

    def change_pin(self, pin: str, new_pin: str) -> None:
        raise MechanismMissingError("keys of the TPM have no PIN")

    def initialise(self, so_pin: str, pin: str) -> None:
        """A TPM has nothing to initialise: its primary is derived. Raises TokenAbsentError where it does not make one."""
        self._asked(lambda: None)

    def seen(self) -> Sequence[TokenSeen]:
        facts = self.check()
        model = self._asked(self._manufacturer) if facts.state == token.READY else ""
        return [TokenSeen("tpm2", facts.label, facts.serial, model, facts.state, True)]

    def check(self) -> TokenFacts:
        try:
            self._asked(lambda: self._context.read_public(self._primary))  # also finds a TPM that restarted and forgot
        except TokenAbsentError:
            return self._facts(token.ABSENT)
        except PinLockedError:
            return self._facts(token.PIN_LOCKED)
        return self._facts(token.READY)

    def keys(self) -> Sequence[TokenKey]:
        self._asked(lambda: None)
        return [_record(label, blob) for label, blob in self._blobs.items() if blob.parent == self._name]

    def generate(self, label: str, algorithm: str) -> TokenKey:
        token.check_algorithm(algorithm)
        if any(key.label == label for key in self.keys()):
            raise KeyExistsError(label)
        blob = self._asked(lambda: self._created(algorithm))
        durable.write_file(self._file(label), msgspec.msgpack.encode(blob))
        self._forget(label)
        self._blobs[label] = blob
        return _record(label, blob)

    def sign_digest(self, label: str, digest: bytes, hash_name: str) -> bytes:
        token.check_digest(digest, hash_name)
        return self._asked(lambda: self._sign(label, digest, hash_name))

    def mac(self, label: str, data: bytes) -> bytes:
        if label in self._blobs and self._blobs[label].algorithm != token.HMAC_SHA256:
            raise KeyMissingError(f"{label} is no secret key")
        return self._asked(lambda: bytes(self._context.hmac(self._handle(label), TPM2B_MAX_BUFFER(data), TPM2_ALG.SHA256)))

    def attest(self, act: Callable[[Any], Result]) -> Result:
        """Lends the connection to `hsm.attestation`, with room in the TPM for its two keys."""

        def with_room() -> Result:
            for label in [*self._loaded]:
                self._forget(label)
            return act(self._context)

        return self._asked(with_room)

    def attest_key(self, label: str, act: Callable[[Any, Any, bytes], Result]) -> Result:
        """The same with one key of ours loaded beside them: connection, handle, TPM2B_PUBLIC. Raises KeyMissingError."""
        return self.attest(lambda context: act(context, self._handle(label), self._blobs[label].public))

    def lend(self, act: Callable[[Any], Result]) -> Result:
        """Lends the connection to what needs no place in the TPM (`hsm.nv_counter`)."""
        return self._asked(lambda: act(self._context))

    def public_area(self, label: str) -> bytes:
        """TPM2B_PUBLIC of a key. Raises KeyMissingError."""
        if label not in self._blobs:
            raise KeyMissingError(label)
        return self._blobs[label].public

    def delete(self, label: str) -> None:
        """The blob is the key: without its file nothing can load it again."""
        if label not in self._blobs:
            raise KeyMissingError(label)
        self._file(label).unlink()
        durable.sync_directory(self._directory)
        del self._blobs[label]
        self._forget(label)

    def close(self) -> None:
        if self._context is not None:
            for label in [*self._loaded]:
                self._forget(label)
            with contextlib.suppress(TSS2_Exception):
                self._context.flush_context(self._primary)
        self._disconnect()

    def _asked(self, act: Callable[[], Result]) -> Result:
        """Carries out one act; once more on a new connection where the old one, or what was loaded over it, is gone: a TPM that
        restarted meanwhile costs no request."""
        fresh = self._context is None
        try:
            return self._tried(act)
        except TokenAbsentError:
            if fresh:
                raise
        return self._tried(act)

    def _tried(self, act: Callable[[], Result]) -> Result:
        try:
            if self._context is None:
                self._connect()
            return act()
        except TSS2_Exception as error:
            raise self._named(error) from None

    def _named(self, error: TSS2_Exception) -> XacbeError:
        code = error.rc & _FORMAT_ONE_ERROR if error.rc & _FORMAT_ONE else error.rc
        if not error.rc & _LAYER_MASK:
            if error.rc == int(TPM2_RC.LOCKOUT):
                return PinLockedError("the TPM is in dictionary-attack lock-out")
            if error.rc == int(TPM2_RC.NV_SPACE):
                return MechanismMissingError("the TPM has no room for the counter")
            if code in _CANNOT:
                return MechanismMissingError(f"TPM: {error}")
            if code in _NOT_OURS:
                return KeyMissingError(f"TPM: {error}")
        self._disconnect()
        return TokenAbsentError(f"TPM: {error}")

    def _connect(self) -> None:
        self._context = ESAPI(self._tcti)
        template = TPM2B_PUBLIC(TPMT_PUBLIC.parse(_PRIMARY_TEMPLATE, objectAttributes=_STORAGE))
        try:
            made = self._context.create_primary(TPM2B_SENSITIVE_CREATE(), template)
        except TSS2_Exception as error:
            if error.rc != int(TPM2_RC.OBJECT_MEMORY):
                raise
            self._flush_leftovers()
            made = self._context.create_primary(TPM2B_SENSITIVE_CREATE(), template)
        self._primary, public = made[0], made[1]
        self._name = bytes(public.get_name())

    def _flush_leftovers(self) -> None:
        """Objects of a signer that was killed: the kernel's resource manager drops them with its connection, a bare TPM keeps them."""
        _, found = self._context.get_capability(TPM2_CAP.HANDLES, int(TPM2_HC.TRANSIENT_FIRST), TRANSIENT_MAX)
        for handle in found.data.handles:
            self._context.flush_context(self._context.tr_from_tpmpublic(handle))

    def _disconnect(self) -> None:
        context, self._context, self._primary, self._loaded = self._context, None, None, {}
        if context is not None:
            with contextlib.suppress(TSS2_Exception):
                context.close()

    def _manufacturer(self) -> str:
        _, found = self._context.get_capability(TPM2_CAP.TPM_PROPERTIES, int(TPM2_PT.MANUFACTURER), 1)
        return int(found.data.tpmProperties[0].value).to_bytes(4).decode("ascii", "replace").strip("\0 ")

    def _created(self, algorithm: str) -> KeyBlob:
        for label in [*self._loaded]:
            self._forget(label)  # making a key needs a place of its own
        template = TPM2B_PUBLIC(TPMT_PUBLIC.parse(_TEMPLATES[algorithm], objectAttributes=_KEY))
        private, public, *_ = self._context.create(self._primary, TPM2B_SENSITIVE_CREATE(), template)
        return KeyBlob(self._name, algorithm, public.marshal(), private.marshal())

    def _sign(self, label: str, digest: bytes, hash_name: str) -> bytes:
        handle, algorithm = self._handle(label), self._blobs[label].algorithm
        if algorithm == token.HMAC_SHA256:
            raise KeyMissingError(f"{label} is no pair of keys")
        if algorithm in token.CURVE_BYTES:
            digest = token.truncated(digest, algorithm)
            scheme = _scheme(TPM2_ALG.ECDSA, _BY_LENGTH[len(digest)])
        else:
            scheme = _scheme(TPM2_ALG.RSASSA, _HASHES[hash_name])
        unhashed_here = TPMT_TK_HASHCHECK(tag=TPM2_ST.HASHCHECK, hierarchy=TPM2_RH.NULL)
        made = self._context.sign(handle, TPM2B_DIGEST(digest), scheme, unhashed_here).signature
        if algorithm in token.CURVE_BYTES:
            r, s = bytes(made.ecdsa.signatureR), bytes(made.ecdsa.signatureS)
            return encode_dss_signature(int.from_bytes(r), int.from_bytes(s))
        return bytes(made.rsassa.sig)

    def _handle(self, label: str) -> Any:
        blob = self._blobs.get(label)
        if blob is None or blob.parent != self._name:
            raise KeyMissingError(f"{label} is not of this TPM" if blob else label)
        handle = self._loaded.pop(label, None)
        if handle is None:
            while len(self._loaded) >= LOADED_MAX:
                self._forget(next(iter(self._loaded)))
            private, _ = TPM2B_PRIVATE.unmarshal(blob.private)
            public, _ = TPM2B_PUBLIC.unmarshal(blob.public)
            handle = self._context.load(self._primary, private, public)
        self._loaded[label] = handle
        return handle

    def _forget(self, label: str) -> None:
        handle = self._loaded.pop(label, None)
        if handle is not None:
            with contextlib.suppress(TSS2_Exception):
                self._context.flush_context(handle)

    def _facts(self, state: str) -> TokenFacts:
        return TokenFacts("tpm2", "TPM 2.0", self._name.hex()[:20], state)

    def _file(self, label: str) -> Path:
        return self._directory / f"{quote(label, safe='')}.tpm"


def _scheme(kind: Any, hash_algorithm: Any) -> Any:
    scheme = TPMT_SIG_SCHEME(scheme=kind)
    scheme.details.any.hashAlg = hash_algorithm
    return scheme


def _record(label: str, blob: KeyBlob) -> TokenKey:
    if blob.algorithm == token.HMAC_SHA256:
        return TokenKey(label, blob.algorithm, b"")
    public, _ = TPM2B_PUBLIC.unmarshal(blob.public)
    return TokenKey(label, blob.algorithm, public.publicArea.to_der())


def _blob(file: Path) -> KeyBlob:
    try:
        return msgspec.msgpack.decode(file.read_bytes(), type=KeyBlob)
    except UNREADABLE as error:
        raise CorruptStateError(f"{file}: {error}") from None
