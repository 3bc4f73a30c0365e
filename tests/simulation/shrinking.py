"""Smaller programs that still fail: what a person wants to read.

Hypothesis shrinks what it drew, choice by choice; this shrinks what it means, step by step, and is done in
seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

from tests.simulation.programs import Box, Call, Chain, Const, Map, Pipe, Program, Ref, Route, Step

__all__ = ["shrunk"]

TRIES_MAX = 3_000


def shrunk(program: Program, fails: Callable[[Program], bool]) -> Program:
    """A program that fails too, and of which no single part can be left out."""
    tries = 0
    while True:
        for smaller in _smaller(program):
            tries += 1
            if tries > TRIES_MAX:
                return program
            if fails(smaller):
                program = smaller
                break
        else:
            return program


def _smaller(program: Program) -> Iterator[Program]:
    yield from _without_steps(program)
    if program.params:
        yield replace(program, params={})
    if not program.own_names:
        yield replace(program, own_names=True)
    for target in _simpler_args(program.target):
        if not isinstance(target, Const):
            yield replace(program, target=target)
    for number in range(len(program.steps) - 1):
        if program.target != Ref(number):
            yield replace(program, target=Ref(number))
    for number, step in enumerate(program.steps):
        for simpler in _simpler_steps(step):
            yield replace(program, steps=(*program.steps[:number], simpler, *program.steps[number + 1 :]))


def _without_steps(program: Program) -> Iterator[Program]:
    """Without one step that nobody uses, the last ones first; then with one step in the place of another."""
    used = {ref for step in (*program.steps, program.target) for ref in _refs(step)}
    for number in reversed(range(len(program.steps))):
        if number not in used:
            yield _renumbered(program, number, {})
    for number in reversed(range(len(program.steps))):
        if number in used:
            for other in dict.fromkeys((*_refs(program.steps[number]), 0)):
                if other < number:
                    yield _renumbered(program, number, {number: other})


def _renumbered(program: Program, gone: int, instead: dict[int, int]) -> Program:
    def new(number: int) -> int:
        number = instead.get(number, number)
        return number - 1 if number > gone else number

    steps = [_changed(step, new) for i, step in enumerate(program.steps) if i != gone]
    return replace(program, steps=tuple(steps), target=_changed(program.target, new))


def _refs(part: Any) -> Iterator[int]:
    """The steps that a step or argument uses."""
    if isinstance(part, Ref):
        yield part.step
    elif isinstance(part, Chain):
        yield from part.steps
    elif isinstance(part, Route):
        yield from _refs(part.selector)
        yield from (number for _, number in part.routes)
    elif isinstance(part, tuple):
        for item in part:
            yield from _refs(item)
    elif is_dataclass(part):
        for field in fields(part):
            value = getattr(part, field.name)
            yield from value if field.name == "after" else _refs(value)


def _changed(part: Any, new: Callable[[int], int]) -> Any:
    """The same step or argument with other numbers of steps."""
    if isinstance(part, Ref):
        return Ref(new(part.step))
    if isinstance(part, Chain):
        return Chain(tuple(sorted({new(number) for number in part.steps})))
    if isinstance(part, Route):
        routes = tuple((key, new(number)) for key, number in part.routes)
        return Route(_changed(part.selector, new), routes)
    if isinstance(part, tuple):
        return tuple(_changed(item, new) for item in part)
    if is_dataclass(part) and not isinstance(part, type):
        values = {field.name: getattr(part, field.name) for field in fields(part)}
        return type(part)(
            **{
                name: tuple(map(new, value)) if name == "after" else _changed(value, new)
                for name, value in values.items()
            }
        )
    return part


def _simpler_args(arg: Any) -> Iterator[Any]:
    if isinstance(arg, Box):
        yield from arg.parts
        for i in range(len(arg.parts)):
            if len(arg.parts) > 1:
                yield replace(arg, parts=(*arg.parts[:i], *arg.parts[i + 1 :]))
        for i, part in enumerate(arg.parts):
            for simpler in _simpler_args(part):
                yield replace(arg, parts=(*arg.parts[:i], simpler, *arg.parts[i + 1 :]))
    if arg != Const(0) and not isinstance(arg, Const):
        yield Const(0)


def _simpler_steps(step: Step) -> Iterator[Step]:
    if isinstance(step, Call | Map):
        if step.after:
            yield replace(step, after=step.after[1:])
        if step.run_if is not None:
            yield replace(step, run_if=None)
            for simpler in (Const(False), Const(True)):
                if not isinstance(step.run_if, Const):
                    yield replace(step, run_if=simpler)
        if step.pure:
            yield replace(step, pure=False)
        if step.policy:
            yield replace(step, policy="")
        if step.retry and step.op != "flaky":
            yield replace(step, retry=0)
    if isinstance(step, Call):
        yield from _simpler_calls(step)
    elif isinstance(step, Map):
        yield from _simpler_maps(step)
    elif isinstance(step, Route):
        for i in range(len(step.routes)):
            if len(step.routes) > 1:
                yield replace(step, routes=(*step.routes[:i], *step.routes[i + 1 :]))
    elif isinstance(step, Chain):
        for i in range(len(step.steps)):
            if len(step.steps) > 1:
                yield Chain((*step.steps[:i], *step.steps[i + 1 :]))
    elif isinstance(step, Pipe):
        for i, (op, condition) in enumerate(step.stages):
            if len(step.stages) > 1:
                yield replace(step, stages=(*step.stages[:i], *step.stages[i + 1 :]))
            if condition is not None:
                yield replace(step, stages=(*step.stages[:i], (op, None), *step.stages[i + 1 :]))
        for simpler in _simpler_args(step.initial):
            yield replace(step, initial=simpler)


def _simpler_calls(step: Call) -> Iterator[Step]:
    if step.passthrough:
        yield replace(step, passthrough=False)
    if step.named:
        yield replace(step, named=())
    least = 1 if step.op in ("flaky", "echo", "pair") or step.passthrough else 0
    for i, arg in enumerate(step.args):
        if len(step.args) > least and not (i == 0 and step.op == "flaky"):
            yield replace(step, args=(*step.args[:i], *step.args[i + 1 :]))
        for simpler in _simpler_args(arg):
            yield replace(step, args=(*step.args[:i], simpler, *step.args[i + 1 :]))


def _simpler_maps(step: Map) -> Iterator[Step]:
    columns = step.columns
    for i, (name, column) in enumerate(columns):
        if len(columns) > 1 and not isinstance(columns[1 - i][1], tuple):
            yield replace(step, columns=(columns[1 - i],))
        if isinstance(column, Box) and column.parts:
            for j in range(len(column.parts)):
                rest = replace(column, parts=(*column.parts[:j], *column.parts[j + 1 :]))
                yield replace(step, columns=(*columns[:i], (name, rest), *columns[i + 1 :]))
