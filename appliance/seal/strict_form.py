"""Is a received document written the way a security server writes it, byte for byte where nobody signed the bytes.

Pure. T04. A seal leaves bytes unsigned: layout, attributes and Ids outside SignedInfo and SignedProperties, the digests that a chain states
of parts that we digest ourselves. Changing them changes nothing that is believed, but a message of which somebody changed a byte is no
message that somebody sent. So, on the wire, a document must be what a serialiser makes of its own tree (no blanks in tags, one style of
quotes and of empty elements, no comments, no CDATA), with one of the layouts that X-Road, the DSS library and we write, known
attributes with known values, and base64 as an encoder writes it. Containers, which may be of any age, are read more leniently.
"""

from __future__ import annotations

import re
from base64 import b64encode
from binascii import Error, a2b_base64

from lxml import etree

from appliance.model.xml_input import parse_known

_DS, _XADES = "{http://www.w3.org/2000/09/xmldsig#}", "{http://uri.etsi.org/01903/v1.3.2#}"
_SIGNATURE_DECLARATION, _CHAIN_DECLARATION = (
    re.compile(rb'<\?xml version="1\.0" encoding="(?:UTF-8|utf-8)"(?: standalone="%b")?\?>' % word) for word in (b"no", b"yes")
)
"""Java's serialiser says `no` of a signature, JAXB `yes` of a chain; others neither."""
_LINE = 76
"""Of base64 with line breaks: RFC 2045, as Java's encoder."""
_BASE64 = frozenset(
    [_DS + name for name in ("DigestValue", "SignatureValue", "X509Certificate")]
    + [_XADES + name for name in ("EncapsulatedX509Certificate", "EncapsulatedOCSPValue", "EncapsulatedTimeStamp")]
)
_TEXTS = frozenset((_DS + "X509IssuerName", _DS + "X509SerialNumber"))
"""Of certificates that are named besides the signing one; nobody reads them (sheet 12)."""
_SIGNED = frozenset((_DS + "SignedInfo", _XADES + "SignedProperties"))
"""Their canonical form is signed: nothing in them can change but how it is written, which `is_serialised` sees."""
_ATTRIBUTES = {
    _DS + "Signature": {"Id": "signature"},
    _DS + "SignatureValue": {"Id": "signature-value"},
    _XADES + "QualifyingProperties": {"Target": "#signature"},
    _XADES + "CompleteCertificateRefs": {"Id": "complete-certificate-refs"},
    _XADES + "Cert": {"URI": r"#encapsulated-cert-\d{1,2}"},
    _XADES + "EncapsulatedX509Certificate": {"Id": r"encapsulated-cert-\d{1,2}"},
    _XADES + "EncapsulatedOCSPValue": {"Id": r"ocsp-response-\d{1,2}"},
    _DS + "DigestMethod": {"Algorithm": r"http://[ -~]+"},
}
"""Of the unsigned elements in X-Road's form: each has these attributes and no others."""


_NUMBERED = {_XADES + "EncapsulatedOCSPValue": "ocsp-response", _XADES + "EncapsulatedX509Certificate": "encapsulated-cert"}


def is_serialised(document: bytes, root: etree._Element, declaration: re.Pattern[bytes], line_end: bytes = b"") -> bool:
    """Whether a serialiser writes these bytes for this tree: a plain declaration, `line_end`, the tree with empty elements in one of two
    styles, `line_end`.
    """
    declared = declaration.match(document)
    if declared is None or not document.startswith(line_end, declared.end()) or not document.endswith(b">" + line_end):
        return False
    written = document[declared.end() + len(line_end) : len(document) - len(line_end)]
    if etree.tostring(root, encoding="utf-8") == written:
        return True
    for element in root.iter():
        if element.text is None and not len(element):
            element.text = ""
    return etree.tostring(root, encoding="utf-8") == written


