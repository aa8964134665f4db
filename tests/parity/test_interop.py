"""transformers' callbacks run in our Trainer, ours in transformers' -- the real ones, unchanged."""

from __future__ import annotations

import pytest
import torch
import transformers
from transformers.trainer_callback import DefaultFlowCallback as TheirFlow

import loopwright
from loopwright.checkpoint import load_model_weights
from loopwright.errors import CheckpointError
from tests.parity.tiny import build


def test_the_default_callbacks_of_transformers_drive_our_trainer(tmp_path):
    trainer = build(loopwright, tmp_path, disable_tqdm=True)
    trainer.pop_callback(loopwright.DefaultFlowCallback)
    trainer.callback_handler.callbacks.insert(0, TheirFlow())
    trainer.train()
    plain = build(loopwright, tmp_path / "plain", disable_tqdm=True)
    plain.train()
    assert trainer.state.global_step == 9
    assert [sorted(line) for line in trainer.state.log_history] == [sorted(line) for line in plain.state.log_history]
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == [
        "checkpoint-3",
        "checkpoint-6",
        "checkpoint-9",
    ]


@pytest.mark.parametrize("name", ["ProgressCallback", "PrinterCallback"])
def test_their_reporters_report_in_our_trainer(name, tmp_path, capsys):
    trainer = build(loopwright, tmp_path)
    trainer.pop_callback(loopwright.ProgressCallback)
    trainer.add_callback(getattr(transformers.trainer_callback, name))
    trainer.train()
    assert "'train_loss'" in capsys.readouterr().out


def test_their_early_stopping_stops_our_trainer(tmp_path):
    callback = transformers.EarlyStoppingCallback(early_stopping_patience=1, early_stopping_threshold=100.0)
    trainer = build(
        loopwright, tmp_path, callbacks=[callback], load_best_model_at_end=True, num_train_epochs=9, disable_tqdm=True
    )
    trainer.train()
    assert trainer.state.global_step < 27
    ending = next(note for note in trainer.callback_handler.decisions if note.flag == "should_training_stop")
    assert (ending.callback, ending.event) == ("EarlyStoppingCallback", "on_evaluate")


@pytest.mark.parametrize("name", ["ProgressCallback", "PrinterCallback"])
def test_our_reporters_report_in_their_trainer(name, tmp_path, capsys):
    trainer = build(transformers, tmp_path)
    trainer.pop_callback(transformers.trainer_callback.ProgressCallback)
    trainer.add_callback(getattr(loopwright, name)())
    trainer.train()
    assert "'train_loss'" in capsys.readouterr().out


def test_our_default_flow_drives_their_trainer(tmp_path):
    trainer = build(transformers, tmp_path, disable_tqdm=True)
    trainer.pop_callback(TheirFlow)
    trainer.callback_handler.callbacks.insert(0, loopwright.DefaultFlowCallback())
    trainer.train()
    assert trainer.state.global_step == 9
    assert len(list(tmp_path.glob("checkpoint-*"))) == 3


def test_our_early_stopping_stops_their_trainer(tmp_path):
    callback = loopwright.EarlyStoppingCallback(early_stopping_patience=1, early_stopping_threshold=100.0)
    trainer = build(
        transformers, tmp_path, callbacks=[callback], load_best_model_at_end=True, num_train_epochs=9, disable_tqdm=True
    )
    trainer.train()
    assert trainer.state.global_step < 27


def test_our_clocks_save_and_stop_their_trainer(tmp_path):
    saves, stops = loopwright.TimedSaveCallback(minutes=0.0), loopwright.TimeBudgetCallback(hours=0.0)
    trainer = build(transformers, tmp_path / "saves", callbacks=[saves], save_strategy="no", max_steps=3)
    trainer.train()
    steps = {int(path.name.rpartition("-")[2]) for path in (tmp_path / "saves").glob("checkpoint-*")}
    assert steps == {1, 2, 3}
    trainer = build(transformers, tmp_path / "stops", callbacks=[stops])
    trainer.train()
    assert trainer.state.global_step == 1
    assert (tmp_path / "stops" / "checkpoint-1").is_dir()


