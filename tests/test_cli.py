"""The command line as a user calls it: status, message, tables, files."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import matplotlib.image
import nir
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from nsllm_nir import NSLLMConfig, NSLLMForCausalLM, exporters, lower, to_nir
from nsllm_nir.cli import main as cli
from nsllm_nir.cli.doctor import check_backend, check_tool, probe_program
from nsllm_nir.demo.demo import compared, generators
from nsllm_nir.errors import BackendError
from nsllm_nir.hw import boards
from nsllm_nir.hw.synthesis import PACKAGES
from nsllm_nir.language_model.byte_tokens import byte_tokenizer
from nsllm_nir.language_model.training import TrainingPlan
from nsllm_nir.program import OPERATIONS, reference
from nsllm_nir.program.trace import Trace
from nsllm_nir.report import tables as report
from nsllm_nir.verification import verify as verification
from nsllm_nir.verification.inputs import decode, encode, held_out

SIZE = (
    "--steps",
    "6",
    "--batch-size",
    "2",
    "--context",
    "16",
    "--hidden-size",
    "16",
    "--layers",
    "2",
    "--levels",
    "2,4",
    "--threads",
    "1",
)


def call(*arguments: str | Path) -> tuple[int, str, str]:
    """Status, stdout and stderr of one command, run in this process."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["nsllm-nir", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as stop,
    ):
        cli.main()
    status = stop.value.code
    return int(status) if isinstance(status, int) else 0, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def trained(folder: Path) -> tuple[Path, str]:
    """Checkpoint that `train` wrote, and what it printed."""
    status, out, err = call(
        "train", "pydoc", "--out", folder / "run", *SIZE, "--save-steps", "3", "--json", folder / "train.json"
    )
    assert status == 0, err
    return folder / "run", out


@pytest.fixture(scope="module")
def small(trained: tuple[Path, str], folder: Path) -> Path:
    """Quantized checkpoint."""
    status, out, err = call("quantize", trained[0], "--out", folder / "small", "--json", folder / "quantize.json")
    assert status == 0, err
    assert "differing logits" in out
    return folder / "small"


@pytest.fixture(scope="module")
def model(small: Path, folder: Path) -> Path:
    """NIR file of the quantized checkpoint."""
    status, out, err = call("export", small, folder / "model.nir", "--json", folder / "export.json")
    assert status == 0, err
    assert re.search(r"multiply +│ +0 ", out)
    return folder / "model.nir"


WRONG = exporters.About("the reference, except for one cell", "every program", "nothing", True)


@dataclasses.dataclass
class Wrong:
    """The reference, except for one cell."""

    node: str
    step: int
    neuron: int
    name: str = "wrong"
    about: exporters.About = WRONG
    program: Any = None

    def version(self) -> str:
        return "0"

    def compile(self, program: Any) -> Wrong:
        return dataclasses.replace(self, program=program)

    def run(self, inputs: np.ndarray) -> Trace:
        trace = reference.run(self.program, inputs)
        trace.values[self.node][self.step, self.neuron] += 1
        return trace

    @contextlib.contextmanager
    def open(self) -> Iterator[Any]:
        session = mock.Mock()
        session.step.return_value = np.eye(256, dtype=np.int64)[7]
        yield session


@pytest.fixture
def wrong(monkeypatch: pytest.MonkeyPatch) -> Wrong:
    """A backend ``wrong`` beside the registered ones."""
    backend = Wrong("layer_001.mixer.up_spikes", 5, 9)
    load = exporters.load
    monkeypatch.setattr(exporters, "load", lambda name: backend if name == "wrong" else load(name))
    return backend


def test_train_writes_model_log_and_numbers(trained: tuple[Path, str], folder: Path) -> None:
    run, out = trained
    facts = json.loads((folder / "train.json").read_text())
    log = json.loads((run / "trainer_state.json").read_text())
    assert log["global_step"] == 6
    assert facts["held_out_loss_in_nats_per_token"] == pytest.approx(
        [x["eval_loss"] for x in log["log_history"] if "eval_loss" in x][-1], abs=1e-4
    )
    assert facts["command"].startswith("nsllm-nir train pydoc --out") and facts["choices"]["hidden_size"] == 16
    loaded = NSLLMForCausalLM.from_pretrained(run)
    assert facts["parameters"] == sum(p.numel() for p in loaded.parameters())
    assert loaded.config.levels == [2, 4]
    assert (
        str(TrainingPlan().learning_rate) in out and "[2, 4]" in out
    )  # defaults and choices are printed before the run


