"""The options of an export, and the checks that need no checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from blip_onnx import ExportError

# The agreement of fp16 and int8 is measured on at least this many images.
_MIN_IMAGES = 32


@dataclass(frozen=True)
class ExportOptions:
    """The command line."""

    model: str
    output: Path
    revision: str | None
    precision: str
    images: Path | None
    min_agreement: float
    alpha: str
    resize_order: str

    def check(self) -> None:
        """Raise `ExportError` if an option cannot be used."""
        if not 0 <= self.min_agreement <= 1:
            raise ExportError(f"--min-agreement: must be between 0 and 1, got {self.min_agreement}")
        if self.output.exists():
            if not self.output.is_dir():
                raise ExportError(f"--output: {self.output} is not a folder")
            if any(self.output.iterdir()):
                raise ExportError(f"--output: {self.output} is not empty")
        if self.images is not None and not self.images.is_dir():
            raise ExportError(f"--images: {self.images} is not a folder")
        self.check_image_count(sum(1 for _ in self.images.iterdir()) if self.images else 0)

    def check_image_count(self, count: int) -> None:
        """Raise `ExportError` unless `count` images are enough for the precision."""
        if self.precision == "fp32" or self.min_agreement == 0 or count >= _MIN_IMAGES:
            return
        raise ExportError(
            f"--images: --precision {self.precision} needs at least {_MIN_IMAGES} images, "
            f"got {count} (--min-agreement 0 needs none and accepts any captions)"
        )