def test_their_control_returned_by_a_callback_steers_our_trainer(tmp_path):
    class Foreign(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            return transformers.TrainerControl(should_training_stop=state.global_step == 4)

    trainer = build(loopwright, tmp_path, callbacks=[Foreign()], disable_tqdm=True)
    trainer.train()
    assert trainer.state.global_step == 4


def test_a_tiny_transformers_model_trains_saves_and_comes_back(tmp_path):
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=2
    )
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(config)
    examples = [{"input_ids": [1, 2, 3, 4 + i % 4], "labels": i % 2} for i in range(8)]
    args = loopwright.TrainingArguments(
        str(tmp_path), num_train_epochs=2, use_cpu=True, disable_tqdm=True, report_to="none"
    )
    trainer = loopwright.Trainer(model, args, train_dataset=examples, eval_dataset=examples)
    trainer.train()
    trainer.save_model(tmp_path / "final")
    again = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "final")
    for name, value in again.state_dict().items():
        assert torch.equal(value, trainer.model.state_dict()[name])
    assert trainer.predict(examples).predictions.shape == (8, 2)


@pytest.mark.parametrize(
    "options",
    [{}, {"label_smoothing_factor": 0.2}, {"gradient_accumulation_steps": 2}, {"activation_checkpointing": True}],
    ids=str,
)
def test_a_tiny_language_model_trains_as_in_transformers(options, tmp_path):
    def train(library):
        config = transformers.GPT2Config(
            vocab_size=20, n_positions=8, n_embd=8, n_layer=1, n_head=2, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0
        )
        torch.manual_seed(0)
        model = transformers.GPT2LMHeadModel(config)
        rows = [
            {"input_ids": [i % 7, 2, 3, 4, i % 5], "labels": [-100, 2, 3, 4 if i % 3 else -100, 1]} for i in range(10)
        ]
        args = library.TrainingArguments(
            str(tmp_path / library.__name__), max_steps=6, per_device_train_batch_size=2, logging_steps=1, use_cpu=True,
            disable_tqdm=True, report_to="none", save_strategy="no", learning_rate=1e-2, **options,
        )  # fmt: skip
        trainer = library.Trainer(model, args, train_dataset=rows, eval_dataset=rows)
        trainer.train()
        losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
        return losses, trainer.evaluate()["eval_loss"]

    theirs, ours = train(transformers), train(loopwright)
    assert ours[0] == pytest.approx(theirs[0], rel=1e-5)
    assert ours[1] == pytest.approx(theirs[1], rel=1e-5)


