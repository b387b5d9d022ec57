"""Items as the rows of one array (n, ...), which are numbers or arrays of one form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zpipe.values.errors import StageError


def stacked(stretches: Sequence[Any]) -> Any:
    """Return the items of stretches, each an array of them or a list, one stretch behind the other; read-only.

    Raises StageError as `stack` does.
    """
    import numpy as np

    forms = {(part.dtype, part.shape[1:]) if isinstance(part, np.ndarray) else None for part in stretches}
    if len(forms) > 1 or None in forms:
        return stack([item for part in stretches for item in part])
    return stretches[0] if len(stretches) == 1 else _still(np.concatenate(stretches))


def stack(items: Sequence[Any]) -> Any:
    """Return items as one array, read-only.  Raises StageError unless they are numbers or arrays of one form."""
    import numpy as np

    for item in items:
        if not isinstance(item, np.ndarray | np.generic | int | float | complex):
            what = type(item).__name__
            raise StageError(f"is stacked and was given a {what}: only arrays and numbers can be stacked")
    arrays = [np.asarray(item) for item in items]
    forms = {(array.dtype, array.shape): None for array in arrays}
    if len(forms) > 1:
        first, second, *_ = (f"{dtype} of shape {shape}" for dtype, shape in forms)
        raise StageError(f"is stacked and was given {first} beside {second}: a block needs one shape and dtype")
    return _still(np.stack(arrays))


def rows_of(block: Any) -> Any:
    """Return what a stacked source yielded.  Raises StageError unless it is an array of items."""
    import numpy as np

    if isinstance(block, np.ndarray) and block.ndim > 0:
        return block
    what = "a numpy array without dimensions" if isinstance(block, np.ndarray) else f"a {type(block).__name__}"
    raise StageError(f"is stacked and yielded {what}: yield arrays (n, ...) of n items")


def _still(array: Any) -> Any:
    array.flags.writeable = False
    return array
