"""What a box reads of a SOAP message: who asks whom, and faults; never more than that, and never through a DTD."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import XacbeError
from appliance.model.identifiers import ClientId, ServiceId
from appliance.model.xml_input import XmlRefusedError
from appliance.net.soap_reader import (
    MARKS_MAX,
    SoapBodyError,
    SoapEnvelopeMissingError,
    SoapHeaderDuplicateError,
    SoapHeaderMissingError,
    SoapMalformedError,
    SoapNoBodyError,
    SoapNoHeaderError,
    read_fault,
    read_header,
)

ID = "<xrd:id>q-1</xrd:id>"
CLIENT = (
    '<xrd:client id:objectType="SUBSYSTEM"><id:xRoadInstance>DEV</id:xRoadInstance><id:memberClass>COM</id:memberClass>'
    "<id:memberCode>4321</id:memberCode><id:subsystemCode>TestClient</id:subsystemCode></xrd:client>"
)
SERVICE = (
    '<xrd:service id:objectType="SERVICE"><id:xRoadInstance>DEV</id:xRoadInstance><id:memberClass>COM</id:memberClass>'
    "<id:memberCode>1234</id:memberCode><id:serviceCode>ping</id:serviceCode><id:serviceVersion>v1</id:serviceVersion></xrd:service>"
)


def envelope(header: str = CLIENT + SERVICE + ID, body: str = "<x:ping xmlns:x='urn:x'/>") -> bytes:
    return (
        '<?xml version="1.0" encoding="UTF-8"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"'
        ' xmlns:id="http://x-road.eu/xsd/identifiers" xmlns:xrd="http://x-road.eu/xsd/xroad.xsd">'
        f"<s:Header>{header}</s:Header><s:Body>{body}</s:Body></s:Envelope>"
    ).encode()


def test_the_parties_of_a_request_are_read() -> None:
    header = read_header(b"\xef\xbb\xbf" + envelope())

    assert header.client == ClientId("DEV", "COM", "4321", "TestClient")
    assert header.service == ServiceId(ClientId("DEV", "COM", "1234"), "ping", "v1")
    assert (header.query_id, header.body_name, header.is_response) == ("q-1", "ping", False)
    assert header.sender == header.client


def test_an_answer_is_the_providers() -> None:
    assert read_header(envelope(body="<pingResponse/>")).sender == ClientId("DEV", "COM", "1234")
    assert read_header(envelope(SERVICE.replace("ping", "pingResponse") + CLIENT + ID, "<pingResponse/>")).sender.member_code == "4321"


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (envelope(CLIENT + ID), SoapHeaderMissingError),
        (envelope(SERVICE + ID), SoapHeaderMissingError),
        (envelope(CLIENT + SERVICE), SoapHeaderMissingError),
        (envelope(CLIENT + CLIENT + SERVICE + ID), SoapHeaderDuplicateError),
        (envelope(CLIENT + SERVICE + ID + ID), SoapHeaderDuplicateError),
        (
            envelope(CLIENT.replace("</id:memberCode>", "</id:memberCode><id:memberCode>2</id:memberCode>") + SERVICE + ID),
            SoapHeaderDuplicateError,
        ),
        (envelope(CLIENT.replace("SUBSYSTEM", "MEMBER") + SERVICE + ID), SoapMalformedError),
        (envelope(CLIENT.replace("SUBSYSTEM", "SERVICE") + SERVICE + ID), SoapMalformedError),
        (envelope(CLIENT + SERVICE.replace("SERVICE", "SERVER") + ID), SoapMalformedError),
        (envelope(CLIENT.replace("4321", "") + SERVICE + ID), SoapMalformedError),
        (envelope(CLIENT + SERVICE.replace("<id:serviceCode>ping</id:serviceCode>", "") + ID), SoapHeaderMissingError),
        (envelope(CLIENT + SERVICE + "<xrd:id/>"), SoapMalformedError),
        (envelope(body=""), SoapBodyError),
        (envelope(body="<a/><b/>"), SoapBodyError),
        (envelope().replace(b"s:Body", b"s:Bodies"), SoapNoBodyError),
        (envelope().replace(b"s:Header", b"s:Headers"), SoapNoHeaderError),
        (b"<x/>", SoapEnvelopeMissingError),
        (b"", XmlRefusedError),
        (b"<!DOCTYPE s [<!ENTITY a SYSTEM 'file:///etc/passwd'>]>" + envelope()[38:], XmlRefusedError),
        (b"<a>" * 5000, XmlRefusedError),
    ],
)
def test_what_is_no_soap_message_of_x_road_is_refused(data: bytes, error: type[XacbeError]) -> None:
    with pytest.raises(error):
        read_header(data)


@pytest.mark.case("T05")
def test_a_list_of_100_000_rows_is_read_and_more_elements_or_attributes_than_that_are_refused_unparsed() -> None:
    assert read_header(envelope(body=f"<x:ping xmlns:x='urn:x'>{'<r>1</r>' * 100_000}</x:ping>")).body_name == "ping"

    many = " ".join(f'a{at}=""' for at in range(MARKS_MAX))
    for body in ("<a/>" * MARKS_MAX, f"<a {many}/>"):
        with pytest.raises(XmlRefusedError, match="more than 300000 marks"):
            read_header(envelope(body=f"<x:ping xmlns:x='urn:x'>{body}"))


def test_a_fault_is_told_from_a_message() -> None:
    assert read_fault(envelope()) is None
    fault = read_fault(envelope("", "<s:Fault><faultcode> a.b </faultcode><faultstring>c</faultstring></s:Fault>"))
    assert fault is not None
    assert (fault.code, fault.message, fault.detail) == ("a.b", "c", "")


@given(
    st.lists(st.sampled_from([CLIENT, SERVICE, ID, "<", "</s:Header>", "&a;", "<xrd:id>", "]]>"]) | st.text(max_size=5), max_size=6).map(
        "".join
    )
)
def test_arbitrary_headers_give_facts_or_one_of_our_errors(header: str) -> None:
    try:
        assert read_header(envelope(header)).query_id
    except XacbeError:
        pass
