"""What a user sees of the Trainer: construction, hooks, logs, saving, and what goes wrong."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import IterableDataset

from loopwright import (
    DefaultFlowCallback,
    EarlyStoppingCallback,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from loopwright.errors import ArgumentError, CheckpointNotFound, DataError, UnsupportedArgument


class Classifier(nn.Module):
    def __init__(self, dropout=0.0):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 2))

    def forward(self, x, labels=None):
        logits = self.layers(x)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return {"logits": logits} if loss is None else {"loss": loss, "logits": logits}


def make_data(count=20, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 4, generator=generator)
    return [{"x": row, "labels": int(row[0] > 0)} for row in x]


@pytest.fixture
def build(tmp_path):
    def build(model=None, *, kind=Trainer, callbacks=None, data=None, eval_data=None, parts=None, **arguments):
        torch.manual_seed(0)
        defaults = {
            "per_device_train_batch_size": 4,
            "num_train_epochs": 2,
            "use_cpu": True,
            "disable_tqdm": True,
            "report_to": "none",
            "logging_steps": 1,
            "save_strategy": "no",
        }
        return kind(
            model if model is not None else Classifier(),
            TrainingArguments(str(tmp_path / "out"), **(defaults | arguments)),
            train_dataset=make_data() if data is None else data,
            eval_dataset=eval_data,
            callbacks=callbacks,
            **(parts or {}),
        )

    return build


# What the defaults do: take each away and see


def test_without_the_default_flow_nothing_is_logged_saved_or_evaluated(build, tmp_path):
    trainer = build(eval_data=make_data(4), eval_strategy="steps", save_strategy="steps", save_steps=2)
    trainer.remove_callback(DefaultFlowCallback)
    trainer.train()
    assert [sorted(set(line) & {"loss", "eval_loss", "train_loss"}) for line in trainer.state.log_history] == [
        ["train_loss"]
    ]
    assert not list((tmp_path / "out").glob("checkpoint-*"))
    # Nothing says stop at max_steps, but the epochs end all the same.
    assert trainer.state.global_step == 10


def test_without_the_printer_nothing_is_printed(build, capsys):
    trainer = build()
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    assert capsys.readouterr().out == ""


def test_without_the_progress_bar_nothing_is_drawn(build, capsys):
    with_bar = build(disable_tqdm=False)
    with_bar.train()
    assert "10/10" in capsys.readouterr().err
    without = build(disable_tqdm=False)
    without.remove_callback(ProgressCallback)
    without.train()
    assert capsys.readouterr().err == ""


# Hooks


def test_an_overridden_compute_loss_is_what_is_trained_on(build):
    class Doubled(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False):
            loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
            return (2 * loss, outputs) if return_outputs else 2 * loss

    plain, doubled = build(max_steps=1), build(kind=Doubled, max_steps=1)
    plain.train()
    doubled.train()
    assert doubled.state.log_history[0]["loss"] == pytest.approx(2 * plain.state.log_history[0]["loss"], rel=1e-6)


def test_overridden_hooks_are_called(build):
    called = set()

    class Own(Trainer):
        def get_train_dataloader(self):
            called.add("get_train_dataloader")
            return super().get_train_dataloader()

        def get_eval_dataloader(self, eval_dataset=None):
            called.add("get_eval_dataloader")
            return super().get_eval_dataloader(eval_dataset)

        def create_optimizer(self, model=None):
            called.add("create_optimizer")
            self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.5)
            return self.optimizer

        def create_scheduler(self, num_training_steps, optimizer=None):
            called.add("create_scheduler")
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
            return self.lr_scheduler

        def training_step(self, *args, **kwargs):
            called.add("training_step")
            return super().training_step(*args, **kwargs)

        def prediction_step(self, *args, **kwargs):
            called.add("prediction_step")
            return super().prediction_step(*args, **kwargs)

        def evaluation_loop(self, *args, **kwargs):
            called.add("evaluation_loop")
            return super().evaluation_loop(*args, **kwargs)

        def log(self, logs, start_time=None):
            called.add("log")
            logs["mine"] = 1
            super().log(logs, start_time)

    trainer = build(kind=Own, eval_data=make_data(4), eval_strategy="epoch")
    trainer.train()
    expected = set(vars(Own)) - {"__module__", "__doc__", "__qualname__", "__firstlineno__", "__static_attributes__"}
    assert called == expected
    assert trainer.state.log_history[0]["learning_rate"] == 0.5
    assert all(line["mine"] == 1 for line in trainer.state.log_history)


@pytest.mark.parametrize("form", ["tuple", "object", "mapping"])
def test_a_loss_is_found_in_every_form_of_output(build, form):
    class Output:
        def __init__(self, loss, logits):
            self.loss, self.logits = loss, logits

    class Model(Classifier):
        def forward(self, x, labels=None):
            outputs = super().forward(x, labels)
            if form == "mapping" or labels is None:
                return outputs
            kind = Output if form == "object" else lambda *values: values
            return kind(outputs["loss"], outputs["logits"])

    trainer = build(Model(), eval_data=make_data(6))
    assert trainer.train().training_loss > 0
    output = trainer.predict(make_data(6))
    assert output.predictions.shape == (6, 2)
    assert output.label_ids.shape == (6,)
    assert math.isfinite(output.metrics["test_loss"])


def test_a_loss_function_gets_outputs_labels_and_the_number_of_items(build):
    seen = []

    def summed(outputs, labels, num_items_in_batch=None):
        seen.append(int(num_items_in_batch))
        return nn.functional.cross_entropy(outputs["logits"], labels, reduction="sum") / num_items_in_batch

    trainer = build(gradient_accumulation_steps=2, parts={"compute_loss_func": summed}, num_train_epochs=1)
    trainer.train()
    assert seen == [8, 8, 8, 8, 4]
    plain = build(gradient_accumulation_steps=2, num_train_epochs=1)
    plain.train()
    expected = [line["loss"] for line in plain.state.log_history if "loss" in line]
    assert [line["loss"] for line in trainer.state.log_history if "loss" in line] == pytest.approx(expected, rel=1e-5)


def test_model_init_makes_the_model_anew_for_every_training(build, tmp_path):
    args = TrainingArguments(
        str(tmp_path), max_steps=3, use_cpu=True, disable_tqdm=True, report_to="none", save_strategy="no"
    )
    trainer = Trainer(model_init=Classifier, args=args, train_dataset=make_data())
    first = trainer.train().training_loss
    assert trainer.train().training_loss == first


def test_given_optimizer_and_scheduler_are_used(build):
    model = Classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.25)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.1)
    trainer = build(model, parts={"optimizers": (optimizer, scheduler)}, max_steps=4)
    trainer.train()
    rates = [line["learning_rate"] for line in trainer.state.log_history if "learning_rate" in line]
    assert rates == pytest.approx([0.25, 0.25, 0.025, 0.025])
    assert trainer.optimizer is optimizer


# Data


class Stream(IterableDataset):
    def __iter__(self):
        return iter(make_data(10))


def test_hugging_face_datasets_train_with_columns_left_out(build):
    rows = make_data(8)
    dataset = datasets.Dataset.from_dict(
        {"x": [row["x"].tolist() for row in rows], "labels": [row["labels"] for row in rows], "text": ["a"] * 8}
    )
    assert build(data=dataset).train().global_step == 4
    assert build(data=dataset.to_iterable_dataset(), max_steps=3).train().global_step == 3


def test_an_iterable_dataset_starts_again_until_max_steps(build):
    trainer = build(data=Stream(), max_steps=7)
    trainer.train()
    assert trainer.state.global_step == 7


def test_an_iterable_dataset_without_max_steps_is_refused(build):
    with pytest.raises(ArgumentError, match="max_steps"):
        build(data=Stream())


def test_labels_under_names_of_ones_own(build):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 2)

        def forward(self, x, target=None):
            logits = self.linear(x)
            return {"loss": nn.functional.cross_entropy(logits, target), "logits": logits}

    rows = [{"x": row["x"], "target": row["labels"]} for row in make_data()]
    trainer = build(Model(), data=rows, eval_data=rows, label_names=["target"])
    trainer.train()
    assert trainer.predict(rows).label_ids.tolist() == [row["target"] for row in rows]


# Numbers


def test_a_window_with_a_nonfinite_step_says_so(build):
    class Faulty(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            loss = super().compute_loss(model, inputs)
            return loss * float("nan") if self.state.global_step == 1 else loss.detach().requires_grad_() + 0 * loss

    trainer = build(kind=Faulty, logging_steps=2, max_steps=4, max_grad_norm=0.0)
    trainer.train()
    first, second = [line for line in trainer.state.log_history if "loss" in line]
    assert math.isfinite(first["loss"])
    assert first["nonfinite_steps"] == 1
    # The NaN has reached the weights by now: no window may look finite any more.
    assert math.isnan(second["loss"])
    assert second["nonfinite_steps"] == 2
    assert trainer.state.log_history[-1]["train_nonfinite_steps"] == 3


def test_a_window_without_the_filter_is_nan_as_a_whole(build):
    class Faulty(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            return super().compute_loss(model, inputs) * (float("inf") if self.state.global_step == 1 else 1.0)

    trainer = build(kind=Faulty, logging_steps=2, max_steps=2, logging_nan_inf_filter=False)
    trainer.train()
    assert math.isnan(trainer.state.log_history[0]["loss"])
    assert trainer.state.log_history[0]["nonfinite_steps"] == 1


def test_tokens_are_counted_with_and_without_padding(build):
    class Embedding(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(5, 2)

        def forward(self, input_ids, attention_mask, labels):
            return {"loss": nn.functional.cross_entropy(self.table(input_ids).mean(1), labels)}

    rows = [{"input_ids": [1, 2, 0], "attention_mask": [1, 1, 0], "labels": index % 2} for index in range(8)]
    for counted, expected in (("all", 24), ("non_padding", 16)):
        trainer = build(Embedding(), data=rows, num_train_epochs=1, include_num_input_tokens_seen=counted)
        trainer.train()
        assert trainer.state.num_input_tokens_seen == expected
        assert trainer.state.log_history[-2]["num_input_tokens_seen"] == expected
        assert trainer.state.log_history[-2]["train_tokens_per_second"] > 0


def test_keys_that_callbacks_add_stand_in_the_history(build):
    class Adding(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            assert state.log_history[-1]["step"] == state.global_step
            logs["added"] = 5
            logs["step"] = -1
            logs.pop("epoch", None)

        def on_evaluate(self, args, state, control, metrics=None, **kwargs):
            metrics["eval_extra"] = 7

    trainer = build(callbacks=[Adding], eval_data=make_data(4), eval_strategy="epoch", max_steps=5)
    trainer.train()
    assert all(line["added"] == 5 and "epoch" in line for line in trainer.state.log_history)
    assert all(line["step"] in range(1, 6) for line in trainer.state.log_history)  # the line's own, whatever is set
    assert [line["eval_extra"] for line in trainer.state.log_history if "eval_loss" in line] == [7]


def test_evaluation_alone_logs_without_an_epoch(build):
    trainer = build(eval_data={"a": make_data(4), "b": make_data(6, seed=1)})
    metrics = trainer.evaluate()
    assert {"eval_a_loss", "eval_b_loss"} < set(metrics)
    assert all("epoch" not in line for line in trainer.state.log_history)


def test_metrics_see_every_example_once_and_in_order(build):
    rows = make_data(11)
    seen = {}

    def measure(prediction):
        predictions, labels = prediction
        seen.update(predictions=predictions, labels=labels)
        return {"accuracy": np.mean(predictions.argmax(-1) == labels)}

    trainer = build(eval_data=rows, per_device_eval_batch_size=4, parts={"compute_metrics": measure})
    metrics = trainer.evaluate()
    trainer.model.eval()
    with torch.no_grad():
        logits = trainer.model(torch.stack([row["x"] for row in rows]))["logits"]
    assert seen["labels"].tolist() == [row["labels"] for row in rows]
    assert np.allclose(seen["predictions"], logits.numpy(), atol=1e-6)
    assert isinstance(metrics["eval_accuracy"], float)


def test_batch_eval_metrics_are_summed_up_by_the_function(build):
    calls = []

    def measure(prediction, compute_result):
        calls.append((len(prediction.label_ids), compute_result))
        return {"batches": len(calls)}

    options = {"per_device_eval_batch_size": 4, "batch_eval_metrics": True}
    trainer = build(eval_data=make_data(10), parts={"compute_metrics": measure}, **options)
    assert trainer.evaluate()["eval_batches"] == 3
    assert calls == [(4, False), (4, False), (2, True)]


def test_torchmetrics_get_every_batch_and_nothing_is_kept_for_them(build, monkeypatch):
    from torchmetrics import MetricCollection
    from torchmetrics.classification import MulticlassAccuracy, MulticlassRecall

    taken = []
    monkeypatch.setattr("loopwright.loop.gather.OutputCollector.add", lambda *args: taken.append(args))
    rows = make_data(11)
    options = {"eval_data": rows, "per_device_eval_batch_size": 4}

    def measured(metric, **more):
        trainer = build(**options, **more, parts={"compute_metrics": metric})
        trainer.evaluate()  # is not counted twice
        found = trainer.evaluate()
        return {name: value for name, value in found.items() if "acc" in name or "recall" in name}, trainer

    alone, trainer = measured(MulticlassAccuracy(2, average="micro"))
    with torch.no_grad():
        chosen = trainer.model(torch.stack([row["x"] for row in rows]))["logits"].argmax(-1)
    right = [int(choice) == row["labels"] for choice, row in zip(chosen, rows, strict=True)]
    assert alone == {"eval_multiclass_accuracy": pytest.approx(sum(right) / 11)}
    several = MetricCollection(
        {"acc": MulticlassAccuracy(2, average="micro"), "recall": MulticlassRecall(2, average=None)}
    )
    found, _ = measured(several, batch_eval_metrics=True)
    assert list(found) == ["eval_acc", "eval_recall_0", "eval_recall_1"]
    assert found["eval_acc"] == alone["eval_multiclass_accuracy"]
    assert all(type(value) is float for value in found.values())
    assert taken == []
    monkeypatch.undo()
    assert trainer.predict(rows).predictions.shape == (11, 2)


def test_outputs_go_to_files_where_asked_and_are_the_same(build, tmp_path):
    rows, spill = make_data(11), tmp_path / "spill"
    spill.mkdir()
    usual = build(eval_data=rows, per_device_eval_batch_size=4).predict(rows).predictions
    spilled = build(eval_data=rows, per_device_eval_batch_size=4, eval_spill_dir=str(spill)).predict(rows).predictions
    assert np.array_equal(usual, spilled)
    assert any(str(spill) in line for line in Path("/proc/self/maps").read_text().splitlines())
    assert list(spill.iterdir()) == []
    with pytest.raises(ArgumentError, match=r"eval_spill_dir='.*/spil': expected a directory that is there"):
        build(eval_data=rows, eval_spill_dir=str(tmp_path / "spil"))


# Ways to compute


def test_a_compiled_model_trains_to_the_same_weights(build):
    plain, compiled = build(), build(torch_compile_backend="eager")
    plain.train()
    compiled.train()
    assert compiled.model_wrapped is not compiled.model
    assert all(torch.equal(a, b) for a, b in zip(plain.model.parameters(), compiled.model.parameters(), strict=True))


def test_half_precision_scales_its_gradients_and_saves_the_scale(build, tmp_path):
    trainer = build(fp16=True, save_strategy="steps", save_steps=10)
    trainer.train()
    assert trainer.precision.scaler is not None
    assert (tmp_path / "out" / "checkpoint-10" / "scaler.pt").exists()
    assert math.isfinite(trainer.state.log_history[-1]["train_loss"])


def test_gradient_checkpointing_is_asked_of_the_model_or_refused(build):
    class Willing(Classifier):
        asked = None

        def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs=None):
            self.asked = gradient_checkpointing_kwargs

    options = {"use_reentrant": False}
    trainer = build(Willing(), gradient_checkpointing=True, gradient_checkpointing_kwargs=options, max_steps=1)
    trainer.train()
    assert trainer.model.asked == options
    with pytest.raises(ArgumentError, match="has no gradient_checkpointing_enable"):
        build(gradient_checkpointing=True, max_steps=1).train()


# Saving


def test_a_run_leaves_what_design_says(build, tmp_path):
    trainer = build(save_strategy="steps", save_steps=5, save_total_limit=1)
    trainer.train()
    out = tmp_path / "out"
    assert [path.name for path in out.glob("checkpoint-*")] == ["checkpoint-10"]
    names = {path.name for path in (out / "checkpoint-10").iterdir()}
    assert names == {
        "model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json",
        "loopwright_state.json", "training_args.json", "manifest.json",
    }  # fmt: skip


def test_the_best_weights_come_back_at_the_end(build):
    class Spoiler(TrainerCallback):
        def on_epoch_begin(self, args, state, control, model=None, **kwargs):
            if state.epoch and state.epoch >= 1:
                with torch.no_grad():
                    for parameter in model.parameters():
                        parameter.add_(5 * torch.randn_like(parameter))

    trainer = build(
        callbacks=[Spoiler], eval_data=make_data(8), eval_strategy="epoch", save_strategy="epoch",
        load_best_model_at_end=True, num_train_epochs=3,
    )  # fmt: skip
    trainer.train()
    assert trainer.state.best_global_step == 5
    assert trainer.evaluate()["eval_loss"] == pytest.approx(trainer.state.best_metric)


def test_metrics_and_state_are_saved_as_json(build, tmp_path):
    trainer = build()
    metrics = trainer.train().metrics
    trainer.save_metrics("train", metrics)
    trainer.save_metrics("eval", {"eval_loss": 1.0})
    trainer.save_state()
    out = tmp_path / "out"
    assert json.loads((out / "train_results.json").read_text()) == metrics
    assert json.loads((out / "all_results.json").read_text()) == {**metrics, "eval_loss": 1.0}
    assert json.loads((out / "trainer_state.json").read_text())["global_step"] == 10


def test_a_trainer_can_be_pickled(build):
    trainer = build(Classifier(), disable_tqdm=False, callbacks=[EarlyStoppingCallback])
    again = pickle.loads(pickle.dumps(trainer))
    again.remove_callback(EarlyStoppingCallback)
    assert again.train().global_step == 10


# What goes wrong


def test_an_exception_reaches_every_callback_and_then_the_user(build):
    heard = []

    class Failing(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            raise ConnectionError("service is away")

        def on_exception(self, args, state, control, exception=None, **kwargs):
            heard.append(exception)
            raise RuntimeError("and this one fails twice")

    class Listening(TrainerCallback):
        def on_exception(self, args, state, control, exception=None, **kwargs):
            heard.append(exception)

    trainer = build(callbacks=[Failing, Listening])
    with pytest.raises(ConnectionError) as caught:
        trainer.train()
    assert [type(error) for error in heard] == [ConnectionError, ConnectionError]
    assert "Failing.on_step_end" in caught.value.__notes__[0]
    assert not trainer.is_in_train


def test_a_failing_callback_can_be_disabled_instead(build):
    class Failing(TrainerCallback):
        calls = 0

        def on_step_end(self, args, state, control, **kwargs):
            type(self).calls += 1
            raise ConnectionError("service is away")

    trainer = build(callbacks=[Failing], callback_errors="disable")
    assert trainer.train().global_step == 10
    assert Failing.calls == 1
    assert "Failing (disabled)" in str(trainer.callback_handler)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"model": None}, "exactly one of model and model_init"),
        ({"model": "bert"}, "torch.nn.Module, not a str"),
        ({"optimizers": (object(), None), "optimizer_cls_and_kwargs": (torch.optim.SGD, {})}, "pass one of them"),
        ({"eval_strategy": "steps"}, "eval_dataset"),
    ],
)
def test_parts_that_contradict_each_other_are_named(parts, words, tmp_path):
    arguments = {key: parts.pop(key) for key in ("eval_strategy",) if key in parts}
    args = TrainingArguments(str(tmp_path), report_to="none", use_cpu=True, **arguments)
    with pytest.raises(ArgumentError, match=words):
        Trainer(**{"model": Classifier(), "args": args, "train_dataset": make_data(), **parts})


def test_a_model_without_a_loss_is_named(build):
    class Lossless(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 2)

        def forward(self, x):
            return {"logits": self.linear(x)}

    with pytest.raises(DataError, match=r"returned no loss, only \['logits'\]"):
        build(Lossless()).train()


def test_resuming_from_nothing_is_an_error_unless_auto(build):
    with pytest.raises(CheckpointNotFound, match="no whole checkpoint"):
        build().train(resume_from_checkpoint=True)
    with pytest.raises(CheckpointNotFound, match="no such directory"):
        build().train(resume_from_checkpoint="/nonexistent")
    with pytest.raises(ArgumentError, match="resume_from_checkpoint=3"):
        build().train(resume_from_checkpoint=3)
    assert build().train(resume_from_checkpoint="auto").global_step == 10


def test_pushing_names_the_way(build):
    with pytest.raises(UnsupportedArgument, match="upload_folder"):
        build().push_to_hub()
