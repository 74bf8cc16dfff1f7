"""The heart of a convolution: a small matrix product whose result stays in the processor's registers.

Numba's compiler turns a loop over channels into vectors, but puts each of them back into memory after every sum. So
this one function is written in the compiler's own terms.
"""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"

from __future__ import annotations

from typing import Any, Final

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from sentinode.kernels.jit import has_feature

_WIDE: Final = has_feature("avx512f")
_LANES: Final = 16 if _WIDE else 8
ROWS: Final = 12 if _WIDE else 6
"""The most rows of a tile that registers hold."""
COLUMNS: Final = 2 * _LANES
_VECTOR: Final = ir.VectorType(ir.FloatType(), _LANES)


def _multiply_add(
    _typing: Any, rows: Any, result: Any, start: Any, left: Any, right: Any, counts: Any
) -> tuple[Any, Any]:
    """result[m, n] = start[m, n] + sum over segments s and steps k of left[s, m, k] * right[s, k, n].

    For m below `rows`, at most ROWS, and n below COLUMNS. Each matrix is a tuple of whole numbers behind a contiguous
    array of single precision: where it begins, then how far apart its neighbours are; columns are next to each other.
    result: (array, at, m); start: likewise; left: (array, at, s, m, k); right: (array, at, s, k); counts: (s, k).
    """
    signature = types.void(rows, result, start, left, right, counts)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        parts = [
            _parts(context, builder, kind, value) for kind, value in zip(signature.args[1:], values[1:], strict=True)
        ]
        after = builder.append_basic_block("after")
        chosen = builder.switch(values[0], after)
        for height in range(1, ROWS + 1):
            block = builder.append_basic_block(f"rows{height}")
            chosen.add_case(ir.Constant(values[0].type, height), block)
            with builder.goto_block(block):
                _emit(builder, height, *parts)
                builder.branch(after)
        builder.position_at_end(after)
        return context.get_dummy_value()

    return signature, generate


multiply_add: Any = intrinsic(_multiply_add)


def _parts(context: Any, builder: Any, kinds: Any, packed: Any) -> list[Any]:
    """The numbers of a tuple as they are, its array as the address of its first number."""
    values = cgutils.unpack_tuple(builder, packed, len(kinds))
    return [
        context.make_array(kind)(context, builder, value).data if isinstance(kind, types.Array) else value
        for kind, value in zip(kinds, values, strict=True)
    ]


def _emit(builder: Any, height: int, result: Any, start: Any, left: Any, right: Any, counts: Any) -> None:
    def vector(array: Any, at: Any) -> Any:
        return builder.bitcast(builder.gep(array, [at]), _VECTOR.as_pointer())

    def at_row(origin: Any, step: Any, row: int, column: int) -> Any:
        return builder.add(builder.add(origin, builder.mul(step, step.type(row))), step.type(column))

    places = [(m, n) for m in range(height) for n in range(2)]
    sums = {place: cgutils.alloca_once(builder, _VECTOR) for place in places}
    for m, n in places:
        from_start = vector(start[0], at_row(start[1], start[2], m, n * _LANES))
        builder.store(builder.load(from_start, align=4), sums[m, n])
    with cgutils.for_range(builder, counts[0]) as segment:
        left_at = builder.add(left[1], builder.mul(segment.index, left[2]))
        right_at = builder.add(right[1], builder.mul(segment.index, right[2]))
        with cgutils.for_range(builder, counts[1]) as step:
            a_at = builder.add(left_at, builder.mul(step.index, left[4]))
            b_at = builder.add(right_at, builder.mul(step.index, right[3]))
            b = [builder.load(vector(right[0], builder.add(b_at, b_at.type(n * _LANES))), align=4) for n in range(2)]
            for m in range(height):
                a = builder.load(builder.gep(left[0], [at_row(a_at, left[3], m, 0)]))
                spread = _spread(builder, a)
                for n in range(2):
                    product = builder.fmul(spread, b[n], flags=["contract"])
                    builder.store(builder.fadd(builder.load(sums[m, n]), product, flags=["contract"]), sums[m, n])
    for m, n in places:
        builder.store(builder.load(sums[m, n]), vector(result[0], at_row(result[1], result[2], m, n * _LANES)), align=4)


def _spread(builder: Any, number: Any) -> Any:
    """The number in every lane."""
    one = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), number, ir.IntType(32)(0))
    mask = ir.Constant(ir.VectorType(ir.IntType(32), _LANES), [0] * _LANES)
    return builder.shuffle_vector(one, ir.Constant(_VECTOR, ir.Undefined), mask)
