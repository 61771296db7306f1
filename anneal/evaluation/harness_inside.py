"""EleutherAI's lm-eval in a process of its own: slow to import, and it says much.

    stdin            a JSON object: model, tasks, batch, seed, scratch folder, where to answer
    answer (a file)  a JSON object: versions and, for each task, its metrics and the values they
                     were made from; or the error, and which task it is of

Whatever this process prints goes to its parent's log. The environment says that hubs are offline
before any library is imported.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any


def main() -> None:
    """Evaluates what stdin says."""
    asked = json.loads(sys.stdin.read())
    at = {"task": ""}
    try:
        answer = _evaluate(asked, at)
    except Exception as error:  # lm-eval raises whatever comes
        said = " ".join(f"{type(error).__name__}: {error}".split())
        answer = {"error": said[:500], **at}
    Path(asked["answer"]).write_text(json.dumps(answer, default=str), encoding="utf-8")


def _evaluate(asked: dict[str, Any], at: dict[str, str]) -> dict[str, Any]:
    """`at` is kept on the task that is being worked on."""
    import lm_eval
    import lm_eval.utils
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from lm_eval.tasks import TaskManager

    # a task's templates are text from a file: they may format, not call into Python
    walled = ImmutableSandboxedEnvironment(
        loader=lm_eval.utils.env.loader,
        undefined=lm_eval.utils.env.undefined,
        keep_trailing_newline=True,
    )
    walled.filters |= lm_eval.utils.env.filters
    lm_eval.utils.env = walled
    manager = TaskManager(include_defaults=False)
    loaded = []
    for config in asked["tasks"]:
        at["task"] = config["task"]
        _known_metrics(config)
        config["dataset_kwargs"]["cache_dir"] = asked["scratch"]
        loaded.append(manager.load([config]))
    at["task"] = ""
    lm = _model(asked)
    results = []
    for one in loaded:
        (at["task"],) = one["tasks"]
        results.append(_one(lm, one, asked["seed"]))
    return {"versions": {"lm_eval": lm_eval.__version__}, "results": results}


def _known_metrics(config: dict[str, Any]) -> None:
    """lm-eval would look on a hub for one that it has not."""
    import lm_eval.api.metrics  # noqa: F401 (which registers them)
    from lm_eval.api.registry import metric_registry

    for entry in config.get("metric_list") or ():
        name = entry.get("metric") if isinstance(entry, dict) else entry
        if name not in metric_registry:
            raise ValueError(f"no metric {name!r} in lm-eval")


def _model(asked: dict[str, Any]) -> Any:
    import torch
    from lm_eval.models.huggingface import HFLM

    return HFLM(
        pretrained=asked["model"],
        tokenizer=asked["model"],
        device="cuda" if torch.cuda.is_available() else "cpu",
        batch_size=asked["batch"],
        trust_remote_code=False,
    )


def _one(lm: Any, loaded: Any, seed: int) -> dict[str, Any]:
    """One task's metrics, each with the values of its items by lm-eval's filter."""
    from lm_eval.evaluator import evaluate

    ((name, task),) = loaded["tasks"].items()
    if task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=seed)
    told = evaluate(lm=lm, task_dict=loaded, bootstrap_iters=1000, log_samples=True)
    values: dict[str, list[Any]] = defaultdict(list)
    for sample in told["samples"][name]:
        for metric in sample["metrics"]:
            values[f"{metric},{sample['filter']}"].append(sample[metric])
    metrics = {
        key: {
            "value": value,
            "stderr": told["results"][name].get(key.replace(",", "_stderr,", 1)),
            "items": values[key],
            "higher_is_better": told["higher_is_better"][name].get(key.split(",")[0]),
        }
        for key, value in told["results"][name].items()
        if "," in key and "_stderr," not in key
    }
    return {
        "task": name,
        "fewshot": told["n-shot"].get(name, 0),
        "n": told["n-samples"][name]["effective"],
        "metrics": metrics,
    }


if __name__ == "__main__":
    main()
