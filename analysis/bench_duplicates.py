# %% [markdown]
# Near duplicates: which library and why. Real documents and a changed copy of each, whose exact
# Jaccard similarity is known: a stretch of words in the middle is replaced by words of another
# document. Every library gets 13-grams of the same words, 126 or 128 permutations and 21 bands of
# 6 rows, and drops from 0.8 upwards. A drop is right where the exact similarity is 0.8 or more;
# near 0.8 every estimate errs. One core:
#
#     RAYON_NUM_THREADS=1 python -m analysis.bench_duplicates
#
# datasketch and datatrove are no dependencies: `pip install datasketch datatrove "xxhash<4" spacy`
# to compare with them; what is absent is left out.

# %%
from __future__ import annotations

import importlib.util
import os
import random
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import numpy as np

from analysis.bench_sources import real_text
from anneal.curation.chain import Chain, Context, Meter
from anneal.curation.shingles import ngrams, words
from anneal.curation.signatures import minhash
from anneal.curation.steps import Deduplicate
from anneal.sources.documents import Document
from anneal.store import Store

NGRAM, JACCARD, BANDS, ROWS = 13, 0.8, 21, 6
WORD = re.compile(r"\w+", re.ASCII)
"""ASCII: what our words are on the ASCII text of the comparison."""


def planted(count: int) -> tuple[list[str], np.ndarray]:
    """`count` documents followed by their changed copies, and the copies' exact similarity."""
    rng = random.Random(0)  # noqa: S311
    texts = [t.encode("ascii", "ignore").decode() for t in real_text(10_000 * count)]
    texts = [t for t in texts if len(WORD.findall(t)) >= 150][: count + 1]
    copies, exact = [], []
    for text, other in pairwise(texts):
        spans = [m.span() for m in WORD.finditer(text)]
        size = len(spans) - NGRAM + 1
        similarity = rng.uniform(0.5, 1.0)
        lost = max(1, round(size * (1 - similarity) / (1 + similarity)) - NGRAM + 1)
        at = rng.randrange(len(spans) - lost)
        foreign = " ".join(WORD.findall(other)[:lost])
        copy = text[: spans[at][0]] + foreign + text[spans[at + lost - 1][1] :]
        a, b = (set(ngrams(words(t), NGRAM).tolist()) for t in (text, copy))
        copies.append(copy)
        exact.append(len(a & b) / len(a | b))
    return texts[:-1] + copies, np.array(exact)


def ours(texts: list[str], jaccard: float = JACCARD) -> set[int]:
    step = Deduplicate(ngram=NGRAM, jaccard=jaccard)
    stream = [Document(str(i), text, "", "") for i, text in enumerate(texts)]
    with tempfile.TemporaryDirectory() as base:
        context = Context(Store(base), Path(base), Path(base), {}, {})
        kept = {int(d.id) for d in Chain([step], Meter(stream), context)}
    return set(range(len(texts))) - kept


def rensa_alone(texts: list[str]) -> set[int]:
    """Its own index on strings made in Python: whatever shares a band goes, nothing is verified."""
    from rensa import RMinHash, RMinHashLSH

    index = RMinHashLSH(JACCARD, BANDS * ROWS, BANDS)
    dropped = set()
    for number, text in enumerate(texts):
        signature = RMinHash(BANDS * ROWS, 42)
        signature.update(shingles_of(text))
        if index.query(signature):
            dropped.add(number)
        else:
            index.insert(number, signature)
    return dropped


def datasketch(texts: list[str]) -> set[int]:
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(num_perm=128, params=(BANDS, ROWS))
    kept: dict[int, MinHash] = {}
    dropped = set()
    for number, text in enumerate(texts):
        signature = MinHash(num_perm=128)
        signature.update_batch([s.encode() for s in shingles_of(text)])
        if any(signature.jaccard(kept[n]) >= JACCARD for n in index.query(signature)):
            dropped.add(number)
        else:
            index.insert(number, signature)
            kept[number] = signature
    return dropped


