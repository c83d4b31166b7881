"""Walks through a model block by block, measures the inputs of its linears, and compresses the linears.

A method sees one linear group at a time: linears that share an input, with the statistics that
:data:`studyctl.contract.methods.METHODS` lists for it. Whatever a method cannot do is a :class:`StepError` that names
the linear; no linear ever gets another method's result.
"""

import hashlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from pkgutil import resolve_name
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import nn

from studyctl.compress.prune.masks import zeros
from studyctl.compress.quantize.grid import codes_come_back
from studyctl.compress.sweep.inverse import damping_over_median
from studyctl.compress.walk.activations import Activations, record_activations
from studyctl.compress.walk.architectures import (
    Block,
    LinearModules,
    block_linears,
    block_matrices,
    check_linears_hold_most,
    decoder_blocks,
    known_linear_groups,
    multiply_experts_in_turn,
    observed_linear_groups,
)
from studyctl.compress.walk.products import Products
from studyctl.compress.walk.replay import PassEnded, Replay, copied_to, replay_of
from studyctl.compress.walk.resumable import BlockResults, ResumableBlocks
from studyctl.compress.walk.statistics import Accumulator, Statistics, is_finite, relative_error
from studyctl.compress.walk.vocabulary import EMBEDDING_SHARE, measure_head, vocabulary_matrices
from studyctl.compress.weights.compressed import (
    BlockInput,
    Compressed,
    CompressedLinear,
    LinearGroup,
    PreparedBlock,
)
from studyctl.contract.gguf import BlockType, mixture, shape_of
from studyctl.contract.methods import (
    GPTQ,
    Dense,
    GPTQOnGguf,
    MethodSettings,
    OnGguf,
    PruneThenQuantize,
    Quantization,
    SparseGPT,
    StatisticName,
    inverts_hessian,
    method_of,
    methods_of,
    statistics_of,
    too_few_tokens,
    uses_data,
    without_data,
)
from studyctl.contract.records import Layer
from studyctl.errors import Problem, StepError
from studyctl.reporter import Reporter


@torch.no_grad()
def compress(
    model: nn.Module,
    settings: MethodSettings,
    ids: torch.Tensor | None,
    *,
    batch_tokens: int,
    reporter: Reporter,
    device: torch.device | str | None = None,
    resumable: ResumableBlocks | None = None,
    seed: int = 0,
) -> Compressed:
    """Compress all linears of the decoder blocks in place.

    Embeddings, ``lm_head`` and other linears do not change, norms and biases only if they absorb AWQ's scales. Every linear gets a
    ``layer`` record: ``relative_error`` of its output on a sample of the calibration tokens (of its weight, for methods without
    data), ``seconds`` its share of the linear group's time. The same arguments give the same bits on the same machine.

    Args:
        model: a causal language model of transformers; it is put into evaluation mode.
        settings: of the method; :class:`~studyctl.contract.methods.Dense` changes nothing.
        ids: int64 ``[samples, tokens]``; None for methods without data.
        batch_tokens: tokens that pass through a block at once; at least one sample.
        reporter: gets progress, ``layer`` records and warnings.
        device: where blocks compute, one at a time; None: where the model is.
        resumable: the blocks that a killed walk with the same arguments saved; this walk saves its blocks there, too.
        seed: for methods that draw at random.

    Raises:
        StepError: the settings do not fit the model, a weight or an activation is not finite, or there are no
            calibration tokens.
    """
    model.eval()
    results, vocabulary = BlockResults(), dict[str, CompressedLinear]()
    if uses_data(settings) and ids is None:
        raise StepError(f"method `{settings.method}` needs calibration ids, and there are none")
    if not isinstance(settings, Dense):
        kinds = _kinds(model, settings) if isinstance(settings, OnGguf) else {}
        model_type = getattr(getattr(model, "config", None), "model_type", "")
        work = _work(settings, model_type, reporter, kinds, seed)
        multiply_experts_in_turn(model)
        _check_all(model, settings)
        dense = None
        if getattr(settings, "target", 0):
            dense = _activations(model, work, ids, batch_tokens, device)
        if settings.changes_vocabulary:
            vocabulary = _compress_vocabulary(model, work, ids, batch_tokens)
        activations = None
        if uses_data(settings):
            activations = _activations(model, work, ids, batch_tokens, device)
            _warn_of_few_tokens(model, work, activations.tokens)
        results = _walk(model, work, activations, dense, device, resumable)
        _warn_of_idle_experts(results, work)
        if results.overdamped:
            reporter.warning(_overdamped_text(results.overdamped), linears=results.overdamped)
    return Compressed(
        settings,
        results.linears | vocabulary,
        mean_bits(settings, model, results.linears),
        zero_fraction(model),
        results.parameters,
    )


