"""Neural: annotators that read sections of a text with a transformer.

encoder: logistic regression on the sentence vectors of a BERT-style encoder that stays as it is
(Arctic-SnowCoder, arXiv 2409.02326, section 2.2). hf: a sequence classifier that was fine-tuned
elsewhere. A text's score is the mean over its top, middle and bottom sections: of probabilities, or
of the values of a regression.

FLOPs: two per parameter and token of the sections; what a batch is filled up with is not counted.
Every section of every candidate is charged, although a candidate that was an example too is not
encoded again: what a source costs depends on its recipe, not on what happens to be known.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from anneal.curation.annotators import VERSION, Floats, Learned, Spent, halves, sigmoid
from anneal.curation.encoder import Encoder, Section, load
from anneal.curation.models import check_model, label_names
from anneal.curation.ranking import roc_auc
from anneal.curation.scores import Rows, digests
from anneal.curation.steps import Annotate
from anneal.errors import SourceError
from anneal.values import address

WINDOW = 256
"""Examples that are encoded and kept together."""


@dataclass(frozen=True)
class Headed:
    """Probability from an encoder's sentence vectors.

    Args:
        encoder: gives the vectors.
        model: fingerprint of its folder.
        weights: (width,).
        bias: of the log-odds.
        known: vectors of the examples, which may be candidates too.
    """

    encoder: Encoder
    model: str
    weights: Floats
    bias: float
    known: Rows

    @property
    def on_device(self) -> bool:
        return self.encoder.device.type != "cpu"

    @property
    def key(self) -> str:
        head = hashlib.sha256(self.weights.tobytes()).hexdigest()
        how = [self.encoder.room, self.encoder.precision, head, self.bias]
        return address(["encoder", VERSION, self.model, how])

    def score(self, texts: Sequence[str]) -> tuple[Floats, Floats]:
        sections, owners = self.encoder.sections(texts)
        place = self.known.find(_section_keys(sections))
        new = np.flatnonzero(place < 0)
        vectors = np.empty((len(sections), len(self.weights)))
        vectors[place >= 0] = self.known.known["value"][place[place >= 0]]
        if len(new):
            vectors[new] = self.encoder.vectors([sections[i] for i in new])
        return (
            _means(sigmoid(_dot(vectors, self.weights) + self.bias), owners, len(texts)),
            _section_flops(self.encoder, sections, owners, len(texts)),
        )

    def probability(self, scores: Floats) -> Floats:
        return scores


@dataclass(frozen=True)
class Classifier:
    """One output of a classifier that was trained elsewhere.

    Args:
        encoder: gives the outputs.
        model: fingerprint of its folder.
        label: number of the output that is good.
        reading: what an output is: one of several probabilities, a probability of its own, or the
            plain value of a regression.
    """

    encoder: Encoder
    model: str
    label: int
    reading: str

    @property
    def on_device(self) -> bool:
        return self.encoder.device.type != "cpu"

    @property
    def key(self) -> str:
        how = [self.encoder.room, self.encoder.precision, self.label, self.reading]
        return address(["hf", VERSION, self.model, how])

    def score(self, texts: Sequence[str]) -> tuple[Floats, Floats]:
        sections, owners = self.encoder.sections(texts)
        logits = self.encoder.logits(sections)
        if self.reading == "softmax":
            logits = np.exp(logits - logits.max(axis=1, keepdims=True))
            logits /= logits.sum(axis=1, keepdims=True)
        values = logits[:, self.label]
        values = sigmoid(values) if self.reading == "sigmoid" else values
        return (
            _means(values, owners, len(texts)),
            _section_flops(self.encoder, sections, owners, len(texts)),
        )

    def probability(self, scores: Floats) -> Floats:
        return scores


def classifier(step: Annotate, *, base: Path, model: str) -> Classifier:
    """The `hf` annotator in `step.model`.

    Args:
        step: names folder and label.
        base: folder that relative paths start from.
        model: fingerprint of the folder.

    Raises:
        SourceError: when it cannot be loaded or has no such label.
    """
    folder = check_model(step, base=base)
    encoder = load(folder, section_tokens=step.section_tokens, classifier=True)
    config = encoder.model.config
    names = label_names({"id2label": config.id2label})
    # transformers trains one output without a declared problem as a regression
    task = config.problem_type or ("regression" if len(names) == 1 else "")
    several = "sigmoid" if task == "multi_label_classification" or len(names) == 1 else "softmax"
    return Classifier(
        encoder=encoder,
        model=model,
        label=names.index(step.label) if step.label else 0,
        reading="value" if task == "regression" else several,
    )


def learn_encoder(
    good: list[str], other: list[str], step: Annotate, *, base: Path, model: str, cache: Path
) -> Learned:
    """Learns to tell `good` texts from `other` ones by an encoder's sentence vectors.

    Each section is an example with its text's label; texts weigh the same, and so do both kinds.

    Args:
        good, other: the examples.
        step: names the encoder's folder.
        base: folder that relative paths start from.
        model: fingerprint of the encoder's folder.
        cache: where vectors are kept from one time to the next.

    Raises:
        SourceError: when the encoder cannot be loaded, or a vector is not a number.
    """
    spent = Spent()
    with spent.timing(device=False):
        from sklearn.linear_model import LogisticRegression

        folder = check_model(step, base=base)
        encoder = load(folder, section_tokens=step.section_tokens, classifier=False)
    texts = good + other
    known = cache / address(["vectors", VERSION, model, encoder.precision])
    vectors, owners, flops = _example_vectors(encoder, texts, known, spent)
    with spent.timing(device=False):
        labels, held = halves(good, other)
        used = ~held[owners]
        weights = 1.0 / np.bincount(owners)[owners]
        for kind in (0, 1):  # both kinds weigh the same, and a section 1 on average
            own = labels[owners] == kind
            weights[own] *= used.sum() / 2 / weights[own & used].sum()
        # as long as the root of their width: coordinates of size 1, as the penalty expects
        scale = vectors.shape[1] ** 0.5
        head = LogisticRegression(max_iter=1000)
        head.fit(vectors[used] * scale, labels[owners][used], sample_weight=weights[used])
        flops += 4.0 * int(head.n_iter_[0]) * int(used.sum()) * vectors.shape[1]
    annotator = Headed(
        encoder=encoder,
        model=model,
        weights=head.coef_[0] * scale,
        bias=float(head.intercept_[0]),
        known=Rows(known, vectors.shape[1]),
    )
    scores = _means(sigmoid(_dot(vectors, annotator.weights) + annotator.bias), owners, len(texts))
    rest = scores[held & (labels == 0)]
    auc = roc_auc(scores[held & (labels == 1)], rest)
    return Learned(annotator=annotator, auc=auc, other=rest, flops=flops, spent=spent)


def _example_vectors(
    encoder: Encoder, texts: list[str], folder: Path, spent: Spent
) -> tuple[Floats, npt.NDArray[np.int64], float]:
    """(Vectors of all sections, which text each is of, FLOPs); what was known is not encoded."""
    width = int(encoder.model.config.hidden_size)
    device = encoder.device.type != "cpu"
    rows = Rows(folder, width)
    found, owners, flops = [], [], 0.0
    try:
        for start in range(0, len(texts), WINDOW):
            with spent.timing(device=device):
                sections, of = encoder.sections(texts[start : start + WINDOW])
            keys = _section_keys(sections)
            place = rows.find(keys)
            new, old = np.flatnonzero(place < 0), np.flatnonzero(place >= 0)
            vectors = np.empty((len(sections), width))
            vectors[old] = rows.known["value"][place[old]]
            cost = 2.0 * encoder.parameters * np.array([float(len(s)) for s in sections])
            if len(new):
                before = spent.seconds
                with spent.timing(device=device):
                    vectors[new] = encoder.vectors([sections[i] for i in new])
                if not np.isfinite(vectors[new]).all():
                    raise SourceError(
                        f"annotator model {encoder.model.name_or_path}: the vector of an example is"
                        " not a number",
                        hint="its weights are damaged or overflow: save the model afresh",
                    )
                shares = cost[new] / cost[new].sum()
                rows.add(keys[new], vectors[new], cost[new], (spent.seconds - before) * shares)
            spent.add_known(rows.known["seconds"][place[old]])
            found.append(vectors)
            owners += [start + number for number in of]
            flops += float(cost.sum())
    finally:
        rows.close()
    return np.concatenate(found), np.array(owners), flops


def _section_keys(sections: Sequence[Section]) -> npt.NDArray[np.uint64]:
    return digests([section.astype("<i4").tobytes() for section in sections])


def _section_flops(
    encoder: Encoder, sections: Sequence[Section], owners: list[int], count: int
) -> Floats:
    tokens = np.array([float(len(section)) for section in sections])
    read = np.bincount(owners, weights=tokens, minlength=count).astype(np.float64)
    return 2.0 * encoder.parameters * read


def _means(values: Floats, owners: Sequence[int] | npt.NDArray[np.int64], count: int) -> Floats:
    """Mean over each text's sections."""
    sums = np.bincount(owners, weights=values, minlength=count).astype(np.float64)
    means: Floats = sums / np.bincount(owners, minlength=count)
    return means


def _dot(vectors: Floats, weights: Floats) -> Floats:
    """Row by row: a matrix product's rounding would depend on how many rows there are."""
    products: Floats = (vectors * weights).sum(axis=1)
    return products
