"""What the technician reads: every fact of the page, in Spanish, within 80 columns."""

from __future__ import annotations

import re

from appliance.console.pages import COLUMNS, MachineFacts, page
from appliance.supervision.wire import BoxStatus, ProcessStatus

MACHINE = MachineFacts(
    image_version="0.1.0",
    image_hash="0123456789abcdef" * 4,
    kernel="6.12.1",
    addresses=(("enp0s2", "10.0.2.15"),),
    memory_bytes=512 << 20,
    memory_used_bytes=200 << 20,
)
AT = 1_700_000_000_000_000


def status(**changes: object) -> BoxStatus:
    processes = [ProcessStatus("signer", 0, 7, "waiting", ["settings", "token"], 1.0, {}, {})]
    made = BoxStatus("///", "UNPROVISIONED", ["advice.enrol"], processes, "0.1.0", AT)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def test_the_page_tells_state_what_is_missing_addresses_versions_hash_memory_and_time() -> None:
    whole = "\n".join(page(status(), MACHINE, "0.1.0", AT))

    assert "Estado: SIN ALTA" in whole
    assert "Qué hacer:" in whole
    assert re.search(r"signer +en espera \(espera: settings, token\)", whole)
    assert "Direcciones: 10.0.2.15 (enp0s2)" in whole
    assert "programa 0.1.0, imagen 0.1.0, núcleo 6.12.1" in whole
    assert re.sub(r"\s", "", whole).count("0123456789abcdef") == 4
    assert "Memoria: 200 de 512 MiB" in whole
    assert "Hora: 2023-11-14T22:13:20" in whole


def test_every_line_fits_the_terminal() -> None:
    long = [ProcessStatus("reporter", 0, 7, "waiting", ["x" * 60] * 3, 1.0, {}, {})]
    crowd = tuple((f"enp{n}s31f6", f"192.168.{n}.100") for n in range(4))
    facts = MachineFacts(image_hash="f" * 64, addresses=crowd, kernel="6" * 80)

    assert max(map(len, page(status(processes=long), facts, "0.1.0", AT))) <= COLUMNS


def test_a_silent_supervisor_is_shown_and_the_machine_s_facts_stay() -> None:
    whole = "\n".join(page(None, MACHINE, "0.1.0", AT))

    assert "El proceso supervisor no responde." in whole
    assert "10.0.2.15" in whole


def test_a_name_moves_no_cursor() -> None:
    assert not any("\x1b" in line for line in page(status(server_id="A\x1b[2J"), MACHINE, "0.1.0", AT))


def test_a_page_of_an_empty_machine_names_what_is_not_known() -> None:
    whole = "\n".join(page(status(), MachineFacts(), "0.1.0", AT))

    assert "Direcciones: ninguna todavía" in whole
    assert "Resumen de la imagen: no se sabe" in whole
