"""AWQ: scales that leave the function alone, losses that are what they are said to be, ranges that err least."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from studyctl.compress.quantize import awq, grid
from studyctl.compress.quantize.grid import dequantize, grid_of, round_to_codes
from studyctl.compress.quantize.rtn import round_to_nearest
from studyctl.compress.walk.architectures import FAMILIES, block_linears
from studyctl.compress.walk.walker import compress
from studyctl.compress.weights.compressed import BlockInput, LinearGroup, PreparedBlock
from studyctl.contract.methods import AWQ, RTN
from studyctl.reporter import SilentReporter
from tests.compress.cases import (
    block_input,
    correlated,
    linear_group,
    on_its_grid,
    output_error,
    random,
    statistics,
)
from tests.compress.tiny import Listener, tiny_model

SETTINGS = AWQ(bits=3, group_size=16)


def hessian_per_token(x: torch.Tensor) -> torch.Tensor:
    return 2 / len(x) * x.T @ x


def rounded_with(weight: torch.Tensor, scales: torch.Tensor, settings: AWQ) -> torch.Tensor:
    """Q(W · s) / s, by rounding to nearest."""
    return round_to_nearest(weight * scales, settings, torch.float32).weight / scales


def clipped(weight: torch.Tensor, hessian: torch.Tensor, settings: AWQ, dtype: torch.dtype) -> torch.Tensor:
    """The weight within the limits that the search finds."""
    clips = awq.clip_limits(weight, hessian, settings, dtype)
    return grid.within(weight.reshape(*clips.shape, -1), clips[..., None]).reshape(weight.shape)


def candidates(x: torch.Tensor, count: int = 20) -> list[torch.Tensor]:
    """x̄^α for α = 0, 1/count, ..., by the paper's code, from the linears' inputs."""
    mean = x.double().abs().mean(0)
    tried = []
    for index in range(count):
        scales = mean.pow(index / count).clamp(min=1e-4)
        tried.append((scales / (scales.max() * scales.min()).sqrt()).float())
    return tried


def inputs_of(block: BlockInput, one: LinearGroup) -> torch.Tensor:
    """What the linears read while the dense block runs, ``[tokens, in]``."""
    heard: list[torch.Tensor] = []
    handle = block.block.linears[one.names[0]].register_forward_pre_hook(
        lambda _, args: heard.append(args[0].flatten(0, 1))
    )
    for chunk in range(len(block.activations.hidden)):
        block.activations.forward(block.block, chunk)
    handle.remove()
    return torch.cat(heard)


def chosen_scales(dense: LinearGroup, scaled: LinearGroup) -> torch.Tensor:
    """The scale by which the columns of linears were multiplied, from the first row, which never absorbs another scale."""
    return scaled.weights[0][0] / dense.weights[0][0]


def put(model: Any, prepared: PreparedBlock) -> None:
    for one in prepared.linear_groups:
        for name, weight in zip(one.names, one.weights, strict=True):
            model.get_parameter(f"{name}.weight").data = weight
    for name, value in prepared.parameters.items():
        model.get_parameter(name).data.copy_(value)


class TestScaling:
    @pytest.mark.parametrize("heads", [2, 4])
    @pytest.mark.parametrize("family", sorted(FAMILIES))
    @torch.no_grad()
    def test_before_anything_is_rounded_the_model_is_what_it_was(
        self, family: str, heads: int, ids: torch.Tensor
    ) -> None:
        model = tiny_model(family, num_key_value_heads=heads)
        scaled, changed = copy.deepcopy(model), 0
        for index in range(3):
            block = block_input(model, family, ids, index=index)
            prepared = awq.scale_block(block, SETTINGS)
            put(scaled, prepared)
            changed += len(prepared.parameters)
        expected = model(input_ids=ids).logits
        assert (scaled(input_ids=ids).logits - expected).norm() / expected.norm() < 1e-5
        # Two norms a block, but where norms come after; and qwen2's bias of v where it absorbs.
        count = 0 if family == "olmo2" else 6 + 3 * (family == "qwen2" and heads == 4)
        assert changed == count

    @pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3_text", "qwen3"])
    @torch.no_grad()
    def test_a_16_bit_model_too_for_weights_make_up_for_its_rounded_norms(
        self, family: str, ids: torch.Tensor
    ) -> None:
        """Norms are rounded to bfloat16, weights are still fp32: the function is that of the dense weights in fp32."""
        model = tiny_model(family, dtype=torch.bfloat16)
        scaled = copy.deepcopy(model).float()
        for index in range(3):
            prepared = awq.scale_block(block_input(model, family, ids, index=index), SETTINGS)
            assert all(value.dtype == torch.bfloat16 for value in prepared.parameters.values())
            put(scaled, prepared)
        expected = model.float()(input_ids=ids).logits
        assert (scaled(input_ids=ids).logits - expected).norm() / expected.norm() < 1e-5

    @torch.no_grad()
    def test_the_model_is_left_alone(self, ids: torch.Tensor) -> None:
        model = tiny_model("llama", num_key_value_heads=4)
        block = block_input(model, "llama", ids)
        for objective in ("linear", "block"):
            awq.scale_block(block, AWQ(group_size=16, objective=objective))
        dense = tiny_model("llama", num_key_value_heads=4)
        for one, other in zip(model.parameters(), dense.parameters(), strict=True):
            assert torch.equal(one, other)

    @torch.no_grad()
    def test_statistics_become_those_of_the_scaled_inputs(self, ids: torch.Tensor) -> None:
        block = block_input(tiny_model("llama"), "llama", ids)
        before = [inputs_of(block, one) for one in block.linear_groups]
        prepared = awq.scale_block(block, SETTINGS)
        for x, dense, scaled in zip(before, block.linear_groups, prepared.linear_groups, strict=True):
            scales = chosen_scales(dense, scaled)
            seen = scaled.statistics
            assert seen is not None
            assert seen.hessian is not None
            assert seen.norm is not None
            assert seen.mean_abs is not None
            small = x / scales
            torch.testing.assert_close(seen.hessian, 2 / len(ids) * small.T @ small, rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(seen.mean_abs, small.abs().mean(0), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(
                seen.norm, (small.square().sum(0) / len(ids)).sqrt(), rtol=1e-4, atol=1e-5
            )
            torch.testing.assert_close(seen.sample, small, rtol=1e-4, atol=1e-5)


class TestScales:
    def test_by_hand(self) -> None:
        """The square roots of 16, 4, 1 are 4, 2, 1, and the product of the largest and the smallest becomes 1."""
        assert awq.scales_of(torch.tensor([16.0, 4.0, 1.0]), 0.5).tolist() == [2.0, 1.0, 0.5]

    def test_without_exponent_all_are_one(self) -> None:
        assert awq.scales_of(torch.tensor([16.0, 0.0, 1e-9]), 0.0).tolist() == [1.0, 1.0, 1.0]

    def test_a_dead_input_has_scale_one_and_no_part_in_the_others(self) -> None:
        assert awq.scales_of(torch.tensor([16.0, 0.0, 1.0]), 0.5).tolist() == [2.0, 1.0, 0.5]
        weights = torch.tensor([0.25, 1e-6, 0.5])
        live = awq.scales_of(torch.tensor([16.0, 1.0]), 0.5, weights[[0, 2]])
        scales = awq.scales_of(torch.tensor([16.0, 0.0, 1.0]), 0.5, weights)
        assert scales.tolist() == [live[0].item(), 1.0, live[1].item()]

    def test_without_a_live_input_all_are_one(self) -> None:
        assert awq.scales_of(torch.zeros(3), 0.95).tolist() == [1.0, 1.0, 1.0]

    @pytest.mark.parametrize("size", [1e-25, 1e-12, 1e-5, 1e8])
    def test_the_unit_of_activations_does_not_matter(self, size: float) -> None:
        """Only how they compare: 8 / 2^0.95 … in any unit."""
        mean = torch.tensor([16.0, 4.0, 1.0, 0.0])
        torch.testing.assert_close(awq.scales_of(mean * size, 0.95), awq.scales_of(mean, 0.95))

    def test_scales_stay_within_ten_thousand(self) -> None:
        assert awq.scales_of(torch.tensor([1e12, 1.0, 1e-12]), 0.5).tolist() == pytest.approx(
            [1e4, 1.0, 1e-4]
        )

    def test_the_weight_term_divides(self) -> None:
        """x̄^α / w̄^(1−α): 4 / (0.25 + 1e-4) and 2 / (1 + 1e-4)."""
        scales = awq.scales_of(torch.tensor([16.0, 4.0]), 0.5, torch.tensor([0.0625, 1.0]))
        first, second = 4 / 0.2501, 2 / 1.0001
        middle = (first * second) ** 0.5
        assert scales.tolist() == pytest.approx([first / middle, second / middle])

    def test_weight_means_are_fractions_of_the_groups_largest(self) -> None:
        weights = torch.tensor([[1.0, -2.0, 3.0, 0.0], [4.0, 0.0, 1.0, -1.0]])
        expected = [(0.5 + 1) / 2, (1 + 0) / 2, (1 + 1) / 2, (0 + 1) / 2]
        assert awq.weight_means((weights,), 2).tolist() == pytest.approx(expected, rel=1e-5)
        assert awq.weight_means((weights[:1], weights[1:]), 2).tolist() == pytest.approx(expected, rel=1e-5)
        whole = [(1 / 3 + 1) / 2, (2 / 3 + 0) / 2, (1 + 0.25) / 2, 0.25 / 2]
        assert awq.weight_means((weights,), 0).tolist() == pytest.approx(whole, rel=1e-5)


class TestTheLossOfLinears:
    @pytest.mark.parametrize("bits", [2, 3, 4, 8])
    @pytest.mark.parametrize("group_size", [0, 8])
    @pytest.mark.parametrize("symmetric", [False, True])
    def test_it_is_the_measured_output_error(self, bits: int, group_size: int, symmetric: bool) -> None:
        settings = AWQ(bits=bits, group_size=group_size, symmetric=symmetric)
        weights, x = (random(20, 32), random(7, 32, seed=1)), correlated(200, 32)
        tried = candidates(x)
        losses = awq.linear_losses(weights, hessian_per_token(x), settings, torch.float32, tried)
        for loss, scales in zip(losses, tried, strict=True):
            measured = sum(output_error(w, rounded_with(w, scales, settings), x) for w in weights)
            assert loss == pytest.approx(measured, rel=1e-4)

    def test_it_does_not_matter_how_many_rows_are_tried_at_once(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        weights, x = (random(20, 32), random(7, 32, seed=1)), correlated(200, 32)
        arguments = (weights, hessian_per_token(x), SETTINGS, torch.float32, candidates(x))
        at_once = awq.linear_losses(*arguments)
        monkeypatch.setattr(grid, "ROW_BLOCK", 3 * 32)
        assert awq.linear_losses(*arguments) == pytest.approx(at_once, rel=1e-5)


class TestTheSearch:
    """Every choice is the best of every other candidate and of those beside it, by a measurement of its own."""

    @pytest.mark.parametrize("family", ["llama", "phi3", "gemma2"])
    @torch.no_grad()
    def test_linear_takes_the_smallest_error_of_the_linears_outputs(
        self, family: str, ids: torch.Tensor
    ) -> None:
        block = block_input(tiny_model(family, num_key_value_heads=4), family, ids)
        inputs = [inputs_of(block, one) for one in block.linear_groups]
        prepared = awq.scale_block(block, SETTINGS)
        for x, dense, scaled in zip(inputs, block.linear_groups, prepared.linear_groups, strict=True):
            measured = [
                sum(output_error(w, rounded_with(w, scales, SETTINGS), x) for w in dense.weights)
                for scales in candidates(x)
            ]
            self.is_best(chosen_scales(dense, scaled), candidates(x), measured)

    @pytest.mark.parametrize("family", ["llama", "phi3", "gemma2"])
    @torch.no_grad()
    def test_block_takes_the_smallest_error_of_the_whole_attention_or_mlp(
        self, family: str, ids: torch.Tensor
    ) -> None:
        """What a projection makes goes through the rest of its module; the last one's output is the module's."""
        model = tiny_model(family, num_key_value_heads=4)
        block, settings = block_input(model, family, ids), AWQ(bits=3, group_size=16, objective="block")
        inputs = [inputs_of(block, one) for one in block.linear_groups]
        prepared = awq.scale_block(block, settings)
        for x, dense, scaled in zip(inputs, block.linear_groups, prepared.linear_groups, strict=True):
            measured = [module_error(block, dense, scales, settings) for scales in candidates(x)]
            self.is_best(chosen_scales(dense, scaled), candidates(x), measured)

    @torch.no_grad()
    def test_the_two_do_not_always_choose_alike(self, ids: torch.Tensor) -> None:
        """Otherwise one could stand for the other; projections that are fused into one linear are no exception."""
        for family in ("llama", "phi3"):
            model, differ = tiny_model(family), 0
            for index in range(3):
                parameters = []
                for objective in ("linear", "block"):
                    block = block_input(model, family, ids, index=index)
                    settings = AWQ(bits=3, group_size=16, objective=objective)
                    parameters.append(awq.scale_block(block, settings).parameters)
                one, other = parameters
                differ += sum(not torch.equal(one[name], other[name]) for name in one)
            assert differ > 0, family

    @staticmethod
    def is_best(chosen: torch.Tensor, tried: list[torch.Tensor], measured: list[float]) -> None:
        distances = [float((chosen / scales - 1).abs().max()) for scales in tried]
        nearest = min(range(len(tried)), key=distances.__getitem__)
        assert distances[nearest] < 1e-4
        looked_at = measured[::2] + measured[max(nearest - 1, 0) : nearest + 2]
        assert measured[nearest] <= min(looked_at if nearest % 2 == 0 else measured[::2]) * (1 + 1e-4)

    @torch.no_grad()
    def test_one_ratio_is_no_scaling(self, ids: torch.Tensor) -> None:
        block = block_input(tiny_model("llama"), "llama", ids)
        prepared = awq.scale_block(block, AWQ(group_size=16, ratios=1))
        for dense, scaled in zip(block.linear_groups, prepared.linear_groups, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(dense.weights, scaled.weights, strict=True))

    def test_the_weight_term_changes_the_choice(self, ids: torch.Tensor) -> None:
        one, other = (
            awq.scale_block(
                block_input(tiny_model("llama"), "llama", ids), AWQ(group_size=16, weight_term=weight_term)
            )
            for weight_term in (False, True)
        )
        assert any(not torch.equal(one.parameters[name], other.parameters[name]) for name in one.parameters)


class TestScalesThatLeaveTheDtype:
    """A model whose function fits fp16: small norms and large weights after them, or the other way round."""

    @staticmethod
    def rescaled(gain: float, dtype: torch.dtype, dead: tuple[int, ...] = ()) -> Any:
        """The norms times a gain, the linears after them divided by it."""
        model = tiny_model("llama", num_key_value_heads=4)
        for layer in model.model.layers:
            for norm, linears in (
                (layer.input_layernorm, [layer.self_attn.get_submodule(f"{name}_proj") for name in "qkv"]),
                (layer.post_attention_layernorm, [layer.mlp.gate_proj, layer.mlp.up_proj]),
            ):
                norm.weight.data *= gain
                norm.weight.data[list(dead)] = 0
                for linear in linears:
                    linear.weight.data /= gain
        return model.to(dtype)

    @pytest.mark.parametrize("objective", ["linear", "block"])
    @pytest.mark.parametrize("weight_term", [False, True])
    @pytest.mark.parametrize("gain", [1e-4, 1.0, 1e3])
    @torch.no_grad()
    def test_fp16_errs_hardly_more_than_fp32(
        self, gain: float, weight_term: bool, objective: Any, ids: torch.Tensor
    ) -> None:
        """Two dead inputs, as in the paper's code they would count as 1e-4, drive no scale."""
        settings = AWQ(group_size=16, ratios=6, objective=objective, weight_term=weight_term)
        expected = self.rescaled(gain, torch.float32, dead=(3, 17))(input_ids=ids).logits.log_softmax(-1)
        divergences = []
        for dtype in (torch.float32, torch.float16):
            model = self.rescaled(gain, dtype, dead=(3, 17))
            compress(model, settings, ids, batch_tokens=48, reporter=SilentReporter())
            logits = model(input_ids=ids).logits.float().log_softmax(-1)
            divergences.append(float((expected.exp() * (expected - logits)).sum(-1).mean()))
        assert divergences[1] < 1.5 * divergences[0]

    @torch.no_grad()
    def test_only_exponents_that_fit_are_candidates_and_zero_always_is(self, ids: torch.Tensor) -> None:
        """One weight of 3e4 allows no scale over 1.09 in fp16: half of its largest number is 32,752."""
        model = tiny_model("llama", dtype=torch.float16)
        block = block_input(model, "llama", ids)
        group = block.linear_groups[0]
        assert group.statistics is not None
        assert group.statistics.mean_abs is not None
        most = int(group.statistics.mean_abs.argmax())
        group.weights[0][5, most] = 3e4
        scales = [scale[most] for scale in candidates_of(block)]
        assert 1 < len(scales) < 20
        assert all(scale <= 1.0917 for scale in scales)
        group.weights[0][5, most] = 6e4
        (only,) = candidates_of(block)
        assert only.tolist() == [1.0] * 32

    @torch.no_grad()
    def test_inputs_that_would_overflow_are_no_candidates(self, ids: torch.Tensor) -> None:
        """The rarest and largest input is as large as fp16 allows; a scale below 1 would double it."""
        block = block_input(tiny_model("llama", dtype=torch.float16), "llama", ids)
        group = block.linear_groups[0]
        assert group.statistics is not None
        assert group.statistics.peak is not None
        assert group.statistics.mean_abs is not None
        assert len(candidates_of(block)) == 20
        group.statistics.peak[int(group.statistics.mean_abs.argmin())] = 32_000.0
        assert all(scale.min() > 32_000 / 32_752 for scale in candidates_of(block))


