"""Is this container evidence: the same questions as at message time, asked about the moment of its time stamp.

Pure. Sheet 5.1, 5.6-5.8. Steps, in X-Road's order so that the first fault found is the one that X-Road reports:

0. container: a ZIP within limits, with mimetype, message and one signature document;
1. sender: the message says who sent it;
2. signature_form: one Signature, unique Ids, and it covers the message or a hash chain result;
3. stamp: an approved authority stamped this very signature: the moment that counts from here on;
4. chain: the hash chain result is signed, and this container's chain leads to it;
5. signature: key usage, referenced files, signed properties, signature value;
6. signer: the certificate names the sender's member;
7. path: issued by an approved CA, valid at the stamp;
8. ocsp: the confirmation inside was good and fresh at the stamp;
9. coverage: every attachment in the container is covered by the signature;
10. evidence_gap: confirmation and stamp lie at most eight hours apart (IV.3.V).

The first failed step ends the list: what rests on it would mean nothing. A step that lacks trust material is undecided, the others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Protocol, TypeVar

from cryptography import x509

from appliance.clock import iso
from appliance.errors import UnavailableError, UnverifiedError
from appliance.model.identifiers import ClientId
from appliance.seal import report
from appliance.seal.chain_check import ChainResult, Digest, File, Input, check_chain, parse_result
from appliance.seal.codes import xroad_code
from appliance.seal.container import Container, read_container
from appliance.seal.evidence import check_certificate_path, check_member, check_status, signing_certificate
from appliance.seal.hash_chain import CHAIN, CHAIN_RESULT, MESSAGE, SHA512, SIGNATURES, STAMP_CHAIN
from appliance.seal.report import Attachment, Report, Step
from appliance.seal.sender import sender_of
from appliance.seal.signature import Signature, SignatureMalformedError, WrongDigestError, check_digest, check_value, parse
from appliance.trust.autonomy import check_evidence_gap, evidence_gap_us
from appliance.trust.global_configuration import ApprovedTsa, CaCertificate, SharedParameters
from appliance.trust.ocsp import OcspFacts
from appliance.trust.timestamps import StampFacts, TsaNotApprovedError, check_token

_Found = TypeVar("_Found")


class Configuration(Protocol):
    """Trust material: our own instance's name and the shared parameters of every known instance."""

    @property
    def instance(self) -> str: ...

    @property
    def shared(self) -> Mapping[str, SharedParameters]: ...


class MissingTrustError(UnavailableError):
    """What would decide this step is not at hand; neither valid nor invalid."""

    kind = "verify.no_configuration"


class NoStampError(UnverifiedError):
    """No time stamp: nothing says when the seal was made."""

    kind = "seal.no_stamp"


class StampChainError(UnverifiedError):
    """The stamped hash chain does not lead to this signature document."""

    kind = "seal.stamp_chain"


class TsaUnknownError(UnverifiedError):
    """Stamped by an authority that is not in the global configuration."""

    kind = "seal.tsa_not_approved"


class FileMissingError(UnverifiedError):
    """The signature covers a file that the container does not hold."""

    kind = "seal.reference_missing"


class UncoveredAttachmentError(UnverifiedError):
    """An attachment lies in the container that the signature does not cover (X-Road lets this pass)."""

    kind = "seal.uncovered_part"


class _Skip(Exception):
    """The step does not apply to this container."""


def verify_container(
    data: bytes, configuration: Configuration | None, at_us: int | None = None, *, evidence_gap_rule: bool = True
) -> Report:
    """Judges a container. Never raises for what is inside it.

    `configuration`: None leaves the steps that need trust undecided. `at_us`: judge certificate and confirmation at this moment instead of
    the stamp's. `evidence_gap_rule`: False for instances whose protocol does not have the rule.
    """
    return _Check(data, configuration, at_us, evidence_gap_rule).run()


