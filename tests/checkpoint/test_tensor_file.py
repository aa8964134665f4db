from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
import transformers

from loopwright.checkpoint.tensor_file import _bytes_of, is_storable, write_tensors

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2fnuz,
    torch.float8_e8m0fnu,
    torch.complex64,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint64,
    torch.uint32,
    torch.uint16,
    torch.uint8,
    torch.bool,
]


def bits(tensor: torch.Tensor) -> bytes:
    flat = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()


def random_bits(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Return a tensor of any bits that the dtype can have, NaNs among them."""
    count = int(np.prod(shape)) * dtype.itemsize
    high = 2 if dtype is torch.bool else 256
    return torch.randint(0, high, (count,), dtype=torch.uint8).view(dtype).reshape(shape)


def header_of(file: Path) -> tuple[dict[str, Any], int]:
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), 8 + length


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_and_shape_is_read_back_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    assert is_storable(dtype)
    tensors = {
        "matrix": random_bits((3, 5), dtype),
        "turned": random_bits((3, 5), dtype).t(),
        "strided": random_bits((4, 6), dtype)[:, 1::2],
        "number": random_bits((), dtype),
        "empty": random_bits((0,), dtype),
        "empty matrix": random_bits((2, 0, 3), dtype),
    }
    record = write_tensors(tensors, tmp_path / "file", {"format": "pt"})
    assert record.size == (tmp_path / "file").stat().st_size
    read = safetensors.torch.load_file(tmp_path / "file")
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (read[name].dtype, read[name].shape) == (tensor.dtype, tensor.shape), name
        assert bits(read[name]) == bits(tensor), name


def test_numbers_of_half_a_byte_are_read_back(tmp_path: Path) -> None:
    dtype = torch.float4_e2m1fn_x2
    tensor = torch.randint(0, 256, (2, 3), dtype=torch.uint8).view(dtype)
    write_tensors({"x": tensor}, tmp_path / "file", {"format": "pt"})
    read = safetensors.torch.load_file(tmp_path / "file")["x"]
    assert (read.dtype, read.shape) == (dtype, tensor.shape)
    assert bits(read) == bits(tensor)


@pytest.mark.parametrize("dtype", [torch.complex128, torch.bits8], ids=str)
def test_a_dtype_that_the_format_lacks_is_told_and_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    assert not is_storable(dtype)
    with pytest.raises(TypeError, match=str(dtype)):
        write_tensors({"x": torch.empty(2, dtype=dtype)}, tmp_path / "file", {})
    assert not (tmp_path / "file").exists()


def test_the_file_says_what_safetensors_own_would(tmp_path: Path) -> None:
    tensors = {f"t{index}": torch.randn(index, 3).to(dtype) for index, dtype in enumerate(DTYPES[:4])}
    tensors |= {'größe "x"\n': torch.ones(2), "": torch.ones(1), "flag": torch.tensor([True])}
    metadata = {"format": "pt", "other": "größe"}
    write_tensors(tensors, tmp_path / "ours", metadata)
    safetensors.torch.save_file(tensors, tmp_path / "theirs", metadata=metadata)
    (ours, start), (theirs, _) = header_of(tmp_path / "ours"), header_of(tmp_path / "theirs")
    assert start % 8 == 0
    assert ours.pop("__metadata__") == theirs.pop("__metadata__") == metadata
    for name in tensors:
        for key in ("dtype", "shape"):
            assert ours[name][key] == theirs[name][key], name
        assert ours[name]["data_offsets"][0] % tensors[name].element_size() == 0
    sizes = [tensors[name].element_size() for name in sorted(ours, key=lambda name: ours[name]["data_offsets"])]
    assert sizes == sorted(sizes, reverse=True)


def test_no_tensors_and_no_metadata_make_a_file_too(tmp_path: Path) -> None:
    write_tensors({}, tmp_path / "file", {})
    assert safetensors.torch.load_file(tmp_path / "file") == {}


def test_conjugated_and_negated_views_are_written_as_what_they_show(tmp_path: Path) -> None:
    base = torch.tensor([1 + 2j, 3 - 4j], dtype=torch.complex64)
    tensors = {"conjugated": base.conj(), "negated": torch._neg_view(torch.tensor([2.0, -4.0]))}
    write_tensors(tensors, tmp_path / "file", {})
    read = safetensors.torch.load_file(tmp_path / "file")
    assert read["conjugated"].tolist() == [1 - 2j, 3 + 4j]
    assert read["negated"].tolist() == [-2.0, 4.0]


def test_tensors_that_share_memory_are_written_once_each(tmp_path: Path) -> None:
    base = torch.arange(12.0)
    write_tensors({"whole": base, "part": base[3:6], "parameter": torch.nn.Parameter(base[:2])}, tmp_path / "file", {})
    read = safetensors.torch.load_file(tmp_path / "file")
    assert [read[name].tolist() for name in ("part", "parameter")] == [[3.0, 4.0, 5.0], [0.0, 1.0]]
    assert torch.equal(read["whole"], base)


def test_contiguous_tensors_are_not_copied() -> None:
    for tensor in (torch.randn(3, 4), torch.randn(8)[2:], torch.tensor(1.0), torch.ones(3, dtype=torch.bfloat16)):
        assert np.frombuffer(_bytes_of(tensor), np.uint8).ctypes.data == tensor.data_ptr()


@pytest.mark.parametrize("dtype", [torch.float32, torch.int16, torch.complex64, torch.bool], ids=str)
def test_the_bytes_are_little_endian_on_every_machine(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    tensor = random_bits((2, 3), dtype)
    with monkeypatch.context() as patched:
        patched.setattr(sys, "byteorder", "big")
        swapped = bytes(_bytes_of(tensor))
    assert bytes(_bytes_of(tensor)) == tensor.numpy().tobytes()
    assert swapped == tensor.numpy().byteswap().tobytes()


def test_a_tensor_without_memory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotImplementedError):
        write_tensors({"x": torch.empty(3, device="meta")}, tmp_path / "file", {})


def test_transformers_reads_it(tmp_path: Path) -> None:
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    model = transformers.BertModel(config)
    config.save_pretrained(tmp_path)
    write_tensors(model.state_dict(), tmp_path / "model.safetensors", {"format": "pt"})
    read = transformers.BertModel.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(read[name], tensor) for name, tensor in model.state_dict().items())
