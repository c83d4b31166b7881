"""What the installed transformers can load is read from its source, and is what it says when it is asked."""

from typing import Any

import pytest
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from studyctl.errors import StudyError
from studyctl.sources import configs
from studyctl.sources.configs import check_decoder
from studyctl.sources.registry import installed_registry


def test_the_tables_are_those_of_transformers() -> None:
    registry = installed_registry()
    assert registry is not None
    assert registry.causal == dict(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    assert registry.words >= set(CONFIG_MAPPING)


CODE = {"AutoConfig": "configuration_ours.Config", "AutoModelForCausalLM": "modeling_ours.Model"}


@pytest.mark.parametrize(
    ("config", "what", "hint"),
    [
        (
            {"model_type": "lamma", "architectures": ["LammaForCausalLM"]},
            "has no model type `lamma`, which `model` is of",
            "did you mean `llama`?",
        ),
        (
            {"model_type": "ours", "architectures": ["OursForCausalLM"], "auto_map": CODE},
            "`model` runs code of its own (`auto_map` in config.json), which studyctl never does",
            "a later version of transformers may have it",
        ),
        ({"model_type": "vit"}, "`model` is not a decoder: vit", "decoder-only"),
        ({"model_type": "gemma3"}, "`model` is not a decoder: gemma3", "decoder-only"),
        ({"architectures": ["LlamaForCausalLM"]}, "`model` is not a decoder", "`model_type`"),
    ],
)
def test_what_transformers_cannot_load_by_itself_is_refused(
    config: dict[str, Any], what: str, hint: str
) -> None:
    with pytest.raises(StudyError) as caught:
        check_decoder(config, "model")
    (problem,) = caught.value.problems
    assert what in problem.what
    assert hint in problem.hint


def test_code_of_its_own_does_not_matter_where_transformers_has_the_family() -> None:
    check_decoder({"model_type": "phi3", "architectures": ["Phi3ForCausalLM"], "auto_map": CODE}, "model")


def test_without_transformers_names_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configs, "installed_registry", lambda: None)
    check_decoder({"model_type": "ours", "architectures": ["OursForCausalLM"]}, "model")
    check_decoder({"model_type": "llama"}, "model")
    with pytest.raises(StudyError, match="is not a decoder"):
        check_decoder({"model_type": "vit"}, "model")
