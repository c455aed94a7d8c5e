"""The composition root: the only room that knows names and classes both. Recipe or checkpoint in, objects out.

models.py: models. origins.py: what they began with. readers.py: data. training.py, planning.py, synthesis.py,
exporting.py: what the commands of these names run. Their names are those of the room. Apart from them: fast.py, the
fast twins of models; evaluation.py and subjects.py, what `apex eval` and `apex bench` ask; bases.py and labels.py,
where a model comes from and its name.
"""

from apex_cli.build.exporting import export
from apex_cli.build.models import (
    SHIPPED_STUDENT,
    SHIPPED_TEACHER,
    Model,
    load_model,
    load_teacher,
    placed,
    read_prompt,
    ready,
    skeleton,
    start,
)
from apex_cli.build.origins import is_checkpoint
from apex_cli.build.planning import fit, plan
from apex_cli.build.readers import benchmarks, checked, data
from apex_cli.build.synthesis import order, painter
from apex_cli.build.training import job, objective

__all__ = [
    "SHIPPED_STUDENT",
    "SHIPPED_TEACHER",
    "Model",
    "benchmarks",
    "checked",
    "data",
    "export",
    "fit",
    "is_checkpoint",
    "job",
    "load_model",
    "load_teacher",
    "objective",
    "order",
    "painter",
    "placed",
    "plan",
    "read_prompt",
    "ready",
    "skeleton",
    "start",
]
