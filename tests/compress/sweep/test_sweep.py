"""The compiled sweeps do what the plain ones say: bit for bit where fp32 is exact, else up to rounding."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from studyctl.compress.prune.masks import smallest_of_group
from studyctl.compress.sweep.columns import (
    blocks,
    pass_on,
    prune_block,
    prune_block_plainly,
    quantize_block,
    quantize_block_plainly,
)
from tests.compress.cases import (
    assert_equal_but_for_ties,
    correlated,
    damped,
    quick,
    random,
    root_of_inverse,
)

WIDTHS = [1, 3, 8, 20, 128]
ROWS = [1, 100, 128, 300]
"""A tile of the kernels has 128 rows."""
GROUPS = [2, 3, 4, 5, 8, 16]
TOP = 15


def exact_block(rows: int, columns: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weights and a root of which fp32 rounds nothing in a sweep, in whatever order it adds.

    Weights are multiples of 1/64; pivots are 1, 1/2 or 1/4; few of the other entries are not 0, and these are 1 or −1. So
    whatever arises is a multiple of 1/64, and small.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randint(-256, 257, (rows, columns), generator=generator) / 64
    signs = torch.randint(0, 2, (columns, columns), generator=generator) * 2.0 - 1
    rare = torch.rand(columns, columns, generator=generator) < 1.5 / columns
    pivots = 0.5 ** torch.randint(0, 3, (columns,), generator=generator)
    return weights, torch.triu(signs * rare, 1) + pivots.diag()


def exact_grids(rows: int, columns: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return scales that are powers of two, zeros, and the group of every column, in no order."""
    generator = torch.Generator().manual_seed(seed)
    count = max(1, columns // 4)
    scales = 2.0 ** torch.randint(-2, 2, (rows, count), generator=generator)
    zeros = torch.randint(0, TOP + 1, (rows, count), generator=generator).float()
    return scales, zeros, torch.randint(0, count, (columns,), generator=generator)


def real_block(rows: int, columns: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weights and the root of an inverse Hessian of correlated inputs."""
    root = root_of_inverse(damped(correlated(2 * columns + 8, columns, seed), 0.01)).float()
    return random(rows, columns, seed=seed + 3), root


def nothing_was_rounded(sweep: Callable[..., tuple[torch.Tensor, torch.Tensor]], *args: Any) -> bool:
    """Whether fp64 gives the same, so that a compiled sweep has no excuse."""
    wider = [
        arg.double() if isinstance(arg, torch.Tensor) and arg.dtype == torch.float32 else arg for arg in args
    ]
    pairs = zip(sweep(*args), sweep(*wider), strict=True)
    return all(torch.equal(one.double(), other.double()) for one, other in pairs)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("has_frozen", [False, True])
def test_the_compiled_quantization_is_the_plain_one(rows: int, width: int, has_frozen: bool) -> None:
    weights, root = exact_block(rows, width, seed=width)
    grids = exact_grids(rows, width, seed=rows)
    frozen = random(rows, width) > 0.5 if has_frozen else None
    before = weights.clone()
    codes, errors = quantize_block(weights, root, *grids, TOP, frozen)
    plain_codes, plain_errors = quantize_block_plainly(weights, root, *grids, TOP, frozen)
    assert nothing_was_rounded(quantize_block_plainly, weights, root, *grids, TOP, frozen)
    assert torch.equal(codes, plain_codes)
    assert torch.equal(errors, plain_errors)
    assert torch.equal(weights, before)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("rows", ROWS)
def test_the_compiled_pruning_is_the_plain_one(rows: int, width: int) -> None:
    weights, root = exact_block(rows, width, seed=width)
    mask = random(rows, width) > 0
    before = weights.clone(), mask.clone()
    pruned, errors = prune_block(weights, root, mask, None)
    plain_pruned, plain_errors = prune_block_plainly(weights, root, mask.clone(), None)
    assert nothing_was_rounded(prune_block_plainly, weights, root, mask.clone(), None)
    assert torch.equal(pruned, plain_pruned)
    assert torch.equal(errors, plain_errors)
    assert torch.equal(weights, before[0])
    assert torch.equal(mask, before[1])


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("rows", [1, 300])
def test_the_compiled_choice_of_n_of_m_is_the_plain_one(rows: int, group: int) -> None:
    for count in (1, 3, 128 // group):
        weights, root = exact_block(rows, count * group, seed=count)
        for kept in {1, group // 2, group - 1}:
            pruned, errors = prune_block(weights, root, None, (kept, group))
            plain_pruned, plain_errors = prune_block_plainly(weights, root, None, (kept, group))
            assert nothing_was_rounded(prune_block_plainly, weights, root, None, (kept, group))
            assert torch.equal(pruned, plain_pruned)
            assert torch.equal(errors, plain_errors)


@quick
@given(st.integers(1, 40), st.integers(1, 40), st.booleans(), st.integers(0, 2**16))
def test_they_agree_for_any_size(rows: int, width: int, has_frozen: bool, seed: int) -> None:
    weights, root = exact_block(rows, width, seed)
    grids = exact_grids(rows, width, seed)
    chosen = random(rows, width, seed=seed) > 0.5
    frozen = chosen if has_frozen else None
    for mine, plain in (
        (
            quantize_block(weights, root, *grids, TOP, frozen),
            quantize_block_plainly(weights, root, *grids, TOP, frozen),
        ),
        (prune_block(weights, root, chosen, None), prune_block_plainly(weights, root, chosen, None)),
    ):
        assert torch.equal(mine[0], plain[0])
        assert torch.equal(mine[1], plain[1])


@pytest.mark.parametrize("width", WIDTHS)
def test_with_a_real_hessian_quantizations_differ_by_rounding_only(width: int) -> None:
    weights, root = real_block(300, width)
    scales, zeros = torch.full((300, 1), 0.3), torch.full((300, 1), 8.0)
    groups = torch.zeros(width, dtype=torch.int64)
    codes, errors = quantize_block(weights, root, scales, zeros, groups, TOP, None)
    plain, plain_errors = quantize_block_plainly(
        weights.double(), root.double(), scales.double(), zeros.double(), groups, TOP, None
    )
    # What was rounded: the code's value, and the error times the pivot.
    values = (plain.double() - 8) * 0.3 + plain_errors * root.diagonal()
    assert_equal_but_for_ties(codes, plain, values / 0.3 + 8)
    same = (codes == plain).all(1)
    torch.testing.assert_close(errors[same].double(), plain_errors[same], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("width", WIDTHS)
def test_with_a_real_hessian_prunings_differ_by_rounding_only(width: int) -> None:
    weights, root = real_block(300, width)
    mask = random(300, width) > 0
    for mine, exact in zip(
        prune_block(weights, root, mask, None),
        prune_block_plainly(weights.double(), root.double(), mask, None),
        strict=True,
    ):
        torch.testing.assert_close(mine.double(), exact, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("group", GROUPS)
def test_with_a_real_hessian_choices_differ_by_rounding_only(group: int) -> None:
    weights, root = real_block(300, 128 // group * group)
    pruned, errors = prune_block(weights, root, None, (group // 2, group))
    exact, exact_errors = prune_block_plainly(weights.double(), root.double(), None, (group // 2, group))
    same = ((pruned == 0) == (exact == 0)).all(1)
    assert same.double().mean() > 0.98  # scores that tie in one precision only
    torch.testing.assert_close(pruned[same].double(), exact[same], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(errors[same].double(), exact_errors[same], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("threads", [2, 3, 16])
def test_threads_do_not_change_a_bit(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, root = real_block(700, 20)
    mask = random(700, 20) > 0
    scales, zeros = torch.rand(700, 5) + 0.1, torch.full((700, 5), 7.0)
    groups = torch.arange(20) // 4

    def results() -> list[torch.Tensor]:
        return [
            *quantize_block(weights, root, scales, zeros, groups, TOP, None),
            *quantize_block(weights, root, scales, zeros, groups, TOP, mask),
            *prune_block(weights, root, mask, None),
            *prune_block(weights, root, None, (2, 4)),
        ]

    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    one = results()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert all(torch.equal(a, b) for a, b in zip(one, results(), strict=True))


def test_a_column_by_hand() -> None:
    """1.75 rounds to 2; its error −0.25 / 0.5 times 0.375 is taken from 1.5, which becomes 1.6875."""
    weights, root = torch.tensor([[1.75, 1.5]]), torch.tensor([[0.5, 0.375], [0.0, 1.0]])
    scales, zeros, groups = torch.ones(1, 1), torch.zeros(1, 1), torch.zeros(2, dtype=torch.int64)
    codes, errors = quantize_block(weights, root, scales, zeros, groups, 3, None)
    assert codes.tolist() == [[2, 2]]
    assert errors.tolist() == [[-0.5, -0.3125]]
    pruned, errors = prune_block(weights, root, torch.tensor([[True, False]]), None)
    assert pruned.tolist() == [[0.0, 1.5 - 3.5 * 0.375]]
    assert errors.tolist() == [[3.5, 0.0]]


def test_a_frozen_weight_gets_the_code_of_zero_and_passes_all_of_itself_on() -> None:
    weights, root = torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, 0.5], [0.0, 1.0]])
    grids = torch.ones(1, 1), torch.full((1, 1), 2.0), torch.zeros(2, dtype=torch.int64)
    codes, errors = quantize_block(weights, root, *grids, TOP, torch.tensor([[True, False]]))
    assert codes.tolist() == [[2, 2]]  # 1 − 0.5 is halfway: to even
    assert errors.tolist() == [[1.0, 0.5]]


def test_groups_are_chosen_from_what_the_columns_before_have_made_of_them() -> None:
    """The third weight is the larger of its pair until the first one's error has been taken from it."""
    root = torch.tensor([[1.0, 0.0, 2.0, 0.0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    pruned, _ = prune_block(torch.tensor([[1.0, 5.0, 2.5, 1.0]]), root, None, (1, 2))
    assert pruned.tolist() == [[0.0, 5.0, 0.0, 1.0]]


def test_of_equal_scores_the_first_go_in_both() -> None:
    weights, root = torch.ones(3, 16), torch.eye(16)
    for group in (2, 4, 8, 16):
        gone = smallest_of_group(weights, group // 2, group)
        for sweep in (prune_block, prune_block_plainly):
            assert torch.equal(sweep(weights, root, None, (group // 2, group))[0] == 0, gone)


def test_blocks_cover_all_columns_once() -> None:
    assert list(blocks(7, 3)) == [slice(0, 3), slice(3, 6), slice(6, 7)]
    assert list(blocks(4, 9)) == [slice(0, 4)]


@pytest.mark.parametrize("size", [1, 3, 8, 20, 64])
def test_a_sweep_in_blocks_is_the_sweep_in_one(size: int) -> None:
    weights, root = exact_block(40, 64, seed=5)
    mask = random(40, 64) > 0
    at_once, _ = prune_block_plainly(weights, root, mask, None)
    for block in blocks(64, size):
        weights[:, block], errors = prune_block(weights[:, block], root[block, block], mask[:, block], None)
        pass_on(weights, errors, root, block)
    assert torch.equal(weights, at_once)
