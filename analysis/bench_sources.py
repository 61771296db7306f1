# %% [markdown]
# Sources: the speed of preparing one against the tokenizer alone, and whether memory grows with the
# corpus. Both sides of a ratio in one process; parts in processes of their own:
#
#     python -m analysis.bench_sources                # bench_duplicates and both parts
#     python -m analysis.bench_sources pipeline
#     python -m analysis.bench_sources memory         # up to 2 GB of text, below TMPDIR, removed
#     python -m analysis.bench_sources memory tokens  # the same with tokenising: an hour
#
# Text: ../shared/corpora where it is, the interpreter's own otherwise. ftfy is no dependency: it is
# compared with where it is installed.

# %%
from __future__ import annotations

import importlib.util
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from anneal.curation.chain import Chain, Context, Meter
from anneal.curation.decontaminate import TargetIndex
from anneal.curation.steps import Clean, Decontaminate, Deduplicate, Step
from anneal.curation.values import CuratedSource, ExistingTokenizer
from anneal.sources.documents import Document, documents, write_documents
from anneal.sources.values import InstalledReader, JsonlReader
from anneal.store import Store

CORPORA = Path(__file__).resolve().parents[2] / "shared" / "corpora"
COMMAND = [sys.executable, "-m", "analysis.bench_sources"]


def real_text(limit: int, name: str = "general") -> list[str]:
    """Texts of about `limit` characters in all."""
    if CORPORA.exists():
        reader = JsonlReader(path=str(CORPORA / name / "data.jsonl.zst"))
    else:
        reader = InstalledReader(what="stdlib")
    found, size = [], 0
    for document in documents(reader, base=Path(), prepared={}):
        found.append(document.text)
        size += len(document.text)
        if size >= limit:
            break
    return found


def carried_out(steps: list[Step], stream: list[Document], base: Path) -> Chain:
    """The chain, used up."""
    with tempfile.TemporaryDirectory(dir=base) as scratch:
        chain = Chain(steps, Meter(stream), Context(Store(base), Path(scratch), base, {}, {}))
        for _ in chain:
            pass
    return chain


# %% [markdown]
# ## Preparing a source against the tokenizer alone
# The steps that a sweep runs (read a compressed file, clean, deduplicate, decontaminate, write,
# read again, tokenise into shards) against `encode_batch` on texts that are in memory already.


# %%
def pipeline(size: int = 12_000_000, rounds: int = 3) -> None:
    from tokenizers import Tokenizer

    texts = real_text(size)
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    place = CORPORA / "tokenizers" / "bpe4096.json"
    with tempfile.TemporaryDirectory() as base:
        if not place.exists():
            print("pipeline: no tokenizer in ../shared/corpora, left out")
            return
        tokenizer = Tokenizer.from_file(str(place))
        raw = Path(base) / "raw.jsonl.zst"
        write_documents(raw, (Document(str(i), t, "", "") for i, t in enumerate(texts)))
        exact: list[Step] = [Clean(), Deduplicate(jaccard=1)]
        chains = {
            "read, clean, exact dedup, tokenise": exact,
            "the same with near dedup": [Clean(), Deduplicate()],
            "the same with near dedup, decontamination": [
                Clean(),
                Deduplicate(),
                Decontaminate(benchmarks=benchmark_paths()),
            ],
        }
        print(f"pipeline: {len(texts)} documents, {megabytes:.1f} MB, {os.cpu_count()} cores")
        alone(tokenizer, texts[:50], "encode_batch")  # starts its threads
        taken: dict[str, list[np.ndarray]] = {}
        for number in range(rounds):
            for name in ("encode_batch", "encode_batch_fast"):
                taken.setdefault(f"{name} alone", []).append(alone(tokenizer, texts, name))
            for name, steps in chains.items():
                store = Store(Path(base) / f"store{number}{name}")
                taken.setdefault(name, []).append(prepared(steps, raw, place, store))
    print("seconds: by the clock; of processors; of those by the main thread")
    medians = {name: np.median(np.array(found), axis=0) for name, found in taken.items()}
    clock, processors, _ = medians["encode_batch alone"]
    for name, median in medians.items():
        print(
            f"{name:45} {megabytes / median[0]:6.2f} MB/s, over encode_batch"
            f" {clock / median[0]:.2f}; processors {processors / median[1]:.2f};"
            f" seconds {median.round(1)}, rounds {[round(float(r[0]), 1) for r in taken[name]]}"
        )
    cleaning(texts)
    decontaminating(texts)


