"""Prompts as trees, and trees as rows: nothing is lost, nothing is read that a prompt does not begin with."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from studyctl.evaluate.tasks.packing import Chunk, pack
from studyctl.evaluate.tasks.trees import Prompt, Tree, build_trees

EAGER = 1e9
"""As the work of a token: whatever has a beginning in common is one tree."""


def prompt(text: str, targets: int = 1) -> Prompt:
    tokens = tuple(map(ord, text))
    return Prompt(tokens, tuple(range(targets)))


def text(tree: Tree) -> str:
    return "".join(map(chr, tree.tokens))


@st.composite
def many_prompts(draw: st.DrawFn) -> list[Prompt]:
    texts = draw(st.lists(st.text("ab", min_size=1, max_size=12), min_size=1, max_size=12))
    return [Prompt(tuple(map(ord, one)), tuple(range(draw(st.integers(1, len(one)))))) for one in texts]


def test_a_shared_beginning_is_there_once() -> None:
    (tree,) = build_trees([prompt("context one"), prompt("context two"), prompt("context")], 99, EAGER)
    assert text(tree) == "context onetwo"
    assert tree.depths.tolist() == [*range(11), 8, 9, 10]
    assert tree.ends.tolist() == [14] * 8 + [11] * 3 + [14] * 3
    assert not tree.is_chain


def test_what_shares_nothing_is_a_tree_of_its_own_the_largest_first() -> None:
    trees = build_trees([prompt("b"), prompt("aaa"), prompt("aab")], 99, EAGER)
    assert list(map(text, trees)) == ["aaab", "b"]
    assert trees[1].is_chain


def test_a_beginning_of_a_few_tokens_is_read_again_where_the_larger_tree_costs_more() -> None:
    long = [prompt("Q:" + letter * 50) for letter in "xy"]
    assert len(build_trees(long, 999, token_work=10.0)) == 2
    assert len(build_trees(long, 999, token_work=5000.0)) == 1


def test_a_tree_has_no_more_tokens_than_the_limit() -> None:
    prompts = [prompt("a" * 10 + letter) for letter in "bcdefg"]
    assert [tree.size for tree in build_trees(prompts, 13, EAGER)] == [13, 13]
    assert [tree.size for tree in build_trees(prompts, 1, EAGER)] == [11] * 6


def test_the_last_tokens_of_a_prompt_predict_its_targets() -> None:
    (tree,) = build_trees([prompt("ab", 2), prompt("acd", 2), prompt("a", 1)], 99, EAGER)
    assert text(tree) == "abcd"
    assert {number: scored.tolist() for number, scored in zip(tree.prompts, tree.scored, strict=True)} == {
        0: [0, 1],
        1: [2, 3],
        2: [0],
    }


@given(many_prompts(), st.integers(1, 40), st.sampled_from([0.0, 5.0, EAGER]))
def test_every_prompt_is_a_path_from_the_root_of_one_tree(
    prompts: list[Prompt], limit: int, work: float
) -> None:
    trees = build_trees(prompts, limit, work)
    assert sorted(number for tree in trees for number in tree.prompts) == list(range(len(prompts)))
    for tree in trees:
        assert tree.size <= max(limit, max(len(prompts[number].tokens) for number in tree.prompts))
        for number, scored in zip(tree.prompts, tree.scored, strict=True):
            last = scored[-1]
            path = [token for token in range(tree.size) if token <= last < tree.ends[token]]
            assert tuple(tree.tokens[path]) == prompts[number].tokens
            assert tree.depths[path].tolist() == list(range(len(path)))
            assert path[-len(scored) :] == scored.tolist()


@given(many_prompts(), st.integers(1, 40), st.sampled_from(["cpu", "cuda"]))
def test_chunks_hold_every_target_once(prompts: list[Prompt], budget: int, device: str) -> None:
    trees = build_trees(prompts, budget, 5.0)
    chunks = pack(prompts, trees, budget, device)
    assert sorted(number for chunk in chunks for number in chunk.prompts) == list(range(len(prompts)))
    for chunk in chunks:
        assert len(chunk.ids) == sum(group.trees * group.width for group in chunk.groups)
        assert len(chunk.ids) <= max(budget, max(group.width for group in chunk.groups))
        assert (np.diff(chunk.rows) >= 0).all()
        for place, number in enumerate(chunk.prompts):
            mine = chunk.owners == place
            assert tuple(chunk.targets[mine]) == prompts[number].targets
            assert tuple(chunk.ids[chunk.rows[mine]]) == prompts[number].tokens[-mine.sum() :]


def test_on_a_cpu_only_trees_of_one_size_are_computed_together() -> None:
    (chunk,) = _packed(["aaaa", "bbbb", "ccc"], "cpu")
    assert [(group.start, group.trees, group.width) for group in chunk.groups] == [(0, 2, 4), (8, 1, 3)]
    assert len(chunk.ids) == 11


def test_on_a_gpu_a_group_is_padded_a_little() -> None:
    (chunk,) = _packed(["a" * 20, "b" * 19, "c" * 9], "cuda")
    assert [(group.start, group.trees, group.width) for group in chunk.groups] == [(0, 2, 20), (40, 1, 9)]
    assert chunk.ends[39] == 20, "padding sees itself"
    assert [group.is_chain for group in chunk.groups] == [False, True]


def test_chunks_are_of_about_one_size() -> None:
    chunks = pack(*_trees([letter * 10 for letter in "abcdefghijk"]), 100, "cpu")
    assert [len(chunk.ids) for chunk in chunks] == [60, 50]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_plan_does_not_depend_on_the_order_of_what_is_equal(device: str) -> None:
    texts = ["aab", "aac", "b", "cc", "aab"]
    one, two = (pack(*_trees(texts), 4, device) for _ in range(2))
    assert [chunk.ids.tolist() for chunk in one] == [chunk.ids.tolist() for chunk in two]


def _trees(texts: list[str]) -> tuple[list[Prompt], list[Tree]]:
    prompts = [prompt(one) for one in texts]
    return prompts, build_trees(prompts, 99, EAGER)


def _packed(texts: list[str], device: str) -> list[Chunk]:
    return pack(*_trees(texts), 999, device)
