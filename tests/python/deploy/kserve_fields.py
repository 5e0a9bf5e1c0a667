"""Fields of KServe objects that KServe's descriptions do not have, as a JSON list.

    kserve_fields.py '{"kind": "V1alpha1ServingRuntime", "value": {...}}'

A separate program: kserve and tritonclient register the same messages, which one process cannot.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import kserve.models
import kubernetes.client


def unknown_fields(value: Any, kind: str, path: str) -> list[str]:
    """Returns the fields that a type of KServe or Kubernetes does not have."""
    if match := re.fullmatch(r"list\[(.+)\]", kind):
        assert isinstance(value, list), path
        return [
            u
            for i, item in enumerate(value)
            for u in unknown_fields(item, match[1], f"{path}[{i}]")
        ]
    model = getattr(kserve.models, kind, None) or getattr(kubernetes.client, kind, None)
    if model is None or not hasattr(model, "openapi_types"):
        return []
    names = {written: name for name, written in model.attribute_map.items()}
    missing = [f"{path}.{field}" for field in value if field not in names]
    for field in value.keys() & names.keys():
        missing += unknown_fields(
            value[field], model.openapi_types[names[field]], f"{path}.{field}"
        )
    return missing


if __name__ == "__main__":
    request = json.loads(sys.argv[1])
    print(json.dumps(unknown_fields(request["value"], request["kind"], "r")))