@pytest.fixture
def tokenizer():
    """A tokenizer of words, made on the spot."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    words = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "good", "bad", "very", "film"])}
    made = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]")


def classifier():
    config = transformers.BertConfig(
        vocab_size=6, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=2,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.BertForSequenceClassification(config)


def reviews(tokenizer):
    texts = ["good film", "very very bad film", "very good", "bad"] * 4
    return [{**tokenizer(text), "labels": int("good" in text)} for text in texts]


def test_a_tokenizer_pads_and_is_saved_as_in_transformers(tokenizer, tmp_path):
    def train(library):
        args = library.TrainingArguments(
            str(tmp_path / library.__name__), max_steps=6, per_device_train_batch_size=4, logging_steps=1, use_cpu=True,
            disable_tqdm=True, report_to="none", save_steps=3, learning_rate=1e-2,
        )  # fmt: skip
        rows = reviews(tokenizer)
        collator = transformers.DataCollatorWithPadding(tokenizer)
        trainer = library.Trainer(
            classifier(), args, collator, train_dataset=rows, eval_dataset=rows, processing_class=tokenizer
        )
        trainer.train()
        return [line["loss"] for line in trainer.state.log_history if "loss" in line], trainer.evaluate()["eval_loss"]

    theirs, ours = train(transformers), train(loopwright)
    assert ours[0] == pytest.approx(theirs[0], rel=1e-5)
    assert ours[1] == pytest.approx(theirs[1], rel=1e-5)
    saved = tmp_path / "loopwright" / "checkpoint-6"
    assert transformers.AutoTokenizer.from_pretrained(saved)("good film").input_ids == tokenizer("good film").input_ids
    again = transformers.AutoModelForSequenceClassification.from_pretrained(saved)
    assert type(again) is transformers.BertForSequenceClassification


@pytest.mark.parametrize("begins", [transformers, loopwright], ids=lambda library: library.__name__)
def test_a_run_of_the_one_goes_on_in_the_other(begins, tmp_path, tokenizer):
    goes_on = loopwright if begins is transformers else transformers
    options = {
        "num_train_epochs": 2, "per_device_train_batch_size": 4, "logging_steps": 1, "use_cpu": True,
        "disable_tqdm": True, "report_to": "none", "save_steps": 3, "eval_strategy": "steps", "eval_steps": 3,
        "metric_for_best_model": "loss", "learning_rate": 1e-2,
    }  # fmt: skip

    def make(library, directory):
        rows = reviews(tokenizer)
        collator = transformers.DataCollatorWithPadding(tokenizer)
        args = library.TrainingArguments(str(directory), **options)
        return library.Trainer(classifier(), args, collator, train_dataset=rows, eval_dataset=rows)

    whole = make(begins, tmp_path / "whole")
    whole.train()
    resumed = make(goes_on, tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert resumed.state.global_step == whole.state.global_step == 8
    assert resumed.state.best_metric == pytest.approx(whole.state.best_metric, rel=1e-4)
    losses = [[line["loss"] for line in trainer.state.log_history if "loss" in line] for trainer in (whole, resumed)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    for name, value in whole.model.state_dict().items():
        assert torch.allclose(resumed.model.state_dict()[name], value, atol=1e-6), name


# PEFT asks transformers by a name that it has deprecated.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_an_adapter_of_peft_trains_is_saved_alone_and_goes_on(tmp_path, tokenizer):
    import peft

    def make(directory, **options):
        config = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query", "value"], lora_dropout=0.1)
        args = loopwright.TrainingArguments(
            str(directory), num_train_epochs=2, per_device_train_batch_size=4, save_steps=3, logging_steps=1,
            use_cpu=True, disable_tqdm=True, report_to="none", learning_rate=1e-2, **options,
        )  # fmt: skip
        model = peft.get_peft_model(classifier(), config)
        collator = transformers.DataCollatorWithPadding(tokenizer)
        return loopwright.Trainer(model, args, collator, train_dataset=reviews(tokenizer))

    whole = make(tmp_path / "whole")
    frozen = {name: value.clone() for name, value in whole.model.named_parameters() if not value.requires_grad}
    whole.train()
    assert all(torch.equal(dict(whole.model.named_parameters())[name], value) for name, value in frozen.items())
    saved = tmp_path / "whole" / "checkpoint-3"
    assert (saved / "adapter_model.safetensors").exists()
    assert not (saved / "model.safetensors").exists()
    resumed = make(tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=saved)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name
    with pytest.raises(CheckpointError, match=r"has none: give the Trainer what peft\.get_peft_model returns"):
        load_model_weights(classifier(), saved)
    other = peft.get_peft_model(classifier(), peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["dense"]))
    with pytest.raises(CheckpointError, match="is not of the adapter 'default': "):
        load_model_weights(other, saved)
    whole.save_model(tmp_path / "final")
    again = peft.PeftModel.from_pretrained(classifier(), tmp_path / "final")
    logits = [model.eval()(torch.tensor([[2, 5]])).logits for model in (again, whole.model)]
    assert torch.equal(*logits)
