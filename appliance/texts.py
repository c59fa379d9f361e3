"""Everything that a technician or municipal staff reads, in Spanish and English: the one catalogue.

Pure but for the chosen language, which a command sets once at start. Keys are `room.thing`; facts are inserted with str.format.
"""

from __future__ import annotations

_LANGUAGES = ("es", "en")
_chosen = 0

TEXTS: dict[str, tuple[str, str]] = {
    # the command itself
    "command.description": ("Servidor de seguridad Xacbe: la orden de la caja.", "Xacbe security server: the box's command."),
    "command.everywhere": (
        "En cualquier lugar de la línea: --state DIR (directorio de estado, /var/lib/xacbe), --language es|en",
        "Anywhere in the line: --state DIR (state directory, /var/lib/xacbe), --language es|en",
    ),
    "command.json": ("salida en JSON", "print JSON"),
    # verify (containers)
    # log
    # token and key
    # status
    # service, access, client
    # wire
    # enrolment
    "enrolment.help": ("alta de la caja: solicitar certificados e instalarlos", "enrolment of the box: ask for certificates, install them"),
    "enrolment.request": ("crea las claves que falten y escribe las solicitudes", "make the missing keys and write the requests"),
    "enrolment.install": ("instala los certificados y el ancla de CEIQROO", "install CEIQROO's certificates and anchor"),
    "enrolment.out": ("archivo de la solicitud", "file of the request"),
    "enrolment.file": ("respuesta de CEIQROO", "CEIQROO's answer"),
    "enrolment.key_ready": ("clave lista en el token: {label}", "key ready in the token: {label}"),
    "enrolment.installed": ("{count} certificados instalados; ancla instalada", "{count} certificates installed; anchor installed"),
}


def set_language(language: str) -> None:
    """Chooses `es` or `en` for this run of the program."""
    global _chosen  # noqa: PLW0603  the one piece of state: a command has one reader
    _chosen = _LANGUAGES.index(language)


def text(key: str, **facts: object) -> str:
    """The text in the chosen language. A missing key is a bug (KeyError), found by the catalogue's test."""
    return TEXTS[key][_chosen].format(**facts) if facts else TEXTS[key][_chosen]
