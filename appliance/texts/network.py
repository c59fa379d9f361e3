"""What a person reads of CEIQROO: the demonstration, the fleet, enrolment (`appliance.texts` has the catalogue)."""

from __future__ import annotations

NETWORK_TEXTS: dict[str, tuple[str, str]] = {
    # the demonstration
    "demo.language": ("es", "en"),
    "demo.title": (
        "Una red de laboratorio: CEIQROO y tres servidores de seguridad",
        "A laboratory network: CEIQROO and three security servers",
    ),
    "demo.up": ("red en operación en {seconds} s", "network operational in {seconds} s"),
    "demo.down": ("Red detenida. `make demo KEEP=1` la deja funcionando.", "Network stopped. `make demo KEEP=1` leaves it running."),
    "demo.exchange": (
        "Un intercambio: entra el mensaje, se sella, se registra, se entrega, se contesta",
        "An exchange: message in, sealed, logged, delivered, answered",
    ),
    "demo.incident": ("incidente ficticio de demostración", "fictional incident of the demonstration"),
    "demo.twenty": ("20 consultas más, una tras otra: {ms} ms cada una", "20 more, one after the other: {ms} ms each"),
    "demo.refusal": ("Sin derecho de acceso no hay intercambio", "Without an access right there is no exchange"),
    "demo.log": ("El registro de consultas de ambos lados, con su sello de tiempo", "The message log of both sides, with its time stamps"),
    "demo.request": ("solicitud", "request"),
    "demo.response": ("respuesta", "response"),
    "demo.stamped": ("sellado de tiempo", "time-stamped"),
    "demo.export": ("La solicitud, exportada como contenedor ASiC-E", "The request, exported as an ASiC-E container"),
    "demo.xacbe": ("La cree `xacbe verify`", "Believed by `xacbe verify`"),
    "demo.openssl": (
        "La cree OpenSSL por sí solo: este guion corta los bytes firmados",
        "Believed by OpenSSL alone: this script cuts the signed bytes",
    ),
    "demo.believed": ("Ambos verificadores la creen.", "Both verifiers believe it."),
    "demo.kept": ("La red sigue en marcha", "The network goes on running"),
    # fleet
    "fleet.title": ("Cajas de la red: {boxes}", "Boxes of the network: {boxes}"),
    "fleet.box": ("Caja", "Box"),
    "fleet.state": ("Estado", "State"),
    "fleet.age": ("Reporte", "Report"),
    "fleet.processes": ("Proc.", "Proc."),
    "fleet.token": ("Token", "Token"),
    "fleet.ocsp": ("OCSP", "OCSP"),
    "fleet.stamp": ("Sello", "Stamp"),
    "fleet.incidents": ("Inc.", "Inc."),
    "fleet.silent": ("sin respuesta: {names}", "silent: {names}"),
    "fleet_state.OPERATIONAL": ("en operación", "operational"),
    "fleet_state.AUTONOMOUS": ("autónoma", "autonomous"),
    "fleet_state.SEALING_STOPPED": ("no sella", "sealing stopped"),
    "fleet_state.LOCKED": ("bloqueada", "locked"),
    "fleet_state.UNPROVISIONED": ("sin alta", "unprovisioned"),
    "fleet_state.SUSPENDED": ("suspendida", "suspended"),
    "fleet_state.TERMINATED": ("dada de baja", "terminated"),
    "fleet_state.HELD": ("detenida", "held"),
    "fleet_state.DEAD": ("MUERTA", "DEAD"),
    "fleet_state.UNHEARD": ("sin noticias", "not heard yet"),
    "fleet_state.UNKNOWN": ("desconocido", "unknown"),
    # enrolment
    "enrolment.help": ("alta de la caja: solicitar certificados e instalarlos", "enrolment of the box: ask for certificates, install them"),
    "enrolment.request": ("crea las claves que falten y escribe las solicitudes", "make the missing keys and write the requests"),
    "enrolment.install": ("instala los certificados y el ancla de CEIQROO", "install CEIQROO's certificates and anchor"),
    "enrolment.out": ("archivo de la solicitud", "file of the request"),
    "enrolment.member": (
        "miembro al que la caja también sirve (CLASE/CÓDIGO); repetible",
        "a member that the box serves besides its owner (CLASS/CODE); may be repeated",
    ),
    "enrolment.file": ("respuesta de CEIQROO", "CEIQROO's answer"),
    "enrolment.key_ready": ("clave lista en el token: {label}", "key ready in the token: {label}"),
    "enrolment.tpm": (
        "el TPM da fe de cada clave; CEIQROO enviará un reto: xacbe attestation answer",
        "the TPM vouches for every key; CEIQROO will send a challenge: xacbe attestation answer",
    ),
    "enrolment.installed": ("{count} certificados instalados; ancla instalada", "{count} certificates installed; anchor installed"),
}
