"""Towards the dense model's outputs: what is measured of its activations, and what GPTQ makes of it."""

import pytest
import torch

from studyctl.compress.quantize.target import towards_dense
from studyctl.compress.sweep.inverse import inverse_root
from studyctl.compress.walk import walker
from studyctl.compress.walk.statistics import Accumulator
from studyctl.compress.walk.vocabulary import EMBEDDING_SHARE, measure_head, vocabulary_matrices
from studyctl.compress.walk.walker import compress
from studyctl.compress.weights.compressed import CompressedLinear, LinearGroup
from studyctl.contract.methods import GPTQ, GPTQOnGguf, MethodSettings
from studyctl.errors import StepError
from studyctl.reporter import SilentReporter
from tests.compress.cases import correlated, linear_group, random
from tests.compress.tiny import tiny_model


def measured(ours: torch.Tensor, dense: torch.Tensor, chunk: int):  # type: ignore[no-untyped-def]
    accumulator = Accumulator(frozenset({"hessian"}), ours.shape[0] * ours.shape[1])
    for mine, theirs in zip(ours.split(chunk), dense.split(chunk), strict=True):
        accumulator.add(mine, theirs)
    return accumulator.finish()


@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_the_shift_is_a_mean_over_samples_whatever_the_chunks(chunk: int) -> None:
    ours, dense = random(5, 7, 12), random(5, 7, 12, seed=1)
    expected = 2 / 5 * (dense - ours).flatten(0, 1).T @ ours.flatten(0, 1)
    torch.testing.assert_close(measured(ours, dense, chunk).shift, expected)


def test_all_the_way_is_the_least_squares_solution_for_the_dense_outputs() -> None:
    ours = correlated(400, 16)[None]
    dense = ours + 0.1 * random(1, 400, 16, seed=3)
    weight = random(6, 16)
    seen = measured(ours, dense, 1)
    inverse = inverse_root(seen.hessian.clone(), 1e-7, ("x",))
    expected = torch.linalg.lstsq(ours[0].double(), dense[0].double() @ weight.double().T).solution.T
    group = linear_group(weight, seen=seen)
    torch.testing.assert_close(
        towards_dense(weight, group, inverse, None, 1.0).double(), expected, atol=1e-3, rtol=1e-3
    )
    half = towards_dense(weight, group, inverse, None, 0.5).double()
    torch.testing.assert_close(half, (weight.double() + expected) / 2, atol=1e-3, rtol=1e-3)
    assert towards_dense(weight, group, inverse, None, 0.0) is weight


def test_the_order_of_the_sweep_does_not_change_it() -> None:
    ours, dense, weight = correlated(400, 16)[None], correlated(400, 16, seed=1)[None], random(6, 16)
    seen = measured(ours, dense, 1)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    plain = inverse_root(seen.hessian.clone(), 0.01, ("x",))
    ordered = inverse_root(seen.hessian[order[:, None], order].clone(), 0.01, ("x",))
    group = linear_group(weight, seen=seen)
    torch.testing.assert_close(
        towards_dense(weight, group, ordered, order, 1.0),
        towards_dense(weight, group, plain, None, 1.0),
        atol=1e-4,
        rtol=1e-3,
    )


SETTINGS = [GPTQ(group_size=8, target=0.5), GPTQOnGguf(grid="gguf:Q4_0", target=0.5)]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_dense_inputs_are_those_of_the_whole_dense_model(
    settings: MethodSettings, ids: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shift of the last linear equals that of two whole forward passes, of the dense and of the compressed model."""
    seen: dict[str, torch.Tensor] = {}
    plain = walker._statistics

    def note(linears, accumulator, samples):  # type: ignore[no-untyped-def]
        result = plain(linears, accumulator, samples)
        seen[next(iter(linears.linears))] = result.shift
        return result

    monkeypatch.setattr(walker, "_statistics", note)
    model = tiny_model("llama", intermediate_size=64)
    last = "model.layers.2.mlp.down_proj"
    dense = inputs_of(model, last, ids)
    done = compress(model, settings, ids, batch_tokens=48, reporter=SilentReporter())
    ours = inputs_of(model, last, ids)
    expected = 2 / len(ids) * (dense - ours).flatten(0, 1).T @ ours.flatten(0, 1)
    torch.testing.assert_close(seen[last], expected, atol=1e-5, rtol=1e-3)
    assert last in done.linears


def inputs_of(model: torch.nn.Module, name: str, ids: torch.Tensor) -> torch.Tensor:
    caught: list[torch.Tensor] = []
    handle = model.get_submodule(name).register_forward_pre_hook(
        lambda _, inputs: caught.append(inputs[0].clone())
    )
    with torch.no_grad():
        model(ids)
    handle.remove()
    return caught[0]


def test_experts_are_refused(ids: torch.Tensor) -> None:
    with pytest.raises(StepError, match="`target` is not for experts"):
        compress(
            tiny_model("mixtral"),
            GPTQ(group_size=8, target=0.5),
            ids,
            batch_tokens=48,
            reporter=SilentReporter(),
        )


class TestVocabulary:
    def test_a_tied_head_is_named_once(self) -> None:
        assert list(vocabulary_matrices(tiny_model("llama", tie_word_embeddings=True))) == [
            "model.embed_tokens"
        ]
        untied = vocabulary_matrices(tiny_model("llama", tie_word_embeddings=False))
        assert list(untied) == ["model.embed_tokens", "lm_head"]

    @torch.no_grad()
    def test_the_heads_inputs_are_the_states_after_the_last_norm(self, ids: torch.Tensor) -> None:
        model = tiny_model("gemma2")
        seen = measure_head(model, ids, frozenset({"hessian"}), 48, SilentReporter())
        states = model.get_decoder()(ids).last_hidden_state.flatten(0, 1)  # type: ignore[operator]
        torch.testing.assert_close(seen.hessian, 2 / len(ids) * states.T @ states)

    def test_a_tied_embedding_weighs_all_columns_a_little(
        self, ids: torch.Tensor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: dict[str, LinearGroup] = {}
        model = tiny_model("llama", tie_word_embeddings=True, intermediate_size=64)
        head = measure_head(model, ids, frozenset({"hessian"}), 48, SilentReporter())
        plain = walker.resolve_name

        def noting(target: str):  # type: ignore[no-untyped-def]
            function = plain(target)

            def call(linears: LinearGroup, settings: MethodSettings) -> list[CompressedLinear]:
                seen[linears.names[0]] = linears
                result: list[CompressedLinear] = function(linears, settings)
                return result

            return call

        monkeypatch.setattr(walker, "resolve_name", noting)
        compress(model, GPTQOnGguf(grid="gguf:Q8_0"), ids, batch_tokens=48, reporter=SilentReporter())
        assert head.hessian is not None
        expected = head.hessian + EMBEDDING_SHARE * head.hessian.diagonal().mean() * torch.eye(32)
        torch.testing.assert_close(seen["model.embed_tokens"].hessian, expected)