def candidates_of(block: BlockInput) -> list[torch.Tensor]:
    """The scales that the search has to choose from for the block's first linears."""
    group = block.linear_groups[0]
    assert group.absorber is not None
    return list(awq._candidates(block, group, group.absorber, AWQ(group_size=16), {}).values())


def module_error(block: BlockInput, one: LinearGroup, scales: torch.Tensor, settings: AWQ) -> float:
    """Run a copy of the block with the linears' weights rounded; return the squared change of its module's output."""
    module = copy.deepcopy(block.block.module)
    own = one.names[0].removeprefix(f"{block.block.name}.")
    parent = own.rpartition(".")[0]
    # The last linear of a module is judged by its own output, which is the module's.
    heard = module.get_submodule(own if own.endswith(("o_proj", "down_proj")) else parent)
    outputs: list[torch.Tensor] = []
    heard.register_forward_hook(
        lambda _, __, output: outputs.append(output[0] if isinstance(output, tuple) else output)
    )

    def run() -> list[torch.Tensor]:
        outputs.clear()
        for chunk, hidden in enumerate(block.activations.hidden):
            call = block.activations.calls[chunk][block.block.index]
            module(hidden, *call.args, **call.kwargs)
        return list(outputs)

    dense = run()
    for name, weight in zip(one.names, one.weights, strict=True):
        linear = module.get_submodule(name.removeprefix(f"{block.block.name}."))
        assert isinstance(linear, nn.Linear)
        linear.weight.data = rounded_with(weight, scales, settings)
    return sum((a - b).double().square().sum().item() for a, b in zip(dense, run(), strict=True))


