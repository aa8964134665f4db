"""Going on from any checkpoint gives what a run that was never stopped gives: weights, log history, callbacks."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset

from loopwright import EarlyStoppingCallback, ExportableState, Trainer, TrainerCallback, TrainingArguments
from loopwright.loop.branching import why_branch

VOLATILE = ("_runtime", "_per_second")


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 1))

    def forward(self, x, labels=None):
        predicted = self.layers(x).squeeze(-1)
        return {"loss": nn.functional.mse_loss(predicted, labels), "logits": predicted}


class Noisy(Dataset):
    """Examples with noise drawn at every access, from the main process's stream."""

    def __init__(self, count=14):
        self.x = torch.randn(count, 3, generator=torch.Generator().manual_seed(0))

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        x = self.x[index] + 0.1 * torch.randn(3)
        return {"x": x, "labels": self.x[index].sum()}


class Stream(IterableDataset):
    def __iter__(self):
        return (Noisy()[index] for index in range(14))


class Counter(TrainerCallback, ExportableState):
    def __init__(self, every=1):
        self.every = every
        self.seen = 0

    def on_step_end(self, args, state, control, **kwargs):
        self.seen += self.every

    def state(self):
        return {"args": {"every": self.every}, "attributes": {"seen": self.seen}}


class Stop(TrainerCallback):
    """Ends the process's training right after a save, as a crash would: nothing after it may count."""

    def __init__(self, step):
        self.step = step

    def on_save(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


def build(directory, *, data=Noisy, callbacks=(), **arguments):
    torch.manual_seed(0)
    defaults = {
        "per_device_train_batch_size": 2,
        "num_train_epochs": 3,
        "logging_steps": 3,
        "save_steps": 1,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    return Trainer(
        Network(),
        TrainingArguments(str(directory), **(defaults | arguments)),
        train_dataset=data(),
        eval_dataset=Noisy(4),
        callbacks=[Counter(), Counter(every=10), *callbacks],
    )


def steady(history):
    return [{key: value for key, value in line.items() if not key.endswith(VOLATILE)} for line in history]


SCENES = {
    "map-style": {},
    "accumulation": {"gradient_accumulation_steps": 3},
    "epoch logs": {"logging_strategy": "epoch", "eval_strategy": "epoch"},
    "evaluation": {"eval_strategy": "steps", "eval_steps": 2},
    "plateau": {"eval_strategy": "steps", "eval_steps": 2, "lr_scheduler_type": "reduce_lr_on_plateau"},
    "iterable": {"data": Stream, "max_steps": 20},
    "bf16": {"bf16": True},
    "fp16": {"fp16": True},
    "early stopping": {
        "eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True, "learning_rate": 0.1,
        "callbacks": (EarlyStoppingCallback(5),),
    },
}  # fmt: skip


@pytest.mark.parametrize("step", [2, 7, 9])
@pytest.mark.parametrize("scene", SCENES)
def test_a_stopped_run_ends_like_one_that_was_never_stopped(scene, step, tmp_path):
    options = SCENES[scene]
    if scene == "accumulation":
        step = min(step, 8)
    fresh = lambda: {**options, "callbacks": tuple(EarlyStoppingCallback(5) for _ in options.get("callbacks", ()))}  # noqa: E731
    whole = build(tmp_path / "whole", **fresh())
    whole.train()
    assert whole.state.global_step > step
    first = fresh()
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "parts", **{**first, "callbacks": (*first["callbacks"], Stop(step))}).train()
    resumed = build(tmp_path / "parts", **fresh())
    torch.randn(17)  # the random streams are not where they were
    resumed.train(resume_from_checkpoint=True)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name
    assert steady(resumed.state.log_history) == steady(whole.state.log_history)
    assert [
        callback.state() for callback in resumed.callback_handler.callbacks if isinstance(callback, ExportableState)
    ] == [callback.state() for callback in whole.callback_handler.callbacks if isinstance(callback, ExportableState)]


class CutEpoch(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        control.should_epoch_stop = state.global_step == 4


def test_an_epoch_that_a_callback_cut_short_stays_cut(tmp_path):
    whole = build(tmp_path / "whole", callbacks=(CutEpoch(),), save_steps=4)
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "parts", callbacks=(CutEpoch(), Stop(4)), save_steps=4).train()
    resumed = build(tmp_path / "parts", callbacks=(CutEpoch(),), save_steps=4)
    resumed.train(resume_from_checkpoint=True)
    assert steady(resumed.state.log_history) == steady(whole.state.log_history)
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True))


