"""Runs an image as in a cluster, without root and with a read-only root folder, and checks its files."""

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
# transformers' caption of PICTURE.
CAPTION = "a tree next to a cat on a pink background"
START_SECONDS = 120
STOP_SECONDS = 60
# In a mount namespace, the image's root folder is mounted read-only, also for root.
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


class CheckError(Exception):
    """The image violates a requirement."""


@dataclass(frozen=True)
class Jail:
    """Runs processes in the unpacked root folder of an image."""

    root: Path
    config: dict[str, Any]

    def command(self, *arguments: str, user: str = "") -> list[str]:
        """Return the command line of a process inside."""
        inside = [str(self.root), user or self.config["User"], *arguments]
        return ["unshare", "--mount", "bash", "-euc", READ_ONLY, "jail", *inside]

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment that the image sets, without this machine's."""
        return dict(entry.split("=", 1) for entry in self.config["Env"]) | more

    def run(self, *arguments: str, user: str = "") -> subprocess.CompletedProcess[str]:
        """Run a process inside and wait for its end."""
        command = self.command(*arguments, user=user)
        return subprocess.run(command, capture_output=True, text=True, env=self.environment())


def check_config(config: dict[str, Any]) -> None:
    """Check user, entry point and health check."""
    if not config["User"].split(":")[0].isdigit() or config["User"].startswith("0"):
        raise CheckError(f"the user is {config['User']}")
    if config["Entrypoint"] != ["blip-serve"]:
        raise CheckError(f"the entry point is {config['Entrypoint']}")
    if config.get("Healthcheck", {}).get("Test") != ["CMD", "blip-serve", "health"]:
        raise CheckError("there is no health check")


def check_files(root: Path) -> None:
    """Check that no file is setuid, setgid or writable by all users."""
    for folder, _, names in os.walk(root):
        for file in (Path(folder) / name for name in names):
            mode = file.lstat().st_mode
            if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IWOTH):
                raise CheckError(f"/{file.relative_to(root)} has the mode {mode:o}")


def crates(binary: Path) -> dict[str, str]:
    """Return the crates in the binary's list, with their versions."""
    section = WORK / "dep-v0"
    command = ["objcopy", f"--dump-section=.dep-v0={section}", str(binary), "/dev/null"]
    subprocess.run(command, check=True)
    packages = json.loads(zlib.decompress(section.read_bytes()))["packages"]
    return {package["name"]: package["version"] for package in packages}


def check_read_only(jail: Jail) -> None:
    """Check that root cannot write outside /tmp, which stands for a volume."""
    for path in ("/opt/blip-serve/x", "/models/x", "/x"):
        done = jail.run("/bin/sh", "-c", f"echo x >{path}", user="0:0")
        if done.returncode == 0 or "Read-only file system" not in done.stderr:
            raise CheckError(f"{path} could be written: {done.stderr}")


def check_caption(buildah: Buildah, container: str) -> None:
    """Check the command line with buildah run."""
    volume = f"{PICTURE.parent}:/pictures:ro"
    command = ["--isolation=chroot", "--volume", volume, container, "--", "blip-serve", "caption"]
    said = buildah("run", *command, f"/pictures/{PICTURE.name}")
    LOG.info("caption: %s", said)
    if said != f"/pictures/{PICTURE.name}\t{CAPTION}":
        raise CheckError("the caption is wrong")


def check_service(jail: Jail) -> None:
    """Check that the service gets ready, captions an image and stops cleanly."""
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
            raise CheckError("the caption of the service is wrong")
    except (urllib.error.URLError, CheckError) as error:
        raise CheckError(f"{error}\n{log.read_text()[-2000:]}") from error
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(STOP_SECONDS)
    if code != 0 or "not kept" in log.read_text():
        raise CheckError(f"the service ended with {code}\n{log.read_text()[-2000:]}")


def wait_ready(jail: Jail, process: subprocess.Popen[bytes], address: str) -> None:
    """Wait until the command of HEALTHCHECK succeeds."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if jail.run("blip-serve", "health", "--address", address).returncode == 0:
            return
        time.sleep(0.2)
    raise CheckError("the service does not get ready")


def uid(process: subprocess.Popen[bytes]) -> str:
    """Return the user id of a process, which must not be root."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    user = next(line.split()[1] for line in status.splitlines() if line.startswith("Uid:"))
    if user == "0":
        raise CheckError("the service runs as root")
    return user


def folder_size(folder: Path) -> int:
    """Return the size in bytes of all files in a folder."""
    files = (Path(root) / name for root, _, names in os.walk(folder) for name in names)
    return sum(file.lstat().st_size for file in files if not file.is_symlink())


def report(buildah: Buildah, image: str, root: Path, target: str) -> None:
    """Log the sizes of the image, unpacked and compressed."""
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
    """Check an image and return the exit status."""
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
    except CheckError as error:
        LOG.error("error: %s", error)
        return 1
    return 0
