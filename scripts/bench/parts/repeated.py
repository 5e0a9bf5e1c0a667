"""Repeated requests with caches: they are answered without running a graph; the speed-up."""

from __future__ import annotations

from bench.images import jpegs
from bench.settings import Result, Settings
from bench.subjects.served import Caches, Client, Counters, body, start_service

_CACHES = Caches(captions=16_000_000, images=512_000_000)
_PRECISION = "int8"


def measure(settings: Settings) -> Result:
    """Send each image twice."""
    result = Result()
    with start_service(
        settings, {_PRECISION: settings.model.bundles[_PRECISION]}, _CACHES
    ) as service:
        client = Client(service)
        client.caption(body(jpegs(1, seed=1)[0]))
        first, again, unchanged = [], [], []
        for image in jpegs(settings.pick(10)):
            request = body(image)
            seconds, caption = client.caption(request)
            first.append(seconds)
            before = Counters.read(service, _PRECISION)
            seconds, repeated = client.caption(request)
            again.append(seconds)
            done = Counters.read(service, _PRECISION).since(before)
            encoded = done.encoder and done.encoder.count
            unchanged.append(not done.decoder and not encoded and repeated == caption)
    result.add("first answer / repeated", [a / b for a, b in zip(first, again, strict=True)])
    result.add_seconds({"first": first, "repeated": again})
    result.details["repeats with no run and the same caption"] = (
        f"{sum(unchanged)} of {len(unchanged)}"
    )
    return result
