"""What the kinds of errors mean for the person at the keyboard: `kind.<kind>` of the catalogue (`appliance.texts`).

Pure. Only kinds that a command of the box or of CEIQROO shows; any other is shown with its detail alone.
"""

from __future__ import annotations

KIND_TEXTS: dict[str, tuple[str, str]] = {
    # the way to the processes
    "kind.process.away": (
        "un proceso de la caja no responde; espere unos segundos e intente otra vez",
        "a process of the box does not answer; wait some seconds and try again",
    ),
    "kind.caller.not_granted": ("la consola no puede pedir esto a ese proceso", "the console may not ask this of that process"),
    "kind.frame.malformed": ("un proceso de la caja contestó algo ilegible", "a process of the box answered something unreadable"),
    "kind.request.malformed": ("el proceso no entendió la petición", "the process did not understand the request"),
    "kind.settings.wrong": ("la configuración está mal escrita o falta", "the settings are wrong or missing"),
    "kind.command.unreadable": ("no se puede leer lo indicado", "what was named cannot be read"),
    "kind.command.failed": ("el sistema operativo no pudo hacerlo", "the operating system could not do it"),
    "kind.identifier.malformed": ("el identificador está mal escrito", "the identifier is malformed"),
    # clients, services, rights
    "kind.local.invalid": ("el valor no es válido", "the value is not valid"),
    "kind.local.no_such_right": ("ese derecho de acceso no existe", "there is no such access right"),
    "kind.local.in_use": ("todavía se usa", "it is still in use"),
    "kind.local.full": ("rebasa lo que admite la caja", "more than the box is made for"),
    "kind.access.unknown_service": ("la caja no ofrece ese servicio", "the box offers no such service"),
    "kind.access.service_disabled": ("el servicio está deshabilitado", "the service is disabled"),
    "kind.access.client_unknown": ("el subsistema no es cliente de esta caja", "the subsystem is not a client of this box"),
    "kind.access.no_right": ("no hay derecho de acceso", "there is no access right"),
    "kind.access.authentication": (
        "el sistema de información no mostró el certificado debido",
        "the information system did not show the certificate it must",
    ),
    "kind.description.malformed": ("la descripción (OpenAPI o WSDL) no sirve", "the description (OpenAPI or WSDL) is of no use"),
    "kind.access.service_type": (
        "el servicio es del otro protocolo: REST o SOAP",
        "the service is of the other protocol: REST or SOAP",
    ),
    # log
    "kind.log.not_checkpointed": (
        "el registro todavía no tiene un punto de control firmado; revise el token",
        "the record is under no signed checkpoint yet; see to the token",
    ),
    "kind.log.proof_invalid": ("la prueba no lleva a la raíz firmada", "the proof does not lead to the signed root"),
    "kind.log.checkpoint_invalid": ("el punto de control no es válido", "the checkpoint is not valid"),
    "kind.log.checkpoint_contradicted": (
        "el registro no es el que la caja firmó: le faltan registros o fueron cambiados",
        "the log is not the one that the box signed: records are missing or were changed",
    ),
    "kind.log.tile_missing": ("falta una parte del árbol del registro; se rehace al reiniciar", "a tile of the log's tree is missing"),
    "kind.record.broken_link": (
        "un registro no corresponde: alguien o algo cambió la bitácora",
        "a record does not fit: the log was changed",
    ),
    "kind.audit.unavailable": (
        "no se pudo dejar constancia en la bitácora, así que no se hizo",
        "it could not be audited, so it was not done",
    ),
    "kind.log.unknown_record": ("no está en el registro de consultas", "it is not in the message log"),
    "kind.log.not_stamped": ("todavía no se puede exportar", "it cannot be exported yet"),
    "kind.log.full": ("el registro de consultas está lleno; libere espacio", "the message log is full; free some space"),
    "kind.log.busy": ("el registro de consultas está ocupado; intente otra vez", "the message log is busy; try again"),
    "kind.log.locked": ("otro proceso usa el registro de consultas", "another process uses the message log"),
    "kind.log.key_absent": (
        "las claves del registro esperan al token; conéctelo o desbloquéelo",
        "the log's keys wait for the token; plug it in or unlock it",
    ),
    "kind.log.content_erased": (
        "el contenido se borró al vencer su plazo; búsquelo en el archivo",
        "the content was erased when its term ended; look in the archive",
    ),
    "kind.record.seal_broken": (
        "algo del registro no abre con su clave: fue alterado",
        "something of the log does not open with its key: changed",
    ),
    "kind.record.body_seal_broken": ("el cuerpo guardado fue alterado", "the body that was kept was changed"),
    "kind.log.index_unavailable": ("el índice del registro no está disponible; intente otra vez", "the log's index is away; try again"),
    # configuration and evidence
    "kind.configuration.absent": ("no hay configuración global", "there is no global configuration"),
    "kind.exchange.unknown_instance": (
        "no hay configuración vigente de esa instancia",
        "no valid configuration of that instance",
    ),
    "kind.configuration.authorities_unreadable": (
        "no se puede leer el archivo de autoridades para fuentes https",
        "the file of authorities for https sources cannot be read",
    ),
    "kind.configuration.expired": ("la configuración global venció", "the global configuration has expired"),
    "kind.configuration.malformed": ("la configuración global no se puede leer", "the global configuration cannot be read"),
    "kind.configuration.untrusted": ("la firma de la configuración global no vale", "the global configuration's signature does not hold"),
    "kind.configuration.wrong_instance": ("el ancla es de otra instancia", "the anchor is of another instance"),
    "kind.notice.no_address": (
        "su sistema no tiene dirección: xacbe client set-notices",
        "its system has no address: xacbe client set-notices",
    ),
    "kind.notice.not_taken": ("contestó sin aceptarlo", "it answered without taking it"),
    "kind.notice.not_understood": ("la otra caja no conoce los avisos de retiro", "the other box does not know withdrawal notices"),
    "kind.notice.unknown_message": ("la otra caja no tiene ese mensaje", "the other box does not have this message"),
    "kind.clock.untrusted": (
        "el reloj de la caja difiere más de 5 minutos de la hora firmada; corríjalo",
        "the box's clock is more than 5 minutes off signed time; set it right",
    ),
    "kind.certificate.malformed": ("el certificado no se puede leer", "the certificate cannot be read"),
    # token and keys
    "kind.token.absent": ("no se encuentra el token; revise que esté conectado", "the token is not found; check that it is plugged in"),
    "kind.token.locked": ("el token espera su PIN: xacbe token unlock", "the token waits for its PIN: xacbe token unlock"),
    "kind.token.busy": ("el token está ocupado; intente otra vez", "the token is busy; try again"),
    "kind.token.pin_rejected": ("el token rechazó el PIN; no insista, se bloquea", "the token rejected the PIN; do not insist, it locks"),
    "kind.token.pin_locked": ("el PIN del token está bloqueado; llame a CEIQROO", "the token's PIN is locked; call CEIQROO"),
    "kind.token.pin_unattended": ("el PIN está guardado en la caja y no se cambia así", "the PIN is kept in the box and is not changed so"),
    "kind.token.key_missing": ("el token no tiene esa clave", "the token has no such key"),
    "kind.token.key_exists": ("la clave ya existe y nunca se sobrescribe", "the key exists and is never overwritten"),
    "kind.token.mechanism_missing": ("el token no sabe usar ese algoritmo", "the token cannot do this algorithm"),
    "kind.token.wrong_signature": ("el token dio una firma que no corresponde", "the token gave a signature that does not hold"),
    "kind.key.label_unknown": ("ninguna caja tiene una clave con ese nombre", "no box has a key of that name"),
    "kind.key.no_certificate": ("la clave todavía no tiene certificado", "the key has no certificate yet"),
    "kind.key.not_granted": ("ese proceso no puede usar la clave", "this process may not use the key"),
    "kind.key.subject_malformed": (
        "el sujeto o los nombres pedidos no caben en un certificado",
        "subject or names cannot stand in a certificate",
    ),
    "kind.key.certificate_unfit": ("el certificado no es para esa clave o ese uso", "the certificate is not for this key or use"),
    # CEIQROO
    "kind.centre.missing": ("ahí no hay ninguna instancia de CEIQROO", "there is no instance of CEIQROO"),
    "kind.centre.exists": ("ahí ya hay una instancia de CEIQROO", "there is an instance of CEIQROO already"),
    "kind.centre.corrupt": ("los archivos de la instancia están dañados", "the files of the instance are damaged"),
    "kind.command.challenge_file": ("no es un reto de CEIQROO para esta caja", "not a challenge of CEIQROO to this box"),
    "kind.attestation.challenge": ("el reto no es para este TPM", "the challenge is not for this TPM"),
    "kind.attestation.unverified": ("no se comprobó de qué TPM se trata", "which TPM it is was not proven"),
    "kind.attestation.no_answer": (
        "falta responder al reto: ceiqroo enrolment challenge",
        "no answer to a challenge: ceiqroo enrolment challenge",
    ),
    "kind.attestation.no_tpm": ("la caja tenía un TPM y ahora no da fe con él", "the box had a TPM and does not attest with it now"),
    "kind.attestation.manufacturer": ("no es el certificado de una autoridad", "not the certificate of an authority"),
    "kind.attestation.other_tpm": ("no es el TPM que se dio de alta", "not the TPM that was enrolled"),
    "kind.enrolment.malformed": ("la solicitud de alta no se puede leer", "the enrolment request cannot be read"),
    "kind.enrolment.missing": ("falta algo para el alta", "something is missing for the enrolment"),
    "kind.enrolment.address": ("la dirección no sirve", "the address is of no use"),
    "kind.enrolment.incomplete": ("a la solicitud le faltan claves", "the request lacks keys"),
    "kind.enrolment.other_instance": ("la caja es de otra instancia", "the box is of another instance"),
    "kind.enrolment.suspended": ("el miembro está suspendido", "the member is suspended"),
    "kind.enrolment.unknown_key": ("la solicitud trae una clave que no se certifica", "the request has a key that is not certified"),
    "kind.enrolment.unknown_subsystem": ("el miembro no tiene ese subsistema", "the member has no such subsystem"),
    "kind.registry.unknown": ("no está en el registro de CEIQROO", "it is not in CEIQROO's registry"),
    "kind.registry.conflict": ("se contradice con el registro de CEIQROO", "it contradicts CEIQROO's registry"),
    "kind.registry.name": ("el nombre no es válido", "the name is not valid"),
    "kind.registry.other_instance": ("es de otra instancia", "it is of another instance"),
    "kind.registry.reason": ("no es un motivo de RFC 5280", "not a reason of RFC 5280"),
    "kind.request.key": ("una clave de la solicitud no sirve", "a key of the request is of no use"),
    "kind.request.key_reused": ("una clave de la solicitud ya tiene otro uso", "a key of the request has another use already"),
    "kind.request.name": ("un nombre de la solicitud no sirve", "a name of the request is of no use"),
    "kind.request.signature": ("una firma de la solicitud no corresponde", "a signature of the request does not hold"),
    "kind.serve.address": ("no se puede escuchar en esa dirección", "it cannot listen on that address"),
    "kind.broker.away": ("el broker MQTT no responde", "the MQTT broker does not answer"),
    "kind.broker.refused": ("el broker MQTT rechazó la conexión", "the MQTT broker refused the connection"),
    "kind.lab.failed": ("el laboratorio no quedó en marcha", "the laboratory did not come up"),
    "kind.lab.address": ("el laboratorio no puede usar esas direcciones", "the laboratory cannot use these addresses"),
}
