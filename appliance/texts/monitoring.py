"""What a person reads about operational monitoring. Part of the catalogue (`appliance.texts`).

Pure.
"""

from __future__ import annotations

MONITORING_TEXTS: dict[str, tuple[str, str]] = {
    "operational.help": (
        "cómo fueron los intercambios, en cifras, hasta siete días atrás",
        "how exchanges went, in figures, up to seven days back",
    ),
    "operational.list": (
        "intercambios, el más reciente al final; sin contenido y sin datos de personas",
        "exchanges, newest last; no content and nothing that names persons",
    ),
    "operational.from": ("desde (ISO 8601); si falta, un día antes", "from (ISO 8601); one day before by default"),
    "operational.to": ("hasta (ISO 8601); si falta, ahora", "until (ISO 8601); now by default"),
    "operational.client": ("solo los de este subsistema que pregunta", "only those of this asking subsystem"),
    "operational.service": ("solo los de este servicio", "only those of this service"),
    "operational.limit": ("cuántos, los más recientes", "how many, the newest ones"),
    "operational.head.at": ("LLEGÓ", "ARRIVED"),
    "operational.head.side": ("PAPEL", "ROLE"),
    "operational.head.ms": ("MS", "MS"),
    "operational.head.sent": ("PEDIDO", "REQUEST"),
    "operational.head.got": ("RESPUESTA", "ANSWER"),
    "operational.head.outcome": ("RESULTADO", "OUTCOME"),
    "operational.head.client": ("CLIENTE", "CLIENT"),
    "operational.head.service": ("SERVICIO", "SERVICE"),
    "operational.asked": ("pide", "asks"),
    "operational.provided": ("ofrece", "provides"),
    "operational.done": ("bien", "done"),
    "operational.none": ("No hay registros de operación en ese lapso.", "There are no operational records in that period."),
    "kind.operations.invalid_request": (
        "el lapso o un campo de la consulta no es válido",
        "the period or a field of the query is not valid",
    ),
    "kind.operations.too_large": ("hay demasiados registros en un segundo", "there are too many records in one second"),
    "kind.operations.away": (
        "los registros de operación no se pueden leer ahora: falta la llave (HSM) o falla el disco",
        "operational records cannot be read now: the key (HSM) is missing or the disk fails",
    ),
}