def clocks() -> np.ndarray:
    return np.array([time.perf_counter(), time.process_time(), time.thread_time()])


def alone(tokenizer: object, texts: list[str], name: str) -> np.ndarray:
    encode = getattr(tokenizer, name)
    began = clocks()
    for begin in range(0, len(texts), 200):
        encode(texts[begin : begin + 200], add_special_tokens=False)
    return clocks() - began


def prepared(steps: list[Step], raw: Path, tokenizer: Path, store: Store) -> np.ndarray:
    """Seconds of the documents and tokens steps; the tokenizer's import apart."""
    from anneal.curation.plan import plan_preparation
    from anneal.curation.worker import prepare

    reader = JsonlReader(path=raw.name, id="id")
    source = CuratedSource(name="s", kind="general", read=reader, steps=steps, clean=False)
    settings = ExistingTokenizer(path=str(tokenizer), end_of_text="<|endoftext|>")
    plan = plan_preparation([source], [], settings, store, base=raw.parent)
    total = np.zeros(3)
    for step in plan:
        began = clocks()
        prepare(step, store, lambda done, total: None)
        total += (clocks() - began) * (step.action != "tokenizer")
    return total


def benchmark_paths() -> tuple[str, ...]:
    return (str(CORPORA / "target_*" / "data.jsonl.zst"),) if CORPORA.exists() else ()


