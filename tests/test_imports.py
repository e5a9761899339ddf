"""What importing costs and which way imports go: each pure module in a fresh process, and the layers of the whole package
read off its source."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import harmonyray

PACKAGE = Path(harmonyray.__file__).parent


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(p): p for p in sorted(PACKAGE.rglob("*.py"))}

HEAVY = ("ray", "vllm", "deepspeed", "transformers", "mlflow")
NEVER_IN_PURE = (*HEAVY, "torch", "pandas", "pyarrow", "datasets")

# --- what an import loads ----------------------------------------------------------------------------------------------------

PURE_PACKAGES = ("answers", "views", "selectors", "problems")
PURE_MODULES = (
    "types",
    "errors",
    "registry",
    "compared",
    "config",
    "config_checks",
    "config_files",
    "config_objective",
    "config_sections",
    "protocols",
    "seeding",
    "console",
    "listing",
    "rollouts",
    "ledger",
    "evaluate",
    "measures",
    "eval_report",
    "result_table",
)
MAY_USE_TORCH = (
    *(f"harmonyray.algos.losses.{name}" for name in ("ppo_clip", "gspo", "cispo", "truncated_is")),
    *(f"harmonyray.algos.{name}" for name in ("entropy", "importance", "kl", "objective", "token_rows")),
)


def pure() -> list[str]:
    """The modules that load numpy at most."""
    chosen = []
    for name in MODULES:
        part = name.split(".")[1] if "." in name else ""
        if part in ("", *PURE_PACKAGES, *PURE_MODULES, "algos") and name not in (*MAY_USE_TORCH, "harmonyray.__main__"):
            chosen.append(name)
    return chosen


def loaded_by(code: str) -> set[str]:
    """The top-level names of what a fresh process has loaded after `code`."""
    script = f"import sys\n{code}\nprint('\\n'.join(sorted({{m.split('.')[0] for m in sys.modules}})), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


def test_the_pure_modules_are_all_there() -> None:
    assert {"harmonyray", "harmonyray.config", "harmonyray.answers.grader", "harmonyray.algos.self_harmony"} <= set(pure())
    assert len(pure()) > 40


@pytest.mark.parametrize("group", sorted({".".join(name.split(".")[:2]) for name in pure()}))
def test_a_pure_module_loads_nothing_heavy(group: str) -> None:
    """A package's modules share one process: what any of them loads, all of them are guilty of."""
    names = [name for name in pure() if ".".join(name.split(".")[:2]) == group]
    assert loaded_by("\n".join(f"import {name}" for name in names)) & set(NEVER_IN_PURE) == set()


def test_the_losses_load_torch_and_nothing_else_heavy() -> None:
    loaded = loaded_by("\n".join(f"import {name}" for name in MAY_USE_TORCH))
    assert "torch" in loaded
    assert loaded & set(HEAVY) == set()


def test_math_verify_stays_in_its_child() -> None:
    assert "math_verify" not in loaded_by("import harmonyray.answers.grader, harmonyray.answers.equivalence")


def test_voting_from_the_public_names_loads_numpy_only() -> None:
    code = "import harmonyray\nassert harmonyray.select('harmonic', [[3, 1], [1, 2]], [4, 4]).label == (0, 0)"
    assert loaded_by(code) & set(NEVER_IN_PURE) == set()


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["list", "configs"], ["list", "selectors"]])
def test_the_command_line_loads_nothing_heavy_before_it_has_to(arguments: list[str]) -> None:
    code = (
        "from harmonyray.cli import main\n"
        f"try:\n    assert main({arguments!r}) == 0\nexcept SystemExit as e:\n    assert not e.code\n"
    )
    assert loaded_by(code) & set(NEVER_IN_PURE) == set()


def test_importing_the_package_takes_less_than_half_a_second() -> None:
    """Of CPU time, best of three: the machine may be busy. A bare interpreter counts too."""
    seconds = []
    for _ in range(3):
        before = os.times()
        subprocess.run([sys.executable, "-c", "import harmonyray"], check=True)
        after = os.times()
        seconds.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert min(seconds) < 0.5


