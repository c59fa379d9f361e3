"""What a person reads of the state of the box (`appliance.texts` has the catalogue)."""

from __future__ import annotations

STATUS_TEXTS: dict[str, tuple[str, str]] = {
    # status
    "status.help": ("estado de la caja: qué pasa y qué hacer", "state of the box: what is wrong and what to do"),
    "status.watch": ("repetir cada dos segundos", "repeat every two seconds"),
    "status.title": ("Servidor de seguridad {server} (versión {version})", "Security server {server} (version {version})"),
    "status.state": ("Estado: {state}", "State: {state}"),
    "status.to_do": ("Qué hacer:", "What to do:"),
    "status.nothing_to_do": ("No hay nada que atender.", "Nothing needs attention."),
    "status.processes": ("Procesos:", "Processes:"),
    "status.waits_for": ("(espera: {what})", "(waits for: {what})"),
    "status.token": ("Token: {state}; {label}; {signatures} firmas", "Token: {state}; {label}; {signatures} signatures"),
    "status.token_away": ("Token: el proceso signer no responde", "Token: the signer process does not answer"),
    "status.sealing": ("Se puede sellar todavía: {left}", "Can still seal for: {left}"),
    "status.configuration": ("Configuración global vigente todavía: {left}", "Global configuration valid for: {left}"),
    "status.ocsp": (
        "Validaciones (OCSP): {count}; la más antigua, de hace {age}",
        "OCSP responses: {count}; the oldest is {age} old",
    ),
    "status.unknown": ("no se sabe", "not known"),
    "status.ended": ("terminó", "has ended"),
    "status.never": ("nunca", "never"),
    "status.log": (
        "Registro de consultas: {records} mensajes; {free} GiB libres",
        "Message log: {records} messages; {free} GiB free",
    ),
    "status.log_away": ("Registro de consultas: el proceso recorder no responde", "Message log: the recorder process does not answer"),
    "status.stamp": (
        "Último sello de tiempo, hace: {age}; mensajes que lo esperan: {waiting}",
        "Last time stamp, ago: {age}; messages waiting for one: {waiting}",
    ),
    "display.title": ("CAJA XACBE: {server}", "XACBE BOX: {server}"),
    "display.no_name": ("sin nombre todavía", "no name yet"),
    "display.no_state": ("Estado: no se sabe", "State: not known"),
    "display.no_address": ("ninguna todavía", "none yet"),
    "display.addresses": ("Direcciones: {addresses}", "Addresses: {addresses}"),
    "display.versions": (
        "Versiones: programa {version}, imagen {image}, núcleo {kernel}",
        "Versions: software {version}, image {image}, kernel {kernel}",
    ),
    "display.image_hash": ("Resumen de la imagen: {half}", "Image hash: {half}"),
    "display.image_hash_rest": ("                      {half}", "            {half}"),
    "display.memory": ("Memoria: {used} de {total} MiB en uso", "Memory: {used} of {total} MiB used"),
    "display.time": ("Hora: {at}", "Time: {at}"),
    "state.UNPROVISIONED": ("SIN ALTA", "UNPROVISIONED"),
    "state.LOCKED": ("BLOQUEADA: el token no firma", "LOCKED: the token does not sign"),
    "state.OPERATIONAL": ("EN OPERACIÓN", "OPERATIONAL"),
    "state.AUTONOMOUS": ("AUTÓNOMA: CEIQROO no responde, la cuenta regresiva corre", "AUTONOMOUS: CEIQROO is silent, the countdown runs"),
    "state.SEALING_STOPPED": ("NO SELLA: no se intercambian mensajes", "SEALING STOPPED: no messages are exchanged"),
    "state.SUSPENDED": ("SUSPENDIDA por CEIQROO", "SUSPENDED by CEIQROO"),
    "state.TERMINATED": ("DADA DE BAJA por CEIQROO", "TERMINATED by CEIQROO"),
    "state.HELD": ("DETENIDA: un proceso necesita revisión", "HELD: a process needs to be looked at"),
    "process.serving": ("en servicio", "serving"),
    "process.waiting": ("en espera", "waiting"),
    "process.resting": ("en espera, en reposo", "waiting, at rest"),
    "process.silent": ("SIN RESPUESTA", "SILENT"),
    "token_state.ready": ("listo", "ready"),
    "token_state.locked": ("bloqueado", "locked"),
    "token_state.absent": ("ausente", "absent"),
    "token_state.pin_rejected": ("PIN rechazado", "PIN rejected"),
    "token_state.pin_locked": ("PIN bloqueado", "PIN locked"),
    "token_state.uninitialised": ("sin inicializar", "not initialised"),
    "advice.terminated": (
        "CEIQROO dio de baja esta caja. Solo una nueva alta la vuelve a poner en servicio.",
        "CEIQROO has terminated this box. Only a new enrolment puts it back into service.",
    ),
    "advice.held": (
        "Un proceso se detuvo porque su estado se contradice o falló demasiadas veces. Revise la bitácora del sistema y llame a CEIQROO.",
        "A process was stopped because its state contradicts itself or it failed too often. Read the system log and call CEIQROO.",
    ),
    "advice.suspended": (
        "CEIQROO suspendió esta caja. Comuníquese con CEIQROO para conocer el motivo.",
        "CEIQROO has suspended this box. Ask CEIQROO for the reason.",
    ),
    "advice.enrol": (
        "La caja no tiene alta. Haga el alta con `xacbe enrolment`.",
        "The box is not enrolled. Enrol it with `xacbe enrolment`.",
    ),
    "advice.signer_away": (
        "El proceso signer no responde. Espere unos segundos; si sigue así, reinicie la caja.",
        "The signer process does not answer. Wait some seconds; if it stays so, restart the box.",
    ),
    "advice.token_absent": (
        "No se encuentra el token. Revise que esté conectado.",
        "The token is not found. Check that it is plugged in.",
    ),
    "advice.token_unknown": (
        "El token está en un estado desconocido. Consulte `xacbe token`.",
        "The token is in an unknown state. Look at `xacbe token`.",
    ),
    "advice.unlock": ("Desbloquee el token con su PIN: `xacbe token unlock`.", "Unlock the token with its PIN: `xacbe token unlock`."),
    "advice.pin_rejected": (
        "El token rechazó el PIN. No lo intente sin estar seguro: se bloquea.",
        "The token rejected the PIN. Do not try without being sure: it locks.",
    ),
    "advice.pin_locked": (
        "El PIN del token está bloqueado. Llame a CEIQROO.",
        "The token's PIN is locked. Call CEIQROO.",
    ),
    "advice.token_uninitialised": (
        "El token no está inicializado. Prepárelo antes del alta.",
        "The token is not initialised. Prepare it before enrolment.",
    ),
    "advice.log_full": (
        "El registro de consultas está lleno: no se aceptan mensajes. Archive y libere espacio.",
        "The message log is full: no messages are accepted. Archive and free some space.",
    ),
    "advice.configuration_missing": (
        "No hay configuración global. Revise la conexión con CEIQROO.",
        "There is no global configuration. Check the connection to CEIQROO.",
    ),
    "advice.configuration_expired": (
        "La configuración global venció. Revise la conexión con CEIQROO; el servicio vuelve solo.",
        "The global configuration has expired. Check the connection to CEIQROO; service returns by itself.",
    ),
    "advice.evidence_missing": (
        "No hay validación (OCSP) de nuestros certificados. Revise la conexión con CEIQROO.",
        "There is no OCSP response for our certificates. Check the connection to CEIQROO.",
    ),
    "advice.evidence_ended": (
        "La validación (OCSP) tiene más de ocho horas. Revise la conexión con CEIQROO; el servicio vuelve solo.",
        "The OCSP response is more than eight hours old. Check the connection to CEIQROO; service returns by itself.",
    ),
    "advice.clock_stopped": (
        "El reloj difiere más de cinco minutos de la hora firmada: no se sella. Corrija la hora.",
        "The clock is more than five minutes off signed time: nothing is sealed. Correct the time.",
    ),
    "advice.clock_off": (
        "El reloj difiere más de un minuto de la hora firmada. Revise la sincronización de la hora.",
        "The clock is more than a minute off signed time. Check the time synchronisation.",
    ),
    "advice.centre_silent": (
        "Un servicio de CEIQROO no responde. Revise el enlace de red; si funciona, avise a CEIQROO.",
        "A service of CEIQROO does not answer. Check the network link; if it works, tell CEIQROO.",
    ),
    "advice.process_silent": (
        "Un proceso no responde. Se reinicia solo; si sigue así, reinicie la caja.",
        "A process does not answer. It is restarted by itself; if it stays so, restart the box.",
    ),
    "advice.process_waiting": (
        "Un proceso espera a otro. Vea a cuál en la lista de procesos.",
        "A process waits for another one. See which in the list of processes.",
    ),
    "advice.local_fell_back": (
        "El último cambio de configuración local se perdió: rige el anterior. Revise clientes, servicios y derechos.",
        "The last change of the local configuration was lost: the one before is in force. Check clients, services and rights.",
    ),
    "advice.supervisor_away": ("El proceso supervisor no responde.", "The supervisor process does not answer."),
}
