"""The other side of bench_sweep: what a user would write, one `transformers.Trainer` process a run.

    python analysis/trainer_baseline.py STORE/runs/ID/task.json THREADS

Same model, weights, tokens in the same order, schedule, precision, clipping and decay as the task;
same targets scored at the end. Prints one JSON line: seconds and scores.
"""

from __future__ import annotations

import json
import math
import sys
import time

STARTED = time.perf_counter()

import numpy as np
import torch
from transformers import Trainer, TrainingArguments, set_seed

from anneal.plan.values import Checkpoint, RunTask
from anneal.store import Store, read_value
from anneal.training.data import PhaseData
from anneal.training.evaluate import windows
from anneal.training.model import checkpoint
from anneal.training.workbench import Workbench


class Rows(torch.utils.data.Dataset):
    """Samples of a phase in order, or windows of a target."""

    def __init__(self, inputs: np.ndarray, labels: np.ndarray) -> None:
        self.inputs, self.labels = inputs, labels

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {
            "input_ids": torch.from_numpy(self.inputs[index]),
            "labels": torch.from_numpy(self.labels[index]),
        }


class InOrder(Trainer):
    """Samples in the order they are given, as the task's data order says."""

    def _get_train_sampler(self, *args: object, **kwargs: object) -> torch.utils.data.Sampler:
        return torch.utils.data.SequentialSampler(self.train_dataset)


def main(path: str, threads: int) -> None:
    torch.set_num_threads(threads)
    from pathlib import Path

    task = read_value(Path(path), RunTask)
    store = Store(Path(path).parents[2])
    spec, bench = task.spec, Workbench()
    tokens = bench.tokens(task, store)
    model = checkpoint(Checkpoint(path=str(store.run(spec.start.run) / "weights")))
    (phase,) = spec.phases
    data = PhaseData(phase, tokens, seed=spec.seed)
    rows = data.read(0, len(data.source_of))
    set_seed(spec.seed)
    # transformers shifts labels itself: rows of sequence + 1 tokens give sequence losses
    arguments = TrainingArguments(
        output_dir=str(store.cache("trainer")),
        per_device_train_batch_size=phase.batch,
        per_device_eval_batch_size=phase.batch,
        max_steps=phase.steps,
        learning_rate=phase.schedule.peak,
        lr_scheduler_type="linear",
        adam_beta1=spec.optimiser.beta1,
        adam_beta2=spec.optimiser.beta2,
        adam_epsilon=spec.optimiser.epsilon,
        weight_decay=spec.optimiser.weight_decay,
        max_grad_norm=spec.optimiser.clip,
        bf16=spec.precision == "bfloat16",
        use_cpu=not torch.cuda.is_available(),
        dataloader_num_workers=0,
        save_strategy="no",
        logging_steps=50,
        report_to="none",
        prediction_loss_only=True,
        disable_tqdm=True,
    )
    trainer = InOrder(model=model, args=arguments, train_dataset=Rows(rows, rows))
    ready = time.perf_counter()
    trainer.train()
    trained = time.perf_counter()
    scores = {}
    for target in spec.targets:
        whole = np.concatenate([np.asarray(s, np.int64) for s in tokens[target.content]])
        inputs, labels = windows(
            whole,
            sequence=spec.score_sequence,
            batch=1,
            end_of_text=bench.end_of_text(spec.tokenizer, store),
        )
        shifted = np.concatenate([inputs[:, :1], labels], axis=1)
        with_end = np.concatenate([inputs, labels[:, -1:].clip(0)], axis=1)
        found = trainer.evaluate(Rows(with_end, shifted))
        bytes_ = bench.manifest(target.content, store).bytes
        scores[target.name] = found["eval_loss"] * len(whole) / math.log(2) / bytes_
    done = time.perf_counter()
    print(
        json.dumps(
            {
                "run": spec.id,
                "startup": ready - STARTED,
                "train": trained - ready,
                "score": done - trained,
                "tokens_per_second": phase.tokens / (trained - ready),
                "scores": scores,
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
