"""Small sources of real text for integration tests: the standard library's own files, sliced."""

from __future__ import annotations

import sysconfig
from pathlib import Path

SWEEP = """
defaults:
  - anneal
  - override budget: smoke
  - _self_
question: which slice of the standard library?
source:
  tools: {kind: high_quality, read: {kind: tree, path: tools}}
  nets: {kind: general, read: {kind: tree, path: nets}}
replay:
  prose: {kind: general, read: {kind: tree, path: prose}, max_epochs: 100}
target:
  aim: {read: {kind: tree, path: aim}, max_tokens: 4000}
  guard: {guard: true, tolerance: 5.0, read: {kind: tree, path: guard}, max_tokens: 2000}
tokenizer: {vocabulary: 512, sources: [prose, nets]}
model: {hidden: 32, layers: 1, heads: 1, kv_heads: 1, feed_forward: 64}
base: {tokens: 16384, sequence: 64}
phase: {sequence: 64}
score_sequence: 64
precision: float32
prices: {usd_per_hour: 1.0, flops_per_second: 1.0e+10}
law: {draws: 50, forms: [shifted_power_one_exponent_repeated, power_one_exponent]}
engine: {compile: "off"}
"""

FILES = {
    "tools": ["argparse", "ast", "calendar", "csv", "dataclasses", "difflib", "functools"],
    "nets": ["ftplib", "imaplib", "mailbox", "nntplib", "poplib", "smtplib", "socketserver", "ssl"],
    "prose": ["pydoc_data/topics"],
    "aim": ["heapq", "bisect"],
    "guard": ["this", "antigravity", "keyword"],
}


def make(folder: Path) -> Path:
    """Writes the sources and `small.yaml` into `folder`; returns the sweep file."""
    library = Path(sysconfig.get_paths()["stdlib"])
    for name, modules in FILES.items():
        for module in modules:
            text = (library / f"{module}.py").read_text(encoding="utf-8")
            for number, at in enumerate(range(0, len(text), 4000)):
                path = folder / name / f"{module.replace('/', '-')}-{number:03d}.txt"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text[at : at + 4000])
    (folder / "small.yaml").write_text(SWEEP)
    return folder / "small.yaml"
