"""The time that the service adds to the runs of ONNX Runtime for one BLIP-large caption."""

from __future__ import annotations

from bench.images import jpegs
from bench.settings import Result, Settings
from bench.subjects.served import Client, Counters, body, start_service


def measure(settings: Settings) -> Result:
    """Measure the share of a request's time outside the runs of graphs, by the service's clock."""
    result = Result()
    for precision, bundle in settings.model.bundles.items():
        with start_service(settings, {precision: bundle}) as service:
            client = Client(service)
            outside, outside_engine = [], []
            for index, image in enumerate(jpegs(settings.pick(30) + 1)):
                before = Counters.read(service, precision)
                client.caption(body(image))
                # The first request is the warm-up.
                if index:
                    done = Counters.read(service, precision).since(before)
                    outside.append(done.outside_run())
                    engine = done.stages["queue"] + done.stages["compute_infer"]
                    outside_engine.append(1 - engine / done.stages["success"])
        if None not in outside:
            result.add(f"outside Run, {precision}", outside)
        result.add(f"outside the engine, {precision}", outside_engine)
    return result
