"""Makes `verify.html`: the modules of this folder, the catalogue's texts and, if wanted, trust material, in one file that needs no network.

Each module becomes a function of its own that returns what it exports, in an order in which imports stand first; only the forms of import
and export that the modules use are known, anything else is an error. The policy inside the page names the digests of its one script and
its one style and forbids everything else: nothing is loaded, sent, framed, or run that was not built here, and texts cannot become markup.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from appliance.errors import SettingsError
from appliance.seal.codes import CODES
from appliance.texts import TEXTS
from appliance.version import VERSION
from provisioning.verifier.texts import PAGE_TEXTS

HERE = Path(__file__).parent
ENTRY = "page"
EMBEDDED_BYTES_MAX = 64 << 20
"""What the page itself takes as trust material."""
_IMPORT = re.compile(r'^import \{ ([\w, ]+) \} from "\./(\w+)\.js";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export ((?:async )?function\*? |const |class )(\w+)", re.MULTILINE)
_LEFT_OVER = re.compile(r"^\s*(?:import|export)\b", re.MULTILINE)


def build(embedded: Sequence[Path] = ()) -> bytes:
    """The page. `embedded`: files or folders of trust material. The same inputs give the same bytes. Raises SettingsError, OSError."""
    style, script = (HERE / "page.css").read_text(), _script()
    catalogue = {
        "texts": {key: list(both) for key, both in {**TEXTS, **PAGE_TEXTS}.items() if key.split(".")[0] in ("verify", "page", "fact")},
        "codes": CODES,
        "version": VERSION,
    }
    policy = (
        f"default-src 'none'; script-src {_source(script)}; style-src {_source(style)}; base-uri 'none'; form-action 'none';"
        " require-trusted-types-for 'script'; trusted-types 'none'"
    )
    pieces = {
        "POLICY": policy,
        "STYLE": style,
        "SCRIPT": script,
        "CATALOGUE": _data(catalogue),
        "EMBEDDED": _data([{"name": name, "data": base64.b64encode(content).decode()} for name, content in _trust_files(embedded)]),
    }
    page = (HERE / "page.html").read_text()
    return re.sub(r"@([A-Z]+)@", lambda found: pieces[found[1]], page).encode()


def fingerprint(page: bytes) -> str:
    """SHA-256 in hex: what two people compare before they believe what a page says."""
    return hashlib.sha256(page).hexdigest()


def _script() -> str:
    order: list[str] = []
    sources: dict[str, str] = {}
    _visit(ENTRY, sources, order, ())
    script = '"use strict";\n' + "\n".join(_wrapped(name, sources[name]) for name in order)
    if re.search("</?script", script, re.IGNORECASE):
        raise RuntimeError("a script that would end its element, or hide its end")
    return script


def _visit(name: str, sources: dict[str, str], order: list[str], above: tuple[str, ...]) -> None:
    if name in above:
        raise RuntimeError(f"modules import each other: {' '.join((*above, name))}")
    if name in sources:
        return
    sources[name] = (HERE / f"{name}.js").read_text()
    for found in _IMPORT.finditer(sources[name]):
        _visit(found[2], sources, order, (*above, name))
    order.append(name)


def _wrapped(name: str, source: str) -> str:
    exported = [found[2] for found in _EXPORT.finditer(source)]
    body = _EXPORT.sub(r"\1\2", _IMPORT.sub(r"const { \1 } = module_\2;\n", source))
    if _LEFT_OVER.search(body):
        raise RuntimeError(f"{name}.js: a form of import or export that this build does not know")
    return f"const module_{name} = (() => {{\n{body}return {{ {', '.join(exported)} }};\n}})();"


def _source(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def _data(value: object) -> str:
    """JSON that cannot end its element."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).replace("<", "\\u003c")


def _trust_files(places: Iterable[Path]) -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    size = 0
    for place in places:
        files = sorted(path for path in place.rglob("*") if path.is_file()) if place.is_dir() else [place]
        for file in files:
            content = file.read_bytes()
            size += len(content)
            if size > EMBEDDED_BYTES_MAX:
                raise SettingsError(f"{file}: more than {EMBEDDED_BYTES_MAX} bytes of trust material", kind="verifier.too_large")
            found.append((str(file.relative_to(place.parent)) if place.is_dir() else file.name, content))
    return found