def test_train_resumes_only_its_own_run(trained: tuple[Path, str]) -> None:
    run, _ = trained
    status, _, err = call("train", "pydoc", "--out", run, *SIZE)
    assert (status, err) == (2, f"error: {run} is not empty; continue its run with --resume, or give another --out\n")
    status, _, err = call("train", "pydoc", "--out", run, *SIZE, "--resume", "--coding", "binary")
    assert status == 2 and "coding = ternary there, binary here" in err
    status, _, err = call("train", "pydoc", "--out", run.parent / "none", *SIZE, "--resume")
    assert status == 2 and "holds no checkpoint" in err


def test_train_resume_continues(folder: Path) -> None:
    more = ("8" if word == "6" else word for word in SIZE)
    assert call("train", "pydoc", "--out", folder / "resumed", *SIZE)[0] == 0
    assert call("train", "pydoc", "--out", folder / "resumed", *more, "--resume")[0] == 0
    state = json.loads((folder / "resumed" / "trainer_state.json").read_text())
    assert state["global_step"] == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give either TEXT"),
        (("pydoc", "--dataset", "x"), "give either TEXT"),
        (("missing.txt",), "no such file"),
        (("pydoc", "--levels", "four"), "--levels takes one number"),
        (("pydoc", "--levels", "1,2,3", "--layers", "2"), "3 entries for 2 layers"),
        (("pydoc", "--weight-bits", "3"), "weight_bits must be one of"),
    ],
)
def test_train_refuses(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    status, _, err = call("train", *arguments, "--out", tmp_path / "run")
    assert status == 2 and message in err
    assert not (tmp_path / "run").exists()


def test_quantize_keeps_the_logits(trained: tuple[Path, str], small: Path, folder: Path) -> None:
    facts = json.loads((folder / "quantize.json").read_text())
    assert (
        facts["bytes_after"]
        == sum(tensor.nbytes for tensor in load_file(small / "model.safetensors").values())
        < facts["bytes_before"] / 2
    )
    before, after = NSLLMForCausalLM.from_pretrained(trained[0]).eval(), NSLLMForCausalLM.from_pretrained(small).eval()
    ids = torch.arange(60)[None]
    assert torch.equal(before(ids).logits, after(ids).logits)
    assert after.embedding.weight.dtype == torch.int8
    assert (small / "tokenizer.json").is_file()


@pytest.mark.parametrize("command", ["quantize", "export"])
def test_not_a_checkpoint(command: str, tmp_path: Path) -> None:
    target = ("--out", tmp_path / "q") if command == "quantize" else (tmp_path / "m.nir",)
    status, _, err = call(command, tmp_path, *target)
    assert status == 2 and "holds no checkpoint" in err
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    status, _, err = call(command, tmp_path, *target)
    assert status == 2 and "'llama'" in err
    (tmp_path / "config.json").write_text('{"model_type": "nsllm"}')
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    status, _, err = call(command, tmp_path, *target)
    assert status == 2 and "cannot be loaded" in err


def test_export_opens_with_nir(model: Path, folder: Path) -> None:
    assert "layer_001.mixer" in nir.read(model).nodes
    facts = json.loads((folder / "export.json").read_text())
    assert facts["bytes"] == model.stat().st_size
    assert facts["parameters"] == lower(model).parameters()


def test_export_portable(tmp_path: Path, small: Path) -> None:
    torch.manual_seed(0)
    size: dict[str, Any] = {
        "vocab_size": 8,
        "hidden_size": 4,
        "num_hidden_layers": 1,
        "levels": 1,
        "final_levels": 1,
        "weight_bits": 2,
        "state_fraction_bits": 0,
    }
    network = NSLLMForCausalLM(NSLLMConfig(**size))
    attention: Any = network.layers[0].attention
    attention.integrator.shift.data.fill_(7.0)
    network.save_pretrained(tmp_path / "tiny")
    assert call("export", tmp_path / "tiny", tmp_path / "portable.nir", "--profile", "portable")[0] == 0
    kinds = {type(node).__name__ for node in nir.read(tmp_path / "portable.nir").nodes.values()}
    assert kinds == {"Input", "Output", "Affine", "LIF"}
    status, _, err = call("export", small, tmp_path / "large.nir", "--profile", "portable")
    assert status == 2 and "portable profile" in err
    assert not (tmp_path / "large.nir").exists()
    status, _, err = call("export", small, tmp_path / "large.nir", "--profile", "compact")
    assert status == 2 and "structured or portable" in err


def test_run_writes_the_trace(model: Path, tmp_path: Path) -> None:
    status, out, _ = call(
        "run",
        model,
        "--backend",
        "hls",
        "--prompt",
        "def f():",
        "--out",
        tmp_path / "trace.npz",
        "--json",
        tmp_path / "run.json",
    )
    assert status == 0 and "layer_001.attention" in out
    program = lower(model)
    want = reference.run(program, verification.token_spikes(program, list(b"def f():")))
    found = np.load(tmp_path / "trace.npz")
    assert set(found.files) == set(want.values)
    assert all(np.array_equal(found[node], values) for node, values in want.values.items())
    data = json.loads((tmp_path / "run.json").read_text())
    node = "layer_000.mixer.up_spikes"
    assert data["steps"] == 8
    assert data["nodes"][node]["spikes"] == want.values[node].sum() > 0
    assert data["nodes"]["head"]["spikes"] is None  # potentials are no spikes
    assert data["nodes"]["layer_000.mixer.down"]["synaptic_operations"] == pytest.approx(
        want.values[node].sum() * 16 / 8
    )


def test_tables_add_up(model: Path) -> None:
    program = lower(model)
    trace = reference.run(program, verification.token_spikes(program, list(b"import os")))
    blocks, nodes = (report.rows(program, trace, all_nodes=each) for each in (False, True))
    assert len(blocks) < len(nodes)
    for found in (blocks, nodes):
        assert sum(row.nodes for row in found) == len(trace.values)
        assert sum(row.spikes or 0 for row in found) == report.total_spikes(program, trace)
        assert sum(row.synaptic_operations or 0 for row in found) == pytest.approx(
            sum(verification.synaptic_operations(program, trace).values())
        )


def test_verify_exact(model: Path, tmp_path: Path) -> None:
    files = ("--json", tmp_path / "v.json", "--picture", tmp_path / "v.png", "--constraints", tmp_path / "c.json")
    status, out, err = call(
        "verify", model, "--backend", "hls", "--backend", "snntorch", "--text", "pydoc", "--tokens", "20", *files
    )
    assert status == 0, err
    assert "hls ..." in err and "populations" in out
    data = json.loads((tmp_path / "v.json").read_text())
    assert data["exact"] and data["steps"] == 20 and list(data["backends"]) == ["hls", "snntorch"]
    node = data["backends"]["hls"]["nodes"]["layer_000.attention.key_spikes"]
    assert node["differences"] == 0 and node["spikes"] > 0
    assert not _red_pixels(tmp_path / "v.png")
    assert {row["status"] for row in json.loads((tmp_path / "c.json").read_text())["rows"]} == {"ok"}


def test_verify_names_the_first_difference(model: Path, tmp_path: Path, wrong: Wrong) -> None:
    files = ("--json", tmp_path / "v.json", "--picture", tmp_path / "v.png")
    status, out, _ = call(
        "verify", model, "--backend", "hls", "--backend", "wrong", "--prompt", "Hello, world", "--all-nodes", *files
    )
    assert status == 1
    assert re.search(
        r"wrong first differs at node 'layer_001.mixer.up_spikes', step 5, neuron 9: expected (\d), got (\d)", out
    )
    (line,) = (line for line in out.splitlines() if line.startswith("│ layer_001.mixer.up_spikes "))
    assert line.split("│")[5:7] == ["   0 ", "     1 "]
    data = json.loads((tmp_path / "v.json").read_text())
    assert not data["exact"] and data["backends"]["hls"]["exact"]
    assert data["backends"]["wrong"]["first_difference"]["step"] == 5
    assert _red_pixels(tmp_path / "v.png")


def _red_pixels(path: Path) -> int:
    pixels = matplotlib.image.imread(path)[..., :3]
    return int(((pixels[..., 0] > 0.7) & (pixels[..., 1:].max(-1) < 0.2)).sum())


def test_verify_reports_a_backend_that_cannot_run(model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    status, out, _ = call("verify", model, "--backend", "hls", "--prompt", "x", "--picture", tmp_path / "v.png")
    assert status == 1 and "hls did not run" in out and "apt-get install g++" in out


def test_verify_tokens_and_spikes_from_a_file(model: Path, tmp_path: Path) -> None:
    ids = [72, 101, 108, 108, 111]
    (tmp_path / "ids.txt").write_text(" ".join(map(str, ids)))
    np.save(tmp_path / "ids.npy", np.array(ids))
    np.save(tmp_path / "spikes.npy", reference.one_hot(ids, 256))
    found = []
    for option, name in (("--tokens-file", "ids.txt"), ("--tokens-file", "ids.npy"), ("--input", "spikes.npy")):
        assert call("verify", model, "--backend", "hls", option, tmp_path / name, "--json", tmp_path / "v.json")[0] == 0
        found.append(json.loads((tmp_path / "v.json").read_text())["backends"]["hls"]["nodes"])
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--backend", "nope", "--prompt", "x"), "no backend is named 'nope'; registered are"),
        (("--backend", "hls", "--prompt", "x", "--text", "pydoc"), "give only one of"),
        (("--backend", "hls", "--prompt", ""), "there are no tokens"),
        (("--backend", "hls", "--tokens", "0"), "--tokens must be at least 1"),
        (("--backend", "hls", "--tokens", "100000000"), "give a longer text"),
        (("--backend", "hls", "--text", "missing.txt"), "no such file"),
        (("--backend", "hls", "--tokens-file", "missing.txt"), "missing.txt"),
        (("--backend", "hls", "--tokens-file", "@bad.txt"), "expected token ids"),
        (
            ("--backend", "hls", "--tokens-file", "@float.npy"),
            "expected integer token ids (tokens,), found float64 of shape (3,)",
        ),
        (
            ("--backend", "hls", "--tokens-file", "@narrow.npy"),
            "found int64 of shape (3, 4); --input reads spikes (steps, neurons)",
        ),
        (("--backend", "hls", "--tokens-file", "@large.txt"), "token 256 at position 1 is outside the vocabulary"),
        (
            ("--backend", "hls", "--input", "@narrow.npy"),
            "holds an array of shape (3, 4), the Input 'input' needs (steps, 256)",
        ),
        (("--backend", "hls", "--prompt", "x", "--steps", "5"), "--steps belongs to --random; give both or neither"),
        (("--backend", "hls", "--prompt", "x", "--tokens", "5"), "--tokens belongs to --text; give both or neither"),
        (
            ("--backend", "hls", "--prompt", "x", "--dt", "-1"),
            "the time step must be a positive number of seconds, got -1",
        ),
        (("--backend", "hls", "--colour"), "No such option"),
    ],
)
def test_verify_refuses(arguments: tuple[str, ...], message: str, model: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_text("1 two 3")
    (tmp_path / "large.txt").write_text("255 256")
    np.save(tmp_path / "float.npy", np.ones(3))
    np.save(tmp_path / "narrow.npy", np.ones((3, 4), np.int64))
    status, out, err = call(
        "verify", model, *(str(tmp_path / word[1:]) if word.startswith("@") else word for word in arguments)
    )
    assert (status, out) == (2, "")
    assert message in err and "Traceback" not in err


def test_text_needs_a_byte_level_model(tmp_path: Path) -> None:
    to_nir(NSLLMForCausalLM(NSLLMConfig(vocab_size=16, hidden_size=8, num_hidden_layers=1)).eval(), tmp_path / "m.nir")
    for command in (("verify", "--backend", "hls"), ("generate",)):
        status, _, err = call(command[0], tmp_path / "m.nir", *command[1:], "--prompt", "x")
        assert status == 2 and "256 neurons (bytes)" in err


def test_not_a_nir_file(tmp_path: Path) -> None:
    (tmp_path / "m.nir").write_bytes(b"nothing")
    status, _, err = call("run", tmp_path / "m.nir", "--backend", "hls", "--prompt", "x")
    assert status == 2 and "not a readable NIR file" in err
    assert len(err.splitlines()) == 1


def test_generate_like_hugging_face(model: Path, small: Path) -> None:
    ids = torch.from_numpy(encode("The with"))[None]
    network = NSLLMForCausalLM.from_pretrained(small).eval()
    want = network.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, min_new_tokens=12, do_sample=False
    )[0].tolist()
    for backend in ("hls", "reference"):
        status, out, _ = call("generate", model, "--backend", backend, "--prompt", "The with", "--new-tokens", "12")
        assert (status, out) == (0, decode(want) + "\n")
    status, _, err = call("generate", model, "--backend", "lava-stock", "--prompt", "x")
    assert status == 2 and "pipeline" in err