class _Check:
    """The steps share what earlier ones found; each either returns facts or raises."""

    def __init__(self, data: bytes, configuration: Configuration | None, at_us: int | None, evidence_gap_rule: bool) -> None:
        self._data = data
        self._configuration = configuration
        self._moment_us = at_us
        self._given_moment = at_us is not None
        self._evidence_gap_rule = evidence_gap_rule
        self._container: Container | None = None
        self._sender: ClientId | None = None
        self._signature: Signature | None = None
        self._certificate: x509.Certificate | None = None
        self._issuer: CaCertificate | None = None
        self._stamp: StampFacts | None = None
        self._ocsp: OcspFacts | None = None
        self._covered: dict[str, Digest] = {}
        self._confirmed: set[str] = set()
        self._digests: dict[tuple[str, str], bytes] = {}

    def run(self) -> Report:
        steps: list[Step] = []
        for number, (name, step) in enumerate(self._steps()):
            if any(done.verdict == report.FAILED for done in steps):
                steps.append(Step(number, name, report.NOT_REACHED))
            else:
                steps.append(_carried_out(number, name, step))
        decisive = next((step for step in steps if step.verdict == report.FAILED), None)
        verdict = report.INVALID if decisive else report.VALID
        if decisive is None and (decisive := next((step for step in steps if step.verdict == report.UNDECIDED), None)):
            verdict = report.UNDECIDABLE
        reason, code = (decisive.reason, decisive.xroad_code) if decisive else (None, None)
        return Report(verdict, reason, code, tuple(steps), self._attachments())

    def _steps(self) -> list[tuple[str, Callable[[], dict[str, str]]]]:
        return [
            ("container", self._read),
            ("sender", self._read_sender),
            ("signature_form", self._read_signature),
            ("stamp", self._check_stamp),
            ("chain", self._check_chain),
            ("signature", self._check_signature),
            ("signer", self._check_signer),
            ("path", self._check_path),
            ("ocsp", self._check_ocsp),
            ("coverage", self._check_coverage),
            ("evidence_gap", self._check_evidence_gap),
        ]

    def _read(self) -> dict[str, str]:
        self._container = read_container(self._data)
        return {"bytes": str(len(self._data)), "attachments": str(len(self._container.attachments))}

    def _read_sender(self) -> dict[str, str]:
        self._sender = sender_of(_there(self._container).message)
        return {"sender": str(self._sender)}

    def _read_signature(self) -> dict[str, str]:
        self._signature = parse(_there(self._container).signature)
        if not {MESSAGE, CHAIN_RESULT} & self._signature.references.keys():
            raise SignatureMalformedError("the signature covers neither the message nor a hash chain result")
        return {"references": " ".join(self._signature.references), "claimed_time": self._signature.signing_time}

    def _check_stamp(self) -> dict[str, str]:
        token, stamped = self._token()
        tsas = self._tsas()
        try:
            # the stamp covers this very signature, not another one, and an approved authority made it
            self._stamp = check_token(token, stamped, tsas)
        except TsaNotApprovedError as error:
            raise TsaUnknownError(str(error)) from None
        if not self._given_moment:
            self._moment_us = self._stamp.gen_time_us
        return {"stamped_at": iso(self._stamp.gen_time_us), "authority": self._stamp.authority}

    def _token(self) -> tuple[bytes, bytes]:
        """The token and what it must cover: a batch's result document, or this signature's value."""
        container, signature = _there(self._container), _there(self._signature)
        if container.stamp_token is None:
            if not signature.stamps:
                raise NoStampError("no time stamp")
            return signature.stamps[0], signature.value
        if container.stamp_chain_result is None or container.stamp_chain is None:
            raise NoStampError("a time stamp of a batch without its hash chain")
        try:
            result = parse_result(container.stamp_chain_result)
            check_chain(result, {STAMP_CHAIN: container.stamp_chain}, {SIGNATURES: File.of(container.signature)})
        except UnverifiedError as error:
            raise StampChainError(str(error)) from None
        return container.stamp_token, container.stamp_chain_result

    def _check_chain(self) -> dict[str, str]:
        container, expected = _there(self._container), _there(self._signature).references.get(CHAIN_RESULT)
        if expected is None:
            raise _Skip
        if container.chain_result is None or container.chain is None:
            raise FileMissingError("the signature covers a hash chain that the container does not hold")
        result: ChainResult = parse_result(container.chain_result)
        inputs: dict[str, Input] = {MESSAGE: File.of(container.message)}
        inputs |= {name: File(partial(self._attachment_digest, name)) for name in container.attachments}
        stated = check_chain(result, {CHAIN: container.chain}, inputs)
        self._confirmed |= inputs.keys()
        self._covered |= stated
        check_digest("the hash chain result", container.chain_result, expected)
        return {"covered": " ".join(sorted({*inputs, *stated}))}

    def _check_signature(self) -> dict[str, str]:
        signature = _there(self._signature)
        self._certificate = signing_certificate(signature)
        for name, expected in signature.references.items():
            self._check_reference(name, expected)
        check_value(signature, self._certificate)
        return {"method": signature.method.rpartition("#")[2], "subject": self._certificate.subject.rfc4514_string()}

    def _check_reference(self, name: str, expected: Digest) -> None:
        container = _there(self._container)
        if name == CHAIN_RESULT:
            return  # step 4 did
        if name == MESSAGE:
            check_digest(name, container.message, expected)
        elif name in container.attachments:
            if self._attachment_digest(name, expected.algorithm) != expected.value:
                raise WrongDigestError(f"{name} has another digest than the signed one")
        else:
            raise FileMissingError(f"the signature covers {name}, which the container does not hold")
        self._confirmed.add(name)

    def _check_signer(self) -> dict[str, str]:
        member = check_member(_there(self._certificate), _there(self._sender), self._sender_instance())
        return {"member": str(member)}

    def _check_path(self) -> dict[str, str]:
        self._issuer = check_certificate_path(_there(self._certificate), self._sender_instance(), self._moment())
        return {"issuer": self._issuer.certificate.subject.rfc4514_string()}

    def _check_ocsp(self) -> dict[str, str]:
        shared, issuer = self._sender_instance(), self._issuer
        if issuer is None:
            raise MissingTrustError("the issuer was not decided", kind="verify.no_moment")
        self._ocsp = check_status(_there(self._signature), _there(self._certificate), issuer, shared, self._moment())
        return {"produced_at": iso(self._ocsp.produced_at_us), "this_update": iso(self._ocsp.this_update_us)}

    def _check_coverage(self) -> dict[str, str]:
        container = _there(self._container)
        for name in (MESSAGE, *container.attachments):
            if name not in self._confirmed:
                raise UncoveredAttachmentError(f"{name} is not covered by the signature")
        return {"covered": str(len(container.attachments)), "not_stored": str(len(self._covered))}

    def _check_evidence_gap(self) -> dict[str, str]:
        if not self._evidence_gap_rule:
            raise _Skip
        if self._ocsp is None or self._stamp is None:
            raise MissingTrustError("confirmation or time stamp were not decided", kind="verify.no_moment")
        facts = (self._ocsp.produced_at_us, self._ocsp.this_update_us, self._stamp.gen_time_us, self._stamp.accuracy_us)
        check_evidence_gap(*facts)
        return {"gap_s": f"{evidence_gap_us(*facts) / 1e6:.3f}"}

    def _tsas(self) -> list[ApprovedTsa]:
        """Of every known instance (sheet 4.8)."""
        if self._configuration is None:
            raise MissingTrustError("no configuration was given")
        tsas = [tsa for shared in self._configuration.shared.values() for tsa in shared.tsas]
        if not tsas:
            raise MissingTrustError("no time-stamping authority was given", kind="verify.no_tsa")
        return tsas

    def _sender_instance(self) -> SharedParameters:
        """The sender's instance, judged with our own instance's freshness (sheet 5.4)."""
        if self._configuration is None:
            raise MissingTrustError("no configuration was given")
        instance = _there(self._sender).instance
        known = self._configuration.shared
        shared = known.get(instance)
        if shared is None:
            raise MissingTrustError(f"no configuration of the instance {instance}", kind="verify.unknown_instance")
        if not shared.cas:
            raise MissingTrustError("no certification authority was given", kind="verify.no_ca")
        own = known.get(self._configuration.instance)
        return shared if own is None or own is shared else replace(shared, ocsp_freshness_s=own.ocsp_freshness_s)

    def _moment(self) -> int:
        if self._moment_us is None:
            raise MissingTrustError("the moment of sealing was not decided", kind="verify.no_moment")
        return self._moment_us

    def _attachments(self) -> tuple[Attachment, ...]:
        """Stored ones first, verified or not; then those of which only the digest is covered."""
        stored = self._container.attachments if self._container else {}
        found = [Attachment(name, True, name in self._confirmed, self._digests.get((name, SHA512), b"").hex()) for name in stored]
        covered = [(name, digest) for name, digest in sorted(self._covered.items()) if name not in stored]
        return (*found, *(Attachment(name, False, False, digest.value.hex()) for name, digest in covered))

    def _attachment_digest(self, name: str, algorithm: str) -> bytes:
        """Inflated once, though chain and references may both ask."""
        if (name, algorithm) not in self._digests:
            self._digests[name, algorithm] = _there(self._container).digest(name, algorithm).value
        return self._digests[name, algorithm]


def _carried_out(number: int, name: str, step: Callable[[], dict[str, str]]) -> Step:
    try:
        facts = step()
    except _Skip:
        return Step(number, name, report.SKIPPED)
    except MissingTrustError as error:
        return Step(number, name, report.UNDECIDED, error.kind, None, str(error))
    except UnverifiedError as error:
        return Step(number, name, report.FAILED, error.kind, xroad_code(error.kind), str(error))
    return Step(number, name, report.PASSED, facts=facts)


def _there(value: _Found | None) -> _Found:
    """What an earlier step left here; the steps run in order, so its absence is a bug."""
    if value is None:
        raise RuntimeError("a step ran before the one that it rests on")
    return value