def test_a_finished_run_that_is_resumed_does_no_step_more(tmp_path):
    first = build(tmp_path, max_steps=9, save_steps=3)
    first.train()
    again = build(tmp_path, max_steps=9, save_steps=3)
    assert again.train(resume_from_checkpoint=True).global_step == 9
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), again.model.parameters(), strict=True))


def test_resuming_says_which_arguments_differ(tmp_path, caplog):
    build(tmp_path, max_steps=4, save_steps=2).train()
    build(tmp_path, max_steps=6, save_steps=2, logging_steps=5).train(resume_from_checkpoint=True)
    assert "logging_steps=5 was 3" in caplog.text


def test_a_damaged_newest_checkpoint_is_skipped_by_name(tmp_path, caplog):
    build(tmp_path, max_steps=4, save_steps=2).train()
    model_file = tmp_path / "checkpoint-4" / "model.safetensors"
    model_file.write_bytes(model_file.read_bytes()[:-5])
    trainer = build(tmp_path, max_steps=6, save_steps=2)
    trainer.train(resume_from_checkpoint=True)
    assert "checkpoint-4" in caplog.text
    assert "model.safetensors" in caplog.text
    assert trainer.state.global_step == 6


def test_starting_anew_beside_an_earlier_run_is_said_and_leaves_it_alone(tmp_path, caplog):
    build(tmp_path, max_steps=8, save_steps=4).train()
    build(tmp_path, max_steps=3, save_steps=3, save_total_limit=1).train()
    assert "earlier run" in caplog.text
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == [
        "checkpoint-3",
        "checkpoint-4",
        "checkpoint-8",
    ]


def test_a_finished_run_on_a_stream_that_is_resumed_ends_at_once(tmp_path):
    build(tmp_path, data=Stream, max_steps=9, save_steps=3).train()
    again = build(tmp_path, data=Stream, max_steps=9, save_steps=3)
    assert again.train(resume_from_checkpoint=True).global_step == 9


class StopTraining(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 4:
            control.should_training_stop = True


def test_a_stop_that_a_kill_came_before_is_obeyed_and_one_that_was_carried_out_is_not_repeated(tmp_path):
    whole = build(tmp_path / "whole", callbacks=(StopTraining(),))
    whole.train()
    assert whole.state.global_step == 4
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "parts", callbacks=(StopTraining(), Stop(4))).train()
    resumed = build(tmp_path / "parts", callbacks=(StopTraining(),))
    resumed.train(resume_from_checkpoint=True)
    assert steady(resumed.state.log_history) == steady(whole.state.log_history)
    assert resumed.state.global_step == 4

    on_purpose = build(tmp_path / "parts", callbacks=(StopTraining(),))
    on_purpose.train(resume_from_checkpoint=True)
    assert on_purpose.state.global_step == on_purpose.state.max_steps


def test_an_evaluation_at_the_start_is_not_repeated_by_a_resume(tmp_path):
    whole = build(tmp_path / "whole", eval_on_start=True)
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "parts", eval_on_start=True, callbacks=(Stop(4),)).train()
    resumed = build(tmp_path / "parts", eval_on_start=True)
    resumed.train(resume_from_checkpoint=True)
    assert steady(resumed.state.log_history) == steady(whole.state.log_history)


@pytest.mark.parametrize("content", ["5", "null", "[" * 100_000])
def test_arguments_that_are_none_say_nothing_about_a_branch(content, tmp_path):
    trainer = build(tmp_path, max_steps=2, save_steps=2)
    trainer.train()
    checkpoint = tmp_path / "checkpoint-2"
    (checkpoint / "training_args.json").write_text(content)
    assert why_branch(checkpoint, str(tmp_path), trainer.args) is None
