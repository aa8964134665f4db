"""Set the arguments of one topic together: `TrainingArguments("out").set_training(...).set_logging(...)`.

Every method has transformers' signature, sets all arguments that it names (those not given to the defaults in its
signature) and returns the arguments.
"""

from __future__ import annotations

import warnings
from typing import Self

from loopwright.arguments.choices import HubStrategy, IntervalStrategy, OptimizerNames, SaveStrategy, SchedulerType
from loopwright.arguments.fields import ArgumentFields
from loopwright.errors import ArgumentError


class GroupSetters(ArgumentFields):
    """The setters; the number of their parameters is transformers'.

    They set what they see as `ArgumentFields`: set on `self`, each argument would count as declared here once more, and
    type checkers would differ on its type.
    """

    def set_training(  # noqa: PLR0913
        self,
        learning_rate: float = 5e-5,
        batch_size: int = 8,
        weight_decay: float = 0,
        num_epochs: float = 3,
        max_steps: int = -1,
        gradient_accumulation_steps: int = 1,
        seed: int = 42,
        activation_checkpointing: bool = False,
        gradient_checkpointing: bool | None = None,
    ) -> Self:
        """Set what training is about, and `do_train`."""
        arguments: ArgumentFields = self
        arguments.do_train = True
        arguments.learning_rate = learning_rate
        arguments.per_device_train_batch_size = batch_size
        arguments.weight_decay = weight_decay
        arguments.num_train_epochs = num_epochs
        arguments.max_steps = max_steps
        arguments.gradient_accumulation_steps = gradient_accumulation_steps
        arguments.seed = seed
        arguments.gradient_checkpointing = (
            activation_checkpointing if gradient_checkpointing is None else gradient_checkpointing
        )
        return self

    def set_evaluate(  # noqa: PLR0913
        self,
        strategy: IntervalStrategy | str = "no",
        steps: int = 500,
        batch_size: int = 8,
        accumulation_steps: int | None = None,
        delay: float | None = None,
        loss_only: bool = False,
    ) -> Self:
        """Set when and how to evaluate, and `do_eval` accordingly."""
        arguments: ArgumentFields = self
        arguments.eval_strategy = strategy
        _reject_zero("eval_steps", steps, self.eval_strategy)
        arguments.do_eval = self.eval_strategy != "no"
        arguments.eval_steps = steps
        arguments.per_device_eval_batch_size = batch_size
        arguments.eval_accumulation_steps = accumulation_steps
        arguments.eval_delay = 0 if delay is None else delay
        arguments.prediction_loss_only = loss_only
        return self

    def set_testing(self, batch_size: int = 8, loss_only: bool = False) -> Self:
        """Set how to predict, and `do_predict`."""
        arguments: ArgumentFields = self
        arguments.do_predict = True
        arguments.per_device_eval_batch_size = batch_size
        arguments.prediction_loss_only = loss_only
        return self

    def set_save(
        self,
        strategy: SaveStrategy | IntervalStrategy | str = "steps",
        steps: int = 500,
        total_limit: int | None = None,
        on_each_node: bool = False,
    ) -> Self:
        """Set when to save, and how many checkpoints to keep."""
        arguments: ArgumentFields = self
        arguments.save_strategy = strategy
        _reject_zero("save_steps", steps, self.save_strategy)
        arguments.save_steps = steps
        arguments.save_total_limit = total_limit
        arguments.save_on_each_node = on_each_node
        return self

    def set_logging(  # noqa: PLR0913
        self,
        strategy: IntervalStrategy | str = "steps",
        steps: int = 500,
        report_to: str | list[str] = "none",
        level: str = "passive",
        first_step: bool = False,
        nan_inf_filter: bool = False,
        on_each_node: bool = False,
        replica_level: str = "passive",
    ) -> Self:
        """Set when and where to log."""
        arguments: ArgumentFields = self
        arguments.logging_strategy = strategy
        _reject_zero("logging_steps", steps, self.logging_strategy)
        arguments.logging_steps = steps
        arguments.report_to = report_to
        arguments.log_level = level
        arguments.logging_first_step = first_step
        arguments.logging_nan_inf_filter = nan_inf_filter
        arguments.log_on_each_node = on_each_node
        arguments.log_level_replica = replica_level
        return self

    def set_push_to_hub(  # noqa: PLR0913
        self,
        model_id: str,
        strategy: HubStrategy | str = "every_save",
        token: str | None = None,
        private_repo: bool | None = None,
        always_push: bool = False,
        revision: str | None = None,
    ) -> Self:
        """Refuse: Loopwright pushes nothing; the error says how a callback can."""
        arguments: ArgumentFields = self
        arguments.push_to_hub = True  # raises
        return self

    def set_optimizer(  # noqa: PLR0913
        self,
        name: OptimizerNames | str = "adamw_torch",
        learning_rate: float = 5e-5,
        weight_decay: float = 0,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        args: str | None = None,
    ) -> Self:
        """Set the optimizer and its parameters."""
        arguments: ArgumentFields = self
        arguments.optim = name
        arguments.learning_rate = learning_rate
        arguments.weight_decay = weight_decay
        arguments.adam_beta1 = beta1
        arguments.adam_beta2 = beta2
        arguments.adam_epsilon = epsilon
        arguments.optim_args = args
        return self

    def set_lr_scheduler(
        self,
        name: SchedulerType | str = "linear",
        num_epochs: float = 3.0,
        max_steps: int = -1,
        warmup_steps: float = 0,
        *,
        warmup_ratio: float | None = None,
    ) -> Self:
        """Set the learning rate's course; `warmup_ratio` is the deprecated name of `warmup_steps` below 1."""
        arguments: ArgumentFields = self
        if warmup_ratio is not None:
            warnings.warn(f"warmup_ratio is deprecated: give warmup_steps={warmup_ratio!r}", DeprecationWarning, 2)
            warmup_steps = warmup_steps or warmup_ratio
        arguments.lr_scheduler_type = name
        arguments.num_train_epochs = num_epochs
        arguments.max_steps = max_steps
        arguments.warmup_steps = warmup_steps
        return self

    def set_dataloader(  # noqa: PLR0913
        self,
        train_batch_size: int = 8,
        eval_batch_size: int = 8,
        drop_last: bool = False,
        num_workers: int = 0,
        pin_memory: bool = True,
        persistent_workers: bool = False,
        prefetch_factor: int | None = None,
        multiprocessing_context: str | None = None,
        in_order: bool = True,
        auto_find_batch_size: bool = False,
        ignore_data_skip: bool = False,
        sampler_seed: int | None = None,
    ) -> Self:
        """Set how data is loaded."""
        arguments: ArgumentFields = self
        arguments.per_device_train_batch_size = train_batch_size
        arguments.per_device_eval_batch_size = eval_batch_size
        arguments.dataloader_drop_last = drop_last
        arguments.dataloader_num_workers = num_workers
        arguments.dataloader_pin_memory = pin_memory
        arguments.dataloader_persistent_workers = persistent_workers
        arguments.dataloader_prefetch_factor = prefetch_factor
        arguments.dataloader_multiprocessing_context = multiprocessing_context
        arguments.dataloader_in_order = in_order
        arguments.auto_find_batch_size = auto_find_batch_size
        arguments.ignore_data_skip = ignore_data_skip
        arguments.data_seed = sampler_seed
        return self


def _reject_zero(name: str, steps: float, strategy: str) -> None:
    if strategy == "steps" and steps == 0:
        raise ArgumentError(f"{name}=0: expected more than 0 with the strategy 'steps'")