def _compress_vocabulary(
    model: nn.Module, work: "_Work", ids: torch.Tensor | None, batch_tokens: int
) -> dict[str, CompressedLinear]:
    """Compress the embedding and the head in place; what a method has no statistics of is compressed without data."""
    matrices = vocabulary_matrices(model)
    head, measured = [*matrices][-1], None
    if inverts_hessian(work.settings):
        assert ids is not None
        measured = measure_head(model, ids, work.statistics, batch_tokens, work.reporter)
        if len(matrices) == 1:
            assert measured.hessian is not None
            diagonal = measured.hessian.diagonal()
            diagonal += EMBEDDING_SHARE * diagonal.mean()
    results = {}
    for name, module in matrices.items():
        weight: torch.Tensor = module.weight.data  # type: ignore[assignment]
        statistics = measured if name == head else None
        linears = LinearGroup(
            (name,), (weight,), statistics, weight.dtype, kinds=(work.kinds[name],), reporter=work.reporter
        )
        (result,) = work.compress_linears(linears, work.settings)
        weight.copy_(result.weight)
        results[name] = result.with_weight(weight)
    return results


def _check_all(model: nn.Module, settings: MethodSettings) -> None:
    """Refuse what would fail, or stay dense, hours later."""
    check_linears_hold_most(model)
    _check(decoder_blocks(model), settings)


def _walk(
    model: nn.Module,
    work: "_Work",
    activations: Activations | None,
    dense: Activations | None,
    device: torch.device | str | None,
    resumable: ResumableBlocks | None,
) -> BlockResults:
    """Compress all blocks that no earlier walk saved, and return the results of all.

    Args:
        model: the model.
        work: the method.
        activations: the first block's inputs; None for methods without data.
        dense: those of the dense model, for a method that looks at them; None: not.
        device: where blocks compute; None: where the model is.
        resumable: the blocks that a killed walk saved.
    """
    blocks = decoder_blocks(model)
    target = torch.device(device) if device is not None else _place(blocks[0])
    results = BlockResults()
    if resumable is not None:
        results = _resume(model, blocks, activations, dense, work, resumable)
    for block in blocks[len({layer.block for layer in results.layers}) :]:
        work.reporter.check_stop()
        with _computing_on(target, block):
            if activations is None:
                done = _compress_without_data(block, work)
            else:
                done = _compress_with_data(block, activations, work, dense=dense, is_last=block is blocks[-1])
        done.linears = {
            name: done.linears[name].with_weight(linear.weight.data) for name, linear in block.linears.items()
        }
        done.parameters = {name: model.get_parameter(name).data for name in done.parameters}
        results.add(done)
        work.reporter.progress(block.index + 1, len(blocks), "block")
        if resumable is not None:
            resumable.add(block.index, done, work.settings)
    return results


def _warn_of_idle_experts(results: BlockResults, work: "_Work") -> None:
    """Warn, once for the whole model, of the experts that no calibration token reached."""
    if results.idle and uses_data(work.settings):
        instead = " and ".join(
            {"magnitude": "pruned by magnitude", "rtn": "rounded to nearest"}[method]
            for method in methods_of(without_data(work.settings))
        )
        work.reporter.warning(
            f"no calibration token reaches {len(results.idle)} of {len(results.linears)} linears, all of them experts': "
            f"they are {instead}",
            linears=results.idle,
        )


