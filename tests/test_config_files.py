"""Finding configuration files by name and composing them from pieces: lists in `extends`, sub-folders, views that are gone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from harmonyray import config_files
from harmonyray.config import load_config
from harmonyray.config_files import config_layers, config_names, find_config, without_removed_views
from harmonyray.errors import ConfigError
from harmonyray.listing import describe, format_listing

CONFIGS = Path(config_files.__file__).parent.parent / "configs"
ROOT = "extends: null\n"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of the user's own, with a `configs` folder in it."""
    (tmp_path / "configs").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def order(path: Path) -> list[Any]:
    """The `seed` of every layer: which files, in which order."""
    return [layer["seed"] for layer in config_layers(path)]


# --- lists in `extends` ----------------------------------------------------------------------------------------------------


def test_a_list_is_merged_left_to_right_each_with_its_own_chain(tmp_path: Path) -> None:
    write(tmp_path / "a0.yaml", f"{ROOT}seed: a0\n")
    write(tmp_path / "a.yaml", "extends: a0\nseed: a\n")
    write(tmp_path / "b.yaml", f"{ROOT}seed: b\n")
    assert order(write(tmp_path / "mine.yaml", "extends: [a, b]\nseed: mine\n")) == ["a0", "a", "b", "mine"]
    assert order(write(tmp_path / "mine.yaml", "extends: [b, a]\nseed: mine\n")) == ["b", "a0", "a", "mine"]


def test_a_file_reached_twice_counts_once_where_it_was_first(tmp_path: Path) -> None:
    write(tmp_path / "root.yaml", f"{ROOT}seed: root\n")
    write(tmp_path / "a.yaml", "extends: root\nseed: a\n")
    write(tmp_path / "b.yaml", "extends: ./root.yaml\nseed: b\n")
    assert order(write(tmp_path / "mine.yaml", "extends: [a, b, a]\nseed: mine\n")) == ["root", "a", "b", "mine"]


def test_base_is_once_at_the_bottom(tmp_path: Path) -> None:
    mine = write(tmp_path / "mine.yaml", "extends: [methods/self_harmony, models/qwen3-4b-base, problems/math500]\nname: mine\n")
    layers = config_layers(mine)
    assert [layer for layer in layers if "checkpoint" in layer] == layers[:1]
    assert [set(layer) & {"loss", "method", "model", "problems"} for layer in layers[1:-1]] == [
        {"loss"},
        {"method"},
        {"model"},
        {"problems"},
    ]


@pytest.mark.parametrize("extends", ["null", "[]"])
def test_nothing_may_be_extended(tmp_path: Path, extends: str) -> None:
    assert len(config_layers(write(tmp_path / "mine.yaml", f"extends: {extends}\nseed: 1\n"))) == 1


def test_a_circle_through_a_list_names_the_files(tmp_path: Path) -> None:
    write(tmp_path / "fine.yaml", f"{ROOT}seed: 1\n")
    one = write(tmp_path / "one.yaml", "extends: [fine, two]\n")
    write(tmp_path / "two.yaml", "extends: [fine, one]\n")
    with pytest.raises(ConfigError, match=r"circle: .*one\.yaml -> .*two\.yaml -> .*one\.yaml"):
        config_layers(one)
    with pytest.raises(ConfigError, match=r"circle: .*self\.yaml -> .*self\.yaml"):
        config_layers(write(tmp_path / "self.yaml", "extends: self\n"))


@pytest.mark.parametrize("extends", ["3", "''", "[quickstart, null]", "[[quickstart]]", "{a: b}", "true"])
def test_extends_names_configs(tmp_path: Path, extends: str) -> None:
    mine = write(tmp_path / "mine.yaml", f"extends: {extends}\nname: mine\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml': 'extends' must be the name of a config, a list of names, or null; got"):
        config_layers(mine)


# --- names -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["models/qwen3-1.7b-base", "qwen3-1.7b-base"])
def test_a_file_in_a_sub_folder_goes_by_its_whole_name_and_by_its_last_part(folder: Path, name: str) -> None:
    assert find_config(name) == CONFIGS / "models" / "qwen3-1.7b-base.yaml"


def test_the_users_own_folder_comes_first_and_may_have_sub_folders(folder: Path) -> None:
    mine = write(folder / "configs" / "models" / "qwen3-4b-base.yaml", "seed: 1\n")
    assert find_config("models/qwen3-4b-base").resolve() == find_config("qwen3-4b-base").resolve() == mine
    assert config_names()["models/qwen3-4b-base"].resolve() == mine
    assert config_names()["models/qwen3-8b-base"] == CONFIGS / "models" / "qwen3-8b-base.yaml"


def test_a_whole_name_beats_a_last_part(folder: Path) -> None:
    write(folder / "configs" / "mine" / "base.yaml", "seed: 1\n")
    write(folder / "configs" / "mine" / "quickstart.yaml", "seed: 1\n")
    assert find_config("base") == CONFIGS / "base.yaml"
    assert load_config("quickstart").seed == 0


