"""A real mosquitto with mutual TLS on a loopback address of its own, and a host that listens to it."""

from __future__ import annotations

import datetime
import ipaddress
import shutil
import socket
import ssl
import subprocess
import time
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from paho.mqtt.enums import CallbackAPIVersion

from appliance.clock import SystemClock, from_us
from appliance.net import sparkplug
from appliance.net.sparkplug import Kind, Payload, Topic

needs_mosquitto = pytest.mark.skipif(shutil.which("mosquitto", path="/usr/sbin:/usr/bin") is None, reason="mosquitto is not installed")


class TestAuthority:
    """A root that signs what a broker test needs; keys in files."""

    __test__ = False

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test root")])
        self.certificate = self._signed(self._name, self._key.public_key(), x509.BasicConstraints(ca=True, path_length=None))
        self.ca = directory / "ca.pem"
        self.ca.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, address: str | None = None) -> tuple[Path, Path]:
        """Certificate and key files for a broker (`address`) or a client."""
        key = ec.generate_private_key(ec.SECP256R1())
        alternative = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]) if address else None
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._signed(subject, key.public_key(), x509.BasicConstraints(ca=False, path_length=None), alternative)
        files = self.directory / f"{name}.pem", self.directory / f"{name}.key"
        files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        pkcs8 = serialization.PrivateFormat.PKCS8
        files[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, pkcs8, serialization.NoEncryption()))
        return files

    def _signed(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePublicKey,
        basic: x509.BasicConstraints,
        alternative: x509.SubjectAlternativeName | None = None,
    ) -> x509.Certificate:
        now = from_us(SystemClock().now_us())
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name).public_key(key)
        builder = builder.serial_number(x509.random_serial_number()).add_extension(basic, critical=True)
        if basic.ca:
            signs = {"key_cert_sign": True, "digital_signature": True, "crl_sign": True}
            others = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only")
            builder = builder.add_extension(x509.KeyUsage(**signs, **dict.fromkeys(others, False)), critical=True)
        builder = builder.not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(now + datetime.timedelta(days=1))
        if alternative is not None:
            builder = builder.add_extension(alternative, critical=False)
        # asked for where Python checks strictly (3.13)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        return builder.sign(self._key, hashes.SHA256())


class Broker:
    """mosquitto as CEIQROO's broker is set up: TLS, client certificates required, no persistence."""

    def __init__(self, directory: Path, authority: TestAuthority, address: str) -> None:
        self.address, self.port, self._directory = address, free_port(address), directory
        certificate, key = authority.issue("broker", address)
        lines = [
            f"listener {self.port} {address}",
            f"cafile {authority.ca}",
            f"certfile {certificate}",
            f"keyfile {key}",
            "require_certificate true",
            "use_identity_as_username true",
            "allow_anonymous false",
            "persistence false",
            "user root",  # as root it would become a user that cannot read the test's directory
        ]
        (directory / "mosquitto.conf").write_text("\n".join(lines) + "\n")
        self.start()

    def start(self) -> None:
        program = shutil.which("mosquitto", path="/usr/sbin:/usr/bin")
        assert program is not None
        with (self._directory / "mosquitto.log").open("ab") as log:
            self.child = subprocess.Popen([program, "-c", self._directory / "mosquitto.conf"], stdout=log, stderr=log)
        deadline = time.monotonic() + 5
        while True:
            try:
                socket.create_connection((self.address, self.port), 1).close()
                return
            except OSError:
                if time.monotonic() > deadline:
                    self.stop()
                    pytest.fail((self._directory / "mosquitto.log").read_text())
                time.sleep(0.05)

    def stop(self) -> None:
        self.child.kill()
        self.child.wait(5)


class Host:
    """CEIQROO's side: everything that is published, decoded, in order."""

    def __init__(self, broker: Broker, authority: TestAuthority, name: str = "monitor") -> None:
        self.heard: list[tuple[Topic, Payload]] = []
        certificate, key = authority.issue(name)
        context = ssl.create_default_context(cafile=str(authority.ca))
        context.load_cert_chain(certificate, key)
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, name, protocol=mqtt.MQTTv5)
        self._client.tls_set_context(context)
        self._client.on_message = self._message
        self._client.on_connect = lambda client, *_: client.subscribe("spBv1.0/#", qos=1)
        self._client.connect(broker.address, broker.port, 30)
        self._client.loop_start()

    def _message(self, client: mqtt.Client, userdata: object, message: mqtt.MQTTMessage) -> None:
        assert not message.retain
        topic = Topic.parse(message.topic)
        if topic.kind != Kind.NCMD:
            self.heard.append((topic, sparkplug.decode(bytes(message.payload))))

    def of(self, kind: str, device: str | None = None) -> list[Payload]:
        return [payload for topic, payload in self.heard if topic.kind == kind and topic.device == device]

    def publish(self, topic: str, payload: bytes, retain: bool = False) -> None:
        self._client.publish(topic, payload, qos=1, retain=retain).wait_for_publish(5)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def free_port(address: str) -> int:
    with socket.socket() as sock:
        sock.bind((address, 0))
        port: int = sock.getsockname()[1]
        return port
