"""docs/trainer.md names every module below trainer/megatron."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[4]


def test_every_module_of_the_trainer_is_in_its_packages_row() -> None:
    rows = [line for line in (ROOT / "docs/trainer.md").read_text().splitlines() if line.startswith("| `")]
    missing = []
    for package in (path.parent for path in (ROOT / "rlscale/trainer/megatron").glob("*/__init__.py")):
        (row,) = [row for row in rows if row.startswith(f"| `{package.name}/` |")]
        missing += [path.name for path in package.glob("[a-z]*.py") if f"`{path.name}`" not in row]
    assert missing == []
