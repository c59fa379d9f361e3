"""Services from a WSDL: what it offers, what it may not be, and what changed in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.access.catalogue import DescriptionError
from appliance.access.descriptions import Operation, compare, operations
from appliance.access.local_configuration import LocalConfigurationStore
from appliance.access.rights import HTTP, OPENAPI3, WSDL, Client, Right, Service
from appliance.access.validation import InvalidValueError
from appliance.access.wsdl import operations_of
from appliance.errors import XacbeError
from provisioning.reference.vehiculos import WSDL_FILE

SUBSYSTEM = "QROO/EST/SSP/SOLOMON"
DOCUMENT = WSDL_FILE.read_bytes()


def test_every_operation_is_a_service_with_its_version_and_address() -> None:
    assert operations_of(DOCUMENT) == tuple(
        Operation(code, "v1", url="http://127.0.10.2:8091/vehiculos")
        for code in ("adjuntaDocumentos", "consultaVehiculo", "recuperaDocumento")
    )
    assert operations_of(DOCUMENT.replace(b"<xrd:version>v1</xrd:version>", b""))[0].version == ""


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"<definitions/>",
        DOCUMENT.replace(b"<wsdl:definitions", b"<!DOCTYPE a><wsdl:definitions"),
        DOCUMENT.replace(b"http://schemas.xmlsoap.org/wsdl/soap/", b"http://schemas.xmlsoap.org/wsdl/soap12/"),
        DOCUMENT.replace(b"<xrd:version>v1</xrd:version>", b"<xrd:version>1</xrd:version><xrd:version>2</xrd:version>"),
        DOCUMENT.replace(b'<wsdl:operation name="consultaVehiculo">', b"<wsdl:operation>"),
        DOCUMENT[:1000],
    ],
)
def test_what_is_no_wsdl_with_soap_services_is_refused(document: bytes) -> None:
    with pytest.raises(DescriptionError):
        operations_of(document)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(DescriptionError):
        operations_of(data)


def test_changes_are_by_name_version_method_and_path_and_not_by_address() -> None:
    before = [Operation("a", "v1", url="x"), Operation("b", "v1")]
    after = [Operation("a", "v1", url="y"), Operation("b", "v2"), Operation("b")]

    changes = compare(before, after)

    assert changes.added == (Operation("b"), Operation("b", "v2"))
    assert changes.removed == (Operation("b", "v1"),)
    assert not compare(before, before)
    rest = Service(f"{SUBSYSTEM}/r", "http://x/", OPENAPI3, endpoints=(("GET", "/a"),))
    assert operations(rest) == (Operation("r", method="GET", path="/a"),)


def filled(directory: Path) -> LocalConfigurationStore:
    store = LocalConfigurationStore(directory, "QROO")
    store.commit(store.plan_client(Client(SUBSYSTEM, HTTP), remove=False))
    return store


def soap(code: str, version: str = "v1") -> Service:
    return Service(f"{SUBSYSTEM}/{code}", "http://x/", WSDL, "/a.wsdl", version=version)


def test_versions_share_their_rights_and_the_last_one_takes_them_along(tmp_path: Path) -> None:
    store = filled(tmp_path)
    store.commit(store.plan_description([soap("a"), soap("a", "v2"), soap("b")], [], DOCUMENT))
    store.commit(store.plan_right(Right(f"{SUBSYSTEM}/a", "GROUP:todos"), remove=False))
    assert [(one.id.rpartition("/")[2], one.version) for one in store.services] == [("a", "v1"), ("a", "v2"), ("b", "v1")]
    assert (tmp_path / "descriptions" / f"{store.services[0].document}.wsdl").read_bytes() == DOCUMENT

    store.commit(store.plan_description([soap("b")], [soap("a")], DOCUMENT + b"\n"))
    assert [(one.id.rpartition("/")[2], one.version) for one in store.services] == [("a", "v2"), ("b", "v1")]
    assert len(store.rights) == 1

    change = store.plan_description([soap("b")], [soap("a", "v2")], DOCUMENT)
    assert change.facts["rights"] == "1"
    store.commit(change)
    assert (len(store.services), store.rights) == (1, ())
    assert LocalConfigurationStore(tmp_path, "QROO").services == store.services


@pytest.mark.parametrize(
    "services",
    [
        [],
        [Service(f"{SUBSYSTEM}/a", "http://x/")],
        [soap("listMethods")],
        [soap("a", "v/../1\n")],
        [Service(f"{SUBSYSTEM}/a", "ftp://x/", WSDL)],
        [Service(f"{SUBSYSTEM}/rest", "http://x/", WSDL, "/a.wsdl")],
    ],
)
def test_what_no_wsdl_may_put_into_the_configuration_is_refused(tmp_path: Path, services: list[Service]) -> None:
    store = filled(tmp_path)
    store.commit(store.plan_service(Service(f"{SUBSYSTEM}/rest", "http://x/"), remove=False))

    with pytest.raises(XacbeError):
        store.plan_description(services, [], DOCUMENT)


def test_only_soap_services_have_versions_and_a_service_stays_in_its_protocol(tmp_path: Path) -> None:
    store = filled(tmp_path)
    with pytest.raises(InvalidValueError, match="versions"):
        store.plan_service(Service(f"{SUBSYSTEM}/r", "http://x/", version="v1"), remove=False)
    store.commit(store.plan_description([soap("a")], [], DOCUMENT))
    with pytest.raises(InvalidValueError, match="other protocol"):
        store.plan_service(Service(f"{SUBSYSTEM}/a", "http://x/"), remove=False)


def test_a_row_from_before_there_were_versions_is_the_same_service(tmp_path: Path) -> None:
    store = filled(tmp_path)
    service = Service(f"{SUBSYSTEM}/r", "http://x/")
    store.commit(store.plan_service(service, remove=False))
    with store.storage.change():
        store._tables.table("services").update(lambda row: row.pop("version"))
    store._load()

    store.commit(store.plan_service(Service(f"{SUBSYSTEM}/r", "http://y/"), remove=False))

    assert [one.url for one in store.services] == ["http://y/"]
