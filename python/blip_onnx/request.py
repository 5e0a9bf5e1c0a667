"""What the exporter is asked for, and what is refused before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from blip_onnx import ExportError

# The fewest pictures that fp16 and int8 are judged by.
_FEWEST_IMAGES = 32


@dataclass(frozen=True)
class Request:
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
        """Raise unless it can be tried."""
        if not 0 <= self.min_agreement <= 1:
            raise ExportError(f"--min-agreement {self.min_agreement} is not between 0 and 1")
        if self.output.exists():
            if not self.output.is_dir():
                raise ExportError(f"--output {self.output} is not a folder")
            if any(self.output.iterdir()):
                raise ExportError(f"--output {self.output} is not empty")
        if self.images is not None and not self.images.is_dir():
            raise ExportError(f"--images {self.images} is not a folder")
        self.check_images(sum(1 for _ in self.images.iterdir()) if self.images else 0)

    def check_images(self, count: int) -> None:
        """Raise unless `count` pictures are enough."""
        if self.precision == "fp32" or self.min_agreement == 0 or count >= _FEWEST_IMAGES:
            return
        raise ExportError(
            f"--precision {self.precision} is judged by captions of at least {_FEWEST_IMAGES} "
            f"pictures, --images has {count} (--min-agreement 0 needs none and accepts anything)"
        )
