"""Cases of `test_deepspeed_engine`, many in one start of the processes: a start costs seconds.

Run by torchrun as `deepspeed_cases.py GROUP OUT FOLDER`; the leading process writes what each case
measured to OUT, a JSON object by case name. What is judged there is judged in the test.
"""

import json
import os
import shutil
import sys
import traceback
from pathlib import Path

import numpy as np
import torch

from anneal.errors import AnnealError
from anneal.plan.means import DeepSpeed, Means
from anneal.plan.values import LlamaShape, Optimiser
from anneal.training.deepspeed_engine import DeepSpeedEngine
from anneal.training.deepspeed_files import read_seal, seal
from anneal.training.engine import TorchEngine
from anneal.training.model import llama
from anneal.training.tensors import sha256
from tests.golden.test_golden import engine_of, losses

WORLD = int(os.environ.get("WORLD_SIZE", "1"))
SHAPE = LlamaShape(hidden=64, layers=2, heads=2, kv_heads=1, feed_forward=96)
RATE = 1e-2
ENGINES = [(stage, p) for p in ("float32", "bfloat16") for stage in range(4)]
EMBEDDED = [(0, "bfloat16"), (1, "bfloat16"), (3, "float32")]
OFFLOADED = [(stage, p) for p in ("float32", "bfloat16") for stage in (2, 3)]


def rows(step: int) -> np.ndarray:
    return np.random.default_rng(step).integers(0, 128, (8, 33))


def means(stage: int, *, micro=None, offload="none", config=None) -> Means:
    return Means(
        engine="deepspeed",
        processes=WORLD,
        device="cpu",
        compile="off",
        micro_batch=micro,
        deepspeed=DeepSpeed(stage=stage, offload_optimizer=offload, config=config or {}),
    )


def engine(stage: int, precision="float32", *, seed=0, tied=True, **how) -> DeepSpeedEngine:
    return wrap(shaped(seed, tied), stage, precision, **how)


def shaped(seed: int, tied: bool):
    return llama(SHAPE.model_copy(update={"tied": tied}), vocabulary=128, seed=seed)


def plain(precision="float32", *, seed=0, tied=True, micro=None) -> TorchEngine:
    return TorchEngine(
        shaped(seed, tied),
        Optimiser(),
        precision=precision,
        means=Means(device="cpu", compile="off", micro_batch=micro),
        sequence=32,
    )


def steps(mine, first: int, last: int) -> list[list[float]]:
    return [[float(x) for x in mine.step(rows(step), RATE)] for step in range(first, last)]


def furthest(a: dict, b: dict) -> float:
    assert set(a) == set(b), set(a) ^ set(b)
    return max(float((a[n].double() - b[n].double()).abs().max()) for n in a)


def golden() -> dict:
    """Losses of the golden run; each process has half of each batch."""
    found = {}
    for stage in range(4):
        for kind in ("linear", "wsd"):
            mine = engine_of(lambda model, stage=stage: wrap(model, stage))
            found[f"{stage}-{kind}"] = losses(kind, mine)
            mine.close()
    return found


def wrap(model, stage: int, precision="float32", *, trainable="all", batch=8, **how):
    return DeepSpeedEngine(
        model,
        Optimiser(),
        precision=precision,
        means=means(stage, **how),
        batch=batch,
        sequence=32,
        trainable=trainable,
    )


