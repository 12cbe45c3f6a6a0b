"""`generate`: a cache changes no token, whichever way it comes, and one that is lost or does not fit is an error."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import Cache, DynamicCache, StaticCache

from nsllm_nir import NSLLMCache, NSLLMForCausalLM
from nsllm_nir.errors import InputError
from nsllm_nir.language_model.modeling import CACHE_NAME

Model = Callable[..., NSLLMForCausalLM]
Tensor = torch.Tensor
# Options of `generate`, and how often each prompt is continued.
MODES: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "beams": {"do_sample": False, "num_beams": 3},
    "several beams": {"do_sample": False, "num_beams": 4, "num_return_sequences": 2},
    "sampling": {"do_sample": True, "temperature": 1.5},
    "several samples": {"do_sample": True, "num_return_sequences": 3},
    "sampling beams": {"do_sample": True, "num_beams": 2},
    "no repetition": {"do_sample": False, "no_repeat_ngram_size": 2},
}
every_mode = pytest.mark.parametrize("options", MODES.values(), ids=MODES.keys())
CONFIGS: dict[str, dict[str, Any]] = {
    "default": {"num_hidden_layers": 2},
    "pooled, no denominator": {"normalisation": "pooled", "coding": "binary", "denominator": False},
    "matrix": {"state": "matrix", "num_attention_heads": 4},
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


def ids(*shape: int, seed: int = 1) -> Tensor:
    return torch.randint(0, 24, shape, generator=torch.Generator().manual_seed(seed))


def generate(model: NSLLMForCausalLM, prompt: Tensor, **options: Any) -> Any:
    torch.manual_seed(5)
    return model.generate(prompt, **{"max_new_tokens": 7, **options})


def stepwise(model: NSLLMForCausalLM, tokens: Tensor, steps: int = 7) -> Tensor:
    """The most probable token again and again, everything recomputed."""
    for _ in range(steps):
        with torch.no_grad():
            tokens = torch.cat([tokens, model(tokens).logits[:, -1:].argmax(-1)], 1)
    return tokens


@torch.no_grad()
def prefix(model: NSLLMForCausalLM, tokens: Tensor) -> NSLLMCache:
    cache = NSLLMCache(model.config.num_hidden_layers)
    model(tokens, cache=cache)
    return cache


def same(first: NSLLMCache, second: NSLLMCache) -> bool:
    def flat(cache: NSLLMCache) -> dict[tuple[int, str, str], Tensor]:
        return {
            (i, part, name): tensor
            for i, layer in enumerate(cache.states)
            for part, state in layer.items()
            for name, tensor in state.items()
        }

    a, b = flat(first), flat(second)
    assert a
    return first.tokens_seen == second.tokens_seen and a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@every_config
@every_mode
def test_a_cache_changes_no_token(tiny_model: Model, config: dict[str, Any], options: dict[str, Any]) -> None:
    model, prompt = tiny_model(**config), ids(2, 5)
    lengths: list[int] = []
    handle = model.register_forward_pre_hook(
        lambda _, args, kwargs: lengths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    cached = generate(model, prompt, **options)
    handle.remove()
    assert lengths == [5, *[1] * 6], "each token is read once"
    assert torch.equal(cached, generate(model, prompt, use_cache=False, **options))
    if options == MODES["greedy"]:
        assert torch.equal(cached, stepwise(model, prompt))
    assert cached.shape == (2 * options.get("num_return_sequences", 1), 12) and len(cached[:, 5:].unique()) > 1


def test_guidance_with_its_second_cache(tiny_model: Model) -> None:
    model, prompt = tiny_model(), ids(2, 5)
    cached, plain = (generate(model, prompt, do_sample=False, guidance_scale=1.5, use_cache=c) for c in (True, False))
    assert torch.equal(cached, plain) and not torch.equal(cached, stepwise(model, prompt))


@every_mode
def test_binary_spikes_generate_the_same(tiny_model: Model, options: dict[str, Any]) -> None:
    model, prompt = tiny_model(), ids(2, 5)
    assert torch.equal(generate(model, prompt, **options), generate(model.set_binary_mode(), prompt, **options))


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
@every_config
def test_several_turns_with_the_returned_cache(tiny_model: Model, config: dict[str, Any], name: str) -> None:
    """Both names of the argument, at each end of the range of transformers."""
    model, text = tiny_model(**config), ids(1, 5)
    cache = None
    for turn in range(3):
        before = copy.deepcopy(cache)
        found = generate(model, text, do_sample=False, return_dict_in_generate=True, **({name: cache} if cache else {}))
        assert torch.equal(found.sequences, stepwise(model, text))
        cache = found[CACHE_NAME]
        assert (
            isinstance(cache, NSLLMCache) and cache.get_seq_length() == text.shape[1] + 6
        )  # the last token was not read
        assert same(cache, prefix(model, found.sequences[:, :-1]))
        assert before is None or before.get_seq_length() < cache.get_seq_length()
        text = torch.cat([found.sequences, ids(1, 3, seed=turn)], 1)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
@pytest.mark.parametrize("gradients", [False, True])
def test_a_prefix_is_continued_more_than_once(tiny_model: Model, copied: Callable[[Any], Any], gradients: bool) -> None:
    model, text = tiny_model(num_hidden_layers=2), ids(2, 12)
    with torch.set_grad_enabled(gradients):
        start = model(text[:, :8], use_cache=True).past_key_values
    untouched = prefix(model, text[:, :8])
    for rest in (text[:, 8:], ids(2, 6, seed=3)):
        with torch.no_grad():
            whole = model(torch.cat([text[:, :8], rest], 1)).logits[:, 8:]
            assert torch.equal(model(rest, past_key_values=copied(start)).logits, whole)
        assert same(start, untouched)


def test_parts_of_a_batch_are_continued(tiny_model: Model) -> None:
    model, text = tiny_model(), ids(3, 6)
    whole = prefix(model, text)
    chosen = copy.copy(whole)
    chosen.batch_select_indices(torch.tensor([2, 0]))
    assert same(chosen, prefix(model, text[[2, 0]])) and chosen.has_read(text[[2, 0]]) and not chosen.has_read(text[:2])
    repeated = copy.copy(whole)
    repeated.batch_repeat_interleave(2)
    assert same(repeated, prefix(model, text.repeat_interleave(2, 0))) and repeated.batch_size == 6
    whole.reset()
    assert whole.get_seq_length() == 0 and whole.batch_size == -1
    with torch.no_grad():
        model(text, cache=whole)
    assert same(whole, prefix(model, text))


def test_a_returned_cache_continues_as_beams(tiny_model: Model) -> None:
    model, text = tiny_model(), ids(1, 9)
    cache = prefix(model, text[:, :6])
    with pytest.raises(
        InputError, match=r"^the cache holds 1 sequences, the tokens are 3; cache.batch_repeat_interleave"
    ):
        generate(model, text, num_beams=3, do_sample=False, **{CACHE_NAME: copy.copy(cache)})
    cache.batch_repeat_interleave(3)
    beams = generate(model, text, num_beams=3, do_sample=False, **{CACHE_NAME: cache})
    assert torch.equal(beams, generate(model, text, num_beams=3, do_sample=False))


def test_a_prompt_in_chunks(tiny_model: Model) -> None:
    model, prompt = tiny_model(), ids(2, 11)
    assert torch.equal(generate(model, prompt, do_sample=False, prefill_chunk_size=4), stepwise(model, prompt))
    with pytest.raises(InputError, match=r"^prefill_chunk_size is for an empty cache; leave one of the two out$"):
        generate(model, prompt, prefill_chunk_size=4, **{CACHE_NAME: prefix(model, prompt[:, :5])})


@pytest.mark.parametrize("masked", [False, True])
def test_a_cache_that_is_lost_in_generate_is_an_error(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch, masked: bool
) -> None:
    """As when a release renames the argument: what `generate` hands on does not reach the next pass."""
    model, prompt = tiny_model(), ids(2, 5)
    update = model._update_model_kwargs_for_generation

    def forget(*args: Any, **kwargs: Any) -> Any:
        state = update(*args, **kwargs)
        state["memory"] = state.pop(CACHE_NAME)
        return state

    monkeypatch.setattr(model, "_update_model_kwargs_for_generation", forget)
    options = {"attention_mask": torch.ones_like(prompt)} if masked else {}
    with pytest.raises(
        InputError, match=r"^of 6 tokens only the last 1 were given, but the cache has seen none instead of"
    ):
        generate(model, prompt, do_sample=False, **options)


def test_an_argument_that_forward_does_not_know_is_an_error(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when `generate` brings it, as a release would that renames the cache."""
    model, prompt = tiny_model(), ids(2, 5)
    prepare = model.prepare_inputs_for_generation

    def rename(*args: Any, **kwargs: Any) -> Any:
        inputs = prepare(*args, **kwargs)
        inputs["memory"] = inputs.pop(CACHE_NAME)
        return inputs

    monkeypatch.setattr(model, "prepare_inputs_for_generation", rename)
    with pytest.raises(InputError, match=r"^NSLLMForCausalLM.forward has no argument 'memory'; leave it out$"):
        generate(model, prompt, do_sample=False)


