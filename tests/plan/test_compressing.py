"""What compressing takes, foretold from sizes: what is held at once, and what is computed."""

from typing import Any

import pytest

from studyctl.contract.identity import ModelIdentity
from studyctl.contract.job import CalibrationData
from studyctl.contract.methods import AWQ, GPTQ, RTN, Magnitude, PruneThenQuantize, SparseGPT, Wanda
from studyctl.plan.compressing import (
    blocks_of,
    compressing_bytes,
    forward_passes,
    solving_work,
    stored_bytes,
)


def windows_of(samples: int, tokens: int) -> CalibrationData:
    return CalibrationData(samples=samples, sequence_length=tokens)


HIDDEN, FFN = 1024, 4096
WINDOWS = windows_of(4, 512)
LLAMA = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (HIDDEN, HIDDEN),
    "self_attn.v_proj": (HIDDEN, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (FFN, HIDDEN),
    "mlp.up_proj": (FFN, HIDDEN),
    "mlp.down_proj": (HIDDEN, FFN),
}
PHI3 = {
    "self_attn.qkv_proj": (3 * HIDDEN, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_up_proj": (2 * FFN, HIDDEN),
    "mlp.down_proj": (HIDDEN, FFN),
}
BLOCK_WEIGHTS = sum(out * inputs for out, inputs in LLAMA.values())


def model(
    block: dict[str, tuple[int, int]] = LLAMA, *, blocks: int = 2, kv_heads: int = 16, model_type: str = ""
) -> ModelIdentity:
    linears = {
        f"model.layers.{index}.{name}": size for index in range(blocks) for name, size in block.items()
    }
    return ModelIdentity(
        "m",
        "folder",
        "m",
        config={"model_type": model_type},
        linears=linears,
        hidden_size=HIDDEN,
        intermediate_size=FFN,
        heads=16,
        kv_heads=kv_heads,
    )


def held(
    settings: Any,
    identity: ModelIdentity | None = None,
    windows: CalibrationData | None = WINDOWS,
    batch_tokens: int = 2048,
    width: int = 2,
) -> int:
    identity = identity or model()
    return compressing_bytes(identity, settings, windows, width=width, batch_tokens=batch_tokens)


@pytest.mark.parametrize("block", [LLAMA, PHI3])
def test_linears_that_share_an_input_are_one_stage(block: dict[str, tuple[int, int]]) -> None:
    ((stages, blocks),) = blocks_of(model(block)).items()
    assert blocks == 2
    assert [(stage.inputs, stage.outputs) for stage in stages] == [
        (HIDDEN, 3 * HIDDEN),
        (HIDDEN, HIDDEN),
        (HIDDEN, 2 * FFN),
        (FFN, HIDDEN),
    ]
    assert [stage.absorber for stage in stages] == ["norm", "linear", "norm", "linear"]


def test_values_that_heads_share_take_no_scale() -> None:
    (stages,) = blocks_of(model(kv_heads=4))
    assert [stage.absorber for stage in stages] == ["norm", "none", "norm", "linear"]


def test_other_names_are_stages_of_their_own() -> None:
    block = {"attention.query_key_value": (3 * HIDDEN, HIDDEN), "mlp.dense_4h_to_h": (HIDDEN, FFN)}
    (stages,) = blocks_of(model(block))
    assert [(stage.inputs, stage.absorber) for stage in stages] == [(HIDDEN, "none"), (FFN, "none")]


def test_the_hessians_of_a_block_are_held_at_once_and_those_of_two_stages_with_the_order_of_stages() -> None:
    saved = held(SparseGPT(sparsity=0.5, order="block")) - held(SparseGPT(sparsity=0.5, order="stage"))
    # What attention gave is kept beside the block's inputs, and what goes into the MLP's last linear.
    assert saved == 2 * 4 * HIDDEN**2 - 4 * 512 * (HIDDEN + FFN) * 2


def test_no_more_than_48_mib_are_kept_of_what_goes_into_the_mlps_last_linear() -> None:
    def kept(samples: int) -> int:
        windows = windows_of(samples, 512)
        staged = held(GPTQ(), windows=windows) - held(GPTQ(propagate="dense"), windows=windows)
        return staged + samples * 512 * HIDDEN * 2  # with dense outputs a block's outputs are kept instead

    assert kept(4) == 4 * 512 * FFN * 2
    assert kept(4000) == 48 << 20


@pytest.mark.parametrize(("samples", "is_all_kept"), [(4, True), (4000, False)])
def test_where_a_block_only_adds_attention_its_room_is_the_mlps(samples: int, *, is_all_kept: bool) -> None:
    windows = windows_of(samples, 512)
    attention = samples * 512 * HIDDEN * 2
    saved = held(GPTQ(), windows=windows) - held(GPTQ(), model(model_type="llama"), windows)
    assert saved == (attention if is_all_kept else 0)  # else more is kept in it


def test_wide_heads_are_kept_as_they_go_into_attentions_last_linear() -> None:
    wide = {**LLAMA, "self_attn.o_proj": (HIDDEN, 3 * HIDDEN)}
    more = held(GPTQ(), model(wide)) - held(GPTQ(order="block"), model(wide))
    hessians = 4 * (2 * HIDDEN**2)
    assert more == 4 * 512 * (3 * HIDDEN + FFN) * 2 - hessians


def test_a_sweep_takes_the_root_of_the_widest_hessian_beside_the_weights_in_fp32_and_as_stored() -> None:
    hessians = 4 * (3 * HIDDEN**2 + FFN**2)
    more = held(SparseGPT(sparsity=0.5, order="block")) - held(Wanda(sparsity=0.5))
    # Wanda needs no Hessian, no factor and no compiled sweep, but three copies of the widest linear beside the two results.
    assert more == hessians + 4 * FFN**2 + 6 * FFN * HIDDEN - (3 * 4 + 2 * 2) * FFN * HIDDEN + (100 << 20)


def test_another_order_of_columns_takes_the_hessian_the_weights_and_the_codes_once_more() -> None:
    assert held(GPTQ(act_order=True)) - held(GPTQ()) == 4 * FFN**2 + 5 * FFN * HIDDEN


def test_a_pass_leaves_its_tensors_of_less_than_32_mib_in_the_heap_while_stages_are_solved() -> None:
    def more(batch_tokens: int) -> int:
        many = windows_of(64, 512)
        settings = GPTQ(act_order=True)
        return held(settings, windows=many, batch_tokens=batch_tokens) - held(settings, windows=many)

    def passing(tokens: int) -> tuple[int, int]:
        return 6 * tokens * HIDDEN * 2, 3 * tokens * FFN * 2

    assert more(2 * 2048 - 1) == sum(passing(2 * 2048 - 1)) - sum(passing(2048))
    assert more(2 * 2048) == passing(2 * 2048)[0] - sum(passing(2048))
    solving = 2 * 4 * FFN**2 + (2 * 4 + 1 + 2) * FFN * HIDDEN
    counting = 2 * 4 * 512 * FFN  # a pass that takes more than the sweep after it
    assert more(8 * 2048) == sum(passing(8 * 2048)) + counting - (sum(passing(2048)) + counting + solving)


def test_scales_are_held_of_all_blocks_and_codes_where_weights_do_not_give_them_back() -> None:
    def more(settings: GPTQ, width: int = 2) -> int:
        ten, two = (held(settings, model(blocks=blocks), width=width) for blocks in (10, 2))
        return ten - two

    assert more(GPTQ()) == 8 * (3 * BLOCK_WEIGHTS // 128)
    assert more(GPTQ(bits=8)) == 8 * (BLOCK_WEIGHTS + 3 * BLOCK_WEIGHTS // 128)
    assert more(GPTQ(bits=8), width=4) == 8 * (5 * BLOCK_WEIGHTS // 128)
    assert held(SparseGPT(sparsity=0.5), model(blocks=10)) == held(SparseGPT(sparsity=0.5), model(blocks=2))


def test_dense_inputs_of_the_next_block_are_held_beside_those_of_this_one() -> None:
    more = held(GPTQ(order="block", propagate="dense")) - held(GPTQ(order="block"))
    assert more == 4 * 512 * HIDDEN * 2


def test_awq_copies_the_block_in_fp32_and_pruned_weights_their_dense_ones_as_well() -> None:
    awq = held(AWQ(propagate="compressed"))
    both = held(PruneThenQuantize(method=("magnitude", "awq"), sparsity=0.5))
    # Scores are of whole linears, and rounding is of some rows.
    assert both - awq == 4 * BLOCK_WEIGHTS + 2 * BLOCK_WEIGHTS + 3 * 4 * (FFN * HIDDEN - (1 << 19))
    with_sweep = held(PruneThenQuantize(method=("sparsegpt", "awq"), sparsity=0.5))
    assert with_sweep >= both


def test_the_outputs_of_a_module_are_recorded_where_they_judge() -> None:
    large = windows_of(1000, 512)
    linear = held(AWQ(), windows=large)
    assert held(AWQ(objective="block"), windows=large) > linear + 1000 * 512 * HIDDEN * 2
    few = windows_of(1, 128)  # they are less than the copies that follow
    assert held(AWQ(objective="block"), windows=few) < held(AWQ(), windows=few)


def test_where_tokens_are_weighed_gradients_pass_and_a_hessian_of_values_is_held() -> None:
    few = windows_of(1, 128)
    more = held(AWQ(), windows=few) - held(AWQ(objective="block"), windows=few)
    assert more == 9 * 128 * HIDDEN * 2 + 4 * HIDDEN**2


def test_without_data_a_linear_at_a_time_is_held() -> None:
    assert held(Magnitude(sparsity=0.5), windows=None) == (40 << 20) + (3 * 4 + 2) * FFN * HIDDEN
    rounded, scales = 4 * FFN * HIDDEN, 5 * BLOCK_WEIGHTS // 128  # some rows at a time
    assert held(RTN(), model(blocks=1), None, width=4) == (40 << 20) + scales + 12 * (1 << 19) + rounded


def test_tokens_that_pass_at_once_are_never_more_than_there_are() -> None:
    few = windows_of(1, 128)
    assert compressing_bytes(
        model(), Wanda(sparsity=0.5), few, width=2, batch_tokens=2048
    ) == compressing_bytes(model(), Wanda(sparsity=0.5), few, width=2, batch_tokens=128)


def test_unknown_sizes_foretell_nothing() -> None:
    nothing = ModelIdentity("m", "folder", "m")
    assert held(GPTQ(), nothing) == 0
    assert solving_work(nothing, GPTQ(), WINDOWS) == 0


@pytest.mark.parametrize(
    ("settings", "passes"),
    [
        (Magnitude(sparsity=0.5), 0),
        (Wanda(sparsity=0.5), 1.75),  # the first time not through `down`
        (SparseGPT(sparsity=0.5, propagate="dense", order="block"), 1),
        (AWQ(), 1),
        (GPTQ(order="block"), 1.75),
        (GPTQ(), 1.5),  # attention once, gate and up once more
        (GPTQ(propagate="dense"), 2),
    ],
)
def test_how_often_tokens_pass(settings: Any, passes: float) -> None:
    assert forward_passes(settings) == passes


def test_statistics_grow_with_the_tokens_and_searches_do_not() -> None:
    def work(settings: Any, tokens: int) -> float:
        return solving_work(model(blocks=1), settings, windows_of(1, tokens))

    triangle = 3 * HIDDEN * (HIDDEN + 192) + FFN * (FFN + 192)
    for settings in (SparseGPT(sparsity=0.5), GPTQ(), AWQ()):
        assert work(settings, 5000) - work(settings, 1000) == pytest.approx(4000 * triangle)
    assert work(Wanda(sparsity=0.5), 5000) == 0
    block = AWQ(objective="block")
    assert work(block, 500_000) > 10 * work(AWQ(), 500_000)


def test_a_search_takes_as_long_as_it_has_candidates() -> None:
    one, two, three = (solving_work(model(), AWQ(ratios=ratios), WINDOWS) for ratios in (10, 20, 30))
    assert three - two == pytest.approx(two - one)
    assert two > 2 * solving_work(model(), SparseGPT(sparsity=0.5), WINDOWS)


def test_codes_are_stored_in_the_place_of_weights() -> None:
    identity = model(blocks=1)
    assert stored_bytes(identity, SparseGPT(sparsity=0.5), 2) == 2 * BLOCK_WEIGHTS
    assert stored_bytes(identity, GPTQ(), 2) == BLOCK_WEIGHTS // 2 + 3 * BLOCK_WEIGHTS // 128
    assert stored_bytes(identity, GPTQ(bits=5), 2) == BLOCK_WEIGHTS + 3 * BLOCK_WEIGHTS // 128


def test_many_blocks_take_most_when_their_codes_are_stored() -> None:
    blocks = 1000
    stored = stored_bytes(model(blocks=blocks), GPTQ(), 2)
    assert held(GPTQ(), model(blocks=blocks)) == stored + 3 * FFN * HIDDEN // 2 + (140 << 20)
