"""NSLLM as a Hugging Face model: training, generation with a recurrent cache, and the switch to binary spikes."""

from __future__ import annotations

from typing import Any, NoReturn

from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import CausalLMOutputWithPast

from nsllm_nir.errors import InputError
from nsllm_nir.language_model.blocks import block_class
from nsllm_nir.language_model.blocks.base import BlockInput, ResidualBlock
from nsllm_nir.language_model.cache import LayerState, NSLLMCache
from nsllm_nir.language_model.configuration import NSLLMConfig
from nsllm_nir.language_model.neuron import SpikeCount
from nsllm_nir.language_model.spiking_linear import SpikingLinear

# transformers 5.24 renamed the cache argument of `forward` and the cache of its output.
CACHE_NAMES = ("cache", "past_key_values")
CACHE_NAME = next(name for name in CACHE_NAMES if name in CausalLMOutputWithPast.__dataclass_fields__)
# What `generate` and `Trainer` may name without asking for it.
NEUTRAL = ("inputs_embeds", "output_attentions", "output_hidden_states")


class NSLLMBlock(GradientCheckpointingLayer):  # type: ignore[no-untyped-call] # of transformers
    """One layer: ``h += block(h)`` for each of its blocks, in their order."""

    def __init__(self, config: NSLLMConfig, layer: int) -> None:
        super().__init__()
        self.parts = tuple(config.blocks)
        for part in self.parts:
            self.add_module(part, block_class(part)(config, config.layer_levels(layer)))

    def blocks(self) -> list[tuple[str, ResidualBlock[Any]]]:
        """The blocks and their names, in the order of the residual stream."""
        return [(part, self.get_submodule(part)) for part in self.parts]  # type: ignore[misc] # torch says nn.Module

    def forward(self, h: Tensor, state: LayerState) -> tuple[Tensor, LayerState]:
        """h: (B, N, C) residual potentials; returns them and the next state (``state`` stays, for recomputation)."""
        new: LayerState = {}
        for part, block in self.blocks():
            new[part] = dict(state.get(part, {}))
            h = h + block(h, new[part])
        return h, new