def test_a_pass_whose_mask_is_longer_needs_the_cache(tiny_model: Model) -> None:
    model, text = tiny_model(), ids(2, 9)
    cache = prefix(model, text[:, :6])
    with torch.no_grad():
        whole = model(text).logits[:, 6:]
        assert torch.equal(model(text[:, 6:], torch.ones(2, 9), cache=copy.copy(cache)).logits, whole)
        assert torch.equal(model(text[:, 6:], torch.ones(2, 3), cache=copy.copy(cache)).logits, whole)
    message = (
        r"^of 9 tokens only the last 3 were given, but the cache has seen {} instead of the 6 in front of them; pass on"
    )
    with pytest.raises(InputError, match=message.format("none")):
        model(text[:, 6:], torch.ones(2, 9))
    with pytest.raises(InputError, match=message.format("5")):
        model(text[:, 6:], torch.ones(2, 9), cache=prefix(model, text[:, :5]))
    with pytest.raises(InputError, match=r"^attention_mask must be \(batch, tokens\), got shape \(2, 1, 9, 9\)$"):
        model(text, torch.ones(2, 1, 9, 9))


@pytest.mark.parametrize("given", [6, 9])
def test_a_text_without_a_new_token_is_refused(tiny_model: Model, given: int) -> None:
    model, text = tiny_model(), ids(1, 9)
    cache = prefix(model, text)
    with pytest.raises(
        InputError, match=rf"^the cache has seen 9 tokens and there are {given} in all, so none is new; "
    ):
        generate(model, text[:, :given], **{CACHE_NAME: cache})


