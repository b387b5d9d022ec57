"""A sink for Parquet files: a table with a row for each item."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from zpipe.sinks.files import Item, explained
from zpipe.sinks.parts import PART_BYTES, Parts
from zpipe.values.errors import ConfigError, EncodeError

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError:  # an extra
    pa = None

PATH = "zpipe_path"  # the column of the items' paths
VALUE = "value"  # and of items that are no map
ROWS_MANY = 20_000  # of a part that is large enough
SCHEMA = "schema"  # what the workers agree on


class parquet:
    """Write items as rows of Parquet files in a folder, a column for each key; `zpipe_path` has their paths.

    In: maps with the same keys each (what is missing is null), or values, in a column `value`: numbers, text, bytes,
        times, arrays, lists and maps; arrays of one dimension may differ in length, others have one shape
    The first call says the types; `types` does for columns that begin with None, {"note": "string"}.
    A relative `path` is in the run folder.  Any number of workers may share a folder.  A part that has 4 MiB or
    20,000 rows is followed by another.
    Holds: the open part, up to 4 MiB.  Errors: ConfigError without pyarrow; StageError when the folder is another
    run's; EncodeError.
    """

    def __init__(self, path: str, types: Mapping[str, str] | None = None) -> None:
        if pa is None:
            raise ConfigError("the sink parquet needs pyarrow: pip install 'zpipe[parquet]'")
        self._types = {name: _type(name, alias) for name, alias in (types or {}).items()}
        self._parts = Parts(path, "parquet", _Tail, _paths_of)
        self._schema = self._agreed()

    def commit(self, items: Sequence[Item]) -> None:
        """Write the items that are not in a file yet; they are on disk when this returns."""
        if not items:
            return
        if self._schema is None:
            schema = _schema(items, self._types)
            _table(items, schema)  # before others are held to it
            self._parts.agree(SCHEMA, schema.serialize().to_pybytes())
            self._schema = self._agreed()
        self._parts.commit(_table(items, self._schema), items)

    def close(self) -> None:
        """Close the index."""
        self._parts.close()

    def _agreed(self) -> Any:
        known = self._parts.fact(SCHEMA)
        return None if known is None else pa.ipc.read_schema(pa.py_buffer(known))


class _Tail:
    """The rows of an open part."""

    def __init__(self, path: Path | None) -> None:
        self._tables: list[Any] = []
        if path is not None:
            with explained(path):
                self._tables.append(pq.ParquetFile(pa.BufferReader(path.read_bytes())).read())

    @property
    def is_full(self) -> bool:
        """Tell whether the part is large enough."""
        return sum(map(len, self._tables)) >= ROWS_MANY or sum(table.nbytes for table in self._tables) >= PART_BYTES

    def add(self, batch: Any, which: Sequence[int]) -> int:
        """Take in rows, and return how many."""
        self._tables.append(batch if len(which) == len(batch) else batch.take(pa.array(which)))
        return len(which)

    def write(self, file: BinaryIO) -> None:
        """Write the whole file, its rows in one group."""
        table = pa.concat_tables(self._tables).combine_chunks()
        self._tables = [table]
        made = pa.BufferOutputStream()
        texts = [field.name for field in table.schema if pa.types.is_string(field.type)]  # that may come again
        pq.write_table(table, made, row_group_size=max(1, len(table)), use_dictionary=texts)
        file.write(made.getvalue())


def _paths_of(path: Path) -> Iterator[str]:
    with explained(path):
        yield from pq.ParquetFile(pa.BufferReader(path.read_bytes())).read(columns=[PATH])[PATH].to_pylist()


# -- types ------------------------------------------------------------------------------------------


def _type(name: str, alias: str) -> Any:
    try:
        return pa.type_for_alias(alias)
    except ValueError:
        way_out = "use one of Arrow's: int64, float32, string, binary, bool, timestamp[us] ..."
        raise ConfigError(f"the column {name!r} has the type {alias!r}, which there is not: {way_out}") from None


def _schema(items: Sequence[Item], types: Mapping[str, Any]) -> Any:
    """Return the columns that items have.  Raises EncodeError."""
    rows = [_row(item) for item in items]
    names = dict.fromkeys(name for row in rows for name in row)
    fields = [pa.field(PATH, pa.string(), nullable=False)]
    for name in (*names, *(name for name in types if name not in names)):
        found = types.get(name)
        for item, row in zip(items, rows, strict=True):
            if found is None and row.get(name) is not None:
                found = _type_of(row[name], item, name)
        if found is None:
            way_out = f"say its type, types = {{ {name} = 'string' }}, or leave it out"
            raise EncodeError(
                f"cannot write {items[0].path}: item[{name!r}] is None in all of the first items: {way_out}"
            )
        fields.append(pa.field(name, found))
    return pa.schema(fields)


def _row(item: Item) -> Mapping[str, Any]:
    if not isinstance(item.value, dict):
        return {VALUE: item.value}
    for key in item.value:
        if not isinstance(key, str) or key == PATH:
            raise EncodeError(f"cannot write {item.path}: item has the key {key!r:.40}: names of columns are text")
    return item.value


def _type_of(value: Any, item: Item, name: str) -> Any:
    try:
        if not hasattr(value, "dtype"):
            return pa.array([value]).type
        number = _number(value)
        if value.ndim < 2:
            return pa.list_(number) if value.ndim else number
        return pa.fixed_shape_tensor(number, value.shape)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise _refused(item, name, value, error) from None


def _number(value: Any) -> Any:
    """Return the type of an array's numbers.  Raises TypeError."""
    if value.dtype.kind not in "biuf" or value.dtype.itemsize > 8:
        raise TypeError(f"numbers of {value.dtype} are not for Parquet")
    return pa.from_numpy_dtype(value.dtype)


