"""Where memory runs out early, the training begins again with half the batch, and nothing of the first try counts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from loopwright import ExportableState, Trainer, TrainerCallback, TrainingArguments
from loopwright.errors import ArgumentError
from loopwright.journal.reader import JournalReader
from loopwright.records import Kind, Status

ON_CPU = (
    "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
)
FITTING = 2


class Fault:
    """Says that memory is out, at one place and step, as long as batches are larger than what fits."""

    def __init__(self, place=None, step=0, error=None):
        self.place, self.step = place, step
        self.error = torch.OutOfMemoryError("injected") if error is None else error
        self.raised = []
        self.sizes = []

    def at(self, place, trainer, size):
        if place == self.place and trainer.state.global_step == self.step and size > FITTING:
            self.raised.append(size)
            raise self.error


class BackwardFault(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value, model):
        ctx.model = model
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        ctx.model.fault.at("backward", ctx.model.trainer, ctx.model.size)
        return gradient, None


class Network(nn.Module):
    def __init__(self, fault):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
        self.fault = fault
        self.seen = []
        self.calls = 0

    def forward(self, x, labels=None):
        self.size = self.trainer._train_batch_size
        if self.training:
            self.fault.at("start", self.trainer, self.size)
        predicted = self.layers(x).squeeze(-1)
        if self.training:
            self.seen += labels.tolist()
            self.calls += 1
            self.fault.at("forward", self.trainer, self.size)
            if self.calls % 2 == 0:
                self.fault.at("second micro-batch", self.trainer, self.size)
            predicted = BackwardFault.apply(predicted, self)
        return {"loss": nn.functional.mse_loss(predicted, labels), "logits": predicted}


class Adam(torch.optim.AdamW):
    def step(self, closure=None):
        super().step(closure)  # the weights have moved when it raises
        self.model.fault.at("optimizer", self.model.trainer, self.model.size)


class Count(TrainerCallback, ExportableState):
    def __init__(self):
        self.steps = 0

    def on_step_end(self, args, state, control, **kwargs):
        self.steps += 1

    def state(self):
        return {"args": {}, "attributes": {"steps": self.steps}}


class Stop(TrainerCallback):
    def on_save(self, args, state, control, **kwargs):
        raise KeyboardInterrupt


def build(directory, fault=None, callbacks=(), **options):
    torch.manual_seed(0)
    draws = torch.Generator().manual_seed(0)
    data = [{"x": torch.randn(3, generator=draws), "labels": torch.tensor(float(index))} for index in range(32)]
    defaults = {
        "per_device_train_batch_size": 8, "auto_find_batch_size": True, "num_train_epochs": 2, "logging_steps": 1,
        "save_strategy": "no", "report_to": "none", "use_cpu": True, "disable_tqdm": True, "learning_rate": 0.1,
    }  # fmt: skip
    args = TrainingArguments(str(directory), **(defaults | options))
    model = Network(fault or Fault())
    trainer = Trainer(
        model, args, train_dataset=data, eval_dataset=data[:4], callbacks=[Count(), *callbacks],
        optimizer_cls_and_kwargs=(Adam, {"lr": 0.1}),
    )  # fmt: skip
    object.__setattr__(model, "trainer", trainer)
    Adam.model = model
    return trainer


def steady(history):
    return [
        {key: value for key, value in line.items() if not key.endswith(("_runtime", "_per_second"))} for line in history
    ]


def assert_same(one, other):
    for name, value in other.model.state_dict().items():
        assert torch.equal(one.model.state_dict()[name], value), name
    assert steady(one.state.log_history) == steady(other.state.log_history)
    assert one.state.max_steps == other.state.max_steps
    assert one.state.train_batch_size == other.state.train_batch_size


PLACES = [
    ("forward", 0), ("backward", 0), ("optimizer", 0), ("second micro-batch", 0), ("forward", 2), ("optimizer", 2),
]  # fmt: skip


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize(("place", "step"), PLACES)
def test_training_is_that_which_begins_with_the_size_found(place, step, accumulation, tmp_path):
    if place == "second micro-batch" and accumulation == 1:
        step = 1
    options = {"gradient_accumulation_steps": accumulation, "max_grad_norm": 1.0}
    expected = build(tmp_path / "expected", per_device_train_batch_size=FITTING, **options)
    expected.train()
    fault = Fault(place, step, RuntimeError(ON_CPU) if step else None)
    trainer = build(tmp_path / "found", fault, **options)
    trainer.train()
    assert fault.raised == [8, 4]
    assert_same(trainer, expected)
    assert trainer.state.global_step == 32 // FITTING // accumulation * 2
    assert sorted(trainer.model.seen[-64:]) == sorted([float(index) for index in range(32)] * 2)
    (count,) = (one for one in trainer.callback_handler.callbacks if isinstance(one, Count))
    assert count.steps == trainer.state.global_step
    assert trainer.args.per_device_train_batch_size == 8


def test_journal_holds_each_number_once_and_how_the_tries_ended(tmp_path):
    trainer = build(tmp_path, Fault("forward", 2))
    trainer.train()
    with JournalReader(tmp_path) as reader:
        (run,) = reader.runs()
        attempts = reader.attempts(run.id)
        logged = [record for record in reader.records(run.id, kinds=[Kind.LOG]) if "loss" in record.values]
        rewinds = reader.records(run.id, kinds=[Kind.REWIND])
    assert [attempt.status for attempt in attempts] == [Status.FAILED, Status.FAILED, Status.COMPLETED]
    assert [record.step for record in logged] == list(range(1, 33))
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert [record.values["loss"] for record in logged] == losses
    assert [record.values["from_step"] for record in rewinds] == [1, 1]


def test_size_found_is_saved_and_a_resumed_run_goes_on_with_it(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 5}
    expected = build(tmp_path / "expected", per_device_train_batch_size=FITTING, **options)
    expected.train()
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "found", Fault("forward", 2), [Stop()], **options).train()
    resumed = build(tmp_path / "found", fault := Fault("forward", 7), **options)
    resumed.train(resume_from_checkpoint=True)
    assert not fault.raised
    assert_same(resumed, expected)


def test_error_after_the_search_ends_the_run(tmp_path):
    for options, step in (({}, 12), ({"save_strategy": "steps", "save_steps": 2}, 3)):
        trainer = build(tmp_path / str(step), Fault("forward", step), num_train_epochs=4, **options)
        with pytest.raises(torch.OutOfMemoryError, match="injected"):
            trainer.train()
        assert trainer.state.global_step == step


def test_error_that_is_none_of_memory_ends_the_run(tmp_path):
    trainer = build(tmp_path, Fault("forward", 0, RuntimeError("shapes don't match")))
    with pytest.raises(RuntimeError, match="shapes"):
        trainer.train()
    assert trainer.model.fault.raised == [8]


def test_error_without_the_argument_ends_the_run(tmp_path):
    trainer = build(tmp_path, Fault("forward", 0), auto_find_batch_size=False)
    with pytest.raises(torch.OutOfMemoryError):
        trainer.train()


def test_one_example_that_does_not_fit_is_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "FITTING", 0)
    trainer = build(tmp_path, Fault("start", 0))
    with pytest.raises(ArgumentError, match=r"^auto_find_batch_size=True: not even batches of 1 fit .*injected"):
        trainer.train()
    assert trainer.model.fault.raised == [8, 4, 2, 1]


def test_loader_that_does_not_follow_is_refused(tmp_path):
    trainer = build(tmp_path, Fault("forward", 0))
    loader = trainer.get_train_dataloader()
    trainer.get_train_dataloader = lambda: loader
    with pytest.raises(ArgumentError, match=r"gives batches of 8 where 4 are to be tried; let it take self\._train"):
        trainer.train()


def test_copy_of_the_weights_goes_with_the_search(tmp_path, monkeypatch):
    from loopwright.loop import session

    searches = []
    kind = session.BatchSizeSearch
    monkeypatch.setattr(session, "BatchSizeSearch", lambda trainer: searches.append(kind(trainer)) or searches[-1])
    trainer = build(tmp_path, num_train_epochs=4)
    trainer.train()
    assert not searches[0]._tensors
    assert "run_update" not in vars(trainer.training_loop)
