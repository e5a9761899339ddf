"""No option that nothing reads: every field of the configuration and of every built-in plug-in's Options is looked up as an
attribute somewhere in the package, outside the body of the class that declares it."""

from __future__ import annotations

import ast
import inspect
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel, create_model

import harmonyray
from harmonyray.config import Config
from harmonyray.registry import BUILT_IN, PluginOptions, resolve

PACKAGE = Path(harmonyray.__file__).parent
SOURCES = {path: path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}

# What holds an Options object where its fields are read: `options.x`, `self.options.x`, and `self.abstain` for the abstention
# options that selectors share.
HOLDERS = {"options", "abstain"}

# What holds a section of the schema, beside the fields it is found under (`config.eval` holds an EvalConfig).
LOCAL_NAMES = {
    "Config": {"config", "c"},
    "ViewConfig": {"v", "view"},
    "Resources": {"want", "for_group"},
    "RuntimeConfig": {"config"},
    "SyncConfig": {"sync_config"},
    "ObjectiveOptions": {"options"},
    "GuardConfig": {"limits"},
}
READ_BY_OWN_METHODS = {  # `for_group` gives them out
    "PlacementConfig": ["view"],
    "ResourcesException": ["replicas", "num_cpus", "num_gpus", "resources"],
}


def attribute_reads(source: str) -> Iterator[tuple[str, str, str]]:
    """(what it is read from, the attribute, the qualified names of the classes around it) of every attribute that is read."""

    def walk(node: ast.AST, inside: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
        if isinstance(node, ast.ClassDef):
            inside = (*inside, node.name)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            holder = node.value.func if isinstance(node.value, ast.Call) else node.value
            name = holder.attr if isinstance(holder, ast.Attribute) else holder.id if isinstance(holder, ast.Name) else ""
            yield name, node.attr, ".".join(inside)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, inside)

    yield from walk(ast.parse(source), ())


READS = [(path, *read) for path, source in SOURCES.items() for read in attribute_reads(source)]


def sections(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """`model` and every pydantic model inside it, once."""
    seen: list[type[BaseModel]] = []
    todo: list[typing.Any] = [model]
    while todo:
        item = todo.pop()
        if isinstance(item, type) and issubclass(item, BaseModel):
            if item not in seen:
                seen.append(item)
                todo += [f.annotation for f in item.model_fields.values()]
        else:
            todo += typing.get_args(item)
    return iter(seen)


def holders_of(sections_of: type[BaseModel]) -> dict[type[BaseModel], set[str]]:
    """For every model inside `sections_of` the names under which it is found."""
    out: dict[type[BaseModel], set[str]] = {m: set(LOCAL_NAMES.get(m.__name__, ())) for m in sections(sections_of)}
    for model in list(out):
        for name, field in model.model_fields.items():
            for inner in (field.annotation, *typing.get_args(field.annotation)):
                if inner in out:
                    out[inner].add(name)
    return out


def declared(model: type[BaseModel]) -> list[str]:
    """The fields that a model has, inherited ones too."""
    return list(model.model_fields)


def own_body(model: type[BaseModel]) -> tuple[Path, str]:
    return Path(inspect.getfile(model)), model.__qualname__


def unread(model: type[BaseModel], holders: set[str]) -> list[str]:
    """The fields of `model` that nothing reads from one of `holders` outside its own body."""
    body = own_body(model)
    read = {attribute for path, holder, attribute, inside in READS if (path, inside) != body and holder in holders}
    return [name for name in declared(model) if name not in read]


PLUGINS = [(kind, name) for kind, names in BUILT_IN.items() for name in names]


def test_every_option_of_the_schema_is_read() -> None:
    held = holders_of(Config)
    assert len(held) > 10
    assert {m.__name__: missing for m, names in held.items() if (missing := unread(m, names))} == READ_BY_OWN_METHODS


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_every_option_of_a_built_in_plug_in_is_read(kind: str, name: str) -> None:
    assert unread(resolve(kind, name).Options, HOLDERS) == []


def test_there_are_options_to_check() -> None:
    options = {name for kind, plugin in PLUGINS for name in declared(resolve(kind, plugin).Options)}
    assert {"lr", "template", "lam", "clip_low", "gold_path", "max_batch_rows", "limit_s"} <= options


def test_a_planted_option_is_found() -> None:
    class Planted(PluginOptions):
        lr: float = 0.1
        an_option_that_nothing_reads: int = 1

        def look(self) -> int:
            return self.an_option_that_nothing_reads

    assert unread(Planted, HOLDERS) == ["an_option_that_nothing_reads"]


def test_a_planted_section_of_the_schema_is_found() -> None:
    inner = create_model("Inner", every=(int, 1), top_p=(int, 2))
    outer = create_model("Config", __base__=Config, seed_of_mine=(int, 0), eval=(inner, ...), checkpoint=(dict[str, inner], ...))
    found = {m.__name__: missing for m, names in holders_of(outer).items() if (missing := unread(m, names))}
    assert found == READ_BY_OWN_METHODS | {"Config": ["seed_of_mine"]}  # config.eval.every and config.eval.top_p are read
    moved = create_model("Config", __base__=Config, sync=(inner, ...), eval=(int, 0))
    found = {m.__name__: missing for m, names in holders_of(moved).items() if (missing := unread(m, names))}
    assert found == READ_BY_OWN_METHODS | {"Inner": ["every", "top_p"]}  # but nothing reads config.sync.every


def test_a_read_inside_the_declaring_class_does_not_count() -> None:
    source = "class A:\n    class Options:\n        x = 1\n        def f(self):\n            return self.x\n"
    assert [(a, i) for _, a, i in attribute_reads(source)] == [("x", "A.Options")]
    assert list(attribute_reads("options.x = 3")) == []  # a write is no read