# -- values -----------------------------------------------------------------------------------------


def _table(items: Sequence[Item], schema: Any) -> Any:
    """Return items as a table.  Raises EncodeError naming the first that does not fit."""
    rows = [_row(item) for item in items]
    for item, row in zip(items, rows, strict=True):
        if more := row.keys() - set(schema.names):
            raise EncodeError(
                f"cannot write {item.path}: item has {min(more)!r}, for which the first items have made no column: "
                "give all the same keys, None where there is nothing"
            )
    columns = [pa.array([item.path for item in items], pa.string())]
    for field in list(schema)[1:]:
        values = [row.get(field.name) for row in rows]
        try:
            columns.append(_column(values, field.type))
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            for item, value in zip(items, values, strict=True):
                _try(item, field, value)
            raise
    return pa.table(columns, schema=schema)


def _try(item: Item, field: Any, value: Any) -> None:
    try:
        _column([value], field.type)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise _refused(item, field.name, value, error) from None


def _column(values: list[Any], kind: Any) -> Any:
    shape, number = None, kind
    if isinstance(kind, pa.FixedShapeTensorType):
        shape, number = tuple(kind.shape), kind.value_type
    elif pa.types.is_list(kind):
        shape, number = (None,), kind.value_type
    for value in values:
        if hasattr(value, "dtype"):
            _check(value, shape or (), number)
    plain = pa.array([value for value in values if value is not None and not hasattr(value, "dtype")])
    if not _fits(plain.type, kind):
        raise TypeError(f"the first items have {'arrays of shape ' + str(shape) if shape else kind}")
    if not isinstance(kind, pa.FixedShapeTensorType):
        return pa.array(values, kind)
    flat = [None if value is None else value.reshape(-1) for value in values]
    return pa.ExtensionArray.from_storage(kind, pa.array(flat, kind.storage_type))


def _fits(found: Any, kind: Any) -> bool:
    """Tell whether a column takes values of a type as they are: Arrow itself would cut some."""
    is_a = pa.types
    if found == kind or is_a.is_null(found):
        return True
    if is_a.is_list(found) and is_a.is_list(kind):
        return _fits(found.value_type, kind.value_type)
    if is_a.is_struct(found) and is_a.is_struct(kind):
        known = {field.name: field.type for field in kind}
        return all(field.name in known and _fits(field.type, known[field.name]) for field in found)
    if is_a.is_integer(found):
        return bool(is_a.is_integer(kind) or is_a.is_floating(kind))  # what is too large for it is refused
    families = (is_a.is_floating, is_a.is_temporal, _is_text, _is_bytes)
    return any(is_one(found) and is_one(kind) for is_one in families)


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_bytes(kind: Any) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _check(value: Any, shape: tuple[int | None, ...], number: Any) -> None:
    """See that an array is as its column says: nothing is rounded or cut.  Raises TypeError."""
    same = len(shape) == value.ndim and all(n in (None, m) for n, m in zip(shape, value.shape, strict=True))
    if not same or _number(value) != number:
        have = f"{number}s of shape {tuple('any' if n is None else n for n in shape)}" if shape else f"{number}s"
        raise TypeError(f"the first items have {have}")


def _refused(item: Item, name: str, value: Any, error: Exception) -> EncodeError:
    what = f"{value.dtype} {value.shape}" if hasattr(value, "dtype") else f"a {type(value).__name__}"
    why = " ".join(str(error).split())
    return EncodeError(f"cannot write {item.path}: item[{name!r}] is {what}: {why}")
