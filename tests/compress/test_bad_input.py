"""What would break a careless implementation: the result is finite and sane, or an error says which linear it was."""

from typing import Any

import pytest
import torch

from studyctl.compress.walk.architectures import block_linears, decoder_blocks
from studyctl.compress.walk.walker import compress
from studyctl.compress.weights.compressed import Compressed
from studyctl.contract.methods import (
    AWQ,
    GPTQ,
    MethodSettings,
    PruneThenQuantize,
    SparseGPT,
    Wanda,
)
from studyctl.errors import StepError
from studyctl.reporter import Reporter

from .cases import on_its_grid
from .tiny import Listener, tiny_model

METHODS: dict[str, MethodSettings] = {
    "wanda": Wanda(sparsity=0.5),
    "sparsegpt": SparseGPT(sparsity=0.5, block_size=20),
    "sparsegpt-2:4": SparseGPT(pattern="2:4"),
    "gptq": GPTQ(bits=3, group_size=16),
    "gptq-act-order": GPTQ(bits=3, group_size=16, act_order=True),
    "gptq-symmetric": GPTQ(bits=4, group_size=0, symmetric=True, static_groups=True),
    "awq": AWQ(bits=3, group_size=16, ratios=5),
    "awq-block": AWQ(bits=3, group_size=16, objective="block", ratios=5),
    "sparsegpt+gptq": PruneThenQuantize(method=("sparsegpt", "gptq"), sparsity=0.5, group_size=16),
    "sparsegpt+awq": PruneThenQuantize(method=("sparsegpt", "awq"), pattern="2:4", group_size=16, ratios=5),
}
LINEAR = r"`model\.layers\.\d\.(self_attn|mlp)\.\w+`"


def two_blocks(**changes: Any) -> Any:
    return tiny_model("llama", num_hidden_layers=2, **changes)


def walk(
    model: Any, settings: MethodSettings, ids: torch.Tensor, reporter: Reporter | None = None
) -> Compressed:
    return compress(model, settings, ids, batch_tokens=48, reporter=reporter or Listener())


def check(model: Any, compressed: Compressed, listener: Listener, *, largest: float = 0.0) -> None:
    """Finite, on its grid where it has one, no weight beyond what the dense ones explain, and pruned as was asked for.

    Args:
        model: compressed.
        compressed: the result.
        listener: with the warnings and records of the walk.
        largest: a bound for the weights; 0: some times the largest of the tiny models, and with awq, whose scales a
            dead input stretches a hundredfold, a hundred times that.
    """
    settings = compressed.settings
    largest = largest or (1e3 if "awq" in settings.method else 10.0)
    for name, linear in compressed.linears.items():
        assert torch.isfinite(linear.weight).all(), name
        assert linear.weight.abs().max() <= largest, name
        assert linear.scales is None or on_its_grid(linear, getattr(settings, "bits", 0)), name
        pattern = getattr(settings, "pattern", None)
        if pattern == "2:4":
            assert int(linear.weight.reshape(-1, 4).count_nonzero(dim=1).max()) <= 2, name
        elif (sparsity := getattr(settings, "sparsity", None)) is not None:
            assert (linear.weight == 0).double().mean() >= sparsity - 0.05, name
    assert all(torch.isfinite(value).all() for value in compressed.parameters.values())
    assert all(0 <= record.relative_error < 1.5 for record in listener.records)
    ids = torch.arange(3, 51).reshape(2, 24)
    with torch.no_grad():
        assert torch.isfinite(model(input_ids=ids).logits).all()


