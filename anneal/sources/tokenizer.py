"""Tokenizers: trained on the sweep's own text, or brought along with a base model.

A trained tokenizer is a byte-level BPE: every UTF-8 text has an encoding and decodes to itself, so
nothing is ever unknown and bits per byte have an exact denominator. Its one special token ends
each document. Text is encoded with special tokens switched off: a page that *mentions* the
end-of-text token must not end a document.

A tokenizer's folder loads as it is with `transformers.AutoTokenizer.from_pretrained`.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from anneal.errors import SourceError
from anneal.sources.documents import Document
from anneal.sources.files import seeded_order
from anneal.store import read_value, write_value
from anneal.values import Value, address

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END_OF_TEXT = "<|endoftext|>"
INFO_FILE = "tokenizer_info.json"
COMPANIONS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
"""Files that transformers reads beside `tokenizer.json`; `tokenizer_config.json` is always made."""

_USUAL_ENDS = (END_OF_TEXT, "</s>", "<|end_of_text|>", "<eos>", "<|im_end|>", "[SEP]")


class TokenizerInfo(Value):
    """`tokenizer_info.json`: written last, so its existence means the folder is whole."""

    vocabulary: int
    """Entries, added tokens included: what a model's embedding must hold."""
    end_of_text: int
    """Id put after each document."""
    end_of_text_token: str
    content: str
    """Address of `tokenizer.json` and the end-of-text id: equal tokenizers, equal address. It is
    also the name of the folder that holds the tokenizer."""


def train_tokenizer(
    streams: Iterable[Iterable[Document]],
    folder: Path,
    *,
    vocabulary: int,
    sample_bytes: int,
    marks: Sequence[str] = (),
) -> TokenizerInfo:
    """Trains a byte-level BPE into `folder`.

    Args:
        streams: documents of each source to learn from.
        folder: an existing, empty folder.
        vocabulary: entries, the 256 bytes and special tokens included.
        sample_bytes: bytes taken from each stream, as whole documents in a seeded order.
        marks: further special tokens, for filling in the middle.

    Raises:
        SourceError: when the text has too few distinct pieces for such a vocabulary.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    texts = [text for stream in streams for text in _sample(stream, sample_bytes)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT, *marks],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer, length=len(texts))
    got = tokenizer.get_vocab_size()
    if got < vocabulary:
        raise SourceError(
            f"tokenizer: {vocabulary} entries asked, the text yields {got}",
            hint=f"lower tokenizer.vocabulary to {got} or train on more text",
        )
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    return _finish(folder, tokenizer, END_OF_TEXT)


def import_tokenizer(path: Path, folder: Path, *, end_of_text: str | None) -> TokenizerInfo:
    """Copies an existing fast tokenizer into `folder`.

    Args:
        path: a `tokenizer.json`, or the folder it lies in.
        folder: an existing, empty folder.
        end_of_text: token put after each document; None takes the one that the tokenizer's own
            configuration calls end of sequence, or else a usual name for it.

    Raises:
        SourceError: no such file, not a tokenizer, or no end-of-text token in it.
    """
    file = tokenizer_file(path)
    tokenizer = _load(file)
    shutil.copyfile(file, folder / "tokenizer.json")
    for name in COMPANIONS:
        if (file.parent / name).exists():
            shutil.copyfile(file.parent / name, folder / name)
    names = [end_of_text] if end_of_text else [_declared_end(file.parent), *_USUAL_ENDS]
    found = [name for name in names if name and tokenizer.token_to_id(name) is not None]
    if not found:
        raise SourceError(
            f"tokenizer {path}: no token {end_of_text!r} in it"
            if end_of_text
            else f"tokenizer {path}: it does not say which token ends a text",
            hint="name one of its tokens with tokenizer.end_of_text",
        )
    return _finish(folder, tokenizer, found[0])


def tokenizer_file(path: Path) -> Path:
    """The `tokenizer.json` that `path` is or holds.

    Raises:
        SourceError: when there is none.
    """
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise SourceError(
            f"tokenizer {path}: no tokenizer.json there",
            hint="give a folder with a fast tokenizer (save_pretrained writes tokenizer.json)",
        )
    return file


def load_tokenizer(folder: Path) -> tuple[Tokenizer, TokenizerInfo]:
    """The tokenizer of a finished folder, set to treat special tokens in text as plain text."""
    info = read_value(folder / INFO_FILE, TokenizerInfo)
    tokenizer = _load(folder / "tokenizer.json")
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer, info


def _sample(stream: Iterable[Document], sample_bytes: int) -> list[str]:
    """About `sample_bytes` of whole documents, drawn by hash of their identity."""
    heap: list[tuple[int, str, str]] = []
    total = 0
    for document in stream:
        key = int.from_bytes(seeded_order(document.id, "tokenizer")[:8], "big")
        heapq.heappush(heap, (-key, document.id, document.text))
        total += len(document.text)
        while total - len(heap[0][2]) >= sample_bytes:
            total -= len(heapq.heappop(heap)[2])
    return [text for _, _, text in sorted(heap, reverse=True)]


def _load(file: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises plain Exception
        raise SourceError(
            f"tokenizer {file}: {error}", hint="it must be a Hugging Face tokenizer.json"
        ) from error


def _declared_end(folder: Path) -> str | None:
    """The end-of-sequence token of `tokenizer_config.json`, if it says."""
    try:
        token = json.loads((folder / "tokenizer_config.json").read_bytes()).get("eos_token")
    except (OSError, ValueError, AttributeError):
        return None
    return token.get("content") if isinstance(token, dict) else token


def _finish(folder: Path, tokenizer: Tokenizer, end_of_text: str) -> TokenizerInfo:
    """Writes the configuration that transformers wants, and last the info."""
    config = folder / "tokenizer_config.json"
    if not config.exists():
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": end_of_text,
            "bos_token": end_of_text,
            "clean_up_tokenization_spaces": False,
        }
        config.write_text(json.dumps(settings, indent=1), encoding="utf-8")
    end = tokenizer.token_to_id(end_of_text)
    digest = hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()
    info = TokenizerInfo(
        # ids can have gaps: the embedding must reach the largest
        vocabulary=max(tokenizer.get_vocab().values()) + 1,
        end_of_text=end,
        end_of_text_token=end_of_text,
        content=address([digest, end]),
    )
    write_value(folder / INFO_FILE, info)
    return info
