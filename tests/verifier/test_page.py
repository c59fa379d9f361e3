"""The page in a real Chromium: what a person drops, reads and prints."""

from __future__ import annotations

import random
import socket
from pathlib import Path

import pytest

from provisioning import publication
from provisioning.authority import ca
from provisioning.authority.profiles import Profile
from provisioning.verifier.build import build
from tests.provisioning.parts import StandingClock
from tests.seal.test_verify_container import repacked
from tests.seal.workshop import NOON_US, Workshop
from tests.vectors import VECTORS, needs_vectors
from tests.verifier.page import Page
from tests.verifier.test_agreement import certificates_of

WORKSHOP = Workshop()


@pytest.fixture
def good(tmp_path: Path) -> Path:
    (tmp_path / "bueno.asice").write_bytes(WORKSHOP.container(body=b'{"a":1}'))
    return tmp_path / "bueno.asice"


@pytest.mark.case("T24")
@pytest.mark.rule("I.4.XV")
def test_the_verdict_is_read_in_spanish_with_its_numbered_steps(page: Page, tmp_path: Path, good: Path) -> None:
    page.trust(certificates_of(WORKSHOP, tmp_path))
    page.verify([good])

    assert page.text("h1") == "Verificador de mensajes sellados"
    assert page.browser.run("document.documentElement.lang") == "es"
    assert page.text(".verdict strong") == "VÁLIDO"
    assert "QROO-TEST/GOV/1001/solomon" in page.text("dl")
    assert "2026-11-23 12:00:01.000 UTC" in page.text("dl")
    rows = page.browser.run("[...document.querySelectorAll('.steps tbody tr')].map((row) => row.innerText)")
    assert [int(row.split()[0]) for row in rows] == list(range(11))
    assert "a lo más a ocho horas" in rows[10]
    assert all("✓ Correcto" in row for row in rows)
    assert "verificado" in page.text(".attachments")


def test_a_spoiled_message_is_refused_with_its_reason_in_both_languages(page: Page, tmp_path: Path, good: Path) -> None:
    bad = tmp_path / "malo.asice"
    bad.write_bytes(repacked(good.read_bytes(), body=b'{"a":2}'))
    page.trust(certificates_of(WORKSHOP, tmp_path))
    page.verify([good, bad])

    assert page.browser.run("[...document.querySelectorAll('.verdict strong')].map((one) => one.innerText)") == ["VÁLIDO", "NO VÁLIDO"]
    assert "la cadena es de otro mensaje [seal.chain_reference]" in page.text("article.invalid dl")
    page.browser.run("document.querySelector('#language').click()")
    assert page.browser.run("[...document.querySelectorAll('.verdict strong')].map((one) => one.innerText)") == ["VALID", "INVALID"]
    assert "the chain is of another message" in page.text("article.invalid dl")
    assert page.browser.run("document.documentElement.lang") == "en"


def test_without_trust_material_nothing_is_called_valid(page: Page, good: Path) -> None:
    (report,) = page.verify([good])

    assert (report["verdict"], report["reason"]) == ("undecidable", "verify.no_configuration")
    assert page.text(".verdict strong") == "NO SE PUEDE DECIDIR"


def test_another_moment_can_be_asked_about(page: Page, tmp_path: Path, good: Path) -> None:
    page.trust(certificates_of(WORKSHOP, tmp_path))
    page.browser.run("document.querySelector('#moment').value = '2026-11-23T21:30:00'")

    (report,) = page.verify([good])

    assert (report["verdict"], report["reason"]) == ("invalid", "ocsp.stale")
    assert "Juzgado en el momento indicado" in page.text("dl")


@needs_vectors
def test_an_anchor_decides_whether_the_configuration_is_believed(page: Page, good: Path) -> None:
    signed = VECTORS / "globalconf-signed"
    anchor = signed / "configuration_anchor_CS_internal.xml"

    def folder(name: str) -> list[Path]:
        return [path for path in (signed / name).rglob("*") if path.is_file()]

    assert page.trust([anchor]).startswith("El material de confianza no sirve: no signed directory")
    assert page.trust([anchor, *folder("V6-rotated-keys")]).endswith("signed with a certificate that may not sign here")
    shared = next(path for path in folder("V6") if path.name == "shared-params.xml")
    spoiled = good.with_name("shared-params.xml")
    spoiled.write_bytes(shared.read_bytes().replace(b"<ocspFreshnessSeconds>", b"<ocspFreshnessSeconds> "))
    assert page.trust([anchor, signed / "V6" / "internalconf", spoiled]).startswith("El material de confianza no sirve")
    assert page.verify([good])[0]["verdict"] == "undecidable"  # trust material that was refused is not used

    said = page.trust([anchor, signed / "V6" / "internalconf", shared])
    assert "firmada por CEIQROO según el ancla" in said
    assert publication.fingerprint(anchor.read_bytes()) in said
    assert page.verify([good])[0]["reason"] == "seal.tsa_not_approved"  # believed: it does not know our authority


def test_an_instance_of_ceiqroo_is_believed_by_its_anchor(page: Page, tmp_path: Path) -> None:
    """What `ceiqroo` publishes, dropped as it was downloaded."""
    centre = ca.initialise(tmp_path / "centre", "QROO-TEST", "127.0.57.1", StandingClock(NOON_US))
    with centre.registry() as registry:
        signing = publication.ConfigurationKey(centre.certificate(Profile.CONFIGURATION), centre.key(Profile.CONFIGURATION))
        made = publication.publish(registry, centre, signing, publication.NEWEST, NOON_US)
    files = [centre.anchor_file, tmp_path / "internalconf"]
    files[1].write_bytes(made.directory)
    for at, content in enumerate(made.parts.values()):
        files.append(tmp_path / f"part{at}")
        files[-1].write_bytes(content)

    assert "Configuración de QROO-TEST firmada por CEIQROO" in page.trust(files)