def test_a_cache_of_another_text_is_refused(tiny_model: Model) -> None:
    model, text = tiny_model(), ids(1, 9)
    with pytest.raises(
        InputError, match=r"^the cache has seen 4 other tokens than the first 4 given; give the whole text"
    ):
        generate(model, text, **{CACHE_NAME: prefix(model, ids(1, 4, seed=2))})
    with pytest.raises(InputError, match=r"^the cache has seen 4 other tokens"):
        generate(model, text, **{CACHE_NAME: prefix(model, text[:, :4].flip(1))})


def test_other_caches_are_refused_by_name(tiny_model: Model) -> None:
    model, text = tiny_model(num_hidden_layers=2), ids(1, 4)
    for cache in (DynamicCache(), StaticCache(config=model.config, max_cache_len=8)):
        with pytest.raises(InputError, match=rf"^the cache must be an NSLLMCache, got {type(cache).__name__}$"):
            generate(model, text, **{CACHE_NAME: cache})
        with pytest.raises(InputError, match=r"^the cache must be an NSLLMCache, got "):
            model(text, past_key_values=cache)
    for kind in ("static", "quantized", "dynamic", "offloaded", "sliding_window"):
        with pytest.raises((InputError, ValueError), match=rf"cache_implementation.*{kind}"):
            generate(model, text, cache_implementation=kind)
    for start in (lambda: generate(model, text, cache_implementation="paged"), model.init_continuous_batching):
        with pytest.raises(InputError, match=r"^continuous batching \('paged'\) is for keys and values; call generate"):
            start()
    with pytest.raises(InputError, match=r"^the cache is of a model of 1 layers, this one has 2$"):
        model(text, cache=NSLLMCache(1))
    with pytest.raises(InputError, match=r"^cache and past_key_values are two names of one argument; give one cache$"):
        model(text, cache=NSLLMCache(2), past_key_values=NSLLMCache(2))


