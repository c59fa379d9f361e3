"""Digest lists, the batch's tree and the hash chain documents that X-Road sends beside a signature.

Pure. Sheet 4.4 and 4.5: a digest list is DER and is hashed, never sent; a batch is a binary tree over its messages in which an odd last
node moves up unchanged; each message gets the steps from the root (STEP0) down to its own parts. Building is on the way of every message:
constant DER headers and string templates, no parser. Checking received chains is `appliance.seal.chain_check`; for documents of the very
form that is written here `leads_to` and `result_value` do the same without an XML parser. They only ever say yes: whatever is not of that
form, or does not hold, is left to `chain_check`, which finds the error's name.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from binascii import a2b_base64, b2a_base64
from collections.abc import Mapping, Sequence

SHA512 = "http://www.w3.org/2001/04/xmlenc#sha512"
MESSAGE = "/message.xml"
CHAIN_RESULT = "/sig-hashchainresult.xml"
CHAIN = "/sig-hashchain.xml"
FIRST_STEP = "STEP0"
STAMP_CHAIN_RESULT = "/ts-hashchainresult.xml"
STAMP_CHAIN = "/ts-hashchain.xml"
SIGNATURES = "/META-INF/signatures.xml"

Part = tuple[str, bytes]
"""A file name as references write it (`/message.xml`, `/attachment1`) and its SHA-512 digest."""

_ALGORITHM_DER = b"\x0c\x27" + SHA512.encode() + b"\x30\x00"
_SINGLE_HEAD = b"\x30\x6d\x04\x40"
_PAIR_HEAD = b"\x30\x81\xde" + _SINGLE_HEAD
_PAIR_MIDDLE = _ALGORITHM_DER + _SINGLE_HEAD

_NAMESPACES = 'xmlns="http://www.w3.org/2000/09/xmldsig#" xmlns:ns2="http://cyber.ee/hashchain"'
_RESULT = (
    '<?xml version="1.0" encoding="UTF-8" standalone="yes"?><ns2:HashChainResult URI="{file}#STEP0" ' + _NAMESPACES + ">"
    '<DigestMethod Algorithm="' + SHA512 + '"/><DigestValue>{digest}</DigestValue></ns2:HashChainResult>'
)
_CHAIN_HEAD = (
    '<?xml version="1.0" encoding="UTF-8" standalone="yes"?><ns2:HashChain ' + _NAMESPACES + ">"
    '<ns2:DefaultDigestMethod Algorithm="' + SHA512 + '"/>'
)
_CHAIN_TAIL = "</ns2:HashChain>"

_DIGEST_TEXT = "([A-Za-z0-9+/]{86}==)"
"""64 bytes in base64, on one line."""
_VALUE = f"<ns2:HashValue><DigestValue>{_DIGEST_TEXT}</DigestValue></ns2:HashValue>"
_NEXT = '<ns2:StepRef URI="#STEP([0-9]{1,2})"/>'
_PART = f'<ns2:DataRef URI="(/message\\.xml|/attachment[1-9][0-9]{{0,3}})"><DigestValue>{_DIGEST_TEXT}</DigestValue></ns2:DataRef>'
_READ_RESULT = re.compile(re.escape(_RESULT).replace("\\{file\\}", re.escape(CHAIN)).replace("\\{digest\\}", _DIGEST_TEXT).encode())
_READ_UPPER = re.compile(f'<ns2:HashStep id="STEP([0-9]{{1,2}})">(?:{_NEXT}{_VALUE}|{_VALUE}{_NEXT})</ns2:HashStep>'.encode())
_READ_LOWEST = re.compile(f'<ns2:HashStep id="STEP([0-9]{{1,2}})">((?:{_VALUE}|{_PART})+)</ns2:HashStep>{_CHAIN_TAIL}'.encode())
_READ_LEAF = re.compile(f"{_VALUE}|{_PART}".encode())
_CHAIN_HEAD_BYTES = _CHAIN_HEAD.encode()
_READ_BYTES_MAX, _READ_STEPS_MAX = 32 * 1024, 32
"""A batch of a billion messages of a hundred parts each stays below; larger chains are read by the parser."""
_REMEMBERED_BYTES_MAX = 4096
"""With some hundred batches at hand (`verify.SIGNATURES_KEPT_MAX`) a MiB."""


def sha512(data: bytes) -> bytes:
    """The digest of everything in a seal (sheet 4.1)."""
    return hashlib.sha512(data).digest()


def digest_list(digests: Sequence[bytes]) -> bytes:
    """DER DigestList of SHA-512 digests (64 bytes each)."""
    return digest_list_of([(SHA512, digest) for digest in digests])


def digest_list_of(digests: Sequence[tuple[str, bytes]]) -> bytes:
    """DER DigestList of (algorithm URI, digest) pairs; `transforms` is always empty (sheet 4.4)."""
    return _der(b"\x30", b"".join([_single(algorithm, digest) for algorithm, digest in digests]))


def parent(left: bytes, right: bytes) -> bytes:
    """The value of two neighbours: H(DigestList(left, right))."""
    return hashlib.sha512(_PAIR_HEAD + left + _PAIR_MIDDLE + right + _ALGORITHM_DER).digest()


def leaf_of(digests: Sequence[bytes]) -> bytes:
    """The leaf of one message: its digest if it has one part, else the value of its parts' list."""
    return digests[0] if len(digests) == 1 else sha512(digest_list(digests))


