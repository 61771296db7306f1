"""Encoders: sections of documents through a transformer, as vectors or as a classifier's outputs.

A document is longer than an encoder reads, so it is looked at in up to three sections: its top, its
middle and its bottom (Arctic-SnowCoder, arXiv 2409.02326, section 2.2). One that fits into a
section, or two, is read whole. Sections are sorted by length and go through in batches.

Every batch has the same number of rows and one of few lengths, filled up where need be. A matrix
product's rounding depends on its shape, but in a product of one shape not on what the other rows
hold; so what comes out of a section never depends on its company, and a run that was resumed, with
half of its sections known, gives the same bits as one that was not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from anneal.errors import SourceError

if TYPE_CHECKING:
    import torch

Section = npt.NDArray[np.int64]
"""Token ids of a section, special tokens included; shape (tokens,)."""

ROWS = {"cpu": 8, "cuda": 128}
"""Sections in a batch. A CPU core is busy with few (measured: 8, 16 and 32 alike), a GPU is not."""

STEP = 32
"""Lengths of a batch are multiples of this many tokens."""

CHARACTERS = 8
"""Characters read for a token of a section of a long document; text has four to five a token."""


@dataclass(frozen=True)
class Encoder:
    """A loaded model and how text is cut for it.

    Args:
        model: an encoder, or a sequence classifier.
        tokenizer: its own.
        device: a GPU where there is one, as in training; bf16 there, fp32 on a CPU.
        before, after: special tokens around a section.
        room: tokens of text in a section.
        parameters: all of them; a token scored costs two FLOPs for each, embeddings included, as
            `plan.flops` counts them.
    """

    model: Any
    tokenizer: Any
    device: torch.device
    before: tuple[int, ...]
    after: tuple[int, ...]
    room: int
    parameters: int

    @property
    def precision(self) -> str:
        """On which a score depends in its last digits."""
        return f"{self.device.type} {self.model.dtype}"

    def sections(self, texts: Sequence[str]) -> tuple[list[Section], list[int]]:
        """(Token ids of every section, special tokens included; which text each is of)."""
        long = CHARACTERS * self.room
        pieces, owners = [], []
        for text in texts:
            if len(text) <= 3 * long:
                pieces.append(text)
            else:
                middle = (len(text) - long) // 2
                pieces += [text[:long], text[middle : middle + long], text[-long:]]
        ids = iter(self.tokenizer(pieces, add_special_tokens=False)["input_ids"])
        found = []
        for number, text in enumerate(texts):
            count = 1 if len(text) <= 3 * long else 3
            cut = _cut([next(ids) for _ in range(count)], self.room)
            found += [np.array([*self.before, *part, *self.after], dtype=np.int64) for part in cut]
            owners += [number] * len(cut)
        return found, owners

    def vectors(self, sections: Sequence[Section]) -> npt.NDArray[np.float64]:
        """Sentence vectors: the mean over a section's tokens, of length 1; (sections, width)."""

        def pooled(output: Any, mask: torch.Tensor) -> torch.Tensor:
            weight = mask[..., None].float()
            mean = (output.last_hidden_state.float() * weight).sum(1) / weight.sum(1)
            unit: torch.Tensor = mean / mean.norm(dim=1, keepdim=True)
            return unit

        return self._run(sections, pooled)

    def logits(self, sections: Sequence[Section]) -> npt.NDArray[np.float64]:
        """A classifier's outputs; (sections, labels)."""
        return self._run(sections, lambda output, mask: output.logits.float())

    def _run(self, sections: Sequence[Section], read: Any) -> npt.NDArray[np.float64]:
        import torch

        rows, fill = ROWS[self.device.type], self.model.config.pad_token_id or 0
        lengths = np.array([len(section) for section in sections])
        widths = -(-lengths // STEP) * STEP
        limit = len(self.before) + self.room + len(self.after)
        out: npt.NDArray[np.float64] | None = None
        for width in np.unique(widths)[::-1]:  # the largest first: memory is found short at once
            members = np.flatnonzero(widths == width)
            members = members[np.argsort(-lengths[members], kind="stable")]
            for start in range(0, len(members), rows):
                batch = members[start : start + rows]
                ids = np.full((rows, min(int(width), limit)), fill)
                mask = np.zeros_like(ids)
                for row, member in enumerate(np.resize(batch, rows).tolist()):
                    ids[row, : lengths[member]] = sections[member]
                    mask[row, : lengths[member]] = 1
                with torch.inference_mode():
                    given = torch.from_numpy(mask).to(self.device)
                    output = self.model(
                        input_ids=torch.from_numpy(ids).to(self.device), attention_mask=given
                    )
                    found = read(output, given).cpu().numpy().astype(np.float64)
                if out is None:
                    out = np.empty((len(sections), found.shape[1]))
                out[batch] = found[: len(batch)]
        assert out is not None
        return out


def load(folder: Path, *, section_tokens: int, classifier: bool) -> Encoder:
    """The model in `folder`, ready to read sections; nothing is fetched, no code of its own is run.

    Args:
        folder: config, safetensors and tokenizer, as `save_pretrained` leaves them.
        section_tokens: tokens of a section, special tokens included.
        classifier: a sequence classifier with its head, instead of an encoder.

    Raises:
        SourceError: when it cannot be loaded or lacks weights.
    """
    import torch
    from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    maker = AutoModelForSequenceClassification if classifier else AutoModel
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        model, told = maker.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.bfloat16 if device.type == "cuda" else torch.float32,
            output_loading_info=True,
        )
    except Exception as error:  # OSError, ValueError, KeyError, SafetensorError, RuntimeError, ...
        raise SourceError(
            f"annotator model {folder}: cannot be loaded ({str(error).splitlines()[0][:200]})",
            hint="give a folder made by save_pretrained, of model and tokenizer, in safetensors",
        ) from error
    # what is missing would be random; an encoder's pooler is not used
    missing = sorted(k for k in told["missing_keys"] if classifier or "pooler" not in k)
    missing += sorted(str(k) for k in told["mismatched_keys"])
    if missing or model.config.is_encoder_decoder:
        raise SourceError(
            f"annotator model {folder}: "
            + (f"weights are missing ({missing[0]}, ...)" if missing else "it is encoder-decoder"),
            hint="give an encoder like BERT's, saved whole",
        )
    around = tokenizer("a", return_special_tokens_mask=True)
    special = around["special_tokens_mask"]
    first, last = special.index(0), len(special) - special[::-1].index(0)
    before, after = around["input_ids"][:first], around["input_ids"][last:]
    if model.config.pad_token_id is None:  # decoders: where a row ends is told by it
        model.config.pad_token_id = tokenizer.pad_token_id or tokenizer.eos_token_id
    return Encoder(
        model=model.to(device).eval(),
        tokenizer=tokenizer,
        device=device,
        before=tuple(before),
        after=tuple(after),
        room=section_tokens - len(before) - len(after),
        parameters=model.num_parameters(),
    )


def _cut(parts: list[list[int]], room: int) -> list[list[int]]:
    """Top, middle and bottom of a document: of its tokens, or of the three parts that were read."""
    if len(parts) == 3:
        top, middle, bottom = parts
        start = max(0, (len(middle) - room) // 2)
        return [top[:room], middle[start : start + room], bottom[-room:]]
    (ids,) = parts
    if len(ids) <= room:
        return [ids]
    if len(ids) <= 2 * room:
        return [ids[:room], ids[-room:]]
    start = (len(ids) - room) // 2
    return [ids[:room], ids[start : start + room], ids[-room:]]
