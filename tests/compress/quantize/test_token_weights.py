"""Tokens count by what attention makes of them: exactly where attention is uniform, by finite differences elsewhere."""

from typing import Any

import pytest
import torch

from studyctl.compress.quantize import awq
from studyctl.compress.quantize.token_weights import JUDGED_SAMPLES, weighted_hessians
from studyctl.compress.weights.compressed import BlockInput, StageInput
from studyctl.contract.methods import AWQ

from .cases import block_input, correlated, random, stage, statistics, with_hessian
from .tiny import Listener, tiny_model

SIGNS_OF_FIRST_CHUNK = 0


def hessians_of(block: BlockInput, first: StageInput) -> tuple[torch.Tensor, ...]:
    found = weighted_hessians(block, first)
    assert found is not None
    return found


def attention(model: Any, family: str, ids: torch.Tensor) -> tuple[BlockInput, StageInput]:
    block = block_input(model, family, ids)
    return block, block.stages[0]


def signs(like: torch.Tensor) -> torch.Tensor:
    """The same random ±1 that the first chunk's output is multiplied by."""
    generator = torch.Generator().manual_seed(SIGNS_OF_FIRST_CHUNK)
    return torch.empty_like(like).bernoulli_(generator=generator) * 2 - 1


def inputs_of_attention(block: BlockInput) -> torch.Tensor:
    """``[tokens, in]``, of the first chunk."""
    module: Any = block.block.module
    normed: torch.Tensor = module.input_layernorm(block.activations.hidden[0])
    return normed.flatten(0, 1)


