"""The recurrent state of a model between two passes, as a Hugging Face cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor
from transformers import Cache

from nsllm_nir.errors import InputError
from nsllm_nir.language_model.blocks.base import BlockState

LayerState = dict[str, BlockState]  # the states of a layer's blocks


class NSLLMCache(Cache):
    """Recurrent state of every layer: its size does not depend on how many tokens were seen.

    A pass replaces the tensors of the cache it is given and never writes into them, so that a copy (`copy.copy`,
    `copy.deepcopy`) continues from the state at which it was made.

    Args:
        layers: number of layers of the model.
    """

    def __init__(self, layers: int) -> None:
        super().__init__(layers=[])  # those hold keys and values
        self.states: list[LayerState] = [{} for _ in range(layers)]
        self.tokens_seen = 0
        self.text = torch.zeros(1, dtype=torch.int64)  # `_text` of the tokens, (B,)

    def __copy__(self) -> NSLLMCache:
        new = NSLLMCache(0)
        new.__dict__.update(self.__dict__)
        new.states = [{part: dict(state) for part, state in layer.items()} for layer in self.states]
        return new

    def __len__(self) -> int:
        """Number of layers."""
        return len(self.states)

    def __repr__(self) -> str:
        return f"NSLLMCache({len(self)} layers, {self.batch_size} sequences of {self.tokens_seen} tokens)"

    def advance(self, states: list[LayerState], tokens: Tensor) -> None:
        """Take the states after a pass over tokens, (B, N) int64."""
        self.states = states
        self.tokens_seen += tokens.shape[1]
        self.text = _text(tokens, self.text)

    def has_read(self, tokens: Tensor) -> bool:
        """Whether tokens, (B, N) int64, are those that the state has seen."""
        return tokens.shape[1] == self.tokens_seen and torch.equal(_text(tokens), self.text)

    @property
    def batch_size(self) -> int:
        """Number of sequences, -1 before the first pass."""
        return next((len(tensor) for layer in self.states for state in layer.values() for tensor in state.values()), -1)

    @property
    def max_batch_size(self) -> int:
        """Number of sequences, -1 before the first pass."""
        return self.batch_size

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Number of tokens that the state has seen."""
        return self.tokens_seen

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Number of tokens that the state has seen."""
        return self.tokens_seen

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """-1: there is no longest sequence."""
        return -1

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:
        """-1: there is no longest sequence."""
        return -1

    @property
    def max_cache_len(self) -> int:
        """-1: there is no longest sequence."""
        return -1

    def has_previous_state(self, layer_idx: int | None = None, state_idx: int | None = None) -> bool:
        """Whether any token was seen."""
        return self.tokens_seen > 0

    @property
    def is_initialized(self) -> bool:
        """Whether any token was seen."""
        return self.tokens_seen > 0

    @property
    def is_compileable(self) -> bool:
        """False: there are no static tensors."""
        return False

    @property
    def is_croppable(self) -> bool:
        """False: a recurrent state does not go back."""
        return False

    @property
    def is_sliding(self) -> list[bool]:
        """No layer forgets behind a window."""
        return [False] * len(self)

    @property
    def is_linear(self) -> list[bool]:
        """False for each layer: `generate` then cuts off the tokens that the state has seen."""
        return [False] * len(self)

    @property
    def is_dummy(self) -> list[bool]:
        """Each layer has a state."""
        return [False] * len(self)

    def is_recording_past(self, layer_idx: int) -> bool:
        """False: a recurrent state does not go back."""
        return False

    def reset(self) -> None:
        """Forget all tokens."""
        self.states = [{} for _ in self.states]
        self.tokens_seen = 0
        self.text = torch.zeros_like(self.text[:1])

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep the states of the chosen beams, (B,) int64."""
        self._replace(lambda tensor: tensor.index_select(0, beam_idx.to(tensor.device)))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the states of some sequences, (B,) int64."""
        self.reorder_cache(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Give each sequence ``repeats`` times."""
        self._replace(lambda tensor: tensor.repeat_interleave(repeats, 0))

    def _replace(self, change: Callable[[Tensor], Tensor]) -> None:
        self.states = [
            {part: {name: change(tensor) for name, tensor in state.items()} for part, state in layer.items()}
            for layer in self.states
        ]
        self.text = change(self.text)

    def crop(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raises InputError: a recurrent state does not go back, which assisted generation would need."""
        _refuse("go back to fewer tokens (assisted generation needs that); keep a copy.deepcopy of it instead")

    def activate_past_recording(self) -> NoReturn:
        """Raises InputError: a recurrent state does not go back, which assisted generation would need."""
        _refuse("record the past (assisted generation needs that); generate without an assistant")

    def update(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raises InputError: there are no keys and values."""
        _refuse("hold keys and values of attention; it is for NSLLM models only")

    def update_conv_state(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raises InputError: there is no convolution."""
        _refuse("hold states of convolutions; it is for NSLLM models only")

    def update_recurrent_state(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raises InputError: the model replaces its states itself."""
        _refuse("hold states of other models; it is for NSLLM models only")

    def update_indexer(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raises InputError: there are no keys and values."""
        _refuse("hold keys of attention; it is for NSLLM models only")

    def get_conv_state(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raises InputError: there is no convolution."""
        _refuse("hold states of convolutions; it is for NSLLM models only")

    def get_recurrent_state(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raises InputError: the states have names of their own."""
        _refuse("hold states of other models; it is for NSLLM models only")

    def get_mask_sizes(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raises InputError: there is no attention mask over the past."""
        _refuse("give the size of an attention mask; it is for NSLLM models only")

    def early_initialization(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raises InputError: there are no static tensors."""
        _refuse("reserve memory in advance; its size is that of the first pass")

    def offload(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raises InputError: the states are small and stay where the model is."""
        _refuse("be moved to another device")

    def prefetch(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raises InputError: the states are small and stay where the model is."""
        _refuse("be moved to another device")


def _text(tokens: Tensor, before: Tensor | int = 0) -> Tensor:
    """A number that tells texts apart, (B,) int64 (modulo 2**64), of tokens, (B, N), behind the text ``before``."""
    powers = torch.full((tokens.shape[1] + 1,), 6364136223846793005, device=tokens.device)
    powers[0] = 1
    powers = powers.cumprod(0).flip(0)
    return before * powers[0] + ((tokens + 1) * powers[1:]).sum(1)


def _refuse(what: str) -> NoReturn:
    raise InputError(f"an NSLLMCache holds a recurrent state, which cannot {what}")
