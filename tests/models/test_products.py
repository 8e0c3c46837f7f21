"""Precision of matrix products by hardware."""

from pathlib import Path

import pytest
import torch

from boltzray.models.products import computes_bf16


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="Linux says there what its processor has")
def test_bf16_is_chosen_where_the_processor_has_instructions_for_it() -> None:
    flags = set(Path("/proc/cpuinfo").read_text().split())
    assert computes_bf16(torch.device("cpu")) == bool({"avx512_bf16", "amx_tile"} & flags)
    assert not computes_bf16(torch.device("meta"))