class TestClipping:
    @pytest.mark.parametrize("bits", [2, 3, 4])
    @pytest.mark.parametrize("group_size", [0, 8])
    @pytest.mark.parametrize("symmetric", [False, True])
    def test_every_group_errs_as_little_as_any_of_ten_limits_allows(
        self, bits: int, group_size: int, symmetric: bool
    ) -> None:
        settings = AWQ(bits=bits, group_size=group_size, symmetric=symmetric)
        weight, x = random(12, 32), correlated(200, 32)
        weight[3, 5] = 8.0
        cut = clipped(weight, hessian_per_token(x), settings, torch.float32)
        size = group_size or 32
        for start in range(0, 32, size):
            part = slice(start, start + size)
            for row in range(12):
                group = weight[row : row + 1, part]
                limits = [
                    torch.tensor(torch.inf),
                    *(group.abs().max() * (1 - step / 20) for step in range(1, 10)),
                ]
                errors = [
                    # Not quite symmetric: else the lower end is halfway between two codes.
                    self.group_error(group, group.clamp(-limit, limit * (1 - 2.0**-18)), x[:, part], settings)
                    for limit in limits
                ]
                mine = self.group_error(group, cut[row : row + 1, part], x[:, part], settings)
                assert mine <= min(errors) * (1 + 1e-3)
                assert mine <= errors[0] * (1 + 1e-6)  # not clipped

    @staticmethod
    def group_error(dense: torch.Tensor, cut: torch.Tensor, x: torch.Tensor, settings: AWQ) -> float:
        grid = grid_of(cut, settings.bits, symmetric=settings.symmetric, dtype=torch.float32)
        codes = round_to_codes(cut, grid.scales[:, None], grid.zero_point[:, None], settings.bits)
        return output_error(dense, dequantize(codes, grid.scales[:, None], grid.zero_point[:, None]), x)

    def test_an_outlier_whose_input_is_dead_is_cut_off(self) -> None:
        """It costs nothing there, and half the range is twice as fine for the others."""
        weight, x = random(1, 16).clamp(-1, 1), correlated(100, 16)
        weight[0, 4], x[:, 4] = 10.0, 0
        cut = clipped(weight, hessian_per_token(x), AWQ(bits=3, group_size=16), torch.float32)
        assert cut[0, 4] < 10.0
        rest = torch.arange(16) != 4
        assert torch.equal(cut[0, rest], weight[0, rest])

    def test_weights_on_the_grid_are_not_clipped(self) -> None:
        weight = torch.arange(16.0)[None] - 5
        cut = clipped(weight, torch.eye(16), AWQ(bits=4, group_size=16), torch.float32)
        assert torch.equal(cut, weight)

    def test_a_group_of_zeros_stays(self) -> None:
        cut = clipped(torch.zeros(2, 8), torch.eye(8), AWQ(group_size=8), torch.float32)
        assert not cut.any()

    def test_it_does_not_matter_how_many_rows_are_tried_at_once(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        weight, hessian = random(20, 32), hessian_per_token(correlated(100, 32))
        at_once = clipped(weight, hessian, SETTINGS, torch.float32)
        monkeypatch.setattr(grid, "ROW_BLOCK", 3 * 32)
        assert torch.equal(clipped(weight, hessian, SETTINGS, torch.float32), at_once)

    def test_what_is_beyond_the_limits_is_cut_off_before_the_grid_is_laid(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        weight, hessian = random(20, 32), hessian_per_token(correlated(100, 32))
        clips = awq.clip_limits(weight, hessian, SETTINGS, torch.float32)
        cut = round_to_nearest(clipped(weight, hessian, SETTINGS, torch.float32), SETTINGS, torch.float32)
        monkeypatch.setattr(grid, "ROW_BLOCK", 3 * 32)  # however many rows are rounded at once
        by_limits = round_to_nearest(weight, SETTINGS, torch.float32, clips)
        assert torch.equal(by_limits.weight, cut.weight)

    @pytest.mark.parametrize(
        ("name", "is_clipped"),
        [
            ("model.layers.0.self_attn.q_proj", False),
            ("model.layers.0.self_attn.k_proj", False),
            ("model.layers.0.self_attn.qkv_proj", False),
            ("gpt_neox.layers.0.attention.query_key_value", False),
            ("model.layers.0.self_attn.v_proj", True),
            ("model.layers.0.self_attn.o_proj", True),
            ("model.decoder.layers.0.self_attn.out_proj", True),
            ("model.layers.0.mlp.gate_up_proj", True),
            ("model.layers.0.mlp.down_proj", True),
        ],
    )
    def test_queries_and_keys_are_not_clipped(self, name: str, is_clipped: bool) -> None:
        weight, x = random(8, 32), correlated(100, 32)
        seen = LinearGroup((name,), (weight,), statistics(x), torch.float32)
        (result,) = awq.compress_linears(seen, SETTINGS)
        nearest = round_to_nearest(weight, SETTINGS, torch.float32)
        assert torch.equal(result.weight, nearest.weight) != is_clipped
        assert on_its_grid(result, 3)

    def test_it_can_be_left_out(self) -> None:
        weight, x = random(8, 32), correlated(100, 32)
        (result,) = awq.compress_linears(
            linear_group(weight, seen=statistics(x)), AWQ(group_size=16, clip=False)
        )
        assert torch.equal(result.weight, round_to_nearest(weight, RTN(group_size=16), torch.float32).weight)

    def test_limits_are_those_of_the_grid_that_follows(self) -> None:
        """What is clipped to ±1 is rounded on the grid from −1 to 1."""
        grid = grid_of(torch.tensor([-1.0, 1.0]), 3, symmetric=False, dtype=torch.float32)
        (result,) = awq.compress_linears(
            linear_group(torch.tensor([[-1.0, 1.0, 0.3, -0.2]]), seen=statistics(torch.eye(4))),
            AWQ(bits=3, group_size=4, clip=False),
        )
        assert result.scales is not None
        assert torch.equal(result.scales[0, 0], grid.scales)


class TestTheWholeModel:
    @pytest.mark.parametrize("objective", ["linear", "block"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("family", ["llama", "qwen2", "phi3", "olmo2", "opt"])
    def test_without_scales_and_clipping_it_is_rounding_to_nearest(
        self, family: str, dtype: torch.dtype, objective: Any, ids: torch.Tensor
    ) -> None:
        one, other = tiny_model(family, dtype=dtype), tiny_model(family, dtype=dtype)
        settings = AWQ(group_size=16, ratios=1, clip=False, objective=objective)
        compress(one, settings, ids, batch_tokens=48, reporter=SilentReporter())
        compress(other, RTN(group_size=16), None, batch_tokens=48, reporter=SilentReporter())
        for name, parameter in one.named_parameters():
            assert torch.equal(parameter, other.get_parameter(name)), name

    @torch.no_grad()
    def test_it_errs_less_than_rounding_to_nearest(self, ids: torch.Tensor) -> None:
        """The embeddings get channels of very different sizes, as real models have."""
        errors = {}
        for settings in (RTN(bits=3, group_size=16), AWQ(bits=3, group_size=16, clip=False), SETTINGS):
            model = tiny_model("llama")
            model.model.layers[0].input_layernorm.weight *= torch.linspace(0.1, 10, 32)
            model.model.layers[1].post_attention_layernorm.weight *= torch.linspace(10, 0.1, 32)
            expected = model(input_ids=ids).logits
            compress(model, settings, ids, batch_tokens=48, reporter=SilentReporter())
            errors[settings.method, getattr(settings, "clip", False)] = (
                (model(input_ids=ids).logits - expected).norm().item()
            )
        assert errors["awq", True] < errors["rtn", False]
        assert errors["awq", False] < errors["rtn", False]

    def test_what_absorbed_is_part_of_the_result(self, ids: torch.Tensor) -> None:
        model = tiny_model("qwen2", num_key_value_heads=4)
        before = {name: value.clone() for name, value in model.named_parameters()}
        compressed = compress(model, SETTINGS, ids, batch_tokens=48, reporter=SilentReporter())
        linears = {f"{name}.weight" for name in block_linears(model)}
        changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
        assert changed - linears <= set(compressed.parameters)  # a scale of 1 changes nothing
        assert set(compressed.parameters) == {
            f"model.layers.{block}.{name}"
            for block in range(3)
            for name in ("input_layernorm.weight", "post_attention_layernorm.weight", "self_attn.v_proj.bias")
        }
        for name, value in compressed.parameters.items():
            assert value.data_ptr() == model.get_parameter(name).data_ptr()

    @pytest.mark.parametrize(
        ("family", "changes", "linear_groups"),
        [
            ("llama", {"num_key_value_heads": 4}, []),
            ("llama", {}, []),  # heads share values: the paper's code scales nothing before `o_proj` either
            (
                "olmo2",
                {},
                [
                    "`self_attn.q_proj`, `self_attn.k_proj`, `self_attn.v_proj`",
                    "`mlp.gate_proj`, `mlp.up_proj`",
                ],
            ),
            (
                "gpt_neox",
                {},
                [
                    "`attention.query_key_value`",
                    "`attention.dense`",
                    "`mlp.dense_h_to_4h`",
                    "`mlp.dense_4h_to_h`",
                ],
            ),
        ],
    )
    def test_what_is_only_clipped_is_told_once_for_all_blocks(
        self, family: str, changes: dict[str, Any], linear_groups: list[str], ids: torch.Tensor
    ) -> None:
        listener = Listener()
        model = tiny_model(family, **changes)
        compress(model, SETTINGS, ids, batch_tokens=48, reporter=listener)
        assert sorted(listener.warnings) == sorted(
            f"nothing before {names} can take over a scale exactly: there awq only clips ranges, in every block"
            for names in linear_groups
        )

    @pytest.mark.parametrize("family", ["gpt_neox", "opt", "falcon", "bloom"])
    def test_families_without_absorbers_keep_their_norms(self, family: str, ids: torch.Tensor) -> None:
        model, dense = tiny_model(family), tiny_model(family)
        compressed = compress(model, SETTINGS, ids, batch_tokens=48, reporter=SilentReporter())
        assert compressed.parameters == {}
        linears = {f"{name}.weight" for name in block_linears(model)}
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, dense.get_parameter(name)) == (name not in linears), name
