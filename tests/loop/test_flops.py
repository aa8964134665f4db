"""`total_flos` is counted from what torch runs, disturbs nothing, and is the same after a resume."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from loopwright import Trainer, TrainerCallback, TrainingArguments
from loopwright.loop import flops


class Dense(nn.Module):
    """Dropout, convolution, attention and a batch norm, whose buffers change: whatever a count might disturb."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv1d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm1d(8)
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.0, batch_first=True)
        self.rest = nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 1))

    def forward(self, x, labels=None):
        hidden = self.norm(self.convolution(x.transpose(1, 2))).transpose(1, 2)
        hidden, _ = self.attention(hidden, hidden, hidden, need_weights=False)
        predicted = self.rest(hidden).mean((1, 2))
        return {"loss": nn.functional.mse_loss(predicted, labels)}


class Recomputing(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))

    def forward(self, x, labels=None):
        return {"loss": checkpoint(self.inner, x, use_reentrant=False).sum()}


class Knowing(Dense):
    def floating_point_ops(self, inputs):
        return 10 * len(inputs["x"])


class Stop(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_save(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


class Freeze(TrainerCallback):
    def on_epoch_begin(self, args, state, control, model, **kwargs):
        model.convolution.requires_grad_(state.epoch < 1)


def rows(lengths):
    draws = torch.Generator().manual_seed(0)
    return [{"x": torch.randn(length, 3, generator=draws), "labels": torch.tensor(float(length))} for length in lengths]


def build(directory, *, model=None, lengths=(5,) * 14, callbacks=(), **arguments):
    torch.manual_seed(0)
    defaults = {
        "per_device_train_batch_size": 4, "num_train_epochs": 2, "save_strategy": "no", "report_to": "none",
        "use_cpu": True, "disable_tqdm": True, "logging_steps": 1,
    }  # fmt: skip
    return Trainer(
        Dense() if model is None else model,
        TrainingArguments(str(directory), **(defaults | arguments)),
        train_dataset=rows(lengths),
        callbacks=list(callbacks),
    )


def counted_by_torch(model, size, length):
    """Return what torch's own counter finds in forward and backward; its formulas lack the CPU's attention."""
    with FlopCounterMode(display=False, custom_mapping={}) as counter:
        model(torch.randn(size, length, 3), torch.zeros(size))["loss"].backward()
    per_product = 2 * size * 2 * length * length * 4  # two heads of four
    return counter.get_total_flops() + (2 + 5) * per_product


def test_count_is_that_of_torch_for_every_form_of_batch(tmp_path):
    trainer = build(tmp_path)
    trainer.train()
    expected = 2 * (3 * counted_by_torch(Dense(), 4, 5) + counted_by_torch(Dense(), 2, 5))
    assert trainer.state.total_flos == trainer.state.log_history[-1]["total_flos"] == expected > 0


def test_micro_batches_of_an_accumulation_count(tmp_path):
    trainer = build(tmp_path, lengths=(5,) * 16, gradient_accumulation_steps=4)
    trainer.train()
    assert trainer.state.global_step == 2
    assert trainer.state.total_flos == 8 * counted_by_torch(Dense(), 4, 5)


def test_what_checkpointing_computes_anew_counts(tmp_path):
    trainer = build(tmp_path, model=Recomputing(), lengths=(5,) * 4, num_train_epochs=1)
    trainer.train()
    product = 2 * 4 * 5 * 3 * 3
    # Forward two, the first of them anew, two gradients of weights and one of what lies between.
    assert trainer.state.total_flos == (2 + 1 + 2 + 1) * product


@pytest.mark.parametrize("bf16", [False, True])
def test_counting_changes_no_bit(bf16, tmp_path, monkeypatch):
    counted = build(tmp_path / "counted", bf16=bf16)
    counted.train()
    monkeypatch.setattr(flops, "_is_compiled", lambda module: True)  # which is not counted
    plain = build(tmp_path / "plain", bf16=bf16)
    plain.train()
    assert counted.state.total_flos > 0 == plain.state.total_flos
    for name, value in plain.model.state_dict().items():
        assert torch.equal(counted.model.state_dict()[name], value), name
    for one, other in zip(counted.state.log_history[:-1], plain.state.log_history[:-1], strict=True):
        assert one == other


@pytest.mark.parametrize("step", [1, 3, 5])
def test_total_after_a_resume_is_that_of_an_unbroken_run(step, tmp_path):
    options = {"save_strategy": "steps", "save_steps": 1, "gradient_accumulation_steps": 2}
    lengths = (5,) * 10  # three micro-batches: an update of two, and one of the last, short one
    whole = build(tmp_path / "whole", callbacks=[Freeze()], lengths=lengths, **options, num_train_epochs=3)
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        build(
            tmp_path / "parts", callbacks=[Freeze(), Stop(step)], lengths=lengths, **options, num_train_epochs=3
        ).train()
    resumed = build(tmp_path / "parts", callbacks=[Freeze()], lengths=lengths, **options, num_train_epochs=3)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.total_flos == whole.state.total_flos > 0


def test_frozen_parameters_cost_less(tmp_path):
    def total(callbacks):
        trainer = build(tmp_path, callbacks=callbacks)
        trainer.train()
        return trainer.state.total_flos

    assert total([Freeze()]) < total([])


def test_each_form_is_counted_once(tmp_path, monkeypatch):
    counts = []
    init = flops._Operations.__init__
    monkeypatch.setattr(flops._Operations, "__init__", lambda self: (counts.append(1), init(self))[1])
    build(tmp_path, num_train_epochs=3).train()
    assert len(counts) == 2  # batches of 4, and the last of 2


def test_model_that_knows_is_asked(tmp_path):
    trainer = build(tmp_path, model=Knowing())
    trainer.train()
    assert trainer.state.total_flos == 2 * 14 * 10


def test_formula_that_fails_stops_nothing(tmp_path, monkeypatch, caplog):
    def fails(*args, **kwargs):
        raise ValueError("no such shape")

    monkeypatch.setitem(flop_registry, torch.ops.aten.convolution, fails)
    trainer = build(tmp_path)
    trainer.train()
    assert trainer.state.global_step == 8
    assert trainer.state.total_flos == 0
    assert [record.getMessage() for record in caplog.records if "total_flos" in record.getMessage()] == [
        "total_flos: operations can't be counted here, it stays at 0: ValueError: no such shape"
    ]


class Half(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 1)

    def forward(self, x):
        return self.linear(x)


class Partly(nn.Module):
    def __init__(self, loss):
        super().__init__()
        self.inner = Half()
        self.loss = loss

    def forward(self, x, labels=None):
        return {"loss": self.loss(self.inner(x))}


class Backend:
    def __init__(self):
        self.graphs = []

    def __call__(self, graph, example_inputs):
        self.graphs.append(graph)
        return graph.forward


def mean_of_squares(value):
    return (value**2).mean()


def test_compiled_model_stays_compiled_and_is_not_counted(tmp_path):
    backend = Backend()
    model = Partly(mean_of_squares)
    model.inner.compile(backend=backend)
    trainer = build(tmp_path, model=model, num_train_epochs=1)
    trainer.train()
    assert backend.graphs
    assert trainer.state.total_flos == 0


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # dynamo looks at all of it
def test_compiled_function_inside_is_compiled_after_the_count(tmp_path):
    backend = Backend()
    model = Partly(torch.compile(mean_of_squares, backend=backend))
    trainer = build(tmp_path, model=model, num_train_epochs=1, lengths=(5,) * 8)
    trainer.train()
    assert trainer.state.total_flos == 2 * 2 * (2 * 4 * 5 * 3)
    assert backend.graphs
