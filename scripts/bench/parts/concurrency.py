"""Concurrent against sequential requests on int8 BLIP-large, and the peak memory."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from statistics import mean

from bench.images import jpegs
from bench.measure import interleave, measure_seconds, ratios
from bench.models import bundle_bytes
from bench.settings import Result, Settings
from bench.subjects.served import MAX_ROWS, Client, Counters, body, start_service
from reliability.load.resident import status_bytes

_PRECISION = "int8"
_ROW_BYTES = 48_000_000
_BASE_BYTES = 200_000_000


def measure(settings: Settings) -> Result:
    """Measure all requests in sequence, then all at once."""
    bundle = settings.model.bundles[_PRECISION]
    requests = [body(image) for image in jpegs(settings.requests)]
    result = Result()
    with start_service(settings, {_PRECISION: bundle}) as service:
        before = Counters.read(service, _PRECISION)

        def in_a_row(_: int) -> list[float]:
            client = Client(service)
            return [client.caption(request)[0] for request in requests]

        def at_once(_: int) -> tuple[float, list[float]]:
            latencies: list[float] = []
            # New connections, because the service may have closed idle ones in the other subject's turn.
            clients = [Client(service) for _ in requests]

            def all_answered() -> None:
                answers = pool.map(Client.caption, clients, requests)
                latencies.extend(seconds for seconds, _ in answers)

            return measure_seconds(all_answered), latencies

        with ThreadPoolExecutor(len(requests)) as pool:
            seen = interleave({"row": in_a_row, "once": at_once}, settings.pick(3, quick=1))
        result.details["counters"] = Counters.read(service, _PRECISION).since(before).json()
        peak = status_bytes(service.process.pid, "VmHWM")
    row = [sum(times) for times in seen["row"]]
    once = [total for total, _ in seen["once"]]
    # First come, first served: each request waits for all requests before it.
    served_in_order = [mean(accumulate(times)) for times in seen["row"]]
    latency = [mean(latencies) for _, latencies in seen["once"]]
    result.add("16 at once / 16 in a row", ratios(once, row))
    result.add("mean latency / first come first served", ratios(latency, served_in_order))
    result.add_seconds({"all in a row": row, "all at once": once, "mean latency": latency})
    allowed = 1.5 * bundle_bytes(bundle) + _ROW_BYTES * MAX_ROWS + _BASE_BYTES
    result.add("peak memory / allowed", [peak / allowed])
    result.details |= {"peak bytes": peak, "allowed bytes": int(allowed)}
    return result