@dataclass(frozen=True)
class _Work:
    """The method: its settings, its functions, and what it needs."""

    settings: MethodSettings
    prepare: Callable[[BlockInput, Any], PreparedBlock] | None
    compress_linears: Callable[[LinearGroup, Any], list[CompressedLinear]]
    statistics: frozenset[StatisticName]
    model_type: str
    kinds: Mapping[str, BlockType]
    """Of llama.cpp's blocks, by linear; empty for other methods."""
    reporter: Reporter
    seed: int

    def seed_of(self, name: str) -> int:
        """Return a seed for the linears of which this is the first: the same whichever blocks are compressed before."""
        state = hashlib.blake2b(f"{self.seed} {name}".encode(), digest_size=8).digest()
        return int.from_bytes(state, "big") >> 1


def _work(
    settings: MethodSettings,
    model_type: str,
    reporter: Reporter,
    kinds: Mapping[str, BlockType] = MappingProxyType({}),
    seed: int = 0,
) -> _Work:
    """Resolve the method's implementation."""
    method = method_of(settings)
    if method.target is None:
        raise StepError(f"method `{settings.method}` has no implementation")
    return _Work(
        settings,
        None if method.prepare is None else resolve_name(method.prepare),
        resolve_name(method.target),
        statistics_of(settings),
        model_type,
        kinds,
        reporter,
        seed,
    )


def _kinds(model: Any, settings: OnGguf) -> dict[str, BlockType]:
    """Return the types of llama.cpp's blocks that a preset gives to the matrices of a model."""
    matrices: dict[str, Any] = vocabulary_matrices(model) | block_linears(model)
    shapes = {name: tuple(matrix.weight.shape) for name, matrix in matrices.items()}
    return mixture(settings.preset, shapes, shape_of(model.config), has_imatrix=uses_data(settings))


def _activations(
    model: nn.Module,
    work: _Work,
    ids: torch.Tensor | None,
    batch_tokens: int,
    device: torch.device | str | None,
) -> Activations:
    assert ids is not None
    blocks = decoder_blocks(model)
    place = torch.device(device) if device is not None else _place(blocks[0])
    return record_activations(model, blocks, ids, batch_tokens=batch_tokens, device=place)


def _warn_of_few_tokens(model: nn.Module, work: _Work, tokens: int) -> None:
    widest = max(linear.in_features for linear in block_linears(model).values())
    warning = too_few_tokens(tokens, widest)
    if warning is not None and inverts_hessian(work.settings):
        work.reporter.warning(warning)


def _resume(
    model: nn.Module,
    blocks: list[Block],
    activations: Activations | None,
    dense: Activations | None,
    work: _Work,
    resumable: ResumableBlocks,
) -> BlockResults:
    """Restore the blocks that an earlier walk compressed, and pass the activations through them."""
    everything = BlockResults()
    from_dense = uses_data(work.settings) and work.settings.propagate == "dense"
    for span, path in resumable.spans():
        if dense is not None:
            for block in blocks[span.start : span.stop]:
                with _computing_on(dense.device, block):
                    dense.advance(block, work.reporter)
        # The activations come from the dense or from the compressed blocks: that decides whether weights are restored first.
        results = None if from_dense else resumable.put_into(model, path)
        if activations is not None:
            for block in blocks[span.start : min(span.stop, len(blocks) - 1)]:  # nothing comes after the last
                with _computing_on(activations.device, block):
                    activations.advance(block, work.reporter)
        results = results or resumable.put_into(model, path)
        for layer in results.layers:
            work.reporter.record(layer)
        work.reporter.progress(span.stop, len(blocks), "block")
        everything.add(results)
    return everything


def _compress_without_data(block: Block, work: _Work) -> BlockResults:
    results = BlockResults()
    for name, linear in block.linears.items():
        _compress_linears(block, _linear_group(LinearModules({name: linear}), None, work), work, results)
    return results