def wrong_in_signature(document: bytes) -> str:
    """What in a signature document that was read is not as a security server writes it; empty: nothing."""
    root = parse_known(document, bytes_max=len(document), instructions=True)
    if not is_serialised(document, root, _SIGNATURE_DECLARATION):
        return "not written as a serialiser writes it"
    own_form = root.tag != _DS + "Signature"  # a bare Signature is the DSS library's, with Ids of its own
    signature = root[0] if own_form else root
    layouts: set[str] = set()
    for element in _unsigned(signature):
        name, gaps = element.tag.rpartition("}")[2], {element.text or "", *(child.tail or "" for child in element)}
        if own_form and not _has_attributes(element):
            return f"attributes of {name}"
        if element.tag in _BASE64:
            if not _is_base64(element):
                return f"{name} is not written as base64 is"
        elif not len(element):
            if element.text and own_form and element.tag not in _TEXTS:
                return f"text in {name}"
        elif element.tag.startswith(_DS) and element.tag != _DS + "Object":
            layouts |= gaps
        elif gaps != {""}:
            return f"blanks in {name}"
    # (1) Java's XML security writes a line end around each of its elements, we none: never both, and never anything else
    if len(layouts) > 1 or not layouts <= {"", "\n"}:
        return "blanks between the elements"
    if own_form and ((root.text or "") not in ("", "\n") or signature.tail):
        return "blanks around the Signature"
    # (2) counted from 1 as by X-Road and us; the recipe of the sheet, compact with short empty elements, counts from 0
    first = 1 if layouts == {"\n"} or b"/>" not in document else 0
    if own_form and not all(_is_numbered(signature, tag, name, first) for tag, name in _NUMBERED.items()):
        return "evidence is not numbered as it comes"
    return ""


def _is_numbered(signature: etree._Element, tag: str, name: str, first: int) -> bool:
    return all(element.get("Id") == f"{name}-{number}" for number, element in enumerate(signature.iter(tag), first))


def has_chain_form(document: bytes) -> bool:
    """For a hash chain that was read: as a serialiser writes it, without attributes too many, spread as JAXB does (a line for each element,
    four blanks for each level) or not at all, as ours.
    """
    root = parse_known(document, bytes_max=len(document), instructions=True)
    spread = bool(root.text)
    if not is_serialised(document, root, _CHAIN_DECLARATION, b"\n" if spread else b""):
        return False
    for element in root.iter():
        if len(element.attrib) > 1:
            return False
        if len(element) and not _is_laid_out(element, spread):
            return False
        if element.tag in _BASE64 and not _is_base64(element):
            return False
    return True


def _is_laid_out(element: etree._Element, spread: bool) -> bool:
    depth = sum(1 for _ in element.iterancestors())
    inner = "\n" + "    " * (depth + 1) if spread else ""
    last = "\n" + "    " * depth if spread else ""
    *tails, end = [child.tail or "" for child in element]
    return (element.text or "") == inner and all(tail == inner for tail in tails) and end == last


def _unsigned(signature: etree._Element) -> list[etree._Element]:
    """Everything whose bytes the signature does not cover, in the document's order."""
    found: list[etree._Element] = []
    waiting = [signature]
    while waiting:
        element = waiting.pop()
        found.append(element)
        waiting += [child for child in reversed(element) if child.tag not in _SIGNED]
    return found


def _has_attributes(element: etree._Element) -> bool:
    wanted = _ATTRIBUTES.get(element.tag, {})
    return set(element.attrib) == wanted.keys() and all(re.fullmatch(pattern, element.get(name, "")) for name, pattern in wanted.items())


def _is_base64(element: etree._Element) -> bool:
    text = element.text or ""
    return text in _encodings("".join(text.split()))


def _encodings(plain: str) -> set[str]:
    """How encoders write these bytes: on one line or in lines of 76, with LF or CRLF (in XML a reference), with or without ends around."""
    try:
        encoded = b64encode(a2b_base64(plain)).decode()
    except (Error, ValueError):
        return set()
    if encoded != plain:
        return set()  # bits that no encoder leaves set
    lines = [encoded[at : at + _LINE] for at in range(0, len(encoded), _LINE)]
    wrapped = {end.join(lines) for end in ("\n", "\r\n")}
    return {encoded} | wrapped | {f"\n{one}\n" for one in (encoded, *wrapped)}
