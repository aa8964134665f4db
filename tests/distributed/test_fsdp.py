"""A model that is sharded over processes trains, evaluates and is saved as a whole one is."""

import json

import numpy as np
import pytest
from safetensors.torch import load_file
from transformers import GPT2LMHeadModel

from loopwright.checkpoint import consolidate, find_damage, load_model_weights
from loopwright.errors import CheckpointDamaged
from tests.cli.running import loopwright
from tests.distributed.launching import launch, returned
from tests.distributed.test_training import assert_same_training, run
from tests.distributed.trainings import (
    Net,
    train,
    train_and_look,
    train_language_model,
    train_where_a_disk_is_full,
    train_with_own_optimizer,
)

SHARDED = {"fsdp": True, "fsdp_config": {"transformer_layer_cls_to_wrap": ["Linear"]}}
CASES = {
    "22 examples, the last batch short": {},
    "accumulation": {"gradient_accumulation_steps": 2},
    "model that divides by items, last batch of one": {"model": "divides", "count": 17},
    "only the whole": {"fsdp_config": {"auto_wrap_policy": "NO_WRAP"}},
    "by size": {"fsdp_config": {"min_num_params": 60}},
    "words of version 4": {"fsdp": "shard_grad_op auto_wrap"},
    "activations computed again": {
        "fsdp_config": {"transformer_layer_cls_to_wrap": "Linear", "activation_checkpointing": True}
    },
    "clipped": {"max_grad_norm": 0.05},
}


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_two_processes_are_one_with_the_same_batches(tmp_path, options):
    alone_options = {name: value for name, value in options.items() if not name.startswith("fsdp")}
    (alone,) = run(tmp_path, 1, "one", **alone_options)
    both = run(tmp_path, 2, "two", **SHARDED | options)
    assert all(one["is_sharded"] for one in both)
    assert_same_training(both, alone)


def test_four_processes_on_two_machines_keep_a_copy_on_each(tmp_path):
    (alone,) = run(tmp_path, 1, "one", count=19)
    options = {**SHARDED, "fsdp": "hybrid_shard", "save_strategy": "steps", "save_steps": 2}
    arguments = (tmp_path / "four", json.dumps({**options, "count": 19}), "[]", "")
    four = returned(train, 4, tmp_path, *arguments, LOCAL_WORLD_SIZE="2")
    assert_same_training(four, alone)
    shards = sorted(path.name for path in (tmp_path / "four" / "checkpoint-2" / "model_shards").iterdir())
    sizes = [(tmp_path / "four" / "checkpoint-2" / "model_shards" / name).stat().st_size for name in shards]
    assert len(shards) == 4
    assert min(sizes[:2]) > max(sizes[2:]), "the second machine has what the first has written"


def test_model_of_transformers_is_sharded_by_its_blocks_and_can_be_loaded(tmp_path):
    (alone,) = returned(train_language_model, 1, tmp_path, tmp_path / "one")
    options = json.dumps({"fsdp": True, "save_strategy": "steps", "save_steps": 3})
    both = returned(train_language_model, 2, tmp_path, tmp_path / "two", options)
    assert both[0]["num_groups"] == 3, "the whole and two blocks"
    np.testing.assert_allclose(both[0]["losses"], alone["losses"], rtol=1e-4)
    assert both[0]["losses"][-1] < both[0]["losses"][0]
    consolidate(tmp_path / "two" / "checkpoint-6", tmp_path / "model")
    loaded = GPT2LMHeadModel.from_pretrained(tmp_path / "model").state_dict()
    assert {name: tensor.tolist() for name, tensor in loaded.items()} == both[0]["state"]
    again = returned(train_language_model, 2, tmp_path, tmp_path / "two", options, tmp_path / "two" / "checkpoint-3")
    assert [one["state"] for one in again] == [one["state"] for one in both]


def test_half_precision_is_gathered_in_half_the_bytes(tmp_path):
    (alone,) = returned(train_language_model, 1, tmp_path, tmp_path / "one", json.dumps({"bf16": True}))
    both = returned(train_language_model, 2, tmp_path, tmp_path / "two", json.dumps({"bf16": True, "fsdp": True}))
    np.testing.assert_allclose(both[0]["losses"], alone["losses"], rtol=0.02)