def _compress_with_data(
    block: Block, activations: Activations, work: _Work, *, dense: Activations | None, is_last: bool
) -> BlockResults:
    """Measure and compress the linears of a block, then compute the next block's inputs, unless it is the last."""
    assert uses_data(work.settings)
    in_table = known_linear_groups(work.model_type, block)
    linear_groups = in_table or observed_linear_groups(block, lambda: activations.forward(block, 0))
    by_group = work.settings.order == "stage"
    # Those of experts differ only in the expert: one pass measures all.
    stages = [list(alike) for _, alike in groupby(linear_groups, lambda one: one.experts or id(one))]
    passes = stages if by_group else [linear_groups]
    from_dense = work.settings.propagate == "dense"
    if dense is not None and any(linears.experts for linears in linear_groups):
        raise StepError(
            "`target` is not for experts: the dense model routes other tokens to them",
            hint="leave out `target`",
        )
    twin = _Twin(block.as_dense(), dense) if dense is not None else None
    results = BlockResults()
    outputs: list[torch.Tensor] = []  # of the dense block, if these are the next block's inputs
    for index, measured in enumerate(passes):
        replay = None
        if by_group and (index < len(passes) - 1 or not (is_last or from_dense)):  # another pass follows
            replay = replay_of(block, stages, index, activations.hidden)
        inputs = _measure(
            block,
            measured,
            activations,
            work,
            outputs=outputs if from_dense and index == 0 and not is_last else None,
            stop_early=in_table is not None,
            replay=replay,
            twin=twin,
        )
        idle = tuple(linears for linears in inputs if linears.statistics is None)
        results.idle += [name for linears in idle for name in linears.names]
        reached = tuple(linears for linears in inputs if linears.statistics is not None)
        results.overdamped |= _overdamped(reached, work.settings)
        _compress_measured(block, reached, activations, work, results)
        if idle:
            without = _work(without_data(work.settings), work.model_type, work.reporter)
            _compress_measured(block, idle, activations, without, results)
        if replay is not None and replay.is_complete:
            replay.settle(activations.device)
            activations.replays.append(replay)
    if outputs:
        activations.hidden = outputs
    elif not is_last:
        activations.advance(block, work.reporter)
    activations.replays.clear()
    if twin is not None and not is_last:
        twin.activations.advance(twin.block, work.reporter)
    return results


