"""An object in a checkpoint that is a program: TorchScript, which torch runs where it meets it.

Annotations are no texts here: TorchScript reads them.
"""

import io
import warnings
from pathlib import Path

import torch


class Writing(torch.nn.Module):
    """Writes a file when it is read."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.training = False

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return (self.path, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        torch.save(torch.zeros(3), state[0])
        self.path = state[0]
        self.training = state[1]

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        """A module has one."""
        return numbers


def torchscript(ran: Path) -> bytes:
    """An archive that writes the file `ran` when torch reads it, although no pickle in it names code."""
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is on its way out of torch, but still read
        torch.jit.save(torch.jit.script(Writing(str(ran))), content)
    return content.getvalue()
