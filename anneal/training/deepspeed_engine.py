"""The DeepSpeed engine: one optimiser step on one batch, by several processes.

Every process gets the whole batch and takes its own rows, so the data order does not depend on
their number. What differs from `TorchEngine` is who holds what (ZeRO stages 0 to 3, arXiv
1910.02054); the arithmetic is meant to be the same, and the tests hold it to that: fp32 masters and
moments, gradients summed in fp32, the same decay groups, the same clipping, the same tiled loss.

Stage 0 shards nothing. DeepSpeed has no bf16 there that sums gradients in fp32, so at stage 0 it is
given the fp32 masters, and the forward pass makes the bf16 copies that it computes with.
"""

from __future__ import annotations

import io
import shutil
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from anneal.errors import StoreError, TrainingError
from anneal.plan.means import LongSequences, Means
from anneal.plan.values import Optimiser
from anneal.store import writing
from anneal.training import deepspeed_files as files
from anneal.training import long_sequences
from anneal.training import model as models
from anneal.training.deepspeed_config import configuration, divide
from anneal.training.deepspeed_model import Loss, Rounded, embeddings, group_of, make_adam
from anneal.training.deepspeed_state import MOMENTS, State, shape_of
from anneal.training.engine import TILE, Engine, pick_device
from anneal.training.loss import IGNORED
from anneal.training.processes import Processes, check_processes
from anneal.training.tensors import misfit, read_tensors, write_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel

KEYS = ("step", *MOMENTS)
FROZEN = "frozen.safetensors"


