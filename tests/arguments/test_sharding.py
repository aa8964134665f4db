"""`fsdp` and `fsdp_config`: what of transformers' words is understood, and what is refused."""

import json

import pytest

from loopwright import TrainingArguments
from loopwright.arguments.sharding import Sharding, sharding_of
from loopwright.errors import ArgumentError, UnsupportedArgument

READ = {
    "nothing": ({}, None),
    "config alone": ({"fsdp_config": {"min_num_params": 3}}, None),
    "off": ({"fsdp": False}, None),
    "empty": ({"fsdp": ""}, None),
    "on": ({"fsdp": True}, Sharding()),
    "on, as a command line says it": ({"fsdp": "true"}, Sharding()),
    "words": ({"fsdp": "shard_grad_op offload"}, Sharding(reshard_after_forward=False, cpu_offload=True)),
    "list of words": (
        {"fsdp": ["hybrid_shard_zero2", "auto_wrap"]},
        Sharding(hybrid=True, reshard_after_forward=False),
    ),
    "config over words": (
        {"fsdp": "full_shard", "fsdp_config": {"fsdp_reshard_after_forward": "false"}},
        Sharding(reshard_after_forward=False),
    ),
    "layers as text": (
        {"fsdp": True, "fsdp_config": {"fsdp_transformer_layer_cls_to_wrap": "Block, Head"}},
        Sharding(layers=("Block", "Head")),
    ),
    "a config of transformers": (
        {
            "fsdp": True,
            "fsdp_config": {
                "version": 2,
                "auto_wrap_policy": "SIZE_BASED_WRAP",
                "min_num_params": 1000,
                "transformer_layer_cls_to_wrap": None,
                "activation_checkpointing": True,
                "offload_params": False,
                "state_dict_type": "full_state_dict",
                "sync_module_states": "true",
                "use_orig_params": True,
                "limit_all_gathers": True,
                "forward_prefetch": False,
                "backward_prefetch": "backward_pre",
                "cpu_ram_efficient_loading": False,
                "xla": False,
                "xla_fsdp_v2": False,
                "xla_fsdp_grad_ckpt": False,
            },
        },
        Sharding(min_num_params=1000, activation_checkpointing=True, writes_shards=False),
    ),
    "no layers": ({"fsdp": True, "fsdp_config": {"auto_wrap_policy": "NO_WRAP"}}, Sharding(by_itself=False)),
}


@pytest.mark.parametrize(("given", "expected"), READ.values(), ids=READ)
def test_what_is_given_is_read(given, expected):
    assert sharding_of(TrainingArguments("out", **given)) == expected


def test_config_may_be_a_file(tmp_path):
    file = tmp_path / "fsdp.json"
    file.write_text(json.dumps({"fsdp_cpu_offload": True}))
    args = TrainingArguments("out", fsdp=True, fsdp_config=str(file))
    assert args.fsdp_config == {"cpu_offload": True}
    assert sharding_of(args) == Sharding(cpu_offload=True)
    assert TrainingArguments("out", fsdp=True, fsdp_config='{"cpu_offload": true}').fsdp_config == {"cpu_offload": True}
    again = TrainingArguments(**json.loads(args.to_json_string()))
    assert sharding_of(again) == sharding_of(args)


WRONG = {
    "a word": ({"fsdp": "full_shart"}, "fsdp='full_shart': expected True, or words of full_shard, shard_grad_op"),
    "a type": ({"fsdp": 2}, "fsdp=2: expected True or False or a string or a list of strings or None"),
    "a key": ({"fsdp": True, "fsdp_config": {"shards": 2}}, r"fsdp_config\['shards'\]=2: there is no such key"),
    "a flag": ({"fsdp": True, "fsdp_config": {"cpu_offload": "maybe"}}, "='maybe': expected True or False"),
    "a size": ({"fsdp": True, "fsdp_config": {"min_num_params": -1}}, "=-1: expected a whole number, 0 or more"),
    "layers": ({"fsdp": True, "fsdp_config": {"transformer_layer_cls_to_wrap": [1]}}, "expected names of classes"),
    "a policy": ({"fsdp": True, "fsdp_config": {"auto_wrap_policy": "ALL"}}, "expected TRANSFORMER_BASED_WRAP, "),
    "a kind of state": (
        {"fsdp": True, "fsdp_config": {"state_dict_type": "LOCAL_STATE_DICT"}},
        "expected SHARDED_STATE_DICT or FULL_STATE_DICT",
    ),
    "a file": ({"fsdp": True, "fsdp_config": "nowhere.json"}, "or a JSON file that holds one: .*No such file"),
}


@pytest.mark.parametrize(("given", "message"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_named(given, message):
    with pytest.raises(ArgumentError, match=message):
        TrainingArguments("out", **given)


def test_file_that_holds_something_else_is_named(tmp_path):
    (tmp_path / "fsdp.json").write_text("[]")
    with pytest.raises(ArgumentError, match="expected a dict in there, not a list"):
        TrainingArguments("out", fsdp_config=str(tmp_path / "fsdp.json"))


REFUSED = {
    "no_shard": ({"fsdp": "no_shard"}, "no_shard is what DDP does"),
    "version 1": ({"fsdp": True, "fsdp_config": {"version": 1}}, r"fsdp_config\['version'\]=1 is not supported"),
    "prefetch": ({"fsdp": True, "fsdp_config": {"backward_prefetch": "BACKWARD_POST"}}, "FSDP2 has 'BACKWARD_PRE' or"),
    "loading": ({"fsdp": True, "fsdp_config": {"cpu_ram_efficient_loading": True}}, "FSDP2 has False alone"),
    "fp16": ({"fsdp": True, "fp16": True}, "fp16=True with fsdp: .* use bf16=True"),
}


@pytest.mark.parametrize(("given", "message"), REFUSED.values(), ids=REFUSED)
def test_what_has_no_counterpart_is_refused(given, message):
    with pytest.raises(UnsupportedArgument, match=message):
        TrainingArguments("out", **given)
