"""`make image`: builds and runs a container image without a container engine and without a registry.

buildah builds the Dockerfile in chroot isolation, as root. The base images are made here instead of
pulled: Debian by debootstrap, and this machine's Rust toolchain on top of it. They are for tests
only, because debootstrap installs no security updates. All files are in build/image; the result is
build/image/blip-serve-<target>.tar.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

from release.container import check, check_export
from release.container.buildah import ROOT, WORK, Buildah

LOG = logging.getLogger("container")
SUITE = "trixie"
BASE = f"localhost/blip-base:{SUITE}"
TOOLCHAIN = f"localhost/blip-rust:{SUITE}"
PYTHON = f"localhost/blip-python:{SUITE}"
# The libraries that Python's standard modules are linked with.
PYTHON_LIBRARIES = ("libbz2-1.0", "libffi8", "liblzma5", "libsqlite3-0", "libssl3t64", "zlib1g")
PACKAGES = {"buildah": "buildah", "debootstrap": "debootstrap"}
# The folders that slim images do not contain.
DISPENSABLE = ("usr/share/doc", "usr/share/info", "usr/share/locale", "usr/share/man")


def install_tools() -> None:
    """Install the Debian packages that are missing."""
    missing = [package for tool, package in PACKAGES.items() if not shutil.which(tool)]
    if missing:
        LOG.info("installing %s", " ".join(missing))
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update"], ["install", "-y", "--no-install-recommends", *missing]):
            subprocess.run(["apt-get", "-qq", *command], check=True, env=environment)


def make_base(buildah: Buildah) -> None:
    """Make an image with a minimal Debian."""
    folder = WORK / "debian"
    shutil.rmtree(folder, ignore_errors=True)
    command = ["debootstrap", "--variant=minbase", SUITE, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"error: debootstrap: {done.stdout[-1000:]}{done.stderr}")
    for name in DISPENSABLE:
        shutil.rmtree(folder / name)
        (folder / name).mkdir()
    for pattern in ("var/cache/apt/archives/*.deb", "var/lib/apt/lists/*_*"):
        for file in folder.glob(pattern):
            file.unlink()
    with buildah.container("scratch") as container:
        buildah("add", container, str(folder), "/")
        buildah("commit", "--quiet", container, BASE)
    shutil.rmtree(folder)


def make_toolchain(buildah: Buildah) -> None:
    """Add this machine's Rust toolchain and trusted certificates to the base."""
    sysroot = Path(subprocess.check_output(["rustc", "--print", "sysroot"], text=True).strip())
    with buildah.container(BASE) as container:
        root = buildah.mount(container)
        for name in ("cargo", "rustc"):
            shutil.copy(sysroot / "bin" / name, root / "usr/local/bin")
        shutil.copytree(sysroot / "lib", root / "usr/local/lib", symlinks=True, dirs_exist_ok=True)
        trust(root)
        buildah("commit", "--quiet", container, TOOLCHAIN)


def make_python(buildah: Buildah) -> None:
    """Add this machine's Python 3.11 and trusted certificates to the base."""
    prefix = Path(sys.base_prefix)
    if sys.version_info[:2] != (3, 11):
        raise SystemExit("error: must run with Python 3.11, for the exporter's requirements")
    with buildah.container(BASE) as container:
        root = buildah.mount(container)
        trust(root)

        def run(*command: str) -> None:
            buildah("run", "--isolation=chroot", container, "--", *command)

        run("apt-get", "-qq", "update")
        install = ("apt-get", "-qq", "install", "--no-install-recommends", "-y")
        run(*install, "ca-certificates", *PYTHON_LIBRARIES)
        ignored = shutil.ignore_patterns("site-packages", "__pycache__", "test", "config-*", "*.a")
        shutil.copytree(
            prefix / "lib",
            root / "usr/local/lib",
            symlinks=True,
            dirs_exist_ok=True,
            ignore=ignored,
        )
        shutil.copy(prefix / "bin/python3.11", root / "usr/local/bin")
        for name in ("python", "python3"):
            (root / "usr/local/bin" / name).symlink_to("python3.11")
        run("ldconfig")
        run("python", "-m", "ensurepip", "--default-pip")
        # pip does not use the system's certificates by default.
        buildah("config", "--env=PIP_CERT=/etc/ssl/certs/ca-certificates.crt", container)
        buildah("commit", "--quiet", container, PYTHON)


def trust(root: Path) -> None:
    """Copy this machine's trusted certificates to the folder of Debian's ca-certificates."""
    certificates = Path(os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt"))
    if certificates.is_file():
        trusted = root / "usr/local/share/ca-certificates"
        trusted.mkdir(parents=True, exist_ok=True)
        shutil.copy(certificates, trusted / "machine.crt")


def build(buildah: Buildah, target: str) -> str:
    """Build a target of the Dockerfile and return the name of the image."""
    revision = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True
    )
    arguments = {
        "BASE": BASE,
        "RUST_IMAGE": TOOLCHAIN,
        "PYTHON_IMAGE": PYTHON,
        "REVISION": revision.stdout.strip() or "unknown",
    }
    name = f"localhost/blip-serve:{target}"
    flags = [f"--build-arg={key}={value}" for key, value in arguments.items()]
    # The OCI format has no HEALTHCHECK.
    flags += ["--isolation=chroot", "--format=docker", "--layers", f"--target={target}"]
    buildah.build(*flags, "--tag", name, "--file", "Dockerfile", ".")
    return name


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", choices=("cpu", "cuda", "export"), default="cpu")
    parser.add_argument("--fresh", action="store_true", help="rebuild the base images, too")
    arguments = parser.parse_args()
    target = arguments.target
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    if os.geteuid() != 0:
        LOG.error("error: chroot isolation needs root")
        return 1
    install_tools()
    buildah = Buildah()
    try:
        bases = {BASE: make_base}
        bases |= {PYTHON: make_python} if target == "export" else {TOOLCHAIN: make_toolchain}
        for name, make in bases.items():
            if arguments.fresh or not buildah.has(name):
                LOG.info("making %s", name)
                make(buildah)
        image = build(buildah, target)
        if target == "export":
            return check_export.check(buildah, image)
        return check.check(buildah, image, target)
    finally:
        buildah.close()


if __name__ == "__main__":
    sys.exit(main())