def test_one_process_has_nothing_to_share(tmp_path):
    (alone,) = run(tmp_path, 1, "one", **SHARDED)
    assert not alone["is_sharded"]


RESUMES = {
    "shards": {},
    "whole": {"fsdp_config": {"state_dict_type": "FULL_STATE_DICT", "min_num_params": 60}},
    "shards, beside the training": {"save_async": True},
    "whole, beside the training": {"fsdp_config": {"state_dict_type": "FULL_STATE_DICT"}, "save_async": True},
}
SAVING = {"save_strategy": "steps", "save_steps": 2, "num_train_epochs": 4}


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(options, id=name, marks=pytest.mark.soak if name == "whole, beside the training" else [])
        for name, options in RESUMES.items()
    ],
)
def test_resumed_training_is_the_training(tmp_path, options):
    options = {**SHARDED, **SAVING, **options}
    whole = run(tmp_path, 2, "whole", **options)
    launch(train, 2, tmp_path, tmp_path / "broken", json.dumps(options), json.dumps([["Dies", 7, 1, "kill"]]), "")
    has_shards = {path.parent.parent.name for path in (tmp_path / "broken").rglob("model_shards/*")}
    assert bool(has_shards) is ("FULL_STATE_DICT" not in str(options))
    again = run(tmp_path, 2, "broken", resume="auto", **options)
    for one, other in zip(again, whole, strict=True):
        assert one["weights"] == other["weights"]
    assert again[0]["history"] == whole[0]["history"]
    assert again[0]["steps"]["save"] == again[1]["steps"]["save"]


@pytest.mark.parametrize("kind", ["SHARDED_STATE_DICT", "FULL_STATE_DICT"])
def test_checkpoint_of_two_goes_on_with_one_and_four(tmp_path, kind):
    (expected,) = run(tmp_path, 1, "expected", **SAVING)
    options = {**SHARDED, **SAVING, "fsdp_config": {"transformer_layer_cls_to_wrap": "Linear", "state_dict_type": kind}}
    run(tmp_path, 2, "out", callbacks=[["Sets", "should_training_stop", 4, 0]], **options)
    run(tmp_path, 1, "out", callbacks=[["Sets", "should_training_stop", 6, 0]], resume="auto", **SAVING)
    four = run(tmp_path, 4, "out", resume="auto", **options)
    assert_same_training(four, expected)


@pytest.mark.parametrize("eval_count", [7, 1], ids=["ragged", "less than processes"])
def test_evaluation_is_that_of_one_process(tmp_path, eval_count):
    options = {"per_device_eval_batch_size": 2, "eval_strategy": "epoch"}
    (alone,) = returned(train_and_look, 1, tmp_path, tmp_path / "one", json.dumps(options), eval_count)
    options |= SHARDED
    both = returned(train_and_look, 2, tmp_path, tmp_path / "two", json.dumps(options), eval_count)
    for one in both:
        assert one["metrics"].keys() == alone["metrics"].keys()
        for name, value in one["metrics"].items():
            assert value == pytest.approx(alone["metrics"][name], rel=1e-5), name
        np.testing.assert_allclose(one["predictions"], alone["predictions"], rtol=1e-4, atol=1e-6)
    assert_same_training(both, alone)
    saved = load_file(tmp_path / "two" / "model" / "model.safetensors")
    weights = np.concatenate([saved[name].flatten() for name in _in_order(saved)])
    np.testing.assert_allclose(weights, alone["weights"], rtol=1e-5, atol=1e-6)


def _in_order(saved):
    return [f"layers.{layer}.{part}" for layer in (0, 2) for part in ("weight", "bias")]


