# %% [markdown]
# How fast one run trains: our loop against `transformers.Trainer`, against a bare torch loop, and
# DeepSpeed's ZeRO-1 on two processes against one; what a save costs; and, on a GPU, tokens/s, model
# FLOPs utilisation and peak memory at real sizes.
#
#     python analysis/bench_train.py                 # CPU: about 10 minutes on two idle cores
#     python analysis/bench_train.py --gpu           # one CUDA device: about 4 minutes
#
# Sides alternate, each in a process of its own, and the ratio of medians counts: same model, same
# random tokens, same batch, bf16, AdamW, clipping. Steps before the clock are not counted, so
# compiling is not.

# %%
from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from anneal.plan.flops import llama_parameters, training_flops, utilisation
from anneal.plan.means import DeepSpeed, Means
from anneal.plan.values import LlamaShape, Phase, Portion, RunSpec, RunTask, Schedule
from anneal.sources.tokenizer import TokenizerInfo
from anneal.sources.values import Manifest, Shard
from anneal.store import Store, read_value, write_value

HERE = Path(__file__).resolve().parent
SMALL = LlamaShape()
BATCH, SEQUENCE, VOCABULARY = 8, 128, 4096
WARM, STEPS = 30, 150
TRAINED = 400_000
SIZES = {
    "125M": (
        LlamaShape(hidden=768, layers=12, heads=12, kv_heads=12, feed_forward=2048),
        32,
        32768,
    ),
    "1B": (
        LlamaShape(hidden=2048, layers=20, heads=16, kv_heads=16, feed_forward=5632),
        8,
        32768,
    ),
}
"""Shape, sequences at once, vocabulary."""


def rows(step: int, vocabulary: int = VOCABULARY, batch: int = BATCH, sequence: int = SEQUENCE):
    return np.random.default_rng(step).integers(0, vocabulary, (batch, sequence + 1))


def timed(step, warm: int = WARM, steps: int = STEPS) -> float:
    """Tokens/s of the demo's batch, after a warm-up."""
    for number in range(warm):
        step(number)
    began = time.perf_counter()
    for number in range(warm, warm + steps):
        step(number)
    return steps * BATCH * SEQUENCE / (time.perf_counter() - began)


# %% [markdown]
# The sides: each prints one JSON line.