def test_bytes_are_the_tokenizer() -> None:
    text = "naïve 脉冲 [b]\n"
    assert encode(text).tolist() == byte_tokenizer()(text).input_ids
    assert decode(encode(text)) == byte_tokenizer().decode(encode(text)) == text
    assert decode([0x66, 0xFF]) == "f\ufffd"


def test_held_out_text_is_not_trained_on(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("".join(f"line {i:04}\n" for i in range(1000)))
    assert decode(held_out(str(tmp_path / "text.txt"), 10)) == "line 0901\n"


def test_build_checks_itself(model: Path, tmp_path: Path) -> None:
    status, out, _ = call("build", model, "-o", tmp_path / "project", "--tokens", "4", "--part", "xc7z020clg400-1")
    assert status == 0 and "make -C" in out
    assert "xc7z020clg400-1" in (tmp_path / "project" / "run_hls.tcl").read_text()
    status, _, err = call("build", model, "-o", tmp_path / "project")
    assert status == 2 and "not an empty folder" in err
    status, _, err = call("build", model, "-o", tmp_path / "other", "--target", "arty")
    assert status == 2 and f"--target must be vitis or a board ({', '.join(boards.names())}), got 'arty'" in err
    status, _, err = call("build", model, "-o", tmp_path / "other", "--target", "vck190", "--clock-ns", "3")
    assert (
        status == 2
        and "--part and --clock-ns belong to --target vitis; part and clock of vck190 stand in its board file" in err
    )
    assert not (tmp_path / "other").exists()
    status, out, _ = call("build", "--help")
    assert status == 0 and all(name in out for name in boards.names())


def test_an_interrupted_write_keeps_the_old_file(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run.json").write_text("old")

    def full(source: Any, target: Any) -> None:
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(os, "replace", full)
    status, _, err = call("run", model, "--backend", "reference", "--prompt", "x", "--json", tmp_path / "run.json")
    assert status == 2 and "No space left on device" in err
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("run.json", "old")]


def test_doctor_runs_backends(tmp_path: Path) -> None:
    status, out, err = call(
        "doctor", "--backend", "hls", "--backend", "lava", "--backend", "snntorch", "--json", tmp_path / "d.json"
    )
    assert status == 0, out + err
    checks = {check["name"]: check for check in json.loads((tmp_path / "d.json").read_text())}
    assert set(checks) == {"python", "g++", "make", "packages", *PACKAGES, "hls", "lava", "snntorch"}
    assert all(check["runs"] and check["version"] for name, check in checks.items() if name not in PACKAGES)
    missing = [check["message"] for name, check in checks.items() if name in PACKAGES and not check["runs"]]
    assert all("install it with: pip install" in message for message in missing)


@pytest.mark.parametrize("name", ["hls", "rtl"])
def test_doctor_builds_what_is_built_fastest(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file in an empty cache: no optimised engine, no runtime of Verilator apart."""
    monkeypatch.setenv("NSLLM_NIR_CACHE", str(tmp_path))
    check = check_backend(name, quick=False)
    assert check.runs, check.message
    assert len(list(tmp_path.iterdir())) == 1


def test_doctor_probe_uses_every_operation() -> None:
    assert {type(op) for op in probe_program().ops} == set(OPERATIONS)


def test_doctor_finds_a_missing_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    status, out, _ = call("doctor", "--backend", "hls", "--quick")
    assert status == 1 and "install it with: apt-get install g++" in out
    assert (
        check_tool("make", "apt-get install make").message
        == "make is not on PATH; install it with: apt-get install make"
    )


def test_doctor_finds_a_wrong_backend(wrong: Wrong) -> None:
    wrong.node, wrong.step, wrong.neuron = "linear_spikes", 3, 1
    check = check_backend("wrong", quick=False)
    assert not check.runs and check.version == "broken" and "node 'linear_spikes', step 3, neuron 1" in check.message
    assert check_backend("wrong", quick=True).runs


def test_works_without_torch(tmp_path: Path) -> None:
    script = (
        "import sys\nsys.modules['torch'] = None\nfrom nsllm_nir.cli import main as cli\n"
        "sys.argv = ['nsllm-nir', *sys.argv[1:]]\ncli.main()"
    )
    for arguments, status, words in (
        (["--help"], 0, "verify"),
        (["doctor", "--backend", "hls", "--backend", "reference"], 0, "numpy"),
        (
            ["train", "pydoc", "--out", str(tmp_path / "run")],
            2,
            "error: this command needs the package 'torch'; install it with: pip install 'nsllm-nir[torch]'",
        ),
    ):
        done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stderr
        assert words in done.stdout + done.stderr


def test_demo(small: Path, tmp_path: Path) -> None:
    status, out, err = call(
        "demo",
        "--checkpoint",
        small,
        "--out",
        tmp_path,
        "--tokens",
        "12",
        "--new-tokens",
        "6",
        "--json",
        tmp_path / "demo.json",
    )
    assert status == 0, out + err
    assert (tmp_path / "demo.json").read_text() == (tmp_path / "report.json").read_text()
    assert "every spike equal: yes; same text from every engine: yes" in out
    data = json.loads((tmp_path / "report.json").read_text())
    assert list(data["verification"]["backends"]) == ["model", *compared()]
    assert all(backend["exact"] for backend in data["verification"]["backends"].values())
    assert set(data["generation"]) == {"torch", *generators()} and "rtl" not in generators()
    assert len({tuple(entry["tokens"]) for entry in data["generation"].values()}) == 1
    assert {data["operations_per_token_bound"][name] for name in report.ABSENT_OPERATIONS} == {0}
    page = (tmp_path / "report.html").read_text()
    assert "0 differences" in page and page.count("<img") == 5
    assert not re.findall(r"""(?:src|href)=["'](?!data:image/png;base64,)""", page) and "http" not in page
    assert verification.verify(tmp_path / "model.nir", held_out("pydoc", 12), ["hls"]).exact


def test_demo_fails_when_a_backend_differs(
    small: Path, tmp_path: Path, wrong: Wrong, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nsllm_nir.demo.demo.compared", lambda: ["hls", "wrong"])
    monkeypatch.setattr("nsllm_nir.demo.demo.generators", lambda: ["hls"])
    status, out, _ = call("demo", "--checkpoint", small, "--out", tmp_path, "--tokens", "8", "--new-tokens", "2")
    assert status == 1
    assert "wrong first differs at node 'layer_001.mixer.up_spikes', step 5, neuron 9" in out
    assert "every spike equal: NO; same text from every engine: yes" in out
    page = (tmp_path / "report.html").read_text()
    assert "not exact" in page and "0 differences" not in page
    assert not json.loads((tmp_path / "report.json").read_text())["exact"]


@pytest.mark.parametrize("failure", ["another text", "an error"])
def test_demo_fails_when_the_texts_differ(
    failure: str, small: Path, tmp_path: Path, wrong: Wrong, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nsllm_nir.demo.demo.compared", lambda: ["hls"])
    monkeypatch.setattr("nsllm_nir.demo.demo.generators", lambda: ["hls", "wrong"])
    if failure == "an error":
        monkeypatch.setattr(Wrong, "open", mock.Mock(side_effect=BackendError("it broke")))
    status, out, _ = call("demo", "--checkpoint", small, "--out", tmp_path, "--tokens", "8", "--new-tokens", "4")
    assert status == 1
    assert "every spike equal: yes; same text from every engine: NO" in out
    assert ("it broke" in out) == (failure == "an error")


def float_network(dt: float) -> nir.NIRGraph:
    """A float network as other frameworks write it, for steps of ``dt``: no number of it is an integer."""
    rng = np.random.default_rng(0)
    tau, r, zero, one = (np.full(12, value) for value in (9.9 * dt, 9.9, 0.0, 1.0))
    neurons = nir.LIF(tau=tau, r=r, v_leak=zero, v_threshold=one, v_reset=zero)
    return nir.NIRGraph.from_list(
        nir.Input(np.array([8])), nir.Affine(rng.normal(0, 0.6, (12, 8)), rng.normal(0, 0.05, 12)), neurons
    )


@pytest.fixture
def float_graph(tmp_path: Path) -> Path:
    nir.write(tmp_path / "float.nir", float_network(1e-4))
    return tmp_path / "float.nir"


def test_a_float_graph_is_quantized_on_the_way(float_graph: Path) -> None:
    """Two tables: what quantization changed, and the backends, which all agree; the file that `quantize` writes runs
    the same.
    """
    spikes, result = float_graph.with_name("spikes.npy"), float_graph.with_name("verify.json")
    np.save(spikes, np.random.default_rng(1).random((300, 2, 4)) < 0.3)
    status, out, err = call(
        "verify", float_graph, "--input", spikes, "--backend", "hls", "--backend", "lava", "--json", result
    )
    assert status == 0, err
    found = json.loads(result.read_text())
    assert found["exact"] and found["steps"] == 300
    assert found["quantization"]["weight_bits"] == 8 and not found["quantization"]["unchanged"]
    error = found["quantization_error"]["nodes"]["lif"]
    assert error["integer_spikes"] == found["backends"]["hls"]["nodes"]["lif"]["spikes"] > 0
    assert 0 < error["differences"] == found["quantization_error"]["differences"] < error["cells"] / 20
    first, second = (
        out.index(title) for title in ("Caused by quantization, 300 steps", "Differences between backends")
    )
    assert first < second
    assert re.search(
        rf"│ lif +│ +{error['float_spikes']} │ +{error['integer_spikes']} │ +{error['differences']} │",
        out[first:second],
    )
    assert re.search(rf"│ lif +│ +1 │ +12 │ +{error['integer_spikes']} │ +0 │ +0 │", out[second:])

    integer, facts = float_graph.with_name("integer.nir"), float_graph.with_name("facts.json")
    status, out, _ = call("quantize", float_graph, "--out", integer, "--json", facts)
    assert status == 0 and "Caused by quantization, 64 steps" in out
    assert json.loads(facts.read_text())["quantization"] == found["quantization"]
    status, out, _ = call("verify", integer, "--input", spikes, "--backend", "hls", "--json", result)
    again = json.loads(result.read_text())
    assert (
        status == 0
        and again["quantization"] is None
        and again["quantization_error"] is None
        and "quantization" not in out
    )
    assert again["backends"]["hls"]["nodes"] == found["backends"]["hls"]["nodes"]
    status, out, _ = call("quantize", integer, "--out", float_graph.with_name("twice.nir"))
    assert (
        status == 0
        and "integer already" in out
        and float_graph.with_name("twice.nir").read_bytes() == integer.read_bytes()
    )


def test_a_wrong_backend_fails_on_a_float_graph(float_graph: Path, wrong: Wrong) -> None:
    wrong.node, wrong.step, wrong.neuron = "lif", 5, 9
    status, out, _ = call("verify", float_graph, "--random", "0.3", "--backend", "hls", "--backend", "wrong")
    assert status == 1 and "wrong first differs at node 'lif', step 5, neuron 9" in out


def test_run_and_build_quantize_too(float_graph: Path) -> None:
    folder = float_graph.parent
    status, out, _ = call(
        "run",
        float_graph,
        "--backend",
        "hls",
        "--random",
        "0.3",
        "--out",
        folder / "t.npz",
        "--json",
        folder / "run.json",
    )
    assert status == 0 and "Caused by quantization, 64 steps" in out
    data = json.loads((folder / "run.json").read_text())
    assert (
        data["quantization_error"]["nodes"]["lif"]["integer_spikes"]
        == data["nodes"]["lif"]["spikes"]
        == np.load(folder / "t.npz")["lif"].sum()
        > 0
    )
    status, out, _ = call("build", float_graph, "-o", folder / "project", "--random", "0.3", "--steps", "5")
    assert status == 0 and "Caused by quantization, 5 steps" in out and "golden vectors of 5 steps" in out
    done = subprocess.run(["make", "-C", folder / "project"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_trace_is_an_input(float_graph: Path) -> None:
    """The array called input in the trace of a run is read again."""
    traces = float_graph.with_name("one.npz"), float_graph.with_name("two.npz")
    assert call("run", float_graph, "--backend", "reference", "--random", "0.3", "--out", traces[0])[0] == 0
    assert call("run", float_graph, "--backend", "reference", "--input", traces[0], "--out", traces[1])[0] == 0
    first, second = (np.load(trace) for trace in traces)
    assert all(np.array_equal(first[node], second[node]) for node in ("input", "lif"))


@pytest.mark.parametrize("command", ["run", "verify", "build", "quantize"])
def test_the_time_step_of_a_file(command: str, float_graph: Path) -> None:
    """The same network written for another step, with its step given, does the same."""
    slow, folder = float_graph.with_name("slow.nir"), float_graph.parent
    nir.write(slow, float_network(1e-3))
    outputs: list[Any] = []
    for path, dt in ((float_graph, ()), (slow, ("--dt", "1e-3"))):
        out = folder / f"{path.stem}.out"
        more = {
            "run": ("--backend", "hls", "--random", "0.3", "--json", out),
            "verify": ("--backend", "hls", "--random", "0.3", "--json", out),
            "build": ("--random", "0.3", "--out", out),
            "quantize": ("--out", out),
        }[command]
        assert call(command, path, *more, *dt)[0] == 0
        if command in ("run", "verify"):
            outputs.append(re.sub(r'"seconds": [\d.]+', "", out.read_text()))
        elif command == "build":
            outputs.append({file.name: file.read_bytes() for file in sorted(out.iterdir()) if file.is_file()})
        else:
            outputs.append(str(lower(out)))
    assert outputs[0] == outputs[1] and outputs[0]


def test_samples_of_a_nir_data_file(float_graph: Path) -> None:
    data, trace = float_graph.with_name("data.h5"), float_graph.with_name("t.npz")
    spikes = np.random.default_rng(2).random((3, 20, 8)) < 0.4
    nir.write_data(data, nir.NIRGraphData({"input": nir.NIRNodeData({"spikes": nir.TimeGriddedData(spikes, 1e-4)})}))
    status, _, err = call("run", float_graph, "--backend", "reference", "--input", data)
    assert status == 2 and "holds 3 samples; choose one, 0 to 2, with --sample" in err
    assert call("run", float_graph, "--backend", "reference", "--input", data, "--sample", "2", "--out", trace)[0] == 0
    assert np.array_equal(np.load(trace)["input"], spikes[2])
    status, _, err = call(
        "run", float_graph, "--backend", "reference", "--input", data, "--sample", "2", "--dt", "2e-4"
    )
    assert status == 2 and "error: lif: tau must be at least" not in err and "give --dt = 0.0001 if" in err


def test_random_input_is_reproducible_and_checked(float_graph: Path) -> None:
    traces = []
    for seed in ("1", "1", "2"):
        out = float_graph.with_name("trace.npz")
        assert (
            call(
                "run",
                float_graph,
                "--backend",
                "reference",
                "--random",
                "0.5",
                "--steps",
                "30",
                "--seed",
                seed,
                "--out",
                out,
            )[0]
            == 0
        )
        traces.append(np.load(out)["input"])
    assert traces[0].shape == (30, 8) and (traces[0] == traces[1]).all() and (traces[0] != traces[2]).any()
    status, _, err = call("run", float_graph, "--backend", "reference", "--random", "1.5")
    assert status == 2 and "rate in [0, 1]" in err


def test_dt_belongs_to_graphs(tmp_path: Path) -> None:
    status, _, err = call("quantize", tmp_path, "--out", tmp_path / "q", "--dt", "1e-3")
    assert status == 2 and "--dt belongs to a .nir file" in err
