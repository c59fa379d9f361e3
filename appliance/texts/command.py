"""What a person reads of every command alike, and the wire (`appliance.texts` has the catalogue)."""

from __future__ import annotations

COMMAND_TEXTS: dict[str, tuple[str, str]] = {
    # the command itself
    "command.description": ("Servidor de seguridad Xacbe: la orden de la caja.", "Xacbe security server: the box's command."),
    "command.everywhere": (
        "En cualquier lugar de la línea: --state DIR (directorio de estado, /var/lib/xacbe), --language es|en",
        "Anywhere in the line: --state DIR (state directory, /var/lib/xacbe), --language es|en",
    ),
    "command.json": ("salida en JSON", "print JSON"),
    "command.usage": ("uso: ", "usage: "),
    "command.section.positional arguments": ("argumentos", "arguments"),
    "command.section.options": ("opciones", "options"),
    "command.show_help": ("muestra esta ayuda", "show this help"),
    # wire
    "wire.help": ("mensajes capturados entre servidores de seguridad", "captured messages between security servers"),
    "wire.check": ("juzga un mensaje capturado y dice qué es cada parte", "judge a captured message and say what every part is"),
    "wire.file": (
        "cuerpo del mensaje HTTP; su primera línea es el delimitador",
        "body of the HTTP message; its first line is the boundary",
    ),
    "wire.configuration": ("directorio de la configuración global", "directory of the global configuration"),
    "wire.at": (
        "momento en que se juzga (2026-11-23T06:00:00Z); sin él, ahora",
        "moment to judge at (2026-11-23T06:00:00Z); without it, now",
    ),
    "wire.part.ocsp": ("validación OCSP del certificado TLS", "OCSP response for the TLS certificate"),
    "wire.part.head": ("encabezado firmado", "signed head"),
    "wire.part.attachment": ("cuerpo o anexo", "body or attachment"),
    "wire.part.chain_result": ("resultado de la cadena de resúmenes", "hash chain result"),
    "wire.part.chain": ("cadena de resúmenes", "hash chain"),
    "wire.part.signature": ("firma", "signature"),
    "wire.part.fault": ("falla del otro servidor", "the other server's fault"),
    "wire.step.parts": ("partes y su orden", "parts and their order"),
    "wire.step.head": ("quién pide qué a quién", "who asks what of whom"),
    "wire.step.ocsp": ("validaciones OCSP auténticas", "OCSP responses are genuine"),
    "wire.step.seal": ("sello del remitente sobre todas las partes", "seal of the sender over every part"),
    "wire.passed": ("bien", "passed"),
    "wire.failed": ("MAL", "FAILED"),
    "wire.skipped": ("no aplica", "does not apply"),
    "wire.undecided": ("sin decidir", "undecided"),
    "wire.not_reached": ("no se llegó", "not reached"),
    "wire.verdict.valid": ("VÁLIDO", "VALID"),
    "wire.verdict.invalid": ("NO VÁLIDO", "INVALID"),
    "wire.verdict.undecidable": ("NO SE PUEDE DECIDIR", "UNDECIDABLE"),
}
