"""Which linears of a block multiply what, seen while the block runs.

A linear is recognised by the memory of its weight in the product that reads it: whether a module's forward multiplies, an expert's part
of a parameter, or code that takes the weight of a module without calling it (as Mamba's does).
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from typing_extensions import override


class HasWeight(Protocol):
    """A linear."""

    @property
    def weight(self) -> torch.Tensor:
        """Return the weight, ``[out, in]``."""


class _Operands(NamedTuple):
    """Where a function takes the factors of its product."""

    left: int
    names: tuple[str, str] = ("input", "other")
    """Of the left factor and the one after it, as keywords."""


_MATMUL, _BIASED = _Operands(0), _Operands(1, ("mat1", "mat2"))
_PRODUCTS: dict[Any, _Operands] = {
    functional.linear: _Operands(0, ("input", "weight")),
    torch.matmul: _MATMUL,
    torch.Tensor.matmul: _MATMUL,
    torch.Tensor.__matmul__: _MATMUL,
    torch.mm: _Operands(0, ("input", "mat2")),
    torch.Tensor.mm: _Operands(0, ("input", "mat2")),
    torch.bmm: _Operands(0, ("input", "mat2")),
    torch.Tensor.bmm: _Operands(0, ("input", "mat2")),
    torch.addmm: _BIASED,
    torch.Tensor.addmm: _BIASED,
    torch.baddbmm: _Operands(1, ("batch1", "batch2")),
    torch.Tensor.baddbmm: _Operands(1, ("batch1", "batch2")),
}


def place_of(tensor: torch.Tensor) -> tuple[int, int, int]:
    """Return where numbers are: in which storage, from where on, and how many. Equal for views of the same ones, while they live."""
    whole = tensor if tensor._base is None else tensor._base
    return whole.untyped_storage()._cdata, int(tensor.storage_offset()), tensor.numel()


class Products(TorchFunctionMode):
    """While it is entered, calls a function with the name and the input ``[..., tokens, in]`` of every linear that multiplies."""

    def __init__(self, linears: Mapping[str, HasWeight], note: Callable[[str, torch.Tensor], None]) -> None:
        """Recognise these linears, which must not move while this is entered.

        Args:
            linears: by name.
            note: is called before the product is computed. It may raise, to end the pass.
        """
        super().__init__()
        self._note = note
        self._linears: dict[tuple[int, int, int], tuple[str, int]] = {}
        for name, linear in linears.items():
            weight = linear.weight
            self._linears[place_of(weight)] = name, weight.stride(1)

    @override
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if (operands := _PRODUCTS.get(func)) is not None:
            left, right = (
                args[place] if place < len(args) else kwargs[name]
                for place, name in enumerate(operands.names, start=operands.left)
            )
            self._see(left, right.mT if func is functional.linear and right.dim() > 1 else right)
        return func(*args, **kwargs)

    def _see(self, left: torch.Tensor, right: torch.Tensor) -> None:
        """Tell of the product ``left · right`` if one of the two is a linear's weight, or the weights of all experts."""
        if right.dim() == 3 and left.dim() == 3:
            for one, matrix in zip(left, right, strict=False):
                if (name := self._name(matrix.mT)) is None:
                    return
                self._note(
                    name, one[one.any(-1)]
                )  # experts that get all tokens get zeros for those routed elsewhere
        elif right.dim() == 2 and (name := self._name(right.mT)) is not None:
            self._note(name, left)
        elif left.dim() == 2 and right.dim() > 1 and (name := self._name(left)) is not None:
            self._note(name, right.mT)

    def _name(self, weight: torch.Tensor) -> str | None:
        """Return which linear a matrix ``[out, in]`` is, if any; its transpose, or a part of it, is none."""
        name, stride = self._linears.get(place_of(weight), (None, 0))
        return name if stride == weight.stride(1) else None
