"""Fields of KServe's objects that its own descriptions do not have, as a JSON list.

    kserve_fields.py '{"kind": "V1alpha1ServingRuntime", "value": {...}}'

A program of its own: kserve's and tritonclient's messages do not fit into one process.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import kserve.models
import kubernetes.client


def unknown(value: Any, kind: str, path: str) -> list[str]:
    """Fields that a type of KServe's or Kubernetes' does not have."""
    if match := re.fullmatch(r"list\[(.+)\]", kind):
        assert isinstance(value, list), path
        return [u for i, item in enumerate(value) for u in unknown(item, match[1], f"{path}[{i}]")]
    model = getattr(kserve.models, kind, None) or getattr(kubernetes.client, kind, None)
    if model is None or not hasattr(model, "openapi_types"):
        return []
    names = {written: name for name, written in model.attribute_map.items()}
    missing = [f"{path}.{field}" for field in value if field not in names]
    for field in value.keys() & names.keys():
        missing += unknown(value[field], model.openapi_types[names[field]], f"{path}.{field}")
    return missing


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    print(json.dumps(unknown(asked["value"], asked["kind"], "r")))
