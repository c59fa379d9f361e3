"""The members that an instance of Quintana Roo begins with.

Data. The eleven municipalities, the state's two institutions and the federal centre of the protocol's introduction; codes are ASCII
because they travel in headers and paths. Every member has SOLOMON, the state ministry also the GEOPORTAL.
"""

from __future__ import annotations

from appliance.model.identifiers import ClientId
from provisioning.registry import Registry

CLASSES = {
    "MUN": "Municipios del Estado de Quintana Roo",
    "EST": "Instituciones del Estado de Quintana Roo",
    "FED": "Instituciones federales",
}

MEMBERS: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("MUN", "BACALAR", "Municipio de Bacalar", ("SOLOMON",)),
    ("MUN", "BENITO-JUAREZ", "Municipio de Benito Juárez", ("SOLOMON",)),
    ("MUN", "COZUMEL", "Municipio de Cozumel", ("SOLOMON",)),
    ("MUN", "FELIPE-CARRILLO-PUERTO", "Municipio de Felipe Carrillo Puerto", ("SOLOMON",)),
    ("MUN", "ISLA-MUJERES", "Municipio de Isla Mujeres", ("SOLOMON",)),
    ("MUN", "JOSE-MARIA-MORELOS", "Municipio de José María Morelos", ("SOLOMON",)),
    ("MUN", "LAZARO-CARDENAS", "Municipio de Lázaro Cárdenas", ("SOLOMON",)),
    ("MUN", "OTHON-P-BLANCO", "Municipio de Othón P. Blanco", ("SOLOMON",)),
    ("MUN", "PUERTO-MORELOS", "Municipio de Puerto Morelos", ("SOLOMON",)),
    ("MUN", "SOLIDARIDAD", "Municipio de Solidaridad", ("SOLOMON",)),
    ("MUN", "TULUM", "Municipio de Tulum", ("SOLOMON",)),
    ("EST", "SSP", "Secretaría de Seguridad Pública de Quintana Roo", ("SOLOMON", "GEOPORTAL")),
    ("EST", "FGE", "Fiscalía General del Estado de Quintana Roo", ("SOLOMON",)),
    ("FED", "CNI", "Centro Nacional de Información", ("SOLOMON",)),
)

_SUBSYSTEM_NAMES = {"SOLOMON": "Solomon", "GEOPORTAL": "Geoportal Municipal"}


def seed(registry: Registry) -> None:
    """Registers classes, members and subsystems in one transaction."""
    with registry.changing():
        for code, description in CLASSES.items():
            registry.add_member_class(code, description)
        for member_class, code, name, subsystems in MEMBERS:
            member = ClientId(registry.instance, member_class, code)
            registry.add_member(member, name)
            for subsystem in subsystems:
                registry.add_subsystem(ClientId(registry.instance, member_class, code, subsystem), _SUBSYSTEM_NAMES[subsystem])
