"""A simulated Internet in a network namespace: every public and private address has a web server."""

from __future__ import annotations

import ipaddress
import os
import ssl
import threading
from pathlib import Path

from cryptography import x509

from support.certificates import CertificateAuthority
from support.ssrf.dns import NameServer, Zone
from support.ssrf.network import SimulatedNetwork
from support.ssrf.web import PUBLIC, WebServer

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
    # "localhost." with its final dot is not found in /etc/hosts.
    "localhost": [["127.0.0.1"]],
    "slow.example.org": None,
    # Each is used by one test only: its first address is public, its second is not.
    "rebound.example.org": [[PUBLIC], ["127.0.0.1"]],
    "rebound-hop.example.org": [[PUBLIC], ["169.254.169.254"]],
    "rebound-six.example.org": [[PUBLIC_V6], ["::1"]],
}


class SimulatedInternet(SimulatedNetwork):
    """Web servers on every address, a name server, and proxies in the environment that must not be used."""

    def __init__(self, folder: str) -> None:
        super().__init__(Path(folder))
        self.name_server = NameServer(("127.0.0.1", 53), ZONE, ELSEWHERE)
        threading.Thread(target=self.name_server.serve_forever, daemon=True).start()
        tls = _make_tls_context(self.folder)
        for address in ("0.0.0.0", "::"):
            self.servers += [WebServer((address, port), self.traffic) for port in WEB_PORTS]
            self.servers.append(WebServer((address, TLS_PORT), self.traffic, tls))
        proxy = "http://{}:{}".format(*PROXY)
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            os.environ[name] = os.environ[name.upper()] = proxy
        os.environ.pop("no_proxy", None)
        os.environ.pop("NO_PROXY", None)

    def take_lookups(self) -> list[str]:
        """Returns the names that were looked up since the last call."""
        lookups, self.name_server.lookups = self.name_server.lookups, []
        return lookups

    def count_connection_attempts(self) -> int:
        """Returns how many connections this network namespace has tried to make."""
        lines = [line.split() for line in Path("/proc/net/snmp").read_text().splitlines()]
        names, values = [line for line in lines if line[0] == "Tcp:"]
        return int(values[names.index("ActiveOpens")])


def _make_tls_context(folder: Path) -> ssl.SSLContext:
    """Makes a certificate for the public names, whose authority the services of this process trust."""
    names = [x509.DNSName("*.example.org"), x509.IPAddress(ipaddress.ip_address(PUBLIC))]
    authority = CertificateAuthority(folder, "authority", names)
    files = authority.sign("www.example.org")
    os.environ["SSL_CERT_FILE"] = str(authority.file)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    return context
