"""A small file in HumanEval's form, written by the tests."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

BODIES = {
    "add": ("    return a + b\n", "    return a - b\n", "assert candidate(1, 2) == 3"),
    "larger": ("    return max(a, b)\n", "    return a\n", "assert candidate(1, 2) == 2"),
    "repeat": ("    return a * b\n", "    pass\n", "assert candidate('x', 3) == 'xxx'"),
}
"""Right and wrong continuation, and test, of each."""


def rows() -> list[dict]:
    return [
        {
            "task_id": f"Test/{number}",
            "prompt": f'def {name}(a, b):\n    """What its name says."""\n',
            "canonical_solution": right,
            "test": f"METADATA = {{}}\n\n\ndef check(candidate):\n    {test}\n",
            "entry_point": name,
        }
        for number, (name, (right, _, test)) in enumerate(BODIES.items())
    ]


def write(path: Path, lines: list[dict] | None = None) -> Path:
    data = "".join(json.dumps(row) + "\n" for row in (rows() if lines is None else lines)).encode()
    if path.suffix == ".gz":
        data = gzip.compress(data)
    elif path.suffix == ".zst":
        import zstandard

        data = zstandard.ZstdCompressor().compress(data)
    path.write_bytes(data)
    return path
