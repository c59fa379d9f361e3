"""Checking a received hash chain: does the signed result cover exactly these parts.

Pure. Sheet 4.4, 4.7. The document is checked against X-Road's schema by hand (violations are `seal.chain_malformed`), references are
followed with memory of what was visited (a circle or a tower is refused, a shared step is computed once), and a digest that we computed
ourselves always takes the place of the one that the chain states.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from lxml import etree

from appliance.errors import UnverifiedError
from appliance.model.xml_input import XmlRefusedError, decoded_base64, parse_known, parse_xml
from appliance.seal.hash_chain import CHAIN, FIRST_STEP, SHA512, Ways, digest_list_of, result_value
from appliance.seal.strict_form import has_chain_form

CHAIN_BYTES_MAX = 256 * 1024
"""A batch of a million messages needs 20 steps of 300 bytes; a message with 1,000 attachments some 150 KiB."""
STEPS_MAX = 64
VALUES_MAX = 2048
"""References and values in one chain."""
_HC, _DS = "{http://cyber.ee/hashchain}", "{http://www.w3.org/2000/09/xmldsig#}"
ALGORITHMS = {
    SHA512: "sha512",
    "http://www.w3.org/2001/04/xmlenc#sha256": "sha256",
    "http://www.w3.org/2001/04/xmldsig-more#sha384": "sha384",
}
"""Digest algorithms that we read; SHA-1 and MD5 are not among them. We write SHA-512."""
_OUR_RESULT = (CHAIN, FIRST_STEP, SHA512)
_KINDS = {_HC + kind: kind for kind in ("HashValue", "StepRef", "DataRef")}
_CANONICAL = {
    "http://www.w3.org/TR/2001/REC-xml-c14n-20010315": False,
    "http://www.w3.org/2001/10/xml-exc-c14n#": True,
}


class ChainMalformedError(UnverifiedError):
    """Not a hash chain document: schema, unknown algorithm, circle of steps, too many steps."""

    kind = "seal.chain_malformed"


class ChainResultError(UnverifiedError):
    """The chain does not lead to the signed result."""

    kind = "seal.chain_result"


class ChainReferenceError(UnverifiedError):
    """The chain names this file with another digest."""

    kind = "seal.chain_reference"


class ChainUnusedInputError(UnverifiedError):
    """A part of the message is not in the chain: nothing says that it was sealed."""

    kind = "seal.chain_unused_input"


class ChainUnknownReferenceError(UnverifiedError):
    """The chain covers a part that did not come."""

    kind = "seal.chain_unknown_reference"


class Digest(NamedTuple):
    """A digest with the URI of its algorithm."""

    value: bytes
    algorithm: str = SHA512


@dataclass(frozen=True, slots=True)
class File:
    """A file at hand: compared under whatever algorithm the chain names. `data`: only where canonicalisation is to be followed."""

    digest: Callable[[str], bytes]
    data: bytes | None = None

    @classmethod
    def of(cls, data: bytes) -> File:
        """A file whose bytes are in memory."""
        return cls(lambda algorithm: digest_of(algorithm, data), data)


@dataclass(frozen=True, slots=True)
class ChainResult:
    """A parsed HashChainResult: where the chain starts, and its signed value."""

    file: str
    step: str
    digest: Digest


class _Value(NamedTuple):
    """One entry of a step. `kind`: HashValue, StepRef or DataRef."""

    kind: str
    uri: str
    digest: Digest | None
    transforms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Chain:
    algorithm: str
    steps: dict[str, list[_Value]]


Input = Digest | File


def verify_chain(result: bytes, chain: bytes, inputs: Mapping[str, bytes]) -> None:
    """Checks that the signed `result` covers exactly `inputs` (file name -> our SHA-512 digest).

    Our digests replace the chain's. Raises ChainMalformedError, ChainResultError, ChainUnusedInputError, ChainUnknownReferenceError.
    """
    check_chain_parts(parse_result(result), chain, inputs)


def check_chain_parts(result: ChainResult, chain: bytes, inputs: Mapping[str, bytes], ways: Ways | None = None) -> None:
    """`verify_chain` for a result that was parsed before: once for all messages of a batch. `ways`: what is remembered of its chains."""
    if (result.file, result.step, result.digest.algorithm) == _OUR_RESULT and (ways or Ways(result.digest.value)).leads(chain, inputs):
        return
    digests = {name: Digest(value) for name, value in inputs.items()}
    if unknown := check_chain(result, {CHAIN: chain}, digests, as_written=True):
        raise ChainUnknownReferenceError(f"the chain covers {sorted(unknown)[0]}, which did not come")


def check_chain(
    result: ChainResult, chains: Mapping[str, bytes], inputs: Mapping[str, Input], *, as_written: bool = False
) -> dict[str, Digest]:
    """Checks that `result` covers all `inputs`; returns the files that it covers besides, with the digests that the chain states.

    `as_written`: what is not signed must be as it was written, too: the form (`strict_form`), every step in use, every stated digest ours.

    `chains`: the chain documents by file name. Raises ChainMalformedError, ChainResultError, ChainReferenceError, ChainUnusedInputError.
    """
    walk = _Walk(chains, inputs)
    value = walk.step_value(result.file, result.step, result.digest.algorithm)
    if unused := inputs.keys() - walk.used:
        raise ChainUnusedInputError(f"{sorted(unused)[0]} is not covered by the hash chain")
    if value != result.digest.value:
        raise ChainResultError("the hash chain does not lead to the signed result")
    if as_written and walk.misnamed:
        raise ChainReferenceError("the hash chain names a part with another digest")
    if as_written and not (walk.uses_every_step() and all(has_chain_form(one) for one in chains.values())):
        raise ChainMalformedError("not written as a security server writes it")
    return walk.stated


def parse_result(data: bytes) -> ChainResult:
    """A HashChainResult document. Raises ChainMalformedError."""
    if (value := result_value(data)) is not None:
        return ChainResult(CHAIN, FIRST_STEP, Digest(value))
    root = _parse(data, "HashChainResult")
    children = list(root)
    if [child.tag for child in children] != [_DS + "DigestMethod", _DS + "DigestValue"]:
        raise ChainMalformedError("a HashChainResult has DigestMethod and DigestValue")
    file, _, step = (root.get("URI") or "").partition("#")
    if not file or not step:
        raise ChainMalformedError("a HashChainResult names a file and a step")
    return ChainResult(file, step, Digest(_digest_value(children[1]), _algorithm(children[0])))


class _Walk:
    """Follows references from one step downwards. Each step is computed once; a step that needs itself is refused."""

    def __init__(self, chains: Mapping[str, bytes], inputs: Mapping[str, Input]) -> None:
        self._documents = chains
        self._inputs = inputs
        self._parsed: dict[str, _Chain] = {}
        self._values: dict[tuple[str, str, str], bytes] = {}
        self._under_way: set[tuple[str, str]] = set()
        self.used: set[str] = set()
        self.misnamed = False
        """The chain states another digest of a part than ours, which counts."""
        self.stated: dict[str, Digest] = {}

    def step_value(self, file: str, step: str, algorithm: str) -> bytes:
        """H(DigestList of the step's values); H is the algorithm of who refers to it."""
        known = self._values.get((file, step, algorithm))
        if known is not None:
            return known
        chain = self._chain(file)
        values = chain.steps.get(step)
        if values is None:
            raise ChainMalformedError(f"no step {step!r} in {file!r}")
        if (file, step) in self._under_way or len(self._under_way) >= STEPS_MAX:
            raise ChainMalformedError("the steps of the hash chain run in a circle, or too deep")
        self._under_way.add((file, step))
        digests = [self._digest(file, chain, value) for value in values]
        self._under_way.remove((file, step))
        computed = digest_of(algorithm, digest_list_of([(digest.algorithm, digest.value) for digest in digests]))
        self._values[file, step, algorithm] = computed
        return computed

    def _digest(self, file: str, chain: _Chain, value: _Value) -> Digest:
        if value.kind == "StepRef":
            target, _, step = value.uri.partition("#")
            return Digest(self.step_value(target or file, step, chain.algorithm), chain.algorithm)
        if value.digest is None:
            raise ChainMalformedError("a value without a digest")
        if value.kind == "HashValue":
            return value.digest
        given = self._inputs.get(value.uri)
        if given is None:
            self.stated[value.uri] = value.digest
            return value.digest
        self.used.add(value.uri)
        if isinstance(given, Digest):
            if value.transforms:
                raise ChainMalformedError("a part is covered as it is, not canonicalised")
            self.misnamed |= given != value.digest
            return given
        if _file_digest(given, value.digest, value.transforms) != value.digest.value:
            raise ChainReferenceError(f"the hash chain names {value.uri} with another digest")
        return value.digest

    def uses_every_step(self) -> bool:
        return {(file, step) for file, chain in self._parsed.items() for step in chain.steps} == {key[:2] for key in self._values}

    def _chain(self, file: str) -> _Chain:
        if file not in self._parsed:
            if file not in self._documents:
                raise ChainMalformedError(f"no hash chain {file!r}")
            self._parsed[file] = _parse_chain(self._documents[file])
        return self._parsed[file]


def _parse_chain(data: bytes) -> _Chain:
    root = _parse(data, "HashChain")
    children = list(root)
    if not children or children[0].tag != _HC + "DefaultDigestMethod":
        raise ChainMalformedError("a HashChain begins with its DefaultDigestMethod")
    algorithm = _algorithm(children[0])
    steps: dict[str, list[_Value]] = {}
    count = 0
    for step in children[1:]:
        name = step.get("id")
        if step.tag != _HC + "HashStep" or not name or name in steps:
            raise ChainMalformedError("a HashChain consists of HashSteps with an id of their own")
        steps[name] = [_parse_value(value, algorithm) for value in step]
        count += len(steps[name])
        if len(steps) > STEPS_MAX or count > VALUES_MAX:
            raise ChainMalformedError(f"more than {STEPS_MAX} steps or {VALUES_MAX} values")
    return _Chain(algorithm, steps)


def _parse_value(element: etree._Element, algorithm: str) -> _Value:
    kind, uri, children = _KINDS.get(element.tag), element.get("URI", ""), list(element)
    if kind is None:
        raise ChainMalformedError(f"{element.tag} in a HashStep")
    if kind == "StepRef":
        if children or "#" not in uri:
            raise ChainMalformedError("a StepRef names a step and nothing else")
        return _Value(kind, uri, None)
    if children and children[0].tag == _DS + "DigestMethod":
        algorithm = _algorithm(children.pop(0))
    transforms: tuple[str, ...] = ()
    if children and children[0].tag == _DS + "Transforms":
        transforms = tuple(transform.get("Algorithm", "") for transform in children.pop(0))
    if len(children) != 1 or children[0].tag != _DS + "DigestValue" or (kind == "DataRef") != bool(uri):
        raise ChainMalformedError(f"a {kind} has a digest and nothing else")
    return _Value(kind, uri, Digest(_digest_value(children[0]), algorithm), transforms)


def _parse(data: bytes, name: str) -> etree._Element:
    try:
        root = parse_known(data, bytes_max=CHAIN_BYTES_MAX)
    except XmlRefusedError as error:
        raise ChainMalformedError(str(error)) from None
    if root.tag != _HC + name:
        raise ChainMalformedError(f"not a {name}")
    return root


def _algorithm(element: etree._Element) -> str:
    algorithm = element.get("Algorithm", "")
    if algorithm not in ALGORITHMS:
        raise ChainMalformedError(f"digest algorithm {algorithm!r}")
    return algorithm


def _digest_value(element: etree._Element) -> bytes:
    if len(element):
        raise ChainMalformedError("a DigestValue with children")
    try:
        return decoded_base64(element.text or "")
    except ValueError:
        raise ChainMalformedError("a DigestValue that is not base64") from None


def digest_of(algorithm: str, data: bytes) -> bytes:
    """The digest under one of ALGORITHMS."""
    return hashlib.new(ALGORITHMS[algorithm], data).digest()


def _file_digest(file: File, digest: Digest, transforms: tuple[str, ...]) -> bytes:
    """The file's digest as the reference says: under its algorithm, after its canonicalisation."""
    if not transforms:
        return file.digest(digest.algorithm)
    data = file.data
    for transform in transforms:
        if transform not in _CANONICAL or data is None:
            raise ChainMalformedError(f"transform {transform!r}")
        try:
            root = parse_xml(data, bytes_max=CHAIN_BYTES_MAX)
            data = etree.tostring(root.getroottree(), method="c14n", exclusive=_CANONICAL[transform], with_comments=False)
        except (XmlRefusedError, etree.C14NError) as error:
            raise ChainMalformedError(str(error)) from None
    return digest_of(digest.algorithm, data or b"")
