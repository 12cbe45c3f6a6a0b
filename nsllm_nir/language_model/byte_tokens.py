"""Text for the model: byte-level tokenizer, data sets, windows of tokens."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerFast

from nsllm_nir.errors import InputError


def _byte_characters() -> Iterator[str]:
    """The printable stand-in of each byte in the byte-level convention, in byte order."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    for byte in range(256):
        yield chr(byte if byte in printable else next(spare))


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer whose ids are the bytes of the UTF-8 text (vocabulary 256, no merges, no special tokens)."""
    vocabulary = {character: byte for byte, character in enumerate(_byte_characters())}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call] # of transformers
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False
    )


def dataset_text(name: str, column: str = "text") -> str:
    """The joined text column of the train split of a Hugging Face data set (hub name or local folder)."""
    from datasets import load_dataset

    return "\n".join(load_dataset(name, split="train")[column])


class RandomWindows(Dataset[dict[str, torch.Tensor]]):
    """``length`` windows of ``size`` tokens at positions drawn from ``seed``: resumable, as window i never changes."""

    def __init__(self, tokens: NDArray[np.int64], size: int, length: int, seed: int) -> None:
        if len(tokens) <= size:
            raise InputError(
                f"the text has {len(tokens)} training tokens, a window needs more than {size}; "
                "give a longer text or a smaller --context"
            )
        self.tokens, self.size = torch.from_numpy(tokens.astype(np.int64)), size
        self.starts = np.random.default_rng(seed).integers(0, len(tokens) - size, length)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        start = int(self.starts[i])
        window = self.tokens[start : start + self.size]
        return {"input_ids": window, "labels": window}


class Windows(Dataset[dict[str, torch.Tensor]]):
    """Consecutive, non-overlapping windows, at most ``limit`` of them."""

    def __init__(self, tokens: NDArray[np.int64], size: int, limit: int = 256) -> None:
        count = min(limit, len(tokens) // size)
        if count == 0:
            raise InputError(f"the held-out text has {len(tokens)} tokens, a window needs {size}")
        self.windows = torch.from_numpy(tokens[: count * size].astype(np.int64)).view(count, size)

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.windows[i], "labels": self.windows[i]}
