"""The walk through a model: what methods are shown, in which order, and what is left behind."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
import torch
from torch import nn

from studyctl.compress.prune import sparsegpt
from studyctl.compress.prune.wanda import mask
from studyctl.compress.quantize import awq, gptq, rtn
from studyctl.compress.walk.architectures import block_linears, decoder_blocks
from studyctl.compress.walk.statistics import Accumulator
from studyctl.compress.walk.walker import compress
from studyctl.compress.weights.compressed import CompressedLinear, LinearGroup
from studyctl.contract.methods import (
    AWQ,
    GPTQ,
    METHODS,
    RTN,
    Dense,
    Magnitude,
    Method,
    MethodSettings,
    PruneThenQuantize,
    SparseGPT,
    Wanda,
)
from studyctl.errors import StepError
from studyctl.reporter import SilentReporter
from tests.compress.cases import block_input
from tests.compress.tiny import FAMILIES, Listener, tiny_model

SILENT = SilentReporter()
LINEAR_GROUPS = [
    ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    ["self_attn.o_proj"],
    ["mlp.gate_proj", "mlp.up_proj"],
    ["mlp.down_proj"],
]


def walk(model: nn.Module, settings: MethodSettings, ids: torch.Tensor | None, **options: Any) -> Any:
    return compress(model, settings, ids, **{"batch_tokens": 48, "reporter": SILENT, **options})


@contextmanager
def heard(linears: list[nn.Linear]) -> Iterator[dict[nn.Linear, torch.Tensor]]:
    inputs: dict[nn.Linear, torch.Tensor] = {}
    handles = [
        linear.register_forward_pre_hook(
            lambda module, args: inputs.__setitem__(module, args[0].flatten(0, 1))
        )
        for linear in linears
    ]
    yield inputs
    for handle in handles:
        handle.remove()


@torch.no_grad()
def plain_wanda(model: nn.Module, settings: Wanda, ids: torch.Tensor) -> None:
    """Wanda by running the whole model for every linear group: slow, and plainly what the settings say."""
    dense = copy.deepcopy(model)
    for block, dense_block in zip(decoder_blocks(model), decoder_blocks(dense), strict=True):
        uncompressed = copy.deepcopy(block.module)
        source = dense if settings.propagate == "dense" else model
        for names in LINEAR_GROUPS:
            shown = dense_block.module if settings.propagate == "dense" else block.module
            state = {key: value.clone() for key, value in shown.state_dict().items()}
            current = uncompressed if settings.order == "block" else block.module
            shown.load_state_dict({key: value.clone() for key, value in current.state_dict().items()})
            with heard([shown.get_submodule(name) for name in names]) as inputs:
                source(input_ids=ids)
            shown.load_state_dict(state)
            for name in names:
                norm = inputs[shown.get_submodule(name)].double().square().sum(0).sqrt().float()
                weight = block.module.get_submodule(name).weight
                weight.masked_fill_(mask(weight, norm, settings), 0)


@pytest.mark.parametrize("order", ["block", "stage"])
@pytest.mark.parametrize("propagate", ["compressed", "dense"])
@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_order_and_propagation_mean_what_they_say(
    family: str, order: Any, propagate: Any, ids: torch.Tensor
) -> None:
    settings = Wanda(sparsity=0.5, order=order, propagate=propagate)
    plain, walked = tiny_model(family), tiny_model(family)
    plain_wanda(plain, settings, ids)
    walk(walked, settings, ids)
    for name, linear in block_linears(walked).items():
        assert torch.equal(linear.weight, plain.get_submodule(name).weight), name


def test_orders_and_propagations_differ(ids: torch.Tensor) -> None:
    """Otherwise the agreement above would prove nothing."""
    weights = []
    for order, propagate in [
        ("block", "compressed"),
        ("stage", "compressed"),
        ("block", "dense"),
        ("stage", "dense"),
    ]:
        model = tiny_model("llama")
        walk(model, Wanda(sparsity=0.5, order=order, propagate=propagate), ids)
        weights.append(torch.cat([linear.weight.flatten() for linear in block_linears(model).values()]))
    assert all(not torch.equal(one, other) for i, one in enumerate(weights) for other in weights[:i])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "settings",
    [Wanda(sparsity=0.5), Magnitude(pattern="2:4"), RTN(bits=4, group_size=16)],
    ids=lambda s: s.method,
)
def test_every_method_works_for_every_family(
    family: str, settings: MethodSettings, ids: torch.Tensor
) -> None:
    model = tiny_model(family)
    others = {
        name: value.clone()
        for name, value in model.state_dict().items()
        if name.removesuffix(".weight") not in block_linears(model)
    }
    compressed = walk(model, settings, ids)
    assert list(compressed.linears) == list(block_linears(model))
    for name, linear in block_linears(model).items():
        assert compressed.linears[name].weight.data_ptr() == linear.weight.data_ptr()
    if settings.method != "rtn":
        assert compressed.sparsity == pytest.approx(0.5)
    for name, value in others.items():
        assert torch.equal(model.state_dict()[name], value), name
    assert torch.isfinite(model(input_ids=ids).logits).all()


def test_dense_changes_nothing(ids: torch.Tensor) -> None:
    model = tiny_model("llama")
    compressed = walk(model, Dense(), None)
    assert (compressed.linears, compressed.bits_per_weight, compressed.sparsity) == ({}, 16.0, 0.0)
    assert torch.equal(model(input_ids=ids).logits, tiny_model("llama")(input_ids=ids).logits)


def test_methods_without_data_run_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    monkeypatch.setattr(model.model, "forward", None)
    walk(model, RTN(group_size=16), None)
    walk(model, Magnitude(sparsity=0.5), None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_input_gives_the_same_bits(dtype: torch.dtype, ids: torch.Tensor) -> None:
    one, two = tiny_model("qwen2", dtype=dtype), tiny_model("qwen2", dtype=dtype)
    walk(one, Wanda(sparsity=0.6), ids)
    walk(two, Wanda(sparsity=0.6), ids)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_what_is_reported(ids: torch.Tensor, listener: Listener) -> None:
    compressed = walk(tiny_model("llama"), Wanda(sparsity=0.5), ids, reporter=listener)
    assert listener.done == [(1, 3, "block"), (2, 3, "block"), (3, 3, "block")]
    assert [record.linear for record in listener.records if record.block == 1] == [
        f"model.layers.1.{name}" for names in LINEAR_GROUPS for name in names
    ]
    for record in listener.records:
        assert set(msgspec.to_builtins(record)) == {
            *(
                "kind",
                "block",
                "linear",
                "relative_error",
                "sparsity",
                "bits_per_weight",
                "weights",
                "seconds",
            )
        }
        assert record.sparsity == 0.5
        assert record.bits_per_weight == 9.0
        assert 0 < record.relative_error < 1
        assert record.seconds > 0
    assert compressed.bits_per_weight == 9.0


def test_relative_error_is_that_of_the_output(ids: torch.Tensor, listener: Listener) -> None:
    model = tiny_model("llama")
    query = model.model.layers[0].self_attn.q_proj
    dense = query.weight.detach().clone()
    with heard([query]) as inputs:
        model(input_ids=ids)
    walk(model, Wanda(sparsity=0.5), ids, reporter=listener)
    (x,) = inputs.values()
    expected = (x @ (dense - query.weight).T).norm() / (x @ dense.T).norm()
    assert listener.records[0].relative_error == pytest.approx(expected.item(), rel=1e-5)


def test_sizes_are_averaged_over_weights() -> None:
    compressed = walk(tiny_model("llama"), RTN(bits=4, group_size=0), None)
    wide = 3 * 48 * 32  # down_proj: 48 inputs; everything else has 32
    narrow = 3 * (2 * 32 * 32 + 2 * 16 * 32 + 2 * 48 * 32)
    assert compressed.bits_per_weight == pytest.approx(
        (narrow * (4 + 20 / 32) + wide * (4 + 20 / 48)) / (narrow + wide)
    )


def test_a_stop_is_noticed_between_blocks(ids: torch.Tensor, listener: Listener) -> None:
    listener.stop_after = 1
    with pytest.raises(KeyboardInterrupt):
        walk(tiny_model("llama"), Wanda(sparsity=0.5), ids, reporter=listener)
    assert listener.done == [(1, 3, "block")]


def test_hooks_are_gone_afterwards(ids: torch.Tensor) -> None:
    model = tiny_model("gpt_neox")
    walk(model, Wanda(sparsity=0.5), ids)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


class TestStatistics:
    """Methods that need the full Hessian get it once a linear group."""

    @pytest.fixture
    def shown(self, monkeypatch: pytest.MonkeyPatch) -> list[LinearGroup]:
        shown: list[LinearGroup] = []

        def look(linears: LinearGroup, settings: MethodSettings) -> list[CompressedLinear]:
            shown.append(linears)
            return [CompressedLinear(weight.clone()) for weight in linears.weights]

        monkeypatch.setattr(rtn, "compress_linears", look)
        for name, settings in (("gptq", GPTQ), ("awq", AWQ)):
            row = METHODS[name]
            monkeypatch.setitem(METHODS, name, Method(settings, METHODS["rtn"].target, row.statistics))
        return shown

    def test_one_hessian_a_linear_group(self, shown: list[LinearGroup], ids: torch.Tensor) -> None:
        model = tiny_model("llama")
        with heard([model.model.layers[2].mlp.up_proj]) as inputs:
            model(input_ids=ids)
        walk(model, GPTQ(group_size=16), ids)
        assert [linears.names for linears in shown] == [
            tuple(f"model.layers.{block}.{name}" for name in names)
            for block in range(3)
            for names in LINEAR_GROUPS
        ]
        statistics = shown[-2].statistics
        assert statistics is not None
        assert statistics.hessian is not None
        assert statistics.tokens == ids.numel()
        (x,) = inputs.values()
        torch.testing.assert_close(statistics.hessian, 2 / len(ids) * x.T @ x, rtol=1e-4, atol=1e-5)

    def test_awq_sees_mean_magnitudes_too(self, shown: list[LinearGroup], ids: torch.Tensor) -> None:
        walk(tiny_model("llama"), AWQ(group_size=16), ids)
        assert all(
            linears.statistics is not None and linears.statistics.mean_abs is not None for linears in shown
        )

    def test_too_few_tokens_for_a_hessian_are_a_warning(
        self, shown: list[LinearGroup], ids: torch.Tensor, listener: Listener
    ) -> None:
        walk(tiny_model("llama"), GPTQ(group_size=16), ids[:1], reporter=listener)
        assert listener.warnings == [
            "24 calibration tokens for linears with up to 48 inputs, fewer than twice as many: their Hessians are "
            "singular or nearly so, and damping decides much of the result"
        ]

    def test_twice_as_many_tokens_as_inputs_suffice(
        self, shown: list[LinearGroup], ids: torch.Tensor, listener: Listener
    ) -> None:
        walk(tiny_model("llama"), GPTQ(group_size=16), ids[:4], reporter=listener)  # 96 tokens
        assert listener.warnings == []
        walk(tiny_model("llama"), GPTQ(group_size=16), ids[:4, :23], reporter=listener)
        assert len(listener.warnings) == 1


class TestMethodsThatNeedTheHessian:
    @pytest.mark.parametrize(
        "settings", [GPTQ(group_size=16), SparseGPT(sparsity=0.5)], ids=lambda s: s.method
    )
    def test_in_the_order_of_linear_groups_each_sees_the_earlier_ones_compressed(
        self, settings: MethodSettings, ids: torch.Tensor
    ) -> None:
        """Group by group with the whole model, which is all of one block."""
        settings = settings.model_copy(update={"order": "stage"})
        plain = tiny_model("llama", num_hidden_layers=1)
        compress_linears = gptq.compress_linears if isinstance(settings, GPTQ) else sparsegpt.compress_linears
        with torch.no_grad():
            for names in LINEAR_GROUPS:
                linears = [plain.model.layers[0].get_submodule(name) for name in names]
                accumulator = Accumulator(frozenset({"hessian"}), ids.numel())
                handle = linears[0].register_forward_pre_hook(lambda _, args, a=accumulator: a.add(args[0]))
                for chunk in ids.split(2):
                    plain(input_ids=chunk)
                handle.remove()
                weights = tuple(linear.weight.data for linear in linears)
                shown = LinearGroup(tuple(names), weights, accumulator.finish(), weights[0].dtype)
                for linear, result in zip(linears, compress_linears(shown, settings), strict=True):
                    linear.weight.data = result.weight
        walked = tiny_model("llama", num_hidden_layers=1)
        walk(walked, settings, ids)
        for name, linear in block_linears(walked).items():
            differs = (linear.weight - plain.get_submodule(name).weight).abs() > 1e-5
            assert differs.double().mean() < 0.01, name  # a near tie may fall otherwise

    @pytest.mark.parametrize("index", [0, 1, 2])
    def test_awq_shows_every_block_what_the_dense_model_shows_it(self, index: int, ids: torch.Tensor) -> None:
        settings = AWQ(group_size=16)
        walked = walk(tiny_model("llama"), settings, ids)
        with torch.no_grad():
            block = block_input(tiny_model("llama"), "llama", ids, index=index)
            prepared = awq.scale_block(block, settings)
        for name, value in prepared.parameters.items():
            assert torch.equal(walked.parameters[name], value)
        for linears in prepared.linear_groups:
            for name, result in zip(linears.names, awq.compress_linears(linears, settings), strict=True):
                assert torch.equal(walked.linears[name].weight, result.weight), name

    def test_awq_can_show_what_the_compressed_blocks_make(self, ids: torch.Tensor) -> None:
        one, other = (
            walk(tiny_model("llama"), AWQ(group_size=16, propagate=propagate), ids).linears
            for propagate in ("dense", "compressed")
        )
        same = [name for name in one if torch.equal(one[name].weight, other[name].weight)]
        assert same == [name for name in one if ".layers.0." in name]

    def test_relative_errors_of_scaled_linears_are_those_of_their_outputs(
        self, ids: torch.Tensor, listener: Listener
    ) -> None:
        """Dense output against compressed output on the same tokens; nothing before these is rounded."""
        model, dense = tiny_model("llama"), tiny_model("llama")
        walk(model, AWQ(bits=3, group_size=16), ids, reporter=listener)
        names = ["model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj"]
        outputs = []
        for each in (dense, model):
            linears = [each.get_submodule(name) for name in names]
            with heard(linears) as inputs:
                each(input_ids=ids)
            outputs.append([inputs[linear] @ linear.weight.T for linear in linears])
        errors = {record.linear: record.relative_error for record in listener.records}
        for name, expected, mine in zip(names, *outputs, strict=True):
            assert errors[name] == pytest.approx(
                ((expected - mine).norm() / expected.norm()).item(), rel=1e-3
            )

    def test_a_pair_without_statistics_still_prunes_first(self, ids: torch.Tensor) -> None:
        settings = PruneThenQuantize(method=("magnitude", "rtn"), pattern="2:4", group_size=16)
        compressed = walk(tiny_model("llama"), settings, ids)
        for name, linear in compressed.linears.items():
            assert int(linear.weight.reshape(-1, 4).count_nonzero(dim=1).max()) <= 2, name

    @pytest.mark.parametrize(
        ("settings", "is_warned"),
        [
            (GPTQ(group_size=16), True),
            (SparseGPT(sparsity=0.5), True),
            (PruneThenQuantize(method=("wanda", "gptq"), sparsity=0.5, group_size=16), True),
            (PruneThenQuantize(method=("sparsegpt", "rtn"), sparsity=0.5, group_size=16), True),
            (PruneThenQuantize(method=("wanda", "awq"), sparsity=0.5, group_size=16, ratios=1), False),
            (AWQ(group_size=16, ratios=1), False),
            (Wanda(sparsity=0.5), False),
        ],
        ids=lambda value: "-".join(value.method) if isinstance(value, PruneThenQuantize) else None,
    )
    def test_only_methods_that_invert_a_hessian_tell_that_it_is_singular(
        self, settings: MethodSettings, is_warned: bool, ids: torch.Tensor, listener: Listener
    ) -> None:
        walk(tiny_model("llama"), settings, ids[:1], reporter=listener)
        assert any("damping decides much of the result" in line for line in listener.warnings) == is_warned

    @pytest.mark.parametrize(
        ("settings", "is_warned"),
        [
            (GPTQ(group_size=16), True),
            (PruneThenQuantize(method=("sparsegpt", "awq"), sparsity=0.5, group_size=16, ratios=1), True),
            (GPTQ(group_size=16, damping=1e-6), False),
            (PruneThenQuantize(method=("wanda", "awq"), sparsity=0.5, group_size=16, ratios=1), False),
            (AWQ(group_size=16, ratios=1), False),
        ],
        ids=str,
    )
    def test_where_damping_dominates_one_warning_names_all_linears(
        self, settings: MethodSettings, is_warned: bool, ids: torch.Tensor, listener: Listener
    ) -> None:
        """One input of q, k and v is a thousand times the others, so the mean of diag H is over 100 times its median."""
        model = tiny_model("llama", num_hidden_layers=2)
        for layer in model.model.layers:
            layer.input_layernorm.weight.data[7] *= 1e3
        walk(model, settings, ids, reporter=listener)
        warnings = [warning for warning in listener.warnings if "damping exceeds the median" in warning]
        assert len(warnings) == is_warned
        for warning in warnings:
            assert "and 2 more" in warning
            assert "`model.layers.0.self_attn.q_proj`" in warning
            assert "mlp" not in warning

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize(
        "settings",
        [
            SparseGPT(sparsity=0.6),
            GPTQ(bits=3, group_size=16, act_order=True),
            AWQ(bits=3, group_size=16),
            PruneThenQuantize(method=("sparsegpt", "gptq"), sparsity=0.5, group_size=16),
        ],
        ids=lambda s: "-".join([*([s.method] if isinstance(s.method, str) else s.method)]),
    )
    def test_the_same_input_gives_the_same_bits_with_any_number_of_threads_in_sweeps(
        self,
        settings: MethodSettings,
        dtype: torch.dtype,
        ids: torch.Tensor,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        one, two = tiny_model("qwen2", dtype=dtype), tiny_model("qwen2", dtype=dtype)
        walk(one, settings, ids)
        monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
        walk(two, settings, ids)
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


class TestErrors:
    def test_sizes_that_do_not_divide_are_all_named_before_anything_runs(self) -> None:
        with pytest.raises(StepError) as caught:
            walk(tiny_model("llama"), RTN(group_size=20), None)
        problems = [problem.what for problem in caught.value.problems]
        assert problems == [
            "group_size 20 does not divide the 32 inputs of `model.layers.0.self_attn.q_proj`, "
            "`model.layers.0.self_attn.k_proj`, `model.layers.0.self_attn.v_proj`, `model.layers.0.self_attn.o_proj` "
            "and 14 more",
            "group_size 20 does not divide the 48 inputs of `model.layers.0.mlp.down_proj`, "
            "`model.layers.1.mlp.down_proj`, `model.layers.2.mlp.down_proj`",
        ]

    def test_a_pattern_that_does_not_divide(self) -> None:
        with pytest.raises(StepError, match="pattern 3:5 does not divide the 32 inputs"):
            walk(tiny_model("llama"), Magnitude(pattern="3:5"), None)

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
    def test_weights_that_are_not_finite(self, value: float) -> None:
        model = tiny_model("llama")
        model.model.layers[1].mlp.up_proj.weight.data[3, 4] = value
        with pytest.raises(StepError, match=r"weights are not finite in `model\.layers\.1\.mlp\.up_proj`"):
            walk(model, RTN(group_size=16), None)

    def test_activations_that_overflow(self, ids: torch.Tensor) -> None:
        model = tiny_model("llama")
        model.model.layers[1].post_attention_layernorm.weight.data[:] = float("inf")
        with pytest.raises(
            StepError, match=r"activations that reach `model\.layers\.1\.mlp\.gate_proj`.* not finite"
        ):
            walk(model, Wanda(sparsity=0.5), ids)

    def test_no_calibration_ids(self, ids: torch.Tensor) -> None:
        with pytest.raises(StepError, match="`wanda` needs calibration ids"):
            walk(tiny_model("llama"), Wanda(sparsity=0.5), None)
        with pytest.raises(StepError, match="no token to calibrate with"):
            walk(tiny_model("llama"), Wanda(sparsity=0.5), ids[:0])

    def test_a_method_without_implementation(
        self, ids: torch.Tensor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(METHODS, "gptq", Method(GPTQ, None))
        with pytest.raises(StepError, match="`gptq` has no implementation"):
            walk(tiny_model("llama"), GPTQ(group_size=16), ids)

    def test_a_result_that_is_not_finite_fails(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            rtn, "compress_linears", lambda linears, _: [CompressedLinear(linears.weights[0] * float("inf"))]
        )
        with pytest.raises(StepError, match=r"`rtn` made weights of `model\.layers\.0\.self_attn\.q_proj`"):
            walk(tiny_model("llama"), RTN(group_size=16), None)


class TestHardInputs:
    """Nothing here may fail, or make weights that are not finite."""

    @pytest.mark.parametrize(
        "settings",
        [
            Wanda(sparsity=0.0),
            Wanda(sparsity=0.99),
            Wanda(pattern="1:16"),
            Magnitude(sparsity=0.0),
            Magnitude(sparsity=0.99),
            RTN(bits=2, group_size=1),
            RTN(bits=2, group_size=0),
            RTN(bits=8, group_size=16, symmetric=True),
        ],
        ids=lambda s: "-".join([s.method, *s.name_parts()]),
    )
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_extreme_settings_on_weights_with_outliers(
        self, settings: MethodSettings, dtype: torch.dtype, ids: torch.Tensor
    ) -> None:
        model = tiny_model("llama", dtype=dtype)
        for linear in block_linears(model).values():
            linear.weight.data[0, 0] = 1e4
        walk(model, settings, ids)
        assert all(torch.isfinite(linear.weight).all() for linear in block_linears(model).values())

    @pytest.mark.parametrize(
        "ids",
        [
            pytest.param(torch.full((1, 1), 5), id="one token"),
            pytest.param(torch.full((4, 8), 5), id="one token again and again"),
            pytest.param(torch.arange(24)[None], id="one sample"),
        ],
    )
    def test_little_calibration(self, ids: torch.Tensor) -> None:
        compressed = walk(tiny_model("llama"), Wanda(sparsity=0.5), ids, batch_tokens=1)
        assert compressed.sparsity == 0.5

    def test_activations_that_are_all_zero(self, ids: torch.Tensor) -> None:
        model = tiny_model("llama")
        model.model.embed_tokens.weight.data.zero_()
        assert walk(model, Wanda(sparsity=0.5), ids).sparsity == 0.5

    def test_sparsity_zero_keeps_every_weight(self, ids: torch.Tensor) -> None:
        model = tiny_model("llama")
        walk(model, Magnitude(sparsity=0.0), None)
        walk(model, Wanda(sparsity=0.0), ids)
        for one, other in zip(model.parameters(), tiny_model("llama").parameters(), strict=True):
            assert torch.equal(one, other)


def test_blocks_visit_the_device_one_at_a_time(ids: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a device given, each block goes there and comes back before the next one goes."""
    model, moves = tiny_model("llama"), []
    blocks = decoder_blocks(model)

    def to(module: nn.Module, device: torch.device) -> nn.Module:
        moves.append(next(block.index for block in blocks if block.module is module))
        return module

    monkeypatch.setattr(nn.Module, "to", to)
    walk(model, Wanda(sparsity=0.5), ids, device="cpu")
    assert moves == [0, 0, 1, 1, 2, 2]