def test_public_names_resolve_and_others_do_not() -> None:
    for name in harmonyray.__all__:
        assert getattr(harmonyray, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = harmonyray.nothing


# --- which way imports go ----------------------------------------------------------------------------------------------------

# Lower numbers must not import higher ones; equal ones may. `protocols` are interfaces over `types` alone, so all may use it.
LAYERS = [
    {"types", "errors", "seeding", "protocols", "lines", "files", "plotting", "interrupts", "clock"},
    {"registry", "overrides"},
    {"config", "config_checks", "config_files", "config_objective", "config_sections"},
    {"answers", "views", "selectors", "algos", "problems", "rollouts", "measures", "compared"},
    {"engines", "learners"},
    {
        "loop",
        "collect",
        "scoring",
        "step_metrics",
        "parts",
        "resampling",
        "judging",
        "saving",
        "rollouts_ahead",
        "guard",
        "guarding",
        "ledger",
        "evaluate",
        "actors",
        "inprocess",
        "checkpoint",
        "manifest",
        "tracking",
        "outbox",
        "mlflow_store",
        "mlflow_run",
        "console",
        "result_table",
        "eval_report",
    },
    {"build"},
    {
        "run",
        "preflight",
        "recovery",
        "run_eval",
        "rundir",
        "listing",
        "doctor",
        "records",
        "ballots",
        "vote",
        "vote_report",
        "grade",
        "data",
        "export",
        "track_sync",
        "report",
        "sweep",
    },
    {"cli", "cli_offline", "cli_track", "__main__"},
]
RANK = {name: i for i, layer in enumerate(LAYERS) for name in layer}

# Of third parties, who may import them (by first part of the module's name below harmonyray).
ONLY = {
    "ray": {"actors", "doctor"},
    "vllm": {"engines"},
    "deepspeed": {"learners"},
    "peft": {"learners"},
    "transformers": {"engines", "learners"},
    "mlflow": {"mlflow_store", "doctor", "report"},
    "datasets": {"problems"},
    "math_verify": {"answers"},
    "sympy": {"answers"},
    "torch": {"engines", "learners", "actors", "algos", "build", "doctor"},
}
NO_TORCH_AT_ALL = ("harmonyray.algos.rewards", "harmonyray.algos.diagnostics", "harmonyray.algos.batching")


def imports(source: str) -> set[str]:
    """The absolute modules that a source imports, anywhere in it; `from a import b` counts as a and a.b."""
    out: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            out |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the direction"
            out |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return out


def part(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


def uphill(name: str, source: str) -> list[str]:
    """The modules of this package above `name` that it imports."""
    own = RANK[part(name)]
    wanted = {m for m in imports(source) if m.split(".")[0] == "harmonyray"}
    return sorted(m for m in wanted if part(m) in RANK and RANK[part(m)] > own)


def forbidden(name: str, source: str) -> list[str]:
    """The third-party packages that `name` must not import."""
    return sorted(top for top in {m.split(".")[0] for m in imports(source)} if top in ONLY and part(name) not in ONLY[top])


KNOWN = [n for n in MODULES if part(n) in RANK]


def test_every_module_has_its_layer() -> None:
    later = {"plan", "assets"}
    assert {part(n) for n in MODULES} - {""} - set(RANK) <= later


@pytest.mark.parametrize("name", KNOWN)
def test_imports_go_down_only(name: str) -> None:
    assert uphill(name, MODULES[name].read_text()) == []


@pytest.mark.parametrize("name", sorted(MODULES))
def test_heavy_packages_have_their_places(name: str) -> None:
    assert forbidden(name, MODULES[name].read_text()) == []


def test_the_rules_catch_what_they_are_for() -> None:
    assert uphill("harmonyray.views.x", "def f():\n    from harmonyray import build\n") == ["harmonyray.build"]
    assert uphill("harmonyray.config", "from harmonyray.selectors import select") == [
        "harmonyray.selectors",
        "harmonyray.selectors.select",
    ]
    assert uphill("harmonyray.cli", "import harmonyray.actors.runtime") == []
    assert forbidden("harmonyray.loop", "import ray.util") == ["ray"]
    assert forbidden("harmonyray.selectors.x", "from math_verify import parse") == ["math_verify"]


def test_only_build_imports_actors() -> None:
    importers = {
        n for n, p in MODULES.items() if part(n) != "actors" and any(part(m) == "actors" for m in imports(p.read_text()))
    }
    assert importers == {"harmonyray.build", "harmonyray.doctor"}  # the doctor only asks whether a cluster answers


def test_the_selectors_and_the_rewards_know_numpy_only() -> None:
    for name in [n for n in MODULES if part(n) == "selectors" or n in NO_TORCH_AT_ALL]:
        tops = {m.split(".")[0] for m in imports(MODULES[name].read_text())} - set(sys.stdlib_module_names)
        assert tops <= {"numpy", "pydantic", "harmonyray"}, name


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_says_what_lives_there(name: str) -> None:
    source = MODULES[name].read_text()
    if source.strip():  # an empty __init__.py is no module to explain
        assert (ast.get_docstring(ast.parse(source)) or "").strip()


def test_the_loop_is_short_and_knows_no_method_by_name() -> None:
    source = MODULES["harmonyray.loop"].read_text()
    assert len(source.splitlines()) < 150
    for word in ("self_harmony", "majority_vote", "ground_truth", "reframer", "in_process"):
        assert word not in source


def test_help_answers_at_once() -> None:
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "harmonyray", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "train" in done.stdout
    assert time.perf_counter() - start < 10  # a busy machine; what counts is what it loads
