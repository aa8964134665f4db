"""All fields of `TrainingArguments`, one topic from each file.

The topics declare fields and no more: constructor and comparison are made once, for the whole. Made for every topic,
they took a fifth of the import.
"""

from __future__ import annotations

from loopwright.arguments.batching import BatchingArguments
from loopwright.arguments.cadence import CadenceArguments
from loopwright.arguments.checkpointing import CheckpointingArguments
from loopwright.arguments.compute import ComputeArguments
from loopwright.arguments.data_loading import DataLoadingArguments
from loopwright.arguments.evaluation import EvaluationArguments
from loopwright.arguments.hub import HubArguments
from loopwright.arguments.optimization import OptimizationArguments
from loopwright.arguments.parallelism import ParallelismArguments
from loopwright.arguments.precision import PrecisionArguments
from loopwright.arguments.renamed import RenamedArguments
from loopwright.arguments.reporting import ReportingArguments
from loopwright.arguments.retired import RetiredArguments
from loopwright.arguments.run import RunArguments


class ArgumentFields(
    # dataclass orders fields from the last base to the first: `output_dir`, the first positional, comes last here.
    RenamedArguments,
    RetiredArguments,
    HubArguments,
    ParallelismArguments,
    ReportingArguments,
    CheckpointingArguments,
    EvaluationArguments,
    DataLoadingArguments,
    ComputeArguments,
    PrecisionArguments,
    CadenceArguments,
    OptimizationArguments,
    BatchingArguments,
    RunArguments,
):
    """The fields without what is done with them; `TrainingArguments` makes one dataclass of them."""
