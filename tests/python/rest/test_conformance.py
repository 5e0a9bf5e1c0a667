"""docs/conformance.md holds the responses of a running service, and every kind of error on both transports."""

from __future__ import annotations

import difflib
import re
import subprocess
import sys
from http import HTTPStatus

import pytest

from support.clients import ROOT, SECONDS

DOCUMENT = ROOT / "docs" / "conformance.md"
UNOBSERVABLE = {
    "REST": {"Unimplemented", "Cancelled", "Internal"},
    "gRPC": {"MethodNotAllowed", "UnsupportedMediaType", "Cancelled", "Internal"},
}
"""Errors that no client can get; the document says why."""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The document, generated from the running service."""
    new = tmp_path_factory.mktemp("conformance") / "conformance.md"
    # A separate process: it registers the same protos as tritonclient.
    command = [sys.executable, "-m", "conformance", "--output", str(new)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    return new.read_text("utf-8")


def test_the_document_equals_the_responses_of_the_service(answers: str) -> None:
    committed = DOCUMENT.read_text("utf-8")
    changed = difflib.unified_diff(
        committed.splitlines(), answers.splitlines(), "committed", "service", lineterm=""
    )
    assert committed == answers, "`make conformance` if this is meant:\n" + "\n".join(changed)


def test_every_error_code_occurs_in_the_document(answers: str) -> None:
    table = error_codes()
    assert len(table) == 13
    seen_statuses = set(re.findall(r"→ (\d{3})", answers))
    seen_reasons = set(re.findall(r"→ [A-Z_]+ `.*ErrorInfo (\w+)", answers))
    for code, (status, reasons) in table.items():
        assert (status in seen_statuses) == (code not in UNOBSERVABLE["REST"]), code
        assert (reasons <= seen_reasons) == (code not in UNOBSERVABLE["gRPC"]), code


def error_codes() -> dict[str, tuple[str, set[str]]]:
    """Returns each ErrorCode, its HTTP status, and the reasons that src/server/error_response.rs gives it."""
    response = (ROOT / "src" / "server" / "error_response.rs").read_text("utf-8")
    statuses = {status.name: str(status.value) for status in HTTPStatus}
    # Names that only the `http` crate has.
    statuses |= {"PAYLOAD_TOO_LARGE": "413", "client_closed": "499"}
    rows = re.findall(r"ErrorCode::(\w+) => \(Code::\w+, (?:StatusCode::)?(\w+)\)", response)
    codes = {code: statuses[name] for code, name in rows}
    reasons = dict(re.findall(r"CaptionError::(\w+).* => \"([A-Z_]+)\"", response))
    table = (ROOT / "src" / "error.rs").read_text("utf-8")
    rows = re.findall(r"(Self::.*) => ErrorCode::(\w+),", table)
    kinds = {code: re.findall(r"Self::(\w+)", kinds) for kinds, code in rows}
    return {
        code: (status, {reasons[kind] for kind in kinds[code]}) for code, status in codes.items()
    }
