"""What a person reads about evidence: proofs, audits of the log, reports, accounts. Part of the catalogue (`appliance.texts`).

Pure.
"""

from __future__ import annotations

LOG_TEXTS: dict[str, tuple[str, str]] = {
    # accounts
    "account.help": ("cuentas locales: quién puede leer la bitácora", "local accounts: who may read the log"),
    "account.add": ("dar de alta una cuenta con sus papeles, o cambiarlos", "enter an account with its roles, or change them"),
    "account.remove": ("quitar una cuenta", "remove an account"),
    "account.list": ("las cuentas y sus papeles", "the accounts and their roles"),
    "account.user": ("usuario del sistema operativo", "user of the operating system"),
    "account.role": (
        "auditor: lee la bitácora; administrator: da de alta cuentas",
        "auditor: reads the log; administrator: enters accounts",
    ),
    "account.added": ("{user}: {roles}", "{user}: {roles}"),
    "account.removed": ("{user}: sin cuenta", "{user}: no account"),
    "account.user_head": ("USUARIO", "USER"),
    "account.roles_head": ("PAPELES", "ROLES"),
    "account.none": ("No hay cuentas: nadie puede leer la bitácora.", "There are no accounts: nobody may read the log."),
    # log
    "log.acts": ("bitácora de auditoría: actos y rechazos, el más reciente primero", "audit log: acts and refusals, newest first"),
    "log.audit": (
        "recorrer todo el registro y nombrar lo primero que no corresponde",
        "walk the whole log and name the first record that does not fit",
    ),
    "log.compare": (
        "comparar el registro con el de otra caja y nombrar los mensajes que falten en uno de los dos",
        "compare the log with another box's and name the messages that one of them lacks",
    ),
    "log.compare_other": ("directorio del registro de la otra caja, o de una copia", "directory of the other box's log, or of a copy"),
    "log.compare.other_lacks": (
        "En el otro registro: {compared} mensajes entre ambos, {missing} borrados de allí, {unreceived} enviados sin constancia de llegada",
        "In the other log: {compared} messages between the two, {missing} taken out there, {unreceived} sent and not known to have arrived",
    ),
    "log.compare.own_lacks": (
        "En este registro: {compared} mensajes entre ambos, {missing} borrados de aquí, {unreceived} enviados sin constancia de llegada",
        "In this log: {compared} messages between the two, {missing} taken out here, {unreceived} sent and not known to have arrived",
    ),
    "log.compare.missing": ("BORRADO", "TAKEN OUT"),
    "log.compare.unreceived": ("sin llegada", "not arrived"),
    "log.audit_log": ("directorio de un registro copiado; si falta, el de la caja", "directory of a copied log; else the box's own"),
    "log.prove": ("prueba de que un registro está en la bitácora firmada", "proof that a record is in the signed log"),
    "log.check": ("comprobar una prueba sin caja ni red", "check a proof without box or network"),
    "log.sequence": ("número de registro", "number of the record"),
    "log.proof_out": ("archivo para la prueba (.tlog-proof)", "file for the proof (.tlog-proof)"),
    "log.proof_file": ("la prueba (.tlog-proof)", "the proof (.tlog-proof)"),
    "log.proved": (
        "Registro {sequence}: prueba bajo {records} registros en {file}",
        "Record {sequence}: proof under {records} records in {file}",
    ),
    "log.report": (
        "quién consultó por quién y cuántas veces, sin contenido",
        "who asked for whom and how often, without content",
    ),
    "log.report.represented_party": ("PARTE REPRESENTADA", "REPRESENTED PARTY"),
    "log.report.end_user": ("USUARIO FINAL", "END USER"),
    "log.report.client": ("CLIENTE", "CLIENT"),
    "log.report.service": ("SERVICIO", "SERVICE"),
    "log.report.side": ("LADO", "SIDE"),
    "log.report.requests": ("CONSULTAS", "REQUESTS"),
    "log.report.first": ("PRIMERA", "FIRST"),
    "log.report.last": ("ÚLTIMA", "LAST"),
    "log.represented_party": ("parte representada, CLASE/CÓDIGO", "represented party, CLASS/CODE"),
    "log.verdict.intact": ("ÍNTEGRO: todo corresponde", "INTACT: everything fits"),
    "log.verdict.tampered": ("ALTERADO", "TAMPERED"),
    "log.verdict.undecided": ("NO SE PUEDE DECIDIR DEL TODO", "NOT WHOLLY DECIDABLE"),
    "log.first_bad": (
        "Lo primero que no corresponde: registro {sequence}: {why}\nHasta el registro {after} un punto de control lo cubre y corresponde.",
        "The first that does not fit: record {sequence}: {why}\nUp to record {after} everything is under a checkpoint that holds.",
    ),
    "log.undecided.keys": (
        "faltan los certificados de CEIQROO (--ca) para creer la llave de la bitácora",
        "CEIQROO's certificates (--ca) are missing to believe the log's key",
    ),
    "log.undecided.stamps": (
        "faltan los certificados de sellado de tiempo (--tsa)",
        "the time-stamping authorities' certificates (--tsa) are missing",
    ),
    "log.undecided.checkpoints": ("todavía no hay puntos de control firmados", "there are no signed checkpoints yet"),
    "log.undecided.bodies": (
        "hay cuerpos de registros anteriores que no dicen su resumen: solo se comparó el tamaño",
        "some bodies are of older records that do not tell their digest: only their size was compared",
    ),
    "log.audit.records": ("registros", "records"),
    "log.audit.segments": ("segmentos", "segments"),
    "log.audit.bytes": ("bytes", "bytes"),
    "log.audit.checkpoints": ("puntos de control", "checkpoints"),
    "log.audit.stamps": ("sellos de tiempo", "time stamps"),
    "log.audit.contents_cut": ("contenidos borrados por retención", "contents deleted by retention"),
    "log.audit.bodies": ("cuerpos grandes comparados", "large bodies compared"),
    "log.audit.bodies_erased": ("cuerpos grandes borrados con derecho", "large bodies erased by right"),
    "log.audit.tail_bytes": ("bytes al final, sin terminar", "bytes at the end, unfinished"),
    "log.audit.covered": ("registros bajo el último punto de control", "records under the newest checkpoint"),
    "log.audit.stamped": ("registros bajo el último con sello", "records under the newest stamped one"),
    "log.audit.stamped_at": ("sellado", "stamped"),
    "log.audit.counter": ("contador del TPM", "the TPM's counter"),
    "log.audit.origin": ("origen", "origin"),
    "log.audit_limit": ("cuántos como máximo, de 1 a 1000", "how many at most, 1 to 1000"),
}