@pytest.mark.parametrize("method", METHODS)
class TestCalibration:
    @pytest.mark.parametrize("tokens", [1, 2, 3, 4])
    def test_one_sample_of_few_tokens(self, method: str, tokens: int) -> None:
        """Every Hessian is singular, and only damping makes it invertible: a warning says so."""
        model, listener = two_blocks(), Listener()
        compressed = walk(model, METHODS[method], torch.arange(5, 5 + tokens)[None], listener)
        check(model, compressed, listener)
        is_warned = any(
            f"{tokens} calibration tokens for linears with up to 48 inputs, " in w for w in listener.warnings
        )
        assert is_warned == ("sparsegpt" in method or "gptq" in method)

    def test_the_same_token_again_and_again(self, method: str) -> None:
        """Without positions in the values all tokens are alike: constant activations, a Hessian of rank 1."""
        model, listener = two_blocks(), Listener()
        compressed = walk(model, METHODS[method], torch.full((4, 24), 5), listener)
        check(model, compressed, listener)

    def test_no_activation_at_all(self, method: str, ids: torch.Tensor) -> None:
        """Embeddings of zero: every input is dead, every weight may go, and none may become anything but finite."""
        model, listener = two_blocks(), Listener()
        model.model.embed_tokens.weight.data.zero_()
        compressed = walk(model, METHODS[method], ids, listener)
        check(model, compressed, listener)
        if "sparsegpt" in method or "gptq" in method:
            assert compressed.sparsity == 1.0

    def test_dead_channels(self, method: str, ids: torch.Tensor) -> None:
        """The norms let nothing of two channels through. Sparsegpt and gptq zero the weights that read them."""
        model, listener = two_blocks(), Listener()
        for block in decoder_blocks(model):
            for norm in ("input_layernorm", "post_attention_layernorm"):
                block.module.get_submodule(norm).weight.data[[3, 17]] = 0
        compressed = walk(model, METHODS[method], ids, listener)
        check(model, compressed, listener)
        if "sparsegpt" in method or "gptq" in method:
            for name, linear in compressed.linears.items():
                if name.endswith(("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")):
                    assert not linear.weight[:, [3, 17]].any(), name

    def test_a_dead_first_and_last_channel_and_a_whole_dead_group(
        self, method: str, ids: torch.Tensor
    ) -> None:
        model, listener = two_blocks(), Listener()
        for block in decoder_blocks(model):
            weight = block.module.get_submodule("input_layernorm").weight.data
            weight[0], weight[16:] = 0, 0
        check(model, walk(model, METHODS[method], ids, listener), listener)

    @pytest.mark.parametrize("size", [1e-12, 1e6])
    def test_activations_of_any_size(self, method: str, size: float, ids: torch.Tensor) -> None:
        model, listener = two_blocks(), Listener()
        for block in decoder_blocks(model):
            block.module.get_submodule("input_layernorm").weight.data *= size
        compressed = walk(model, METHODS[method], ids, listener)
        check(model, compressed, listener, largest=1e7)

    def test_two_channels_that_are_the_same(self, method: str, ids: torch.Tensor) -> None:
        model, listener = two_blocks(), Listener()
        model.model.embed_tokens.weight.data[:, 7] = model.model.embed_tokens.weight.data[:, 3]
        for block in decoder_blocks(model):
            for norm in ("input_layernorm", "post_attention_layernorm"):
                weight = block.module.get_submodule(norm).weight.data
                weight[7] = weight[3]
        check(model, walk(model, METHODS[method], ids, listener), listener)

    def test_activations_that_are_not_finite_name_the_linears(self, method: str, ids: torch.Tensor) -> None:
        model = two_blocks()
        model.model.layers[1].post_attention_layernorm.weight.data[5] = float("nan")
        with pytest.raises(StepError, match=r"`model\.layers\.1\.mlp\.gate_proj`.* not finite"):
            walk(model, METHODS[method], ids)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", METHODS)
