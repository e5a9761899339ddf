"""The command line: exit codes, one clear message, and the JSON that scripts rely on.

User mistakes go through `main` in this process (an exception would be a failing test) and, for each kind once, through a
real `python -m harmonyray`, as do the verbs that print JSON.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from run_helpers import SMALL, write_rows

from harmonyray.cli import main
from harmonyray.problems.quickstart import MODEL_DIR
from harmonyray.registry import BUILT_IN

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
    (["eval", "--model", "quickstart", "--problems", "good.jsonl", "--view", "x"], r"'x' is not a view .*: solver, reframer"),
    (["eval", "--model", "quickstart", "--problems", "mod.ule:Source"], r"no module 'mod' can be imported"),
    # lists
    (["list", "selector"], r"nothing called 'selector' can be listed: did you mean 'selectors'"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=[f"{i}-{m[0][-1][:24]}" for i, m in enumerate(MISTAKES)])
def test_a_mistake_is_code_2_and_one_clear_message(
    files: Files, monkeypatch: pytest.MonkeyPatch, capfd: Any, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(files)
    before = {p: p.stat().st_size for p in files.rglob("*") if p.is_file() and "mlflow" not in p.name}
    own = ["--run-dir", "a-run"] if arguments[0] == "train" and "--run-dir" not in arguments and "=" in arguments[2:][-1:] else []
    assert main([*arguments, *own]) == 2
    out, err = capfd.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("harmonyray: ")]
    assert len(lines) == 1
    assert "Traceback" not in err + out
    import re

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
    write_rows(tmp_path / "wrong.jsonl", [{"answer": "99"}, {"answer": "99"}])
    write_rows(tmp_path / "train.jsonl", [{"question": "52-37"}, {"question": "63-28"}])
    write_rows(tmp_path / "test.jsonl", [{"question": f"{n}-10", "answer": str(n - 10)} for n in (25, 36)])
    source = (
        f"problems={{type: file, kind: number, path: '{tmp_path}/train.jsonl', gold_path: '{tmp_path}/wrong.jsonl', limit: 1}}"
    )
    assert main(["train", "quickstart", *NO_SOURCE, "steps=1", source, "--run-dir", str(tmp_path / "run"), "--json"]) == 0
    capsys.readouterr()
    assert main(["eval", "--model", str(tmp_path / "run" / "model"), "--problems", f"{tmp_path}/test.jsonl", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["num_problems"] == 2
    assert result["greedy"] > 0  # with 99 for gold nothing would be right


# --- what each verb prints ----------------------------------------------------------------------------------------------------

SUMMARY_KEYS = {"run_dir", "mlflow_run_id", "steps", "eval_before", "eval_after", "pseudo_label_accuracy", "wall_seconds"}
EVAL_KEYS = {"avg_at_k", "pass_at_k", "majority_at_k", "harmonic_at_k", "greedy", "num_problems"}


@pytest.mark.slow
def test_train_and_eval_end_with_the_promised_json(tmp_path: Path) -> None:
    done = harmonyray("train", "quickstart", *SMALL, "steps=2", "--run-dir", "r", "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1
    summary = json.loads(done.stdout)
    assert set(summary) >= SUMMARY_KEYS
    assert (summary["run_dir"], summary["steps"]) == (str((tmp_path / "r").resolve()), 2)
    assert (tmp_path / "r" / "model" / "model.safetensors").is_file()

    done = harmonyray("eval", "--model", "r/model", "--problems", "quickstart", "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads(done.stdout.splitlines()[-1])
    assert set(result) >= EVAL_KEYS
    assert result["metrics"] == summary["eval_after"]
    assert result["num_problems"] == 8


def test_a_run_without_a_directory_of_its_own_lives_in_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # within one second, perhaps
        assert main(["train", "quickstart", *SMALL, "steps=1", "--json"]) == 0
    made = sorted(p.name for p in (tmp_path / "runs").iterdir() if p.name.startswith("quickstart-"))
    assert len(made) == 2
    assert (tmp_path / "runs" / "mlflow.db").is_file()
    out = capsys.readouterr().out.splitlines()
    assert sorted(Path(json.loads(line)["run_dir"]).name for line in out) == made


def test_without_json_a_run_prints_its_table(tmp_path: Path, capsys: Any) -> None:
    assert main(["train", "quickstart", *SMALL, "steps=1", "--run-dir", str(tmp_path / "run")]) == 0
    out, err = capsys.readouterr()
    assert "accuracy, solver view, greedy" in out
    assert "problems with a pseudo-label" in out
    assert str(tmp_path / "run" / "model") in out
    assert "step" not in err
    assert "\x1b" not in out  # no terminal, no colours


@pytest.mark.parametrize("kind", [*sorted(BUILT_IN), "configs"])
def test_list_names_everything_of_a_kind(kind: str, capsys: Any) -> None:
    assert main(["list", kind]) == 0
    text = capsys.readouterr().out
    assert main(["list", kind, "--json"]) == 0
    listing = json.loads(capsys.readouterr().out)
    names = set(BUILT_IN.get(kind, listing))
    assert set(listing) == names
    for name in names:
        assert f"{name}: " in text
        assert listing[name]["summary"]
        for option in listing[name]["options"]:
            assert f"    {option}: " in text


def test_list_shows_options_with_their_defaults(capsys: Any) -> None:
    assert main(["list", "selectors"]) == 0
    block = capsys.readouterr().out.split("schedule: ")[1]
    assert "    num_steps: (required)" in block
    assert main(["list", "learners"]) == 0
    assert "    kl_coef: 0.005" in capsys.readouterr().out


PLANS = [
    ([], 0, ["learner        0        0.5   0", "view reframer  0        0.5   0", "asked                   1.75  0"]),
    (["placement.view.replicas=2", "placement.view.num_cpus=0.25"], 0, ["view solver    1        0.25  0"]),
    (["placement.learner.num_gpus=9"], 2, ["learner        0        0.5   9     NO ROOM"]),
    (["placement.views.solver.num_cpus=4096"], 2, ["view solver    0        4096  0     NO ROOM"]),
]


@pytest.mark.parametrize(("overrides", "code", "lines"), PLANS)
def test_plan_shows_who_sits_where(
    overrides: list[str], code: int, lines: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert main(["plan", "quickstart", *overrides]) == code
    out = capsys.readouterr().out
    assert out.splitlines()[0].split() == ["group", "replica", "CPUs", "GPUs", "node"]
    for line in lines:
        assert line in out
    assert ("NO ROOM" in out) == (code == 2)


@pytest.mark.slow
def test_doctor_ends_with_json(tmp_path: Path) -> None:
    done = harmonyray("doctor", "--json", cwd=tmp_path)
    findings = json.loads(done.stdout.splitlines()[-1])
    assert {"python", "torch", "gpu", "ray", "mlflow", "vllm", "memory", "disk", "shm"} == set(findings)
    statuses = {f["status"] for f in findings.values()}
    assert statuses <= {"ok", "note", "fail"}
    assert done.returncode == (1 if "fail" in statuses else 0)
    assert all(f["advice"] for f in findings.values() if f["status"] != "ok")
    for name in ("python", "torch", "ray", "mlflow"):
        assert findings[name]["status"] == "ok", findings[name]
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_leaves_is_no_failure(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "harmonyray", "list", "selectors"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=60) == 0


def test_a_broken_pipe_elsewhere_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(kind: str) -> None:
        raise BrokenPipeError("a child process has gone")

    import harmonyray.listing

    monkeypatch.setattr(harmonyray.listing, "describe", broken)
    with pytest.raises(BrokenPipeError):
        main(["list", "views"])


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        (OSError(28, "No space left on device"), 1, "harmonyray: the disk is full"),
        (KeyboardInterrupt(), 130, "harmonyray: interrupted"),
    ],
)
def test_other_endings(raised: BaseException, code: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    import harmonyray.listing

    def fail(kind: str) -> None:
        raise raised

    run: Callable[[str], None] = fail
    monkeypatch.setattr(harmonyray.listing, "describe", run)
    assert main(["list", "views"]) == code
    assert capsys.readouterr().err.startswith(message)