class NSLLMForCausalLM(PreTrainedModel, GenerationMixin):  # type: ignore[no-untyped-call] # of transformers
    """Spiking language model: token ids (B, N) to logits (B, N, vocabulary).

    Count mode (default) carries integer spike counts, all tokens of a sequence at once; binary mode
    (`set_binary_mode`) unrolls the timesteps. Their logits are identical.
    """

    config_class = NSLLMConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _is_stateful = True
    _no_split_modules = ["NSLLMBlock"]  # noqa: RUF012

    def __init__(self, config: NSLLMConfig) -> None:
        super().__init__(config)
        self.embedding = SpikingLinear(
            config.vocab_size,
            config.hidden_size,
            config.embedding_bits,
            gain=config.vocab_size**0.5,
            lowest_exponent=-config.residual_fraction_bits,
            frozen=config.frozen,
        )
        self.layers = nn.ModuleList([NSLLMBlock(config, i) for i in range(config.num_hidden_layers)])
        self.final = BlockInput(config, config.final_levels)
        self.head = SpikingLinear(
            config.hidden_size,
            config.vocab_size,
            config.embedding_bits,
            bias=0.0,
            gain=0.3,
            lowest_exponent=-config.logit_fraction_bits,
            frozen=config.frozen,
        )
        self.gradient_checkpointing = False
        self.post_init()  # type: ignore[no-untyped-call] # of transformers

    def _init_weights(self, module: nn.Module) -> None:
        """Modules initialise themselves at construction."""

    def get_input_embeddings(self) -> nn.Module:
        """The layer that token ids enter (Hugging Face protocol)."""
        return self.embedding

    def get_output_embeddings(self) -> nn.Module:
        """The layer that gives the logits (Hugging Face protocol)."""
        return self.head

    def set_binary_mode(self, binary: bool = True) -> NSLLMForCausalLM:
        """Unroll the timesteps of every neuron (True) or carry graded counts (False)."""
        for module in self.modules():
            if isinstance(module, SpikeCount):
                module.binary_mode = binary
        return self

    def freeze(self) -> NSLLMForCausalLM:
        """Store integer weights instead of the latent ones: a quarter of the size, the same function, no training."""
        for module in self.modules():
            if isinstance(module, SpikingLinear):
                module.freeze()
        self.config.frozen = True
        return self

    def _embed(self, input_ids: Tensor) -> Tensor:
        """The embedding is a linear layer on one-hot spikes: select the weight row of the token that spiked."""
        if input_ids.numel() and not 0 <= int(input_ids.min()) <= int(input_ids.max()) < self.config.vocab_size:
            raise InputError(
                f"token ids must be in [0, {self.config.vocab_size - 1}], "
                f"got [{int(input_ids.min())}, {int(input_ids.max())}]"
            )
        weight = self.embedding.quantized(self.embedding.unit())
        return nn.functional.embedding(input_ids, weight.T)

    def _prepare_cache_for_generation(  # type: ignore[override] # what else transformers gives is not read
        self, generation_config: GenerationConfig, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        """Give `generate` an empty cache unless the caller brings one.

        Raises:
            InputError: a kind of cache that holds keys and values.
        """
        if generation_config.cache_implementation is not None:
            raise InputError(
                f"cache_implementation {generation_config.cache_implementation!r} is for keys and values; "
                "the recurrent state of an NSLLM model has one kind of cache, leave it out"
            )
        given = [model_kwargs.pop(name) for name in CACHE_NAMES if model_kwargs.get(name) is not None]
        if given or generation_config.use_cache is not False:
            model_kwargs[CACHE_NAME] = cache = self._cache(*given)
            if cache.tokens_seen and generation_config.prefill_chunk_size is not None:
                raise InputError("prefill_chunk_size is for an empty cache; leave one of the two out")

    def generate_batch(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raises InputError: continuous batching keeps keys and values in pages."""
        raise InputError(
            "continuous batching ('paged') is for keys and values; call generate with prompts of equal length"
        )

    init_continuous_batching = generate_batch

    def prepare_inputs_for_generation(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """What the next pass of `generate` reads; the tokens are counted against those that its cache has seen.

        Raises:
            InputError: the cache was lost on the way, or has seen other tokens than those in front of the next ones.
        """
        given = [kwargs[name] for name in CACHE_NAMES if kwargs.get(name) is not None]
        seen, tokens = given[0].tokens_seen if given else 0, input_ids.shape[1]
        new = kwargs.get("next_sequence_length")
        if new is not None and new < 1:
            raise InputError(
                f"the cache has seen {seen} tokens and there are {tokens} in all, so none is new; "
                "give the whole text with at least one new token"
            )
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(input_ids, *args, **kwargs)
        read = inputs["input_ids"].shape[1]
        if read < tokens and seen + read != tokens:
            raise InputError(_lost(tokens, read, seen))
        if given:
            _check_batch(input_ids, given[0])
        if kwargs.get("is_first_iteration") and read < tokens and not given[0].has_read(input_ids[:, :seen]):
            raise InputError(
                f"the cache has seen {seen} other tokens than the first {seen} given; give the whole text, "
                "beginning with what the cache was made from"
            )
        return inputs

    def _cache(self, *given: Any) -> NSLLMCache:
        """The cache that a pass continues from: that of the caller, or an empty one."""
        if len(given) > 1 and given[0] is not given[1]:
            raise InputError(f"{' and '.join(CACHE_NAMES)} are two names of one argument; give one cache")
        if not given:
            return NSLLMCache(len(self.layers))
        if not isinstance(given[0], NSLLMCache):
            raise InputError(f"the cache must be an NSLLMCache, got {type(given[0]).__name__}")
        if len(given[0]) != len(self.layers):
            raise InputError(f"the cache is of a model of {len(given[0])} layers, this one has {len(self.layers)}")
        return given[0]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: NSLLMCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        return_dict: bool | None = None,
        cache: NSLLMCache | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast | tuple[Tensor, ...]:
        """input_ids, labels: (B, N) int64; labels are shifted inside, -100 is ignored.

        ``cache`` and ``past_key_values`` are the newer and the older name of one argument. attention_mask: (B, N), or
        (B, tokens that the cache has seen + N). num_items_in_batch: the loss is the sum over labels divided by it, as
        `Trainer` asks for when it accumulates gradients; None: the mean.

        Raises:
            InputError: ids outside the vocabulary, padding in front of a token (it would enter the recurrent state),
                an unknown argument, a cache that is missing, of another model, batch or text.
        """
        _refuse_unknown(kwargs)
        state = self._cache(*(given for given in (cache, past_key_values) if given is not None))
        self._check_past(input_ids, attention_mask, state)
        h = self._embed(input_ids)
        # The cache changes once all layers are done, so that it never holds half a pass.
        states: list[LayerState] = []
        for layer, layer_state in zip(self.layers, state.states, strict=True):
            h, new = layer(h, layer_state)
            states.append(new)
        state.advance(states, input_ids)
        logits = self.head(self.final(h[:, -logits_to_keep:]))[0]
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits,
                labels=labels,
                vocab_size=self.config.vocab_size,
                num_items_in_batch=num_items_in_batch,
            )
        past: dict[str, Any] = {CACHE_NAME: state if use_cache else None}
        output = CausalLMOutputWithPast(loss=loss, logits=logits, **past)
        return output if return_dict is not False else output.to_tuple()

    def _check_past(self, input_ids: Tensor, attention_mask: Tensor | None, cache: NSLLMCache) -> None:
        _check_batch(input_ids, cache)
        if attention_mask is None:
            return
        if attention_mask.ndim != 2:
            raise InputError(f"attention_mask must be (batch, tokens), got shape {tuple(attention_mask.shape)}")
        masked, read = attention_mask.shape[1], input_ids.shape[1]
        if masked not in (read, cache.tokens_seen + read):
            raise InputError(_lost(masked, read, cache.tokens_seen))
        # A padding token followed by a real one: on the left, or between a right-padded prompt and its continuation.
        if bool((attention_mask[:, 1:] > attention_mask[:, :-1]).any()):
            raise InputError(
                "padding in front of a token would enter the recurrent state; pad on the right to train, "
                "generate from prompts of equal length"
            )


def _check_batch(input_ids: Tensor, cache: NSLLMCache) -> None:
    if cache.batch_size not in (-1, len(input_ids)):
        raise InputError(
            f"the cache holds {cache.batch_size} sequences, the tokens are {len(input_ids)}; "
            "cache.batch_repeat_interleave(n) gives each sequence n times"
        )


def _lost(tokens: int, read: int, seen: int) -> str:
    return (
        f"of {tokens} tokens only the last {read} were given, but the cache has seen {seen or 'none'} instead of the "
        f"{tokens - read} in front of them; pass on the cache of the pass before"
    )


def _refuse_unknown(arguments: dict[str, Any]) -> None:
    """Raises InputError for an argument of `forward` that has no effect; one of `NEUTRAL` may be None or False."""
    unknown = [
        name for name, value in arguments.items() if name not in NEUTRAL or (value is not None and value is not False)
    ]
    if unknown:
        raise InputError(f"NSLLMForCausalLM.forward has no argument {unknown[0]!r}; leave it out")


AutoConfig.register("nsllm", NSLLMConfig, exist_ok=True)
AutoModelForCausalLM.register(NSLLMConfig, NSLLMForCausalLM, exist_ok=True)
