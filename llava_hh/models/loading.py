"""How the weights of a checkpoint are loaded: their type, where they go, whether they are quantized."""

import os
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Loading:
    """How weights are loaded; None is transformers' default.

    dtype: such as "bfloat16"; None is the checkpoint's type.
    device_map: "auto" spreads layers over GPUs, memory and disk; None is this process's GPU (the first one without a
        launcher), else the CPU.
    bits: 4 or 8, by bitsandbytes; None does not quantize.
    """

    dtype: str | None = None
    device_map: str | dict | None = None
    bits: int | None = None

    @classmethod
    def from_environment(cls) -> "Loading":
        """By the environment variables DTYPE, DEVICE_MAP and BITS, which the wrappers' users set.

        Raises:
            ValueError: a dtype or a number of bits that there is not.
        """
        dtype, device_map, bits = (os.environ.get(name) or None for name in ("DTYPE", "DEVICE_MAP", "BITS"))
        if dtype is not None:
            check_dtype(dtype, "DTYPE")
        if bits not in (None, "4", "8"):
            raise ValueError(f"BITS {bits!r}: expected 4 or 8")
        return cls(dtype, device_map, bits and int(bits))

    def record(self) -> dict[str, Any]:
        """What changes numbers, JSON-ready: type, bits and kind of device; on which of them layers lie does not."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return {"dtype": self.dtype, "bits": self.bits, "device": device}

    def options(self) -> dict[str, Any]:
        """The options of from_pretrained."""
        gpu = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
        device_map = self.device_map or (gpu if torch.cuda.is_available() else "cpu")
        # interventions are written for fused attention; a config may name a kernel that is not installed
        options: dict[str, Any] = {"dtype": self.dtype or "auto", "device_map": device_map}
        options["attn_implementation"] = "sdpa"
        if self.bits:
            from transformers import BitsAndBytesConfig

            options["quantization_config"] = BitsAndBytesConfig(**{f"load_in_{self.bits}bit": True})
        return options


def check_dtype(name: str, setting: str) -> str:
    """The name of a type of torch, such as "bfloat16"; ValueError, with the setting's name, for any other text."""
    if not isinstance(getattr(torch, name, None), torch.dtype):
        raise ValueError(f"{setting} {name!r}: expected a dtype of torch, such as bfloat16")
    return name
