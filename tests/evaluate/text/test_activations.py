"""Hidden states after each decoder block, against numpy on what transformers' own hooks see."""

import errno
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from studyctl.contract.records import BlockDistance
from studyctl.errors import ProblemCode, StepError
from studyctl.evaluate.text import activations as module
from studyctl.evaluate.text.activations import DenseStates, compare_states, keep_states
from studyctl.reporter import SilentReporter
from studyctl.store.text_totals import block_figures
from tests.evaluate.conftest import FAMILIES, Recorder
from tests.evaluate.windows_made import windows_of

IDS = np.random.RandomState(0).randint(0, 256, (3, 20))


def on_disk(folder: Path, ids: NDArray[Any] = IDS) -> DenseStates:
    return DenseStates(windows_of(ids), tuple(folder / f"{number}.safetensors" for number in range(len(ids))))


def compare(model: Any, dense: DenseStates, blocks: Sequence[Any] | None = None) -> list[BlockDistance]:
    return compare_states(
        model,
        model.model.layers if blocks is None else blocks,
        dense,
        language="sw",
        reporter=SilentReporter(),
    )


def keep(model: Any, dense: DenseStates) -> DenseStates:
    keep_states(model, model.model.layers, dense, SilentReporter())
    return dense


def seen_by_hooks(model: Any) -> list[NDArray[np.float64]]:
    """Return the output of each block, ``[windows, length, hidden]``."""
    seen: list[NDArray[np.float64]] = []
    hooks = [
        layer.register_forward_hook(
            lambda _module, _args, output: seen.append(
                (output[0] if isinstance(output, tuple) else output).double().numpy()
            )
        )
        for layer in model.model.layers
    ]
    with torch.no_grad():
        model(torch.from_numpy(IDS), use_cache=False)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("family", FAMILIES)
def test_energies_are_those_of_the_outputs_of_the_blocks(
    tmp_path: Path, tiny: Callable[..., Any], family: str
) -> None:
    """The whole model runs, so the second block starts from the compressed first one's outputs; final norms are not included."""
    dense, other = tiny(family), tiny(family)
    with torch.no_grad():
        other.model.layers[0].mlp.down_proj.weight.mul_(0.8)
    records = compare(other, keep(dense, on_disk(tmp_path)))
    expected = zip(seen_by_hooks(dense), seen_by_hooks(other), strict=True)
    for record, (x, y) in zip(records, expected, strict=True):
        assert record.signal == pytest.approx((x[:, 1:] ** 2).sum(), rel=1e-5)
        assert record.noise == pytest.approx(((x - y)[:, 1:] ** 2).sum(), rel=1e-5)
    assert [(one.language, one.block, one.tokens) for one in records] == [("sw", 0, 57), ("sw", 1, 57)]
    assert all(one.noise > 0 for one in records)


class Times(torch.nn.Module):
    """A block that multiplies its input; like some families', it returns a tuple."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, hidden: torch.Tensor) -> tuple[torch.Tensor, None]:
        return hidden * self.factor, None


def multiplying(*factors: float, times: int = 1) -> tuple[Any, list[torch.nn.Module]]:
    """Return a model whose embedding of a token is ``[token, 0]``, with these blocks, run so many times."""
    blocks: list[torch.nn.Module] = [Times(factor) for factor in factors]

    def decoder(input_ids: torch.Tensor, use_cache: bool) -> None:
        hidden = torch.stack([input_ids.float(), torch.zeros(input_ids.shape)], dim=-1)
        for block in blocks * times:
            hidden = block(hidden)[0]

    head = SimpleNamespace(weight=torch.zeros(1))
    return SimpleNamespace(get_decoder=lambda: decoder, get_output_embeddings=lambda: head), blocks


def test_figures_by_hand(tmp_path: Path) -> None:
    """Windows 9 1 2 and 9 2 4, of which 1 2 and 2 4 count: the signal is 1 + 4 + 4 + 16 = 25, of blocks that double four times that."""
    dense = on_disk(tmp_path, np.array([[9, 1, 2], [9, 2, 4]]))
    model, blocks = multiplying(1.0, 2.0)
    keep_states(model, blocks, dense, SilentReporter())
    other, blocks = multiplying(0.9, 2.0)
    first, second = compare(other, dense, blocks)
    assert (first.signal, second.signal, first.tokens) == (25, 100, 4)
    assert (first.noise, second.noise) == (pytest.approx(0.25), pytest.approx(1.0))  # a tenth of each state
    assert block_figures(first) == {"snr_db": pytest.approx(20), "relative_error": pytest.approx(0.1)}
    assert block_figures(second) == block_figures(first)


def test_the_same_model_has_no_noise_and_no_ratio(tmp_path: Path, tiny: Callable[..., Any]) -> None:
    (record, _) = compare(tiny(), keep(tiny(), on_disk(tmp_path)))
    assert block_figures(record) == {"snr_db": None, "relative_error": 0.0}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_states_are_kept_in_the_dtype_of_the_model(
    tmp_path: Path, tiny: Callable[..., Any], dtype: torch.dtype
) -> None:
    """A file a window: 19 scored tokens, 32 channels, 2 blocks."""
    dense = keep(tiny(dtype=dtype), on_disk(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{n}.safetensors" for n in range(3)]
    for path in dense.paths:
        states = load_file(path)
        assert {name: (one.dtype, tuple(one.shape)) for name, one in states.items()} == {
            str(block): (dtype, (19, 32)) for block in range(2)
        }
    assert all(one.noise == 0 for one in compare(tiny(dtype=dtype), dense))


def test_what_is_missing_torn_corrupt_or_of_other_tokens_is_lost(
    tmp_path: Path, tiny: Callable[..., Any]
) -> None:
    dense = on_disk(tmp_path)
    assert not dense.exist()
    keep(tiny(), dense)
    assert dense.exist()
    assert not on_disk(tmp_path, IDS[::-1]).exist()
    whole = dense.paths[1].read_bytes()
    for damaged in (whole[:-1], whole + b"\0", whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:]):
        dense.paths[1].write_bytes(damaged)
        assert not dense.exist()
        with pytest.raises(StepError, match="the dense reference of sw was lost") as raised:
            compare(tiny(), dense)
        assert raised.value.problems[0].code is ProblemCode.REFERENCE_LOST, "so it is made again"


def test_a_model_that_does_not_compute_any_more_is_told(tmp_path: Path, tiny: Callable[..., Any]) -> None:
    dense, broken = keep(tiny(), on_disk(tmp_path)), tiny()
    with torch.no_grad():
        broken.model.layers[1].mlp.up_proj.weight[0, 0] = torch.nan
    with pytest.raises(StepError, match="the hidden states are not finite after block 1"):
        compare(broken, dense)


def test_models_of_other_shapes_are_not_compared(tmp_path: Path, tiny: Callable[..., Any]) -> None:
    dense = keep(tiny(), on_disk(tmp_path))
    with pytest.raises(StepError, match="the model has 1 blocks, its dense model 2"):
        compare(tiny(), dense, tiny().model.layers[:1])
    other, blocks = multiplying(1.0, 1.0)
    with pytest.raises(StepError, match="the model has states of 2 channels, its dense model 32"):
        compare(other, dense, blocks)


def test_blocks_that_run_twice_are_refused(tmp_path: Path) -> None:
    model, blocks = multiplying(1.0, 2.0, times=2)
    with pytest.raises(StepError, match="do not run once each"):
        keep_states(model, blocks, on_disk(tmp_path), SilentReporter())
    assert not list(tmp_path.iterdir())


def test_hooks_are_gone_afterwards_even_if_it_fails(tmp_path: Path) -> None:
    model, blocks = multiplying(1.0, 2.0, times=2)
    with pytest.raises(StepError):
        keep_states(model, blocks, on_disk(tmp_path), SilentReporter())
    assert not any(block._forward_hooks for block in blocks)


def test_a_stop_comes_between_windows(tmp_path: Path, tiny: Callable[..., Any], recorder: Recorder) -> None:
    recorder.stop_after = 1
    model, dense = tiny(), on_disk(tmp_path)

    def done(windows: int) -> None:
        recorder.progress(windows, 3, "window")

    with pytest.raises(KeyboardInterrupt):
        keep_states(model, model.model.layers, dense, recorder, done)
    assert [path.exists() for path in dense.paths] == [True, False, False]


def test_a_full_disk_is_said(
    tmp_path: Path, tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(StepError, match="no space left for the dense reference"):
        keep(tiny(), on_disk(tmp_path))
    assert not list(tmp_path.iterdir())
