# make demo         a small real model on this machine: Ray, vLLM, one question, the model's answer
# make clean-demo   take it down
# make test         install what the tests need and run every layer that this machine can
# make fast         the layers without sshd, Docker, Ray and vLLM: seconds
# make faults       what takes long: all faults of the campaign, of which make test injects some, healing, drills
# make lint         ruff and mypy
# make bench        how long clusterctl itself takes
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MODEL := $(HOME)/.cache/clusterctl/models/SmolLM2-135M-Instruct
LOCAL := $(VENV)/.installed-local
DEV := $(VENV)/.installed-dev
FAST := tests/unit tests/recorded tests/flow tests/faults --ignore tests/faults/test_lab.py
HOSTS := tests/lab tests/ssh tests/faults/test_lab.py
# Each starts a real model several times; with the long form of what makes test injects, an hour and a half.
LONG := $(addprefix tests/lab/,test_drill.py test_heal.py test_reboot.py test_rollback.py test_watch.py)
# A module is one process's, because its tests share a lab; a host mostly waits, so there is room for two.
SPREAD := --dist loadfile --no-loadscope-reorder
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo clean-demo test fast faults lint bench clean

demo: $(LOCAL)
	$(BIN)/clusterctl lab model -o $(MODEL)
	$(BIN)/clusterctl up inventory/local.yaml
	$(BIN)/python scripts/ask.py "What is the capital of France?"

clean-demo:
	$(BIN)/clusterctl down --yes --purge inventory/local.yaml

test: $(DEV) lint
	sh scripts/install-debian-packages.sh
	$(BIN)/clusterctl lab model
	$(BIN)/pytest -rxXs $(SPREAD) -n auto $(FAST)
	$(BIN)/pytest -rxXs $(SPREAD) -n 2 $(HOSTS) $(addprefix --ignore=,$(LONG))

fast: $(DEV)
	$(BIN)/pytest $(SPREAD) -n auto $(FAST)

faults: $(DEV)
	sh scripts/install-debian-packages.sh
	$(BIN)/clusterctl lab model
	CLUSTERCTL_CAMPAIGN=1 $(BIN)/pytest -rxXs -n auto tests/faults --ignore tests/faults/test_lab.py
	CLUSTERCTL_CAMPAIGN=1 $(BIN)/pytest -rxXs tests/faults/test_lab.py tests/ssh/test_lock_campaign.py $(LONG)

lint: $(DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(DEV)
	$(BIN)/python bench/startup.py

$(LOCAL): pyproject.toml
	sh scripts/install.sh $(PYTHON) $(VENV) local
	touch $@

$(DEV): pyproject.toml
	sh scripts/install.sh $(PYTHON) $(VENV) local,dev
	touch $@ $(LOCAL)

clean:
	rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache
