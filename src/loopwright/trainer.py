"""The Trainer: transformers' public methods and overridable hooks, each handing on to the room that does the work."""

from __future__ import annotations

import contextlib
import inspect
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from loopwright._support.files import write_text_atomically
from loopwright._support.log import Logger, get_logger, set_level
from loopwright.arguments import TrainingArguments
from loopwright.callbacks.dispatcher import CallbackHandler
from loopwright.callbacks.flow import DefaultFlowCallback
from loopwright.callbacks.persistence import capture_states
from loopwright.callbacks.printer import PrinterCallback
from loopwright.callbacks.progress import ProgressCallback
from loopwright.callbacks.timing import timing_callbacks
from loopwright.checkpoint.weights import write_model
from loopwright.data.collate import ColumnDroppingCollator, default_data_collator
from loopwright.data.columns import (
    can_return_loss,
    drop_unused_columns,
    find_label_names,
    inner_model,
    is_column_dataset,
    main_input_name,
    signature_columns,
)
from loopwright.data.device import move_to_device
from loopwright.data.lengths import group_by_length
from loopwright.data.loaders import build_eval_loader, build_train_loader, has_length, num_examples
from loopwright.data.sharding import BatchShards, Shards
from loopwright.errors import ArgumentError, UnsupportedArgument
from loopwright.loop import prediction, step
from loopwright.loop.evaluate import EvaluationLoop
from loopwright.loop.loss import LabelSmoother, shifts_labels, takes_item_count
from loopwright.loop.metrics import format_metrics, metrics_table, save_results
from loopwright.loop.optimizers import build_optimizer, decay_parameter_names, optimizer_class_and_kwargs
from loopwright.loop.persist import whole_state
from loopwright.loop.preparation import check_construction, make_output_dir, prepare_model
from loopwright.loop.report import speed_metrics
from loopwright.loop.resuming import choose_checkpoint, reject_resume_value
from loopwright.loop.saving import Saving
from loopwright.loop.schedules import build_scheduler
from loopwright.loop.session import TrainingSession
from loopwright.loop.train import TrainingLoop
from loopwright.loop.update import Update
from loopwright.outputs import EvalLoopOutput, PredictionOutput, TrainOutput
from loopwright.records import Kind
from loopwright.report.method import Plotting
from loopwright.runtime.memory import MemoryMeter
from loopwright.runtime.precision import Precision, choose_precision
from loopwright.runtime.randomness import enable_full_determinism, set_seed
from loopwright.runtime.ranks import Ranks
from loopwright.runtime.wrapping import unwrap_model
from loopwright.search.method import Searching
from loopwright.search.trials import describe_trial
from loopwright.state import TRAINER_STATE_NAME, TrainerControl, TrainerState
from loopwright.trackers.registry import reporting_callbacks, resolve_trackers
from loopwright.trackers.reporting import Reporting

logger: Logger = get_logger(__name__)

DEFAULT_CALLBACKS: list[type] = [DefaultFlowCallback]
DEFAULT_PROGRESS_CALLBACK: type = ProgressCallback


class Trainer(Plotting, Searching):
    """Trains, evaluates and predicts with a PyTorch model, under the eyes of callbacks.

    Arguments:
        model: Any module whose forward takes a batch's entries as keywords and returns a loss: in a mapping, as
            `.loss`, or first in a tuple.
        args: How to train; by default `TrainingArguments("tmp_trainer")`.
        data_collator: Makes a batch of a list of examples; by default `default_data_collator`.
        train_dataset: Map-style or iterable; entries of examples that forward doesn't take are dropped.
        eval_dataset: The same, or a dict of several by name, or the name of nothing: None.
        processing_class: Tokenizer or processor, saved with the model and handed to callbacks.
        model_init: Makes the model instead of `model`, anew for every `train()`.
        compute_loss_func: `(outputs, labels, num_items_in_batch) -> loss`.
        compute_metrics: `EvalPrediction -> dict`; or a `torchmetrics` metric or collection, which gets logits and
            labels batch by batch, where they are.
        callbacks: Classes or instances, run in this order after the default ones.
        optimizers: Optimizer and scheduler ready made; either may be None.
        optimizer_cls_and_kwargs: Optimizer class and its arguments, instead of those that `args` names.
        preprocess_logits_for_metrics: `(logits, labels) -> logits`, applied to each batch before it is kept.

    Attributes:
        state: Where training is.
        control: What happens next.
        callback_handler: The callbacks; print it for a table of them and what each has cost.
        model: The model. `model_wrapped` is what the loop calls (compiled, say).
        optimizer: The optimizer, made when training begins.
        lr_scheduler: The scheduler, likewise.
        is_in_train: Whether `train()` is running.

    Raises:
        ArgumentError: arguments are missing or contradict each other.
    """

    def __init__(  # noqa: PLR0913 -- transformers' signature
        self,
        model: nn.Module | None = None,
        args: TrainingArguments | None = None,
        data_collator: Callable[[list[Any]], Any] | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        model_init: Callable[..., nn.Module] | None = None,
        compute_loss_func: Callable[..., torch.Tensor] | None = None,
        compute_metrics: Any = None,
        callbacks: list[Any] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        optimizer_cls_and_kwargs: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None = None,
        preprocess_logits_for_metrics: Callable[[Any, Any], Any] | None = None,
    ) -> None:
        self.args: TrainingArguments = args if args is not None else TrainingArguments("tmp_trainer")
        self.ranks: Ranks = Ranks.join(self.args)
        check_construction(
            self.args,
            model=model,
            model_init=model_init,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            compute_metrics=compute_metrics,
            optimizers=optimizers,
            optimizer_cls_and_kwargs=optimizer_cls_and_kwargs,
        )
        set_level(self.args.get_process_log_level())
        self.memory: MemoryMeter = MemoryMeter(self.args.device, is_on=not self.args.skip_memory_metrics).begin("init")
        self._seed()
        self.data_collator = data_collator if data_collator is not None else default_data_collator
        self.train_dataset = train_dataset
        self.eval_dataset = eval_dataset
        self.processing_class = processing_class
        self.model_init = model_init
        self.compute_loss_func = compute_loss_func
        self.compute_metrics = compute_metrics
        self.preprocess_logits_for_metrics = preprocess_logits_for_metrics
        self.optimizer, self.lr_scheduler = optimizers
        self.optimizer_cls_and_kwargs = optimizer_cls_and_kwargs
        self._device = self.args.device
        self.precision: Precision = choose_precision(self.args, self._device)
        self._take_model(model if model is not None else self.call_model_init())

        self.run_id: str = uuid.uuid4().hex
        self.has_trained = self.is_in_train = False
        self.training_loop: TrainingLoop | None = None
        self._train_batch_size = self.args.train_batch_size  # or what auto_find_batch_size has found
        self.current_update: Update | None = None  # whose micro-batches training_step gets
        self.current_gradient_accumulation_steps: int = self.args.gradient_accumulation_steps
        self.callbacks_at_start: dict[str, Any] = {}
        self._made_scheduler = False
        self.compute_loss_takes_num_items: bool = step.accepts_num_items(self.compute_loss)

        self.reporting: Reporting = Reporting(self)
        self.saving: Saving = Saving(self)
        self.args.report_to = resolve_trackers(self.args.report_to)
        self.callback_handler: CallbackHandler = CallbackHandler(
            [
                *DEFAULT_CALLBACKS,
                *reporting_callbacks(self.args.report_to, callbacks or ()),
                *(callbacks or []),
                *timing_callbacks(self.args),
                PrinterCallback if self.args.disable_tqdm else DEFAULT_PROGRESS_CALLBACK,
            ],
            self.model,
            self.processing_class,
            self.optimizer,
            self.lr_scheduler,
            callback_errors=self.args.callback_errors,
        )
        self.callback_handler.on_decision = self.reporting.decide
        self.control: TrainerControl | Any = TrainerControl()
        self.state: TrainerState = TrainerState(
            is_local_process_zero=self.is_local_process_zero(),
            is_world_process_zero=self.is_world_process_zero(),
            stateful_callbacks=capture_states([*self.callback_handler.callbacks, self.control]),
        )
        make_output_dir(self.args)  # callbacks write there as early as in on_init_end
        self.control = self.callback_handler.on_init_end(self.args, self.state, self.control)
        self.memory.end_construction()

    # Model

    def _seed(self) -> None:
        if self.args.full_determinism:
            enable_full_determinism(self.args.seed)
        else:
            set_seed(self.args.seed)

    def _take_model(self, model: nn.Module) -> None:
        self.model: nn.Module = model.to(self._device) if self.args.place_model_on_device else model
        self.model_wrapped: nn.Module = self.model
        bare = inner_model(unwrap_model(self.model))
        self.label_names: list[str] = (
            self.args.label_names if self.args.label_names is not None else find_label_names(type(bare))
        )
        self.keys_to_ignore: list[str] = prediction.keys_to_ignore(self.model)
        self.can_return_loss: bool = can_return_loss(type(bare))
        self.model_accepts_loss_kwargs: bool = takes_item_count(bare)
        self.labels_are_shifted: bool = shifts_labels(bare)
        smoothing = self.args.label_smoothing_factor
        self.label_smoother: LabelSmoother | None = LabelSmoother(smoothing) if smoothing else None
        if getattr(bare, "config", None) is not None and hasattr(bare.config, "use_cache"):
            bare.config.use_cache = self.args.use_cache

    def call_model_init(self, trial: Any = None) -> nn.Module:
        """Return a new model from `model_init`, which may take the trial."""
        if self.model_init is None:
            raise ArgumentError("call_model_init needs the Trainer's argument model_init")
        parameters = inspect.signature(self.model_init).parameters
        takes_trial = any(
            name == "trial" or parameter.default is parameter.empty for name, parameter in parameters.items()
        )
        model = self.model_init(trial) if takes_trial else self.model_init()
        if model is None:
            raise ArgumentError("model_init returned None; it must return a torch.nn.Module")
        return model

    def prepare_model_for_training(self) -> None:
        """Wrap the model as the arguments say, and put it into training mode."""
        self.model_wrapped = prepare_model(self.model, self.args, self.ranks)

    # Callbacks

    def add_callback(self, callback: Any) -> None:
        """Append a callback, given as a class or an instance."""
        self.callback_handler.add_callback(callback)

    def pop_callback(self, callback: Any) -> Any:
        """Remove and return the first callback of this class, or this instance; None where there is none."""
        return self.callback_handler.pop_callback(callback)

    def remove_callback(self, callback: Any) -> None:
        """Remove the first callback of this class, or this instance."""
        self.callback_handler.remove_callback(callback)

    # Data

    def get_train_dataloader(self) -> Any:
        """Return the loader to train with; override to bring your own."""
        if self.train_dataset is None:
            raise ArgumentError("train() needs the Trainer's argument train_dataset")
        dataset, collate = self._without_unused_columns(self.train_dataset, "training")
        size, sampler = self._train_batch_size, None
        if self.args.train_sampling_strategy == "group_by_length":
            names = getattr(self.processing_class, "model_input_names", None) or [main_input_name(self.model)]
            sampler = group_by_length(self.train_dataset, self.args, names[0], size * self.ranks.size)
        shards = Shards(size, self.ranks.size, self.ranks.index) if self.ranks.are_many else None
        return build_train_loader(dataset, self.args, collate, sampler=sampler, batch_size=size, shards=shards)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Return the loader to evaluate with: of a given dataset, of the one of that name, or of the Trainer's own."""
        if isinstance(eval_dataset, str):
            eval_dataset = self.eval_dataset[eval_dataset]
        dataset = eval_dataset if eval_dataset is not None else self.eval_dataset
        if dataset is None:
            raise ArgumentError("evaluate() needs an eval_dataset: its own argument or the Trainer's")
        return self._get_eval_loader(dataset, "evaluation")

    def get_test_dataloader(self, test_dataset: Any) -> Any:
        """Return the loader to predict with."""
        return self._get_eval_loader(test_dataset, "test")

    def _get_eval_loader(self, dataset: Any, description: str) -> Any:
        dataset, collate = self._without_unused_columns(dataset, description)
        size, ranks = self.args.eval_batch_size, self.ranks
        shards = BatchShards(size, ranks.size, ranks.index) if ranks.are_many else None
        return build_eval_loader(dataset, self.args, collate, batch_size=size, shards=shards)

    def _without_unused_columns(self, dataset: Any, description: str) -> tuple[Any, Any]:
        if not self.args.remove_unused_columns:
            return dataset, self.data_collator
        columns = signature_columns(unwrap_model(self.model), self.label_names)
        name = type(unwrap_model(self.model)).__name__
        if is_column_dataset(dataset):
            return drop_unused_columns(dataset, columns, description, model_name=name), self.data_collator
        return dataset, ColumnDroppingCollator(self.data_collator, columns, description=description, model_name=name)

    def num_examples(self, dataloader: Any) -> int:
        """Return how many examples `dataloader` goes through."""
        return num_examples(dataloader, batch_size=self._train_batch_size)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: Any
    ) -> tuple[list[Any], torch.Tensor | None]:
        """Return up to `num_batches` micro-batches, and their items where model or loss function want that number."""
        batches = []
        for _ in range(num_batches):
            try:
                batches.append(next(epoch_iterator))
            except StopIteration:
                break
        return batches, step.count_items_where_wanted(self, batches)

    def _prepare_input(self, data: Any) -> Any:
        return move_to_device(data, self._device, non_blocking=self.args.dataloader_pin_memory)

    def _prepare_inputs(self, inputs: Any) -> Any:
        return self._prepare_input(inputs)

    # Optimizer and schedule

    def create_optimizer_and_scheduler(self, num_training_steps: int) -> None:
        """Make both, where they were not given; override this, or either of the two that it calls."""
        self.create_optimizer()
        self.create_scheduler(num_training_steps=num_training_steps, optimizer=self.optimizer)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Make and return the optimizer, where there is none yet."""
        if self.optimizer is None:
            target = unwrap_model(model if model is not None else self.model)
            chosen = self.optimizer_cls_and_kwargs or self.get_optimizer_cls_and_kwargs(self.args, target)
            self.optimizer = build_optimizer(target, self.args, chosen, self.get_decay_parameter_names(target))
        optimizer: torch.optim.Optimizer = self.optimizer
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """Make and return the scheduler, where there is none yet."""
        if self.lr_scheduler is None:
            self.lr_scheduler = build_scheduler(
                self.args.lr_scheduler_type,
                optimizer if optimizer is not None else self.optimizer,
                num_warmup_steps=self.args.get_warmup_steps(num_training_steps),
                num_training_steps=num_training_steps,
                specific_kwargs=self.args.lr_scheduler_kwargs or None,
            )
            self._made_scheduler = True
        return self.lr_scheduler

    def forget_own_scheduler(self) -> None:
        """Drop the scheduler that an earlier `train()` made: its course was for another number of steps."""
        if self._made_scheduler:
            self.lr_scheduler = None
            self._made_scheduler = False

    @staticmethod
    def get_optimizer_cls_and_kwargs(args: TrainingArguments, model: nn.Module | None = None) -> tuple[Any, Any]:
        """Return the optimizer class that `args` names, and its arguments."""
        return optimizer_class_and_kwargs(args, model)

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Return the names of the parameters that weight decay applies to."""
        return decay_parameter_names(model)

    def get_num_trainable_parameters(self) -> int:
        """Return the number of parameters that training changes."""
        return sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)

    def get_learning_rates(self) -> list[float]:
        """Return the learning rate of each parameter group."""
        return [group["lr"] for group in self._existing_optimizer().param_groups]

    def get_optimizer_group(self, param: nn.Parameter | None = None) -> Any:
        """Return the parameter group that holds `param`; all groups without one."""
        groups = self._existing_optimizer().param_groups
        if param is None:
            return groups
        return next((group for group in groups if any(held is param for held in group["params"])), None)

    def _existing_optimizer(self) -> Any:
        if self.optimizer is None:
            raise ArgumentError("there is no optimizer before train(), unless create_optimizer() is called")
        return self.optimizer

    # Training

    def train(
        self,
        resume_from_checkpoint: str | Path | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Train.

        Arguments:
            resume_from_checkpoint: True goes on from the newest whole checkpoint in `output_dir`, "auto" does so where
                there is one, a path from that one, or from the newest whole one in that folder; otherwise training
                starts anew.
            trial: Handed to `model_init`: an Optuna trial, or a dict of hyper-parameters; the run is one of a search.
            ignore_keys_for_eval: Outputs of the model that evaluations leave out.

        Returns:
            Steps done, mean training loss, and the run's metrics.

        Raises:
            CheckpointNotFound: there is nothing to resume from.
            CheckpointDamaged: the checkpoint at the given path is not whole.
        """
        reject_resume_value(resume_from_checkpoint)
        checkpoint = self.ranks.of_first(lambda: choose_checkpoint(self.args.output_dir, resume_from_checkpoint))
        if self.model_init is not None:
            self._seed()
            self._take_model(self.call_model_init(trial))
            self.optimizer = self.lr_scheduler = None
        self.trial = describe_trial(trial, self.search)
        self.is_in_train = True
        try:
            session = TrainingSession(self, checkpoint, goes_on=bool(resume_from_checkpoint))
            with self.memory.stage("train"):
                return session.run(ignore_keys_for_eval)
        finally:
            self.is_in_train = False

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Do forward and backward of one micro-batch, and return its share of the update's loss, detached."""
        return step.train_on_microbatch(self, model, inputs, num_items_in_batch)

    def floating_point_ops(self, inputs: Any) -> float | None:
        """Return the operations of forward and backward on `inputs` where the model can say; None has them counted."""
        own = getattr(unwrap_model(self.model), "floating_point_ops", None)
        return own(inputs) if callable(own) else None

    def compute_loss_context_manager(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context that forward and loss run in: autocast, where the precision asks for it."""
        return self.precision.autocast()

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """Return the loss of a batch, with the model's outputs where asked; override for a loss of your own.

        An override returns the mean over its batch; how many micro-batches an update has is not its business.
        """
        loss: torch.Tensor | tuple[torch.Tensor, Any]
        loss = step.default_loss(self, model, inputs, num_items_in_batch, return_outputs=return_outputs)
        return loss

    # Evaluation and prediction

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Evaluate, log the metrics and return them.

        Arguments:
            eval_dataset: What to evaluate on instead of the Trainer's own; a dict of several by name is evaluated one
                by one, each name becoming part of its metrics' names.
            ignore_keys: Outputs of the model to leave out.
            metric_key_prefix: Begins the metrics' names.
        """
        own = eval_dataset is None
        datasets = self.eval_dataset if own else eval_dataset
        if isinstance(datasets, dict):
            metrics: dict[str, float] = {}
            for name, dataset in datasets.items():
                prefix = f"{metric_key_prefix}_{name}"
                metrics.update(self.evaluate(name if own else dataset, ignore_keys, prefix))
            return metrics
        loader = self.get_eval_dataloader(eval_dataset)
        _, metrics = prediction.predict_timed(self, loader, "Evaluation", ignore_keys, metric_key_prefix)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self._note_in_history(metrics)
        return metrics

    def _note_in_history(self, metrics: dict[str, float]) -> None:
        """Let metrics that a callback added in `on_evaluate` stand in the log history too."""
        if self.state.log_history:
            line = self.state.log_history[-1]
            added = {key: value for key, value in metrics.items() if key not in line}
            line.update(added)
            if added:
                self.reporting.log(added, added)

    def predict(
        self, test_dataset: Any, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """Return predictions, labels and metrics for `test_dataset`; no log line is made, trackers get the metrics."""
        loader = self.get_test_dataloader(test_dataset)
        output, metrics = prediction.predict_timed(self, loader, "Prediction", ignore_keys, metric_key_prefix)
        self.control = self.callback_handler.on_predict(self.args, self.state, self.control, metrics)
        self.reporting.log(metrics, kind=Kind.PREDICTION)
        return PredictionOutput(output.predictions, output.label_ids, metrics)

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Go through `dataloader` without training, and return predictions, labels, metrics and their number."""
        args = self.args
        model = prediction.model_for_evaluation(self.model_wrapped, args, is_in_train=self.is_in_train)
        logger.info("%s of %s batches", description, len(dataloader) if has_length(dataloader) else "unknown many")
        loop = EvaluationLoop(
            self,
            prediction_loss_only=args.prediction_loss_only if prediction_loss_only is None else prediction_loss_only,
            ignore_keys=ignore_keys,
            prefix=metric_key_prefix,
            for_prediction=description == "Prediction",
        )
        return loop.run(model, dataloader)

    def prediction_step(
        self, model: nn.Module, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[torch.Tensor | None, Any, Any]:
        """Return loss, logits and labels of a batch, each None where there is none."""
        return prediction.predict_batch(self, model, inputs, prediction_loss_only, ignore_keys)

    # Logging and saving

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Make a log line: into the history, then to the callbacks, whose additions become part of it.

        Arguments:
            logs: The values; the epoch is added.
            start_time: Of training (`time.time`), for tokens per second where tokens are counted.
        """
        if self.state.epoch is not None:
            logs["epoch"] = self.state.epoch
        if self.args.include_num_input_tokens_seen != "no":
            logs["num_input_tokens_seen"] = self.state.num_input_tokens_seen
            if start_time is not None and self.training_loop is not None:
                tokens = self.state.num_input_tokens_seen - self.training_loop.tokens_at_start
                logs.update(speed_metrics("train", start_time, num_tokens=tokens))
        line = {**logs, "step": self.state.global_step}
        own = set(line)
        self.state.log_history.append(line)
        self.reporting.ready()
        try:
            self.control = self.callback_handler.on_log(self.args, self.state, self.control, logs)
        finally:  # a callback that raises loses no number
            line.update(logs, step=line["step"])  # whatever a callback called so
            self.reporting.log(line, line.keys() - own)

    def save_checkpoint(self) -> Path:
        """Save everything of this moment as `checkpoint-<step>`, and let older ones go as `save_total_limit` says."""
        return self.saving.save()

    def save_model(self, output_dir: str | Path | None = None, _internal_call: bool = False) -> None:
        """Save model and processing class, ready to be loaded, with the training's arguments beside them.

        Of several processes the first one saves. All have to call it where the model is sharded, as each has a part.
        """
        state = whole_state(self.model, self.ranks)
        if not self.args.should_save:
            return
        directory = Path(output_dir if output_dir is not None else self.args.output_dir)
        directory.mkdir(parents=True, exist_ok=True)
        write_model(unwrap_model(self.model), directory, self.processing_class, state)
        write_text_atomically(directory / "training_args.json", self.args.to_json_string())

    def save_state(self) -> None:
        """Save the Trainer's state as `trainer_state.json` in `output_dir`; of several processes the first one's."""
        if not self.args.should_save:
            return
        directory = Path(self.args.output_dir)
        directory.mkdir(parents=True, exist_ok=True)
        self.state.save_to_json(directory / TRAINER_STATE_NAME)

    def metrics_format(self, metrics: dict[str, float]) -> dict[str, Any]:
        """Return `metrics` made readable."""
        return format_metrics(metrics)

    def log_metrics(self, split: str, metrics: dict[str, float]) -> None:
        """Print `metrics` of a split ("train", "eval", ...) as a table, on the first process."""
        if self.is_world_process_zero():
            print(metrics_table(split, self.metrics_format(metrics)))  # noqa: T201 -- printing is what it is for

    def save_metrics(self, split: str, metrics: dict[str, float], combined: bool = True) -> None:
        """Save `metrics` as `<split>_results.json` in `output_dir`, and add them to `all_results.json`."""
        if self.is_world_process_zero():
            save_results(Path(self.args.output_dir), split, metrics, combined=combined)

    def is_local_process_zero(self) -> bool:
        """Return whether this is the first process of its machine."""
        return bool(self.args.local_process_index == 0)

    def is_world_process_zero(self) -> bool:
        """Return whether this is the first process of all."""
        return bool(self.args.process_index == 0)

    def push_to_hub(self, *args: Any, **kwargs: Any) -> None:
        """Refuse: uploading is not the Trainer's business.

        Raises:
            UnsupportedArgument: always, naming the way.
        """
        raise UnsupportedArgument(
            "push_to_hub: call save_model(folder), then huggingface_hub.upload_folder(repo_id=..., folder_path=folder)"
        )
