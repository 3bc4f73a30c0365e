"""How people describe work: tasks, lazy results, inputs. Nothing in here runs anything."""

from cascade_dist.language.inputs import Env, Param
from cascade_dist.language.lazy import LazyResult, MappedLazyResult, unmapped
from cascade_dist.language.policies import RetryPolicy
from cascade_dist.language.task import Task, task

__all__ = ["Env", "LazyResult", "MappedLazyResult", "Param", "RetryPolicy", "Task", "task", "unmapped"]