def tree(leaves: Sequence[bytes]) -> list[list[bytes]]:
    """All levels, leaves first, root alone last. An odd last node moves up unchanged."""
    levels = [list(leaves)]
    while len(level := levels[-1]) > 1:
        above = [parent(level[at], level[at + 1]) for at in range(0, len(level) - 1, 2)]
        if len(level) % 2:
            above.append(level[-1])
        levels.append(above)
    return levels


class Batch:
    """Messages under one signature. `result` is what is signed; `chain(i)` is made when message i is released."""

    def __init__(self, leaves: Sequence[Sequence[Part]], chain_file: str = CHAIN) -> None:
        """At least one message, each with at least one part."""
        self._leaves = leaves
        self._levels = tree([leaf_of([digest for _, digest in parts]) for parts in leaves])
        self._values: dict[bytes, str] = {}
        root = self._levels[-1][0]
        if len(leaves) == 1 and len(leaves[0]) == 1:
            # STEP0 lists the one part: the result is the value of that list, not the part's digest.
            root = sha512(digest_list([root]))
        self.result = _RESULT.format(file=chain_file, digest=b64encode(root).decode()).encode()

    def chain(self, index: int) -> bytes:
        """The HashChain document of message `index`: steps from the root downwards, own side and other side in their order."""
        parts = self._leaves[index]
        references = "".join(_data_reference(name, digest) for name, digest in parts)
        siblings = self._siblings(index)
        written = [_CHAIN_HEAD]
        for step, (on_left, other) in enumerate(siblings):
            is_bottom = step == len(siblings) - 1 and len(parts) == 1
            own = references if is_bottom else f'<ns2:StepRef URI="#STEP{step + 1}"/>'
            pair = own + self._hash_value(other) if on_left else self._hash_value(other) + own
            written.append(f'<ns2:HashStep id="STEP{step}">{pair}</ns2:HashStep>')
        if len(parts) > 1 or not siblings:
            written.append(f'<ns2:HashStep id="STEP{len(siblings)}">{references}</ns2:HashStep>')
        written.append(_CHAIN_TAIL)
        return "".join(written).encode()

    def _siblings(self, index: int) -> list[tuple[bool, bytes]]:
        """(own node is the left one, the other's digest), root first; levels where the own node moved up unchanged are left out."""
        found: list[tuple[bool, bytes]] = []
        for level in self._levels[:-1]:
            other = index ^ 1
            if other < len(level):
                found.append((index < other, level[other]))
            index >>= 1
        found.reverse()
        return found

    def _hash_value(self, digest: bytes) -> str:
        """Nodes near the root stand in many chains: each is written once."""
        written = self._values.get(digest)
        if written is None:
            written = f"<ns2:HashValue><DigestValue>{b64encode(digest).decode()}</DigestValue></ns2:HashValue>"
            self._values[digest] = written
        return written


def build_batch(leaves: Sequence[Sequence[Part]]) -> tuple[bytes, list[bytes]]:
    """HashChainResult of a batch and one HashChain for each message."""
    batch = Batch(leaves)
    return batch.result, [batch.chain(index) for index in range(len(leaves))]


def build_stamp_batch(signature_digests: Sequence[bytes]) -> tuple[bytes, list[bytes]]:
    """The same over whole signature documents (SHA-512 of META-INF/signatures.xml), for one time stamp over many records (sheet 4.8).

    The time stamp covers the bytes of the result.
    """
    batch = Batch([[(SIGNATURES, digest)] for digest in signature_digests], STAMP_CHAIN)
    return batch.result, [batch.chain(index) for index in range(len(signature_digests))]


