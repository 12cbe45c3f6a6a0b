"""A session of any backend: token by token as the reference, and a silent start again after `reset`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nsllm_nir import NSLLMConfig, NSLLMForCausalLM, exporters, lower, to_nir
from nsllm_nir.errors import BackendError, ToolNotFoundError
from nsllm_nir.program import Program, reference


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """Of a file, since one backend rebuilds the model from it."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("session") / "model.nir"
    to_nir(NSLLMForCausalLM(NSLLMConfig(vocab_size=12, hidden_size=8, num_hidden_layers=1)), path)
    return lower(path)


@pytest.mark.parametrize("name", exporters.names())
def test_a_reset_session_starts_silent_again(name: str, program: Program) -> None:
    backend = exporters.load(name)
    try:
        backend.version()
    except ToolNotFoundError as error:
        pytest.skip(str(error))
    executable = backend.compile(program)
    if name == "lava-stock":
        with pytest.raises(BackendError, match="is a pipeline"):
            executable.open()
        return
    inputs = reference.one_hot(np.random.default_rng(1).integers(0, 12, 9), 12)
    want = reference.run(program, inputs).values[program.outputs[0]]
    again = reference.run(program, np.concatenate([inputs, inputs])).values[program.outputs[0]][len(inputs) :]
    assert not np.array_equal(again, want), "without a reset the state would show"
    with executable.open() as session:
        for _ in range(2):
            assert np.array_equal([session.step(row) for row in inputs], want)
            session.reset()
