"""The same program gives the same ids in every process, whatever its hash seed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import collections, dataclasses, datetime, enum, functools, pathlib, re, threading
import cascade_dist as cs
from cascade_dist.graph.build import Compilation

WORDS = {"alpha", "beta", "gamma", "delta"}
TABLE = {"a": {"x", "y", "z"}, "b": frozenset({1.5, "q", None})}
LOG = __import__("logging").getLogger("x")

class Color(enum.Enum):
    RED = 1
    BLUE = "b"

@dataclasses.dataclass(frozen=True)
class Config:
    names: frozenset = frozenset({"one", "two", "three"})
    color: Color = Color.RED

class Helper:
    known = {"p", "q", "r", Config}
    def go(self, x): return x in self.known

def low(): return WORDS
def high(): return 2
CHOICES = {low, high}

def helper(x):
    return x in WORDS or x in TABLE or x in {"in", "line", "set"} or Helper().go(x) or x in CHOICES

@cs.task
def f(*args, **kwargs):
    LOG.info("x")
    return helper(args), (lambda: WORDS)()

@cs.task(pure=True, retry=cs.RetryPolicy(on=(ValueError, KeyError)), resources={"z": 1, "a": 2})
def p(x, y=frozenset({"k", "l", "m"}), config=Config()):
    return helper(x)

made = [f(n) for n in range(5)]
target = [
    f({"s", "t", "u"}, Config(), {made[3], made[1], made[2]}, d={"b": made[0], "a": made[4]}),
    p({"s", "t", "u"}), p({Config(), Config(frozenset({"x", "y", "z"}))}),
    p({datetime.date(2026, 1, n) for n in range(1, 9)}), p(pathlib.PurePath("a")), p(re.compile("a+")),
    f(threading.Lock(), object()),
    f.map(a=[{"x", "y", "z"}, made[0], 2], b=cs.unmapped({"g", "h", made[2]})).run_if(made[1]).after(made[2]),
    p.map(x=made[0]),
    f({p(1), p(2), p(2), made[1]}), f({(made[n], "t") for n in range(5)}),
    cs.task(functools.partial(helper, "x"))(), cs.task(Helper().go, name="go")(1),
    f(helper, Helper, f, cs.unmapped, collections.Counter("abc")),
]
compilation = Compilation(target, params={"b": 1, "a": {"x", "y"}})
import warnings
warnings.simplefilter("ignore")
for node in compilation.nodes():
    print(node.index, node.name, node.sources, node.spec.code_hash.hex(), node.spec.digest.hex())
    print(node.structural_id.hex())
    assert not node.spec.unhashable, node.spec.unhashable
print(compilation.template_id.hex(), compilation.structural_id.hex(), compilation.params_digest.hex())
"""


def output(root: Path, script: Path, seed: str) -> str:
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_ids_are_the_same_in_every_process(root: Path, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    moved = tmp_path / "elsewhere.py"
    moved.write_text("# another file\n\n\n" + PROGRAM.replace("def helper", "\n\n# a comment\ndef helper"))
    outputs = {output(root, script, seed) for seed in ("0", "1", "12345")} | {output(root, moved, "7")}
    assert len(outputs) == 1
    assert outputs.pop().count("\n") > 20
