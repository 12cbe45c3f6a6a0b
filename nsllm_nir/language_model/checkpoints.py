"""Saved NSLLM models: the one that comes with the package, folders, and names on the Hugging Face hub."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from nsllm_nir.errors import InputError, NsllmNirError

if TYPE_CHECKING:
    from nsllm_nir.language_model.modeling import NSLLMForCausalLM


def shipped_checkpoint() -> Path:
    """Folder of the checkpoint that comes with the package.

    Raises:
        InputError: this copy of the package holds none.
    """
    folder = Path(str(files("nsllm_nir.language_model"))) / "checkpoint"
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} holds no checkpoint; give one with --checkpoint (`nsllm-nir train` writes it)")
    return folder


def load_model(checkpoint: Path) -> NSLLMForCausalLM:
    """A saved NSLLM model in evaluation mode, from a folder or, without one of that name, from the Hugging Face hub.

    Raises:
        InputError: neither holds an NSLLM checkpoint.
    """
    from safetensors import SafetensorError
    from transformers import PretrainedConfig
    from transformers.utils import logging

    from nsllm_nir.language_model.modeling import NSLLMForCausalLM

    # A bar for every file of a few kilobytes says nothing.
    logging.disable_progress_bar()  # type: ignore[no-untyped-call] # of transformers

    hub_name = not checkpoint.is_absolute() and len(checkpoint.parts) == 2 and not checkpoint.parent.exists()
    if not hub_name and not (checkpoint / "config.json").is_file():
        why = "there is no config.json" if checkpoint.exists() else "there is no such folder"
        raise InputError(
            f"{checkpoint} holds no checkpoint ({why}); give a folder that `nsllm-nir train` or save_pretrained wrote, "
            "or OWNER/NAME of a model on the Hugging Face hub"
        )
    try:
        kind = PretrainedConfig.get_config_dict(str(checkpoint))[0].get("model_type")
        if kind != "nsllm":
            raise InputError(f"{checkpoint} holds a model of type {kind!r}, an NSLLM model is needed")
        model: NSLLMForCausalLM = NSLLMForCausalLM.from_pretrained(str(checkpoint))
        model.eval()  # type: ignore[no-untyped-call] # of transformers
        return model
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise (
            error
            if isinstance(error, NsllmNirError)
            else InputError(f"the checkpoint in {checkpoint} cannot be loaded: {error}")
        ) from error