class TestSixteenBits:
    def test_weights_with_outliers(self, method: str, dtype: torch.dtype, ids: torch.Tensor) -> None:
        """1e4 in one weight of every linear. bfloat16 holds what comes of it; float16 may overflow, and says where."""
        model, listener = two_blocks(dtype=dtype), Listener()
        for index, linear in enumerate(block_linears(model).values()):
            linear.weight.data[index % 16, index % 32] = 1e4 * (-1) ** index
        try:
            compressed = walk(model, METHODS[method], ids, listener)
        except StepError as error:
            assert dtype == torch.float16
            (problem,) = error.problems
            assert "finite" in problem.what
            assert "`model.layers." in problem.what
            return
        assert all(torch.isfinite(linear.weight).all() for linear in compressed.linears.values())
        assert all(torch.isfinite(value).all() for value in compressed.parameters.values())
        assert all(
            linear.scales is None or on_its_grid(linear, getattr(METHODS[method], "bits", 0))
            for linear in compressed.linears.values()
        )
        with torch.no_grad():
            assert dtype == torch.float16 or torch.isfinite(model(input_ids=ids).logits).all()

    def test_one_sample_of_few_tokens(self, method: str, dtype: torch.dtype) -> None:
        model, listener = two_blocks(dtype=dtype), Listener()
        check(model, walk(model, METHODS[method], torch.tensor([[5, 6, 7]]), listener), listener)

    def test_weights_that_are_tiny(self, method: str, dtype: torch.dtype, ids: torch.Tensor) -> None:
        """Down to 16-bit subnormals: scales must not become 0."""
        model, listener = two_blocks(dtype=dtype), Listener()
        for linear in block_linears(model).values():
            linear.weight.data *= 1e-6
        check(model, walk(model, METHODS[method], ids, listener), listener)

    def test_small_norms_and_large_weights_after_them(
        self, method: str, dtype: torch.dtype, ids: torch.Tensor
    ) -> None:
        """The function is that of the plain model. What is compressed errs as if it were, dead inputs or not."""
        errors = []
        for gain in (1.0, 2.0**-13):  # a power of two: nothing is rounded otherwise in bfloat16
            model, listener = two_blocks(dtype=dtype), Listener()
            for block in decoder_blocks(model):
                for norm, names in (
                    ("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
                    ("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
                ):
                    block.module.get_submodule(norm).weight.data *= gain
                    block.module.get_submodule(norm).weight.data[5] = 0
                    for name in names:
                        block.module.get_submodule(name).weight.data /= gain
            walk(model, METHODS[method], ids, listener)
            errors.append(sum(record.relative_error or 0.0 for record in listener.records))
        assert errors[1] < 1.1 * errors[0]


class TestExtremeSettings:
    @pytest.mark.parametrize("bits", [2, 8])
    @pytest.mark.parametrize("symmetric", [False, True])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize(
        ("make", "group_size"),
        [(GPTQ, 1), (GPTQ, 0), (GPTQ, 16), (AWQ, 1), (AWQ, 0), (AWQ, 16)],
    )
    def test_group_sizes_and_widths(
        self, make: Any, group_size: int, dtype: torch.dtype, symmetric: bool, bits: int, ids: torch.Tensor
    ) -> None:
        model, listener = two_blocks(dtype=dtype), Listener()
        compressed = walk(model, make(bits=bits, group_size=group_size, symmetric=symmetric), ids, listener)
        check(model, compressed, listener)
        for name, linear in compressed.linears.items():
            assert linear.scales is not None
            inputs = linear.weight.shape[1]
            assert linear.scales.shape[1] == (inputs // group_size if group_size else 1), name

    @pytest.mark.parametrize("make", [GPTQ, AWQ])
    def test_a_group_of_all_inputs_is_a_scale_an_output_channel(self, make: Any, ids: torch.Tensor) -> None:
        one, other = (
            two_blocks(intermediate_size=32),
            two_blocks(intermediate_size=32),
        )
        walk(one, make(group_size=32), ids)
        walk(other, make(group_size=0), ids)
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))

    def test_groups_of_one_lose_nothing_but_the_rounding_of_scales(self, ids: torch.Tensor) -> None:
        """Every weight is an end of its own range."""
        model, dense = two_blocks(), two_blocks()
        walk(model, GPTQ(bits=2, group_size=1), ids)
        for name, linear in block_linears(model).items():
            torch.testing.assert_close(linear.weight, dense.get_submodule(name).weight, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("make", [SparseGPT, Wanda])
    def test_sparsity_zero_changes_nothing(self, make: Any, ids: torch.Tensor) -> None:
        model, dense = two_blocks(dtype=torch.bfloat16), two_blocks(dtype=torch.bfloat16)
        assert walk(model, make(sparsity=0.0), ids).sparsity == 0.0
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), dense.parameters(), strict=True))

    @pytest.mark.parametrize("block_size", [1, 7, 128])
    @pytest.mark.parametrize("quantizer", [None, "rtn", "gptq", "awq"])
    def test_nearly_everything_goes(self, quantizer: Any, block_size: int, ids: torch.Tensor) -> None:
        settings: MethodSettings = SparseGPT(sparsity=0.99, block_size=block_size)
        if quantizer is not None:
            settings = PruneThenQuantize(
                method=("sparsegpt", quantizer), sparsity=0.99, block_size=block_size, group_size=16
            )
        model, listener = two_blocks(), Listener()
        compressed = walk(model, settings, ids, listener)
        check(model, compressed, listener, largest=100)
        assert 0.94 < compressed.sparsity <= 1.0

    def test_zero_of_sparsity_and_a_grid_is_the_quantizer_alone(self, ids: torch.Tensor) -> None:
        one, other = two_blocks(), two_blocks()
        walk(one, PruneThenQuantize(method=("sparsegpt", "gptq"), sparsity=0.0, group_size=16), ids)
        walk(other, GPTQ(group_size=16, order="block"), ids)
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))

    @pytest.mark.parametrize("damping", [1e-9, 10.0])
    @pytest.mark.parametrize("tokens", [1, 24])
    def test_damping_from_next_to_nothing_to_ten_times_the_mean(self, damping: float, tokens: int) -> None:
        """Next to nothing does not make the Hessian of a token invertible: it is raised, and the linear named."""
        for settings in (
            SparseGPT(sparsity=0.5, damping=damping),
            GPTQ(bits=3, group_size=16, damping=damping),
        ):
            model, listener = two_blocks(), Listener()
            compressed = walk(model, settings, torch.arange(5, 5 + tokens)[None], listener)
            check(model, compressed, listener, largest=1e3)
            raised = [warning for warning in listener.warnings if "was used" in warning]
            assert bool(raised) == (damping < 1e-6)
            assert all("the Hessian of `model.layers." in warning for warning in raised)

    def test_damping_too_small_to_be_raised_to_anything_that_helps(self) -> None:
        for settings in (SparseGPT(sparsity=0.5, damping=1e-20), GPTQ(group_size=16, damping=1e-20)):
            with pytest.raises(StepError, match=rf"the Hessian of {LINEAR}.* even with damping 1e-15"):
                walk(two_blocks(), settings, torch.tensor([[5, 6]]))

    def test_more_columns_in_a_block_than_there_are(self, ids: torch.Tensor) -> None:
        for make in (SparseGPT, GPTQ):
            options = {"sparsity": 0.5} if make is SparseGPT else {"group_size": 16}
            one, other = two_blocks(), two_blocks()
            walk(one, make(block_size=4096, **options), ids)
            walk(other, make(block_size=48, **options), ids)
            assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


