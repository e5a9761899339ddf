"""The command line and its user's mistakes: exit code 2 and one clear message. Through `main` in this process (an exception
would be a failing test) and, for each kind once, through a real `python -m harmonyray`. What the verbs print on success is
`test_cli_verbs`."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from run_helpers import SMALL, quickstart_rows, write_rows

from harmonyray.cli import main
from harmonyray.problems.quickstart import MODEL_DIR

Files = Path
NO_SOURCE = [o for o in SMALL if "limit" not in o]


def harmonyray(*arguments: str, cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harmonyray", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, **options)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A folder of problem files and models, good and bad."""
    folder = tmp_path_factory.mktemp("files")
    good = [{"id": "a", "question": "52-37", "answer": "15"}, {"id": "b", "question": "63-28", "answer": "35"}]
    write_rows(folder / "good.jsonl", good)
    write_rows(folder / "long.jsonl", [*good, {"id": "too-long", "question": "1-" * 400, "answer": "0"}])
    write_rows(folder / "all-long.jsonl", [{"id": "L", "question": "1-" * 400, "answer": "0"}])
    write_rows(folder / "twice.jsonl", [good[0], good[0]])
    write_rows(folder / "no-gold.jsonl", [{"id": r["id"], "question": r["question"]} for r in good])
    write_rows(folder / "half-gold.jsonl", [good[0], {"id": "b", "question": "63-28"}])
    (folder / "empty.jsonl").write_text("")
    (folder / "broken.jsonl").write_text('{"id": "a", "question": "1-1", "answer": "0"}\n{"id": "b", ')
    (folder / "latin.jsonl").write_bytes(b'{"id": "a", "question": "\xff\xfe", "answer": "0"}\n')
    (folder / "notes.txt").write_text("52-37")
    (folder / "not-empty").mkdir()
    (folder / "not-empty" / "thesis.tex").write_text("precious")
    (folder / "folder.jsonl").mkdir()

    def model(name: str, *keep: str) -> Path:
        (folder / name).mkdir()
        for file in keep:
            shutil.copy(MODEL_DIR / file, folder / name)
        return folder / name

    everything = [p.name for p in MODEL_DIR.iterdir()]
    model("empty-model")
    model("no-tokenizer", "config.json", "model.safetensors")
    model("no-weights", *(n for n in everything if n != "model.safetensors"))
    cut = model("cut-weights", *everything) / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:1000])
    (model("bad-config", *everything) / "config.json").write_text("{")
    return folder


TRAIN = ["train", "quickstart", *NO_SOURCE, "steps=1", "problems.type=file"]
TRAIN_MODEL = ["train", "quickstart", *SMALL, "steps=1", "problems.path=good.jsonl", "problems.type=file"]

