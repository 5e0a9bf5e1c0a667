"""A town in a network of its own: public and private servers that all answer."""

from __future__ import annotations

import datetime
import ipaddress
import os
import ssl
import threading
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from support.ssrf.answers import PUBLIC
from support.ssrf.dns import NameServer, Zone
from support.ssrf.town import Town
from support.ssrf.web import Web

PUBLIC_V6 = "2606:2800:220:1::1"
ELSEWHERE = "93.184.216.36"
"""The address of every name that is not in the zone."""
PROXY = ("10.9.8.7", 3128)
WEB_PORTS = (80, 8000, PROXY[1])
TLS_PORT = 443
CLOSED_PORT = 81
MANY = [f"93.184.217.{number}" for number in range(1, 61)]

ZONE: Zone = {
    "www.example.org": [[PUBLIC]],
    "six.example.org": [[PUBLIC_V6]],
    "both.example.org": [[PUBLIC, PUBLIC_V6]],
    "one.example.org": [[MANY[0]]],
    "many.example.org": [MANY],
    "mixed.example.org": [[PUBLIC, "10.0.0.1"]],
    "mixed-six.example.org": [[PUBLIC, "fd00:ec2::254"]],
    "last-of-many.example.org": [[*MANY, "127.0.0.1"]],
    "private.example.org": [["192.168.0.1"]],
    "private-six.example.org": [["::1"]],
    "mapped.example.org": [["::ffff:169.254.169.254"]],
    "nat64.example.org": [["64:ff9b::a9fe:a9fe"]],
    "metadata.example.org": [["169.254.169.254"]],
    # With a dot at its end it is not found in /etc/hosts.
    "localhost": [["127.0.0.1"]],
    "slow.example.org": None,
    # Each is looked up by one test only: public first, then not.
    "rebound.example.org": [[PUBLIC], ["127.0.0.1"]],
    "rebound-hop.example.org": [[PUBLIC], ["169.254.169.254"]],
    "rebound-six.example.org": [[PUBLIC_V6], ["::1"]],
}


class Internet(Town):
    """Servers on every address there is, names, and proxies in the environment that nobody may use."""

    def __init__(self, folder: str) -> None:
        super().__init__(Path(folder))
        self.names = NameServer(("127.0.0.1", 53), ZONE, ELSEWHERE)
        threading.Thread(target=self.names.serve_forever, daemon=True).start()
        tls = _tls(self.folder)
        for address in ("0.0.0.0", "::"):
            self.webs += [Web((address, port), self.visits) for port in WEB_PORTS]
            self.webs.append(Web((address, TLS_PORT), self.visits, tls))
        proxy = "http://{}:{}".format(*PROXY)
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            os.environ[name] = os.environ[name.upper()] = proxy
        os.environ.pop("no_proxy", None)
        os.environ.pop("NO_PROXY", None)

    def looked_up(self) -> list[str]:
        """Names that were asked for since the last call."""
        asked, self.names.asked = self.names.asked, []
        return asked

    def tried(self) -> int:
        """Connections that this network has ever tried to make."""
        lines = [line.split() for line in Path("/proc/net/snmp").read_text().splitlines()]
        names, values = [line for line in lines if line[0] == "Tcp:"]
        return int(values[names.index("ActiveOpens")])


def _tls(folder: Path) -> ssl.SSLContext:
    """A certificate for the public names, which the services of this process trust."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "www.example.org")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("*.example.org"), x509.IPAddress(ipaddress.ip_address(PUBLIC))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    plain = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    chain, secret = folder / "server.pem", folder / "server.key"
    chain.write_bytes(certificate.public_bytes(pem))
    secret.write_bytes(key.private_bytes(pem, *plain))
    os.environ["SSL_CERT_FILE"] = str(chain)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, secret)
    return context
