"""grpc.health.v1 as load balancers and Kubernetes call it."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service import Service
from support.reflected import ReflectedClient

SECONDS = 10
SERVICES = ["", "blip.v1.CaptionService", "inference.GRPCInferenceService"]
SERVING = health_pb2.HealthCheckResponse.SERVING


@pytest.fixture
def stub(service: Service) -> health_pb2_grpc.HealthStub:
    return health_pb2_grpc.HealthStub(service.channel)


def check_request(service: str) -> health_pb2.HealthCheckRequest:
    return health_pb2.HealthCheckRequest(service=service)


@pytest.mark.parametrize("name", SERVICES)
def test_check_and_watch_report_every_service(stub: health_pb2_grpc.HealthStub, name: str) -> None:
    assert stub.Check(check_request(name), timeout=SECONDS).status == SERVING
    watch = stub.Watch(check_request(name), timeout=SECONDS)
    assert next(watch).status == SERVING
    watch.cancel()


def test_an_unknown_service_is_not_found_and_can_be_watched(
    stub: health_pb2_grpc.HealthStub,
) -> None:
    with pytest.raises(grpc.RpcError) as failure:
        stub.Check(check_request("unknown"), timeout=SECONDS)
    assert failure.value.code() is grpc.StatusCode.NOT_FOUND
    watch = stub.Watch(check_request("unknown"), timeout=SECONDS)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()


def test_list_names_every_service(service: Service) -> None:
    # grpcio's stubs lack List; the service's reflection describes it.
    client = ReflectedClient(service.channel, "v1")
    request = client.message("grpc.health.v1.HealthListRequest")
    (reply,) = client.call("grpc.health.v1.Health/List", request)
    assert {name: each.status for name, each in reply.statuses.items()} == dict.fromkeys(
        SERVICES, SERVING
    )


def test_watch_reports_not_serving_at_shutdown_and_the_process_exits_cleanly(
    tmp_path: Path,
) -> None:
    with Service(log=tmp_path / "service.log") as service:
        stub = health_pb2_grpc.HealthStub(service.channel)
        watch = stub.Watch(check_request(""), timeout=SECONDS)
        assert next(watch).status == SERVING
        service.process.terminate()
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert service.process.wait(SECONDS) == 0