def test_assisted_generation_is_refused_by_name(tiny_model: Model) -> None:
    model, text = tiny_model(), ids(1, 4)
    for options in ({"assistant_model": tiny_model(seed=1)}, {"prompt_lookup_num_tokens": 3}):
        with pytest.raises(
            ValueError, match=r"^assisted generation is not supported with stateful models, such as NSLLM"
        ):
            generate(model, text, **options)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"lables": torch.zeros(1, 4)}, "lables"),
        ({"lables": None}, "lables"),
        ({"inputs_embeds": torch.zeros(1, 4, 16)}, "inputs_embeds"),
        ({"output_hidden_states": True}, "output_hidden_states"),
        ({"position_ids": torch.arange(4)[None]}, "position_ids"),
    ],
    ids=["misspelt", "misspelt and none", "embeddings", "hidden states", "positions"],
)
def test_unknown_arguments_are_refused(tiny_model: Model, arguments: dict[str, Any], name: str) -> None:
    model = tiny_model()
    with pytest.raises(InputError, match=rf"^NSLLMForCausalLM.forward has no argument '{name}'; leave it out$"):
        model(ids(1, 4), **arguments)
    model(ids(1, 4), output_attentions=False, inputs_embeds=None)


def test_a_failed_pass_leaves_the_cache_as_it_was(tiny_model: Model) -> None:
    model, text = tiny_model(num_hidden_layers=2), ids(1, 6)
    cache, before = prefix(model, text), prefix(model, text)

    def fail(*_: Any) -> None:
        raise RuntimeError("stop")

    model.layers[1].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="stop"):
        model(text, cache=cache)
    assert same(cache, before)


REFUSED = {
    "activate_past_recording", "crop", "early_initialization", "get_conv_state", "get_mask_sizes",
    "get_recurrent_state", "offload", "prefetch", "update", "update_conv_state", "update_indexer",
    "update_recurrent_state",
}  # fmt: skip


def test_every_method_of_a_cache_is_ours() -> None:
    """Nothing of the installed `Cache` falls through to keys and values that are not there."""
    theirs = {name for name in vars(Cache) if not name.startswith("_")}
    assert len(theirs) > 12 and theirs <= set(vars(NSLLMCache)), theirs - set(vars(NSLLMCache))
    for name in REFUSED:
        with pytest.raises(InputError, match=r"^an NSLLMCache holds a recurrent state, which cannot "):
            getattr(NSLLMCache(1), name)()
    assert isinstance(NSLLMCache(2), Cache) and len(NSLLMCache(2)) == 2
    assert re.fullmatch(r"NSLLMCache\(2 layers, -1 sequences of 0 tokens\)", repr(NSLLMCache(2)))
    properties = {name for name, value in inspect.getmembers(NSLLMCache, lambda x: isinstance(x, property))}
    for name in properties & theirs:
        getattr(NSLLMCache(2), name)
