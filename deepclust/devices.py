"""What the devices of this machine can do."""

from __future__ import annotations

import torch


def native_bfloat16(accelerator: str = "auto") -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware.

    Args:
        accelerator: `auto` (a GPU where there is one, else the CPU), `gpu`, `cuda` or `cpu`.
    """
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if accelerator in ("auto", "cpu"):
        capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
    return False
