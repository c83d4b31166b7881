"""Walks through a model block by block, measures what each stage's input looks like, and compresses its linears.

A method sees one stage at a time: linears that share an input, with the statistics it asked for in
:data:`studyctl.contract.methods.METHODS`. Policy: whatever a method cannot do is a :class:`StepError` that names
the linear; no linear ever gets another method's result.
"""

import importlib
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from studyctl.compress.prune.masks import zeros
from studyctl.compress.walk.activations import Activations, record_activations
from studyctl.compress.walk.architectures import Block, Stage, decoder_blocks, known_stages, observed_stages
from studyctl.compress.walk.finished import BlockResults, FinishedBlocks
from studyctl.compress.walk.replay import PassEnded, Replay, replay_of
from studyctl.compress.walk.statistics import Accumulator, Statistics, is_finite, relative_error
from studyctl.compress.weights.compressed import (
    BlockInput,
    Compressed,
    CompressedLinear,
    GridRoom,
    PreparedBlock,
    StageInput,
)
from studyctl.contract.limits import ADDS_ATTENTION
from studyctl.contract.methods import (
    Dense,
    MethodSettings,
    StatisticName,
    WithData,
    method_of,
    statistics_of,
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
    finished: FinishedBlocks | None = None,
) -> Compressed:
    """Compress all linears of the decoder blocks in place; embeddings, norms and ``lm_head`` stay as they are.

    Every linear makes a ``layer`` record: ``relative_error`` is that of its output on a sample of the calibration
    tokens (of its weight, for methods without data), ``seconds`` its share of the method's time for the stage. The same
    model, settings, ids and ``batch_tokens`` give the same bits on the same machine.

    Args:
        model: a causal language model of transformers; it is put into evaluation mode.
        settings: of the method. :class:`~studyctl.contract.methods.Dense` changes nothing and compresses no linear.
        ids: int64 ``[samples, tokens]``; methods without data need none.
        batch_tokens: tokens that pass through a block at once; at least one sample does.
        reporter: told of blocks, linears and warnings.
        device: where blocks compute, one at a time; None: where the model is.
        finished: what a walk with the same arguments left when it was killed, and where this one leaves its blocks.

    Raises:
        StepError: the settings do not fit the model, a weight or an activation is not finite, or there is nothing to
            calibrate with.
    """
    model.eval()
    blocks = decoder_blocks(model)
    _check(blocks, settings)
    everything = BlockResults()
    if not isinstance(settings, Dense):
        work = _work(blocks, settings, reporter)
        target = torch.device(device) if device is not None else _place(blocks[0])
        has_data = isinstance(settings, WithData)
        activations = _activations(model, blocks, work, ids, batch_tokens, target) if has_data else None
        if finished is not None:
            everything = _taken_up(model, blocks, activations, work, finished)
        for block in blocks[len({layer.block for layer in everything.layers}) :]:
            reporter.check_stop()
            with _computing_on(target, block):
                if activations is None:
                    results = _compress_without_data(block, work)
                else:
                    results = _compress_with_data(
                        model, block, activations, work, is_last=block is blocks[-1]
                    )
            results.linears = {
                name: results.linears[name]._replace(weight=linear.weight.data)
                for name, linear in block.linears.items()
            }
            results.parameters = {name: model.get_parameter(name).data for name in results.parameters}
            everything.add(results)
            reporter.progress(block.index + 1, len(blocks), "block")
            if finished is not None:
                finished.add(block.index, results, settings)
    return _summary(blocks, settings, everything)


_OUTPUTS = "outputs"
"""Under this name a block's dense outputs are kept."""


@dataclass(frozen=True)
class _Work:
    """What is done to every stage."""

    settings: MethodSettings
    prepare: Callable[[BlockInput, Any], PreparedBlock] | None
    compress_stage: Callable[[StageInput, Any], list[CompressedLinear]]
    wanted: frozenset[StatisticName]
    reporter: Reporter
    room: GridRoom


def _work(blocks: list[Block], settings: MethodSettings, reporter: Reporter) -> _Work:
    """Resolve the method's implementation."""
    method = method_of(settings)
    if method.target is None:
        raise StepError(f"method `{settings.method}` has no implementation")
    prepare = None if method.prepare is None else _resolve(method.prepare)
    room = GridRoom([linear for block in blocks for linear in block.linears.values()], settings)
    return _Work(settings, prepare, _resolve(method.target), statistics_of(settings), reporter, room)


def _resolve(target: str) -> Any:
    module, _, function = target.partition(":")
    return getattr(importlib.import_module(module), function)