def test_trust_material_may_be_built_in(page: Page, tmp_path: Path, good: Path) -> None:
    file = tmp_path / "own.html"
    file.write_bytes(build(certificates_of(WORKSHOP, tmp_path)))

    own = Page(page.browser, file)

    assert "Incluido en esta página" in own.text("#trust-state")
    assert own.verify([good])[0]["verdict"] == "valid"


def test_what_stands_in_files_never_becomes_markup(page: Page, tmp_path: Path) -> None:
    named = tmp_path / "<img src=x onerror=alert(1)>\u202eecisa.asice"
    named.write_bytes(repacked(WORKSHOP.container(), message=b"<b>x</b>", **{"<i>.xml": b"x"}))

    (report,) = page.verify([named])

    assert report["verdict"] == "invalid"
    assert page.browser.run("document.querySelectorAll('article img, article b, article i').length") == 0
    assert "\u202e" not in page.text("article")


def test_the_page_cannot_reach_a_network(page: Page, good: Path) -> None:
    """A server waits on loopback; the page is made to try, by script, image, form and frame."""
    with socket.create_server(("127.0.57.9", 0)) as server:
        server.settimeout(0.3)
        url = f"http://127.0.57.9:{server.getsockname()[1]}/"
        page.verify([good])
        tried = page.browser.run(
            f"""(async () => {{
              const results = [];
              await fetch({url!r}).then(() => results.push("fetch"), () => undefined);
              for (const tag of ["img", "iframe", "script"]) {{
                const element = document.createElement(tag);
                try {{ element.src = {url!r}; }} catch {{ continue; }}
                document.body.append(element);
              }}
              try {{ new WebSocket({url.replace("http", "ws")!r}); }} catch {{ /* refused */ }}
              try {{ document.body.innerHTML = "<b>x</b>"; results.push("markup"); }} catch {{ /* refused */ }}
              await new Promise((resolve) => setTimeout(resolve, 200));
              return results;
            }})()"""
        )
        assert tried == []
        with pytest.raises(TimeoutError):
            server.accept()
    asked = [event["params"]["request"]["url"] for event in page.browser.events if event["method"] == "Network.requestWillBeSent"]
    assert not [url for url in asked if not url.startswith(("file:", "blob:")) and "127.0.57.9" not in url]


def test_a_browser_without_cryptography_says_what_to_do(page: Page, page_file: Path) -> None:
    """As when the page is opened over plain HTTP instead of being saved."""
    script = page.browser.ask(
        "Page.addScriptToEvaluateOnNewDocument", source="Object.defineProperty(Crypto.prototype, 'subtle', {value: undefined})"
    )
    try:
        Page(page.browser, page_file)
        assert page.text("#unusable").startswith("Este navegador no permite cifrado")
        assert page.browser.run("document.querySelector('main').hidden")
    finally:
        page.browser.ask("Page.removeScriptToEvaluateOnNewDocument", identifier=script["identifier"])


def test_a_zip_bomb_and_a_deep_document_end_at_once(page: Page, tmp_path: Path) -> None:
    files = {
        "bomb": repacked(WORKSHOP.container(), body=bytes(200_000_000)),
        "deep": repacked(WORKSHOP.container(), signature=b"<a>" * 300_000),
        "wide": repacked(WORKSHOP.container(), signature=b"<a>" + b"<b/>" * 100_000 + b"</a>"),
        "steps": repacked(WORKSHOP.container(body=b"x"), chain=b"<HashChain>" + b"x" * 1_000_000),
    }
    for name, data in files.items():
        (tmp_path / f"{name}.asice").write_bytes(data)

    reports = page.verify([tmp_path / f"{name}.asice" for name in files])

    assert [report["reason"] for report in reports][:3] == ["container.limit", "seal.malformed", "seal.malformed"]
    assert all(report["verdict"] != "valid" for report in reports)


def test_a_file_too_large_to_hold_is_read_in_parts(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "large.asice"
    file.write_bytes(WORKSHOP.container(body=random.Random(1).randbytes(40_000_000)))  # noqa: S311
    page.trust(certificates_of(WORKSHOP, tmp_path))

    (report,) = page.verify([file])

    assert report["verdict"] == "valid"
    assert report["attachments"][0]["verified"]


def test_reports_are_fit_to_print(page: Page, tmp_path: Path, good: Path) -> None:
    page.trust(certificates_of(WORKSHOP, tmp_path))
    page.verify([good])

    page.browser.ask("Emulation.setEmulatedMedia", media="print")
    try:
        hidden = page.browser.run("[...document.querySelectorAll('.step, button, details')].every((one) => one.offsetParent === null)")
        assert hidden
        assert "VÁLIDO" in page.text("article")
    finally:
        page.browser.ask("Emulation.setEmulatedMedia", media="")
    assert page.browser.pdf().startswith(b"%PDF-")


def test_what_a_screen_reader_needs_is_there(page: Page, tmp_path: Path, good: Path) -> None:
    page.trust(certificates_of(WORKSHOP, tmp_path))
    page.verify([good])

    assert page.browser.run("document.activeElement.id") == "results-title"
    nodes = page.browser.ask("Accessibility.getFullAXTree")["nodes"]
    names = {(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]}
    assert not [role for role, name in names if role in ("button", "textbox") and not name]
    assert {name for role, name in names if role == "heading"} >= {"1. Material de confianza", "2. Mensajes sellados", "3. Resultado"}
