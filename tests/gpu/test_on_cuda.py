"""On a CUDA device every part of the engine gives what it gives on the CPU. Skipped where torch sees none."""

from typing import Any

import pytest
import torch

from studyctl.compress.quantize.trial_rounding import change
from studyctl.compress.sweep.columns import prune_block, quantize_block
from studyctl.compress.sweep.inverse import inverse_root
from studyctl.compress.walk.statistics import Accumulator
from studyctl.compress.walk.walker import compress
from studyctl.contract.methods import AWQ, GPTQ, RTN, Magnitude, MethodSettings, SparseGPT, Wanda
from studyctl.evaluate.memory import is_out_of_memory
from studyctl.evaluate.tasks.packed import PackedScorer, open_packed
from studyctl.evaluate.text.score import score_windows
from studyctl.gpus import visible_gpus
from studyctl.reporter import SilentReporter
from tests.compress.cases import correlated, damped, random
from tests.compress.sweep.test_sweep import TOP, exact_block, exact_grids, real_block
from tests.compress.tiny import FAMILIES, MIXTURES, VOCABULARY, tiny_model
from tests.evaluate.tasks.test_packed import TREES, random_prompts
from tests.evaluate.windows_made import windows_of

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
GPU = "cuda:0"
METHODS: list[MethodSettings] = [
    Magnitude(sparsity=0.5),
    Wanda(sparsity=0.5),
    Wanda(pattern="2:4"),
    SparseGPT(sparsity=0.5),
    SparseGPT(pattern="2:4"),
    RTN(bits=4, group_size=16),
    GPTQ(bits=4, group_size=16),
    GPTQ(bits=4, group_size=16, act_order=True, static_groups=True),
    AWQ(bits=4, group_size=16, ratios=4),
    AWQ(bits=4, group_size=16, ratios=4, objective="block"),
]
TOKENS = torch.randint(3, VOCABULARY, (4, 24), generator=torch.Generator().manual_seed(0))


def on_gpu(*tensors: torch.Tensor) -> list[torch.Tensor]:
    return [tensor.to(GPU) for tensor in tensors]


def test_the_plan_counts_the_devices_that_torch_sees() -> None:
    assert visible_gpus() == [f"cuda:{index}" for index in range(torch.cuda.device_count())]


@pytest.mark.parametrize("width", [3, 20, 128])
def test_rounding_a_block_of_columns(width: int) -> None:
    weights, root = exact_block(100, width, seed=1)
    scales, zeros, groups = exact_grids(100, width, seed=2)
    expected = quantize_block(weights, root, scales, zeros, groups, TOP, None)
    seen = quantize_block(*on_gpu(weights, root, scales, zeros, groups), TOP, None)
    for one, other in zip(seen, expected, strict=True):
        assert torch.equal(one.cpu(), other)


@pytest.mark.parametrize("group", [None, (2, 4), (4, 8)])
def test_pruning_a_block_of_columns(group: tuple[int, int] | None) -> None:
    weights, root = real_block(100, 64)
    mask = None if group else weights.abs() < 0.5
    expected = prune_block(weights, root, mask, group)
    seen = prune_block(*on_gpu(weights, root), mask.to(GPU) if mask is not None else None, group)
    for one, other in zip(seen, expected, strict=True):
        torch.testing.assert_close(one.cpu(), other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("inputs", [5, 130, 300])
def test_the_root_of_the_inverse_hessian(inputs: int) -> None:
    x = correlated(2 * inputs, inputs)
    hessian = damped(x, 0.0).float()
    root = inverse_root(hessian.to(GPU), 0.01, ("linear",)).root.double().cpu()
    unit = root @ damped(x, 0.01) @ root.T
    torch.testing.assert_close(unit, torch.eye(inputs, dtype=torch.float64), rtol=0, atol=2e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_statistics_of_inputs_are_summed_in_fp32(dtype: torch.dtype) -> None:
    x = random(700, 48).to(dtype)
    accumulator = Accumulator(frozenset({"norm", "mean_abs", "hessian"}), len(x))
    accumulator.add(x.to(GPU))
    seen = accumulator.finish()
    assert seen.hessian is not None
    expected = 2 * x.double().T @ x.double()
    torch.testing.assert_close(seen.hessian.double().cpu(), expected, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("symmetric", [False, True])
def test_trial_roundings(dtype: torch.dtype, symmetric: bool) -> None:
    settings = AWQ(bits=4, group_size=16, symmetric=symmetric)
    groups, scales = random(12, 4, 16), random(64, seed=1).exp()
    expected = change(groups, settings, dtype, scales=scales, kept_range=0.8)
    seen = change(groups.to(GPU), settings, dtype, scales=scales.to(GPU), kept_range=0.8).cpu()
    # A value halfway between two codes may fall either way.
    assert ((seen - expected).abs() > 1e-5).double().mean() < 0.01


@pytest.mark.parametrize("settings", METHODS, ids=repr)
def test_every_method(settings: MethodSettings) -> None:
    _assert_near("llama", settings)


@pytest.mark.parametrize("family", [*FAMILIES, *MIXTURES])
def test_every_family(family: str) -> None:
    _assert_near(family, METHODS[-4])


def _assert_near(family: str, settings: MethodSettings) -> None:
    """Compare compressed models: ties fall either way, so they are near, not equal."""
    seen, expected = _compressed(family, settings, GPU), _compressed(family, settings, "cpu")
    assert (seen - expected).norm() < 0.05 * expected.norm()


def _compressed(family: str, settings: MethodSettings, device: str) -> torch.Tensor:
    """Return the logits of the compressed model."""
    model = tiny_model(family).to(device)
    ids = TOKENS if settings.needs_data else None
    compress(model, settings, ids, batch_tokens=48, reporter=SilentReporter())
    with torch.no_grad():
        return model(TOKENS.to(device)).logits.float().cpu()


@pytest.mark.parametrize("family", FAMILIES)
def test_nll_and_the_distance_to_dense(family: str) -> None:
    windows = windows_of(TOKENS.numpy())
    scores = [
        score_windows(
            tiny_model(family).to(device), windows, language="en", batch_tokens=48, reporter=SilentReporter()
        )
        for device in (GPU, "cpu")
    ]
    for one, other in zip(*(batch.windows for batch in scores), strict=True):
        assert one.nll_nats == pytest.approx(other.nll_nats, rel=1e-4)


@pytest.mark.parametrize("family", TREES)
def test_answers_from_trees(family: str) -> None:
    prompts = random_prompts([4, 20, 20, 33], branches=3, targets=4)
    answers: list[dict[int, Any]] = []
    for device in (GPU, "cpu"):
        scorer = open_packed(tiny_model(family).to(device), prompts)
        assert isinstance(scorer, PackedScorer), scorer
        answers.append({})
        for chunk in scorer.chunks(prompts, 100):
            answers[-1] |= dict(zip(chunk.prompts.tolist(), scorer.score(chunk), strict=True))
    seen, expected = answers
    assert seen.keys() == expected.keys()
    for number, (nats, _) in expected.items():
        assert seen[number][0] == pytest.approx(nats, abs=1e-3)


def test_running_out_of_its_memory_is_recognised_and_leaves_it_usable() -> None:
    with pytest.raises(torch.OutOfMemoryError) as failed:
        torch.empty(1 << 50, dtype=torch.uint8, device=GPU)
    assert is_out_of_memory(failed.value)
    assert torch.ones(4, device=GPU).sum() == 4
