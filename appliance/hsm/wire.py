"""What the other processes say to the signer: its operations' requests and answers.

Pure. The operations and who may call them stand in `appliance.topology`. Key labels: `seal/<CLASS>/<CODE>` for each member, `tls-peer`,
`tls-internal`, `tls-report`, `log`, `wrap`. A renewed key has its version behind it (`tls-peer/2`); who only uses keys never says versions.

`advance_counter` and `read_counter` take nothing and answer with a count (int) that outlives everything but its TPM;
`token.mechanism_missing` from other tokens, `token.busy` where it goes up too often. An answer that was lost may have counted: nobody may
expect the last count plus one.
"""

from __future__ import annotations

import msgspec

CHAIN, MESSAGE = "chain", "message"
IN_FORCE, COMING, FORMER = "in_force", "coming", "former"


class SealRequest(msgspec.Struct, array_like=True):
    """`sign_seal`: the seal of one message, or of a batch. The signer builds what it signs; there are no blind digests."""

    member: str
    """`CLASS/CODE`: whose seal key."""
    signed: str
    """CHAIN: `content` is the HashChainResult document; MESSAGE: `content` is the SHA-512 of /message.xml (64 bytes)."""
    content: bytes
    signing_time_us: int


class SealReply(msgspec.Struct, array_like=True):
    """The signature document up to and including SignedProperties; the relay adds unsigned properties (`seal.xades.complete`)."""

    fragment: bytes
    certificate: bytes


class HandshakeRequest(msgspec.Struct, array_like=True):
    """`sign_handshake`: a TLS handshake's digest under a TLS key (never a seal key)."""

    label: str
    digest: bytes
    certificate_sha256: bytes = b""
    """Of the certificate that the handshake shows: its key signs, also after a newer one came into force. Empty: the one in force."""


class CheckpointRequest(msgspec.Struct, array_like=True):
    """`sign_checkpoint`: how far the log goes, and its root; the signer writes the checkpoint and signs it with the key `log`."""

    records: int
    root: bytes
    """32 bytes."""
    at_us: int
    counter: int | None = None
    """What `advance_counter` said last; None where the token does not count."""


class CheckpointReply(msgspec.Struct, array_like=True):
    """The signed note (`messagelog.checkpoint`) and the certificate in force of the key `log`."""

    note: bytes
    certificate: bytes


class WrapRequest(msgspec.Struct, array_like=True):
    """`wrap`: `data` is a data key of at most 64 bytes; `unwrap`: a blob that `wrap` gave. `context` must be the same both times."""

    data: bytes
    context: bytes


class KeyVersion(msgspec.Struct, array_like=True):
    """One key of a label: the first one, or one that a renewal made. `state`: IN_FORCE, COMING (newer) or FORMER."""

    label: str
    state: str
    algorithm: str
    public_key: bytes
    certificates: list[bytes]
    """DER, the one in force first."""
    uses: int


class KeyRecord(msgspec.Struct, array_like=True):
    """A label's keys as `list_keys` shows them; algorithm and public key are those of the key in force.

    `certificates`: DER, of all its keys, the one in force first; empty until one is imported.
    """

    label: str
    use: str
    """`seal`, `tls`, `log` or `wrap`."""
    algorithm: str
    """`EC-P256`, `EC-P384`, `RSA-2048`, `RSA-3072`; `HMAC-SHA256` for the wrapping key."""
    public_key: bytes
    """SubjectPublicKeyInfo, DER; empty for the wrapping key."""
    certificates: list[bytes]
    uses: int
    versions: list[KeyVersion] = []


class TokenStatus(msgspec.Struct, array_like=True):
    """`token_status`. `state`: `ready`, `locked`, `absent`, `pin_rejected`, `pin_locked`, `uninitialised`."""

    maker: str
    label: str
    serial: str
    state: str
    tries_left: int | None
    signatures: int
    queue: int


class TokenListed(msgspec.Struct, array_like=True):
    """One token of `list_tokens`; `chosen`: the one that the settings name. States as of TokenStatus."""

    maker: str
    label: str
    serial: str
    model: str
    state: str
    chosen: bool


class TokenInit(msgspec.Struct, array_like=True):
    """`init_token`: erases the token. `pin` is empty in unattended mode, where it comes from the credential."""

    so_pin: str
    pin: str = ""
    destroy_keys: bool = False
    """Without it a token that holds keys, or may hold them, is left alone."""


class TpmIdentity(msgspec.Struct, array_like=True):
    """`tpm_identity`: TPM2B_PUBLIC of endorsement and attestation key; the manufacturer's certificate (DER), empty where there is none."""

    endorsement_public: bytes
    endorsement_certificate: bytes
    attestation_public: bytes


class CredentialChallenge(msgspec.Struct, array_like=True):
    """`activate_credential`: TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET, as `provisioning.attestation.challenge` makes them."""

    blob: bytes
    secret: bytes


class QuoteRequest(msgspec.Struct, array_like=True):
    """`quote`: 16 to 32 bytes of nonce; PCRs of the SHA-256 bank, 0 to 7 where none are named."""

    nonce: bytes
    pcrs: list[int] = []


class QuoteReply(msgspec.Struct, array_like=True):
    """TPMS_ATTEST, TPMT_SIGNATURE of the attestation key, and the values that were quoted by number."""

    attested: bytes
    signature: bytes
    values: dict[int, bytes]


class CertifyRequest(msgspec.Struct, array_like=True):
    """`certify_key`: the word of the attestation key that this key lives in the same TPM, said for `qualifying` (16 to 64 bytes)."""

    label: str
    qualifying: bytes


class CertifyReply(msgspec.Struct, array_like=True):
    """TPM2B_PUBLIC of the key, TPMS_ATTEST, TPMT_SIGNATURE of the attestation key."""

    public: bytes
    attested: bytes
    signature: bytes


class KeyRequest(msgspec.Struct, array_like=True):
    """`generate_key`, `delete_key`, `renew_key`, `switch_key`: by label; the last and `delete_key` take one with its version."""

    label: str
    algorithm: str = "EC-P256"


class CertificateRequest(msgspec.Struct, array_like=True):
    """`request_certificate`: a PKCS#10 request (DER) with the given subject and alternative names.

    `subject`: (dotted OID, value) pairs in order; `names`: `DNS:...` or `IP:...`.
    """

    label: str
    subject: list[tuple[str, str]]
    names: list[str]


class CertificateImport(msgspec.Struct, array_like=True):
    """`import_certificate`: DER; its public key must be that of the key."""

    label: str
    certificate: bytes


class PinRequest(msgspec.Struct, array_like=True):
    """`unlock` (pin), `change_pin` (pin, new_pin)."""

    pin: str
    new_pin: str = ""
