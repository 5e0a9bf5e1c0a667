"""Runs a built image as a cluster would: not as root, on a root folder that cannot be written, and looks at what is in it."""

from __future__ import annotations

import base64
import json
import logging
import os
import signal
import socket
import stat
import subprocess
import time
import urllib.error
import urllib.request
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from release.container.buildah import ROOT, WORK, Buildah

LOG = logging.getLogger("container")
PICTURE = ROOT / "examples" / "images" / "tree-cat.png"
# transformers'.
CAPTION = "a tree next to a cat on a pink background"
START_SECONDS = 120
STOP_SECONDS = 60
# The mounts are seen by this process alone; then no file of the image can be written, by root neither.
READ_ONLY = """
mount --bind "$1" "$1"
mount -t proc proc "$1/proc"
mount --rbind /dev "$1/dev"
mount -t tmpfs -o mode=1777 tmpfs "$1/tmp"
mount -o remount,bind,ro "$1"
cd /
exec /usr/sbin/chroot --userspec="$2" --groups= "$1" "${@:3}"
"""
direct = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


class Wrong(Exception):
    """The image is not as it must be."""


@dataclass(frozen=True)
class Jail:
    """The image's root folder, unpacked, and how it is entered."""

    root: Path
    config: dict[str, Any]

    def command(self, *arguments: str, user: str = "") -> list[str]:
        """The arguments of a process inside."""
        inside = [str(self.root), user or self.config["User"], *arguments]
        return ["unshare", "--mount", "bash", "-euc", READ_ONLY, "jail", *inside]

    def environment(self, **more: str) -> dict[str, str]:
        """What the image sets, and nothing of this machine."""
        return dict(entry.split("=", 1) for entry in self.config["Env"]) | more

    def run(self, *arguments: str, user: str = "") -> subprocess.CompletedProcess[str]:
        """A process inside, to its end."""
        command = self.command(*arguments, user=user)
        return subprocess.run(command, capture_output=True, text=True, env=self.environment())


def check_config(config: dict[str, Any]) -> None:
    """User, entry point and health check."""
    if not config["User"].split(":")[0].isdigit() or config["User"].startswith("0"):
        raise Wrong(f"the user is {config['User']}")
    if config["Entrypoint"] != ["blip-serve"]:
        raise Wrong(f"the entry point is {config['Entrypoint']}")
    if config.get("Healthcheck", {}).get("Test") != ["CMD", "blip-serve", "health"]:
        raise Wrong("there is no health check")


def check_files(root: Path) -> None:
    """No file lends its owner's rights, none of the service can be written by the service."""
    for folder, _, names in os.walk(root):
        for file in (Path(folder) / name for name in names):
            mode = file.lstat().st_mode
            if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IWOTH):
                raise Wrong(f"/{file.relative_to(root)} has the mode {mode:o}")


def crates(binary: Path) -> dict[str, str]:
    """The crates that the binary says it is made of, with their versions."""
    section = WORK / "dep-v0"
    command = ["objcopy", f"--dump-section=.dep-v0={section}", str(binary), "/dev/null"]
    subprocess.run(command, check=True)
    packages = json.loads(zlib.decompress(section.read_bytes()))["packages"]
    return {package["name"]: package["version"] for package in packages}


def check_read_only(jail: Jail) -> None:
    """Nothing can be written, by root neither; /tmp stands for a volume."""
    for path in ("/opt/blip-serve/x", "/models/x", "/x"):
        done = jail.run("/bin/sh", "-c", f"echo x >{path}", user="0:0")
        if done.returncode == 0 or "Read-only file system" not in done.stderr:
            raise Wrong(f"{path} could be written: {done.stderr}")


def check_caption(buildah: Buildah, container: str) -> None:
    """The command line, through buildah's own run."""
    volume = f"{PICTURE.parent}:/pictures:ro"
    command = ["--isolation=chroot", "--volume", volume, container, "--", "blip-serve", "caption"]
    said = buildah("run", *command, f"/pictures/{PICTURE.name}")
    LOG.info("caption: %s", said)
    if said != f"/pictures/{PICTURE.name}\t{CAPTION}":
        raise Wrong("the caption is not that of the picture")


def check_service(jail: Jail) -> None:
    """The service: ready by the image's own health check, captions, and ends cleanly."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = jail.environment(BLIP_LISTEN=address, BLIP_GRAPH_CACHE="/tmp/graphs")
    log = WORK / "service.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            jail.command("blip-serve"), env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        wait_ready(jail, process, address)
        body = {"image": base64.b64encode(PICTURE.read_bytes()).decode()}
        request = urllib.request.Request(f"http://{address}/v1/captions", json.dumps(body).encode())
        with direct(request, timeout=60) as reply:
            answer = json.load(reply)
        LOG.info("service, read-only, user %s: %s", uid(process), answer)
        if [caption["text"] for caption in answer["captions"]] != [CAPTION]:
            raise Wrong("the service's caption is not that of the picture")
    except (urllib.error.URLError, Wrong) as error:
        raise Wrong(f"{error}\n{log.read_text()[-2000:]}") from error
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(STOP_SECONDS)
    if code != 0 or "not kept" in log.read_text():
        raise Wrong(f"the service ended with {code}\n{log.read_text()[-2000:]}")


def wait_ready(jail: Jail, process: subprocess.Popen[bytes], address: str) -> None:
    """Ask as HEALTHCHECK does."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if jail.run("blip-serve", "health", "--address", address).returncode == 0:
            return
        time.sleep(0.2)
    raise Wrong("the service does not get ready")


def uid(process: subprocess.Popen[bytes]) -> str:
    """The user that a process runs as."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    user = next(line.split()[1] for line in status.splitlines() if line.startswith("Uid:"))
    if user == "0":
        raise Wrong("the service runs as root")
    return user


def folder_size(folder: Path) -> int:
    """Bytes of the files below."""
    files = (Path(root) / name for root, _, names in os.walk(folder) for name in names)
    return sum(file.lstat().st_size for file in files if not file.is_symlink())


def report(buildah: Buildah, image: str, root: Path, target: str) -> None:
    """Sizes, unpacked and as they travel."""
    archive = WORK / f"blip-serve-{target}.tar"
    archive.unlink(missing_ok=True)
    buildah("push", "--quiet", image, f"oci-archive:{archive}:blip-serve:{target}")
    parts = ("opt/blip-serve/bin", "opt/blip-serve/lib", "opt/nvidia", "models")
    sizes = {part: folder_size(root / part) for part in parts if (root / part).is_dir()}
    total = folder_size(root)
    sizes["Debian and certificates"] = total - sum(sizes.values())
    for name, size in sizes.items():
        LOG.info("%8.1f MB  %s", size / 1e6, name)
    LOG.info(
        "%8.1f MB  in all; compressed %.1f MB: %s",
        total / 1e6,
        archive.stat().st_size / 1e6,
        archive,
    )


def check(buildah: Buildah, image: str, target: str) -> int:
    """0 if the image is as it must be."""
    config = buildah.config(image)
    try:
        check_config(config)
        with buildah.container(image) as container:
            root = buildah.mount(container)
            jail = Jail(root, config)
            known = crates(root / "opt/blip-serve/bin/blip-serve")
            LOG.info("%d crates in the binary's list, tonic %s", len(known), known["tonic"])
            check_files(root)
            check_caption(buildah, container)
            check_read_only(jail)
            check_service(jail)
            report(buildah, image, root, target)
    except Wrong as error:
        LOG.error("error: %s", error)
        return 1
    return 0