def result_value(document: bytes) -> bytes | None:
    """The root's value, where the document is a HashChainResult exactly as `Batch` writes it; else None."""
    found = _READ_RESULT.fullmatch(document)
    return None if found is None else a2b_base64(found[1])


def leads_to(value: bytes, chain: bytes, parts: Mapping[str, bytes]) -> bool:
    """Whether `chain` is a document exactly as `Batch.chain` writes it that leads from all of `parts`, and nothing else, to `value`.

    `parts`: file name -> our SHA-512. False says nothing about the chain.
    """
    return Ways(value).leads(chain, parts)


class Ways:
    """`leads_to` for the chains of one batch, which share their upper steps: those that stand in the last chain byte for byte are not read
    and hashed again. What was below them there is known, and is what has to come out of this one's lower steps.

    Invariant: with the last chain's bytes up to `_ends[k]` before them, lower steps that make the value `_nodes[k]` lead to the batch's.
    """

    __slots__ = ("_chain", "_ends", "_nodes")

    def __init__(self, value: bytes) -> None:
        self._chain, self._ends, self._nodes = _CHAIN_HEAD_BYTES, [len(_CHAIN_HEAD_BYTES)], [value]

    def leads(self, chain: bytes, parts: Mapping[str, bytes]) -> bool:
        """As `leads_to`."""
        first = self._shared(chain)
        if len(chain) > _READ_BYTES_MAX or first is None:
            return False
        at, siblings, ends = self._ends[first], list[tuple[bool, bytes]](), list[int]()
        while (upper := _READ_UPPER.match(chain, at)) is not None:
            name, next_after, right, left, next_before = upper.groups()
            depth = first + len(siblings)
            if name != b"%d" % depth or (next_after or next_before) != b"%d" % (depth + 1) or depth >= _READ_STEPS_MAX:
                return False
            other = a2b_base64(left or right)
            if b2a_base64(other, newline=False) != (left or right):
                return False
            siblings.append((left is not None, other))
            at = upper.end()
            ends.append(at)
        node = _lowest(chain, at, first + len(siblings), parts)
        if node is None:
            return False
        nodes = [node]
        for on_left, other in reversed(siblings):
            node = parent(other, node) if on_left else parent(node, other)
            nodes.append(node)
        if node != self._nodes[first]:
            return False
        if len(chain) <= _REMEMBERED_BYTES_MAX:
            self._chain = chain
            self._ends[first + 1 :], self._nodes[first + 1 :] = ends, nodes[-2::-1]
        return True

    def _shared(self, chain: bytes) -> int | None:
        """How many steps are those of the last chain; None where not even the head is ours."""
        for depth in range(len(self._ends) - 1, -1, -1):
            end = self._ends[depth]
            if chain[:end] == self._chain[:end]:
                return depth
        return None


def _lowest(chain: bytes, at: int, depth: int, parts: Mapping[str, bytes]) -> bytes | None:
    """The value of the step with the message's own parts, which is the document's rest. None: not of our form, or not of these parts."""
    lowest = _READ_LOWEST.fullmatch(chain, at)
    if lowest is None or lowest[1] != b"%d" % depth:
        return None
    covered, digests = set[str](), list[bytes]()
    for digest, name, stated in _READ_LEAF.findall(lowest[2]):
        if digest:
            if not is_encoded(digest):
                return None
            digests.append(a2b_base64(digest))
            continue
        part = name.decode()
        if part not in parts or b2a_base64(parts[part], newline=False) != stated:
            return None
        covered.add(part)
        digests.append(parts[part])
    return sha512(digest_list(digests)) if len(covered) == len(parts) else None


def is_encoded(text: bytes) -> bool:
    """Whether this is how an encoder writes the bytes that it stands for: base64 has spare bits at its end that decoders do not look at."""
    return b2a_base64(a2b_base64(text), newline=False) == text


def _data_reference(name: str, digest: bytes) -> str:
    return f'<ns2:DataRef URI="{name}"><DigestValue>{b64encode(digest).decode()}</DigestValue></ns2:DataRef>'


def _single(algorithm: str, digest: bytes) -> bytes:
    if algorithm == SHA512 and len(digest) == 64:
        return _SINGLE_HEAD + digest + _ALGORITHM_DER
    return _der(b"\x30", _der(b"\x04", digest) + _der(b"\x0c", algorithm.encode()) + b"\x30\x00")


def _der(tag: bytes, content: bytes) -> bytes:
    length = len(content)
    if length < 0x80:
        return tag + bytes((length,)) + content
    size = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return tag + bytes((0x80 | len(size),)) + size + content
