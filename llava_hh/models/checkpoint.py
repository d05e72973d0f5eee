"""Checkpoint folders in transformers' layout or LLaVA's: model type, configuration, stored tensors, loading."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_hh.models.chat import load_whole
from llava_hh.models.original_fields import check_supported, is_original, read_fields, uses_tiles
from llava_hh.models.weight_files import StoredTensor, tensors_of, weight_files
from llava_hh.models.without_code import from_folder

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, ProcessorMixin


def model_type_of(path: Path) -> str | None:
    """transformers' name for the kind of model in a folder.

    Raises:
        FileNotFoundError: no checkpoint there.
        ValueError: an original LLaVA that has no counterpart in transformers.
    """
    fields = read_fields(path)
    if not is_original(fields):
        return fields.get("model_type")
    check_supported(path, fields)
    return "llava_next" if uses_tiles(fields) else "llava"


def load_config(path: Path) -> PreTrainedConfig:
    """The configuration in transformers' terms, without reading weights.

    Raises:
        FileNotFoundError: no checkpoint there, or a part of it.
        ValueError: an original checkpoint with other parts than LLaVA-1.5's or 1.6's, or with weights that do not fit.
    """
    if is_original(read_fields(path)):
        from llava_hh.models.original import open_original

        return open_original(path)[0].config
    from transformers import AutoConfig

    return from_folder(AutoConfig, path)


def stored_tensors(path: Path) -> list[StoredTensor]:
    """The tensors that weights are read from: those of the folder's files, or of an original checkpoint's parts.

    Raises:
        FileNotFoundError: a folder or weights that are not there.
        ValueError: a file that is damaged, or parts that do not fit.
    """
    if not is_original(fields := read_fields(path)):
        return tensors_of(weight_files(path))
    from llava_hh.models.original import find_parts

    _, held, beside, _ = find_parts(path, fields)
    return held + beside


def load_checkpoint(
    model_class: type[PreTrainedModel], path: Path, **options: Any
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """The model and its processor; `options` are those of from_pretrained (dtype, device_map).

    Raises:
        FileNotFoundError: a part that is not there.
        ValueError: weights that are missing, left over, damaged or of another shape.
    """
    if is_original(read_fields(path)):
        from llava_hh.models.original import load_original

        return load_original(path, **options)
    from transformers import AutoProcessor

    return load_whole(model_class, path, **options), from_folder(AutoProcessor, path)
