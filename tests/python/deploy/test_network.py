"""The chart's services, network policy, autoscaling and monitoring."""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path

import pytest

from release.manifests import CHART, NAME
from support.deploy.chart import VALUES, pod_spec, render
from support.deploy.manifests import Object, objects, one


def test_services_declare_the_protocol(tmp_path: Path) -> None:
    found = render(tmp_path, {})
    ports = {port["name"]: port for port in one(found, "Service", NAME)["spec"]["ports"]}
    assert {port["targetPort"] for port in ports.values()} == {"http"}
    assert ports["grpc"]["appProtocol"] == "kubernetes.io/h2c"
    headless = one(found, "Service", "-headless")["spec"]
    assert headless["clusterIP"] == "None"
    # A client that resolves the headless service connects to the pods.
    named = {
        port["name"]: port["containerPort"] for port in pod_spec(found)["containers"][0]["ports"]
    }
    assert {port["port"] for port in headless["ports"]} == set(named.values())
    secure = one(render(tmp_path, VALUES["tls"]), "Service", NAME)["spec"]["ports"]
    assert {port["appProtocol"] for port in secure} == {"https"}


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "168.63.129.16",
        "100.100.100.200",
        "192.0.0.192",
        "fd00:ec2::254",
        "10.1.2.3",
        "172.31.0.1",
        "192.168.1.1",
        "127.0.0.1",
        "fe80::1",
        "::1",
        "64:ff9b::a00:1",
    ],
)
def test_images_are_not_fetched_from_metadata_and_private_addresses(
    tmp_path: Path, address: str
) -> None:
    assert not is_allowed(render(tmp_path, {}), address)


@pytest.mark.parametrize("address", ["93.184.216.34", "172.32.0.1", "2606:2800:220:1::1"])
def test_images_are_fetched_from_the_internet(tmp_path: Path, address: str) -> None:
    assert is_allowed(render(tmp_path, {}), address)
    assert not is_allowed(render(tmp_path, {"networkPolicy": {"fetchPorts": []}}), address)


def is_allowed(found: list[Object], address: str) -> bool:
    """Whether the network policy lets a pod connect to this address, on port 443."""
    target = ipaddress.ip_address(address)
    for rule in one(found, "NetworkPolicy")["spec"]["egress"]:
        if 443 not in [port["port"] for port in rule["ports"]]:
            continue
        for block in (peer["ipBlock"] for peer in rule["to"] if "ipBlock" in peer):
            inside = target in ipaddress.ip_network(block["cidr"])
            if inside and not any(target in ipaddress.ip_network(n) for n in block["except"]):
                return True
    return False


def test_only_monitoring_and_the_test_reach_the_admin_port(tmp_path: Path) -> None:
    found = render(tmp_path, {})
    (rule,) = [
        rule
        for rule in one(found, "NetworkPolicy")["spec"]["ingress"]
        if rule["ports"][0]["port"] == "admin"
    ]
    labels = one(found, "Pod")["metadata"]["labels"]
    assert rule["from"][0]["podSelector"]["matchLabels"] == labels
    assert "namespaceSelector" in rule["from"][1] and len(rule["from"]) == 2
    # The pod of the Helm test must not get requests for the service.
    selector = one(found, "Service", NAME)["spec"]["selector"]
    assert not selector.items() <= labels.items()


def test_autoscaling_uses_the_configured_metrics(tmp_path: Path) -> None:
    found = render(tmp_path, VALUES["hpa"])
    metrics = one(found, "HorizontalPodAutoscaler")["spec"]["metrics"]
    assert [metric["type"] for metric in metrics] == ["Resource", "Pods"]
    assert metrics[1]["pods"]["metric"]["name"] == "blip_requests_in_flight"
    assert "replicas" not in one(found, "Deployment")["spec"]
    scaled = one(render(tmp_path, VALUES["keda"]), "ScaledObject")["spec"]
    assert [trigger["type"] for trigger in scaled["triggers"]] == ["cpu", "prometheus"]
    assert 'pod=~"blip-serve-.+"' in scaled["triggers"][1]["metadata"]["query"]
    assert scaled["scaleTargetRef"]["name"] == NAME
    assert one(render(tmp_path, {}), "Deployment")["spec"]["replicas"] == 2


def test_monitoring_selects_the_pods_and_has_the_rules(tmp_path: Path) -> None:
    found = render(tmp_path, VALUES["monitoring"])
    monitor = one(found, "ServiceMonitor")
    labels = one(found, "Service", "-headless")["metadata"]["labels"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    main = one(found, "Service", NAME)["metadata"]["labels"]
    assert not monitor["spec"]["selector"]["matchLabels"].items() <= main.items()
    (rules,) = objects((CHART / "files" / "alerts.yaml").read_text())
    assert one(found, "PrometheusRule")["spec"] == rules
    dashboard = one(found, "ConfigMap", "-dashboard")["data"]["blip-serve.json"]
    assert json.loads(dashboard) == json.loads((CHART / "files" / "dashboard.json").read_text())