class DeepSpeedEngine(Engine):
    """One of the processes that share a run; all of them make it, in the same order.

    Args:
        model: fp32 weights on the CPU, the same in every process; it is taken over.
        optimiser: AdamW's settings; weight decay is off on vectors (norms) and embeddings.
        precision: float32 or bfloat16: what forward and backward run in.
        means: processes, device, micro-batch, ZeRO stage and offloading.
        batch: rows a step, over all processes.
        sequence: tokens a sequence (chooses the attention).
        trainable: embeddings: input and output embeddings alone get gradients.

    Raises:
        TrainingError: a batch that does not divide, processes that are not there, options that
            contradict each other.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        optimiser: Optimiser,
        *,
        precision: str,
        means: Means,
        batch: int,
        sequence: int,
        trainable: str = "all",
    ) -> None:
        check_processes(means)
        self.processes = Processes(pick_device(means))
        self.leader = self.processes.leader
        self.device = self.processes.device
        self.stage = means.deepspeed.stage
        self.precision, self.trainable = precision, trainable
        self.division = divide(
            means, batch=batch, count=self.processes.count, rank=self.processes.rank
        )
        self.at_once = self.division.micro * self.division.places
        config = configuration(
            means,
            optimiser,
            precision=precision,
            division=self.division,
            count=self.processes.count,
        )
        self.parameters = models.parameter_count(model)
        self.clip = optimiser.clip
        long_sequences.check(model, means, precision=precision, sequences=[sequence])
        self.long = means.long
        model.set_attn_implementation(models.attention_for(self.device, sequence))
        long_sequences.prepare(model, self.long)
        model.train()
        self.model = model
        self._choose(trainable)
        start = {n: p.detach().clone() for n, p in model.named_parameters()} if self.leader else {}
        self._adam = make_adam(model, optimiser)
        compiled = means.compile == "on" and self.stage < 3 and self.long == LongSequences()
        self.engine = self._make(config, compiled)
        self._state = State(self.engine, self._adam, self.processes, self.stage)
        self._frozen: dict[str, Tensor] = {}
        """Weights, and moments that were given, of what does not train; the leader has them."""
        self.load(start, None)  # DeepSpeed made its masters from rounded weights

    def _choose(self, trainable: str) -> None:
        if trainable == "all":
            return
        chosen = {id(w) for w in embeddings(self.model)}
        for parameter in self.model.parameters():
            parameter.requires_grad_(id(parameter) in chosen)

    def _make(self, config: dict[str, Any], compiled: bool) -> Any:
        import deepspeed

        mixed = self.precision != "float32"
        tile, rank = TILE[self.device.type], self.processes.rank
        module: nn.Module = Loss(self.model, tile, compiled=compiled, long=self.long, rank=rank)
        if self.stage == 3:
            # the loss takes the head's matrix itself, which ZeRO would not know to gather
            deepspeed.zero.register_external_parameter(module, models.head(self.model))
        if self.stage == 0 and mixed:
            module = Rounded(module, getattr(torch, self.precision))
        floats = {
            (owner, name): buffer.detach().clone()
            for owner in self.model.modules()
            for name, buffer in owner.named_buffers(recurse=False)
            if buffer.is_floating_point()
        }
        with redirect_stdout(io.StringIO()):  # its bf16 optimiser prints memory, always
            engine, _, _, _ = deepspeed.initialize(
                model=module, optimizer=self._adam, config=config, dist_init_required=False
            )
        for (owner, name), buffer in floats.items():  # rotary frequencies stay exact
            setattr(owner, name, buffer.to(self.device))
        engine.checkpoint_engine = files.checkpoint_engine()
        return engine

    def agree(self, flag: bool) -> bool:
        return self.processes.agree(flag)

    def close(self) -> None:
        """Takes DeepSpeed's hooks off the model; nothing may be called afterwards."""
        self.engine.destroy()

    def mine(self, rows: Tensor) -> Tensor:
        """This process's rows of a batch: (n, ...) -> (n / data-parallel places, ...)."""
        part = len(rows) // self.division.places
        return rows[self.division.place * part : (self.division.place + 1) * part]

    def step(self, rows: Any, learning_rate: float) -> tuple[Tensor, Tensor]:
        batch = self.mine(torch.from_numpy(rows)).to(self.device, non_blocking=True)
        for group in self._adam.param_groups:
            group["lr"] = learning_rate
        size = self.division.micro
        tokens = size * (rows.shape[1] - 1) // self.long.sequence_parallel  # of this process
        loss = torch.zeros((), device=self.device)
        norm: Any = None
        for number, at in enumerate(range(0, len(batch), size)):
            part = batch[at : at + size]
            partial = self.engine(part[:, :-1], part[:, 1:])
            self.engine.backward(partial / tokens)  # which divides by the accumulation
            loss += partial.detach()
            if self.stage == 0 and number + 1 == self.division.accumulation:
                norm = self._clip()
            self.engine.step()
        dist.all_reduce(loss)
        norm = self.engine.get_global_grad_norm() if norm is None else norm
        mean = loss / (rows.shape[0] * (rows.shape[1] - 1))
        return mean, torch.as_tensor(norm, dtype=torch.float32)

    def _clip(self) -> Tensor:
        """Clips as `TorchEngine` does; DeepSpeed's stage 0 would not tell the norm."""
        with_gradients = [p for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in with_gradients if p.grad is not None])
        torch.nn.utils.clip_grads_with_norm_(with_gradients, self.clip, norm)
        return norm

    @torch.no_grad()
    def score(self, inputs: Tensor, labels: Tensor) -> Tensor:
        places = self.division.places
        if lacking := -len(inputs) % places:  # rows that count for nothing
            inputs = torch.cat([inputs, inputs[:1].expand(lacking, -1)])
            labels = torch.cat([labels, labels.new_full((lacking, labels.shape[1]), IGNORED)])
        inputs, labels = self.mine(inputs).to(self.device), self.mine(labels).to(self.device)
        total = torch.zeros((), device=self.device)
        for at in range(0, len(inputs), self.division.micro):
            part = slice(at, at + self.division.micro)
            total += self.engine(inputs[part], labels[part])
        dist.all_reduce(total)
        return total

    def weights(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name, parameter in self.model.named_parameters():
            if not parameter.requires_grad:
                if self.leader:
                    found[name] = self._frozen[name].clone()
            elif (whole := self._state.gather(parameter)) is not None:
                found[name] = whole
        return found

    def moments(self) -> dict[str, Tensor]:
        found = {n: t.clone() for n, t in self._frozen.items() if n.rpartition("/")[2] in KEYS}
        for name, parameter in self.model.named_parameters():
            if not parameter.requires_grad:
                continue
            step = self._state.steps(parameter)
            for key in MOMENTS if step else ():
                whole = self._state.gather(parameter, key)
                if whole is not None:
                    found[f"{name}/{key}"] = whole
                    found[f"{name}/step"] = torch.tensor(float(step))
        return found

    def load(self, weights: dict[str, Tensor], moments: dict[str, Tensor] | None) -> None:
        self._fit(weights, moments or {})
        kept = self.processes.agree(self.leader and bool(moments))
        self._state.reset_moments()
        self._frozen = {}
        for name, parameter in self.model.named_parameters():
            whole = self._everywhere(parameter, weights.get(name))
            self._state.set_master(parameter, whole, cast=parameter.requires_grad)
            if not parameter.requires_grad:
                self._freeze(name, weights, moments or {})
            elif kept:
                self._load_moments(name, parameter, moments or {})

    def _load_moments(self, name: str, parameter: nn.Parameter, moments: dict[str, Tensor]) -> None:
        step = self.processes.greatest(int(moments.get(f"{name}/step", torch.zeros(()))))
        if step:
            wholes = {
                key: self._everywhere(parameter, moments.get(f"{name}/{key}")) for key in MOMENTS
            }
            self._state.set_moments(parameter, step, wholes)

    def _freeze(self, name: str, weights: dict[str, Tensor], moments: dict[str, Tensor]) -> None:
        """Keeps what the engine has no place for, so that it comes out as it went in."""
        if not self.leader:
            return
        self._frozen[name] = weights[name].clone()
        for key in KEYS:
            if f"{name}/{key}" in moments:
                self._frozen[f"{name}/{key}"] = moments[f"{name}/{key}"].clone()

    def _everywhere(self, parameter: nn.Parameter, whole: Tensor | None) -> Tensor:
        """The leader's tensor, in every process."""
        shape = shape_of(parameter)
        if not self.leader or whole is None:
            whole = torch.zeros(shape, dtype=torch.float32)
        there = whole.to(self.device, torch.float32, copy=True).contiguous()
        dist.broadcast(there, 0)
        return there

    def _fit(self, weights: dict[str, Tensor], moments: dict[str, Tensor]) -> None:
        """Whether the leader's tensors are those of this model; collective.

        Raises:
            TrainingError: names or shapes that differ; step counts that one flat tensor cannot
                keep apart.
        """
        wrong = ""
        if self.leader:
            shapes = {name: shape_of(p) for name, p in self.model.named_parameters()}
            wrong = misfit(weights, shapes)
            steps: dict[int, set[float]] = {}
            for name, parameter in self.model.named_parameters():
                if parameter.requires_grad and moments:
                    step = float(moments.get(f"{name}/step", torch.zeros(())))
                    steps.setdefault(group_of(self.model, parameter), set()).add(step)
            if not wrong and any(len(found) > 1 for found in steps.values()):
                wrong = "moments: step counts differ between parameters of one group"
        if self.processes.agree(bool(wrong)):
            raise TrainingError(
                wrong or "weights or moments do not fit, as the leading process says",
                hint="begin from a state of the same model, or with optimiser_state=reset",
            )

    def save(self, folder: Path) -> None:
        frozen = self._frozen if self.leader else {}
        if self.stage == 0:
            weights, moments = self.weights(), self.moments()
            if self.leader:
                write_tensors(weights, folder / "model.safetensors")
                write_tensors(moments, folder / "optimiser.safetensors")
        else:
            self.engine.save_checkpoint(str(folder / "deepspeed"), tag=files.TAG)
            if frozen:
                write_tensors(frozen, folder / FROZEN)
        self.wait()
        if self.leader:
            import deepspeed

            files.seal(
                folder,
                files.Seal(
                    stage=self.stage,
                    processes=self.processes.count,
                    precision=self.precision,
                    trainable=self.trainable,
                    deepspeed=deepspeed.__version__,
                    files={},
                ),
            )
        self.wait()

    def restore(self, folder: Path) -> None:
        saved = self._sealed(folder)
        if self.stage == 0:
            state: list[dict[str, Tensor]] = [{}, {}]
            if self.leader:
                state = [read_tensors(folder / f"{n}.safetensors") for n in ("model", "optimiser")]
            self.load(*state)
            return
        self._state.reset_moments()
        if saved == self.processes.count:
            self._open(folder / "deepspeed", universal=False)
        else:
            self._convert(folder)
            self._open(folder / "universal", universal=True)
            self.wait()
            if self.leader:
                shutil.rmtree(folder / "universal", ignore_errors=True)
        self._thaw(folder)
        self.wait()

    def _thaw(self, folder: Path) -> None:
        """What does not train, from the leader's file: universal checkpoints leave it out."""
        if self.trainable == "all":
            return
        self._frozen = read_tensors(folder / FROZEN) if self.leader else {}
        for name, parameter in self.model.named_parameters():
            if not parameter.requires_grad:
                whole = self._everywhere(parameter, self._frozen.get(name))
                self._state.set_master(parameter, whole, cast=False)

    def _sealed(self, folder: Path) -> int:
        """Verifies a checkpoint; the number of processes that saved it.

        The leader reads all files, and all processes fail where it does.
        """
        failure: StoreError | None = None
        saved = self.processes.count
        try:
            if (folder / files.SEAL).exists():
                seal = files.verify(folder) if self.leader else files.read_seal(folder)
                saved = seal.processes
                asked = (self.stage, self.precision, self.trainable)
                files.check_kind(folder, seal, *asked)
            elif self.stage or not (folder / "model.safetensors").exists():
                failure = files.unsealed(folder)
        except StoreError as error:
            failure = error
        if self.processes.agree(failure is not None):
            raise failure or StoreError(f"{folder}: refused by the leading process")
        return saved

    def _open(self, folder: Path, *, universal: bool) -> None:
        config, failure = self.engine._config, None
        config.load_universal_checkpoint = universal
        try:
            with files.restricted(folder), redirect_stdout(io.StringIO()):
                self.engine.load_checkpoint(str(folder), tag=files.TAG)
        except StoreError as error:
            failure = error
        finally:
            config.load_universal_checkpoint = False
        if self.processes.agree(failure is not None):
            raise failure or StoreError(f"{folder}: another process could not read its part")
        self._state.mend()

    def _convert(self, folder: Path) -> None:
        failure: StoreError | None = None
        if self.leader:
            target = folder / "universal"
            shutil.rmtree(target, ignore_errors=True)
            try:
                with writing(target) as temporary:
                    files.to_universal(
                        folder / "deepspeed",
                        temporary,
                        stage=self.stage,
                        log=folder / "universal.log",
                    )
            except StoreError as error:
                failure = error
        if self.processes.agree(failure is not None):
            raise failure or StoreError(f"{folder}: the leading process could not convert it")
