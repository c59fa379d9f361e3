"""What a person reads about evidence: withdrawal notices and autonomy (`appliance.texts` has the catalogue)."""

from __future__ import annotations

EVIDENCE_TEXTS: dict[str, tuple[str, str]] = {
    # withdrawal notices
    "client.set_notices": (
        "dónde recibe el sistema de información los avisos de retiro (URL vacía: en ninguna parte)",
        "where the information system takes withdrawal notices (empty URL: nowhere)",
    ),
    "client.notices_url": ("dirección http o https a la que se hace POST", "http or https address that is sent a POST"),
    "client.notices_set": ("{client}: avisos de retiro a {url}", "{client}: withdrawal notices to {url}"),
    "client.notices_unset": (
        "{client}: sin dirección para avisos de retiro; los que haya esperan",
        "{client}: no address for withdrawal notices; those that exist wait",
    ),
    "client.notices_head": ("AVISOS", "NOTICES"),
    "log.unconfirmed": ("sólo los no confirmados", "only unconfirmed ones"),
    "log.notices": (
        "avisos de retiro: mensajes que no se confirmaron a tiempo y quién lo sabe ya",
        "withdrawal notices: messages that were not confirmed in time, and who knows it",
    ),
    "log.notices_none": ("No hay avisos de retiro.", "There are no withdrawal notices."),
    "log.notice.sequence": ("REGISTRO", "RECORD"),
    "log.notice.since": ("DESDE", "SINCE"),
    "log.notice.origin": ("DE QUIÉN", "WHOSE"),
    "log.notice.direction": ("MENSAJE", "MESSAGE"),
    "log.notice.query_id": ("CONSULTA", "QUERY"),
    "log.notice.system": ("SISTEMA", "SYSTEM"),
    "log.notice.peer": ("LA OTRA CAJA", "OTHER BOX"),
    "log.origin.ours": ("nuestro", "ours"),
    "log.origin.theirs": ("de la otra caja", "the other box's"),
    "log.notice_waits": ("espera", "waits"),
    "log.notice_waits_why": ("espera ({word})", "waits ({word})"),
    "log.notice_told": ("sí, {at}", "yes, {at}"),
    "log.notice_refused": ("no lo acepta ({word})", "refused ({word})"),
    "status.notices": (
        "Avisos de retiro sin entregar: {count} (`xacbe log notices`)",
        "Withdrawal notices not yet delivered: {count} (`xacbe log notices`)",
    ),
    # autonomy
    "autonomy.help": (
        "cuánto podría operar la caja si cada servicio callara ahora; código 1 si algo ya terminó",
        "how long the box could go on if each service fell silent now; exit code 1 if anything has ended",
    ),
    "autonomy.head.service": ("SERVICIO", "SERVICE"),
    "autonomy.head.left": ("QUEDA", "LEFT"),
    "autonomy.head.ends": ("HASTA", "UNTIL"),
    "autonomy.head.rule": ("REGLA", "RULE"),
    "autonomy.head.now": ("AHORA", "NOW"),
    "autonomy.service.configuration": ("configuración global", "global configuration"),
    "autonomy.service.ocsp": ("validación (OCSP)", "validation (OCSP)"),
    "autonomy.service.tsa": ("sello de tiempo", "time stamps"),
    "autonomy.service.certificates": ("certificados", "certificates"),
    "autonomy.service.disk": ("disco", "disk"),
    "autonomy.service.update": ("actualización", "update"),
    "autonomy.silent": ("calla", "silent"),
    "autonomy.answers": ("responde", "answers"),
    "autonomy.not_known": ("no se sabe", "not known"),
    "autonomy.no_end": ("sin plazo", "no deadline"),
    "status.autonomy": (
        "Si todo callara ahora, operaría todavía: {left} ({service}, regla {rule})",
        "If everything fell silent now, it could go on for: {left} ({service}, rule {rule})",
    ),
    "advice.stamps_ended": (
        "Ninguna autoridad de sellado responde y la gracia de CEIQROO terminó: no se entrega nada. Revise la red y avise a CEIQROO.",
        "No time-stamping authority answers and CEIQROO's grace has ended: nothing is delivered. Check the network and tell CEIQROO.",
    ),
    "advice.certificates_ended": (
        "Un certificado venció: renuévelo con `xacbe key renew`.",
        "A certificate has expired: renew it with `xacbe key renew`.",
    ),
    "advice.not_registered": (
        "La configuración global no nombra a esta caja: CEIQROO la retiró o todavía no la registra. Llame a CEIQROO.",
        "The global configuration does not name this box: CEIQROO removed it or has not registered it yet. Call CEIQROO.",
    ),
    "advice.notices_waiting": (
        "Hay avisos de retiro que alguien todavía no recibe: `xacbe log notices`.",
        "There are withdrawal notices that somebody has not got yet: `xacbe log notices`.",
    ),
}