def cleaning(texts: list[str]) -> None:
    """Our repair and rules on one core, beside the repair of ftfy where it is installed."""
    size = sum(len(text.encode()) for text in texts) / 1e6
    stream = [Document(str(i), text, "", "") for i, text in enumerate(texts)]
    began = time.process_time()
    with tempfile.TemporaryDirectory() as base:
        carried_out([Clean()], stream, Path(base))
    print(f"clean: {size / (time.process_time() - began):.0f} MB/s on one core")
    if importlib.util.find_spec("ftfy"):
        import ftfy

        config = ftfy.TextFixerConfig(
            explain=False,
            uncurl_quotes=False,
            fix_latin_ligatures=False,
            fix_character_width=False,
            unescape_html=False,
        )
        few = texts[: len(texts) // 4]
        began = time.process_time()
        changed = sum(ftfy.fix_text(text, config) != text for text in few)
        speed = sum(len(text.encode()) for text in few) / 1e6 / (time.process_time() - began)
        print(f"ftfy, encodings alone: {speed:.1f} MB/s, {changed} of {len(few)} changed")


def decontaminating(texts: list[str]) -> None:
    """Against every target of the corpora, and one n-gram after another in a Python set."""
    if not CORPORA.exists():
        return
    names = ("target_gsm8k", "target_math_other", "target_humaneval")
    targets = [text for name in names for text in real_text(10**9, name)]
    index = TargetIndex(targets, 13)
    size = sum(len(text.encode()) for text in texts) / 1e6
    began = time.process_time()
    touched = sum(
        overlap.target >= 0
        for begin in range(0, len(texts), 50)
        for overlap in index.overlaps(texts[begin : begin + 50])
    )
    speed = size / (time.process_time() - began)
    from analysis.bench_duplicates import shingles_of

    known = {shingle for text in targets for shingle in shingles_of(text)}
    few = texts[: len(texts) // 4]
    began = time.process_time()
    plain = sum(bool(known.intersection(shingles_of(text))) for text in few)
    slow = sum(len(text.encode()) for text in few) / 1e6 / (time.process_time() - began)
    print(
        f"decontaminate against {len(targets)} documents: {speed:.0f} MB/s on one core"
        f" ({touched} documents touch), a set of strings {slow:.1f} MB/s ({plain} of a quarter),"
        f" ratio {speed / slow:.0f}"
    )


# %% [markdown]
# ## Memory
# The whole preparation in a process of its own, on text made on the fly from real documents: each
# copy has every sixth word changed, so that all documents differ and all are kept.


# %%
def memory(sizes: tuple[int, ...] = (200, 2000), *, tokenise: bool) -> None:
    peaks = []
    for size in sizes:
        words_ = [*COMMAND, "peak", str(size), str(int(tokenise))]
        done = subprocess.run(words_, check=True, capture_output=True, text=True)
        print(done.stdout.strip(), flush=True)
        peaks.append(float(done.stdout.split("peak ")[1].split()[0]))
    print(f"memory: peak at {sizes[-1]} MB over peak at {sizes[0]} MB {peaks[-1] / peaks[0]:.2f}")


def peak(size: int, *, tokenise: bool) -> None:
    """Prepares `size` MB and prints this process's peak resident memory."""
    place = CORPORA / "tokenizers" / "bpe4096.json"
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        make_it = [*COMMAND, "make", str(size), str(base / "raw.jsonl.zst")]
        subprocess.run(make_it, check=True)
        began = time.perf_counter()
        steps: list[Step] = [
            Clean(),
            Deduplicate(),
            Decontaminate(benchmarks=benchmark_paths()),
        ]
        count = kept = 0
        from anneal.curation.plan import plan_preparation
        from anneal.curation.values import CurationRecord
        from anneal.curation.worker import prepare
        from anneal.store import read_value

        reader = JsonlReader(path="raw.jsonl.zst", id="id")
        source = CuratedSource(name="s", kind="general", read=reader, steps=steps, clean=False)
        settings = ExistingTokenizer(path=str(place), end_of_text="<|endoftext|>")
        store = Store(base / "store")
        for step in plan_preparation([source], [], settings, store, base=base):
            if step.action != "documents" and not tokenise:
                continue
            prepare(step, store, lambda done, total: None)
            now = high_water()
            print(f"{size} MB: {step.action} {time.perf_counter() - began:.0f} s, {now:.0f} MB")
            if step.action == "documents":
                record = read_value(step.done(store), CurationRecord)
                count, kept = record.read, record.documents
    print(f"{size} MB: {count:,} documents, {kept:,} kept, peak {high_water():.0f} MB resident")


def make(size: int, path: Path) -> None:
    """Writes `size` MB of documents that all differ."""
    rng = random.Random(0)  # noqa: S311
    seed = [re.split(r"(\s+)", text) for text in real_text(8_000_000)]

    def stream() -> Iterator[Document]:
        written = number = 0
        while written < size * 1_000_000:
            parts = seed[number % len(seed)][:]
            if (copy := number // len(seed)) > 0:
                first = rng.randrange(12)
                parts[first::12] = [f"{part}{copy}" for part in parts[first::12]]
            text = "".join(parts)
            written += len(text.encode())
            yield Document(str(number), text, "", "")
            number += 1

    write_documents(path, stream())


def high_water() -> float:
    """Most memory this process ever had resident, in MB."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    return int(found.group(1)) / 1000


# %%
if __name__ == "__main__":
    part = sys.argv[1] if len(sys.argv) > 1 else ""
    if part == "pipeline":
        pipeline()
    elif part == "memory":
        memory(tokenise="tokens" in sys.argv)
    elif part == "peak":
        peak(int(sys.argv[2]), tokenise=sys.argv[3] == "1")
    elif part == "make":
        make(int(sys.argv[2]), Path(sys.argv[3]))
    else:
        one = os.environ | {"OMP_NUM_THREADS": "1"}
        alone_ = [sys.executable, "-m", "analysis.bench_duplicates"]
        subprocess.run(alone_, check=True, env=one | {"RAYON_NUM_THREADS": "1"})
        for name in ("pipeline", "memory"):
            subprocess.run([*COMMAND, name], check=True, env=one)