def _activations(
    model: nn.Module,
    blocks: list[Block],
    work: _Work,
    ids: torch.Tensor | None,
    batch_tokens: int,
    device: torch.device,
) -> Activations:
    if ids is None:
        raise StepError(f"method `{work.settings.method}` needs calibration ids, and there are none")
    activations = record_activations(model, blocks, ids, batch_tokens=batch_tokens, device=device)
    widest = max(linear.in_features for block in blocks for linear in block.linears.values())
    method = work.settings.method
    inverts = not {"sparsegpt", "gptq"}.isdisjoint([method] if isinstance(method, str) else method)
    if inverts and activations.tokens < widest:
        work.reporter.warning(
            f"{activations.tokens} calibration tokens for linears with up to {widest} inputs: "
            "their Hessians are singular, and only damping makes them invertible"
        )
    return activations


def _taken_up(
    model: nn.Module,
    blocks: list[Block],
    activations: Activations | None,
    work: _Work,
    finished: FinishedBlocks,
) -> BlockResults:
    """Give blocks that an earlier walk finished their weights, and bring the activations up to them.

    Activations are those of the dense blocks, or of the compressed ones: that decides what comes first.
    """
    everything = BlockResults()
    from_dense = isinstance(work.settings, WithData) and work.settings.propagate == "dense"
    for span, path in finished.spans():
        passed = blocks[span.start : min(span.stop, len(blocks) - 1)]  # nothing comes after the last one
        if activations is not None and from_dense:
            _advance(activations, passed, work.reporter)
        results = finished.put_into(model, path)
        if activations is not None and not from_dense:
            _advance(activations, passed, work.reporter)
        for layer in results.layers:
            work.reporter.record(layer)
        work.reporter.progress(span.stop, len(blocks), "block")
        everything.add(results)
    return everything


def _advance(activations: Activations, blocks: list[Block], reporter: Reporter) -> None:
    for block in blocks:
        with _computing_on(activations.device, block):
            activations.advance(block, reporter)


def _compress_without_data(block: Block, work: _Work) -> BlockResults:
    results = BlockResults()
    for name, linear in block.linears.items():
        _compress_stage(block, _stage_input(Stage({name: linear}), None, work), work, results)
    return results


def _compress_with_data(
    model: nn.Module, block: Block, activations: Activations, work: _Work, *, is_last: bool
) -> BlockResults:
    """Measure and compress the stages of a block, then make the next block's inputs, unless there is none."""
    assert isinstance(work.settings, WithData)
    model_type = getattr(getattr(model, "config", None), "model_type", "")
    known = known_stages(model_type, block)
    adds_attention = known is not None and model_type in ADDS_ATTENTION
    stages = known or observed_stages(block, lambda: activations.forward(block, 0))
    passes = [stages] if work.settings.order == "block" else [[stage] for stage in stages]
    from_dense = work.settings.propagate == "dense"
    has_pass_after = not is_last and not from_dense  # of the whole compressed block
    results = BlockResults()
    for number, seen in enumerate(passes):
        is_followed = number < len(passes) - 1
        is_replayed = work.settings.order == "stage" and (is_followed or has_pass_after)
        replay = (
            replay_of(block, stages, seen[0], activations.hidden, adds_attention=adds_attention)
            if is_replayed
            else None
        )
        statistics = _measure(
            block,
            seen,
            activations,
            work,
            keep_outputs=from_dense and number == 0 and not is_last,
            stop_early=known is not None,
            replay=replay,
        )
        inputs = tuple(
            _stage_input(stage, measured, work) for stage, measured in zip(seen, statistics, strict=True)
        )
        if work.prepare is not None:
            absorbers = tuple(stage.absorber for stage in seen)
            prepared = work.prepare(
                BlockInput(block, inputs, absorbers, activations, work.reporter), work.settings
            )
            inputs = prepared.stages
            results.parameters |= _put(block, prepared.parameters)
        for stage_input in inputs:
            _compress_stage(block, stage_input, work, results)
        if replay is not None and replay.is_complete:
            if is_followed:
                replay.settle(activations.hidden, activations.device, activations.keep)
            activations.replays.append(replay)
    if has_pass_after:
        activations.advance(block, work.reporter)
    elif not is_last:
        activations.change(_OUTPUTS)
    activations.replays.clear()
    return results