# %%
def bare() -> float:
    """A loop by hand: transformers' model and loss, compiled, bf16 autocast, fused AdamW."""
    import torch

    from anneal.training.model import llama

    model = llama(SMALL, vocabulary=VOCABULARY, seed=0).train()
    adam = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), fused=True)
    run = torch.compile(model, dynamic=False)

    def step(number: int) -> None:
        batch = torch.from_numpy(rows(number))
        with torch.autocast("cpu", torch.bfloat16):
            logits = run(input_ids=batch[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(
            logits.float().reshape(-1, VOCABULARY), batch[:, 1:].reshape(-1)
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        adam.zero_grad()

    return timed(step)


def trainer(compiled: bool) -> float:
    """`transformers.Trainer`, bf16, as its documentation has it."""
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from anneal.training.model import llama

    class Clock(TrainerCallback):
        began = 0.0
        seconds = 0.0

        def on_step_end(self, arguments, state, control, **more):
            if state.global_step == WARM:
                self.began = time.perf_counter()
            self.seconds = time.perf_counter() - self.began

    class Samples(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return (WARM + STEPS) * BATCH

        def __getitem__(self, index: int) -> dict:
            row = torch.from_numpy(rows(index, batch=1)[0])
            return {"input_ids": row[:-1], "labels": row[:-1]}

    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        Trainer(
            model=llama(SMALL, vocabulary=VOCABULARY, seed=0),
            args=TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=BATCH,
                max_steps=WARM + STEPS,
                bf16=True,
                torch_compile=compiled,
                use_cpu=True,
                optim="adamw_torch_fused",
                save_strategy="no",
                logging_steps=50,
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=Samples(),
            callbacks=[clock],
        ).train()
    return STEPS * BATCH * SEQUENCE / clock.seconds


def store_with_tokens(folder: Path, tokens: int = 2_000_000) -> Store:
    made = Store(folder)
    ids = np.random.default_rng(0).integers(0, VOCABULARY, tokens).astype("<u2")
    place = made.tokens("noise")
    place.mkdir(parents=True, exist_ok=True)
    (place / "0.bin").write_bytes(ids.tobytes())
    manifest = Manifest(
        name="noise",
        kind="general",
        documents_address="made",
        tokenizer="made",
        vocabulary=VOCABULARY,
        dtype="uint16",
        tokens=tokens,
        bytes=tokens,
        documents=1,
        shards=(Shard(file="0.bin", tokens=tokens, sha256=""),),
        content="noise",
    )
    write_value(place / "manifest.json", manifest)
    info = {"vocabulary": VOCABULARY, "end_of_text": 0, "end_of_text_token": "<|end|>"}
    info = TokenizerInfo(**info, content="made")
    write_value(made.tokenizer("made") / "tokenizer_info.json", info)
    return made


def task_of(means: Means, steps: int, batch: int = BATCH) -> RunTask:
    phase = Phase(
        mixture=(Portion(source="noise", content="noise", share=1.0),),
        tokens=steps * batch * SEQUENCE,
        batch=batch,
        sequence=SEQUENCE,
        schedule=Schedule(peak=1e-3),
    )
    spec = RunSpec(
        start=SMALL, phases=(phase,), tokenizer="made", vocabulary=VOCABULARY, precision="bfloat16"
    )
    return RunTask(spec=spec, means=means, label="bench", code="bench")


def ours() -> float:
    """The whole loop, log and data order included: steps between two rows of its log."""
    from anneal.training.loop import make_repeatable, train
    from anneal.training.workbench import Workbench

    make_repeatable()
    times: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        store = store_with_tokens(Path(folder))
        train(
            task_of(Means(device="cpu", checkpoint_seconds=1e9), WARM + STEPS),
            store,
            bench=Workbench(),
            report=lambda *_: times.append(time.perf_counter()),
        )
    return STEPS * BATCH * SEQUENCE / (times[-1] - times[WARM - 1])


def deepspeed(processes: int, batch: int = 2 * BATCH, steps: int = STEPS) -> float:
    """A ZeRO-1 run by its own command; tokens/s as its result says, the first steps included."""
    means = Means(
        engine="deepspeed",
        processes=processes,
        device="cpu",
        compile="off",
        checkpoint_seconds=1e9,
        deepspeed=DeepSpeed(stage=1),
    )
    with tempfile.TemporaryDirectory() as folder:
        store = store_with_tokens(Path(folder))
        task = task_of(means, steps, batch=batch)
        path = store.run(task.spec.id) / "task.json"
        write_value(path, task)
        words = [sys.executable, "-m", "anneal", "run", str(path)]
        subprocess.run(words, check=True, capture_output=True, env=environment(1))
        from anneal.plan.values import Result

        result = read_value(store.run(task.spec.id) / "result.json", Result)
        return result.tokens_per_second


def saves() -> dict[str, float]:
    """What saves cost at the default interval: seconds of the run spent in them."""
    from anneal.plan.values import Result
    from anneal.training.loop import make_repeatable, train
    from anneal.training.workbench import Workbench

    make_repeatable()
    with tempfile.TemporaryDirectory() as folder:
        store = store_with_tokens(Path(folder))
        means = Means(device="cpu", checkpoint_seconds=10.0)
        task, bench = task_of(means, TRAINED // (BATCH * SEQUENCE)), Workbench()
        bench.rehearse(task, store)  # as a warm worker does: scoring is compiled too
        result: Result = train(task, store, bench=bench)
    each = result.save_seconds / max(1, int(result.train_seconds // 10))
    return {"each": each, "share": each / Means().checkpoint_seconds}


# %% [markdown]
# A GPU at real sizes.


# %%
def gpu(name: str, compiled: str, tiled: bool) -> dict[str, float]:
    """Tokens/s, MFU (6 N FLOPs a token over the device's peak) and peak memory."""
    import torch

    from anneal.plan.values import Optimiser
    from anneal.training import engine as engines
    from anneal.training.loop import make_repeatable
    from anneal.training.model import llama

    make_repeatable()
    shape, batch, vocabulary = SIZES[name]
    shape = shape.model_copy(update={"max_positions": 2048})
    engines.TILE["cuda"] = 4096 if tiled else 1 << 30
    made = engines.TorchEngine(
        llama(shape, vocabulary=vocabulary, seed=0),
        Optimiser(),
        precision="bfloat16",
        means=Means(device="cuda", compile=compiled),
        sequence=2048,
    )
    data = [rows(n, vocabulary, batch, 2048) for n in range(4)]
    torch.cuda.reset_peak_memory_stats()
    for number in range(6):
        made.step(data[number % 4], 1e-4)
    torch.cuda.synchronize()
    steps, began = 20, time.perf_counter()
    for number in range(steps):
        made.step(data[number % 4], 1e-4)
    torch.cuda.synchronize()
    speed = steps * batch * 2048 / (time.perf_counter() - began)
    device = torch.cuda.get_device_name()
    parameters = llama_parameters(shape, vocabulary)
    mfu = utilisation(parameters, speed, device, 1) or float("nan")
    attention = 12 * shape.layers * shape.hidden * 2048 / 2  # causal, forward and backward
    return {
        "parameters": parameters,
        "tokens_per_second": speed,
        "mfu": mfu,
        "mfu_with_attention": mfu * (1 + attention / training_flops(parameters, 1.0)),
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9,
        "device": device,
    }


SIDES = {
    "ours": ours,
    "bare": bare,
    "trainer": lambda: trainer(False),
    "trainer, compiled": lambda: trainer(True),
    "deepspeed 1": lambda: deepspeed(1),
    "deepspeed 2": lambda: deepspeed(2),
    "deepspeed 1, batch 64": lambda: deepspeed(1, 64, 40),
    "deepspeed 2, batch 64": lambda: deepspeed(2, 64, 40),
    "saves": saves,
}


def environment(threads: int) -> dict[str, str]:
    bin_first = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "PATH": bin_first,
        "PYTHONPATH": str(HERE.parent),
        "PYTHONWARNINGS": "ignore",
    }


def ask(*words: str):
    """One side in a process of its own."""
    command = [sys.executable, __file__, "--side", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(1), check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


# %%
def on_cpu(rounds: int) -> None:
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for side in [name for name in SIDES if name != "saves"]:
            found.setdefault(side, []).append(ask(side))
    middle = {side: statistics.median(speeds) for side, speeds in found.items()}
    for side, speeds in found.items():
        told = ", ".join(f"{s:,.0f}" for s in speeds)
        print(f"{side:<20} {middle[side]:>9,.0f} tokens/s   ({told})")
    best = max(middle["trainer"], middle["trainer, compiled"])
    print(f"ours / Trainer (as documented)   {middle['ours'] / middle['trainer']:.2f}   aim 1.2")
    print(f"ours / Trainer (the faster one)  {middle['ours'] / best:.2f}")
    print(f"ours / bare torch loop           {middle['ours'] / middle['bare']:.2f}   aim 0.95")
    for size, name in ((2 * BATCH, ""), (64, ", batch 64")):
        ratio = middle[f"deepspeed 2{name}"] / middle[f"deepspeed 1{name}"]
        tokens = size * SEQUENCE
        print(f"ZeRO-1, 2 processes / 1          {ratio:.2f}   aim 1.6 ({tokens:,} tokens a step)")
    cost = ask("saves")
    print(
        f"a save                          {cost['each']:.3f} s, {cost['share']:.2%} of 60 s; aim 5%"
    )


def on_gpu() -> None:
    for name in SIZES:
        for compiled, tiled in (("on", True), ("on", False), ("off", True)):
            got = ask("gpu", name, compiled, str(int(tiled)))
            print(
                f"{name:<5} {got['parameters'] / 1e6:,.0f}M compile {compiled:<3} "
                f"{'tiled' if tiled else 'whole'} loss, sdpa flash: "
                f"{got['tokens_per_second']:,.0f} tokens/s, MFU {got['mfu']:.1%} "
                f"({got['mfu_with_attention']:.1%} with attention), peak {got['peak_gb']:.1f} GB, "
                f"{got['device']}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", nargs="+")
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    words = parser.parse_args()
    if words.side and words.side[0] == "gpu":
        print(json.dumps(gpu(words.side[1], words.side[2], words.side[3] == "1")))
    elif words.side:
        print(json.dumps(SIDES[words.side[0]]()))
    elif words.gpu:
        on_gpu()
    else:
        on_cpu(words.rounds)


if __name__ == "__main__":
    main()
