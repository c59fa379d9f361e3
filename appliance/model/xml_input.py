"""XML from strangers, parsed without a way out: no DTD, no entities, no network, bounded size, depth and number of nodes.

Pure. Comments are dropped while parsing, as X-Road does, so that text is read as it is canonicalised ("12<!-- -->34" is one text for both).
The encoding is UTF-8 whatever the document declares: a byte scan and the parser then always see the same characters.
"""

from __future__ import annotations

import re
from base64 import b64decode

from lxml import etree

from appliance.errors import PeerProtocolError

DEPTH_MAX = 64
"""X-Road's deepest signature is 12 levels; libxml2's own stop is 256."""
ELEMENTS_MAX = 20_000
"""A chain of a batch of 1,000 messages with attachments has fewer than 200 elements."""
_BOM = b"\xef\xbb\xbf"
_SPACE = re.compile(rb"[ \t\r\n]*")


class XmlRefusedError(PeerProtocolError):
    """Not well-formed, or more than we read: DTD, processing instruction, too big, too deep, too many elements."""

    kind = "xml.refused"


def parse_xml(data: bytes, *, bytes_max: int, depth_max: int = DEPTH_MAX) -> etree._Element:
    """The root element of `data`, all of it walked over once. Raises XmlRefusedError."""
    root = parse_known(data, bytes_max=bytes_max, instructions=True)
    _check_nodes(root, depth_max)
    return root


def parse_known(data: bytes, *, bytes_max: int, instructions: bool = False) -> etree._Element:
    """For documents whose caller looks at every element and bounds their number itself. Raises XmlRefusedError.

    `instructions`: keep processing instructions; only for what is canonicalised, where they would count.
    """
    if len(data) > bytes_max:
        raise XmlRefusedError(f"XML of {len(data)} bytes, at most {bytes_max}")
    _refuse_doctype(data)
    # A parser is made for each document: libxml2's dictionary of names would grow with what peers send.
    parser = etree.XMLParser(
        encoding="utf-8",
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        dtd_validation=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=not instructions,
    )
    try:
        root = etree.fromstring(data, parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise XmlRefusedError(f"not well-formed: {error}") from None
    if root.getroottree().docinfo.internalDTD is not None:
        raise XmlRefusedError("a document type declaration")
    return root


def local_name(element: etree._Element) -> str:
    """The tag without its namespace."""
    return element.tag.rpartition("}")[2]


def decoded_base64(text: str) -> bytes:
    """Base64 in a document: white space anywhere, padding where it belongs. Raises ValueError.

    Python's decoder alone lets more padding pass, and not the same in every version; two readers must not differ about what was sealed.
    """
    packed = "".join(text.split())
    if len(packed) % 4:
        raise ValueError("base64 whose length is not a multiple of four")
    return b64decode(packed, validate=True)


def _refuse_doctype(data: bytes) -> None:
    """Stops a DTD before libxml2 reads one byte of it: walks over declaration, comments and instructions to the first element."""
    at = len(_BOM) if data.startswith(_BOM) else 0
    while True:
        at = _skip_space(data, at)
        if data.startswith(b"<!DOCTYPE", at):
            raise XmlRefusedError("a document type declaration")
        end = b"-->" if data.startswith(b"<!--", at) else b"?>" if data.startswith(b"<?", at) else None
        if end is None:
            return
        closed = data.find(end, at)
        if closed < 0:
            raise XmlRefusedError("not well-formed: the prologue does not end")
        at = closed + len(end)


def _skip_space(data: bytes, at: int) -> int:
    found = _SPACE.match(data, at)
    return found.end() if found else at


def _check_nodes(root: etree._Element, depth_max: int) -> None:
    """Depth and count, without recursion."""
    depth = count = 0
    for event, node in etree.iterwalk(root, events=("start", "end", "pi")):
        if event == "end":
            depth -= 1
            continue
        if event == "pi":
            raise XmlRefusedError("a processing instruction")
        depth, count = depth + 1, count + 1
        if not isinstance(node.tag, str):
            raise XmlRefusedError("an entity")
        if depth > depth_max or count > ELEMENTS_MAX:
            raise XmlRefusedError(f"more than {depth_max} levels or {ELEMENTS_MAX} elements")