def _put(block: Block, parameters: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Give parameters of a block new values."""
    own = {f"{block.name}.{name}": parameter for name, parameter in block.module.named_parameters()}
    for name, value in parameters.items():
        if not is_finite(value):
            raise StepError(f"`{name}` would not be finite with a scale folded into it")
        own[name].data.copy_(value)
    return parameters


def _stage_input(stage: Stage, statistics: Statistics | None, work: _Work) -> StageInput:
    weights = tuple(linear.weight.data for linear in stage.linears.values())
    return StageInput(
        tuple(stage.linears), weights, statistics, dtype=weights[0].dtype, reporter=work.reporter
    )


def _measure(
    block: Block,
    stages: list[Stage],
    activations: Activations,
    work: _Work,
    *,
    keep_outputs: bool,
    stop_early: bool,
    replay: Replay | None = None,
) -> list[Statistics]:
    """Pass all tokens through the block and return the statistics of each stage's input.

    Args:
        block: the block, all of it on the activations' device.
        stages: in the order of computation.
        activations: the block's inputs.
        work: which statistics.
        keep_outputs: whether the block's output for every chunk is kept.
        stop_early: whether what follows the last stage's input may be left out where no outputs are wanted.
        replay: of the module that ends in the only stage, to be given its inputs.
    """
    stops = stop_early and not keep_outputs
    accumulators = [Accumulator(work.wanted, activations.tokens) for _ in stages]

    def listen(stage: Stage, accumulator: Accumulator) -> Any:
        def add(_: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            accumulator.add(args[0])
            if replay is not None:
                replay.keep(args[0], activations.keep)
            if stops and stage is stages[-1] and (replay is None or replay.is_proven is not None):
                raise PassEnded

        return next(iter(stage.linears.values())).register_forward_pre_hook(add)

    handles = [listen(stage, accumulator) for stage, accumulator in zip(stages, accumulators, strict=True)]
    handles += replay.watch(end=stops) if replay is not None else []
    try:
        for chunk in range(len(activations.hidden)):
            work.reporter.check_stop()
            with suppress(PassEnded):
                output = activations.forward(block, chunk)
                if keep_outputs:
                    activations.keep(_OUTPUTS, chunk, output)
    finally:
        for handle in handles:
            handle.remove()
    return [_finished(stage, accumulator) for stage, accumulator in zip(stages, accumulators, strict=True)]


def _finished(stage: Stage, accumulator: Accumulator) -> Statistics:
    names = ", ".join(f"`{name}`" for name in stage.linears)
    if accumulator.tokens == 0:
        raise StepError(f"no calibration token reaches {names}", hint="calibrate with more text")
    statistics = accumulator.finish()
    if not statistics.is_finite():
        raise StepError(
            f"the calibration activations that reach {names} are not finite",
            hint="run the model in bfloat16 or float32; float16 overflows beyond 65,504",
        )
    return statistics


def _compress_stage(block: Block, stage: StageInput, work: _Work, results: BlockResults) -> None:
    """Compress the linears of a stage in place and record how that went."""
    started = time.perf_counter()
    compressed = work.compress_stage(stage, work.settings)
    if stage.weights[0].is_cuda:
        torch.cuda.synchronize(stage.weights[0].device)
    seconds_per_weight = (time.perf_counter() - started) / sum(weight.numel() for weight in stage.weights)
    sample = None if stage.statistics is None else stage.statistics.sample
    for name, weight, result in zip(stage.names, stage.dense or stage.weights, compressed, strict=True):
        if not is_finite(result.weight):
            raise StepError(f"`{work.settings.method}` made weights of `{name}` that are not finite")
        layer = Layer(
            block=block.index,
            linear=name,
            relative_error=relative_error(weight, result.weight, sample),
            sparsity=zeros(result.weight) / weight.numel(),
            bits_per_weight=work.settings.bits_per_weight(weight.shape[1]),
            weights=weight.numel(),
            seconds=seconds_per_weight * weight.numel(),
        )
        work.reporter.record(layer)
        results.layers.append(layer)
        own = block.linears[name].weight.data
        own.copy_(result.weight)
        results.linears[name] = work.room.hold(result)._replace(weight=own)


def _check(blocks: list[Block], settings: MethodSettings) -> None:
    """Find everything that will fail before hours are spent: sizes that do not divide, weights that are not finite."""
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


def _listed(names: list[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:4])
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"


def _place(block: Block) -> torch.device:
    return next(iter(block.linears.values())).weight.device


@contextmanager
def _computing_on(device: torch.device, block: Block) -> Iterator[None]:
    """Hold the block on the device for a while."""
    home = _place(block)
    block.module.to(device)
    try:
        yield
    finally:
        block.module.to(home)


def _summary(blocks: list[Block], settings: MethodSettings, results: BlockResults) -> Compressed:
    everything = [linear for block in blocks for linear in block.linears.values()]
    pruned = sum(zeros(linear.weight) for linear in everything)
    sparsity = pruned / sum(linear.weight.numel() for linear in everything)
    return Compressed(
        settings, results.linears, mean_bits(settings, everything), sparsity, results.parameters
    )


def mean_bits(settings: MethodSettings, linears: Collection[nn.Linear]) -> float:
    """Return what settings say of the bits that a weight of these linears takes, with masks, scales and zeros."""
    bits = sum(settings.bits_per_weight(linear.in_features) * linear.weight.numel() for linear in linears)
    return bits / sum(linear.weight.numel() for linear in linears)
