"""The Hugging Face model: saving, two modes, recurrence, generation, losses and refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from nsllm_nir import NSLLMCache, NSLLMConfig, NSLLMForCausalLM
from nsllm_nir.errors import InputError
from nsllm_nir.language_model.spiking_linear import SpikingLinear

Model = Callable[..., NSLLMForCausalLM]
CONFIGS: dict[str, dict[str, Any]] = {
    "default": {},
    "binary coding": {"coding": "binary"},
    "pooled": {"normalisation": "pooled", "coding": "binary"},
    "pooled ternary": {"normalisation": "pooled"},
    "rms": {"normalisation": "rms"},
    "ternary weights": {"weight_bits": 2, "embedding_bits": 4},
    "int4": {"weight_bits": 4},
    "levels by layer": {"levels": [1, 5], "num_hidden_layers": 2},
    "no denominator": {"denominator": False},
    "matrix": {"state": "matrix", "num_attention_heads": 4},
    "matrix, no denominator": {"state": "matrix", "denominator": False, "num_attention_heads": 2, "levels": 2},
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


def ids(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, 24, shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits(model: Any, tokens: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    return model(tokens, **kwargs).logits


@every_config
def test_count_and_binary_mode_agree_bit_for_bit(tiny_model: Model, config: dict[str, Any]) -> None:
    model, tokens = tiny_model(**config), ids(2, 17)
    count = logits(model, tokens)
    assert count.std() > 0.01
    assert torch.equal(count, logits(model.set_binary_mode(), tokens))
    assert torch.equal(count, logits(model.set_binary_mode(False), tokens))


@every_config
@pytest.mark.parametrize("chunk", [1, 3, 7])
def test_parallel_equals_recurrent(tiny_model: Model, config: dict[str, Any], chunk: int) -> None:
    model, tokens = tiny_model(**config), ids(2, 17)
    cache: Any = None
    parts = []
    for part in tokens.split(chunk, dim=1):
        with torch.no_grad():
            out = model(part, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        parts.append(out.logits)
    assert torch.equal(torch.cat(parts, 1), logits(model, tokens))
    assert cache.get_seq_length() == 17


def test_binary_mode_is_recurrent_as_well(tiny_model: Model) -> None:
    model, tokens = tiny_model(normalisation="pooled").set_binary_mode(), ids(1, 9)
    with torch.no_grad():
        first = model(tokens[:, :4], use_cache=True)
        second = model(tokens[:, 4:], past_key_values=first.past_key_values)
    assert (
        torch.equal(torch.cat([first.logits, second.logits], 1), logits(model, tokens))
        and second.past_key_values is None
    )


@every_config
def test_latent_and_frozen_models_survive_saving(tiny_model: Model, config: dict[str, Any], tmp_path: Path) -> None:
    model, tokens = tiny_model(**config), ids(1, 9)
    before = logits(model, tokens)
    for folder, name in ((tmp_path / "latent", "latent"), (tmp_path / "frozen", "frozen")):
        model.save_pretrained(folder)
        assert (folder / "model.safetensors").is_file() and not list(folder.glob("*.bin"))
        loaded = AutoModelForCausalLM.from_pretrained(folder)
        assert type(loaded) is NSLLMForCausalLM and not loaded.training
        assert loaded.config.frozen is (name == "frozen")
        assert torch.equal(logits(loaded, tokens), before), name
        assert torch.equal(logits(loaded.set_binary_mode(), tokens), before), name
        model = model.freeze()
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("latent", "frozen")]
    assert sizes[1] < 0.75 * sizes[0]


def test_freezing_twice_is_freezing_once(tiny_model: Model) -> None:
    model, tokens = tiny_model(), ids(1, 9)
    before = logits(model, tokens)
    state = {k: v.clone() for k, v in model.freeze().state_dict().items()}
    assert all(v.dtype == torch.int8 for k, v in state.items() if k.endswith(".weight"))
    assert model.freeze() is model and all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert torch.equal(logits(model, tokens), before)


def test_configuration_round_trip(tmp_path: Path) -> None:
    config = NSLLMConfig(hidden_size=24, levels=[3, 4], num_hidden_layers=2, coding="binary")
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is NSLLMConfig and loaded.to_dict() == {**config.to_dict(), "_name_or_path": str(tmp_path)} | {
        k: v for k, v in loaded.to_dict().items() if k in ("_name_or_path", "transformers_version")
    }
    assert (loaded.intermediate_size, loaded.layer_levels(0), loaded.layer_levels(1)) == (96, 3, 4)
    assert isinstance(AutoModelForCausalLM.from_config(loaded), NSLLMForCausalLM)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"coding": "rate"}, r"^NSLLMConfig.coding must be one of \('binary', 'ternary'\), got 'rate'$"),
        ({"weight_bits": 3}, r"^NSLLMConfig.weight_bits must be one of \(2, 4, 8\), got 3$"),
        ({"levels": [1, 2, 3], "num_hidden_layers": 2}, r"^NSLLMConfig.levels has 3 entries for 2 layers$"),
        (
            {"state": "matrix", "hidden_size": 10},
            r"^NSLLMConfig.hidden_size 10 is not a multiple of num_attention_heads 4$",
        ),
        ({"levels": 0}, r"^NSLLMConfig.levels must be in \[1, 255\], got 0$"),
        ({"final_levels": 300}, r"^NSLLMConfig.final_levels must be in \[1, 255\], got 300$"),
        ({"hidden_size": 0}, r"^NSLLMConfig.hidden_size must be at least 1, got 0$"),
    ],
)
def test_configuration_is_checked(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        NSLLMConfig(**values)


@every_config
def test_greedy_generation_is_stepwise_argmax(tiny_model: Model, config: dict[str, Any]) -> None:
    model, prompt = tiny_model(**config), ids(2, 5)
    generated = model.generate(prompt, max_new_tokens=6, do_sample=False)
    tokens = prompt
    for _ in range(6):
        tokens = torch.cat([tokens, logits(model, tokens)[:, -1:].argmax(-1)], 1)
    assert torch.equal(generated, tokens)


def test_generation_reads_each_token_once(tiny_model: Model) -> None:
    """The prompt in one pass, then one token per pass: the time per token cannot depend on the context."""
    model, lengths = tiny_model(), []
    model.register_forward_pre_hook(
        lambda _, args, kwargs: lengths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    model.generate(ids(1, 5), max_new_tokens=4, do_sample=False)
    assert lengths == [5, 1, 1, 1]


def test_beam_search_equals_full_recomputation(tiny_model: Model) -> None:
    model, prompt = tiny_model(num_hidden_layers=2), ids(2, 4)
    options: dict[str, Any] = {"max_new_tokens": 6, "num_beams": 3, "do_sample": False}
    found = model.generate(prompt, **options)
    assert torch.equal(found, model.generate(prompt, use_cache=False, **options))
    assert not torch.equal(found, model.generate(prompt, max_new_tokens=6, do_sample=False))


def test_cache_size_does_not_depend_on_the_context(tiny_model: Model) -> None:
    for config in ({}, {"state": "matrix"}):
        model, sizes = tiny_model(**config), set()
        for length in (1, 5, 40):
            with torch.no_grad():
                cache = model(ids(1, length), use_cache=True).past_key_values
            assert isinstance(cache, NSLLMCache)
            tensors = [t for layer in cache.states for state in layer.values() for t in state.values()]
            sizes.add(sum(t.untyped_storage().nbytes() for t in [*tensors, cache.text]))
        assert len(sizes) == 1 and 0 < sizes.pop() < 20_000


def test_gradient_checkpointing_gives_equal_gradients(tiny_model: Model) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = tiny_model(num_hidden_layers=2).train()
        calls: list[int] = []
        model.layers[0].mixer.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(ids(2, 9), labels=ids(2, 9)).loss.backward()
        assert len(calls) == 1 + checkpointing
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert all(g is not None for g in gradients[0].values())
    assert all(torch.equal(g, gradients[1][name]) for name, g in gradients[0].items())
    assert all((g != 0).any() for name, g in gradients[0].items() if not name.endswith("threshold")), (
        "every weight is trained"
    )


@pytest.mark.parametrize("binary", [False, True])
def test_labels_give_the_shifted_cross_entropy(tiny_model: Model, binary: bool) -> None:
    model, tokens = tiny_model().set_binary_mode(binary), ids(2, 9)
    labels = tokens.clone()
    labels[0, 3:5] = -100
    out = model(tokens, labels=labels)
    expected = torch.nn.functional.cross_entropy(
        out.logits[:, :-1].reshape(-1, 24), labels[:, 1:].reshape(-1), ignore_index=-100
    )
    torch.testing.assert_close(out.loss, expected)
    as_tuple = model(tokens, labels=labels, return_dict=False)
    assert torch.equal(as_tuple[0], out.loss) and torch.equal(as_tuple[1], out.logits)


def test_logits_to_keep(tiny_model: Model) -> None:
    model, tokens = tiny_model(), ids(1, 9)
    assert torch.equal(logits(model, tokens, logits_to_keep=2), logits(model, tokens)[:, -2:])


def test_padding_that_would_enter_the_state_is_refused(tiny_model: Model) -> None:
    model, tokens = tiny_model(), ids(2, 4)
    right = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    assert torch.equal(logits(model, tokens, attention_mask=right)[1, :2], logits(model, tokens[1:, :2])[0])
    with pytest.raises(
        InputError, match=r"^padding in front of a token would enter the recurrent state; pad on the right to train"
    ):
        logits(model, tokens, attention_mask=right.flip(1))
    with pytest.raises(
        InputError, match=r"^padding in front of a token would enter the recurrent state.* prompts of equal length$"
    ):
        model.generate(tokens, attention_mask=right, max_new_tokens=2, do_sample=False)


@pytest.mark.parametrize("token", [24, -1])
def test_tokens_outside_the_vocabulary_are_refused(tiny_model: Model, token: int) -> None:
    with pytest.raises(
        InputError, match=rf"^token ids must be in \[0, 23\], got \[{min(token, 3)}, {max(token, 3)}\]$"
    ):
        tiny_model()(torch.tensor([[3, token]]))


def test_half_open_gates_at_the_start(tiny_model: Model) -> None:
    """Every neuron population of a fresh model fires, and none is saturated: gradients pass."""
    model, rates = tiny_model(num_hidden_layers=2), {}
    for name, module in model.named_modules():
        if name.endswith("spikes"):
            module.register_forward_hook(
                lambda m, _, out, name=name: rates.update({name: float(out.abs().mean()) / m.levels})
            )
    logits(model, ids(4, 30))
    assert len(rates) == 2 * 7 + 1 and all(0.005 < rate < 0.95 for rate in rates.values()), rates


def test_every_matrix_is_quantized(tiny_model: Model) -> None:
    model = tiny_model(weight_bits=2, embedding_bits=4)
    layers = {name: m for name, m in model.named_modules() if isinstance(m, SpikingLinear)}
    assert {name for name, p in model.named_parameters() if p.ndim >= 2} == {f"{name}.weight" for name in layers}
    assert {name: m.weight_bits for name, m in layers.items() if m.weight_bits != 2} == {"embedding": 4, "head": 4}
