"""The evaluator itself, rule by rule: an oracle that is wrong proves nothing."""

from __future__ import annotations

from typing import Any

import cascade_dist as cs
from tests.simulation import tasks
from tests.simulation.evaluator import Verdict, evaluate


def call(name: str, op: str = "const", *args: Any, **named: Any) -> Any:
    return cs.task(getattr(tasks, op), name=name)(*args, **named)


def skips(verdict: Verdict) -> dict[str, str]:
    return {skip.name: "|".join(sorted(skip.reasons)) for skip in verdict.skipped}


def test_values_at_any_depth() -> None:
    a = call("a", "const", 1)
    verdict = evaluate(call("b", "pair", [a, {"k": a}], (a,)))
    assert verdict.value == ([1, {"k": 1}], (1,))
    assert verdict.executed == {"a": 1, "b": 1}


def test_params() -> None:
    target = call("a", "pack", cs.Param("x"), cs.Param("y", default="3", type=int))
    assert evaluate(target, {"x": 5}).value == [5, 3]


def test_equal_pure_calls_are_one() -> None:
    pure = cs.task(tasks.mix, name="p", pure=True)
    verdict = evaluate([pure(1), pure(1), pure(True), pure([1]), pure((1,)), pure(1).with_retry(2)])
    assert verdict.executed == {"p": 5}


def test_conditions() -> None:
    no = call("no", "const", 0)
    never = call("never").run_if(no)
    assert skips(evaluate(never)) == {"never": "ConditionFalse"}
    assert evaluate(never).kind == "missing"
    below = call("below").run_if(never)
    assert skips(evaluate(below))["below"] == "UpstreamSkipped_Condition"
    assert skips(evaluate(call("user", "echo", never)))["user"] == "UpstreamSkipped_Data"


def test_a_truth_that_raises_fails_who_asks() -> None:
    verdict = evaluate(call("a").run_if(call("s", "stubborn")))
    assert verdict.kind == "failed"
    assert verdict.problems[0].type == "ArithmeticError"


def test_sequences() -> None:
    a, b, c = call("a"), call("b").run_if(False), call("c", "const", 3)
    verdict = evaluate(cs.sequence([a, b, c]))
    assert (verdict.kind, verdict.value) == ("value", None)
    assert skips(verdict) == {"b": "ConditionFalse", "c": "UpstreamSkipped_Sequence"}


def test_the_order_of_reasons() -> None:
    gone = call("gone").run_if(False)
    x = call("x", "echo", gone).after(gone).run_if(False)
    assert skips(evaluate(x))["x"] == "ConditionFalse"
    y = call("y", "echo", gone).after(gone)
    assert skips(evaluate(y))["y"] == "UpstreamSkipped_Sequence"


def test_skipped_stages_are_passed_through() -> None:
    plus = cs.task(tasks.pack, name="plus")
    stages: list[Any] = [plus, lambda x: plus(x, 2).run_if(False), lambda x: plus(x, 3).run_if(False), plus]
    verdict = evaluate(cs.pipeline(10, stages))
    assert verdict.value == [[10]]
    assert len(verdict.skipped) == 2


def test_a_skipped_target_does_not_penetrate() -> None:
    plus = cs.task(tasks.pack, name="plus")
    assert evaluate(cs.pipeline(10, [lambda x: plus(x).run_if(False)])).kind == "missing"


def test_routers() -> None:
    a, b = call("a", "const", "A"), call("b", "echo", call("only", "const", "B"))
    verdict = evaluate(call("user", "echo", cs.Router(call("s", "const", "x"), {"x": a, "y": b})))
    assert verdict.value == "A"
    assert skips(verdict) == {"b": "Pruned", "only": "Pruned"}


def test_what_is_shared_survives() -> None:
    shared = call("shared")
    routes = {0: call("a", "echo", shared), 1: call("b", "echo", shared)}
    verdict = evaluate(cs.Router(call("s", "const", 1), routes))
    assert skips(verdict) == {"a": "Pruned"}
    assert verdict.executed["shared"] == 1


def test_routers_that_give_nothing() -> None:
    selector = call("s", "const", 1)
    gone = call("gone").run_if(False)
    assert skips(evaluate(call("x", "echo", cs.Router(selector, {1: gone}))))["x"] == "UpstreamSkipped_Route"
    assert skips(evaluate(call("x", "echo", cs.Router(gone, {1: selector}))))["x"] == "UpstreamSkipped_Data"
    assert (
        evaluate(call("x", "echo", cs.Router(selector, {2: gone}))).problems[0].type == "RouteNotFoundError"
    )
    late = call("x", "echo", cs.Router(selector, {2: gone})).run_if(False)
    assert skips(evaluate(late)) == {"x": "ConditionFalse", "gone": "Pruned"}


def test_nested_routers() -> None:
    one = call("one", "const", 1)
    inner: Any = cs.Router(one, {1: call("a", "const", "A"), 2: call("b")})
    outer: Any = cs.Router(one, {1: inner, 2: cs.Router(call("t"), {0: call("c")})})
    verdict = evaluate(outer)
    assert verdict.value == "A"
    assert skips(verdict) == {"b": "Pruned", "t": "Pruned", "c": "Pruned"}


def test_maps() -> None:
    pair = cs.task(tasks.pair, name="p")
    lazy = call("xs", "const", [1, 2])
    assert evaluate(pair.map(left=lazy, right=cs.unmapped(9))).value == [(1, 9), (2, 9)]
    assert evaluate(pair.map(left=[1, lazy], right=[3, 4])).value == [(1, 3), ([1, 2], 4)]
    assert evaluate(pair.map(left=lazy, right=[1])).problems[0].type == "ValueError"
    assert evaluate(pair.map(left=call("n", "const", 3))).problems[0].type == "TypeError"
    verdict = evaluate(pair.map(left=[1, call("gone").run_if(False)]))
    assert skips(verdict)["p.map"] == "UpstreamSkipped_Data"
    assert verdict.executed == {"p[0]": 1}


def test_retries() -> None:
    verdict = evaluate(call("f", "flaky", 2).with_retry(3))
    assert (verdict.kind, verdict.retries) == ("value", {"f": 2})
    verdict = evaluate(call("f", "flaky", 3).with_retry(2))
    assert (verdict.kind, verdict.retries) == ("failed", {"f": 1})
    assert str(verdict.problems[0].message).endswith("at try 2")


def test_what_needs_a_failure_never_ends() -> None:
    bad = call("bad", "fail")
    verdict = evaluate([call("user", "echo", bad), call("other")])
    assert verdict.kind == "failed"
    assert not verdict.skipped
    assert verdict.executed == {"other": 1}


def test_nobody_needs_what_no_child_gets() -> None:
    verdict = evaluate(cs.task(tasks.pair, name="p").map(left=[], right=cs.unmapped(call("bad", "fail"))))
    assert (verdict.kind, verdict.value) == ("value", [])
    assert not verdict.skipped
