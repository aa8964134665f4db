from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import transformers
from torch import nn

from loopwright.checkpoint import find_damage, load_model_weights, write_checkpoint, write_model
from loopwright.errors import CheckpointDamaged, CheckpointError


def spread(model: nn.Module, start: float = 0.0) -> nn.Module:
    """Give every number of the state dict a value of its own."""
    with torch.no_grad():
        for index, value in enumerate(model.state_dict().values()):
            if isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel():
                value.copy_(torch.arange(value.numel()).reshape(value.shape) / 7 + start + index)
    return model


def equal(left: nn.Module, right: nn.Module) -> bool:
    mine, yours = left.state_dict(), right.state_dict()
    return mine.keys() == yours.keys() and all(torch.equal(mine[name], yours[name]) for name in mine)


class Tied(nn.Module):
    def __init__(self, tie: bool = True) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        if tie:
            self.head.weight = self.embedding.weight


def test_tied_weights_are_written_once_and_fit_tied_and_untied_models(tmp_path: Path) -> None:
    source = spread(Tied())
    write_model(source, tmp_path)
    assert list(safetensors.torch.load_file(tmp_path / "model.safetensors")) == ["embedding.weight"]
    for target in (Tied(), Tied(tie=False)):
        load_model_weights(target, tmp_path)
        assert equal(target, source)
    safetensors.torch.load_model(reread := Tied(), tmp_path / "model.safetensors")
    assert equal(reread, source)


def test_tied_weights_that_safetensors_itself_saved_are_read(tmp_path: Path) -> None:
    source = spread(Tied())
    safetensors.torch.save_model(source, str(tmp_path / "model.safetensors"))
    load_model_weights(target := Tied(), tmp_path)
    assert equal(target, source)
    # A file that holds the other of the two names.
    safetensors.torch.save_file({"head.weight": source.head.weight.detach()}, tmp_path / "model.safetensors")
    load_model_weights(target := Tied(), tmp_path)
    assert equal(target, source)