MISTAKES: list[tuple[list[str], str]] = [
    # problems
    ([*TRAIN, "problems.path=god.jsonl"], r"no such file: god\.jsonl .*did you mean 'good\.jsonl'"),
    ([*TRAIN, "problems.path=empty.jsonl"], r"empty\.jsonl has no rows"),
    ([*TRAIN, "problems.path=broken.jsonl"], r"broken\.jsonl, line 2: not JSON"),
    ([*TRAIN, "problems.path=latin.jsonl"], r"latin\.jsonl"),
    ([*TRAIN, "problems.path=folder.jsonl"], r"folder\.jsonl"),
    ([*TRAIN, "problems.path=twice.jsonl"], r"line 2: id 'a' was given to line 1 already"),
    ([*TRAIN, "problems.path=notes.txt"], r"\.jsonl, \.ndjson, \.json, \.csv, \.parquet"),
    ([*TRAIN, "problems.path=good.jsonl", "problems.question_column=qestion"], r"'qestion'"),
    ([*TRAIN, "problems.path=all-long.jsonl"], r"every one of the 1 problems has a prompt longer than .*max_prompt_tokens = 256"),
    ([*TRAIN, "problems.path=no-gold.jsonl", "method.type=ground_truth"], r"needs a gold answer for every problem; 2 of 2"),
    # models
    ([*TRAIN_MODEL, "model.path=./nowhere"], r"model directory '\./nowhere' does not exist"),
    ([*TRAIN_MODEL, "model.path=empty-model"], r"model directory 'empty-model' has no config\.json"),
    ([*TRAIN_MODEL, "model.path=no-tokenizer"], r"model directory 'no-tokenizer' has no tokenizer files"),
    ([*TRAIN_MODEL, "model.path=no-weights"], r"model '.*no-weights' cannot be loaded"),
    ([*TRAIN_MODEL, "model.path=cut-weights"], r"model '.*cut-weights' cannot be loaded"),
    ([*TRAIN_MODEL, "model.path=bad-config"], r"model '.*bad-config' cannot be loaded: .*not a valid JSON file"),
    # configurations
    (["train", "quikstart"], r"no config named 'quikstart': did you mean 'quickstart'"),
    (["train", "nowhere.yaml"], r"config file 'nowhere\.yaml' does not exist"),
    (["train", "quickstart", "step=3"], r"unknown option 'step': did you mean 'steps'"),
    (["train", "quickstart", "learner.lr"], r"'learner\.lr' is not of the form key=value"),
    (["plan", "base"], r"missing option 'name'"),
    # run directories
    ([*TRAIN_MODEL, "--run-dir", "not-empty"], r"'not-empty' already exists and is not empty: give another --run-dir"),
    ([*TRAIN_MODEL, "--run-dir", "notes.txt"], r"'notes\.txt' already exists"),
    ([*TRAIN_MODEL, "--run-dir", "notes.txt/run"], r"the run directory 'notes\.txt/run' cannot be made"),
    ([*TRAIN_MODEL, "--run-dir", "/proc/run"], r"the run directory '/proc/run' cannot be made"),
    ([*TRAIN_MODEL, "--resume"], r"--resume needs the run to go on with: give --run-dir"),
    ([*TRAIN_MODEL, "--resume", "--run-dir", "not-empty"], r"'not-empty' is not a run directory \(it has no config\.yaml\)"),
    ([*TRAIN_MODEL, "--resume", "--run-dir", "nowhere"], r"'nowhere' is not a run directory"),
    # evaluation
    (["eval", "--model", "nowhere/at/all", "--problems", "good.jsonl"], r"model directory 'nowhere/at/all' does not exist"),
    (["eval", "--model", "quickstart", "--problems", "god.jsonl"], r"no such file: god\.jsonl"),
    (["eval", "--model", "quickstart", "--problems", "quickstrat"], r"quickstrat"),
    (["eval", "--model", "quickstart", "--problems", "no-gold.jsonl"], r"evaluation needs gold answers"),
    (["eval", "--model", "quickstart", "--problems", "good.jsonl", "--samples", "0"], r"'eval\.num_samples'.*greater than 0"),
    (["eval", "--model", "quickstart", "--problems", "good.jsonl", "--view", "x"], r"'x' is not a view .*: reframer, solver"),
    (["eval", "--model", "quickstart", "--problems", "good.jsonl", "--view", "slover"], r"'slover' .* did you mean 'solver'"),
    (["eval", "--model", "quickstart", "--problems", "half-gold.jsonl"], r"1 of 2 problems have none.*add the missing ones"),
    (["eval", "--model", "quickstart", "--problems", "good.jsonl", "--out", "not-empty"], r"'not-empty' .* is not empty"),
    (["eval", "--model", "quickstart", "--problems", "good.jsonl", "--out", "notes.txt"], r"'notes\.txt' cannot be made"),
    (["eval", "--model", "quickstart", "--problems", "good.jsonl", "eval.chunk_problems=0"], r"'eval\.chunk_problems'"),
    (["eval", "--model", "quickstart", "--problems", "mod.ule:Source"], r"no module 'mod' can be imported"),
    # lists
    (["list", "sweep"], r"nothing called 'sweep' can be listed: did you mean 'sweeps'"),
    (["list", "selector"], r"nothing called 'selector' can be listed: did you mean 'selectors'"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=[f"{i}-{m[0][-1][:24]}" for i, m in enumerate(MISTAKES)])
def test_a_mistake_is_code_2_and_one_clear_message(
    files: Files, monkeypatch: pytest.MonkeyPatch, capfd: Any, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(files)
    before = {p: p.stat().st_size for p in files.rglob("*") if p.is_file() and "mlflow" not in p.name}
    assert main(arguments) == 2
    out, err = capfd.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("harmonyray: ")]
    assert len(lines) == 1
    assert "Traceback" not in err + out
    assert re.search(message, err, re.S), err
    assert {p: p.stat().st_size for p in before} == before
    assert len(err) < 1200


USAGE: list[tuple[list[str], str]] = [
    ([], "the following arguments are required: VERB"),
    (["tain"], "invalid choice: 'tain'"),
    (["train"], "the following arguments are required: CONFIG"),
    (["train", "quickstart", "--run-dri", "x", "steps=1"], "unrecognized arguments"),
    (["train", "quickstart", "--run-dir", "x", "steps"], "unrecognized arguments: steps"),
    (["list", "views", "steps=1"], "unrecognized arguments: steps=1"),
    (["eval", "--model", "x"], "required: --problems"),
    (["eval", "--model", "x", "--problems", "y", "--samples", "many"], "invalid int value: 'many'"),
]


@pytest.mark.parametrize(("arguments", "message"), USAGE)
def test_a_wrong_command_line_is_code_2(capsys: Any, arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["train", "quickstart", "step=3"], [*TRAIN, "problems.path=god.jsonl"], [*TRAIN_MODEL, "model.path=no-tokenizer"]],
)
def test_a_mistake_in_a_process_of_its_own(files: Files, arguments: list[str]) -> None:
    done = harmonyray(*arguments, cwd=files)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("harmonyray: ")
    assert len(done.stderr.splitlines()) == 1


