"""What the plan foretells of memory is what compressing takes."""

from pathlib import Path
from typing import Any

import pytest

from .peak import measure

CONFIG = {
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 2,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "vocab_size": 2000,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="the peak cannot be measured anew here"
)
@pytest.mark.parametrize(
    "settings",
    [
        {"method": "gptq", "bits": 4},
        {"method": "awq", "bits": 4, "ratios": 2},  # more candidates take time, not memory
    ],
    ids=lambda settings: settings["method"],
)
def test_the_peak_is_what_was_foretold(settings: dict[str, Any]) -> None:
    case = {
        "model_type": "phi3",
        "config": CONFIG,
        "settings": settings,
        "samples": 2,
        "tokens": 256,
        "threads": 1,
        "dtype": "float32",  # what products of bfloat16 pack differs between processors
    }
    found = measure(case)
    assert found["peak"] == pytest.approx(found["peak_foretold"], rel=0.25)
    assert found["working"] == pytest.approx(found["working_foretold"], rel=0.25)