def test_an_untied_model_misses_what_a_file_without_hints_leaves_out(tmp_path: Path) -> None:
    safetensors.torch.save_file({"head.weight": torch.zeros(5, 3)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"missing embedding\.weight"):
        load_model_weights(Tied(tie=False), tmp_path)


class Views(nn.Module):
    """Buffers that are non-contiguous, overlap in part, lie side by side in one storage, or are empty."""

    def __init__(self) -> None:
        super().__init__()
        base = torch.zeros(4, 6)
        self.register_buffer("turned", torch.zeros(3, 2).t())
        self.register_buffer("first_rows", base[:3])
        self.register_buffer("last_rows", base[2:])
        self.register_buffer("column", base[:, 1])
        self.register_buffer("apart", torch.zeros(8)[:3])
        self.register_buffer("empty", torch.zeros(0))
        self.register_buffer("number", torch.tensor(3.0))


def test_views_of_every_kind_survive(tmp_path: Path) -> None:
    source = spread(Views())
    write_model(source, tmp_path)
    load_model_weights(target := Views(), tmp_path)
    assert equal(target, source)


class Remembering(nn.Linear):
    """A model with a state that is no tensor."""

    def __init__(self, memory: Any = None) -> None:
        super().__init__(2, 2)
        self.memory = memory

    def get_extra_state(self) -> Any:
        return self.memory

    def set_extra_state(self, state: Any) -> None:
        self.memory = state


def test_states_that_are_no_tensors_go_through_a_file_without_code(tmp_path: Path, make_snapshot: Any) -> None:
    source = spread(Remembering({"seen": [1, 2], "best": 0.5}))
    path = write_checkpoint(make_snapshot(10, model=source), tmp_path)
    assert find_damage(path) == []
    assert not (path / "model.safetensors").exists()
    assert isinstance(torch.load(path / "pytorch_model.bin", weights_only=True), dict)
    load_model_weights(target := Remembering(), path)
    assert target.memory == {"seen": [1, 2], "best": 0.5}
    assert torch.equal(target.weight, source.weight)


def test_an_extra_state_that_needs_code_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin would hold .*Tied"):
        write_model(Remembering(Tied()), tmp_path)


def test_a_failing_set_extra_state_is_a_checkpoint_error(tmp_path: Path) -> None:
    class Picky(Remembering):
        def set_extra_state(self, state: Any) -> None:
            raise KeyError("no such thing")

    write_model(Remembering([1]), tmp_path)
    with pytest.raises(CheckpointError, match="don't fit the model"):
        load_model_weights(Picky(), tmp_path)


@pytest.mark.parametrize("dtype", [torch.complex128, torch.bfloat16, torch.float64, torch.int8, torch.bool])
def test_every_dtype_survives(tmp_path: Path, dtype: torch.dtype) -> None:
    model = nn.Module()
    model.register_buffer("values", torch.tensor([0, 1, 1]).to(dtype))
    write_model(model, tmp_path)
    target = nn.Module()
    target.register_buffer("values", torch.zeros(3, dtype=dtype))
    load_model_weights(target, tmp_path)
    assert torch.equal(target.values, model.values)


def test_the_newer_of_two_formats_in_one_place_is_read(tmp_path: Path) -> None:
    plain, other = spread(Remembering(), 1.0), spread(Remembering([1]), 2.0)
    write_model({"weight": plain.weight.detach(), "bias": plain.bias.detach()}, tmp_path)
    write_model(other, tmp_path)
    load_model_weights(target := Remembering(), tmp_path)
    assert torch.equal(target.weight, other.weight)
    write_model({"weight": plain.weight.detach(), "bias": plain.bias.detach()}, tmp_path)
    load_model_weights(linear := nn.Linear(2, 2), tmp_path)
    assert torch.equal(linear.weight, plain.weight)


@pytest.fixture(scope="module")
def bert() -> Any:
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    return transformers.BertForMaskedLM(config)  # its head is tied to its embeddings


def test_a_model_with_save_pretrained_writes_itself(tmp_path: Path, make_snapshot: Any, bert: Any) -> None:
    path = write_checkpoint(make_snapshot(10, model=bert), tmp_path)
    assert find_damage(path) == []
    assert (path / "config.json").exists()
    assert equal(transformers.BertForMaskedLM.from_pretrained(path), bert)
    load_model_weights(target := transformers.BertForMaskedLM(bert.config), path)
    assert equal(target, bert)


def test_weights_in_several_files_are_read(tmp_path: Path, bert: Any) -> None:
    bert.save_pretrained(tmp_path, max_shard_size="5KB")
    shards = sorted(path.name for path in tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    load_model_weights(target := transformers.BertForMaskedLM(bert.config), tmp_path)
    assert equal(target, bert)
    (tmp_path / shards[1]).unlink()
    with pytest.raises(CheckpointDamaged, match=f"{shards[1]}: missing"):
        load_model_weights(target, tmp_path)


@pytest.mark.parametrize("index", [{"weight_map": {"weight": "../model.safetensors"}}, {"weight_map": 3}, [], {}])
def test_an_index_that_is_wrong_or_leads_out_is_refused(tmp_path: Path, index: Any) -> None:
    here = tmp_path / "here"
    here.mkdir()
    write_model(nn.Linear(2, 2), tmp_path)
    (here / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointDamaged, match="here"):
        load_model_weights(nn.Linear(2, 2), here)


def test_a_model_that_saves_under_other_names_than_it_trains_with_is_read_back(tmp_path: Path) -> None:
    config = transformers.MixtralConfig(
        vocab_size=8,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        num_local_experts=2,
        num_experts_per_tok=1,
    )
    source = transformers.MixtralForCausalLM(config)
    write_model(source, tmp_path)
    saved = safetensors.torch.load_file(tmp_path / "model.safetensors").keys()
    assert saved != source.state_dict().keys()
    target = transformers.MixtralForCausalLM(config)
    before = torch.get_rng_state()
    load_model_weights(target, tmp_path)
    assert equal(target, source)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(CheckpointError, match="not those of this Linear"):
        load_model_weights(nn.Linear(2, 2), tmp_path)


class _Saving(nn.Linear):
    def save_pretrained(self, directory: str, **options: Any) -> None:
        assert options == {}
        Path(directory, "own_format.txt").write_text("weights")


class _Choosing(nn.Linear):
    def save_pretrained(self, directory: str, safe_serialization: bool = False) -> None:
        assert safe_serialization
        safetensors.torch.save_file(self.state_dict(), Path(directory, "model.safetensors"))


def test_save_pretrained_is_asked_for_safetensors_only_where_it_knows_them(tmp_path: Path) -> None:
    write_model(_Saving(2, 2), tmp_path / "saving")
    assert [path.name for path in (tmp_path / "saving").iterdir()] == ["own_format.txt"]
    write_model(model := _Choosing(2, 2), tmp_path / "choosing")
    load_model_weights(target := _Choosing(2, 2), tmp_path / "choosing")
    assert equal(target, model)


def test_a_checkpoint_of_a_model_with_a_format_of_its_own_can_be_resumed(tmp_path: Path, make_snapshot: Any) -> None:
    path = write_checkpoint(make_snapshot(10, model=(model := _Saving(2, 2))), tmp_path)
    assert (path / "own_format.txt").exists()
    load_model_weights(target := _Saving(2, 2), path)
    assert equal(target, model)


def test_a_wrapped_model_is_written_and_read_as_itself(tmp_path: Path) -> None:
    model = spread(nn.Linear(2, 2))
    compiled = torch.compile(model, backend="eager")
    write_model(compiled, tmp_path)
    assert set(safetensors.torch.load_file(tmp_path / "model.safetensors")) == {"weight", "bias"}
    load_model_weights(torch.compile(target := nn.Linear(2, 2), backend="eager"), tmp_path)
    assert equal(target, model)


def test_a_processing_class_without_save_pretrained_is_left_alone(tmp_path: Path) -> None:
    write_model(nn.Linear(2, 2), tmp_path, processing_class=str.split)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


# A state dict in place of what the model holds by the time of writing


class _Unread(nn.Linear):
    """A model whose state may not be read."""

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("the module was read")


class _UnreadSaving(_Unread):
    config: Any = None

    def save_pretrained(self, directory: str) -> None:
        raise AssertionError("the module wrote itself")


class _UnreadOwnFormat(_Unread):
    """A model with a format of its own, in which it writes the state that it is given."""

    def save_pretrained(self, directory: str, state_dict: Any = None, **options: Any) -> None:
        torch.save(state_dict, Path(directory, "own_format.bin"))


@pytest.mark.parametrize("kind", [_Unread, _UnreadSaving, _UnreadOwnFormat])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_given_state_is_written_and_the_module_not_read(
    tmp_path: Path, make_snapshot: Any, kind: Any, wrapped: bool
) -> None:
    source = spread(nn.Linear(2, 2), 5.0)
    model = torch.compile(kind(2, 2), backend="eager") if wrapped else kind(2, 2)
    path = write_checkpoint(make_snapshot(10, model=model, model_state=source.state_dict()), tmp_path)
    assert find_damage(path) == []
    load_model_weights(target := nn.Linear(2, 2), path)
    assert equal(target, source)
    assert (path / "own_format.bin").exists() is (kind is _UnreadOwnFormat)
    assert not (path / "config.json").exists()


def test_the_config_is_written_beside_a_given_state_that_the_model_cannot_write(
    tmp_path: Path, make_snapshot: Any, bert: Any
) -> None:
    model = _UnreadSaving(2, 2)
    model.config = bert.config
    path = write_checkpoint(make_snapshot(10, model=model, model_state=nn.Linear(2, 2).state_dict()), tmp_path)
    assert {"config.json", "model.safetensors"} < {file.name for file in path.iterdir()}
    assert find_damage(path) == []


@pytest.mark.parametrize("kind", ["plain", "transformers"])
def test_what_happens_to_the_module_after_its_state_was_copied_is_not_written(
    tmp_path: Path, make_snapshot: Any, kind: str, bert: Any
) -> None:
    model: Any = spread(Tied()) if kind == "plain" else copy.deepcopy(bert)
    expected = copy.deepcopy(model)
    snapshot = make_snapshot(10, model=model, model_state=copy.deepcopy(model.state_dict()))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7.0)
    path = write_checkpoint(snapshot, tmp_path)
    assert find_damage(path) == []
    target = Tied() if kind == "plain" else transformers.BertForMaskedLM(bert.config)
    load_model_weights(target, path)
    assert equal(target, expected)
    if kind == "transformers":
        assert equal(transformers.BertForMaskedLM.from_pretrained(path), expected)
        assert (path / "config.json").exists()


def test_ties_of_a_given_state_are_those_of_the_model(tmp_path: Path, make_snapshot: Any, bert: Any) -> None:
    for model, tied in ((spread(Tied()), "head.weight"), (bert, "cls.predictions.decoder.weight")):
        state = copy.deepcopy(model.state_dict())
        given = write_checkpoint(make_snapshot(1, model=model, model_state=state), tmp_path)
        live = write_checkpoint(make_snapshot(2, model=model), tmp_path)
        names = safetensors.torch.load_file(given / "model.safetensors").keys()
        assert names == safetensors.torch.load_file(live / "model.safetensors").keys()
        assert tied in state
        assert tied not in names


def test_a_given_state_that_safetensors_cannot_hold_goes_through_the_other_file(
    tmp_path: Path, make_snapshot: Any
) -> None:
    model = Remembering([1, 2])
    state = dict(model.state_dict())
    model.memory = [3]
    path = write_checkpoint(make_snapshot(10, model=model, model_state=state), tmp_path)
    assert find_damage(path) == []
    load_model_weights(target := Remembering(), path)
    assert target.memory == [1, 2]


def test_the_weights_of_the_model_are_not_taken_for_those_of_a_processing_class(
    tmp_path: Path, make_snapshot: Any
) -> None:
    class Processor:
        def save_pretrained(self, directory: str) -> None:
            Path(directory, "model.safetensors").write_bytes(b"the processor's")

    path = write_checkpoint(make_snapshot(10, model=nn.Linear(2, 2), processing_class=Processor()), tmp_path)
    assert find_damage(path) == []
    load_model_weights(nn.Linear(2, 2), path)
