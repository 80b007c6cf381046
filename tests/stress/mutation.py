"""Changing functions of the product for the length of a block: by text, by swapping statements, by dropping locks.

The function object stays, only its code is exchanged, so everybody who has imported it gets the mutant.
"""

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from scheduler.store.locks import LockStatement
from scheduler.store.statements import compiled
from scheduler.store.writer import Transaction
from tests.stress.statements import CLAUSE


def _definition(function: Any) -> ast.AsyncFunctionDef | ast.FunctionDef:
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    made = tree.body[0]
    assert isinstance(made, ast.AsyncFunctionDef | ast.FunctionDef)
    made.decorator_list = []
    return made


@contextmanager
def _code(function: Any, definition: ast.AST) -> Iterator[None]:
    space: dict[str, Any] = dict(function.__globals__)
    exec(compile(ast.Module([definition], []), f"<mutant of {function.__qualname__}>", "exec"), space)  # type: ignore[list-item]
    original = function.__code__
    function.__code__ = space[function.__name__].__code__
    try:
        yield
    finally:
        function.__code__ = original


@contextmanager
def replaced(function: Callable[..., Any], old: str, new: str) -> Iterator[None]:
    """With `old`, which must be there, replaced by `new` in the source of `function`."""
    function = inspect.unwrap(function)
    source = ast.unparse(_definition(function))
    assert old in source, f"{function.__qualname__} has no {old!r} any more: renew this mutant"
    with _code(function, ast.parse(source.replace(old, new)).body[0]):
        yield


def _blocks(node: ast.AST) -> Iterator[list[ast.stmt]]:
    for part in ast.walk(node):
        for name in ("body", "orelse"):
            block = getattr(part, name, None)
            if isinstance(block, list):
                yield block


def _names(node: ast.stmt, kind: type[ast.expr_context]) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, kind)}


def _awaits(node: ast.stmt) -> bool:
    return any(isinstance(part, ast.Await) for part in ast.walk(node))


def _can_swap(first: ast.stmt, second: ast.stmt) -> bool:
    """Both talk to the database, and neither needs what the other makes: otherwise the mutant does not even run."""
    leaves = any(isinstance(part, ast.Return | ast.Raise) for one in (first, second) for part in ast.walk(one))
    makes, needs = _names(first, ast.Store), _names(second, ast.Load)
    return _awaits(first) and _awaits(second) and not leaves and not makes & (needs | _names(second, ast.Store))


def swaps(function: Callable[..., Any]) -> Iterator[tuple[str, Any]]:
    """(what is swapped, a maker of a context manager) for each pair of neighbours that can change places."""
    function = inspect.unwrap(function)
    count = sum(1 for block in _blocks(_definition(function)) for _ in block)
    seen = 0
    for n in range(count):
        definition = _definition(function)
        at = 0
        for block in _blocks(definition):
            for i in range(len(block) - 1):
                if at == n and _can_swap(block[i], block[i + 1]):
                    one, two = (ast.unparse(part).splitlines()[0] for part in block[i : i + 2])
                    block[i], block[i + 1] = block[i + 1], block[i]
                    seen += 1
                    yield f"{function.__qualname__}: {one} <-> {two}", partial(_code, function, definition)
                    break
                at += 1
            else:
                continue
            break


def _lock_calls(node: ast.AST) -> list[ast.Attribute]:
    """`tx.lock` of each call of it."""
    return [
        part.func
        for part in ast.walk(node)
        if isinstance(part, ast.Call)
        and isinstance(part.func, ast.Attribute)
        and part.func.attr == "lock"
        and ast.unparse(part.func.value) == "tx"
    ]


def count_locks(source: str) -> int:
    """How often a module takes a lock."""
    return len(_lock_calls(ast.parse(source)))


def unlocked(function: Callable[..., Any]) -> Iterator[tuple[str, Any]]:
    """(which lock is dropped, a maker of a context manager) for each that the function takes.

    The same rows are read, so what follows has its keys; but they are not locked, and not noted as held.
    """
    function = inspect.unwrap(function)
    for n in range(len(_lock_calls(_definition(function)))):
        definition = _definition(function)
        call = next(
            part
            for part in ast.walk(definition)
            if isinstance(part, ast.Call) and part.func is _lock_calls(definition)[n]
        )
        what = f"{function.__qualname__}: {ast.unparse(call.args[0])}"
        assert isinstance(call.func, ast.Attribute)
        call.func.attr = "read_what_would_be_locked"
        yield what, partial(_without_a_lock, function, definition)


@contextmanager
def _without_a_lock(function: Any, definition: ast.AST) -> Iterator[None]:
    async def read(self: Transaction, statement: LockStatement, **params: Any) -> list[int]:
        made = compiled(statement.select)
        return [row["id"] for row in await self._fetch(CLAUSE.sub("", made.text), made.arguments(params))]

    patched: Any = Transaction
    patched.read_what_would_be_locked = read
    try:
        with _code(function, definition):
            yield
    finally:
        del patched.read_what_would_be_locked