def datatrove(
    texts: list[str], tokenizer: object, bands: int = BANDS, rows: int = ROWS
) -> set[int]:
    """Its four stages; `tokenizer` is a language, or an object that splits words."""
    from datatrove.data import Document as Row
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from loguru import logger

    logger.remove()
    config = MinhashConfig(n_grams=NGRAM, num_buckets=bands, hashes_per_bucket=rows)

    def documents() -> Iterator[Row]:
        return (Row(text=text, id=str(i)) for i, text in enumerate(texts))

    with tempfile.TemporaryDirectory() as base:
        signs, pairs, gone = (f"{base}/{name}" for name in ("signatures", "pairs", "gone"))
        stage = MinhashDedupSignature(signs, config, language=tokenizer)
        for _ in stage.run(documents()) or ():
            pass
        for bucket in range(bands):
            MinhashDedupBuckets(signs, pairs, config=config).run(None, bucket, bands)
        MinhashDedupCluster(pairs, gone, config=config).run()
        kept = {int(row.id) for row in MinhashDedupFilter(gone).run(documents())}
    return set(range(len(texts))) - kept


def shingles_of(text: str) -> list[str]:
    found = WORD.findall(text.lower())
    return [" ".join(found[i : i + NGRAM]) for i in range(max(1, len(found) - NGRAM + 1))]


def word_splitter() -> object:
    from datatrove.utils.word_tokenizers import WordTokenizer

    class Splitter(WordTokenizer):
        def word_tokenize(self, text: str) -> list[str]:
            return WORD.findall(text)

        def sent_tokenize(self, text: str) -> list[str]:
            return [text]

        def span_tokenize(self, text: str) -> list[tuple[int, int]]:
            return [(0, len(text))]

    return Splitter()


def library(count: int = 1000) -> None:
    texts, exact = planted(count)
    size = sum(map(len, texts))
    near = exact >= JACCARD
    print(
        f"near duplicates: {len(texts)} documents, {size / 1e6:.1f} MB, {near.sum()} of {count}"
        f" copies at {JACCARD} or more; one core"
    )
    rivals: dict[str, Callable[[list[str]], set[int]]] = {
        "ours": ours,
        "ours, asked for 0.7": lambda t: ours(t, 0.7),
        "rensa alone": rensa_alone,
    }
    if importlib.util.find_spec("datasketch"):
        rivals["datasketch"] = datasketch
    if importlib.util.find_spec("datatrove"):
        splitter = word_splitter()
        rivals["datatrove, words by a regular expression"] = lambda t: datatrove(t, splitter)
        rivals["the same, its own 14 bands of 8"] = lambda t: datatrove(t, splitter, 14, 8)
        if importlib.util.find_spec("spacy"):
            rivals["datatrove, its words (spaCy)"] = lambda t: datatrove(t, "eng")
    speeds = {}
    print(f"{'':42} documents/s   MB/s  recall  recall >= .85  wrong < .8  wrong < .75")
    for name, work in rivals.items():
        work(texts[:20])  # loads what it loads
        seconds = []
        for _ in range(3 if name == "ours" else 1):
            began = time.process_time()
            dropped = work(texts)
            seconds.append(time.process_time() - began)
        gone = np.array([count + i in dropped for i in range(count)])
        speeds[name] = len(texts) / statistics.median(seconds)
        print(
            f"{name:42} {speeds[name]:11,.0f} {speeds[name] * size / len(texts) / 1e6:6.1f}"
            f"  {gone[near].mean():6.3f}  {gone[exact >= 0.85].mean():13.3f}"
            f"  {gone[~near].mean():10.3f}  {gone[exact < 0.75].mean():11.3f}"
            f"  others gone: {len([n for n in dropped if n < count])}"
        )
    for name in list(speeds)[2:]:
        print(f"ours over {name}: {speeds['ours'] / speeds[name]:.1f}")
    estimates(texts, exact)
    short = real_text(8_000_000, "math_wp_synth")
    began = time.process_time()
    ours(short)
    seconds = time.process_time() - began
    print(
        f"ours on {len(short):,} short documents of {sum(map(len, short)) / len(short):.0f}"
        f" characters: {len(short) / seconds:,.0f} documents/s"
    )


def estimates(texts: list[str], exact: np.ndarray) -> None:
    """The error of a signature of 128 values against the exact similarity."""
    half = len(exact)
    sets = [ngrams(words(text), NGRAM) for text in texts]
    signed = minhash(np.concatenate(sets), np.cumsum([0, *map(len, sets)]), 128)
    error = (signed[:half] == signed[half:]).mean(axis=1) - exact
    expected = np.sqrt((exact * (1 - exact)).mean() / 128)
    print(
        f"estimate less exact similarity: mean {error.mean():+.4f}, deviation {error.std():.4f}"
        f" (in theory {expected:.4f})"
    )


# %%
if __name__ == "__main__":
    with suppress(AttributeError):  # where processes cannot be pinned
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    library()
