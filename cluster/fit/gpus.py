"""GPUs by name, with the memory that CUDA gives a program: less than nvidia-smi's figure and than the name's.

H200: torch.cuda.mem_get_info on one (nvidia-smi calls its 143,156 MiB 143,771). A100-40G: CUDA's deviceQuery,
in https://github.com/bottlerocket-os/bottlerocket/pull/3873. The others: the total that PyTorch and vLLM
print in public logs ("has a total capacity of 79.10 GiB", "total_gpu_memory (44.39GiB)"); it differs a little
by driver, and the smaller figure stands here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cluster.fit.reasons import FitError

GIB = 2**30
# nvidia-smi's names of parts: `NVIDIA A100-SXM4-40GB MIG 1g.5gb`, `GRID A100-40C`.
SLICE = re.compile(r"\bMIG\b|-\d+[QCAB]\b")
_UNITS = {"gib": GIB, "mib": 2**20, "gb": 10**9, "mb": 10**6}


@dataclass(frozen=True)
class Gpu:
    """`memory_bytes` as CUDA reports it; `pattern` finds it in nvidia-smi's names too."""

    name: str
    memory_bytes: int
    pattern: str


CATALOGUE = (
    Gpu("B200-180G", int(178.35 * GIB), r"\bb200\b"),
    Gpu("H200-141G", 150_109_880_320, r"\bh200\b"),
    Gpu("H100-94G", int(93.09 * GIB), r"\bh100.*(nvl|94g)"),
    # Cards of 64 and 96 GB have the same name.
    Gpu("H100-80G", int(79.10 * GIB), r"\bh100\b(?!.*\b(?!80 ?g)\d{2,3} ?gi?b?\b)"),
    Gpu("A100-80G", int(79.14 * GIB), r"\ba100\b.*80g"),
    Gpu("A100-40G", 42_298_834_944, r"\ba100\b.*40g"),
    Gpu("MI325X-256G", int(255.69 * GIB), r"\bmi325x\b"),
    Gpu("MI300X-192G", int(191.69 * GIB), r"\bmi300x\b"),
    Gpu("RTXPRO6000-96G", int(94.96 * GIB), r"\brtx ?pro ?6000\b"),
    Gpu("RTX6000Ada-48G", int(47.40 * GIB), r"\brtx ?6000 ?ada\b"),
    Gpu("A6000-48G", int(47.40 * GIB), r"\ba6000\b"),
    Gpu("L40S-48G", int(44.39 * GIB), r"\bl40s\b"),
    Gpu("L40-48G", int(44.39 * GIB), r"\bl40\b"),
    Gpu("A40-48G", int(44.34 * GIB), r"\ba40\b"),
    Gpu("RTX5090-32G", int(31.36 * GIB), r"\brtx ?5090\b(?!.*laptop)"),
    Gpu("V100-32G", int(31.73 * GIB), r"\bv100\b.*32g"),
    Gpu("RTX4090-24G", int(23.52 * GIB), r"\brtx ?4090\b(?!.*laptop)"),
    Gpu("RTX3090-24G", int(23.56 * GIB), r"\brtx ?3090\b"),
    Gpu("L4-24G", int(22.03 * GIB), r"\bl4\b"),
    Gpu("A10-24G", int(22.03 * GIB), r"\ba10g?\b"),
    Gpu("T4-16G", int(14.56 * GIB), r"\bt4\b"),
)


def find_gpu(text: str) -> Gpu:
    """A GPU by its name here (H100-80G), by nvidia-smi's (NVIDIA H200), or by a size (23.65GiB). Raises
    FitError.
    """
    size = re.fullmatch(r"\s*(\d{1,6}(?:\.\d{1,6})?)\s*(gib|mib|gb|mb)\s*", text, re.IGNORECASE)
    if size:
        return Gpu(text.strip(), int(float(size[1]) * _UNITS[size[2].lower()]), "")
    if SLICE.search(text):
        raise FitError(
            f"gpu: {text[:60]!r} is a part of a GPU (MIG, vGPU); give its size as CUDA reports it (19.50GiB)"
        )
    spoken = re.sub(r"[-_]+", " ", text.lower())
    found = next((gpu for gpu in CATALOGUE if re.search(gpu.pattern, spoken)), None)
    if found is None:
        known = ", ".join(gpu.name for gpu in CATALOGUE)
        raise FitError(
            f"gpu: {text[:60]!r} is not known; take a size as CUDA reports it (23.65GiB), or one of {known}"
        )
    return found