class TestWeights:
    @torch.no_grad()
    def test_where_attention_is_uniform_early_tokens_count_by_the_harmonic_numbers(
        self, ids: torch.Tensor
    ) -> None:
        """Queries of 0 attend alike to all tokens so far: a token's values are in every later output, 1/i of the i-th."""
        model = tiny_model("llama", num_key_value_heads=4)
        own = model.model.layers[0].self_attn
        own.q_proj.weight.zero_()
        own.o_proj.weight.copy_(torch.eye(32))
        block, first = attention(model, "llama", ids[:2])
        hidden = block.activations.hidden[0]  # [samples, tokens, hidden]
        shares = signs(hidden) / torch.arange(1, hidden.shape[1] + 1)[:, None]
        gradients = shares.flip(1).cumsum(1).flip(1)  # Σ over later tokens
        weights = gradients.square().sum(-1).flatten()
        x = inputs_of_attention(block)
        of_queries, of_keys, of_values = hessians_of(block, first)
        torch.testing.assert_close(of_values, (x * weights[:, None]).T @ x, rtol=1e-4, atol=1e-4)
        assert weights[0] > 3 * weights[hidden.shape[1] // 2]
        assert of_keys.abs().max() == 0  # they are multiplied by queries of 0
        assert of_queries.abs().max() > 0

    @pytest.mark.parametrize("family", ["llama", "qwen2", "phi3", "gemma2", "olmo2"])
    @torch.no_grad()
    def test_they_are_what_finite_differences_say(self, family: str, ids: torch.Tensor) -> None:
        model = tiny_model(family, dtype=torch.float64)
        block, first = attention(model, family, ids[:1, :6])
        found = hessians_of(block, first)
        heard: list[torch.Tensor] = []
        module: Any = block.block.module
        module.self_attn.register_forward_hook(lambda _, __, output: heard.append(output[0]))
        x = self.inputs(block, first)
        for name, hessian in zip(first.names, found, strict=True):
            linear, step = block.block.linears[name], 1e-3  # norms and softmax are fp32
            weights = torch.zeros(len(x), dtype=torch.float64)
            for token in range(len(x)):
                for row in range(linear.out_features):
                    products = []
                    for shift in (step, -step):
                        handle = linear.register_forward_hook(shifted(token, row, shift))
                        block.activations.forward(block.block, 0)
                        handle.remove()
                        products.append((heard[-1] * signs(heard[-1])).sum())
                    weights[token] += ((products[0] - products[1]) / (2 * step)) ** 2
            wanted = (x * weights[:, None]).T @ x
            assert (hessian.double() - wanted).norm() < 2e-3 * wanted.norm(), name

    @staticmethod
    def inputs(block: BlockInput, first: StageInput) -> torch.Tensor:
        read: list[torch.Tensor] = []
        linear = block.block.linears[first.names[0]]
        handle = linear.register_forward_pre_hook(lambda _, args: read.append(args[0].flatten(0, 1)))
        block.activations.forward(block.block, 0)
        handle.remove()
        return read[0]

    def test_the_first_samples_are_enough(self, ids: torch.Tensor) -> None:
        """Chunks of 48 tokens hold them; what comes after is not looked at."""
        many = ids.repeat(4, 1)
        per_chunk = max(1, 48 // ids.shape[1])
        seen = -(-JUDGED_SAMPLES // per_chunk) * per_chunk
        assert seen < len(many)
        model = tiny_model("llama")
        few = hessians_of(*attention(model, "llama", many[:seen]))
        for one, other in zip(few, hessians_of(*attention(model, "llama", many)), strict=True):
            assert torch.equal(one, other)

    def test_the_model_is_left_alone(self, ids: torch.Tensor) -> None:
        model = tiny_model("phi3")
        weighted_hessians(*attention(model, "phi3", ids))
        assert all(parameter.grad is None for parameter in model.parameters())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
        for one, other in zip(model.parameters(), tiny_model("phi3").parameters(), strict=True):
            assert torch.equal(one, other)

    @torch.no_grad()
    def test_where_gradients_overflow_tokens_count_alike_and_a_warning_says_so(
        self, ids: torch.Tensor
    ) -> None:
        model, listener = tiny_model("llama"), Listener()
        model.model.layers[0].self_attn.o_proj.weight.fill_(1e30)
        block = block_input(model, "llama", ids, reporter=listener)
        assert weighted_hessians(block, block.stages[0]) is None
        assert listener.warnings == [
            "attention's gradients are not finite in `model.layers.0`: all tokens count alike there"
        ]
        assert awq.scale_block(block, AWQ(bits=3, group_size=16)).stages[0].hessians is None


def shifted(token: int, row: int, shift: float) -> Any:
    def add(_: object, __: object, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        output[0, token, row] += shift
        return output

    return add


class TestWhatIsJudgedByThem:
    @torch.no_grad()
    def test_values_are_clipped_by_their_own(self, ids: torch.Tensor) -> None:
        settings = AWQ(bits=3, group_size=16, ratios=1)
        block, first = attention(tiny_model("llama"), "llama", ids)
        values = hessians_of(block, first)[2]
        prepared = awq.scale_block(block, settings).stages[0]
        assert prepared.hessians is not None
        assert prepared.hessians[:2] == (None, None)  # queries and keys are not clipped
        assert torch.equal(prepared.hessian(2), values)
        found = awq.compress_stage(prepared, settings)[2]
        alone = stage(first.weights[2], seen=with_hessian(values))
        assert torch.equal(found.weight, awq.compress_stage(alone, settings)[0].weight)

    @torch.no_grad()
    def test_which_is_that_of_the_scaled_inputs(self, ids: torch.Tensor) -> None:
        block, first = attention(tiny_model("llama"), "llama", ids)
        before = hessians_of(block, first)[2]
        prepared = awq.scale_block(block, AWQ(bits=3, group_size=16)).stages[0]
        scales = prepared.weights[0][0] / first.weights[0][0]
        torch.testing.assert_close(
            prepared.hessian(2), before / scales / scales[:, None], rtol=1e-3, atol=1e-6
        )

    def test_without_one_of_its_own_a_linear_is_judged_by_the_statistics(self) -> None:
        one = stage(random(8, 32), seen=statistics(correlated(100, 32)))
        assert one.statistics is not None
        assert one.hessian(0) is one.statistics.hessian

    @torch.no_grad()
    def test_the_papers_objective_counts_tokens_alike(self, ids: torch.Tensor) -> None:
        block, _ = attention(tiny_model("llama"), "llama", ids)
        prepared = awq.scale_block(block, AWQ(bits=3, group_size=16, objective="block"))
        assert all(one.hessians is None for one in prepared.stages)
