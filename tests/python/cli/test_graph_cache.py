"""The cache of optimised graphs: valid entries are used at the next start, damaged ones are replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from service import Service, default_binary
from support.clients import caption, picture


def start_and_caption(folder: Path, log: Path, binary: Path | None = None) -> str:
    """Starts a service with the cache `folder`, checks a caption, and returns the log."""
    flags = ("--graph-cache", str(folder))
    with Service(binary=binary or default_binary(), log=log, flags=flags) as service:
        assert service.caption(picture(), "a photography of")[0].text == caption()
    return log.read_text()


def entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())


def test_the_second_start_loads_both_graphs_from_the_cache(tmp_path: Path) -> None:
    folder = tmp_path / "graphs"
    first = start_and_caption(folder, tmp_path / "first.log")
    assert "taken from the cache" not in first
    made = entries(folder)
    assert len(made) == 2
    assert all((entry / "checksums.json").is_file() for entry in made)
    second = start_and_caption(folder, tmp_path / "second.log")
    assert second.count("taken from the cache") == 2
    assert entries(folder) == made


@pytest.mark.parametrize("damage", ["byte", "short", "missing", "checksums", "graph"])
def test_a_damaged_entry_is_replaced(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "graphs"
    start_and_caption(folder, tmp_path / "first.log")
    entry = next(path for path in entries(folder) if path.name.endswith("text_decoder"))
    data, graph = entry / "text_decoder.onnx.data", entry / "text_decoder.onnx"
    match damage:
        case "byte":
            with data.open("r+b") as file:
                file.seek(data.stat().st_size // 2)
                byte = file.read(1)
                file.seek(-1, 1)
                file.write(bytes([byte[0] ^ 1]))
        case "short":
            data.write_bytes(data.read_bytes()[:-1])
        case "missing":
            data.unlink()
        case "checksums":
            (entry / "checksums.json").write_text("[]")
        case "graph":
            graph.write_bytes(b"garbage")
    log = start_and_caption(folder, tmp_path / "second.log")
    assert log.count("optimised graph is not usable, making it anew") == 1
    assert log.count("taken from the cache") == 1
    assert start_and_caption(folder, tmp_path / "third.log").count("taken from the cache") == 2


def test_a_folder_that_cannot_be_written_causes_a_warning_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    log = start_and_caption(tmp_path / "file" / "graphs", tmp_path / "log")
    assert log.count("optimised graph not kept") == 2


def test_a_full_disk_causes_a_warning_only(tmp_path: Path) -> None:
    limited = tmp_path / "blip-serve"
    # Writes beyond 500 KiB fail with an error, as on a full disk; without the trap, with a signal.
    limited.write_text(
        f"#!/bin/bash\ntrap '' XFSZ\nulimit -f 500\nexec {default_binary()} \"$@\"\n"
    )
    limited.chmod(0o755)
    folder = tmp_path / "graphs"
    log = start_and_caption(folder, tmp_path / "log", limited)
    assert log.count("optimised graph not kept") == 2
    assert list(folder.iterdir()) == []
