"""NSLLM as a Hugging Face model: training, generation with a recurrent cache, and the switch to binary spikes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import CausalLMOutputWithPast

from nsllm_nir.errors import InputError
from nsllm_nir.language_model.configuration import NSLLMConfig
from nsllm_nir.language_model.layers import BlockInput, LayerState, SpikingChannelMixer, SpikingLinearAttention
from nsllm_nir.language_model.neuron import SpikeCount
from nsllm_nir.language_model.spiking_linear import SpikingLinear


@dataclass
class NSLLMCache:
    """Recurrent state of every layer: its size does not depend on how many tokens were seen."""

    layers: list[LayerState] = field(default_factory=list)
    tokens_seen: int = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Number of tokens the state has seen (Hugging Face cache protocol)."""
        return self.tokens_seen

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep the states of the chosen beams."""
        for state in self.layers:
            for name, value in state.items():
                batch_axis = 0 if name == "integrator" else 1
                state[name] = value.index_select(batch_axis, beam_idx)


class NSLLMBlock(GradientCheckpointingLayer):
    """One layer: ``h += attention(h); h += mixer(h)``."""

    def __init__(self, config: NSLLMConfig, layer: int) -> None:
        super().__init__()
        self.attention = SpikingLinearAttention(config, config.layer_levels(layer))
        self.mixer = SpikingChannelMixer(config, config.layer_levels(layer))

    def forward(self, h: Tensor, state: LayerState) -> tuple[Tensor, LayerState]:
        """h: (B, N, C) residual potentials; returns them and the next state (``state`` stays, for recomputation)."""
        state = dict(state)
        h = h + self.attention(h, state)
        return h + self.mixer(h, state), state


class NSLLMForCausalLM(PreTrainedModel, GenerationMixin):
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
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Modules initialise themselves at construction."""

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False  # the cache is an NSLLMCache, made by the first forward pass

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
        """Store integer weights instead of the latent ones: a quarter of the size, the same function, no further training."""
        for module in self.modules():
            if isinstance(module, SpikingLinear):
                module.freeze()
        self.config.frozen = True
        return self

    def _embed(self, input_ids: Tensor) -> Tensor:
        """The embedding is a linear layer on one-hot spikes: select the weight row of the token that spiked."""
        if input_ids.numel() and not 0 <= int(input_ids.min()) <= int(input_ids.max()) < self.config.vocab_size:
            raise InputError(
                f"token ids must be in [0, {self.config.vocab_size - 1}], got [{int(input_ids.min())}, {int(input_ids.max())}]"
            )
        weight = self.embedding.quantized(self.embedding.unit())
        return nn.functional.embedding(input_ids, weight.T)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: NSLLMCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast | tuple[Tensor, ...]:
        """input_ids, labels: (B, N) int64; labels are shifted inside, -100 is ignored.

        Raises:
            InputError: ids outside the vocabulary, or padding in front of a token (it would enter the recurrent state).
        """
        # A padding token followed by a real one: on the left, or between a right-padded prompt and its continuation.
        if attention_mask is not None and bool((attention_mask[:, 1:] > attention_mask[:, :-1]).any()):
            raise InputError(
                "padding in front of a token would enter the recurrent state; pad on the right to train, generate from prompts of equal length"
            )
        cache = past_key_values if past_key_values is not None else NSLLMCache([{} for _ in self.layers])
        h = self._embed(input_ids)
        for i, layer in enumerate(self.layers):
            h, cache.layers[i] = layer(h, cache.layers[i])
        cache.tokens_seen += input_ids.shape[1]
        logits = self.head(self.final(h[:, -logits_to_keep:]))[0]
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        output = CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=cache if use_cache else None)  # type: ignore[arg-type]
        return output if return_dict is not False else output.to_tuple()


AutoConfig.register("nsllm", NSLLMConfig, exist_ok=True)
AutoModelForCausalLM.register(NSLLMConfig, NSLLMForCausalLM, exist_ok=True)
