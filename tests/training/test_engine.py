"""Loss, engine and checkpoints against plain torch."""

import numpy as np
import pytest
import torch

from anneal.plan.means import Means
from anneal.plan.values import LlamaShape, Optimiser
from anneal.training import checkpoint
from anneal.training.checkpoint import Progress
from anneal.training.engine import TorchEngine
from anneal.training.evaluate import score, windows
from anneal.training.loss import IGNORED, summed_loss, tiled_cross_entropy
from anneal.training.model import llama
from anneal.training.tensors import sha256

SHAPE = LlamaShape(hidden=64, layers=2, heads=2, kv_heads=1, feed_forward=96)
MEANS = Means(device="cpu", compile="off")


def engine(precision="float32", seed=0, means=MEANS, **optimiser) -> TorchEngine:
    return TorchEngine(
        llama(SHAPE, vocabulary=128, seed=seed),
        Optimiser(**optimiser),
        precision=precision,
        means=means,
        sequence=32,
    )


def rows(step: int) -> np.ndarray:
    return np.random.default_rng(step).integers(0, 128, (8, 33))


@pytest.mark.parametrize("tile", [7, 64, 1000])
def test_tiled_loss_and_gradients_equal_torch(tile):
    torch.manual_seed(0)
    hidden = torch.randn(100, 16, requires_grad=True)
    head = torch.randn(50, 16, requires_grad=True)
    labels = torch.randint(0, 50, (100,))
    labels[::9] = IGNORED
    plain = torch.nn.functional.cross_entropy(
        hidden @ head.t(), labels, ignore_index=IGNORED, reduction="sum"
    )
    expected = torch.autograd.grad(plain * 0.3, (hidden, head))
    tiled = tiled_cross_entropy(hidden, head, labels, tile=tile)
    found = torch.autograd.grad(tiled * 0.3, (hidden, head))
    # fp32 sums in another order
    torch.testing.assert_close(tiled, plain, rtol=1e-6, atol=0)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(summed_loss(hidden, head, labels, tile=tile), plain)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_rehearsing_leaves_no_trace(precision):
    """Weights, moments and gradients after a load are those of an engine that never rehearsed."""
    plain, rehearsed = engine(precision), engine(precision)
    rehearsed.rehearse(8, 32, 16)
    rehearsed.load(plain.weights(), None)
    for step in range(3):
        a, b = plain.step(rows(step), 1e-3), rehearsed.step(rows(step), 1e-3)
        assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])
    for name, weight in plain.weights().items():
        assert torch.equal(weight, rehearsed.weights()[name])


def test_a_parameter_without_gradient_keeps_none_of_the_last_step():
    mixed = engine("bfloat16")
    mixed.step(rows(0), 1e-3)
    assert all(m.grad.any() for m in mixed.masters)
    for copy in mixed.copies[1:]:
        copy.grad = torch.ones_like(copy)
    mixed._gather(first=True)
    assert not mixed.masters[0].grad.any()
    assert all((m.grad == 1).all() for m in mixed.masters[1:])


