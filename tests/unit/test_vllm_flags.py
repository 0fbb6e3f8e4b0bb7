"""Flags that vLLM no longer has, and those that clusterctl sets, are refused with what to do instead."""

from __future__ import annotations

import pytest

from cluster.inventory.vllm_flags import GONE, OURS, UNSUPPORTED, flag, why_not


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("max_model_len", "max-model-len"),
        ("max-model-len", "max-model-len"),
        ("cc.cudagraph_mode", "cc.cudagraph_mode"),
        ("compilation_config.cudagraph_mode", "compilation-config.cudagraph_mode"),
    ],
)
def test_a_key_is_a_flag(key: str, name: str) -> None:
    assert flag(key) == name


@pytest.mark.parametrize("key", ["max_model_len", "quantization", "enable-prefix-caching", "cc.mode"])
def test_flags_that_vllm_has(key: str) -> None:
    assert why_not(key) is None


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (
            "swap_space",
            "vLLM no longer has --swap-space: the V1 engine recomputes instead of swapping; "
            "see kv-offloading-size",
        ),
        (
            "no_enable_reasoning",
            "vLLM no longer has --no-enable-reasoning: reasoning-parser alone turns it on",
        ),
        (
            "tensor-parallel-size",
            "clusterctl sets --tensor-parallel-size itself: set serve.tensor_parallel_size",
        ),
        ("port", "clusterctl sets --port itself: set serve.port"),
        *(
            (name, f"clusterctl does not work with --{name}: {UNSUPPORTED[name]}")
            for name in ("uds", "config")
        ),
        *(
            (name, f"clusterctl does not work with --{flag(name)}: {UNSUPPORTED['ssl-certfile']}")
            for name in ("ssl-certfile", "ssl_certfile", "ssl_keyfile")
        ),
    ],
)
def test_flags_that_an_inventory_may_not_carry(key: str, reason: str) -> None:
    assert why_not(key) == reason


def test_every_name_is_spelt_as_a_flag_and_stands_in_one_list() -> None:
    assert not GONE.keys() & OURS.keys() | UNSUPPORTED.keys() & OURS.keys()
    assert all(flag(name) == name for name in (*GONE, *OURS, *UNSUPPORTED))