def test_a_last_part_of_several_files_is_refused(folder: Path) -> None:
    write(folder / "configs" / "mine" / "math500.yaml", "seed: 1\n")
    with pytest.raises(ConfigError, match="'math500' stands for several files: give one of mine/math500, problems/math500"):
        find_config("math500")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model/qwen3-4b-base", "did you mean 'models/qwen3-4b-base'"),
        ("qwen3-4b", "did you mean 'qwen3-4b-base'"),
        ("self_harmony-qwen3-4b-base-math50", "did you mean 'self_harmony-qwen3-4b-base-math500'"),
        ("zzz", r"'harmonyray list configs' shows those that there are \(or give the path of a \.yaml file\)"),
    ],
)
def test_a_name_that_is_none_gets_the_nearest(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"no config named '{name}': {message}"):
        find_config(name)


def test_an_installed_package_finds_its_configs_beside_its_modules(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a wheel: `configs` inside the package, none beside it."""
    package = folder / "site" / "harmonyray"
    shutil.copytree(CONFIGS, package / "configs")
    monkeypatch.setattr(config_files, "__file__", str(package / "config_files.py"))
    mine = write(folder / "mine.yaml", "extends: [self_harmony, models/qwen3-4b-base, problems/math500]\nname: mine\n")
    assert find_config("quickstart") == package / "configs" / "quickstart.yaml"
    config = load_config(str(mine), ["problems={type: quickstart}"])
    assert (config.name, config.model.path, config.placement.learner.num_gpus) == ("mine", "Qwen/Qwen3-4B-Base", 1)


# --- views that an earlier layer removed -----------------------------------------------------------------------------------


def test_what_a_layer_says_of_a_removed_view_is_left_out_unless_it_brings_it_back() -> None:
    merged = {"views": {"solver": {"type": "solver"}, "reframer": None}}
    layer = {"seed": 1, "views": {"solver": {"chat": True}, "reframer": {"chat": True}}}
    assert without_removed_views(merged, layer) == {"seed": 1, "views": {"solver": {"chat": True}}}
    back = {"views": {"reframer": {"type": "reframer"}}}
    assert without_removed_views(merged, back) == back
    assert without_removed_views(merged, {"views": {"reframer": None}}) == {"views": {}}
    for nothing in ({"seed": 2}, {"views": None}):
        assert without_removed_views(merged, nothing) == nothing
    assert without_removed_views({}, layer) == layer


@pytest.mark.parametrize("pieces", ["majority_vote, llama-3.2-3b-instruct", "llama-3.2-3b-instruct, majority_vote"])
def test_pieces_compose_in_any_order(tmp_path: Path, pieces: str) -> None:
    mine = write(tmp_path / "mine.yaml", f"extends: [{pieces}]\nname: mine\nproblems: {{type: quickstart}}\n")
    config = load_config(str(mine))
    assert {name: (v.num_samples, v.options.chat) for name, v in config.views.items()} == {"solver": (32, True)}
    assert config.placement.view.model_dump() == {"replicas": 7, "num_cpus": 0.5, "num_gpus": 1.0, "resources": {}}


def test_the_users_own_words_about_a_removed_view_are_not_dropped(tmp_path: Path) -> None:
    message = r"'views\.reframer' must be a mapping with a 'type', got \{'num_samples': 3\}"
    mine = write(tmp_path / "mine.yaml", "extends: quickstart-majority\nname: mine\nviews: {reframer: {num_samples: 3}}\n")
    with pytest.raises(ConfigError, match=message):
        load_config(str(mine))
    with pytest.raises(ConfigError, match=message):
        load_config("quickstart-majority", ["views.reframer.num_samples=3"])


# --- the listing -----------------------------------------------------------------------------------------------------------


def test_experiments_and_pieces_are_listed_apart(folder: Path) -> None:
    write(folder / "configs" / "mine" / "run.yaml", "# My run.\nextends: quickstart\nseed: 4\n")
    write(folder / "configs" / "mine" / "part.yaml", "seed: 4\n")
    write(folder / "configs" / "bad.yaml", "- 1\n")
    listing = describe("configs")
    assert listing["mine/run"] == {"summary": "My run.", "options": {}, "role": "experiment"}
    assert listing["mine/part"] == {"summary": "", "options": {}, "role": "piece"}
    assert listing["bad"]["role"] == "broken"
    assert "must hold a mapping of keys, got list" in listing["bad"]["summary"]
    experiments, pieces, broken = format_listing(listing).split("\n\n")
    assert experiments.startswith("Experiments")
    assert "\nmine/run: My run." in experiments
    assert "\npaper/self_harmony-qwen3-4b-base-math500: Self-Harmony on MATH-500 with Qwen3-4B-Base" in experiments
    assert pieces.startswith("Pieces")
    assert "\nbase: " in pieces
    assert "\nmodels/qwen3-4b-base: Qwen3-4B-Base" in pieces
    assert broken.splitlines()[1].startswith("bad: ")