class _Twin(NamedTuple):
    """A copy of a block that stays dense, with the dense model's activations."""

    block: Block
    activations: Activations

    def inputs(self, chunk: int, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """Return the inputs of linears for a chunk, by name; the pass ends with the last of them."""
        missing, inputs = set(names), dict[str, torch.Tensor]()

        def note(name: str, value: torch.Tensor) -> None:
            inputs[name] = value
            missing.discard(name)
            if not missing:
                raise PassEnded

        with suppress(PassEnded), Products({name: self.block.linears[name] for name in missing}, note):
            self.activations.forward(self.block, chunk)
        return inputs


def _compress_measured(
    block: Block,
    linear_groups: tuple[LinearGroup, ...],
    activations: Activations,
    work: _Work,
    results: BlockResults,
) -> None:
    """Compress linear groups of a block in place."""
    if work.prepare is not None:
        block_input = BlockInput(block, linear_groups, activations, work.reporter)
        prepared = work.prepare(block_input, work.settings)
        linear_groups = prepared.linear_groups
        _put(block, prepared.parameters)
        results.parameters |= prepared.parameters
    for linears in linear_groups:
        _compress_linears(block, linears, work, results)


def _put(block: Block, parameters: dict[str, torch.Tensor]) -> None:
    """Give parameters of a block new values."""
    for name, value in parameters.items():
        block.module.get_parameter(name.removeprefix(f"{block.name}.")).data.copy_(value)


def _linear_group(linears: LinearModules, statistics: Statistics | None, work: _Work) -> LinearGroup:
    # Methods read rows, so a weight that is stored transposed is copied.
    weights = tuple(linear.weight.data.contiguous() for linear in linears.linears.values())
    return LinearGroup(
        tuple(linears.linears),
        weights,
        statistics,
        dtype=weights[0].dtype,
        absorber=linears.absorber,
        experts=linears.experts,
        seed=work.seed_of(next(iter(linears.linears))),
        kinds=tuple(work.kinds[name] for name in linears.linears) if work.kinds else (),
        reporter=work.reporter,
    )


def _measure(
    block: Block,
    linear_groups: list[LinearModules],
    activations: Activations,
    work: _Work,
    *,
    outputs: list[torch.Tensor] | None,
    stop_early: bool,
    replay: Replay | None,
    twin: _Twin | None = None,
) -> tuple[LinearGroup, ...]:
    """Pass all tokens through the block and return its linear groups with the statistics of their inputs.

    Args:
        block: the block, all of it on the activations' device.
        linear_groups: those to measure, in the order of computation.
        activations: the block's inputs.
        work: says which statistics.
        outputs: gets the block's output for every chunk; None: it is not needed.
        stop_early: whether a pass may end at the last group's input if outputs are not needed.
        replay: of the module that ends in the only group; it keeps that group's inputs.
        twin: the block as it was; its inputs are compared with these. None: they are not.
    """
    stops = stop_early and outputs is None
    accumulators: dict[str, Accumulator] = {}  # by the first linear of each group
    for linears in linear_groups:
        name = next(iter(linears.linears))
        alike = sum(other.experts == linears.experts for other in linear_groups) if linears.experts else 1
        accumulators[name] = Accumulator(work.statistics, max(1, activations.tokens // alike))
    last = next(iter(linear_groups[-1].linears))

    dense_inputs: dict[str, torch.Tensor] = {}

    def add(name: str, inputs: torch.Tensor) -> None:
        accumulators[name].add(inputs, dense_inputs.get(name))
        if replay is not None:
            replay.keep(inputs, activations.home)
        if stops and name == last and (replay is None or replay.is_proven is not None):
            raise PassEnded

    handles = replay.watch(end=stops) if replay is not None else []
    try:
        with Products({name: block.linears[name] for name in accumulators}, add):
            for chunk in range(len(activations.hidden)):
                work.reporter.check_stop()
                if twin is not None:
                    dense_inputs = twin.inputs(chunk, accumulators)
                with suppress(PassEnded):
                    output = activations.forward(block, chunk)
                    if outputs is not None:
                        outputs.append(copied_to(output, activations.home))
    finally:
        for handle in handles:
            handle.remove()
    samples = sum(len(chunk) for chunk in activations.hidden)
    return tuple(
        _linear_group(linears, _statistics(linears, accumulator, samples), work)
        for linears, accumulator in zip(linear_groups, accumulators.values(), strict=True)
    )


def _statistics(linears: LinearModules, accumulator: Accumulator, samples: int) -> Statistics | None:
    """Return the statistics of a linear group's input; None if it is an expert's and no token reached it."""
    names = ", ".join(f"`{name}`" for name in linears.linears)
    if accumulator.tokens == 0:
        if linears.experts:
            return None
        raise StepError(f"no calibration token reaches {names}", hint="calibrate with more text")
    statistics = accumulator.finish(samples)
    if not statistics.is_finite():
        raise StepError(
            f"the calibration activations that reach {names} are not finite",
            hint="run the model in bfloat16 or float32; float16 overflows beyond 65,504",
        )
    return statistics


def _compress_linears(block: Block, linears: LinearGroup, work: _Work, results: BlockResults) -> None:
    """Compress a linear group in place and record its layers."""
    started = time.perf_counter()
    compressed = work.compress_linears(linears, work.settings)
    if linears.weights[0].is_cuda:
        torch.cuda.synchronize(linears.weights[0].device)
    seconds_per_weight = (time.perf_counter() - started) / sum(weight.numel() for weight in linears.weights)
    sample = None if linears.statistics is None else linears.statistics.sample
    for name, weight, result in zip(linears.names, linears.dense or linears.weights, compressed, strict=True):
        if not is_finite(result.weight):
            raise StepError(f"`{work.settings.method}` made weights of `{name}` that are not finite")
        layer = Layer(
            block=block.index,
            linear=name,
            relative_error=relative_error(weight, result.weight, sample),
            sparsity=zeros(result.weight) / weight.numel(),
            bits_per_weight=_bits(work.settings, weight.shape[1], result),
            weights=weight.numel(),
            seconds=seconds_per_weight * weight.numel(),
        )
        work.reporter.record(layer)
        results.layers.append(layer)
        parameter = block.linears[name].weight.data
        parameter.copy_(result.weight)
        if isinstance(work.settings, Quantization) and codes_come_back(work.settings.bits, parameter.dtype):
            result = result._replace(codes=None)
        results.linears[name] = result.with_weight(parameter)


def _check(blocks: list[Block], settings: MethodSettings) -> None:
    """Refuse what would fail hours later: sizes that do not divide, weights that are not finite."""
    linears = {name: linear for block in blocks for name, linear in block.linears.items()}
    unfit: dict[tuple[str, int], list[str]] = defaultdict(list)
    for name, linear in linears.items():
        problem = settings.problem_with(linear.in_features)
        if problem is not None:
            unfit[problem[1], linear.in_features].append(name)
    problems = [
        Problem(f"{reason} the {inputs} inputs of {_listed(names)}")
        for (reason, inputs), names in unfit.items()
    ]
    broken = [name for name, linear in linears.items() if not is_finite(linear.weight)]
    if broken:
        problems.append(
            Problem(
                f"weights are not finite in {_listed(broken)}",
                hint="the checkpoint is damaged, or was converted to a dtype that cannot hold it",
            )
        )
    if problems:
        raise StepError(problems)


def _overdamped(linear_groups: tuple[LinearGroup, ...], settings: MethodSettings) -> dict[str, float]:
    """Return the linears with λ over the median of diag H, and how many times it is."""
    if not isinstance(settings, SparseGPT | GPTQ | GPTQOnGguf | PruneThenQuantize) or not inverts_hessian(
        settings
    ):
        return {}
    shares = [damping_over_median(linears.hessian, settings.damping) for linears in linear_groups]
    pairs = zip(linear_groups, shares, strict=True)
    return {name: share for linears, share in pairs if share > 1 for name in linears.names}


def _overdamped_text(overdamped: dict[str, float]) -> str:
    """Return the warning for linears with λ over the median of diag H, by how many times it is."""
    names = sorted(overdamped, key=lambda name: -overdamped[name])
    return (
        f"damping exceeds the median of diag H, {overdamped[names[0]]:.3g} times at most, in {_listed(names)}: "
        "for most of their inputs it weighs more than the calibration text; try a smaller `damping`"
    )


def _listed(names: list[str]) -> str:
    listed = ", ".join(f"`{name}`" for name in names[:4])
    return listed if len(names) <= 4 else f"{listed} and {len(names) - 4} more"


def _place(block: Block) -> torch.device:
    return next(block.module.parameters()).device


@contextmanager
def _computing_on(device: torch.device, block: Block) -> Iterator[None]:
    """Move the block to the device for a while."""
    home = _place(block)
    block.module.to(device)
    try:
        yield
    finally:
        block.module.to(home)


def _bits(settings: MethodSettings, inputs: int, linear: CompressedLinear | None) -> float:
    if linear is not None and linear.blocks is not None:
        return linear.blocks.bits_per_weight
    return settings.bits_per_weight(inputs)


def mean_bits(
    settings: MethodSettings,
    model: nn.Module,
    compressed: Mapping[str, CompressedLinear] = MappingProxyType({}),
) -> float:
    """Return the mean bits per weight of the decoder blocks, with masks, scales and zero points: by the settings, or of blocks.

    Weights of the decoder blocks that are in no linear stay dense, and count as such.
    """
    linears = block_linears(model)
    weights = sum(parameter.numel() for parameter in block_matrices(model).values())
    dense = weights - sum(linear.weight.numel() for linear in linears.values())
    bits = sum(
        _bits(settings, linear.in_features, compressed.get(name)) * linear.weight.numel()
        for name, linear in linears.items()
    )
    return (bits + Dense().bits_per_weight(0) * dense) / weights


def zero_fraction(model: nn.Module) -> float:
    """Return the fraction of the decoder blocks' weights that are exactly 0."""
    matrices = block_matrices(model).values()
    return sum(zeros(matrix.data) for matrix in matrices) / sum(matrix.numel() for matrix in matrices)