@pytest.mark.parametrize(("rank", "beside"), [(1, False), (0, True), pytest.param(1, True, marks=pytest.mark.soak)])
def test_part_that_cant_be_written_is_no_checkpoint_and_all_go_on(tmp_path, rank, beside):
    options = SHARDED | SAVING | {"save_async": beside, "save_async_busy": "wait", "save_errors": "warn"}
    whole = run(tmp_path, 2, "whole", **SHARDED | SAVING)
    both = returned(train_where_a_disk_is_full, 2, tmp_path, tmp_path / "out", rank, 4, json.dumps(options))
    for one in both:
        assert one["checkpoints"] == [f"checkpoint-{step}" for step in (10, 12, 2, 6, 8)]
        assert one["weights"] == whole[0]["weights"]
    assert not list((tmp_path / "out").glob(".checkpoint-*")), "nothing is left of it"


@pytest.mark.parametrize("how", ["raise", "kill"])
def test_one_that_fails_beside_a_save_ends_all_and_leaves_whole_checkpoints(tmp_path, how):
    options = SHARDED | SAVING | {"save_async": True, "save_steps": 1}
    dies = json.dumps([["Dies", 5, 1, how]])
    ended = launch(train, 2, tmp_path, tmp_path / "out", json.dumps(options), dies, "", timeout=60)
    assert all(one.status != 0 for one in ended)
    for checkpoint in (tmp_path / "out").glob("checkpoint-*"):
        assert find_damage(checkpoint) == []
    whole = run(tmp_path, 2, "whole", **options)
    again = run(tmp_path, 2, "out", resume="auto", **options)
    assert [one["weights"] for one in again] == [one["weights"] for one in whole]


def test_damaged_shard_is_named_and_an_older_checkpoint_taken(tmp_path):
    whole = run(tmp_path, 2, "out", **SHARDED | SAVING)
    shard = tmp_path / "out" / "checkpoint-12" / "model_shards" / "00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-4] + b"oops")
    assert find_damage(shard.parents[1]) == [
        "model_shards/00002-of-00002.safetensors: its content has changed since it was written"
    ]
    again = run(tmp_path, 2, "out", resume="auto", **SHARDED | SAVING)
    assert [one["weights"] for one in again] == [one["weights"] for one in whole]
    assert again[0]["steps"]["save"] == [12]


def test_shards_that_are_missing_are_named_where_nobody_verifies(tmp_path):
    run(tmp_path, 2, "out", **SHARDED | SAVING)
    checkpoint = tmp_path / "out" / "checkpoint-12"
    (checkpoint / "model_shards" / "00001-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointDamaged, match=r"parts of layers\.0\.bias, .* are missing"):
        load_model_weights(Net(), checkpoint)


def test_optimizer_that_was_made_before_is_refused(tmp_path):
    ended = launch(train_with_own_optimizer, 2, tmp_path, tmp_path / "out", json.dumps(SHARDED))
    assert [one.status for one in ended] == [1, 1]
    # Both are refused it; the one that is quicker may be gone before the other has come to that.
    assert any("optimizers with fsdp: the parameters it was made for are replaced" in one.output for one in ended)


def test_layers_that_arent_there_are_named(tmp_path):
    options = {"fsdp": True, "fsdp_config": {"transformer_layer_cls_to_wrap": "Block"}}
    ended = launch(train, 2, tmp_path, tmp_path / "out", json.dumps(options))
    assert "Net has no such modules; expected some of Linear, Net, Sequential, Tanh" in ended[0].output


def test_shards_become_one_file_of_weights(tmp_path):
    both = run(tmp_path, 2, "out", **SHARDED | SAVING)
    checkpoint = tmp_path / "out" / "checkpoint-12"
    assert not (checkpoint / "model.safetensors").exists()
    done = loopwright("consolidate", checkpoint)
    assert done.returncode == 0, done.stderr
    saved = load_file(tmp_path / "out" / "checkpoint-12-model" / "model.safetensors")
    assert np.concatenate([saved[name].flatten() for name in _in_order(saved)]).tolist() == both[0]["weights"]
    assert {path.name for path in (tmp_path / "out" / "checkpoint-12-model").iterdir()} == {
        "model.safetensors",
        "training_args.json",
    }
    again = loopwright("consolidate", checkpoint)
    assert again.returncode == 1
    assert "checkpoint-12-model is there already: expected a new directory, or an empty one" in again.stderr
    whole = loopwright("consolidate", tmp_path / "out" / "checkpoint-12-model")
    assert whole.returncode == 1