def test_a_step_equals_transformers_and_torch_by_hand():
    mine = engine(weight_decay=0.1)
    model = llama(SHAPE, vocabulary=128, seed=0)
    vectors = [p for p in model.parameters() if p.dim() == 1]
    tied = [model.model.embed_tokens.weight]
    matrices = [p for p in model.parameters() if p.dim() > 1 and p is not tied[0]]
    adam = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": 0.1},
            {"params": vectors + tied, "weight_decay": 0.0},
        ],
        betas=(0.9, 0.95),
        lr=1e-2,
    )
    for step in range(3):
        batch = torch.from_numpy(rows(step))
        logits = model(input_ids=batch[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, 128), batch[:, 1:].reshape(-1))
        adam.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        found, found_norm = mine.step(rows(step), 1e-2)
        # fp32 rounding grows by the step
        torch.testing.assert_close(found, loss.detach(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found_norm, norm, rtol=1e-4, atol=1e-5)


def test_micro_batches_add_up():
    whole, parts = engine(), engine(means=MEANS.model_copy(update={"micro_batch": 3}))
    for step in range(3):
        a, b = whole.step(rows(step), 1e-3)[0], parts.step(rows(step), 1e-3)[0]
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_bfloat16_keeps_small_updates():
    # one update of 1e-6 relative to weights of 1 vanishes in bf16 but not in its masters
    mine = engine("bfloat16", weight_decay=0.0)
    before = mine.weights()
    for step in range(5):
        mine.step(rows(step), 1e-6)
    moved = [(mine.weights()[n] - before[n]).abs().max() for n in before]
    assert all(m > 1e-7 for m in moved)
    assert all(p.dtype == torch.bfloat16 for p in mine.model.parameters())


def test_bfloat16_leaves_rotary_frequencies_in_full_precision():
    # 8 bits of a frequency are a wrong angle far out: exported weights would score otherwise
    mine = engine("bfloat16")
    floats = [b for b in mine.model.buffers() if b.is_floating_point()]
    assert floats and all(b.dtype == torch.float32 for b in floats)
    tokens = np.random.default_rng(0).integers(0, 128, 640)
    found = score(mine, [tokens], bytes_=1, sequence=160, batch=2, end_of_text=0)
    exact = score(engine("float32"), [tokens], bytes_=1, sequence=160, batch=2, end_of_text=0)
    assert found.loss == pytest.approx(exact.loss, abs=2e-3)  # bf16 rounding


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("compiled", ["off", pytest.param("on", marks=pytest.mark.integration)])
def test_saving_and_loading_continues_bit_for_bit(tmp_path, precision, compiled):
    means = MEANS.model_copy(update={"compile": compiled})
    straight = engine(precision, means=means)
    for step in range(6):
        straight.step(rows(step), 1e-3)
    broken = engine(precision, means=means)
    for step in range(3):
        broken.step(rows(step), 1e-3)
    checkpoint.save(tmp_path, Progress(phase=0, step=3), broken, keep=2)
    other = engine(precision, seed=9, means=means)
    other.step(rows(77), 1.0)  # whatever was in it is gone
    progress = checkpoint.restore(checkpoint.checkpoints(tmp_path)[-1], other)
    for step in range(progress.step, 6):
        other.step(rows(step), 1e-3)
    assert sha256(other.weights()) == sha256(straight.weights())


def test_old_checkpoints_go(tmp_path):
    mine = engine()
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, Progress(phase=0, step=step), mine, keep=2)
    assert [p.name for p in checkpoint.checkpoints(tmp_path)] == [
        "checkpoint-00-000000002",
        "checkpoint-00-000000003",
    ]


def test_weights_open_in_transformers(tmp_path):
    from transformers import AutoModelForCausalLM

    mine = engine("bfloat16")
    mine.step(rows(0), 1e-3)
    checkpoint.save_weights(tmp_path / "w", mine.model, mine.weights(), mine.moments())
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "w")
    for name, weight in model.named_parameters():
        assert torch.equal(weight, mine.weights()[name])


@pytest.mark.parametrize("count", [5, 32, 33, 300])
def test_scores_count_every_token_once(count):
    tokens = np.random.default_rng(0).integers(0, 128, count)
    mine = engine()
    found = score(mine, [tokens], bytes_=700, sequence=32, batch=4, end_of_text=0)
    inputs, labels = windows(tokens, sequence=32, batch=1, end_of_text=0)
    model = llama(SHAPE, vocabulary=128, seed=0)
    with torch.no_grad():
        logits = model(input_ids=torch.from_numpy(inputs)).logits
    nats = torch.nn.functional.cross_entropy(
        logits.reshape(-1, 128), torch.from_numpy(labels).reshape(-1), reduction="sum"
    )
    assert found.tokens == count
    assert found.loss == pytest.approx(float(nats) / count, rel=1e-5)
    assert found.bpb == pytest.approx(float(nats) / np.log(2) / 700, rel=1e-5)