def same_as_torch() -> dict:
    """Loss, norm, score, weights and moments beside the torch engine's, whose micro-batches are
    what each process has: then even bf16 rounds alike."""
    found = {}
    cases = [(s, p, o) for s, p in ENGINES for o in ("none", "cpu")[: 1 + ((s, p) in OFFLOADED)]]
    for stage, precision, offload in cases:
        tied = stage != 2  # both kinds of head
        torch_ = plain(precision, micro=8 // WORLD, tied=tied)
        mine = engine(stage, precision, offload=offload, tied=tied)
        expected, got = steps(torch_, 0, 5), steps(mine, 0, 5)
        tokens = torch.from_numpy(rows(99)[:3])  # three rows do not divide by two
        scores = [float(e.score(tokens[:, :-1], tokens[:, 1:])) for e in (torch_, mine)]
        weights, moments = mine.weights(), mine.moments()
        if mine.leader:
            found[f"{stage}-{precision}-{offload}"] = {
                "losses": [[a[0], b[0]] for a, b in zip(expected, got, strict=True)],
                "norms": [[a[1], b[1]] for a, b in zip(expected, got, strict=True)],
                "scores": scores,
                "weights": furthest(torch_.weights(), weights),
                "moments": furthest(torch_.moments(), moments),
            }
        mine.close()
    return found


def micro_batches() -> dict:
    """Two rows at once instead of all."""
    found = {}
    for stage, precision in ENGINES:
        whole, parts = engine(stage, precision), engine(stage, precision, micro=2)
        a, b = steps(whole, 0, 4), steps(parts, 0, 4)
        found[f"{stage}-{precision}"] = [[x[0], y[0]] for x, y in zip(a, b, strict=True)]
        whole.close()
        parts.close()
    return found


def handed_over() -> dict:
    """Torch, then DeepSpeed, then torch: as torch all the way."""
    found = {}
    for stage, precision in ENGINES:
        straight = plain(precision, micro=8 // WORLD)
        expected = steps(straight, 0, 6)
        before, mine = plain(precision, micro=8 // WORLD), engine(stage, precision, seed=5)
        got = steps(before, 0, 2)
        state = (before.weights(), before.moments()) if mine.leader else ({}, {})
        mine.load(*state)
        kept = [sha256(mine.weights()), sha256(mine.moments())]
        got += steps(mine, 2, 4)
        weights, moments = mine.weights(), mine.moments()
        if mine.leader:
            after = plain(precision, micro=8 // WORLD)
            after.load(weights, moments)
            got += steps(after, 4, 6)
            found[f"{stage}-{precision}"] = {
                "kept": kept == [sha256(t) for t in state],
                "losses": [[a[0], b[0]] for a, b in zip(expected, got, strict=True)],
                "weights": furthest(straight.weights(), after.weights()),
                "moments": furthest(straight.moments(), after.moments()),
            }
        mine.close()
    return found


def embeddings() -> dict:
    """Only the embeddings move, and what does not train comes out as it went in."""
    found = {}
    for stage, precision in ENGINES:
        mine = engine(stage, precision, trainable="embeddings", tied=stage % 2 == 0)
        start = mine.weights()
        donor = plain(precision, tied=stage % 2 == 0)
        steps(donor, 0, 2)
        state = (donor.weights(), donor.moments())
        mine.load(*(state if mine.leader else ({}, {})))
        steps(mine, 2, 5)
        weights, moments = mine.weights(), mine.moments()
        if mine.leader:
            moved = sorted(n for n in start if not torch.equal(weights[n], state[0][n]))
            kept = [n for n in moments if torch.equal(moments[n], state[1][n])]
            found[f"{stage}-{precision}"] = {
                "moved": moved,
                "moments": len(moments) == len(state[1]),
                "changed": sorted({n.rpartition("/")[0] for n in set(moments) - set(kept)}),
            }
        mine.close()
    return found


def checkpoints(folder: Path) -> dict:
    """Saved at step 3, restored into the same engine and into another: the same bits at step 6."""
    found = {}
    cases = [(s, p, "all", "none") for s, p in ENGINES]
    cases += [(s, p, "embeddings", "none") for s, p in EMBEDDED]
    cases += [(s, p, "all", "cpu") for s, p in OFFLOADED]
    for stage, precision, trainable, offload in cases:
        name = f"{stage}-{precision}-{trainable}-{offload}"
        how = {"trainable": trainable, "offload": offload}
        mine = engine(stage, precision, **how)
        steps(mine, 0, 3)
        at = folder / f"{WORLD}" / name
        if mine.leader:
            shutil.rmtree(at, ignore_errors=True)
            at.mkdir(parents=True)
        mine.wait()
        mine.save(at)

        def end(of) -> list:
            losses = steps(of, 3, 6)
            return [losses, sha256(of.weights()), sha256(of.moments())]

        straight = end(mine)
        mine.restore(at)
        again = end(mine)
        mine.close()
        other = engine(stage, precision, seed=9, **how)
        steps(other, 70, 71)
        other.restore(at)
        resumed = end(other)
        other.restore(at)
        weights = other.weights()
        other.load(weights, None)
        reset = end(other)
        other.close()
        fresh = engine(stage, precision, seed=8, **how)
        fresh.load(weights, None)
        found[name] = {
            "same engine": straight == again,
            "another engine": straight == resumed,
            "reset moments": reset == end(fresh),
            "losses": straight[0],
        }
        fresh.close()
    return found


def other_count(folder: Path) -> dict:
    """Restored from checkpoints of the other number of processes."""
    found = {}
    # each conversion is a process: bf16 one way, and embeddings one way
    cases = [(s, p, "all") for s, p in ENGINES if WORLD == 2 or p == "float32"]
    cases += [(s, p, "embeddings") for s, p in EMBEDDED if WORLD == 1]
    for stage, precision, trainable in cases:
        name = f"{stage}-{precision}-{trainable}-none"
        mine = engine(stage, precision, seed=9, trainable=trainable)
        steps(mine, 70, 71)
        at = folder / f"{3 - WORLD}" / name
        mine.restore(at)
        losses = steps(mine, 3, 6)
        counts = {float(v) for n, v in mine.moments().items() if n.endswith("/step")}
        found[name] = {
            "losses": losses,
            "steps": sorted(counts),
            "left": sorted(p.name for p in at.iterdir()),
        }
        mine.close()
    return found


def refused(folder: Path) -> dict:
    """What a restore says of a checkpoint that is not what was saved."""
    found = {}
    source = folder / f"{WORLD}" / "2-float32-all-none"
    mine = engine(2)
    steps(mine, 0, 1)
    before = mine.weights()

    def attempt(name: str, harm, at=source, by=mine) -> None:
        copy = folder / "harmed" / f"{WORLD}-{name}"
        if mine.leader:
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(at, copy)
            harm(copy)
        mine.wait()
        try:
            by.restore(copy)
            found[name] = ""
        except AnnealError as error:
            found[name] = str(error)

    def states(copy: Path) -> Path:
        return sorted((copy / "deepspeed" / "state").glob("*optim_states.pt"))[-1]

    def truncate(copy: Path) -> None:
        with open(states(copy), "r+b") as file:
            file.truncate(states(copy).stat().st_size - 1)

    def alter(copy: Path) -> None:
        data = bytearray(states(copy).read_bytes())
        data[len(data) // 2] ^= 1
        states(copy).write_bytes(data)

    def bring_code(copy: Path) -> None:
        class Touch:
            def __reduce__(self):
                return os.mkdir, (str(folder / "ran"),)

        for path in states(copy).parent.glob("*optim_states.pt"):
            torch.save({"state": Touch()}, path)
        seal(copy, read_seal(copy))  # and even the hashes are right

    attempt("truncated", truncate)
    attempt("altered", alter)
    attempt("missing", lambda copy: states(copy).unlink())
    attempt("unsealed", lambda copy: (copy / "deepspeed.json").unlink())
    attempt("stage", lambda copy: None, at=folder / f"{WORLD}" / "1-float32-all-none")
    after = mine.weights()
    attempt("code", bring_code)
    found["ran"] = (folder / "ran").exists()
    found["untouched"] = not mine.leader or sha256(before) == sha256(after)
    mine.close()
    return found


def errors() -> dict:
    """What cannot be, said before training."""
    found = {}
    for name, make in {
        "batch": lambda: engine(1, batch=9),
        "micro": lambda: engine(1, micro=3),
        "owned": lambda: engine(1, config={"bf16": {"enabled": True}}),
        "owned zero": lambda: engine(1, config={"zero_optimization": {"stage": 2}}),
        "offload": lambda: engine(0, offload="cpu"),
        "passed": lambda: engine(1, config={"zero_optimization": {"reduce_bucket_size": 1000}}),
    }.items():
        try:
            make().close()
            found[name] = ""
        except AnnealError as error:
            found[name] = f"{type(error).__name__}: {error}"
    mine = engine(1)
    for name, change in {
        "missing": lambda w: w.popitem(),
        "shape": lambda w: w.update({n: t[:1] for n, t in w.items()}),
    }.items():
        weights = mine.weights()
        if mine.leader:
            change(weights)
        try:
            mine.load(weights, None)
            found[name] = ""
        except AnnealError as error:
            found[name] = f"{type(error).__name__}: {error}"
    found["agree"] = [mine.agree(not mine.leader), mine.agree(False)]
    mine.close()
    return found


def main(groups: str, out: Path, folder: Path) -> None:
    found = {}
    for group in groups.split(","):
        case = globals()[group]
        wants_folder = case.__code__.co_argcount > 0
        found[group] = case(folder) if wants_folder else case()
    if os.environ.get("RANK", "0") == "0":
        out.write_text(json.dumps(found))


if __name__ == "__main__":
    try:
        main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)  # before DeepSpeed's teardown, which is not under test