def test_overrides_may_come_before_and_after_options(capsys: Any) -> None:
    assert main(["plan", "quickstart", "placement.learner.num_cpus=0.25"]) == 0
    expected = capsys.readouterr().out
    before_verb_options = ["train", "quickstart", "steps=2", "--run-dir", "x", "step=1", "--json", "nme=x"]
    assert main(before_verb_options) == 2
    err = capsys.readouterr().err
    assert "unknown option 'step'" in err
    assert "unknown option 'nme'" in err
    assert "0.25" in expected


def test_a_run_directory_is_free_again_after_a_mistake(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files)
    run_dir = ["--run-dir", str(tmp_path / "run"), "--json"]
    assert main([*TRAIN, "problems.path=all-long.jsonl", *run_dir]) == 2
    assert main([*TRAIN, "problems.path=good.jsonl", *run_dir]) == 0
    assert main([*TRAIN, "problems.path=good.jsonl", *run_dir]) == 2  # now it is in use
    assert main([*TRAIN, "problems.path=good.jsonl", *run_dir, "--resume"]) == 0
    assert main([*TRAIN, "problems.path=good.jsonl", "learner.lr=1", *run_dir, "--resume"]) == 2


def test_long_prompts_are_skipped_counted_and_named(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(files)
    arguments = [*TRAIN, "problems.path=long.jsonl", "problems.kind=number", "--run-dir", str(tmp_path / "run")]
    assert main(arguments) == 0
    assert "skipped 1 problem(s) with a prompt longer than rollout.max_prompt_tokens = 256: too-long" in capsys.readouterr().err
    import pyarrow.parquet as pq

    ids = pq.read_table(tmp_path / "run" / "rollouts" / "step-000001.parquet")["problem_id"].to_pylist()
    assert set(ids) == {"a", "b"}
    evaluate = ["eval", "--model", str(tmp_path / "run" / "model"), "--problems", "long.jsonl", "--json"]
    assert main(evaluate) == 0
    out, _ = capsys.readouterr()
    result = json.loads(out.splitlines()[-1])
    assert (result["num_problems"], result["num_skipped"]) == (2, 1)


def test_a_file_to_evaluate_on_is_taken_whole_and_with_its_own_answers(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """The limit and the gold file of the run's own problems are not those of another file."""
    monkeypatch.chdir(files)
    questions, gold = quickstart_rows("questions.jsonl")[:8], quickstart_rows("gold.jsonl")[:8]
    write_rows(tmp_path / "wrong.jsonl", [{"answer": "99"}] * 8)
    write_rows(tmp_path / "train.jsonl", [{"question": q["question"]} for q in questions])
    write_rows(
        tmp_path / "test.jsonl",
        [{"question": q["question"], "answer": g["answer"]} for q, g in zip(questions, gold, strict=True)],
    )
    source = (
        f"problems={{type: file, kind: number, path: '{tmp_path}/train.jsonl', gold_path: '{tmp_path}/wrong.jsonl', limit: 1}}"
    )
    assert main(["train", "quickstart", *NO_SOURCE, "steps=1", source, "--run-dir", str(tmp_path / "run"), "--json"]) == 0
    capsys.readouterr()
    assert main(["eval", "--model", str(tmp_path / "run" / "model"), "--problems", f"{tmp_path}/test.jsonl", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["num_problems"] == 8
    assert result["pass_at_k"] > 0  # with 99 for gold nothing would be right