class TestErrorsNameTheLinear:
    def test_a_hessian_that_nothing_makes_invertible(
        self, ids: torch.Tensor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("studyctl.compress.sweep.inverse._root", lambda _: None)
        for settings in (METHODS["sparsegpt"], METHODS["gptq"], METHODS["sparsegpt+gptq"]):
            with pytest.raises(StepError, match=rf"the Hessian of {LINEAR}, {LINEAR}, {LINEAR} cannot be"):
                walk(two_blocks(), settings, ids)

    @pytest.mark.parametrize("method", ["gptq", "awq"])
    def test_groups_that_do_not_divide(self, method: str, ids: torch.Tensor) -> None:
        settings = METHODS[method].model_copy(update={"group_size": 20})
        with pytest.raises(StepError, match=rf"group_size 20 does not divide the 32 inputs of {LINEAR}"):
            walk(two_blocks(), settings, ids)

    def test_a_pattern_that_does_not_divide(self, ids: torch.Tensor) -> None:
        with pytest.raises(StepError, match=rf"pattern 2:5 does not divide the 32 inputs of {LINEAR}"):
            walk(two_blocks(), SparseGPT(pattern="2:5"), ids)

    @pytest.mark.parametrize("method", METHODS)
    def test_weights_that_are_not_finite(self, method: str, ids: torch.Tensor) -> None:
        model = two_blocks()
        model.model.layers[1].self_attn.o_proj.weight.data[1, 2] = float("inf")
        with pytest.raises(StepError, match=r"not finite in `model\.layers\.1\.self_attn\.o_proj`"):
            walk(model, METHODS[method], ids)
